"""Grants: whether what an executor proposes is inside the closed set that its step was granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core import conditions, failures, schemas, spelling
from core.redaction import MASK, is_secret_name
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

MAX_GRANTS = 64


def check_call(
    call: event_pb2.Call,
    grants: Sequence[plan_pb2.Grant],
    proposed: Mapping[str, Any],
    inputs: Mapping[str, Any],
    contracts: Mapping[str, tool_pb2.ToolContract],
) -> list[plan_pb2.Violation]:
    """Return in what way a proposal leaves its grant; `proposed` are the values of its arguments.

    What is open and left out has the default that the tool will act with, and that is judged like a value.
    Whether the whole fits the tool's schema is not asked here.
    """
    where = f"call.grant[{call.grant}]"
    if call.grant >= len(grants) or grants[call.grant].tool != call.tool:
        message = f"{call.tool!r:.80} is not the tool of grant {call.grant} of the step"
        return [plan_pb2.Violation(field=where, code="outside_closed_set", message=message)]
    found: list[plan_pb2.Violation] = []
    grant = grants[call.grant]
    for name, value in {**left_out(grant, contracts[call.tool], proposed), **proposed}.items():
        field = f"call.arguments.{name[:64]}"
        if name not in grant.open:
            fixed = name in grant.arguments
            why = "is fixed by the plan" if fixed else f"is not open{spelling.hint(name, grant.open)}"
            message = f"{call.tool} is granted without it: {name[:64]!r} {why}"
            found.append(plan_pb2.Violation(field=field, code="outside_grant", message=message))
            continue
        problem = _outside(name, grant.open[name], value, inputs)
        if problem is not None:
            code, message = problem
            found.append(plan_pb2.Violation(field=field, code=code, message=message))
    return found


def left_out(
    grant: plan_pb2.Grant, contract: tool_pb2.ToolContract, proposed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the defaults of what is open and not proposed; without one a tool acts with nothing."""
    properties = schemas.compile_schema(contract.input_schema).properties
    parts = {name: properties.get(name) for name in grant.open.keys() - proposed.keys()}
    found = {name: part.get("default") for name, part in sorted(parts.items()) if isinstance(part, dict)}
    return {name: default for name, default in found.items() if default is not None}


def missing(
    call: event_pb2.Call,
    grants: Sequence[plan_pb2.Grant],
    contract: tool_pb2.ToolContract,
    arguments: Mapping[str, Any],
) -> frozenset[str]:
    """Return what the tool needs and an unsure mind has left open: whoever approves it has to say it."""
    if not call.unsure or call.tool != contract.name or call.grant >= len(grants):
        return frozenset()
    required = frozenset(schemas.compile_schema(contract.input_schema).required)
    return required & grants[call.grant].open.keys() - arguments.keys()


def _outside(name: str, condition: str, value: Any, inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    if not condition:
        return None
    try:
        if conditions.holds(condition, {"value": value, "input": inputs}):
            return None
    except conditions.ConditionError as error:
        return failures.CONDITION, str(error)
    told = MASK if is_secret_name(name) else schemas.show(value)
    return "outside_grant", f"it must hold that {condition}, and it is {told}"
