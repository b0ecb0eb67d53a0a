"""Decision tables: the first row whose condition holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.models import Model
from core.choice import first_rule
from handrail.v1 import event_pb2, plan_pb2


class DecisionTable:
    """Chooses by the table that the plan itself carries."""

    model = Model("table")

    async def choose(
        self, rules: Sequence[plan_pb2.Rule], inputs: Mapping[str, Any]
    ) -> event_pb2.Choice | None:
        """Return the first row that holds; raises ConditionError where one cannot be judged."""
        row = first_rule(rules, inputs)
        if row is None:
            return None
        reason = rules[row].when or "otherwise"
        return event_pb2.Choice(rule=row, tool=rules[row].tool, reason=reason)
