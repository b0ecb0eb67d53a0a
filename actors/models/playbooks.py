"""Workflows that somebody has mapped: the goal is matched to a playbook's phrases, and its slots filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.models import Goal, PlanMaker
from core.playbook import NoMatch, Playbook, instantiate, match
from handrail.v1 import event_pb2

MAX_NEAREST = 5


class PlaybookPlans:
    """Makes plans of playbooks; a goal that matches none gets the nearest phrases."""

    def __init__(
        self, playbooks: Sequence[Playbook], digests: Mapping[str, str], otherwise: PlanMaker | None = None
    ) -> None:
        """`digests` are the SHA-256 of the playbooks' files; `otherwise` is asked where no phrase matches."""
        self._playbooks = playbooks
        self._digests = digests
        self._otherwise = otherwise

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return the plan of the one playbook that the goal matches."""
        found = match(goal.text, self._playbooks, goal.context)
        if isinstance(found, NoMatch):
            # Whoever said a phrase is told what is wrong with it, and is not understood in another way.
            if self._otherwise is None or found.said:
                return event_pb2.PlanAnswer(
                    no_plan=event_pb2.NoPlan(reason=found.reason, nearest=found.nearest)
                )
            return _with_nearest(await self._otherwise.make(goal), found)
        plan = instantiate(found.playbook, found.slots)
        plan.origin_sha256 = self._digests.get(found.playbook.name, "")
        return event_pb2.PlanAnswer(plan=plan)


def _with_nearest(answer: event_pb2.PlanAnswer, none: NoMatch) -> event_pb2.PlanAnswer:
    """Return an answer; where it is no plan, with the phrases that come nearest."""
    if answer.HasField("no_plan"):
        answer.no_plan.reason = answer.no_plan.reason or none.reason
        nearest = [*answer.no_plan.nearest, *none.nearest]
        del answer.no_plan.nearest[:]
        answer.no_plan.nearest.extend(dict.fromkeys(nearest[:MAX_NEAREST]))
    return answer
