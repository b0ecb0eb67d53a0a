"""Decision tables: which row holds, and whether an executor chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core import conditions, failures
from handrail.v1 import event_pb2, plan_pb2


def first_rule(rules: Sequence[plan_pb2.Rule], inputs: Mapping[str, Any]) -> int | None:
    """Return the first row of a decision table that holds; a row without a condition always does."""
    for i, rule in enumerate(rules):
        if not rule.when or conditions.holds(rule.when, {"input": inputs}):
            return i
    return None


def check_choice(
    choice: event_pb2.Choice, rules: Sequence[plan_pb2.Rule], inputs: Mapping[str, Any]
) -> plan_pb2.Violation | None:
    """An executor may choose the first row that holds, and its tool: nothing else."""
    where = f"choice.rule[{choice.rule}]"
    if choice.rule >= len(rules) or rules[choice.rule].tool != choice.tool:
        message = f"{choice.tool!r} is not the tool of row {choice.rule} of the step's table"
        return plan_pb2.Violation(field=where, code="outside_closed_set", message=message)
    try:
        first = first_rule(rules[: choice.rule + 1], inputs)
    except conditions.ConditionError as error:
        return plan_pb2.Violation(field=where, code=failures.CONDITION, message=str(error))
    if first != choice.rule:
        message = f"row {choice.rule} is not the first that holds"
        return plan_pb2.Violation(field=where, code="not_first", message=message)
    return None
