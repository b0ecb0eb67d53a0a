"""What the decider has written: asks, notes and revokes, and what they change in a run's state."""

from __future__ import annotations

from collections.abc import Mapping

from core import failures
from core.gates import REFUSED
from core.healing import RETRY_SAME_KEY
from core.instances import Handler, add_attempt, answered, change, find, put, settle
from core.plan import instance as instance_id
from core.ports import Record
from core.state import NOTHING, Attempt, Gate, Heal, Instance, RunState, Undo, Written, evolve
from core.undo import acted, happened
from handrail.v1 import event_pb2, tool_pb2

_UNDO_OVER = "the undo ended before anybody decided"


def _on_plan_ask(state: RunState, record: Record, body: event_pb2.PlanAsk) -> RunState | None:
    return evolve(state, plan_asks=state.plan_asks + 1, plan_answer=None)


def _on_plan_accepted(state: RunState, record: Record, body: event_pb2.PlanAccepted) -> RunState | None:
    if state.plan is not None:
        return None
    instances = {step.id: Instance(id=step.id, step=step.id) for step in body.plan.steps}
    return evolve(
        state,
        plan=body.plan,
        contracts=dict(body.contracts),
        outlook=tuple(body.outlook),
        instances=instances,
        open=frozenset(instances),
    )


def _on_plan_rejected(state: RunState, record: Record, body: event_pb2.PlanRejected) -> RunState | None:
    return evolve(state, violations=tuple(body.violations))


def _on_proposal_ask(state: RunState, record: Record, body: event_pb2.ProposalAsk) -> RunState | None:
    attempt = Attempt(
        id=body.attempt,
        number=0,
        pool=record.address.topic[2],
        sequence=record.sequence,
        asked_ns=record.time_ns,
        proposal_ask=body,
    )
    return add_attempt(state, body.step, attempt)


def _on_action(state: RunState, record: Record, body: event_pb2.Action) -> RunState | None:
    attempt = Attempt(
        id=body.attempt,
        number=0,
        pool=record.address.topic[2],
        sequence=record.sequence,
        asked_ns=record.time_ns,
        action=body,
    )
    if body.follows and (body.follows not in state.attempts or body.follows in state.followers):
        return None
    changed = add_attempt(state, body.step, attempt)
    if changed is None:
        return None
    if body.follows:
        changed = evolve(changed, followers={**changed.followers, body.follows: body.attempt})
    return evolve(changed, actions=changed.actions + 1)


def _on_verify_ask(state: RunState, record: Record, body: event_pb2.VerifyAsk) -> RunState | None:
    found = find(state, body.attempt)
    if found is None or found[1].result is None or body.round <= found[1].round_asked:
        return None
    instance, attempt = found
    changed = evolve(attempt, verdict=None, round_asked=body.round, ended_ns=0)
    return change(state, evolve(instance, heal=None), changed)


def _on_expanded(state: RunState, record: Record, body: event_pb2.Expanded) -> RunState | None:
    parent = state.instances.get(body.step)
    if parent is None or parent.index is not None or parent.count is not None or parent.settled:
        return None
    children = [Instance(id=instance_id(body.step, i), step=body.step, index=i) for i in range(body.count)]
    opened = state.open | {child.id for child in children}
    state = evolve(
        state, instances={**state.instances, **{child.id: child for child in children}}, open=opened
    )
    parent = evolve(parent, count=body.count, left=body.count)
    return put(state, parent if children else evolve(parent, settled="done"))


def _on_skipped(state: RunState, record: Record, body: event_pb2.Skipped) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled:
        return None
    return settle(state, evolve(instance, settled="skipped", reason=body.reason, heal=None))


def _on_step_failed(state: RunState, record: Record, body: event_pb2.StepFailed) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled not in ("", "in_doubt"):
        return None
    return put(state, evolve(instance, settled="failed", failure=body.failure, heal=None))


def _on_healed(state: RunState, record: Record, body: event_pb2.Healed) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled or instance.current is None:
        return None
    if instance.heal is not None or instance.current.id != body.attempt:
        return None
    if body.cause.code == failures.SILENT and instance.current.result is not None:
        # The answer came while the heal for its silence was on its way, and takes its place.
        return None
    heal = Heal(body.strategy, body.attempt, body.not_before.ToNanoseconds(), body.tool)
    state = evolve(state, heals=state.heals + 1)
    return put(state, evolve(instance, heal=heal, heals=(*instance.heals, body)))


def _on_in_doubt(state: RunState, record: Record, body: event_pb2.InDoubt) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled:
        return None
    return put(state, evolve(instance, settled="in_doubt", reason=body.why, heal=None))


def _on_proposal_refused(state: RunState, record: Record, body: event_pb2.ProposalRefused) -> RunState | None:
    found = find(state, body.attempt)
    if found is None or found[1].proposal is None or found[1].refused:
        return None
    return change(state, found[0], evolve(found[1], refused=tuple(body.violations)))


def _on_gate_opened(state: RunState, record: Record, body: event_pb2.GateOpened) -> RunState | None:
    waiting = [state.instances.get(item.step) for item in body.items]
    if not waiting or not body.gate or body.gate in state.gates:
        return None
    expected = "in_doubt" if body.kind == event_pb2.GATE_KIND_DOUBT else ""
    if any(one is None or one.settled != expected or one.gate for one in waiting):
        return None
    gate = Gate(sequence=record.sequence, opened_ns=record.time_ns, opened=body)
    state = evolve(state, gates={**state.gates, body.gate: gate})
    for item in body.items:
        state = put(state, evolve(state.instances[item.step], gate=body.gate))
    return state


def _on_gate_closed(state: RunState, record: Record, body: event_pb2.GateClosed) -> RunState | None:
    gate = state.gates.get(body.gate)
    if gate is None or gate.closed is not None or not body.outcome:
        return None
    state = evolve(state, gates={**state.gates, body.gate: evolve(gate, closed=body)})
    for item in gate.opened.items:
        instance = state.instances[item.step]
        approved, denied, amended = instance.approved, instance.denied, instance.amended
        if body.outcome == event_pb2.GATE_OUTCOME_APPROVED:
            approved = {**approved, item.binding: body.gate}
        elif body.outcome == event_pb2.GATE_OUTCOME_AMENDED:
            written = {name: Written(value, item.tool) for name, value in body.arguments.items()}
            amended = {**amended, **written}
            approved = {**approved, body.binding: body.gate} if body.binding else approved
        elif body.outcome in REFUSED:
            denied = body.gate
        instance = evolve(instance, gate="", approved=approved, denied=denied, amended=amended)
        if instance.settled == "in_doubt":
            state = _clear_up(state, record, instance, body)
        else:
            state = put(state, instance)
    return state


def _clear_up(state: RunState, record: Record, instance: Instance, body: event_pb2.GateClosed) -> RunState:
    """Take somebody's word about a doubt: it happened, or it is to be done again."""
    if body.outcome == event_pb2.GATE_OUTCOME_HAPPENED:
        return settle(state, evolve(instance, settled="done", reason="", output=body.output))
    current = instance.current
    if body.outcome == event_pb2.GATE_OUTCOME_REPEAT:
        # A compensation may have been refused before it was ever tried.
        heal = Heal(RETRY_SAME_KEY, current.id, record.time_ns) if current is not None else None
        return put(state, evolve(instance, settled="", reason="", heal=heal, denied=""))
    return put(state, instance)


def _on_undo_planned(state: RunState, record: Record, body: event_pb2.UndoPlanned) -> RunState | None:
    if state.finished is None and state.undo is not None:
        return None
    undo = evolve(state.undo or Undo(), planned=body, sequence=record.sequence)
    if body.dry_run:
        return evolve(state, undo=undo)
    opened = frozenset(one.step.id for one in body.compensations)
    state = evolve(state, undo=evolve(undo, steps=opened))
    instances = dict(state.instances)
    for one in body.compensations:
        instances[one.step.id] = _compensation(state, one.step.id, record.time_ns)
    contracts = {**body.contracts, **state.contracts}
    # A run that was paused when it was cancelled is not to be undone only after it is resumed.
    paused = state.paused and state.finished is None
    return evolve(state, instances=instances, open=opened, contracts=contracts, paused=paused)


def _compensation(state: RunState, name: str, now_ns: int) -> Instance:
    """Return a compensation that is to be made: a new one, or one that was given up and is tried again.

    What was approved was approved for whoever undid then. What may have been done is repeated as it was.
    """
    earlier = state.instances.get(name)
    if earlier is None:
        return Instance(id=name, step=name)
    current, why = earlier.current, earlier.reason
    act = acted(earlier) if happened(earlier) != "no" else None
    again = evolve(
        earlier,
        settled="",
        heal=None,
        gate="",
        approved=NOTHING,
        amended=earlier.amended if act is not None else NOTHING,
        denied="",
        failure=None,
        reason="",
    )
    if act is not None and act.action is not None:
        contract = state.contracts[act.action.tool]
        if contract.idempotency == tool_pb2.IDEMPOTENCY_NONE:
            return evolve(again, settled="in_doubt", reason=why or "it may have been undone before")
    heal = Heal(RETRY_SAME_KEY, current.id, now_ns) if current is not None else None
    return evolve(again, heal=heal)


def _on_undo_ended(state: RunState, record: Record, body: event_pb2.UndoEnded) -> RunState | None:
    if state.undo is None or state.undo.planned is None:
        return None
    standing = body.status or state.standing
    # What has waited there waits no more, and not in the next undo either.
    void = event_pb2.GATE_OUTCOME_VOID
    gates = {
        gate.opened.gate: evolve(
            gate, closed=event_pb2.GateClosed(gate=gate.opened.gate, outcome=void, reason=_UNDO_OVER)
        )
        for gate in state.open_gates
    }
    undo = evolve(state.undo, ended=body)
    return evolve(state, undo=undo, open=frozenset(), standing=standing, gates={**state.gates, **gates})


def _on_finished(state: RunState, record: Record, body: event_pb2.Finished) -> RunState | None:
    return evolve(state, finished=body, ended_ns=record.time_ns, standing=body.status)


def _on_forgotten(state: RunState, record: Record, body: event_pb2.Forgotten) -> RunState | None:
    """Keep nothing but what it says: so much is known as well where all before it cannot be read any more."""
    finished = event_pb2.Finished(status=body.status)
    if body.failure:
        finished.failure.code = body.failure
    return RunState(
        key=state.key,
        applied=state.applied,
        last_decision=state.last_decision,
        submitted_ns=body.submitted.ToNanoseconds(),
        finished=finished,
        ended_ns=body.ended.ToNanoseconds(),
        standing=body.status,
        forgotten=body,
    )


def _on_revoked(state: RunState, record: Record, body: event_pb2.Revoked) -> RunState | None:
    # topic: claim, pool, revoke, attempt
    found = answered(state, record, body.attempt)
    if found is None or found[1].revoked or found[1].claimer:
        return None
    return change(state, found[0], evolve(found[1], revoked=True, ended_ns=record.time_ns))


DECISIONS: Mapping[str, tuple[tuple[str, ...], Handler]] = {
    "plan_ask": (("dec", "ask", "planner", "*"), _on_plan_ask),
    "proposal_ask": (("dec", "ask", "executor", "*"), _on_proposal_ask),
    "action": (("dec", "ask", "worker", "*"), _on_action),
    "verify_ask": (("dec", "ask", "verifier", "*"), _on_verify_ask),
    "plan_accepted": (("dec", "note", "plan_accepted"), _on_plan_accepted),
    "plan_rejected": (("dec", "note", "plan_rejected"), _on_plan_rejected),
    "expanded": (("dec", "note", "expanded"), _on_expanded),
    "skipped": (("dec", "note", "skipped"), _on_skipped),
    "step_failed": (("dec", "note", "step_failed"), _on_step_failed),
    "healed": (("dec", "note", "healed"), _on_healed),
    "in_doubt": (("dec", "note", "in_doubt"), _on_in_doubt),
    "proposal_refused": (("dec", "note", "proposal_refused"), _on_proposal_refused),
    "gate_opened": (("dec", "note", "gate_opened"), _on_gate_opened),
    "gate_closed": (("dec", "note", "gate_closed"), _on_gate_closed),
    "undo_planned": (("dec", "note", "undo_planned"), _on_undo_planned),
    "undo_ended": (("dec", "note", "undo_ended"), _on_undo_ended),
    "finished": (("dec", "note", "finished"), _on_finished),
    "forgotten": (("dec", "note", "forgotten"), _on_forgotten),
    "revoked": (("dec", "claim", "*", "revoke", "*"), _on_revoked),
}
