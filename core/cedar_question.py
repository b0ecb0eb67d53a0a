"""A request as the engine is asked it: entities, context, and what of it is open.

Nothing is put into a context that no rule looks at which can apply: the engine takes longer to read a value
than to judge a rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cedarpy import AuthzResult, Entities, PolicySet, is_authorized

from core import cedar_schema
from core.cedar_rules import ARGUMENTS, SPENT, argument
from core.cedar_schema import Arguments
from core.policy import Request
from handrail.v1 import tool_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the engine is asked it."""

    entities: Entities
    principal: dict[str, str]
    action: dict[str, str]
    resource: dict[str, str]
    context: dict[str, Any]
    # What is looked at by any rule that can apply.
    looked_at: frozenset[str]
    # What has no value yet, and what has one that no rule can be shown, with why.
    unknown: frozenset[str]
    unheld: Mapping[str, str]


def evaluate(policies: PolicySet, question: Question, count: int | None) -> AuthzResult:
    """Ask the engine, with so many approvals; nobody counts them where somebody decides."""
    context = question.context if count is None else {**question.context, "approvals": count}
    request = {
        "principal": question.principal,
        "action": question.action,
        "resource": question.resource,
        "context": json.dumps(context),
    }
    return is_authorized(request, policies, question.entities)


def context_of(
    request: Request, tool: Arguments, visible: Arguments, looked_at: frozenset[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the rules look at in a request, and what they cannot be shown of it, with why."""
    held: dict[str, Any] = {}
    unheld: dict[str, str] = {}
    wanted = tool.record.fields if ARGUMENTS in looked_at else _wanted(tool, looked_at)
    for name in wanted:
        if name in request.unknown:
            continue
        try:
            value = cedar_schema.hold(tool.record.fields[name], request.arguments, name)
        except cedar_schema.Unholdable as error:
            unheld[argument(name)] = unheld[ARGUMENTS] = f"'{name}' {error}"
            if name in tool.money:
                unheld[SPENT] = unheld[ARGUMENTS]
        else:
            if value is not None:
                held[name] = value
    shown = {name: value for name, value in held.items() if name in visible.record.fields}
    context: dict[str, Any] = {"arguments": shown}
    if "untrusted" in looked_at:
        context["untrusted"] = sorted(request.untrusted)
    if "actions" in looked_at:
        context["actions"] = request.actions
    if "leaks" in looked_at:
        context["leaks"] = sorted(request.leaks)
    if "plan" in looked_at:
        context["plan"] = sorted(request.plan)
    if "undoing" in looked_at:
        context["undoing"] = request.undoing
    if SPENT in looked_at:
        context["spent"] = _spent(request, tool, held)
    if "now" in looked_at:
        context["now"] = {"__extn": {"fn": "datetime", "arg": _moment(request.now_ns)}}
    return context, unheld


def _wanted(tool: Arguments, looked_at: frozenset[str]) -> list[str]:
    spent = tool.money if SPENT in looked_at else ()
    return [name for name in tool.record.fields if argument(name) in looked_at or name in spent]


def unknown_in(request: Request, tool: Arguments) -> frozenset[str]:
    """Return what rules cannot look at yet."""
    if not request.unknown:
        return request.unknown
    found = {ARGUMENTS, *(argument(name) for name in request.unknown)}
    known = request.unknown.isdisjoint(tool.money) and request.unknown.isdisjoint(tool.within)
    return frozenset(found if known else {*found, SPENT})


def _spent(request: Request, tool: Arguments, held: Mapping[str, Any]) -> int:
    """Return what the run has spent in the currency of the action's money; of several, the most."""
    amounts = [held[name] for name in tool.money if name in held]
    for name, default in tool.within.items():
        amounts += cedar_schema.amounts_within(request.arguments.get(name, default))
    return max((request.spent.get(str(amount.get("currency")), 0) for amount in amounts), default=0)


def _moment(now_ns: int) -> str:
    moment = _EPOCH + timedelta(microseconds=now_ns // 1_000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1_000:03}Z"


def entities_of(contracts: Iterable[tool_pb2.ToolContract]) -> list[dict[str, Any]]:
    """Return tools, toolboxes and actions, each in its groups."""
    found = [entity("Action", group, []) for group in sorted(cedar_schema.GROUPS)]
    toolboxes = set()
    for contract in contracts:
        groups = cedar_schema.groups_of(cedar_schema.level_of(contract))
        found.append(entity("Action", contract.name, [uid("Action", group) for group in groups]))
        toolbox = uid("Toolbox", contract.toolbox)
        found.append(entity("Tool", contract.name, [toolbox], cedar_schema.attributes_of(contract)))
        toolboxes.add(contract.toolbox)
    return found + [entity("Toolbox", name, []) for name in sorted(toolboxes)]


def entity(
    kind: str, name: str, parents: list[dict[str, str]], attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an entity as the engine reads it."""
    return {"uid": uid(kind, name), "attrs": attributes or {}, "parents": parents}


def uid(kind: str, name: str) -> dict[str, str]:
    """Return the name of an entity as the engine reads it."""
    return {"type": kind, "id": name}
