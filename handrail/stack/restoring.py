"""Rebuilding the broker's log from the notary's copy, with the sequences and times that it had.

What lies behind the last head is taken from the damaged files as far as they are whole. These stay as they
were, beside the new ones, but for the runs' keys: there must be no other place to delete them from.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from bus import blocks, streams, subjects
from bus.broker import STORE_DIR, EmbeddedBroker
from bus.directory import DataDirectory, usable
from bus.link import Link
from bus.permissions import ACCOUNT
from bus.store import Stored
from core.errors import HandrailError
from core.notarised import Entry, SignedHead
from core.permits import Checker
from handrail.cipher import KEY_BYTES
from handrail.project import Settings, load_settings
from handrail.stack import parts
from orchestrator import notary
from orchestrator.book import check_book, entries_of
from orchestrator.key_copy import KeyCopy

BUILDING_DIR = "restoring"
_KEYS = Path("jetstream", ACCOUNT, "streams", subjects.KEY_STREAM)
_ENDS = (".dec.note.finished", ".dec.note.undo_ended", ".dec.note.forgotten")
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
    """Rebuild the log of a data directory; raises CannotRestore, BadBook and the errors of the broker.

    The new log is made beside the damaged one, and takes its place when it is whole.
    """
    settings = load_settings(project_dir)
    if settings.broker.url:
        raise CannotRestore(
            "The log lies on a broker that somebody else runs: its files are not here. Restore that broker's "
            "own backup; `handrail audit verify --all` says how far it must reach."
        )
    directory = await asyncio.to_thread(DataDirectory.acquire, data_dir)
    try:
        with usable(data_dir):
            return await _rebuild(
                directory, settings, parts.notary_place(settings, project_dir, data_dir), progress
            )
    finally:
        directory.release()


async def _rebuild(directory: DataDirectory, settings: Settings, place: Path, progress: Progress) -> Restored:
    keys = parts.notary_keys(place).checker
    signed = await asyncio.to_thread(_signed, place, keys)
    if not any(head.head.size for head in signed.values()):
        raise CannotRestore(f"The notary has signed for nothing in {place}: there is nothing to restore.")
    shards = {int(name[3:]) for name in signed if name.startswith("EV_")} | set(parts.shards_of(settings))
    building = directory.path / BUILDING_DIR
    await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
    own = await asyncio.to_thread(DataDirectory.acquire, building)
    try:
        broker = EmbeddedBroker(own, parts.pools_of(settings), relaxed=True)
        async with _started(broker, settings) as link:
            # The files of empty streams.
            await streams.ensure(link, shards=sorted(shards), consumers=())
        messages = salvaged = 0
        opened: dict[int, int] = {}
        for name, head in signed.items():
            stream = Path(STORE_DIR, "jetstream", ACCOUNT, "streams", name)
            found = _Found(head, place / name, directory.path / stream, progress)
            written = found.messages()
            messages += await asyncio.to_thread(blocks.write_stream, building / stream, name, written)
            salvaged += found.salvaged
            if name.startswith("EV_"):
                opened[int(name[3:])] = found.first_open
        await asyncio.to_thread(_salvage_keys, place, directory.path / STORE_DIR / _KEYS)
        async with _started(broker, settings) as link:
            one = parts.notary(link, settings, place, shards=tuple(sorted(shards)))
            await one.compare(progress)
            for shard, first in opened.items():
                await streams.begin(link, parts.all_consumers(settings), shard, first)
    finally:
        own.release()
    store, aside = directory.path / STORE_DIR, _free(directory.path / STORE_DIR)
    if store.exists():
        store.rename(aside)
        await asyncio.to_thread(shutil.rmtree, aside / _KEYS, ignore_errors=True)
    (building / STORE_DIR).rename(store)
    await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
    return Restored(messages, salvaged, aside)


def _signed(place: Path, keys: Checker) -> dict[str, SignedHead]:
    """Check every book, and return the heads of those that have one."""
    found = ((book.name, check_book(book, keys)) for book in sorted(place.iterdir()) if book.is_dir())
    return {name: head for name, head in found if head is not None}


@asynccontextmanager
async def _started(broker: EmbeddedBroker, settings: Settings) -> AsyncIterator[Link]:
    """Have the broker up, and an administrator's link to it."""
    await broker.start()
    try:
        link = await parts.way(broker, settings, "admin").link()
        try:
            yield link
        finally:
            await link.close()
    finally:
        await broker.stop()


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


def _salvage_keys(place: Path, damaged: Path) -> None:
    """Note the keys that the damaged files have and the copy has not: of runs behind the last head.

    The next start puts all that the copy has into the new log.
    """
    if not (damaged / "msgs").is_dir():
        return
    found = [(subjects.run_at(stored.subject), stored.data) for stored in blocks.whole(damaged, damaged.name)]
    for shard in {run.shard for run, _ in found if run is not None}:
        keys = {run: key for run, key in found if run is not None and run.shard == shard}
        # And of those that were deleted the empty message.
        whole = {run: key for run, key in keys.items() if len(key) in (0, KEY_BYTES)}
        if (book := place / subjects.ev_stream(shard)).is_dir():
            KeyCopy(book).add(whole)


def _stored(entry: Entry) -> Stored:
    return Stored(entry.sequence, entry.time_ns, entry.subject, entry.data, entry.trace)


def _free(store: Path) -> Path:
    """Return a name beside a directory that is not taken."""
    for number in range(1, 1_000):
        path = store.with_name(f"{store.name}.damaged-{number}")
        if not path.exists():
            return path
    raise CannotRestore(f"there are 999 damaged copies beside {store}: remove some")
