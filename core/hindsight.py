"""What a policy was asked in a run, told from its log: to explain a decision, or to try other rules on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core import run, values
from core.policy import Policy, Request
from core.ports import Record, RunKey
from core.rules import Rules
from handrail.v1 import event_pb2, plan_pb2

Became = Literal["authorised", "gate"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the policy was asked, and what became of the action then."""

    sequence: int
    # The step's instance.
    step: str
    request: Request
    became: Became
    # Where it waited, or was let pass.
    gate: str = ""
    # The arguments that somebody had written by then.
    amended: frozenset[str] = frozenset()
    # Why its own mind was not sure of it.
    unsure: str = ""


def asked(key: RunKey, records: Iterable[Record], policy: Policy) -> list[Asked]:
    """Return every question about an action that was authorised or had to wait, in the order of the log.

    What was refused is in the log by its reasons only: its arguments are nowhere.
    """
    found: list[Asked] = []
    state = run.initial(key)
    for record in records:
        for part in run.unbundled(record):
            before, state = state, run.apply_part(state, part)
            if part.event is None or not run.counted(before, state):
                continue
            rules = Rules(before, policy, part.time_ns, 0)
            if part.event.HasField("action") and part.event.action.kind == event_pb2.ACTION_KIND_ACT:
                found.append(_authorised(rules, part, part.event.action))
            elif part.event.HasField("gate_opened"):
                found += _waiting(rules, part, part.event.gate_opened)
    return found


def _authorised(rules: Rules, part: Record, action: event_pb2.Action) -> Asked:
    known, unknown = _known(action.arguments)
    request = _request(rules, action.step, action.tool, known, unknown | frozenset(action.pending))
    instance = rules.state.instances[action.step]
    gate, amended = action.permit.gate, frozenset(instance.amended)
    return Asked(part.sequence, action.step, request, "authorised", gate, amended, instance.unsure)


def _waiting(rules: Rules, part: Record, opened: event_pb2.GateOpened) -> list[Asked]:
    if opened.kind != event_pb2.GATE_KIND_ACTION:
        return []
    return [
        Asked(
            part.sequence,
            item.step,
            _request(rules, item.step, item.tool, known, unknown, frozenset(item.missing)),
            "gate",
            opened.gate,
            unsure=rules.state.instances[item.step].unsure,
        )
        for item in opened.items
        for known, unknown in (_known(item.arguments),)
    ]


def _request(
    rules: Rules,
    step: str,
    tool: str,
    known: Mapping[str, Any],
    unknown: frozenset[str],
    missing: frozenset[str] = frozenset(),
) -> Request:
    return rules.request(rules.state.instances[step], rules.state.contracts[tool], known, unknown, missing)


def _known(arguments: Mapping[str, plan_pb2.Value]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the values that the log holds; large ones lie elsewhere."""
    large = frozenset(name for name, value in arguments.items() if value.HasField("blob"))
    return {name: values.load(value, {}) for name, value in arguments.items() if name not in large}, large
