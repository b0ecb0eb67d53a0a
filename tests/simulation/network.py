"""The network between the parts and the broker: everything on it can be late, lost, repeated or cut off.

A request that was sent takes its effect though its sender has died or has given up waiting meanwhile, and an
answer that is lost leaves the sender without knowing. A dead or cut off client hands nothing back: what it
held comes again after the ack wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from core.ports import LogError, LogUnavailable
from tests.simulation.broker import SimBroker
from tests.simulation.loop import SimLoop
from tests.simulation.processes import Process
from tests.simulation.weather import Weather

REQUEST_TIMEOUT_S = 2.0
_T = TypeVar("_T")


class Client(Protocol):
    """What takes deliveries on a link."""

    def leave(self) -> None:
        """Be gone, handing nothing back."""
        ...

    def come_back(self) -> None:
        """Ask for deliveries again."""
        ...


class Link:
    """The connection of one process to the broker."""

    def __init__(self, broker: SimBroker, loop: SimLoop, process: Process, weather: Weather) -> None:
        self.broker, self.loop, self.process, self._weather = broker, loop, process, weather
        self.partitioned = False
        self._silent = False
        self.connected = True
        # What travels on an older connection is lost.
        self.epoch = 0
        self.intakes: list[Client] = []
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

    def lag(self, for_s: float) -> None:
        """Let what is sent from now on arrive so much later."""
        self._up_s = max(self._up_s, self.loop.time() + for_s)

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
