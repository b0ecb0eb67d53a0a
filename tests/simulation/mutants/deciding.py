"""Mistakes of the decider as a process: what it acknowledges, rereads and is woken up by."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

from orchestrator.decider import Decider
from tests.simulation.log import SimLog
from tests.simulation.mutants.planting import Patch, planted


@planted(within=400)
def ack_before_append() -> Patch:
    """The decider acknowledges first and decides then."""
    look = Decider._look

    async def hasty(self: Any, entry: Any, batch: Any) -> None:
        for delivery in batch:
            await delivery.ack()
        await look(self, entry, batch)

    return patch.object(Decider, "_look", hasty)


@planted(within=20)
def gaps_are_not_seen() -> Patch:
    """The decider applies what comes, whatever it has missed."""
    return patch.object(Decider, "_check_order", lambda self, shard, sequence: None)


@planted(within=400)
def own_clock() -> Patch:
    """The decider goes by the clock of its machine."""
    fold = Decider._fold

    async def by_own_clock(self: Any, entry: Any, batch: Any) -> None:
        await fold(self, entry, batch)
        entry.now_ns = time.time_ns()

    return patch.object(Decider, "_fold", by_own_clock)


@planted(within=150)
def ticks_do_not_reread() -> Patch:
    """A tick is decided on with what was cached, however old it is."""
    fold = Decider._fold

    async def by_cache(self: Any, entry: Any, batch: Any) -> None:
        if entry.state is not None and all(delivery.record is None for delivery in batch):
            entry.now_ns = max(entry.now_ns, *(delivery.time_ns for delivery in batch))
            return
        await fold(self, entry, batch)

    return patch.object(Decider, "_fold", by_cache)


def _timers_lost(prefix: str) -> Patch:
    arm = SimLog.arm

    async def forget(self: Any, key: Any, timer: str, due_ns: int) -> None:
        if not timer.startswith(prefix):
            await arm(self, key, timer, due_ns)

    return patch.object(SimLog, "arm", forget)


@planted(within=20)
def heal_timer_lost() -> Patch:
    """Nobody wakes up for a heal."""
    return _timers_lost("heal-")


@planted(within=1000)
def lease_timer_lost() -> Patch:
    """Nobody wakes up when a lease is over."""
    return _timers_lost("lease-")


@planted(within=50)
def gate_timer_lost() -> Patch:
    """Nobody wakes up when the time of a gate is over."""
    return _timers_lost("gate-")


@planted(within=400)
def deadline_timer_lost() -> Patch:
    """Nobody wakes up at a deadline."""
    return _timers_lost("deadline")
