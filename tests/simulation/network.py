"""The network between the parts and the broker: everything on it can be late, lost, repeated or cut off.

The parts talk to the in-memory broker through the real `StoreLog`, over a store whose requests travel. A
request that was sent takes its effect though its sender has died or has given up waiting meanwhile, and an
answer that is lost leaves the sender without knowing. A dead or cut off client hands nothing back: what it
held comes again after the ack wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from bus.memory_streams import MemoryDurable, MemoryIntake, MemoryStream
from bus.records import record_of
from bus.store import Stored, patiently
from core.ports import Address, Consumer, Delivery, Fence, LogError, LogFull, LogUnavailable, Record, RunKey
from handrail.v1 import event_pb2
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.processes import Process
from tests.simulation.weather import Weather

REQUEST_TIMEOUT_S = 2.0
_T = TypeVar("_T")


class SimStream(MemoryStream):
    """A stream that keeps its records decoded, and tells of each before anybody hears it."""

    def __init__(self, name: str, told: Callable[[str, Stored, Record | None], None]) -> None:
        super().__init__(one_per_subject=name == subjects.TIMER_STREAM)
        self.name = name
        self.records: list[Record | None] = []
        self._told = told

    def add(self, subject: str, data: bytes, time_ns: int, trace: str = "") -> int:
        """Store a message, tell who waits for it, and return its sequence."""
        stored = Stored(len(self.messages) + 1, time_ns, subject, data, trace)
        record = record_of(stored)
        self.records.append(record)
        self._told(self.name, stored, record)
        return super().add(subject, data, time_ns, trace)


class SimBroker(MemoryBroker):
    """The broker: it may be away for a while or have no room, and its timers keep time badly."""

    def __init__(
        self, loop: SimLoop, weather: Weather, told: Callable[[str, Stored, Record | None], None]
    ) -> None:
        super().__init__(SimClock(loop))
        self._loop = loop
        self._weather = weather
        self._told = told
        self.up = True
        self.full = False
        self.links: list[Link] = []

    def stream(self, name: str) -> MemoryStream:
        """Return a stream, which there is from when it is first named."""
        if name not in self._streams:
            self._streams[name] = SimStream(name, self._told)
        return self._streams[name]

    def put(self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = "") -> int:
        """Publish at once, if there is room."""
        if self.full:
            raise LogFull("the broker has no room: nothing was written")
        return super().put(stream, subject, data, fence, trace)

    def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick published at the due time, or late, or early, or more than once."""
        subject = subjects.timer_arm(key, timer)
        if subject in self._timers:
            self._timers[subject].cancel()

        def fire() -> None:
            self._timers.pop(subject, None)
            self.tick(key)

        fire_ns, extra_ns = self._weather.tick(self.clock.now_ns(), due_ns)
        self._timers[subject] = self.clock.call_at(fire_ns, fire)
        for at_ns in extra_ns:
            self.clock.call_at(at_ns, lambda: self.tick(key))

    def tick(self, key: RunKey) -> None:
        """Publish a tick, as soon as the broker is there."""
        if not self.up:
            self._loop.later(0.5, self.tick, key)
            return
        self.stream(subjects.TIMER_STREAM).add(subjects.timer_due(key), b"", self.clock.now_ns())

    def switch(self, up: bool) -> None:
        """Go away, or come back: what clients held is delivered again after the ack wait."""
        self.up = up
        for link in list(self.links):
            link.refresh()

    @property
    def armed(self) -> int:
        """How many timers have not fired."""
        return len(self._timers)


class Link:
    """The connection of one process to the broker."""

    def __init__(self, broker: SimBroker, loop: SimLoop, process: Process, weather: Weather) -> None:
        self.broker, self.loop, self.process, self._weather = broker, loop, process, weather
        self.partitioned = False
        self._silent = False
        self.connected = True
        # What travels on an older connection is lost.
        self.epoch = 0
        self.intakes: list[SimIntake] = []
        self._up_s = self._down_s = 0.0
        broker.links.append(self)
        process.watchers.append(self._watch)
        self.refresh()

    def refresh(self) -> None:
        """Connect or lose the connection, as things are now."""
        wanted = self.broker.up and not (self.partitioned or self._silent or self.process.is_dead())
        if self.connected and not wanted:
            self.connected = False
            self.epoch += 1
            for intake in self.intakes:
                intake.leave()
            if self.process.is_dead():
                self.broker.links.remove(self)
        elif wanted and not self.connected:
            self.connected = True
            self.loop.later(self._weather.reconnect_s(), self._come_back, self.epoch)

    def _come_back(self, epoch: int) -> None:
        if self.connected and self.epoch == epoch:
            for intake in self.intakes:
                intake.come_back()

    def _watch(self) -> None:
        """Hear of the process: one that is stopped for long is taken for gone by the broker."""
        if self.process.state == "stopped":
            self.loop.later(self._weather.silence_s(), self._fall_silent)
        elif self.process.state == "running":
            self._silent = False
        self.refresh()

    def _fall_silent(self) -> None:
        if self.process.state == "stopped":
            self._silent = True
            self.refresh()

    # --- what travels ----------------------------------------------------------------------------

    def _upwards_s(self) -> float:
        """Return when something sent now arrives: in order, on one connection."""
        self._up_s = max(self._up_s + 1e-7, self.loop.time() + self._weather.delay_s())
        return self._up_s

    def _downwards_s(self) -> float:
        self._down_s = max(self._down_s + 1e-7, self.loop.time() + self._weather.delay_s())
        return self._down_s

    def _at(self, when_s: float, callback: Callable[..., object], *arguments: Any) -> None:
        self.loop.later(when_s - self.loop.time(), callback, *arguments)

    async def request(self, operation: Callable[[], _T]) -> _T:
        """Have the broker do something and return its answer; LogUnavailable where there is none."""
        answer: asyncio.Future[_T] = self.loop.create_future()
        begun_s, epoch, fate = self.loop.time(), self.epoch, self._weather.fate()

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(LogUnavailable("the broker did not answer"))

        def unanswered() -> None:
            # A broken connection is noticed soon, silence after the timeout.
            left_s = begun_s + REQUEST_TIMEOUT_S - self.loop.time()
            soon = not self.connected or self.epoch != epoch
            self.loop.later(min(left_s, 0.05) if soon else left_s, give_up)

        def settle(outcome: _T | LogError) -> None:
            if self.epoch != epoch:
                unanswered()
            elif not answer.done():
                if isinstance(outcome, LogError):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

        def arrive() -> None:
            # What was sent on a connection that broke may still have reached the broker, or not.
            if not self.broker.up or (self.epoch != epoch and not self._weather.slips_through()):
                unanswered()
                return
            try:
                outcome: _T | LogError = operation()
            except LogError as error:
                outcome = error
            if fate == "answer lost":
                unanswered()
            else:
                self._at(self._downwards_s(), settle, outcome)

        if not self.connected or fate == "lost":
            unanswered()
        elif fate == "late":
            self.loop.later(self._weather.lateness_s(REQUEST_TIMEOUT_S), arrive)
            self.loop.later(REQUEST_TIMEOUT_S, give_up)
        else:
            self._at(self._upwards_s(), arrive)
        return await answer

    def tell(self, arrive: Callable[[], None]) -> None:
        """Send something that nobody answers: it arrives, or is lost."""
        epoch, fate = self.epoch, self._weather.fate()

        def reach() -> None:
            if self.broker.up and self.epoch == epoch:
                arrive()

        if self.connected and fate != "lost":
            self._at(self._upwards_s(), reach)

    def deliver(
        self, take: Callable[[], None], take_again: Callable[[], None], lose: Callable[[], None]
    ) -> None:
        """Send something to the client."""
        epoch, fate = self.epoch, self._weather.delivery()

        def reach() -> None:
            if self.epoch == epoch:
                take()
            else:
                lose()

        def reach_again() -> None:
            if self.epoch == epoch:
                take_again()

        if fate == "lost":
            self.loop.later(REQUEST_TIMEOUT_S, lose)
        elif fate == "disordered":
            self.loop.later(self._weather.delay_s() + 0.05, reach)
        else:
            self._at(self._downwards_s(), reach)
            if fate == "twice":
                self._at(self._downwards_s(), reach_again)


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

    def now_s(self) -> float:
        """Return a time that only moves on."""
        return self._link.loop.time()

    async def pause(self, delay_s: float) -> None:
        """Wait before another try."""
        await asyncio.sleep(delay_s)


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

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Append durably and return the sequence."""
        self._sending(address, event)
        return await super().append(address, event, fence=fence, trace=trace)

    async def _ask(self, operation: Callable[[], _T]) -> _T:
        return await patiently(self.store, self.timeout_s, lambda: self.link.request(operation))

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        stream = self.link.broker.stream(subjects.ev_stream(key.shard))
        assert isinstance(stream, SimStream)
        return await self._ask(lambda: records_on(stream, subjects.run_filter(key), after))

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        intake = SimIntake(self.link, [self.broker.durable(consumer, shard) for shard in self.shards], limit)
        try:
            while (delivery := await intake.next()) is not None:
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


def records_on(stream: SimStream, filter: str, after: int = 0) -> list[Record]:
    """Return the records of a stream on a filter after a sequence."""
    found = (stream.records[stored.sequence - 1] for stored in stream.matching(filter, after))
    return [record for record in found if record is not None]


class SimIntake(MemoryIntake):
    """One client of a durable consumer; it is gone for as long as its link is."""

    def __init__(self, link: Link, durables: list[MemoryDurable], limit: int) -> None:
        self._link = link
        self._joined = True
        link.intakes.append(self)
        super().__init__(durables, limit)
        if not link.connected:
            self.leave()

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
