"""A run as the outside sees it: the state as a `Run` message."""

from __future__ import annotations

from core.plan import canonical_route, is_compensation
from core.state import Attempt, Gate, Instance, RunState, Undo
from core.undo import is_undone
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2
from handrail.v1.run_service_pb2 import StepStatus

_SETTLED: dict[str, StepStatus.ValueType] = {
    "done": run_service_pb2.STEP_STATUS_DONE,
    "skipped": run_service_pb2.STEP_STATUS_SKIPPED,
    "failed": run_service_pb2.STEP_STATUS_FAILED,
    "in_doubt": run_service_pb2.STEP_STATUS_IN_DOUBT,
}


def view(state: RunState) -> run_service_pb2.Run:
    """Return what a client may see of a run."""
    run = run_service_pb2.Run(
        id=state.key.run,
        goal=state.goal.text,
        status=state.status,
        strays=state.strays,
        cursor=str(state.applied),
        dry_run=state.goal.dry_run,
        undo_on_failure=state.goal.undo_on_failure,
    )
    if state.forgotten is not None:
        run.forgotten.CopyFrom(state.forgotten)
    if state.submitted_ns:
        run.submitted.FromNanoseconds(state.submitted_ns)
    if state.ended_ns:
        run.ended.FromNanoseconds(state.ended_ns)
    if state.goal.HasField("deadline"):
        run.deadline.CopyFrom(state.goal.deadline)
    if state.finished is not None and state.finished.HasField("failure"):
        run.failure.CopyFrom(state.finished.failure)
    no_plan = state.plan_answer.no_plan if state.plan_answer is not None else event_pb2.NoPlan()
    if state.status == event_pb2.RUN_STATUS_REFUSED and no_plan.HasField("plan"):
        run.read_as.CopyFrom(no_plan.plan)
    if state.status == event_pb2.RUN_STATUS_REFUSED:
        run.missing.extend(no_plan.missing)
    run.gates.extend(show_gate(state, gate) for gate in state.gates.values())
    if state.plan is not None:
        run.plan.CopyFrom(state.plan)
        for step in state.plan.steps:
            _add_step(run, state, step)
    if state.undo is not None and state.undo.is_dry:
        run.undo_outlook.CopyFrom(_undo(state, state.undo))
    made = state.undo.before if state.undo is not None and state.undo.is_dry else state.undo
    if made is not None:
        run.undo.CopyFrom(_undo(state, made))
    return run


def show_gate(state: RunState, gate: Gate) -> run_service_pb2.Gate:
    """Return what somebody who is to decide may see of a gate."""
    seen = run_service_pb2.Gate(
        id=gate_id(state.key.run, gate.opened.gate),
        run=state.key.run,
        goal=state.goal.text,
        submitter=gate.opened.submitter or state.goal.submitter,
        what=gate.opened,
        closed=gate.closed,
    )
    if gate.closed is None and gate not in state.open_gates:
        seen.closed.CopyFrom(left_open(gate.opened.gate))
    seen.opened.FromNanoseconds(gate.opened_ns)
    approvals = (d.message for d in gate.decisions if d.message.choice == event_pb2.GATE_CHOICE_APPROVE)
    seen.approved_by.extend(decided.approver for decided in approvals)
    for said in (d.message for d in gate.decisions):
        if said.choice == event_pb2.GATE_CHOICE_DELEGATE:
            seen.delegations.add(by=said.approver, to=said.delegate, reason=said.reason)
    return seen


def left_open(gate: str) -> event_pb2.GateClosed:
    """Return what becomes of a gate at which nobody has decided when its run ends."""
    reason = "the run ended before anybody decided"
    return event_pb2.GateClosed(gate=gate, outcome=event_pb2.GATE_OUTCOME_VOID, reason=reason)


def gate_id(run: str, gate: str) -> str:
    """Name a gate of a run to others: "r0-01k9x3...-g1"."""
    return f"{run}-{gate}"


def _add_step(run: run_service_pb2.Run, state: RunState, step: plan_pb2.Step) -> None:
    parent = state.instances[step.id]
    run.steps.append(_step(state, parent, step))
    if parent.count is not None:
        items = (instance for instance in state.instances.values() if instance.step == step.id)
        indexed = sorted((i for i in items if i.index is not None), key=lambda i: i.index or 0)
        run.steps.extend(_step(state, item, step) for item in indexed)


def _undo(state: RunState, undo: Undo) -> run_service_pb2.UndoState:
    """Return how far an undo is, with every compensation of the run."""
    asked, planned = undo.asked or event_pb2.Undo(), undo.planned or event_pb2.UndoPlanned()
    seen = run_service_pb2.UndoState(
        submitter=planned.submitter or asked.submitter,
        reason=asked.reason,
        dry_run=undo.is_dry,
        step=asked.step,
        stays=planned.stays,
        ended=undo.ended is not None,
        compensations=planned.compensations,
    )
    if undo.ended is not None and undo.ended.HasField("failure"):
        seen.failure.CopyFrom(undo.ended.failure)
    steps = {one.step.id: one.step for one in planned.compensations}
    if undo.is_dry:
        for name, step in steps.items():
            seen.steps.append(_step(state, Instance(id=name, step=name), step))
            seen.steps[-1].status = run_service_pb2.STEP_STATUS_PENDING
            seen.steps[-1].outlook.extend(one for one in planned.outlook if one.step == name)
        return seen
    for name, instance in state.instances.items():
        if is_compensation(name):
            seen.steps.append(_step(state, instance, steps.get(name, plan_pb2.Step(id=name))))
    return seen


def _step(state: RunState, instance: Instance, step: plan_pb2.Step) -> run_service_pb2.StepState:
    current = instance.current
    tool = current.action.tool if current is not None and current.action is not None else step.tool
    seen = run_service_pb2.StepState(
        id=instance.id,
        title=step.title,
        route=canonical_route(step),
        tool=tool,
        status=_status(state, instance),
        skip_reason=instance.reason if instance.settled == "skipped" else "",
    )
    if instance.output is not None:
        seen.output.CopyFrom(instance.output)
    if instance.failure is not None:
        seen.failure.CopyFrom(instance.failure)
    elif instance.settled == "in_doubt":
        seen.failure.code = "in_doubt"
        seen.failure.message = instance.reason
    seen.outlook.extend(one for one in state.outlook if one.step == instance.id)
    if instance.gate:
        seen.gate = gate_id(state.key.run, instance.gate)
    seen.attempts.extend(_attempt(a) for a in instance.attempts)
    seen.heals.extend(instance.heals)
    return seen


def _status(state: RunState, instance: Instance) -> StepStatus.ValueType:
    if is_undone(state, instance.id) or _are_undone(state, instance):
        return run_service_pb2.STEP_STATUS_UNDONE
    if instance.settled:
        return _SETTLED[instance.settled]
    current = instance.current
    if _is_given_up(state, instance):
        return run_service_pb2.STEP_STATUS_CANCELLED
    if instance.count is not None:
        return run_service_pb2.STEP_STATUS_RUNNING
    if instance.gate:
        return run_service_pb2.STEP_STATUS_GATED
    if current is None or current.revoked:
        return run_service_pb2.STEP_STATUS_PENDING
    if instance.heal is not None:
        return run_service_pb2.STEP_STATUS_HEALING
    if current.result is not None and current.result.message.HasField("output"):
        return run_service_pb2.STEP_STATUS_VERIFYING
    return run_service_pb2.STEP_STATUS_RUNNING


def _are_undone(state: RunState, parent: Instance) -> bool:
    """Whether all items of a fan-out that were done have been undone."""
    if not parent.count or state.undo is None:
        return False
    items = [one for one in state.instances.values() if one.step == parent.id and one.settled == "done"]
    found = [is_undone(state, one.id) for one in items if one.index is not None]
    return bool(found) and all(found)


def _is_given_up(state: RunState, instance: Instance) -> bool:
    """Whether an instance that is not settled is left as it is, because the run or its undo has ended."""
    if is_compensation(instance.id):
        undo = state.undo
        return state.over or (undo is not None and (undo.is_dry or instance.id not in undo.steps))
    if state.finished is None:
        # A run that undoes itself does nothing else any more.
        return state.undo is not None
    return state.finished.status != event_pb2.RUN_STATUS_DONE


def _attempt(attempt: Attempt) -> run_service_pb2.Attempt:
    seen = run_service_pb2.Attempt(id=attempt.id, revoked=attempt.revoked)
    seen.asked.FromNanoseconds(attempt.asked_ns)
    if attempt.ended_ns:
        seen.ended.FromNanoseconds(attempt.ended_ns)
    if attempt.action is not None:
        seen.tool, seen.kind = attempt.action.tool, attempt.action.kind
    answer = attempt.result.message if attempt.result is not None else attempt.proposal
    if answer is not None and answer.HasField("failure"):
        seen.failure.CopyFrom(answer.failure)
    if attempt.verdict is not None:
        verdict = attempt.verdict.message
        seen.outcome = verdict.outcome
        seen.evidence.extend(verdict.evidence)
        if verdict.HasField("failure"):
            seen.failure.CopyFrom(verdict.failure)
    return seen
