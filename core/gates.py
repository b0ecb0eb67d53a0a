"""Gates: what waits for a human, and what becomes of it. Pure, over the state and the policy of the moment.

A gate is for exact actions. What is approved is a binding, and a binding is all that an action is made of; so
an approval is worth nothing for an action that has changed since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from core import failures, values
from core.errors import HandrailError
from core.moves import Arm, Decide, Move, note
from core.policy import Request, Ruling
from core.shape import shape_of
from core.state import Gate, RunState
from handrail.v1 import event_pb2, plan_pb2

LIFE_NS = 24 * 3_600 * 1_000_000_000
MAX_ITEMS = 100
"""Of one gate; more of a fan-out are other gates."""
MAX_GATE_BYTES = 512 * 1024

CHOICES: Mapping[int, frozenset[int]] = {
    event_pb2.GATE_KIND_ACTION: frozenset(
        (
            event_pb2.GATE_CHOICE_APPROVE,
            event_pb2.GATE_CHOICE_DENY,
            event_pb2.GATE_CHOICE_AMEND,
            event_pb2.GATE_CHOICE_DELEGATE,
        )
    ),
    event_pb2.GATE_KIND_DOUBT: frozenset(
        (
            event_pb2.GATE_CHOICE_HAPPENED,
            event_pb2.GATE_CHOICE_REPEAT,
            event_pb2.GATE_CHOICE_DENY,
            event_pb2.GATE_CHOICE_DELEGATE,
        )
    ),
}
"""What can be said at a gate of each kind."""
REFUSED = frozenset((event_pb2.GATE_OUTCOME_DENIED, event_pb2.GATE_OUTCOME_EXPIRED))
"""What becomes of a gate where the answer is no."""
_APPROVED = frozenset((event_pb2.GATE_OUTCOME_APPROVED, event_pb2.GATE_OUTCOME_AMENDED))
_SETTLED: Mapping[int, event_pb2.GateOutcome.ValueType] = {
    event_pb2.GATE_CHOICE_HAPPENED: event_pb2.GATE_OUTCOME_HAPPENED,
    event_pb2.GATE_CHOICE_REPEAT: event_pb2.GATE_OUTCOME_REPEAT,
}


@dataclass(frozen=True, slots=True)
class Gated:
    """An action about which somebody must decide, and why."""

    item: event_pb2.GateItem
    ruling: Ruling


def item(
    state: RunState, step: str, request: Request, version: str, missing: Collection[str] = ()
) -> event_pb2.GateItem:
    """Return an action as a gate has it, bound to all that it is made of, and to what it is `missing`."""
    assert state.plan is not None
    made_of = {
        "plan": shape_of(state.plan).digest,
        "step": step,
        "tool": request.contract.name,
        "arguments": values.arguments_digest(request.arguments),
        "untrusted": sorted(request.untrusted),
        # Left out where there are none, so that a binding of before there were any holds.
        **({"leaks": sorted(request.leaks)} if request.leaks else {}),
        **({"missing": sorted(missing)} if missing else {}),
        "policy": version,
    }
    found = event_pb2.GateItem(
        step=step,
        tool=request.contract.name,
        binding=values.digest(values.encode(made_of)),
        untrusted=sorted(request.untrusted),
        leaks=sorted(request.leaks),
        missing=sorted(missing),
    )
    for name, value in request.arguments.items():
        found.arguments[name].CopyFrom(values.inline(value))
    return found


def open_gates(
    state: RunState,
    gated: Mapping[str, Sequence[Gated]],
    doubts: Sequence[Gated],
    version: str,
    expires_ns: int,
    submitter: str = "",
) -> list[Move]:
    """Open a gate for the actions of each step, where they are many several, and one for each doubt.

    `submitter` is in whose name they are done, where that is not the run's.
    """
    action, doubt = event_pb2.GATE_KIND_ACTION, event_pb2.GATE_KIND_DOUBT
    wanted = [(action, step, some) for step, actions in gated.items() for some in _bounded(actions)]
    wanted += [(doubt, state.instances[one.item.step].step, [one]) for one in doubts]
    moves: list[Move] = []
    for number, (kind, step, some) in enumerate(wanted, start=len(state.gates) + 1):
        body = event_pb2.GateOpened(
            gate=f"g{number}", kind=kind, step=step, items=[one.item for one in some], policy=version
        )
        body.submitter = submitter
        body.quorum = max(one.ruling.quorum for one in some)
        # A dictionary, for the order in which they were found.
        reasons = {(r.rule, r.text): None for one in some for r in one.ruling.reasons}
        body.reasons.extend(event_pb2.Reason(rule=rule, text=text) for rule, text in reasons)
        body.binding = hashlib.sha256("".join(i.binding for i in body.items).encode()).hexdigest()
        body.expires.FromNanoseconds(expires_ns)
        moves.append(note("gate_opened", body))
    return moves


def _bounded(wanted: Sequence[Gated]) -> list[list[Gated]]:
    """Split what is too much for one event."""
    parts: list[list[Gated]] = []
    size = 0
    for one in wanted:
        size += one.item.ByteSize()
        # What something is missing of can only be amended by itself.
        alone = bool(one.item.missing) or (parts and bool(parts[-1][-1].item.missing))
        if not parts or alone or len(parts[-1]) >= MAX_ITEMS or size > MAX_GATE_BYTES:
            parts.append([])
            size = one.item.ByteSize()
        parts[-1].append(one)
    return parts


@dataclass(frozen=True, slots=True)
class Amendment:
    """An action as somebody would have it, and what the rules make of it."""

    arguments: Mapping[str, plan_pb2.Value]
    binding: str
    ruling: Ruling


class CannotAmend(HandrailError):
    """Why an action cannot be done with the arguments that somebody wants; `violations` of its schema."""

    def __init__(self, text: str, violations: Sequence[plan_pb2.Violation] = ()) -> None:
        super().__init__(text)
        self.violations = tuple(violations)


class Bench(Protocol):
    """Who may decide about a gate, as the policy is now."""

    def may_decide(self, gate: Gate, who: str, contents: Mapping[str, str]) -> Ruling:
        """Say whether somebody may decide about what a gate is for."""

    def amend(self, gate: Gate, said: event_pb2.Decide, contents: Mapping[str, str]) -> Amendment:
        """Return what an amendment comes to; raises CannotAmend where it may not be."""


def requester(state: RunState, gate: Gate) -> str:
    """Return in whose name that would be done what waits."""
    return gate.opened.submitter or state.goal.submitter


def deputies(state: RunState, gate: Gate, may_decide: Callable[[str], Ruling]) -> dict[str, str]:
    """Return who may decide in somebody's stead, and in whose."""
    found: dict[str, str] = {}
    decided: set[str] = set()
    for decision in gate.decisions:
        said = decision.message
        is_in_time = decision.time_ns < gate.opened.expires.ToNanoseconds()
        if said.choice == event_pb2.GATE_CHOICE_DELEGATE and said.delegate and is_in_time:
            given_away = said.delegate == requester(state, gate) or said.approver in found
            # What somebody said before was said in nobody's stead.
            if (
                not given_away
                and said.delegate not in decided
                and may_decide(said.approver).outcome == "allow"
            ):
                found.setdefault(said.delegate, said.approver)
        decided.add(said.approver)
    return found


def judge(
    state: RunState, gate: Gate, bench: Bench, version: str, now_ns: int, contents: Mapping[str, str]
) -> list[Move]:
    """Return what becomes of an open gate: it is closed, or looked at again when its time is over.

    `version` is that of the policy now; raises NotLoaded for large values.
    """
    void = _void(state, gate, version)
    if not void:
        try:
            return _judge(state, gate, bench, now_ns, contents)
        except values.BadValue as error:
            void = f"what it is for cannot be read any more: {error}"
    return [close(gate, event_pb2.GATE_OUTCOME_VOID, reason=void)]


def _judge(state: RunState, gate: Gate, bench: Bench, now_ns: int, contents: Mapping[str, str]) -> list[Move]:
    """Return what becomes of a gate that is still about something; raises BadValue for what is not whole."""
    opened, expires_ns = gate.opened, gate.opened.expires.ToNanoseconds()
    standing = deputies(state, gate, lambda who: bench.may_decide(gate, who, contents))
    approvers: list[str] = []
    for decision in gate.decisions:
        said = decision.message
        # Whose right it is that is used.
        by = standing.get(said.approver, said.approver)
        if said.choice == event_pb2.GATE_CHOICE_DELEGATE or decision.time_ns >= expires_ns:
            continue
        if said.choice == event_pb2.GATE_CHOICE_AMEND:
            with suppress(CannotAmend):
                return [_amend(gate, said, bench.amend(gate, said, contents))]
            continue
        if bench.may_decide(gate, by, contents).outcome != "allow":
            continue
        if said.choice == event_pb2.GATE_CHOICE_DENY:
            return [close(gate, event_pb2.GATE_OUTCOME_DENIED, [said.approver], reason=said.reason)]
        if opened.kind == event_pb2.GATE_KIND_DOUBT:
            if said.choice == event_pb2.GATE_CHOICE_REPEAT and _is_judged(state, gate):
                return []
            return [_settle(gate, said)]
        if missing(opened):
            continue
        approvers.append(said.approver)
        if len(approvers) >= opened.quorum:
            return [close(gate, event_pb2.GATE_OUTCOME_APPROVED, approvers)]
    if now_ns >= expires_ns:
        reason = f"nobody decided at gate {opened.gate} in time"
        return [close(gate, event_pb2.GATE_OUTCOME_EXPIRED, reason=reason)]
    return [Arm(f"gate-{opened.gate}", expires_ns)]


def _void(state: RunState, gate: Gate, version: str) -> str:
    """Say why a gate is about nothing any more; "" where it is not."""
    items = gate.opened.items
    if gate.opened.kind == event_pb2.GATE_KIND_DOUBT:
        cleared_up = state.instances[items[0].step].settled != "in_doubt"
        return "the doubt has been cleared up" if cleared_up else ""
    if gate.opened.policy != version:
        return "the policy has changed"
    settled = all(state.instances[found.step].settled for found in items)
    return "an earlier attempt was answered after all" if settled else ""


def _is_judged(state: RunState, gate: Gate) -> bool:
    """Whether the answer came late and the verifier looks at it: to repeat it now might do it twice."""
    current = state.instances[gate.opened.items[0].step].current
    if current is None or state.is_past(current):
        return False
    return current.can_be_judged and current.verdict is None


def _amend(gate: Gate, said: event_pb2.Decide, amendment: Amendment) -> Decide:
    """Close a gate with the action as somebody wants it; who amends has approved, if one is enough."""
    closed = close(gate, event_pb2.GATE_OUTCOME_AMENDED, [said.approver], reason=said.reason)
    assert isinstance(closed.body, event_pb2.GateClosed)
    for name, value in amendment.arguments.items():
        closed.body.arguments[name].CopyFrom(value)
    if amendment.ruling.outcome == "allow" or amendment.ruling.quorum <= 1:
        closed.body.binding = amendment.binding
    return closed


def close(
    gate: Gate, outcome: event_pb2.GateOutcome.ValueType, by: Sequence[str] = (), *, reason: str = ""
) -> Decide:
    """Close a gate."""
    body = event_pb2.GateClosed(gate=gate.opened.gate, outcome=outcome, approvers=by, reason=reason)
    return note("gate_closed", body)


def approvals(gate: Gate) -> int:
    """Return how many have approved what a gate was for."""
    closed = gate.closed
    approved = closed is not None and closed.outcome in _APPROVED
    return len(set(closed.approvers)) if closed is not None and approved else 0


def _settle(gate: Gate, said: event_pb2.Decide) -> Decide:
    """Close a doubt as somebody has settled it."""
    closed = close(gate, _SETTLED[said.choice], [said.approver], reason=said.reason)
    if said.choice == event_pb2.GATE_CHOICE_HAPPENED:
        assert isinstance(closed.body, event_pb2.GateClosed)
        closed.body.output.CopyFrom(said.output if said.HasField("output") else values.inline(None))
    return closed


def denial(gate: Gate) -> event_pb2.Failure:
    """Say why what waited at a gate is given up; it is, when it would be done and not before."""
    closed = gate.closed or event_pb2.GateClosed()
    if closed.outcome == event_pb2.GATE_OUTCOME_EXPIRED:
        return failures.permanent(failures.GATE_EXPIRED, closed.reason)
    why = f": {closed.reason}" if closed.reason else ""
    who = ", ".join(closed.approvers)
    return failures.permanent(failures.DENIED, f"{who} denied it at gate {gate.opened.gate}{why}")


def missing(opened: event_pb2.GateOpened) -> list[str]:
    """Return what has to be said before what waits can be approved."""
    return sorted({name for item in opened.items for name in item.missing})


def arguments_of(item: event_pb2.GateItem, contents: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a gated action; raises NotLoaded for large ones."""
    return {name: values.load(value, contents) for name, value in item.arguments.items()}
