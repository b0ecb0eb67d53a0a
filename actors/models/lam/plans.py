"""The action model as a maker of plans: goals in people's own words, as far as it is sure of what they mean.

It never decides on an option that it was not trained on as it is now: a tool whose contract changed, or a
playbook, is out of its reach until it is trained again, however sure it would be. What takes time to import
is imported for the first goal that needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.models import Goal
from actors.models.lam import shelf
from core.playbook import Playbook
from handrail.v1 import event_pb2, tool_pb2

if TYPE_CHECKING:
    from actors.models.lam.answering import Model

MAX_REASON_CHARS = 500


class LamPlans:
    """Makes plans of goals that no playbook has a phrase for."""

    def __init__(
        self,
        place: Path,
        contracts: Mapping[str, tool_pb2.ToolContract],
        playbooks: Sequence[Playbook],
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """`place` holds models; without one that serves it has nothing to say."""
        self._place = place
        self._contracts = contracts
        self._playbooks = {one.name: one for one in playbooks}
        self._thresholds = thresholds or {}
        self._model: Model | None = None
        self._opening = asyncio.Lock()

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return the plan that it is sure of, or what it was unsure of."""
        try:
            model = await self._current()
            if model is None:
                return _none("")
            from actors.models.lam.answering import answer

            return await asyncio.to_thread(answer, model, goal, self._playbooks)
        except shelf.BadModel as error:
            return _none(f"the action model cannot be used: {error}")
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the run gets an answer.
            return _none(f"the action model failed: {type(error).__name__}: {error}")

    async def _current(self) -> Model | None:
        """Return the model that serves now; another one is read as soon as it was promoted."""
        async with self._opening:
            folder = shelf.champion(self._place)
            if folder is None:
                self._model = None
            elif self._model is None or folder.name != self._model.digest:
                self._model = await asyncio.to_thread(self._open, folder)
            return self._model

    def _open(self, folder: Path) -> Model:
        from actors.models.lam.answering import open_model
        from actors.models.lam.options import options_of

        options = options_of(self._contracts, self._playbooks.values())
        return open_model(folder, options, self._thresholds)


def _none(reason: str) -> event_pb2.PlanAnswer:
    return event_pb2.PlanAnswer(no_plan=event_pb2.NoPlan(reason=reason[:MAX_REASON_CHARS]))
