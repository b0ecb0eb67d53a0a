"""Faults that befall whole processes: kills, stops, partitions, a broker that is away, clocks that jump."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from tests.simulation.broker import SimBroker
from tests.simulation.loop import SimLoop
from tests.simulation.parts import Parts
from tests.simulation.processes import Process, Supervisor
from tests.simulation.watch import Watch
from tests.simulation.weather import Weather

DAY_NS = 86_400_000_000_000
MAX_FAULTS = 18
SILENT_SHARE = 0.35
RACE_SHARE = 0.5
_KINDS = ("kill", "kill", "kill", "stop", "stop", "partition", "away", "full", "clock", "tick", "everything")


class Faults:
    """Plans the faults of a seed, and ends them all when its time is over."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int | str,
        *,
        broker: SimBroker,
        supervisor: Supervisor,
        parts: Parts,
        weather: Weather,
        watch: Watch,
        note: Callable[[str], None],
    ) -> None:
        self._loop, self._broker, self._supervisor = loop, broker, supervisor
        self._parts, self._weather, self._watch, self._note = parts, weather, watch, note
        self._random = random.Random(f"{seed}/faults")
        self._silence = random.Random(f"{seed}/silence")
        self._races = random.Random(f"{seed}/races")
        self.counts: Counter[str] = Counter()
        self._over = False
        self._kinds = self._random.sample(_KINDS, self._random.randint(2, len(_KINDS)))
        self.horizon_s = self._random.uniform(5.0, 25.0)

    def begin(self) -> None:
        """Plan what goes wrong, and that it ends."""
        for _ in range(self._random.choice((1, 3, 6, 10, MAX_FAULTS))):
            kind = self._random.choice(self._kinds)
            self._loop.later(self._random.uniform(0.0, self.horizon_s), getattr(self, f"_{kind}"))
        self._loop.later(self.horizon_s, self._end)

    def strike(self, writer: Process | None) -> None:
        """Kill or stop somebody just when an event has been stored: who wrote it, as often as not."""
        if self._over or not self._weather.chance(self._weather.odds.strike):
            return
        victim = writer if writer is not None and self._random.random() < 0.6 else self._somebody()
        if self._random.random() < 0.7:
            self.kill(victim)
        else:
            self.stop(victim, self._random.choice((0.5, 3.0, 6.0, 12.0)))

    def hush(self, claimer: Process | None) -> None:
        """Let a claim go silent, now and then: what is done again is approved by the policy of then."""
        if self._over or claimer is None or self._silence.random() >= SILENT_SHARE:
            return
        if self._silence.random() < 0.7:
            self.stop(claimer, self._silence.choice((5.0, 7.0, 9.0, 14.0)))
        else:
            self.kill(claimer)

    def race(self, decider: Process, claimer: Process | None) -> None:
        """Let a claim speak, now and then, while the decision to do it again is on its way."""
        if self._over or claimer is None or self._races.random() >= RACE_SHARE:
            return
        self.counts["race"] += 1
        self._note(f"SIGCONT {claimer}, and {decider} is slow")
        self._parts.links[decider].lag(self._races.choice((0.02, 0.1, 0.4, 1.0)))
        claimer.go_on()

    def kill(self, process: Process) -> None:
        """Kill a process; its successor comes in a while."""
        restart_s = self._random.choice((0.05, 0.5, 2.0, 6.0))
        if self._supervisor.kill(process, restart_s):
            self.counts[f"kill {_role(process)}"] += 1

    def stop(self, process: Process, for_s: float) -> None:
        """Stop a process for a while."""
        if self._supervisor.stop(process, for_s):
            self.counts[f"stop {_role(process)}"] += 1

    def _somebody(self) -> Process:
        return self._random.choice(self._supervisor.living() or self._supervisor.all[-1:])

    def _kill(self) -> None:
        self.kill(self._somebody())

    def _stop(self) -> None:
        self.stop(self._somebody(), self._random.choice((0.5, 2.5, 5.0, 12.0, 40.0)))

    def _partition(self) -> None:
        link, for_s = self._parts.links.get(self._somebody()), self._random.choice((0.5, 3.0, 8.0, 15.0))
        if link is None or self._over:
            return
        self.counts["partition"] += 1
        self._note(f"{link.process} is cut off for {for_s} s")
        link.partitioned = True
        link.refresh()

        def heal() -> None:
            link.partitioned = False
            link.refresh()

        self._loop.later(for_s, heal)

    def _away(self) -> None:
        if not self._broker.up:
            return
        for_s = self._random.choice((0.2, 2.0, 5.0, 13.0))
        self.counts["broker away"] += 1
        self._note(f"the broker is away for {for_s} s")
        self._broker.switch(False)
        self._loop.later(for_s, self._come_back)

    def _come_back(self) -> None:
        if not self._broker.up:
            self._note("the broker is back")
            self._broker.switch(True)

    def _full(self) -> None:
        self.counts["disk full"] += 1
        self._note("the disk is full")
        self._broker.full = True
        self._loop.later(self._random.uniform(0.2, 4.0), self._make_room)

    def _make_room(self) -> None:
        self._broker.full = False

    def _clock(self) -> None:
        decider = self._supervisor.places[self._random.choice(("decider-1", "decider-2"))].process
        process = decider if decider is not None and self._random.random() < 0.4 else self._somebody()
        self.counts["clock jump"] += 1
        process.skew_ns = self._random.choice((DAY_NS, -DAY_NS, 30_000_000_000, -30_000_000_000))
        self._note(f"the clock of {process} jumps by {process.skew_ns / 1e9:.0f} s")

    def _tick(self) -> None:
        for watch in self._watch.runs.values():
            self.counts["stray tick"] += 1
            self._broker.tick(watch.key)

    def _everything(self) -> None:
        self.counts["kill everything"] += 1
        self._supervisor.kill_all(self._random.choice((0.2, 3.0)))

    def _end(self) -> None:
        """Let everything be well from now on."""
        self._over = True
        self._note("no more faults")
        self._weather.calm()
        self._make_room()
        self._come_back()
        for link in self._parts.links.values():
            link.partitioned = False
            link.refresh()
        for process in self._supervisor.living():
            process.skew_ns = 0
            process.go_on()


def _role(process: Process) -> str:
    return "worker" if "_" in process.place else process.place.split("-")[0]
