"""Time for the in-memory broker: the real one, or one that stands still until it is moved."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol

_SECOND_NS = 1_000_000_000


class Alarm(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Have it not made."""
        ...


class Clock(Protocol):
    """What the broker asks about time."""

    def now_ns(self) -> int:
        """Return the time."""
        ...

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> Alarm:
        """Call at a time, or soon if it is past."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        ...


class WallClock:
    """The system's clock and the event loop's timers."""

    def now_ns(self) -> int:
        """Return the time."""
        return time.time_ns()

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> Alarm:
        """Call at a time, or soon if it is past."""
        delay_s = max(0, due_ns - time.time_ns()) / _SECOND_NS
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


class _VirtualAlarm:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A clock that moves only when told: the same calls at the same times, however fast the machine."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._alarms: list[tuple[int, int, _VirtualAlarm]] = []
        self._made = 0

    def now_ns(self) -> int:
        """Return the time."""
        return self._now_ns

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> Alarm:
        """Call at a time, or at the next move if it is past."""
        alarm = _VirtualAlarm(callback)
        self._made += 1
        heapq.heappush(self._alarms, (due_ns, self._made, alarm))
        return alarm

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been moved so far."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due_ns = self._now_ns + int(delay_s * _SECOND_NS)
        alarm = self.call_at(due_ns, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            alarm.cancel()

    def next_ns(self) -> int | None:
        """Return when the next call is due, if any."""
        while self._alarms and self._alarms[0][2].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def advance_to(self, now_ns: int) -> None:
        """Move to a time, making the calls on the way in their order."""
        while (due_ns := self.next_ns()) is not None and due_ns <= now_ns:
            _, _, alarm = heapq.heappop(self._alarms)
            self._now_ns = max(self._now_ns, due_ns)
            if alarm.callback is not None:
                alarm.callback()
        self._now_ns = max(self._now_ns, now_ns)
