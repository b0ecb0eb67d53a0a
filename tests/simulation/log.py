"""The log of one process: the real `StoreLog` and durable consumers of the broker, over a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, TypeVar

from bus import subjects
from bus.intake import RETRY_WAIT_S
from bus.keyring import Keyring
from bus.memory import MemoryLog
from bus.memory_streams import MemoryDurable, MemoryIntake
from bus.records import FORGOTTEN, PLAIN, record_of
from bus.store import Stored, patiently
from core.ports import (
    Address,
    Consumer,
    Delivery,
    Fence,
    LogUnavailable,
    Record,
    RunForgotten,
    RunKey,
)
from handrail.v1 import event_pb2
from tests.simulation.broker import SimStream, records_on
from tests.simulation.network import Link
from tests.simulation.processes import Process

_T = TypeVar("_T")


class SimStore:
    """A broker's streams at the other end of a link."""

    def __init__(self, link: Link) -> None:
        self._link, self._broker = link, link.broker

    async def publish(
        self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Publish once and return the sequence."""
        return await self._link.request(lambda: self._broker.put(stream, subject, data, fence, trace))

    async def first(self, stream: str, filter: str, after: int = 0) -> Stored | None:
        """Return the first message on a filter after a sequence."""
        return await self._link.request(
            lambda: next(self._broker.stream(stream).matching(filter, after), None)
        )

    async def last(self, stream: str, filter: str) -> Stored | None:
        """Return the last message on a filter."""
        return await self._link.request(lambda: self._broker.stream(stream).last(filter))

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return a message by its sequence."""
        messages = self._broker.stream(stream).messages
        return await self._link.request(
            lambda: messages[sequence - 1] if 0 < sequence <= len(messages) else None
        )

    async def only(self, stream: str, subject: str) -> Stored | None:
        """Return the only message of a subject that is written once."""
        return await self.last(stream, subject)

    async def erase(self, stream: str, sequence: int) -> None:
        """Delete a message; one that is gone already is no error."""
        await self._link.request(lambda: self._broker.stream(stream).erase(sequence))

    def now_s(self) -> float:
        """Return a time that only moves on."""
        return self._link.loop.time()

    async def pause(self, delay_s: float) -> None:
        """Wait before another try."""
        await asyncio.sleep(delay_s)


class _Open:
    """Encrypts nothing: what is simulated is told apart by what it says."""

    def encrypt(self, data: bytes, place: str) -> bytes:
        """Return what is to be written."""
        return data


class SimKeys(Keyring):
    """The real keys of runs, but for what they would encrypt: without them nobody reads it all the same."""

    async def to_write(self, run: RunKey) -> Any:
        """Return what writes a run, if it has a key; raises RunForgotten."""
        await super().to_write(run)
        return _Open()


class SimLog(MemoryLog):
    """One client of the broker, over a link of its own."""

    def __init__(
        self,
        link: Link,
        shards: tuple[int, ...],
        sending: Callable[[Address, event_pb2.Event], None] = lambda address, event: None,
    ) -> None:
        super().__init__(link.broker, shards)
        self.link = link
        self._sending = sending
        self.store = SimStore(link)
        self.keys = SimKeys(self.store, self.timeout_s)

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Append durably and return the sequence."""
        self._sending(address, event)
        return await super().append(address, event, fence=fence, trace=trace)

    async def record(self, stored: Stored | None) -> Record | None:
        """Read a message of a run's log."""
        return await self._seen(record_of(stored))

    async def _seen(self, record: Record | None) -> Record | None:
        """Return a record as it can be read here: what is encrypted, with the run's key alone."""
        if record is None or record.event is None:
            return record
        key, place = record.address.key, (record.address.channel, *record.address.topic)
        if place == FORGOTTEN:
            self.keys.drop(key)
        if place in PLAIN:
            return record
        try:
            return record if await self.keys.find(key) is not None else replace(record, event=None)
        except RunForgotten:
            return replace(record, event=None, forgotten=True)

    async def _ask(self, operation: Callable[[], _T]) -> _T:
        return await patiently(self.store, self.timeout_s, lambda: self.link.request(operation))

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        stream = self.link.broker.stream(subjects.ev_stream(key.shard))
        assert isinstance(stream, SimStream)
        found = await self._ask(lambda: records_on(stream, subjects.run_filter(key), after))
        return [seen for record in found if (seen := await self._seen(record)) is not None]

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        intake = SimIntake(self.link, [self.broker.durable(consumer, shard) for shard in self.shards], limit)
        try:
            while (delivery := await intake.next()) is not None:
                try:
                    delivery.record = await self._seen(delivery.record)
                except LogUnavailable:
                    await delivery.nak(RETRY_WAIT_S)
                else:
                    yield delivery
        finally:
            intake.leave()
            self.link.intakes.remove(intake)

    async def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick delivered at the due time; arming a timer again moves it."""
        await self._ask(lambda: self.link.broker.arm(key, timer, due_ns))

    async def fullness(self, shard: int) -> float:
        """Return how much of a shard's room is used."""
        return await self.link.request(lambda: self.broker.fullness.get(shard, 0.0))


class SimIntake(MemoryIntake):
    """One client of a durable consumer; it is gone for as long as its link is."""

    def __init__(self, link: Link, durables: list[MemoryDurable], limit: int) -> None:
        self._link = link
        self._joined = True
        link.intakes.append(self)
        super().__init__(durables, limit, _as_it_is)
        if not link.connected:
            self.leave()

    async def next(self) -> Any:
        """Return the next delivery, whose record is known."""
        return await self._ready.get()

    @property
    def process(self) -> Process:
        """Whose it is."""
        return self._link.process

    def leave(self) -> None:
        """Be gone, handing nothing back."""
        if self._joined:
            self._joined = False
            for durable in self._durables:
                durable.leave(self)

    def come_back(self) -> None:
        """Ask for deliveries again."""
        if not self._joined:
            self._joined = True
            for durable in self._durables:
                durable.join(self)

    def take(self, stored: Stored, deliveries: int, durable: MemoryDurable) -> None:
        """Have a message sent to the client; what is on its way counts against the credit."""
        self._unanswered += 1
        stream = durable._stream
        record = stream.records[stored.sequence - 1] if isinstance(stream, SimStream) else record_of(stored)
        key = record.address.key if record is not None else subjects.parse_due(stored.subject)

        def arrive() -> None:
            delivery = SimDelivery(key, record, stored, deliveries, durable, self)
            self._ready.put_nowait(delivery)  # type: ignore[arg-type]

        def arrive_again() -> None:
            self._unanswered += 1
            arrive()

        self._link.deliver(arrive, arrive_again, self.answered)

    def answered(self) -> None:
        """Have room for one more."""
        self._unanswered -= 1
        self._link.loop.later(self._link._weather.delay_s(), self._pull)

    def _pull(self) -> None:
        self._durables.append(self._durables.pop(0))
        for durable in self._durables:
            durable.dispatch()


async def _as_it_is(stored: Stored) -> Record | None:
    return record_of(stored)


class SimDelivery:
    """A message of a durable consumer; the first ack or nak answers it, if it arrives."""

    def __init__(
        self,
        key: RunKey,
        record: Record | None,
        stored: Stored,
        deliveries: int,
        durable: MemoryDurable,
        intake: SimIntake,
    ) -> None:
        self.key, self.record, self.time_ns, self.deliveries = key, record, stored.time_ns, deliveries
        self._sequence, self._durable, self._intake = stored.sequence, durable, intake
        self._answered = False

    async def ack(self) -> None:
        """Never deliver it again."""
        self._answer(lambda: self._durable.ack(self._sequence))

    async def nak(self, delay_s: float = 0.0) -> None:
        """Deliver it again after a delay."""
        self._answer(lambda: self._durable.nak(self._sequence, delay_s))

    async def progress(self) -> None:
        """Say that it is still being worked on."""
        if not self._answered:
            self._intake._link.tell(lambda: self._durable.progress(self._sequence))

    def _answer(self, arrive: Callable[[], None]) -> None:
        if not self._answered:
            self._answered = True
            self._intake._link.tell(arrive)
            self._intake.answered()
