"""What must hold of policies and gates: one function for each promise.

All of it is told from the log and from the policy that the decider asked, and nothing from `core.gates` and
`core.rules`, nor from what the fold makes of decisions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core import values
from core.labels import CHOICE, EACH, WHEN, labels_of
from core.policy import Policy, Request, Ruling
from core.state import RunState
from handrail.v1 import event_pb2, plan_pb2
from tests.simulation import undos
from tests.simulation.policies import DrawnPolicy
from tests.simulation.watch import Closing, GateWatch, Invariant, Look, RunWatch, Said
from tests.simulation.world import Effect

APPROVED, DENIED = event_pb2.GATE_OUTCOME_APPROVED, event_pb2.GATE_OUTCOME_DENIED
EXPIRED, VOID = event_pb2.GATE_OUTCOME_EXPIRED, event_pb2.GATE_OUTCOME_VOID
HAPPENED, REPEAT = event_pb2.GATE_OUTCOME_HAPPENED, event_pb2.GATE_OUTCOME_REPEAT
DOUBT = event_pb2.GATE_KIND_DOUBT
_DENY = event_pb2.GATE_CHOICE_DENY
_DOUBTFUL = {event_pb2.GATE_CHOICE_HAPPENED: HAPPENED, event_pb2.GATE_CHOICE_REPEAT: REPEAT, _DENY: DENIED}
_Arguments = Mapping[str, plan_pb2.Value]


def _loaded(arguments: _Arguments) -> dict[str, Any]:
    return {name: values.load(value, {}) for name, value in arguments.items()}


def _untrusted(state: RunState, step: str) -> frozenset[str]:
    """Return what of an instance's arguments nobody who is trusted has written."""
    assert state.plan is not None
    labels = labels_of(state.plan, state.contracts)
    if not undos.is_compensation(step):
        of_action = labels.of_action(state.instances[step].step)
        return frozenset(name for name, label in of_action.items() if label.untrusted)
    undone = state.instances[step.removeprefix(undos.PREFIX)]
    tool = next(a.action.tool for a in reversed(undone.attempts) if a.is_act and a.claimer and a.action)
    asked = labels.of_action(undone.step)
    # What is made of what was read, or of what a tool of the simulation returned, nobody has endorsed.
    names = ("who", "n", WHEN, EACH, CHOICE)
    found = {name for name in names if name in asked and asked[name].untrusted}
    return frozenset(found | ({"n"} if tool in undos.OF_OUTPUT else set()) | _READ.get(tool, set()))


_READ = {"place": {"was"}}
"""By tool, what its undo takes from what was read before."""


def _user(run: RunWatch, step: str) -> str:
    """Return in whose name something is done: an undo in that of whoever undoes."""
    undo = run.undone_by(step) if undos.is_compensation(step) else None
    asked = undo.asked.submitter if undo is not None and undo.asked is not None else ""
    return asked or run.state.goal.submitter


def _request(
    run: RunWatch,
    step: str,
    tool: str,
    arguments: Mapping[str, Any],
    untrusted: Iterable[str],
    unknown: Iterable[str] = (),
) -> Request:
    state = run.state
    return Request(
        user=_user(run, step),
        tenant=state.key.tenant,
        contract=state.contracts[tool],
        arguments=arguments,
        unknown=frozenset(unknown),
        untrusted=frozenset(untrusted),
    )


def _ruling(look: Look) -> Ruling | None:
    """Return what the decider's policy says of the action that is being authorised; None of anything else."""
    if look.arm != "action" or look.event.action.kind != event_pb2.ACTION_KIND_ACT or look.basis is None:
        return None
    action, state = look.event.action, look.before
    if action.step not in state.instances or not isinstance(look.basis.policy, DrawnPolicy):
        return None
    untrusted = _untrusted(state, action.step)
    return look.basis.policy.rule(
        _request(look.run, action.step, action.tool, _loaded(action.arguments), untrusted, action.pending)
    )


def standing(
    run: RunWatch, gate: GateWatch, said: Iterable[Said], policy: Policy
) -> tuple[event_pb2.GateOutcome.ValueType | None, list[str]]:
    """Return what so many decisions make of a gate, and who has made it: the first that suffices counts.

    The first word of everybody stands, if it is about this gate as it is, was durable before the gate's end,
    and the policy lets them decide about each of its actions.
    """
    opened, heard, approvers = gate.opened, set[str](), list[str]()
    for one in said:
        body = one.body
        if one.sequence < gate.sequence or (body.gate, body.binding) != (opened.gate, opened.binding):
            continue
        choices = _DOUBTFUL if opened.kind == DOUBT else (event_pb2.GATE_CHOICE_APPROVE, _DENY)
        if body.choice not in choices or not body.approver or body.approver in heard:
            continue
        heard.add(body.approver)
        if one.time_ns >= opened.expires.ToNanoseconds() or not _may(run, gate, body.approver, policy):
            continue
        if opened.kind == DOUBT:
            return _DOUBTFUL[body.choice], [body.approver]
        if body.choice == _DENY:
            return DENIED, [body.approver]
        approvers.append(body.approver)
        if len(approvers) >= opened.quorum:
            return APPROVED, approvers
    return None, approvers


def _may(run: RunWatch, gate: GateWatch, who: str, policy: Policy) -> bool:
    requests = (_request(run, i.step, i.tool, _loaded(i.arguments), i.untrusted) for i in gate.opened.items)
    return all(policy.may_decide(who, request).outcome == "allow" for request in requests)


def _fits(state: RunState, item: event_pb2.GateItem, action: event_pb2.Action) -> bool:
    """Whether what was shown at a gate is what an action does, whichever step it is for."""
    if item.step not in state.instances or item.tool != action.tool:
        return False
    untrusted = _untrusted(state, action.step)
    return _loaded(item.arguments) == _loaded(action.arguments) and set(item.untrusted) == untrusted


def _approvals(
    run: RunWatch, state: RunState, action: event_pb2.Action, ruling: Ruling, policy: Policy
) -> Iterator[tuple[str, event_pb2.GateItem]]:
    """Yield what was shown at gates that let an action pass, and where."""
    undo = run.undone_by(action.step) if undos.is_compensation(action.step) else None
    for name, gate in run.gates.items():
        closing = next((c for c in gate.closings if c.body.outcome == APPROVED), None)
        if closing is None or gate.opened.policy != policy.version:
            continue
        if undo is not None and gate.sequence < undo.sequence:
            # It was approved for somebody else who undid it, or another time.
            continue
        outcome, approvers = standing(run, gate, _until(run, closing), closing.policy)
        if outcome == APPROVED and len(set(approvers)) >= ruling.quorum:
            yield from ((name, item) for item in gate.opened.items if _fits(state, item, action))


def _until(run: RunWatch, closing: Closing) -> list[Said]:
    return [one for one in run.said if one.sequence < closing.sequence]


# --- the promises ----------------------------------------------------------------------------------


def actions_are_approved(look: Look) -> Iterator[str]:
    """What needs a human is authorised with enough standing approvals of exactly that; its permit says so."""
    ruling = _ruling(look)
    if ruling is None or ruling.outcome != "gate" or look.basis is None:
        return
    action = look.event.action
    found = list(_approvals(look.run, look.before, action, ruling, look.basis.policy))
    if not found:
        yield f"{action.attempt} is authorised, and {ruling.quorum} had to approve it"
    elif (action.permit.gate, action.permit.binding) not in [(gate, item.binding) for gate, item in found]:
        yield f"{action.attempt} is permitted by {action.permit.gate}, where it was not approved"


def approvals_serve_one(look: Look) -> Iterator[str]:
    """An approval serves the one instance for which it was given, and its retries."""
    ruling = _ruling(look)
    if ruling is None or ruling.outcome != "gate" or look.basis is None:
        return
    action = look.event.action
    served = {i.step for _, i in _approvals(look.run, look.before, action, ruling, look.basis.policy)}
    if served and action.step not in served:
        yield f"{action.attempt} is authorised by what was approved for {', '.join(sorted(served))}"


def refusals_hold(look: Look) -> Iterator[str]:
    """What the policy refuses is not authorised, nor what it cannot say before more is known."""
    ruling = _ruling(look)
    if ruling is None:
        return
    if ruling.outcome == "refuse":
        yield f"{look.event.action.attempt} is authorised, and the policy refuses it"
    elif ruling.open:
        yield f"{look.event.action.attempt} is authorised before it is known what the policy says of it"


def gates_close_once(look: Look) -> Iterator[str]:
    """A gate is opened once and closed once, and nobody waits at two."""
    if not look.is_decision or not look.counts:
        return
    if look.arm == "gate_closed":
        gate = look.run.gates.get(look.event.gate_closed.gate)
        if gate is None or gate.closings:
            yield f"{look.event.gate_closed.gate} is closed, and {'was before' if gate else 'was never open'}"
        elif look.event.gate_closed.gate not in look.run.waiting:
            yield f"{look.event.gate_closed.gate} is closed, and nothing has waited there"
    elif look.arm == "gate_opened":
        opened = look.event.gate_opened
        if opened.gate in look.run.gates:
            yield f"{opened.gate} is opened again"
        wanted = {item.step for item in opened.items}
        for name in look.run.waiting:
            if wanted & {item.step for item in look.run.gates[name].opened.items}:
                yield f"{opened.gate} is for what waits at {name}"


def decisions_count_where_something_waits(look: Look) -> Iterator[str]:
    """What is said at a gate counts for nothing where nothing waits any more."""
    if look.arm == "decide" and look.counts and look.event.decide.gate not in look.run.waiting:
        yield f"{look.event.decide.approver} decides at {look.event.decide.gate}, where nothing waits"


def gates_close_for_a_reason(look: Look) -> Iterator[str]:
    """A gate ends as its decisions, its time and the policy have it, and says who decided."""
    if look.arm != "gate_closed" or look.basis is None or not look.counts:
        return
    closed, policy = look.event.gate_closed, look.basis.policy
    gate = look.run.gates.get(closed.gate)
    if gate is None:
        return
    said = [one for one in look.run.said if one.sequence < look.record.sequence]
    outcome, who = standing(look.run, gate, said, policy)
    if closed.outcome in (APPROVED, DENIED, HAPPENED, REPEAT):
        if gate.opened.policy != policy.version and gate.opened.kind != DOUBT:
            yield f"{closed.gate} is decided under {policy.version}, and is of {gate.opened.policy}"
        if (closed.outcome, list(closed.approvers)) != (outcome, who):
            yield f"{closed.gate} is closed as {_said(closed)}, and what was said there is {outcome} by {who}"
    elif closed.outcome == EXPIRED:
        if outcome is not None or look.record.time_ns < gate.opened.expires.ToNanoseconds():
            yield f"{closed.gate} has expired before its time, or though {who} had decided"
    elif (gate.opened.policy == policy.version or gate.opened.kind == DOUBT) and not _is_moot(look, gate):
        yield f"{closed.gate} is void, and nothing has changed"


def _said(closed: event_pb2.GateClosed) -> str:
    return f"{event_pb2.GateOutcome.Name(closed.outcome)[13:].lower()} by {list(closed.approvers)}"


def _is_moot(look: Look, gate: GateWatch) -> bool:
    """Whether nobody waits at a gate any more: an earlier attempt was answered after all."""
    over = ("done", "failed", "skipped", *(("in_doubt",) if gate.opened.kind != DOUBT else ()))
    return any(
        all(view.instances[item.step].settled in over for item in gate.opened.items) for view in look.views
    )


def gates_are_bound(look: Look) -> Iterator[str]:
    """A gate is bound to its items, and is as the policy asks, or about a doubt."""
    if look.arm != "gate_opened" or look.basis is None:
        return
    opened, policy = look.event.gate_opened, look.basis.policy
    if opened.binding != hashlib.sha256("".join(i.binding for i in opened.items).encode()).hexdigest():
        yield f"{opened.gate} is bound to something else than its items"
    if len({item.binding for item in opened.items}) != len(opened.items):
        yield f"{opened.gate} has two items that cannot be told apart"
    if opened.kind == DOUBT:
        yield from _doubts_are_shown(opened, look)
        return
    if opened.policy != policy.version or not isinstance(policy, DrawnPolicy):
        yield f"{opened.gate} is of the policy {opened.policy}, and {policy.version} was asked"
        return
    for item in opened.items:
        ruling = policy.rule(
            _request(look.run, item.step, item.tool, _loaded(item.arguments), item.untrusted)
        )
        if ruling.outcome != "gate" or not 0 < ruling.quorum <= opened.quorum:
            yield f"{opened.gate} asks {opened.quorum} about {item.step}, and the policy says {ruling}"


def _doubts_are_shown(opened: event_pb2.GateOpened, look: Look) -> Iterator[str]:
    """A doubt is asked about where there is one, and with the action that may have happened.

    Of an undo also what was refused before it was ever tried, as it was planned.
    """
    undo = look.run.undo
    for item in opened.items:
        acted = [a.action for a in look.before.instances[item.step].attempts if a.is_act and a.action]
        planned = undo.planned if undo is not None else None
        for one in planned.compensations if planned is not None else ():
            if one.step.id == item.step:
                acted.append(event_pb2.Action(tool=one.step.tool))
                for name, held in one.step.arguments.items():
                    acted[-1].arguments[name].CopyFrom(held.constant)
        doubted = any(view.instances[item.step].settled == "in_doubt" for view in look.views)
        if len(opened.items) != 1 or not doubted:
            yield f"{opened.gate} asks about a doubt of {item.step}, which has none of its own"
        elif not any(a.tool == item.tool and dict(a.arguments) == dict(item.arguments) for a in acted):
            yield f"{opened.gate} shows {item.tool}, which {item.step} has not tried"


def denials_are_final(look: Look) -> Iterator[str]:
    """What somebody denied, or nobody approved in time, is neither done nor asked about again.

    Where it had been tried before and its doubt is surfaced, somebody may want it done again after all. Who
    undoes again asks again.
    """
    is_doubt = look.arm == "gate_opened" and look.event.gate_opened.kind == DOUBT
    if look.arm == "gate_opened":
        wanted = {item.step for item in look.event.gate_opened.items}
    elif look.arm == "action" and look.event.action.kind == event_pb2.ACTION_KIND_ACT:
        wanted = {look.event.action.step}
    else:
        return
    begun = look.run.undo.sequence if look.run.undo is not None else 0
    for name, gate in look.run.gates.items():
        if gate.sequence < begun:
            continue
        if any(closing.body.outcome in (DENIED, EXPIRED) for closing in gate.closings):
            if is_doubt and gate.opened.kind != DOUBT:
                continue
            for step in sorted((wanted & {item.step for item in gate.opened.items}) - look.run.wanted_again):
                yield f"{look.arm} of {step}, which was refused at {name}"


APPROVALS: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        actions_are_approved,
        approvals_serve_one,
        refusals_hold,
        gates_close_once,
        decisions_count_where_something_waits,
        gates_close_for_a_reason,
        gates_are_bound,
        denials_are_final,
    )
}


def effects_are_allowed(effect: Effect, watch: RunWatch | None) -> Iterator[str]:
    """Nothing happens that the policy under which it was authorised refuses, or lets nobody do alone."""
    charge = effect.charge
    policy = watch.policies.get(charge.attempt) if watch is not None else None
    if watch is None or not isinstance(policy, DrawnPolicy):
        return
    state = watch.state
    instance = state.instances[charge.step]
    action = next(a.action for a in instance.attempts if a.id == charge.attempt)
    assert action is not None
    done, untrusted = effect.arguments, _untrusted(state, charge.step)
    ruling = policy.rule(_request(watch, charge.step, charge.tool, done, untrusted))
    if ruling.outcome == "refuse":
        yield f"{charge.tool} of {done} happens, and the policy refuses it"
    if ruling.outcome == "gate":
        shown = [_loaded(i.arguments) for _, i in _approvals(watch, state, action, ruling, policy)]
        if done not in shown:
            yield f"{charge.tool} of {done} happens, and nobody has approved that"
