"""A stream in memory and its durable consumers: who has heard what, and who is to hear what next."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from bus import subjects
from bus.clock import Alarm, Clock
from bus.store import Stored
from bus.streams import PIN_TIMEOUT_S, consumer_filters
from core.ports import Consumer, Record, RunKey

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


class MemoryStream:
    """Messages in order, found by sequence and by the head of their subject."""

    def __init__(self, *, one_per_subject: bool) -> None:
        self.messages: list[Stored | None] = []
        self.arrival = asyncio.Event()
        self.durables: list[MemoryDurable] = []
        self._by_head: dict[str, list[Stored]] = {}
        self._newest: dict[str, int] | None = {} if one_per_subject else None

    def add(self, subject: str, data: bytes, time_ns: int, trace: str = "") -> int:
        """Store a message, tell who waits for it, and return its sequence."""
        stored = Stored(len(self.messages) + 1, time_ns, subject, data, trace)
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

    def erase(self, sequence: int) -> None:
        """Delete a message."""
        stored = self.messages[sequence - 1]
        if stored is not None:
            self.messages[sequence - 1] = None
            self._by_head[".".join(stored.subject.split(".")[:_HEAD])].remove(stored)

    def wake(self) -> None:
        """Let those look again that wait for more."""
        arrival, self.arrival = self.arrival, asyncio.Event()
        arrival.set()

    def matching(self, filter: str, after: int = 0) -> Iterator[Stored]:
        """Go through the messages on a filter after a sequence."""
        tokens = filter.split(".")
        for stored in self._candidates(tokens, after):
            if matches(tokens, stored.subject.split(".")):
                yield stored

    def last(self, filter: str) -> Stored | None:
        """Return the last message on a filter."""
        tokens = filter.split(".")
        candidates = reversed(self._candidates(tokens, 0))
        return next((stored for stored in candidates if matches(tokens, stored.subject.split("."))), None)

    def _candidates(self, tokens: list[str], after: int) -> list[Stored]:
        head = tokens[:_HEAD]
        if self._newest is None and not {"*", ">"} & set(head):
            same = self._by_head.get(".".join(head), [])
            return same[bisect_right(same, after, key=lambda stored: stored.sequence) :]
        return [stored for stored in self.messages[after:] if stored is not None]


class MemoryDurable:
    """A durable consumer of one shard: what it has delivered, and to whom the next goes."""

    def __init__(self, clock: Clock, stream: MemoryStream, consumer: Consumer, shard: int) -> None:
        self._clock = clock
        self._stream = stream
        self._consumer = consumer
        self._filters = [filter.split(".") for filter in consumer_filters(consumer, shard)]
        self._cursor = 0
        self._counts: dict[int, int] = {}
        self._pending: dict[int, Alarm] = {}
        self._again: deque[int] = deque()
        self._intakes: deque[MemoryIntake] = deque()
        self._pinned: MemoryIntake | None = None

    @property
    def backlog(self) -> int:
        """How many messages it has yet to see answered."""
        new = (one for one in self._stream.messages[self._cursor :] if one is not None)
        return len(self._counts) + sum(self._wants(one) for one in new)

    def join(self, intake: MemoryIntake) -> None:
        """Deliver to one more."""
        self._intakes.append(intake)
        self.dispatch()

    def leave(self, intake: MemoryIntake) -> None:
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
        """Never deliver it again."""
        alarm = self._pending.pop(sequence, None)
        if alarm is not None:
            alarm.cancel()
        self._counts.pop(sequence, None)
        if sequence in self._again:
            self._again.remove(sequence)

    def nak(self, sequence: int, delay_s: float) -> None:
        """Deliver it again after a delay."""
        if sequence in self._pending:
            if delay_s > 0:
                self._wait(sequence, delay_s)
            else:
                self._pending.pop(sequence).cancel()
                self._redeliver(sequence)

    def progress(self, sequence: int) -> None:
        """Begin its ack wait anew."""
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

    def _taker(self) -> MemoryIntake | None:
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
            if stored is not None and self._wants(stored):
                return stored
        return None

    def _wants(self, stored: Stored) -> bool:
        tokens = stored.subject.split(".")
        return any(matches(filter, tokens) for filter in self._filters)

    def _in_ns(self, delay_s: float) -> int:
        return self._clock.now_ns() + int(delay_s * _SECOND_NS)


@dataclass(slots=True, eq=False)
class MemoryDelivery:
    """A message of a durable consumer; the first ack or nak answers it."""

    key: RunKey
    record: Record | None
    time_ns: int
    deliveries: int
    # What the record is read of.
    stored: Stored
    _sequence: int
    _durable: MemoryDurable
    _intake: MemoryIntake
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


class MemoryIntake:
    """One client of a durable consumer on all shards, with one credit."""

    def __init__(
        self,
        durables: list[MemoryDurable],
        limit: int,
        read: Callable[[Stored], Awaitable[Record | None]],
    ) -> None:
        self._durables = durables
        self._limit = limit
        self._read = read
        self._unanswered = 0
        self._ready: asyncio.Queue[MemoryDelivery | None] = asyncio.Queue()
        self._closed = False
        for durable in durables:
            durable.join(self)

    def has_room(self) -> bool:
        """Tell whether it may be sent one more."""
        return self._unanswered < self._limit

    def take(self, stored: Stored, deliveries: int, durable: MemoryDurable) -> None:
        """Receive a message."""
        is_tick = stored.subject.startswith("timer.")
        try:
            key = subjects.parse_due(stored.subject) if is_tick else subjects.parse(stored.subject).key
        except subjects.BadSubject:
            # Not of the log's form, and never will be.
            durable.ack(stored.sequence)
            return
        self._unanswered += 1
        self._ready.put_nowait(
            MemoryDelivery(key, None, stored.time_ns, deliveries, stored, stored.sequence, durable, self)
        )

    def give_back(self) -> None:
        """Have room for one more, of any shard."""
        self._unanswered -= 1
        # Another shard first each time, so that none starves.
        self._durables.append(self._durables.pop(0))
        for durable in self._durables:
            durable.dispatch()

    async def next(self) -> MemoryDelivery | None:
        """Return the next delivery, or None after the end."""
        item = await self._ready.get()
        if item is not None:
            item.record = await self._read(item.stored)
        return item

    async def close(self) -> None:
        """Take no more, and hand back what nobody has taken."""
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
