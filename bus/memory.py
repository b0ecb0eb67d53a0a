"""The log's twin in memory: the same fences, consumers, timers, blobs and cells, on a clock of one's choice.

`MemoryBroker` is what all share, `MemoryLog` one client of it. Nothing here waits for real time unless the
clock does, and nothing survives the process.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from bus import subjects
from bus.clock import Alarm, Clock, WallClock
from bus.records import TIMEOUT_S, StoreLog, record_of
from bus.store import Stored
from bus.streams import PIN_TIMEOUT_S, consumer_filters, consumer_home
from core.ports import Consumer, Delivery, Fence, FenceLost, LogUnavailable, Record, RunKey

_SECOND_NS = 1_000_000_000
_HEAD = 4
"""So many tokens of a subject name its run, which is what most filters begin with."""


def matches(filter: Sequence[str], subject: Sequence[str]) -> bool:
    """Tell whether the tokens of a subject match those of a filter."""
    if filter[-1] == ">":
        if len(subject) < len(filter):
            return False
        filter = filter[:-1]
    elif len(subject) != len(filter):
        return False
    return all(wanted in ("*", token) for wanted, token in zip(filter, subject, strict=False))


class _Stream:
    """Messages in order, found by sequence and by the head of their subject."""

    def __init__(self, *, one_per_subject: bool) -> None:
        self.messages: list[Stored | None] = []
        self.arrival = asyncio.Event()
        self.durables: list[_Durable] = []
        self._by_head: dict[str, list[Stored]] = {}
        self._newest: dict[str, int] | None = {} if one_per_subject else None

    def add(self, subject: str, data: bytes, time_ns: int) -> int:
        stored = Stored(len(self.messages) + 1, time_ns, subject, data)
        if self._newest is not None:
            if subject in self._newest:
                self.messages[self._newest[subject] - 1] = None
            self._newest[subject] = stored.sequence
        else:
            self._by_head.setdefault(".".join(subject.split(".")[:_HEAD]), []).append(stored)
        self.messages.append(stored)
        self.wake()
        for durable in self.durables:
            durable.dispatch()
        return stored.sequence

    def wake(self) -> None:
        """Let those look again that wait for more."""
        arrival, self.arrival = self.arrival, asyncio.Event()
        arrival.set()

    def matching(self, filter: str, after: int = 0) -> Iterator[Stored]:
        tokens = filter.split(".")
        for stored in self._candidates(tokens, after):
            if matches(tokens, stored.subject.split(".")):
                yield stored

    def last(self, filter: str) -> Stored | None:
        tokens = filter.split(".")
        candidates = reversed(self._candidates(tokens, 0))
        return next((stored for stored in candidates if matches(tokens, stored.subject.split("."))), None)

    def _candidates(self, tokens: list[str], after: int) -> list[Stored]:
        head = tokens[:_HEAD]
        if self._newest is None and not {"*", ">"} & set(head):
            same = self._by_head.get(".".join(head), [])
            return same[bisect_right(same, after, key=lambda stored: stored.sequence) :]
        return [stored for stored in self.messages[after:] if stored is not None]


class MemoryBroker:
    """Streams, durable consumers and timers; also the store of every log on it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or WallClock()
        self._streams: dict[str, _Stream] = {}
        self._durables: dict[tuple[str, str], _Durable] = {}
        self._timers: dict[str, Alarm] = {}

    def stream(self, name: str) -> _Stream:
        """Return a stream, which there is from when it is first named."""
        if name not in self._streams:
            self._streams[name] = _Stream(one_per_subject=name == subjects.TIMER_STREAM)
        return self._streams[name]

    def durable(self, consumer: Consumer, shard: int) -> _Durable:
        """Return a durable consumer, likewise."""
        home = consumer_home(consumer, shard)
        if home not in self._durables:
            stream = self.stream(home[0])
            self._durables[home] = _Durable(self.clock, stream, consumer, shard)
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

    async def publish(self, stream: str, subject: str, data: bytes, fence: Fence | None = None) -> int:
        """Publish once and return the sequence."""
        await asyncio.sleep(0)
        messages = self.stream(stream)
        if fence is not None:
            last = messages.last(fence.filter)
            if (last.sequence if last else 0) != fence.sequence:
                raise FenceLost(f"another writer came first on {fence.filter}: read it and decide again")
        return messages.add(subject, data, self.clock.now_ns())

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

    def now_s(self) -> float:
        """Return a time that only moves on."""
        return self.clock.now_ns() / _SECOND_NS

    async def pause(self, delay_s: float) -> None:
        """Wait before another try."""
        await self.clock.sleep(delay_s)


class _Durable:
    """A durable consumer of one shard: what it has delivered, and to whom the next goes."""

    def __init__(self, clock: Clock, stream: _Stream, consumer: Consumer, shard: int) -> None:
        self._clock = clock
        self._stream = stream
        self._consumer = consumer
        self._filters = [filter.split(".") for filter in consumer_filters(consumer, shard)]
        self._cursor = 0
        self._counts: dict[int, int] = {}
        self._pending: dict[int, Alarm] = {}
        self._again: deque[int] = deque()
        self._intakes: deque[_Intake] = deque()
        self._pinned: _Intake | None = None

    def join(self, intake: _Intake) -> None:
        self._intakes.append(intake)
        self.dispatch()

    def leave(self, intake: _Intake) -> None:
        """Deliver to it no more; its pin goes when it would have timed out."""
        self._intakes.remove(intake)
        if self._pinned is intake:
            self._clock.call_at(self._in_ns(PIN_TIMEOUT_S), self._unpin)

    def dispatch(self) -> None:
        """Deliver what there is to those who have room."""
        while (intake := self._taker()) is not None and (stored := self._next()) is not None:
            sequence = stored.sequence
            self._counts[sequence] = self._counts.get(sequence, 0) + 1
            self._wait(sequence, self._consumer.ack_wait_s)
            intake.take(stored, self._counts[sequence], self)

    def ack(self, sequence: int) -> None:
        alarm = self._pending.pop(sequence, None)
        if alarm is not None:
            alarm.cancel()
        self._counts.pop(sequence, None)
        if sequence in self._again:
            self._again.remove(sequence)

    def nak(self, sequence: int, delay_s: float) -> None:
        if sequence in self._pending:
            if delay_s > 0:
                self._wait(sequence, delay_s)
            else:
                self._pending.pop(sequence).cancel()
                self._redeliver(sequence)

    def progress(self, sequence: int) -> None:
        if sequence in self._pending:
            self._wait(sequence, self._consumer.ack_wait_s)

    def _wait(self, sequence: int, delay_s: float) -> None:
        if sequence in self._pending:
            self._pending[sequence].cancel()

        def expire() -> None:
            self._pending.pop(sequence, None)
            self._redeliver(sequence)

        self._pending[sequence] = self._clock.call_at(self._in_ns(delay_s), expire)

    def _redeliver(self, sequence: int) -> None:
        self._again.append(sequence)
        self.dispatch()

    def _unpin(self) -> None:
        self._pinned = None
        self.dispatch()

    def _taker(self) -> _Intake | None:
        if self._pinned is not None:
            return self._pinned if self._pinned in self._intakes and self._pinned.has_room() else None
        for _ in range(len(self._intakes)):
            self._intakes.rotate(-1)
            if self._intakes[-1].has_room():
                if self._consumer.pinned:
                    self._pinned = self._intakes[-1]
                return self._intakes[-1]
        return None

    def _next(self) -> Stored | None:
        while self._again:
            stored = self._stream.messages[self._again.popleft() - 1]
            if stored is not None:
                return stored
        while len(self._pending) < self._consumer.max_ack_pending and self._cursor < len(
            self._stream.messages
        ):
            stored = self._stream.messages[self._cursor]
            self._cursor += 1
            if stored is not None and any(matches(f, stored.subject.split(".")) for f in self._filters):
                return stored
        return None

    def _in_ns(self, delay_s: float) -> int:
        return self._clock.now_ns() + int(delay_s * _SECOND_NS)


@dataclass(slots=True, eq=False)
class _MemoryDelivery:
    """A message of a durable consumer; the first ack or nak answers it."""

    key: RunKey
    record: Record | None
    time_ns: int
    deliveries: int
    _sequence: int
    _durable: _Durable
    _intake: _Intake
    _answered: bool = False

    async def ack(self) -> None:
        """Never deliver it again."""
        if not self._answered:
            self._answered = True
            self._durable.ack(self._sequence)
            self._intake.give_back()

    async def nak(self, delay_s: float = 0.0) -> None:
        """Deliver it again after a delay."""
        if not self._answered:
            self._answered = True
            self._durable.nak(self._sequence, delay_s)
            self._intake.give_back()

    async def progress(self) -> None:
        """Say that it is still being worked on."""
        if not self._answered:
            self._durable.progress(self._sequence)


class _Intake:
    """One client of a durable consumer on all shards, with one credit."""

    def __init__(self, durables: list[_Durable], limit: int) -> None:
        self._durables = durables
        self._limit = limit
        self._unanswered = 0
        self._ready: asyncio.Queue[_MemoryDelivery | None] = asyncio.Queue()
        self._closed = False
        for durable in durables:
            durable.join(self)

    def has_room(self) -> bool:
        return self._unanswered < self._limit

    def take(self, stored: Stored, deliveries: int, durable: _Durable) -> None:
        self._unanswered += 1
        record = record_of(stored)
        key = record.address.key if record is not None else subjects.parse_due(stored.subject)
        self._ready.put_nowait(
            _MemoryDelivery(key, record, stored.time_ns, deliveries, stored.sequence, durable, self)
        )

    def give_back(self) -> None:
        self._unanswered -= 1
        for durable in self._durables:
            durable.dispatch()

    async def next(self) -> _MemoryDelivery | None:
        return await self._ready.get()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for durable in self._durables:
            durable.leave(self)
        while not self._ready.empty():
            delivery = self._ready.get_nowait()
            if delivery is not None:
                await delivery.nak()
        self._ready.put_nowait(None)


class MemoryLog(StoreLog):
    """One client of a `MemoryBroker`."""

    def __init__(
        self, broker: MemoryBroker, shards: tuple[int, ...] = (0,), *, timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__(broker, shards, timeout_s)
        self.broker = broker
        self._intakes: set[_Intake] = set()
        self._closed = False

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        await asyncio.sleep(0)
        found = self.broker.stream(subjects.ev_stream(key.shard)).matching(subjects.run_filter(key), after)
        return [record for stored in found if (record := record_of(stored)) is not None]

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
                record = record_of(found[after])
                if record is not None:
                    yield record
            if not found:
                await arrival.wait()
        raise LogUnavailable("this log has been closed")

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        intake = _Intake([self.broker.durable(consumer, shard) for shard in self.shards], limit)
        self._intakes.add(intake)
        try:
            while (delivery := await intake.next()) is not None:
                yield delivery
        finally:
            self._intakes.discard(intake)
            await intake.close()

    async def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick delivered at the due time; arming a timer again moves it."""
        await asyncio.sleep(0)
        self.broker.arm(key, timer, due_ns)

    async def close(self) -> None:
        """Stop consuming; the broker stays, for other logs."""
        self._closed = True
        for intake in list(self._intakes):
            await intake.close()
        for shard in self.shards:
            self.broker.stream(subjects.ev_stream(shard)).wake()
