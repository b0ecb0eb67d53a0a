"""The broker: the in-memory one, but it may be away or full, and its timers keep time badly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bus import subjects
from bus.memory import MemoryBroker
from bus.memory_streams import MemoryStream
from bus.records import record_of
from bus.store import Stored
from core.ports import Address, Fence, LogFull, Record, RunKey
from handrail.v1 import event_pb2
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.weather import Weather

if TYPE_CHECKING:
    from tests.simulation.network import Link


RETRY_S = 0.5


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

    def insist(self, key: RunKey, event: event_pb2.Event) -> None:
        """Write a command as soon as there is room, past the gateway, as a broken one would have it there."""
        if self.up:
            subject = subjects.build(Address(key, "cmd", (str(event.WhichOneof("body")),)))
            try:
                self.put(subjects.ev_stream(key.shard), subject, event.SerializeToString())
            except LogFull:
                pass
            else:
                return
        self._loop.later(RETRY_S, self.insist, key, event)

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

    def has_key(self, run: RunKey) -> bool:
        """Whether somebody who has it can still read a run."""
        cell = self.stream(subjects.KEY_STREAM).last(subjects.key_cell(run))
        return cell is not None and bool(cell.data)

    @property
    def armed(self) -> int:
        """How many timers have not fired."""
        return len(self._timers)


def records_on(stream: SimStream, filter: str, after: int = 0) -> list[Record]:
    """Return the records of a stream on a filter after a sequence."""
    found = (stream.records[stored.sequence - 1] for stored in stream.matching(filter, after))
    return [record for record in found if record is not None]
