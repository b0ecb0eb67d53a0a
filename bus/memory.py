"""The log's twin in memory: the same fences, consumers, timers, blobs and cells, on a clock of one's choice.

`MemoryBroker` is what all share, `MemoryLog` one client of it. Nothing here waits for real time unless the
clock does, and nothing survives the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from bus import subjects
from bus.clock import Alarm, Clock, WallClock
from bus.memory_streams import MemoryDurable, MemoryIntake, MemoryStream
from bus.records import TIMEOUT_S, StoreLog
from bus.store import Stored
from bus.streams import consumer_home
from core.ports import Consumer, Delivery, Fence, FenceLost, LogUnavailable, Record, RunKey

_SECOND_NS = 1_000_000_000


class MemoryBroker:
    """Streams, durable consumers and timers; also the store of every log on it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or WallClock()
        self._streams: dict[str, MemoryStream] = {}
        self._durables: dict[tuple[str, str], MemoryDurable] = {}
        self._timers: dict[str, Alarm] = {}
        # How full each shard pretends to be.
        self.fullness: dict[int, float] = {}

    def stream(self, name: str) -> MemoryStream:
        """Return a stream, which there is from when it is first named."""
        if name not in self._streams:
            self._streams[name] = MemoryStream(one_per_subject=name == subjects.TIMER_STREAM)
        return self._streams[name]

    def durable(self, consumer: Consumer, shard: int) -> MemoryDurable:
        """Return a durable consumer, likewise."""
        home = consumer_home(consumer, shard)
        if home not in self._durables:
            stream = self.stream(home[0])
            self._durables[home] = MemoryDurable(self.clock, stream, consumer, shard)
            stream.durables.append(self._durables[home])
        return self._durables[home]

    def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick published at the due time, instead of when the timer was to fire so far."""
        subject = subjects.timer_arm(key, timer)
        if subject in self._timers:
            self._timers[subject].cancel()

        def fire() -> None:
            self._timers.pop(subject, None)
            stream = self.stream(subjects.TIMER_STREAM)
            stream.add(subjects.timer_due(key), b"", self.clock.now_ns())

        self._timers[subject] = self.clock.call_at(due_ns, fire)

    async def publish(
        self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Publish once and return the sequence."""
        await asyncio.sleep(0)
        return self.put(stream, subject, data, fence, trace)

    def put(self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = "") -> int:
        """Publish at once: what the broker does when a publish has arrived."""
        messages = self.stream(stream)
        if fence is not None:
            last = messages.last(fence.filter)
            if (last.sequence if last else 0) != fence.sequence:
                raise FenceLost(f"another writer came first on {fence.filter}: read it and decide again")
        return messages.add(subject, data, self.clock.now_ns(), trace)

    async def first(self, stream: str, filter: str, after: int = 0) -> Stored | None:
        """Return the first message on a filter after a sequence."""
        await asyncio.sleep(0)
        return next(self.stream(stream).matching(filter, after), None)

    async def last(self, stream: str, filter: str) -> Stored | None:
        """Return the last message on a filter."""
        await asyncio.sleep(0)
        return self.stream(stream).last(filter)

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return a message by its sequence."""
        await asyncio.sleep(0)
        messages = self.stream(stream).messages
        return messages[sequence - 1] if 0 < sequence <= len(messages) else None

    async def only(self, stream: str, subject: str) -> Stored | None:
        """Return the only message of a subject that is written once."""
        return self.stream(stream).last(subject)

    async def erase(self, stream: str, sequence: int) -> None:
        """Delete a message; one that is gone already is no error."""
        await asyncio.sleep(0)
        self.stream(stream).erase(sequence)

    def now_s(self) -> float:
        """Return a time that only moves on."""
        return self.clock.now_ns() / _SECOND_NS

    async def pause(self, delay_s: float) -> None:
        """Wait before another try."""
        await self.clock.sleep(delay_s)


class MemoryLog(StoreLog):
    """One client of a `MemoryBroker`."""

    def __init__(
        self, broker: MemoryBroker, shards: tuple[int, ...] = (0,), *, timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__(broker, shards, timeout_s)
        self.broker = broker
        self._intakes: set[MemoryIntake] = set()
        self._closed = False

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        await asyncio.sleep(0)
        found = self.broker.stream(subjects.ev_stream(key.shard)).matching(subjects.run_filter(key), after)
        return [record for stored in [*found] if (record := await self.record(stored)) is not None]

    async def read_runs(self, keys: Iterable[RunKey]) -> dict[RunKey, list[Record]]:
        """Return every record of several runs."""
        return {key: await self.read(key) for key in keys}

    def follow(self, key: RunKey, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield the records of a run, those to come included, without end."""
        return self._follow(key.shard, (subjects.run_filter(key),), after)

    def scan(self, shard: int, *, filters: tuple[str, ...], after: int = 0) -> AsyncIterator[Record]:
        """Yield a shard's records on any of the subject patterns, in stream order, without end."""
        return self._follow(shard, tuple(pattern.format(shard=shard) for pattern in filters), after)

    async def _follow(self, shard: int, filters: tuple[str, ...], after: int) -> AsyncIterator[Record]:
        stream = self.broker.stream(subjects.ev_stream(shard))
        while not self._closed:
            arrival = stream.arrival
            found = {new.sequence: new for filter in filters for new in stream.matching(filter, after)}
            for after in sorted(found):
                record = await self.record(found[after])
                if record is not None:
                    yield record
            if not found:
                await arrival.wait()
        raise LogUnavailable("this log has been closed")

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        durables = [self.broker.durable(consumer, shard) for shard in self.shards]
        intake = MemoryIntake(durables, limit, self.record)
        self._intakes.add(intake)
        try:
            while (delivery := await intake.next()) is not None:
                yield delivery
        finally:
            self._intakes.discard(intake)
            await intake.close()

    async def backlog(self, consumer: Consumer) -> int:
        """Return how many messages of all shards a durable consumer has yet to answer."""
        await asyncio.sleep(0)
        return sum(self.broker.durable(consumer, shard).backlog for shard in self.shards)

    async def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick delivered at the due time; arming a timer again moves it."""
        await asyncio.sleep(0)
        self.broker.arm(key, timer, due_ns)

    async def fullness(self, shard: int) -> float:
        """Return how much of a shard's room is used: what the broker was told to pretend."""
        return self.broker.fullness.get(shard, 0.0)

    async def close(self) -> None:
        """Stop consuming; the broker stays, for other logs."""
        self._closed = True
        for intake in list(self._intakes):
            await intake.close()
        for shard in self.shards:
            self.broker.stream(subjects.ev_stream(shard)).wake()
