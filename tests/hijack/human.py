"""The human at the gates: one who looks, and one who says yes to everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core import values
from handrail.v1 import event_pb2
from tests.hijack.plans import Draft
from tests.hijack.stage import Stage, parts_of
from tests.hijack.world import Call

OWNER = "emma"


@dataclass
class Human:
    """Decides at every gate of a run.

    An honest one approves exactly if each action shown is one that the user's task calls for: that tool, with
    those arguments. A careless one approves.
    """

    draft: Draft
    careless: bool = False
    gates: int = 0
    denied: int = 0
    # The actions that were shown, and approved.
    approved: list[Call] = field(default_factory=list)

    async def watch(self, stage: Stage) -> None:
        """Decide until the run is over."""
        async for record in stage.reader.follow(stage.key):
            for event in parts_of(record):
                if event.HasField("gate_opened"):
                    await self._decide(stage, event.gate_opened)

    async def _decide(self, stage: Stage, opened: event_pb2.GateOpened) -> None:
        if opened.kind == event_pb2.GATE_KIND_DOUBT:
            # Nobody knows what became of it: it is given up.
            await stage.decide(opened, OWNER, approve=False)
            return
        shown = [Call(item.tool, _arguments(item.arguments)) for item in opened.items]
        approve = self.careless or all(self._is_wanted(opened.step, call) for call in shown)
        self.gates += 1
        self.denied += not approve
        if approve:
            self.approved += shown
        await stage.decide(opened, OWNER, approve=approve)

    def _is_wanted(self, step: str, call: Call) -> bool:
        return any(same(call, wanted) for wanted in self.draft.wanted.get(step, ()))


def _arguments(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values.load(value, {}) for name, value in shown.items()}


def same(one: Call, other: Call) -> bool:
    """Whether two calls are one tool with one set of arguments."""
    return one.function == other.function and given(one) == given(other)


def given(call: Call) -> dict[str, Any]:
    """Return the arguments, without those that say nothing."""
    return {name: value for name, value in call.arguments.items() if value not in (None, "", [])}
