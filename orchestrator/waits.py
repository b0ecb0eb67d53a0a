"""Waiting until a run has ended, or needs a human.

Runs that were submitted here a short while ago are kept as they are heard, from the feed that the listing
reads anyway: a run is expected before its goal is written, so nothing of it is missed, and what comes twice
is dropped. All others are followed in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import cast

from bus import subjects
from core.ports import Log, Record, RunKey
from core.run import apply, fold, initial
from core.state import RunState
from handrail.v1 import event_pb2

MAX_KEPT_RUNS = 1_000
MAX_KEPT_RECORDS = 200
MAX_KEPT_BYTES = 256 * 1024
SETTLED_AFTER_S = 1.0
"""Between two events of one decision a run may seem to wait; after so long it does."""
YIELD_EVERY = 100

_NEEDS_HUMAN = frozenset({event_pb2.RUN_STATUS_WAITING, event_pb2.RUN_STATUS_UNREADABLE})


class Kept:
    """What has been heard of one run."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ended = asyncio.Event()
        # Whether too much came to be kept; then it has to be followed.
        self.overflown = False
        self._bytes = 0

    def hear(self, record: Record) -> None:
        """Keep what is new."""
        if self.overflown or (self.records and record.sequence <= self.records[-1].sequence):
            return
        event = record.event
        self.records.append(record)
        self._bytes += event.ByteSize() if event is not None else 0
        if len(self.records) > MAX_KEPT_RECORDS or self._bytes > MAX_KEPT_BYTES:
            self.give_up()
        elif event is not None and event.HasField("finished") and record.address.channel == "dec":
            self.ended.set()
        elif event is not None and (event.HasField("undo") or event.HasField("forget")):
            # It has ended once, and goes on.
            self.give_up()

    def give_up(self) -> None:
        """Keep it no longer."""
        self.overflown = True
        self.records.clear()
        self.ended.set()


class Waits:
    """The runs that were submitted here a short while ago."""

    def __init__(self) -> None:
        self._kept: OrderedDict[RunKey, Kept] = OrderedDict()

    def expect(self, key: RunKey) -> None:
        """Keep what will be heard of a run; call this before anything of it is written."""
        self._kept.setdefault(key, Kept())
        if len(self._kept) > MAX_KEPT_RUNS:
            self._kept.popitem(last=False)[1].give_up()

    def hear(self, record: Record) -> None:
        """Hear what was appended to a shard."""
        kept = self._kept.get(record.address.key)
        if kept is not None:
            kept.hear(record)
            if kept.overflown:
                self.forget(record.address.key)

    def forget(self, key: RunKey) -> None:
        """Expect a run no longer; whoever waits for it has to follow it."""
        kept = self._kept.pop(key, None)
        if kept is not None and not kept.ended.is_set():
            kept.give_up()

    def kept(self, key: RunKey) -> Kept | None:
        """Return what has been heard of a run, if it was expected."""
        return self._kept.get(key)


async def settled(log: Log, waits: Waits, key: RunKey, wait_s: float) -> RunState:
    """Return the run when it has ended or needs a human, at the latest after a time.

    Without a submission it is a run that is not there.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + wait_s
    kept = waits.kept(key)
    if kept is not None:
        state = await _heard(kept, key, ends_s)
        if kept.ended.is_set():
            waits.forget(key)
        if not kept.overflown:
            return state
    return await _followed(log, key, ends_s)


async def _heard(kept: Kept, key: RunKey, ends_s: float) -> RunState:
    """Wait for a run that is kept, and fold it."""
    loop, looked_at = asyncio.get_running_loop(), 0
    while not kept.ended.is_set() and loop.time() < ends_s:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(SETTLED_AFTER_S, max(ends_s - loop.time(), 0))):
                await kept.ended.wait()
        if len(kept.records) == looked_at and fold(key, kept.records).status in _NEEDS_HUMAN:
            break
        looked_at = len(kept.records)
    return fold(key, kept.records)


async def _followed(log: Log, key: RunKey, ends_s: float) -> RunState:
    """Follow a run in the log, and fold it."""
    loop, looked_at = asyncio.get_running_loop(), 0
    last = await log.last(key.shard, subjects.run_filter(key))
    seen = _Seen(key, last.sequence if last is not None else 0)
    follow = cast(AsyncGenerator[Record, None], log.follow(key))
    reading = asyncio.create_task(seen.fold(follow))
    try:
        while not reading.done() and loop.time() < ends_s:
            await asyncio.wait((reading,), timeout=min(SETTLED_AFTER_S, max(ends_s - loop.time(), 0)))
            state = seen.state
            if state.submit is None or (state.applied == looked_at and state.status in _NEEDS_HUMAN):
                break
            looked_at = state.applied
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
    if not reading.cancelled():
        reading.result()
    return seen.state


class _Seen:
    """A run as far as it has been followed."""

    def __init__(self, key: RunKey, last: int) -> None:
        """`last` is the end of its log now: a run that has ended may go on after that, to be undone."""
        self.state = initial(key)
        self._last = last

    async def fold(self, follow: AsyncGenerator[Record, None]) -> None:
        """Fold what comes until the run has ended."""
        async with contextlib.aclosing(follow) as records:
            async for record in records:
                self.state = apply(self.state, record)
                if self.state.over and self.state.applied >= self._last:
                    return
                if record.sequence % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
