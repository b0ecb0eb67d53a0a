"""Workflows that somebody has mapped: the goal is matched to a playbook's phrases, and its slots filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.playbook import NoMatch, Playbook, instantiate, match
from handrail.v1 import event_pb2, plan_pb2


class PlaybookPlans:
    """Makes plans of playbooks; a goal that matches none gets the nearest phrases."""

    def __init__(self, playbooks: Sequence[Playbook], digests: Mapping[str, str]) -> None:
        """`digests` are the SHA-256 of the playbooks' files, by the playbooks' names."""
        self._playbooks = playbooks
        self._digests = digests

    async def make(self, text: str, context: Mapping[str, Any]) -> plan_pb2.Plan | event_pb2.NoPlan:
        """Return the plan of the one playbook that the goal matches."""
        found = match(text, self._playbooks, context)
        if isinstance(found, NoMatch):
            return event_pb2.NoPlan(reason=found.reason, nearest=found.nearest)
        plan = instantiate(found.playbook, found.slots)
        plan.origin_sha256 = self._digests.get(found.playbook.name, "")
        return plan
