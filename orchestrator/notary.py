"""The notary: follows every append-only stream and signs for what it holds; compares it at every start.

It reads, and nobody waits for it. What it has signed for is at most a second, or 1,000 messages, behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TypeAlias

import structlog

from bus import reader, subjects
from bus.answers import STREAM_NOT_FOUND, ApiError
from bus.link import Link
from bus.log import NatsStore, listen
from bus.store import Stored
from core import merkle
from core.notarised import NOTHING, Entry, NotAsSigned, SignedHead, run_of
from core.permits import Checker, Signer
from core.ports import Address, LogError, RunKey
from handrail.cipher import BadCipherText, Cipher
from orchestrator.book import MAX_BATCH_BYTES, BadBook, Book, checked, head_of, open_book
from orchestrator.key_copy import KeyCopy

MAX_LAG_S = 1.0
MAX_LAG_MESSAGES = 1_000
LINGER_S = 0.6
"""After the first message, for those that it is signed with: the rest is for reading and writing them."""
MAX_WAITING = 16
RETRY_S = 1.0
POLL_S = 0.02
SILENCE_S = 15.0
"""A message that has not come by then cannot be read."""
MAX_HEARD = 10_000
HEARD_EVERY_S = 1.0
PROGRESS_EVERY = 10_000

_EVENTS = "EV_"
_FORGOTTEN = ".dec.note.forgotten"

_Waiting: TypeAlias = "asyncio.Queue[Stored | LogError]"
Progress = Callable[[str, int, int], None]
"""Told of a comparison: the stream, how far it is, and how far it goes."""

_logger = structlog.get_logger("notary")


class LogAltered(NotAsSigned):
    """The broker's log is not the one that was signed for."""

    def __init__(self, stream: str, sequence: int, what: str, place: Path) -> None:
        super().__init__(
            f"{stream} is not what the notary has signed for. Its first wrong message is {sequence}: {what}. "
            "The broker's files were damaged, edited, replaced by an older copy, or not written when the "
            "power went while syncing was relaxed. Nothing goes on from there. "
            "`handrail restore` rebuilds the log from the notary's copy. (To go on from what there is, and "
            f"expect effects that no run knows of, move {place} elsewhere: it holds the copy and the proof.)"
        )
        self.stream = stream
        self.sequence = sequence


def streams_of(shards: tuple[int, ...]) -> dict[str, str]:
    """Return the streams that are signed for, with the subjects of each."""
    found = {subjects.REQUEST_STREAM: "req.>"}
    for shard in shards:
        found[subjects.ev_stream(shard)] = f"ev.{shard}.>"
        found[subjects.blob_stream(shard)] = f"blob.{shard}.>"
    return found


def chained(stored: Stored, chains: dict[str, bytes]) -> tuple[bytes, bytes]:
    """Return a message's bytes and leaf; the chain of its run goes on with it."""
    run = run_of(stored.subject)
    previous = chains.get(run, NOTHING) if run else NOTHING
    said = (stored.sequence, stored.time_ns, stored.subject, stored.trace, stored.data)
    dumped = Entry(*said, previous).dump()
    leaf = merkle.leaf(dumped)
    if run:
        chains[run] = leaf
    return dumped, leaf


class Notary:
    """Signs for the streams of some shards."""

    def __init__(
        self,
        link: Link,
        place: Path,
        origin: str,
        signer: Signer,
        checker: Checker,
        *,
        shards: tuple[int, ...],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._link = link
        self._place = place
        self._origin = origin
        self._signer = signer
        self._checker = checker
        self._streams = streams_of(shards)
        self._now_ns = now_ns
        self._hurries = asyncio.Event()
        # Keys of runs whose first event is still to come.
        self._heard: dict[RunKey, bytes] = {}
        # How far each stream has been signed for; others look at it.
        self.signed: dict[str, int] = {}

    async def compare(self, progress: Progress, *, begun: bool = False) -> int:
        """Compare the log with what was signed for, and return how many messages that was.

        Where it has `begun` before, every stream has had a book. Raises LogAltered, which names the first
        message that differs, and BadBook.
        """
        counted, unknown = 0, {}
        try:
            for stream, filter_ in self._streams.items():
                signed = head_of(self._place / stream, self._origin, self._checker)
                if signed is None and begun:
                    raise BadBook(f"{self._place / stream} is gone")
                if signed is None:
                    unknown[stream] = await last_in(self._link, stream)
                    continue
                # With the copy: from one that is damaged nobody goes on, and nothing is restored.
                leaves = await asyncio.to_thread(_checked_leaves, self._place / stream, signed)
                await _compare(self._link, self._place, stream, filter_, leaves, progress)
                counted += len(leaves)
            if unsigned := [stream for stream, last in unknown.items() if last]:
                if len(unknown) < len(self._streams):
                    raise BadBook(f"{self._place / unsigned[0]} is gone")
                _logger.warning("nobody has signed for what the log holds already", streams=unsigned)
        except BadBook as error:
            raise BadBook(
                f"{error}. The notary's directory was damaged, edited, or put together from two, so nobody "
                f"can say whether the log is whole. Nothing goes on from there. Restore {self._place} from a "
                "backup; or, to go on with a notary that knows nothing of what was before, move it elsewhere."
            ) from None
        return counted

    def begin(self) -> None:
        """Give each stream a book before there is anything in it: one that is missing later was deleted."""
        for stream in self._streams:
            place = self._place / stream
            if head_of(place, self._origin, self._checker) is None:
                open_book(place, self._origin, stream, self._signer, self._checker, self._now_ns())

    async def serve(self) -> None:
        """Sign for what comes, until cancelled."""
        await listen(self._link, self._hear)
        async with asyncio.TaskGroup() as group:
            for stream, filter_ in self._streams.items():
                group.create_task(self._keep(stream, filter_))

    async def drain(self, timeout_s: float) -> bool:
        """Sign for all that there is now, without lingering; return whether that was done within a time."""
        self._hurries.set()
        try:
            async with asyncio.timeout(timeout_s):
                ends = {stream: await last_in(self._link, stream) for stream in self._streams}
                while any(self.signed.get(stream, 0) < end for stream, end in ends.items()):
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, LogError) as error:
            _logger.warning("the notary has not signed for everything", reason=repr(error))
            return False
        return True

    async def _keep(self, stream: str, filter_: str) -> None:
        """Follow a stream for as long as it takes. A supervision point: what goes wrong is tried again."""
        while True:
            try:
                await self._follow(stream, filter_)
            except (OSError, LogError, BadBook) as error:
                # A full disk, a broker that is away: what was signed stays true, and is gone on from.
                _logger.warning("the notary cannot go on", stream=stream, error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _follow(self, stream: str, filter_: str) -> None:
        place = self._place / stream
        keys = self._signer, self._checker
        runs = await asyncio.to_thread(KeyCopy, place) if stream.startswith(_EVENTS) else None
        book = await asyncio.to_thread(open_book, place, self._origin, stream, *keys, self._now_ns())
        self.signed[stream] = book.size
        waiting: _Waiting = asyncio.Queue(MAX_WAITING)
        reading = asyncio.create_task(self._read(stream, filter_, book.size, waiting))
        try:
            await self._write(book, runs, waiting)
        finally:
            reading.cancel()

    async def _read(self, stream: str, filter_: str, after: int, waiting: _Waiting) -> None:
        try:
            following = reader.follow(self._link, stream, (filter_,), after, self._linger)
            async with aclosing(following) as messages:
                async for stored in messages:
                    await waiting.put(stored)
        except LogError as error:
            await waiting.put(error)

    async def _write(self, book: Book, runs: KeyCopy | None, waiting: _Waiting) -> None:
        while True:
            entries: list[tuple[bytes, bytes]] = []
            heard: list[Stored] = []
            size, begun = 0, time.monotonic()
            while not entries or _more(len(entries), size, begun):
                stored = await _soon(waiting) if entries else await waiting.get()
                if stored is None:
                    break
                if isinstance(stored, LogError):
                    raise stored
                expected = book.size + len(entries) + 1
                if stored.sequence != expected:
                    raise BadBook(f"message {expected} of {book.stream} is missing")
                begun = begun if entries else time.monotonic()
                entries.append(chained(stored, book.chains))
                heard.append(stored)
                size += len(entries[-1][0])
            await self._look_back(book)
            if runs is not None:
                await self._copy_keys(runs, heard)
            signed = await asyncio.to_thread(book.add, entries, self._now_ns())
            self.signed[book.stream] = signed.head.size

    async def _copy_keys(self, copy: KeyCopy, heard: Sequence[Stored]) -> None:
        """Have the keys of runs before what they are for, and no longer when a run was forgotten."""
        missing: dict[RunKey, Stored] = {}
        for stored in heard:
            run = subjects.run_at(stored.subject)
            if run is not None and run not in copy:
                missing.setdefault(run, stored)
        found = await asyncio.gather(*(self._key(run, first) for run, first in missing.items()))
        keys = {run: key for run, key in zip(missing, found, strict=True) if key is not None}
        ended = (subjects.run_at(stored.subject) for stored in heard if stored.subject.endswith(_FORGOTTEN))
        gone = [run for run in ended if run is not None]
        # Of one that nobody has copied, that it is gone: else it could be lost.
        await asyncio.to_thread(copy.add, keys | dict.fromkeys(gone, b""))
        await asyncio.to_thread(copy.erase, gone)

    def _hear(self, run: RunKey, said: bytes) -> None:
        self._heard.pop(run, None)
        if len(self._heard) >= MAX_HEARD:
            del self._heard[next(iter(self._heard))]
        self._heard[run] = said

    async def _key(self, run: RunKey, first: Stored) -> bytes | None:
        # Others than the broker could have said it.
        if (heard := self._heard.pop(run, b"")) and _decrypts(heard, first):
            return heard
        stored = await NatsStore(self._link).only(subjects.KEY_STREAM, subjects.key_cell(run))
        return stored.data if stored is not None else None

    async def settle_keys(self, *, begun: bool = False) -> None:
        """Make the broker's keys and the copy one: what was deleted stays so, what was lost is back.

        The administrator's work at a start. Where a notary has `begun`, the copy is its own to write. A key
        that the log does not say was forgotten was not.
        """
        store, home = NatsStore(self._link), subjects.KEY_STREAM
        there: dict[RunKey, Stored | None] = {}
        async with aclosing(reader.present(self._link, home, ("key.>",), 0)) as cells:
            async for stored in cells:
                if (found := subjects.run_at(stored.subject)) is not None:
                    there[found] = stored
        for stream in self._streams:
            if not stream.startswith(_EVENTS):
                continue
            copy = await asyncio.to_thread(KeyCopy, self._place / stream)
            for run, key in await asyncio.to_thread(list, copy.kept()):
                cell = there.pop(run, None)
                if cell is None or cell.data != key:
                    await self._settle_key(store, None if begun else copy, run, cell, key)
            own = [cell for run, cell in there.items() if subjects.ev_stream(run.shard) == stream]
            new = {
                one: cell.data for cell in own if cell and (one := subjects.run_at(cell.subject)) is not None
            }
            if not begun:
                await asyncio.to_thread(copy.add, new)

    async def _settle_key(
        self, store: NatsStore, copy: KeyCopy | None, run: RunKey, cell: Stored | None, key: bytes
    ) -> None:
        if key and await store.last(subjects.ev_stream(run.shard), f"{subjects.ev_prefix(run)}{_FORGOTTEN}"):
            # Whoever was to delete it, here or there, has not come to it.
            key = b""
            if copy is not None:
                await asyncio.to_thread(copy.erase, [run])
        elif key and cell is not None and await _reads(store, run, cell.data):
            # The copy is proved by nothing: it is the one that was damaged.
            key = cell.data
            if copy is not None:
                await asyncio.to_thread(copy.replace, {run: key})
        if cell is not None and cell.data == key:
            return
        _logger.warning("a run's key was not the one of the notary's copy", run=run.run, gone=not key)
        if cell is not None:
            await store.erase(subjects.KEY_STREAM, cell.sequence)
        await store.publish(subjects.KEY_STREAM, subjects.key_cell(run), key)

    async def _look_back(self, book: Book) -> None:
        """Raise BadBook where a stream no longer has what was signed last: its broker came back with less."""
        if book.last is not None and not await is_there(self._link, book.stream, book.last):
            raise BadBook(f"{book.stream} went back: message {book.last.sequence} is another now, or none")

    async def _linger(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._hurries.wait()


async def _reads(store: NatsStore, run: RunKey, key: bytes) -> bool:
    """Whether a key decrypts a run's goal."""
    stored = await store.first(
        subjects.ev_stream(run.shard), subjects.build(Address(run, "cmd", ("submit",)))
    )
    return stored is not None and _decrypts(key, stored)


def _decrypts(key: bytes, stored: Stored) -> bool:
    try:
        return bool(Cipher(key).decrypt(stored.data, stored.subject))
    except BadCipherText:
        return False


def _checked_leaves(place: Path, signed: SignedHead) -> list[bytes]:
    return [leaf for _, leaf in checked(place, signed)]


async def _soon(waiting: _Waiting) -> Stored | LogError | None:
    """Return what is being read, which comes at once; None where nothing is: that is for the next head."""
    if not waiting.empty():
        return waiting.get_nowait()
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_S):
            return await waiting.get()
    return None


def _more(count: int, size: int, begun: float) -> bool:
    """Whether more messages go under one head."""
    in_time = time.monotonic() - begun < MAX_LAG_S - LINGER_S
    return count < MAX_LAG_MESSAGES and size < MAX_BATCH_BYTES and in_time


async def _compare(
    link: Link, place: Path, stream: str, filter_: str, leaves: list[bytes], progress: Progress
) -> None:
    last = await last_in(link, stream)
    chains: dict[str, bytes] = {}
    at, heard = 0, time.monotonic()
    try:
        async with (
            asyncio.timeout(SILENCE_S) as silence,
            aclosing(reader.present(link, stream, (filter_,), 0)) as messages,
        ):
            while at < min(last, len(leaves)):
                stored = await anext(messages)
                # A timeout for each message would take a tenth of the time.
                if time.monotonic() - heard > HEARD_EVERY_S:
                    heard = time.monotonic()
                    silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                if stored.sequence != at + 1:
                    raise LogAltered(stream, at + 1, "it is missing", place)
                if chained(stored, chains)[1] != leaves[at]:
                    raise LogAltered(stream, at + 1, "it was altered", place)
                at += 1
                if at % PROGRESS_EVERY == 0:
                    progress(stream, at, len(leaves))
    except (TimeoutError, StopAsyncIteration):
        raise LogAltered(stream, at + 1, "it cannot be read", place) from None
    if at < len(leaves):
        raise LogAltered(stream, at + 1, f"the stream ends before it, and had {len(leaves)}", place)


async def is_there(link: Link, stream: str, entry: Entry) -> bool:
    """Whether a stream has a message as it was signed for."""
    stored = await NatsStore(link).get(stream, entry.sequence)
    said = (stored.time_ns, stored.subject, stored.trace, stored.data) if stored else ()
    return said == (entry.time_ns, entry.subject, entry.trace, entry.data)


async def last_in(link: Link, stream: str) -> int:
    """Return a stream's last sequence; 0 where there is no such stream."""
    try:
        return int((await link.call(f"STREAM.INFO.{stream}", {}))["state"]["last_seq"])
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        return 0
