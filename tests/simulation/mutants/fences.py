"""Fences that are missing, and one that is not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from bus.records import StoreLog
from core.ports import Fence
from orchestrator.decider import Decider
from orchestrator.submission import Submissions
from tests.simulation.mutants.planting import Patch, planted

_append = StoreLog.append


def _without_fence(dropped: Callable[[str, Fence], bool]) -> Patch:
    """Append without some of the fences; the first argument that is asked is the kind of event."""

    async def append(
        self: Any, address: Any, event: Any, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        if fence is not None and dropped(str(event.WhichOneof("body")), fence):
            fence = None
        return await _append(self, address, event, fence=fence, trace=trace)

    return patch.object(StoreLog, "append", append)


@planted(within=20)
def decisions_without_fence() -> Patch:
    """Two deciders write past each other."""
    return _without_fence(lambda kind, fence: fence.filter.endswith(".dec.>"))


@planted(within=20)
def claims_without_fence() -> Patch:
    """A worker claims what another has claimed, or what was taken back."""
    return _without_fence(lambda kind, fence: kind == "intent")


@planted(within=150)
def revokes_without_fence() -> Patch:
    """The decider takes back what was claimed."""
    return _without_fence(lambda kind, fence: kind == "revoked")


@planted(within=150)
def refusals_without_fence() -> Patch:
    """A worker refuses what another has claimed meanwhile."""
    return _without_fence(lambda kind, fence: kind == "result")


@planted(within=150)
def submissions_without_cell() -> Patch:
    """A request that is repeated makes another run."""

    async def reserve(self: Any, request_id: str, new: str) -> str:
        return new

    return patch.object(Submissions, "_reserve", reserve)


@planted(within=150)
def submissions_without_fence() -> Patch:
    """A repeated request whose ULID names its run is written a second time, and so is its run's beginning."""
    return _without_fence(lambda kind, fence: kind == "submit")


@planted(within=150)
def revoke_that_lost_counts() -> Patch:
    """An attempt that was claimed first is taken for taken back."""
    revoke = Decider._revoke

    async def stubborn(self: Any, key: Any, move: Any) -> int:
        sequence = await revoke(self, key, move)
        if sequence:
            return sequence
        with _without_fence(lambda kind, fence: kind == "revoked"):
            return await revoke(self, key, move)

    return patch.object(Decider, "_revoke", stubborn)


@planted(within=1000, policies=True)
def retries_fenced_on_decisions_only() -> Patch:
    """A step is acted on again, whatever has come of it since the decider has looked."""
    return patch("orchestrator.decider.can_be_overtaken", lambda state, decision: False)
