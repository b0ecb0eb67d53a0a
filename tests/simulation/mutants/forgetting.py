"""Mistakes about what is forgotten, when, and what is left."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

from bus.keyring import Keyring
from core import ahead
from core.moves import Erase
from core.ports import RunKey
from core.state import RunState, evolve
from handrail.v1 import event_pb2
from orchestrator import decider
from orchestrator.services import RunService
from tests.simulation.mutants.planting import Patch, handling, planted


@planted(within=400)
def keys_are_deleted_once() -> Patch:
    """Who died between saying that a run is forgotten and deleting its key has done enough."""
    decide = ahead.decide

    def once(state: RunState, *rest: Any) -> list[Any]:
        moves = decide(state, *rest)
        return [] if state.forgotten is not None else [*moves, *([Erase()] if _forgets(moves) else [])]

    return patch.object(ahead, "decide", once)


@planted(within=50)
def keys_are_deleted_at_once() -> Patch:
    """What is to be forgotten needs no key any more."""
    decide = ahead.decide

    def before(state: RunState, *rest: Any) -> list[Any]:
        moves = decide(state, *rest)
        return [Erase(), *moves] if _forgets(moves) else moves

    return patch.object(ahead, "decide", before)


@planted(within=200)
def what_goes_on_is_forgotten() -> Patch:
    """Who wants a run forgotten need not wait for its end."""

    def early(state: RunState, record: Any, body: event_pb2.Forget) -> RunState | None:
        return evolve(state, forget=body) if state.forget is None else None

    return handling("forget", early)


@planted(within=50)
def more_is_kept_than_is_said() -> Patch:
    """A run that was forgotten is what it was, as long as somebody can read it."""
    return handling("forgotten", lambda state, record, body: evolve(state, forgotten=body))


@planted(within=100)
def forgetting_is_answered_when_it_is_said() -> Patch:
    """As soon as the log says so, a run is forgotten."""

    async def gone(self: RunService, key: RunKey) -> RunState:
        while (state := await self._runs.state(key)).forgotten is None:
            await asyncio.sleep(0.1)
        return state

    return patch.object(RunService, "_gone", gone)


@planted(within=50)
def keys_are_made_anew() -> Patch:
    """Where there is no key somebody may make one: nothing stands in the place of one that was deleted."""

    async def erase(self: Keyring, run: RunKey) -> None:
        stored = await self._ask(run)
        if stored is not None and stored.data:
            await self._store.erase("KEY", stored.sequence)
        self._hold(run, None)

    return patch.object(Keyring, "erase", erase)


def _forgets(moves: list[Any]) -> bool:
    return any(getattr(move, "arm", "") == "forgotten" for move in moves)


@planted(within=400)
def who_forgets_has_heard_enough() -> Patch:
    """What is asked for as a run is forgotten comes too late."""
    overtaken = decider.can_be_overtaken

    def lax(state: RunState, decision: Any) -> bool:
        return overtaken(state, decision) and decision.arm != "forgotten"

    return patch.object(decider, "can_be_overtaken", lax)
