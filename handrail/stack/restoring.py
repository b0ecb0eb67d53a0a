"""Rebuilding the broker's log from the notary's copy, with the sequences and times that it had.

What lies behind the last head is taken from the damaged files as far as they are whole. These stay as they
were, beside the new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from bus import blocks, streams
from bus.broker import STORE_DIR, EmbeddedBroker
from bus.directory import DataDirectory
from bus.heads import heads
from bus.permissions import ACCOUNT
from bus.store import Stored
from core.errors import HandrailError
from core.notarised import Entry, SignedHead
from handrail.project import Settings, load_settings
from handrail.stack import parts
from orchestrator import notary
from orchestrator.book import check_book, entries_of

_ENDS = (".dec.note.finished", ".dec.note.undo_ended")
Progress = Callable[[str, int, int], None]


class CannotRestore(HandrailError):
    """There is nothing to restore from, or not here."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back."""

    messages: int
    # Of those, what was behind the last head and still whole in the damaged files.
    salvaged: int
    # Where the damaged files are now.
    aside: Path


async def restore(project_dir: Path, data_dir: Path, progress: Progress) -> Restored:
    """Rebuild the log of a data directory; raises CannotRestore, BadBook and the errors of the broker."""
    settings = load_settings(project_dir)
    if settings.broker.url:
        raise CannotRestore(
            "The log lies on a broker that somebody else runs: its files are not here. Restore that broker's "
            "own backup; `handrail audit verify --all` says how far it must reach."
        )
    place = data_dir / parts.NOTARY_DIR
    directory = await asyncio.to_thread(DataDirectory.acquire, data_dir)
    try:
        keys = parts.notary_keys(data_dir).checker
        signed: dict[str, SignedHead] = {}
        for stream in notary.streams_of(parts.shards_of(settings)):
            head = await asyncio.to_thread(check_book, place / stream, keys)
            if head is not None:
                signed[stream] = head
        if not signed:
            raise CannotRestore(f"The notary has signed for nothing in {place}: there is nothing to restore.")
        store = data_dir / STORE_DIR
        aside = _free(store)
        if store.exists():
            store.rename(aside)
        broker = EmbeddedBroker(directory, parts.pools_of(settings), relaxed=True)
        await _empty(broker, settings)
        messages = salvaged = 0
        opened: dict[int, int] = {}
        for stream, head in signed.items():
            files = ("jetstream", ACCOUNT, "streams", stream)
            found = _Found(head, place / stream, aside.joinpath(*files), progress)
            messages += await asyncio.to_thread(
                blocks.write_stream, store.joinpath(*files), stream, found.messages()
            )
            salvaged += found.salvaged
            if stream.startswith("EV_"):
                opened[int(stream.removeprefix("EV_"))] = found.first_open
        await _begin(broker, settings, directory, opened)
        return Restored(messages, salvaged, aside)
    finally:
        directory.release()


class _Found:
    """The messages of one stream: its copy, and what can be salvaged; notes where work is left."""

    def __init__(self, head: SignedHead, book: Path, damaged: Path, progress: Progress) -> None:
        self._head = head
        self._book = book
        self._damaged = damaged
        self._progress = progress
        self._open: dict[str, int] = {}
        self._last = 0
        self.salvaged = 0

    @property
    def first_open(self) -> int:
        """Where the first run begins that has not ended; behind the last message where there is none."""
        return min(self._open.values(), default=self._last + 1)

    def messages(self) -> Iterator[Stored]:
        """Yield them in order."""
        stream, size = self._head.head.stream, self._head.head.size
        copied = (_stored(entry) for entry in entries_of(self._book, self._head))
        for stored in chain(copied, self._salvaged()):
            self._note(stored)
            if stored.sequence % notary.PROGRESS_EVERY == 0:
                self._progress(stream, stored.sequence, size)
            yield stored

    def _salvaged(self) -> Iterator[Stored]:
        if not (self._damaged / "msgs").is_dir():
            return
        for stored in blocks.salvage(self._damaged, self._head.head.stream, self._head.head.size):
            self.salvaged += 1
            yield stored

    def _note(self, stored: Stored) -> None:
        self._last = stored.sequence
        run = Entry(stored.sequence, stored.time_ns, stored.subject, "", b"").run
        if stored.subject.endswith(_ENDS):
            self._open.pop(run, None)
        elif run:
            self._open.setdefault(run, stored.sequence)


async def _empty(broker: EmbeddedBroker, settings: Settings) -> None:
    """Have the broker make the files of empty streams."""
    await broker.start()
    try:
        link = await parts.way(broker, settings, "admin").link()
        try:
            await streams.ensure(link, shards=parts.shards_of(settings), consumers=())
        finally:
            await link.close()
    finally:
        await broker.stop()


async def _begin(
    broker: EmbeddedBroker, settings: Settings, directory: DataDirectory, opened: dict[int, int]
) -> None:
    """Compare what was written with what was signed for, and have consumers begin where work is left."""
    await broker.start()
    try:
        link = await parts.way(broker, settings, "admin").link()
        try:
            keys = parts.notary_keys(directory.path).checker
            await parts.compare(link, directory, settings, keys)
            for shard, first in opened.items():
                await streams.begin(link, parts.all_consumers(settings), shard, first)
            directory.save_heads(await heads(link))
        finally:
            await link.close()
    finally:
        await broker.stop()


def _stored(entry: Entry) -> Stored:
    return Stored(entry.sequence, entry.time_ns, entry.subject, entry.data, entry.trace)


def _free(store: Path) -> Path:
    """Return a name beside a directory that is not taken."""
    for number in range(1, 1_000):
        path = store.with_name(f"{store.name}.damaged-{number}")
        if not path.exists():
            return path
    raise CannotRestore(f"there are 999 damaged copies beside {store}: remove some")
