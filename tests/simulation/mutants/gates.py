"""Mistakes about who must approve what, and about what an approval is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from core import gates, run
from core.course import Course
from core.moves import Decide
from core.permits import Grounds
from core.policy import ALLOWED, MAX_QUORUM
from core.rules import Rules
from core.state import Decision, RunState, evolve
from handrail.v1 import event_pb2
from tests.simulation.mutants.planting import Patch, handling, planted

DENY = event_pb2.GATE_CHOICE_DENY
VOID = event_pb2.GATE_OUTCOME_VOID


def _judged(change: Callable[[Any], Any]) -> Patch:
    """Judge a gate as if it were another."""
    judge = gates.judge
    return patch.object(gates, "judge", lambda state, gate, *rest: judge(state, change(gate), *rest))


def _decided(change: Callable[[RunState, Any, event_pb2.Decide], Any]) -> Patch:
    """Fold a decision as if the run, or what was said, were another; where that is a stray, it stays one."""
    on_decide = run.HANDLERS["decide"][1]

    def handler(state: Any, record: Any, body: event_pb2.Decide) -> Any:
        gate = state.gates.get(body.gate)
        return on_decide(state, record, body) if gate is None else change(state, record, body)

    return handling("decide", handler)


def _held(change: Callable[[Any, Any], Any]) -> Patch:
    """Hold an action back as if its instance were another."""
    ask_policy = Course._ask_policy

    def held(self: Any, instance: Any, *rest: Any) -> Any:
        return ask_policy(self, change(self.state, instance), *rest)

    return patch.object(Course, "_ask_policy", held)


@planted(within=150, policies=True)
def gates_are_for_first_attempts() -> Patch:
    """What is tried again needs no approval, whatever has changed since."""
    ask_policy = Course._ask_policy

    def lax(self: Any, instance: Any, *rest: Any) -> Any:
        tried = any(attempt.action is not None for attempt in instance.attempts)
        return Grounds(self.rules.policy.version) if tried else ask_policy(self, instance, *rest)

    return patch.object(Course, "_ask_policy", lax)


@planted(within=150, policies=True)
def one_person_is_a_quorum() -> Patch:
    """Who approves twice counts twice."""
    on_decide = run.HANDLERS["decide"][1]

    def counting(state: RunState, record: Any, body: event_pb2.Decide) -> Any:
        gate, changed = state.gates[body.gate], on_decide(state, record, body)
        again = any(one.message.approver == body.approver for one in gate.decisions)
        if changed is not None or not again or gate.closed or body.binding != gate.opened.binding:
            return changed
        more = evolve(gate, decisions=(*gate.decisions, Decision(record.time_ns, body)))
        return evolve(state, gates={**state.gates, body.gate: more})

    return _decided(counting)


@planted(within=150, policies=True)
def any_binding_will_do() -> Patch:
    """A decision counts whatever it was made about."""
    on_decide = run.HANDLERS["decide"][1]

    def trusting(state: RunState, record: Any, body: event_pb2.Decide) -> Any:
        copy = event_pb2.Decide()
        copy.CopyFrom(body)
        copy.binding = state.gates[body.gate].opened.binding
        return on_decide(state, record, copy)

    return _decided(trusting)


@planted(within=150, policies=True)
def closed_gates_are_decided_again() -> Patch:
    """A decision that comes after the end of a gate opens it once more."""
    on_decide = run.HANDLERS["decide"][1]

    def again(state: RunState, record: Any, body: event_pb2.Decide) -> Any:
        gate = evolve(state.gates[body.gate], closed=None)
        return on_decide(evolve(state, gates={**state.gates, body.gate: gate}), record, body)

    return _decided(again)


@planted(within=150, policies=True)
def late_approvals_count() -> Patch:
    """An approval counts though it came after the end of the gate."""
    return _judged(
        lambda gate: evolve(gate, decisions=tuple(replace(one, time_ns=0) for one in gate.decisions))
    )


@planted(within=150, policies=True)
def denials_need_to_be_first() -> Patch:
    """Where one of two has approved, the denial of another is not heard."""

    def deaf(gate: Any) -> Any:
        first = gate.decisions[:1]
        kept = tuple(one for one in gate.decisions[1:] if one.message.choice != DENY)
        return evolve(gate, decisions=(*first, *kept))

    return _judged(deaf)


@planted(within=50, policies=True)
def quorums_are_of_one() -> Patch:
    """One approval is enough for everything."""

    def alone(gate: Any) -> Any:
        opened = event_pb2.GateOpened()
        opened.CopyFrom(gate.opened)
        opened.quorum = 1
        return evolve(gate, opened=opened)

    return _judged(alone)


@planted(within=50, policies=True)
def anybody_may_approve() -> Patch:
    """Nobody is asked who may decide."""
    return patch.object(Rules, "may_decide", lambda self, gate, who, contents: ALLOWED)


@planted(within=400, policies=True)
def approvers_of_one_item_approve_all() -> Patch:
    """Of a fan-out, who may decide about its first item may decide about every other."""
    may_decide = Rules.may_decide

    def hasty(self: Any, gate: Any, *rest: Any) -> Any:
        opened = event_pb2.GateOpened()
        opened.CopyFrom(gate.opened)
        del opened.items[1:]
        return may_decide(self, evolve(gate, opened=opened), *rest)

    return patch.object(Rules, "may_decide", hasty)


@planted(within=150, policies=True)
def policies_do_not_void() -> Patch:
    """What waits under an older policy is decided under that."""
    judge = gates.judge

    def faithful(state: Any, gate: Any, bench: Any, version: str, *rest: Any) -> Any:
        return judge(state, gate, bench, gate.opened.policy, *rest)

    return patch.object(gates, "judge", faithful)


@planted(within=50, policies=True)
def silence_is_consent() -> Patch:
    """What nobody has decided in time is done."""
    judge = gates.judge

    def consenting(state: Any, gate: Any, *rest: Any) -> Any:
        said = judge(state, gate, *rest)
        expired = any(
            isinstance(move, Decide) and move.body.outcome == event_pb2.GATE_OUTCOME_EXPIRED for move in said
        )
        return [gates.close(gate, event_pb2.GATE_OUTCOME_APPROVED)] if expired else said

    return patch.object(gates, "judge", consenting)


class _Everything(dict[str, str]):
    """All that can be approved, at the first gate."""

    def get(self, binding: str, default: Any = None) -> Any:
        return "g1"


@planted(within=150, policies=True)
def void_is_approved() -> Patch:
    """What waited at a gate that is void may be done."""

    def easy(state: RunState, instance: Any) -> Any:
        closed = [gate for gate in state.gates.values() if gate.closed and gate.closed.outcome == VOID]
        voided = any(item.step == instance.id for gate in closed for item in gate.opened.items)
        return replace(instance, approved=_Everything()) if voided else instance

    @contextmanager
    def both() -> Iterator[None]:
        # However many the rules ask for.
        with _held(easy), patch("core.course.approvals", lambda gate: MAX_QUORUM):
            yield

    return both()


def _bound_without(field: str) -> Patch:
    """Bind what is gated to all but one thing."""
    item = gates.item

    def loose(state: Any, step: str, request: Any, version: str, *rest: Any) -> event_pb2.GateItem:
        found = item(state, step, request, version, *rest)
        parts = {"step": step, "version": version, "request": request}
        parts[field] = replace(request, arguments={}) if field == "request" else ""
        found.binding = item(state, parts["step"], parts["request"], parts["version"], *rest).binding
        return found

    return patch.object(gates, "item", loose)


@planted(within=150, policies=True)
def approvals_outlive_their_policy() -> Patch:
    """What was approved under an older policy is approved under every other."""
    return _bound_without("version")


@planted(within=1000, policies=True)
def approvals_are_shared() -> Patch:
    """What was approved for one step is approved for every other that does the same."""

    def shared(state: RunState, instance: Any) -> Any:
        all_of_them = {b: gate for one in state.instances.values() for b, gate in one.approved.items()}
        return replace(instance, approved=all_of_them)

    @contextmanager
    def both() -> Iterator[None]:
        with _bound_without("step"), _held(shared):
            yield

    return both()


@planted(within=50, policies=True)
def denials_are_forgotten() -> Patch:
    """What was denied is asked about again."""
    return _held(lambda state, instance: replace(instance, denied=""))


@planted(within=150)
def doubts_are_asked_about_again() -> Patch:
    """A doubt that somebody has given up, or that nobody has settled in time, is asked about once more."""
    meet_doubt = Course._meet_doubt

    def stubborn(self: Any, instance: Any) -> Any:
        return meet_doubt(self, replace(instance, denied=""))

    return patch.object(Course, "_meet_doubt", stubborn)


@planted(within=400)
def what_happened_is_done_again() -> Patch:
    """Where somebody says of a doubt that it happened, it is done again."""
    on_closed = run.HANDLERS["gate_closed"][1]

    def again(state: Any, record: Any, body: event_pb2.GateClosed) -> Any:
        copy = event_pb2.GateClosed()
        copy.CopyFrom(body)
        if body.outcome == event_pb2.GATE_OUTCOME_HAPPENED:
            copy.outcome = event_pb2.GATE_OUTCOME_REPEAT
        return on_closed(state, record, copy)

    return handling("gate_closed", again)


@planted(within=50, policies=True)
def refusals_are_ignored() -> Patch:
    """What the policy refuses is done, if nobody has to approve it."""
    rule = Rules.rule

    def deaf(self: Any, *rest: Any, **named: Any) -> Any:
        ruling = rule(self, *rest, **named)
        return ALLOWED if ruling.outcome == "refuse" else ruling

    return patch.object(Rules, "rule", deaf)


@planted(within=400, policies=True)
def chains_run_ahead_of_policies() -> Patch:
    """A read is asked for with its chain though the policy cannot say yet what it says of it."""
    rule = Rules.rule

    def hasty(self: Any, *rest: Any, **named: Any) -> Any:
        return replace(rule(self, *rest, **named), open=False)

    return patch.object(Rules, "rule", hasty)


@planted(within=150, policies=True)
def gates_outlive_a_cancel() -> Patch:
    """A run that was cancelled goes on where somebody approves."""
    ending = Course._ending

    def blind(self: Any) -> Any:
        known = self.state
        if known.cancel is not None and known.gates:
            self.state = evolve(known, cancel=None)
        found = ending(self)
        self.state = known
        return found

    return patch.object(Course, "_ending", blind)
