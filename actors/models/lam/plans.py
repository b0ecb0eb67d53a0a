"""The action model as a maker of plans: goals in anybody's words, as far as it is sure of what they mean."""

from __future__ import annotations

from actors.models import Goal, PlanMaker
from actors.models.lam import shelf
from actors.models.lam.serving import Serving
from handrail.v1 import event_pb2

MAX_REASON_CHARS = 500


class LamPlans:
    """Makes plans of goals that no playbook has a phrase for; without a model it has nothing to say."""

    def __init__(self, serving: Serving, otherwise: PlanMaker | None = None) -> None:
        """`otherwise` is asked where the model is not sure enough."""
        self._serving = serving
        self._otherwise = otherwise

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return the plan that it is sure of, or what it was unsure of."""
        found = await self._made(goal)
        if found.HasField("plan") or self._otherwise is None:
            return found
        return await self._otherwise.make(goal)

    async def _made(self, goal: Goal) -> event_pb2.PlanAnswer:
        try:
            model = await self._serving.current()
            if model is None:
                return _none("")
            from actors.models.lam.answering import answer

            return await self._serving.think(answer, model, goal, self._serving.playbooks)
        except shelf.BadModel as error:
            return _none(f"the action model cannot be used: {error}")
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the run gets an answer.
            return _none(f"the action model failed: {type(error).__name__}: {error}")


def _none(reason: str) -> event_pb2.PlanAnswer:
    return event_pb2.PlanAnswer(no_plan=event_pb2.NoPlan(reason=reason[:MAX_REASON_CHARS]))
