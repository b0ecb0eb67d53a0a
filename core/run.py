"""Fold a run's log into its state: `apply(state, record)`, which is total and pure.

What cannot be read, comes twice, comes late or is not expected is counted as a stray and changes nothing
else. An event counts only on the channel where its kind of writer writes. The one exception to "a stray
changes nothing": a decider event that this version cannot read makes the run unreadable, since to go on
without it would be to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from core import failures
from core.chain import took_what_counts
from core.gates import CHOICES, REFUSED
from core.healing import RETRY_SAME_KEY
from core.plan import instance as instance_id
from core.plan import is_compensation
from core.ports import Address, Record, RunKey
from core.state import (
    NOTHING,
    Attempt,
    Decision,
    Gate,
    Heal,
    Instance,
    ResultFact,
    RunState,
    Undo,
    VerdictFact,
    evolve,
)
from core.undo import acted, happened
from handrail.v1 import event_pb2, tool_pb2

VERSION = 4
"""The version of the vocabulary that this code writes, and the newest that it reads.

2 brought bundles, 3 gates, 4 undo.
"""

MAX_DECISIONS = 64
"""Of one gate; whoever may not decide must not fill a run's memory."""

NAMELESS = "nameless"
"""Who claimed without saying who."""
UNREADABLE = "unreadable"
"""Who claimed in words that this version cannot read."""
_UNDO_OVER = "the undo ended before anybody decided"

ENDED: frozenset[int] = frozenset(
    (
        event_pb2.RUN_STATUS_DONE,
        event_pb2.RUN_STATUS_FAILED,
        event_pb2.RUN_STATUS_REFUSED,
        event_pb2.RUN_STATUS_CANCELLED,
        event_pb2.RUN_STATUS_UNDONE,
    )
)

BUNDLED: frozenset[str] = frozenset(
    (
        "plan_accepted",
        "plan_rejected",
        "expanded",
        "skipped",
        "step_failed",
        "healed",
        "proposal_refused",
        "gate_closed",
        "undo_planned",
        "undo_ended",
        "action",
        "result",
        "verdict",
    )
)
"""What an event may carry: no claims, which are fenced by their subject, and nothing that somebody waits for
on a subject of its own."""

_Handler = Callable[[RunState, Record, Any], RunState | None]


def initial(key: RunKey) -> RunState:
    """Return the state of a run of which nothing is known."""
    return RunState(key=key)


def fold(key: RunKey, records: Iterable[Record]) -> RunState:
    """Apply records in order to nothing."""
    state = initial(key)
    for record in records:
        state = apply(state, record)
    return state


def apply(state: RunState, record: Record) -> RunState:
    """Return the state after one more record; a record that was applied before changes nothing."""
    if record.sequence <= state.applied or record.address.key != state.key:
        return state
    decision = record.address.channel == "dec"
    state = evolve(
        state,
        applied=record.sequence,
        last_decision=record.sequence if decision else state.last_decision,
    )
    for part in unbundled(record):
        state = apply_part(state, part)
    return state


def unbundled(record: Record) -> tuple[Record, ...]:
    """Return an event and those that it carries, in order, each where it would stand on its own.

    What may not be bundled is there without an event, as what cannot be read is.
    """
    event = record.event
    if event is None or not event.before:
        return (record,)
    return (*(_part(record, part) for part in event.before), record)


def _part(record: Record, event: event_pb2.Event) -> Record:
    """Place an event that another carries: the same writer's, so on the same channel, of the same pool."""
    arm = event.WhichOneof("body")
    if arm not in BUNDLED or event.before:
        return _without_event(record)
    channel, *topic = HANDLERS[arm][0]
    own = record.address.topic
    for i, token in enumerate(topic):
        if token == "*":
            if tuple(topic[:i]) != own[:i]:
                return _without_event(record)
            is_attempt = channel == "ans" and i == len(topic) - 1
            topic[i] = getattr(event, arm).attempt if is_attempt else own[i]
            own = (*own[:i], topic[i], *own[i + 1 :])
    if channel != record.address.channel:
        return _without_event(record)
    address = Address(record.address.key, record.address.channel, tuple(topic))
    # Not by `replace`, which costs as much as all the rest.
    return Record(record.sequence, record.time_ns, address, event, record.trace)


def _without_event(record: Record) -> Record:
    return replace(record, event=None)


def apply_part(state: RunState, record: Record) -> RunState:
    """Return the state after one of the events that a record holds; `apply` does it for all of them."""
    if state.unreadable:
        return state
    event = record.event
    arm = event.WhichOneof("body") if event is not None else None
    if event is None or arm is None or event.version > VERSION:
        if record.address.channel == "dec":
            return evolve(state, unreadable=True)
        return _stray(_on_unreadable(state, record))
    topic, handler = HANDLERS[arm]
    body = getattr(event, arm)
    if not _fits(topic, record) or not _counts(state, arm, body):
        return _stray(state)
    changed = handler(state, record, body)
    return _stray(state) if changed is None else changed


def _stray(state: RunState) -> RunState:
    return evolve(state, strays=state.strays + 1)


def _counts(state: RunState, arm: str, body: Any) -> bool:
    """Whether an event counts now: after the end an undo does, and from its plan on only what it makes."""
    if state.over:
        return arm == "undo"
    if not state.undoing or state.undo is None:
        return True
    if state.undo.planned is None:
        return arm in ("undo_planned", "cancel")
    if arm in ("cancel", "pause", "resume", "undo_ended"):
        return True
    if arm == "undo":
        # Not even one that names a compensation: while one undo goes on, no other is begun.
        return False
    steps = state.undo.steps
    if arm == "gate_opened":
        return all(item.step in steps for item in body.items)
    if arm in ("gate_closed", "decide"):
        return body.gate in state.gates and state.gates[body.gate].opened.step in steps
    return (getattr(body, "step", "") or state.attempts.get(getattr(body, "attempt", ""), "")) in steps


def _fits(topic: tuple[str, ...], record: Record) -> bool:
    """Whether the record lies where its kind is written ("*" matches one token)."""
    actual = (record.address.channel, *record.address.topic)
    return len(actual) == len(topic) and all(t in ("*", a) for t, a in zip(topic, actual, strict=True))


# --- instances and attempts ------------------------------------------------------------------------


def _put(state: RunState, instance: Instance) -> RunState:
    settled = instance.settled not in ("", "in_doubt")
    is_open = instance.id in state.open
    opened = state.open - {instance.id} if settled and is_open else state.open
    if not settled and not is_open:
        opened = state.open | {instance.id}
    failed = state.failed
    if instance.settled == "failed" and instance.id not in failed and not is_compensation(instance.id):
        failed = (*failed, instance.id)
    return evolve(state, instances={**state.instances, instance.id: instance}, open=opened, failed=failed)


def _settle(state: RunState, instance: Instance) -> RunState:
    """Put a settled instance, and settle its fan-out when it was the last."""
    state = _put(state, instance)
    if instance.index is None or instance.settled not in ("done", "skipped"):
        return state
    parent = state.instances[instance.step]
    parent = evolve(parent, left=parent.left - 1)
    return _put(state, evolve(parent, settled="done") if parent.left == 0 else parent)


def _add_attempt(state: RunState, step: str, attempt: Attempt) -> RunState | None:
    instance = state.instances.get(step)
    if instance is None or instance.settled or not attempt.id or attempt.id in state.attempts:
        return None
    attempts = (*instance.attempts, evolve(attempt, number=len(instance.attempts) + 1))
    state = evolve(state, attempts={**state.attempts, attempt.id: step})
    return _put(state, evolve(instance, attempts=attempts, heal=None))


def _find(state: RunState, attempt_id: str) -> tuple[Instance, Attempt] | None:
    step = state.attempts.get(attempt_id)
    if step is None:
        return None
    instance = state.instances[step]
    return next(((instance, a) for a in instance.attempts if a.id == attempt_id), None)


def _change(state: RunState, instance: Instance, changed: Attempt) -> RunState:
    attempts = tuple(changed if a.id == changed.id else a for a in instance.attempts)
    return _put(state, evolve(instance, attempts=attempts))


def _answered(state: RunState, record: Record, attempt_id: str) -> tuple[Instance, Attempt] | None:
    """Find the attempt that an answer or a claim names, if it lies on that attempt's own subject."""
    found = _find(state, attempt_id)
    if found is None or record.address.topic[-1] != attempt_id:
        return None
    return found if record.address.topic[1] == found[1].pool else None


# --- cmd -------------------------------------------------------------------------------------------


def _on_submit(state: RunState, record: Record, body: event_pb2.Submit) -> RunState | None:
    if state.submit is not None:
        return None
    return evolve(state, submit=body, submitted_ns=record.time_ns)


def _on_cancel(state: RunState, record: Record, body: event_pb2.Cancel) -> RunState | None:
    if state.undo is not None and state.undoing:
        stopped = state.undo.cancel is None
        return evolve(state, undo=evolve(state.undo, cancel=body)) if stopped else None
    return None if state.cancel is not None else evolve(state, cancel=body)


def _on_pause(state: RunState, record: Record, body: event_pb2.Pause) -> RunState | None:
    return None if state.paused else evolve(state, paused=True)


def _on_resume(state: RunState, record: Record, body: event_pb2.Resume) -> RunState | None:
    return evolve(state, paused=False) if state.paused else None


def _on_decide(state: RunState, record: Record, body: event_pb2.Decide) -> RunState | None:
    gate = state.gates.get(body.gate)
    if gate is None or gate.closed is not None or body.binding != gate.opened.binding:
        return None
    if body.choice not in CHOICES.get(gate.opened.kind, ()):
        return None
    if not body.approver or len(gate.decisions) >= MAX_DECISIONS:
        return None
    if any(body.approver == decision.message.approver for decision in gate.decisions):
        # Nobody decides twice.
        return None
    decided = evolve(gate, decisions=(*gate.decisions, Decision(record.time_ns, body)))
    return evolve(state, gates={**state.gates, body.gate: decided})


def _on_undo(state: RunState, record: Record, body: event_pb2.Undo) -> RunState | None:
    if state.finished is None or state.plan is None:
        return None
    return evolve(state, undo=Undo(asked=body))


# --- dec -------------------------------------------------------------------------------------------


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
    return _add_attempt(state, body.step, attempt)


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
    changed = _add_attempt(state, body.step, attempt)
    if changed is None:
        return None
    if body.follows:
        changed = evolve(changed, followers={**changed.followers, body.follows: body.attempt})
    return evolve(changed, actions=changed.actions + 1)


def _on_verify_ask(state: RunState, record: Record, body: event_pb2.VerifyAsk) -> RunState | None:
    found = _find(state, body.attempt)
    if found is None or found[1].result is None or body.round <= found[1].round_asked:
        return None
    instance, attempt = found
    changed = evolve(attempt, verdict=None, round_asked=body.round, ended_ns=0)
    return _change(state, evolve(instance, heal=None), changed)


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
    return _put(state, parent if children else evolve(parent, settled="done"))


def _on_skipped(state: RunState, record: Record, body: event_pb2.Skipped) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled:
        return None
    return _settle(state, evolve(instance, settled="skipped", reason=body.reason, heal=None))


def _on_step_failed(state: RunState, record: Record, body: event_pb2.StepFailed) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled not in ("", "in_doubt"):
        return None
    return _put(state, evolve(instance, settled="failed", failure=body.failure, heal=None))


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
    return _put(state, evolve(instance, heal=heal, heals=(*instance.heals, body)))


def _on_in_doubt(state: RunState, record: Record, body: event_pb2.InDoubt) -> RunState | None:
    instance = state.instances.get(body.step)
    if instance is None or instance.settled:
        return None
    return _put(state, evolve(instance, settled="in_doubt", reason=body.why, heal=None))


def _on_proposal_refused(state: RunState, record: Record, body: event_pb2.ProposalRefused) -> RunState | None:
    found = _find(state, body.attempt)
    if found is None or found[1].proposal is None or found[1].refused:
        return None
    return _change(state, found[0], evolve(found[1], refused=tuple(body.violations)))


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
        state = _put(state, evolve(state.instances[item.step], gate=body.gate))
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
            amended = {**amended, **body.arguments}
            approved = {**approved, body.binding: body.gate} if body.binding else approved
        elif body.outcome in REFUSED:
            denied = body.gate
        instance = evolve(instance, gate="", approved=approved, denied=denied, amended=amended)
        if instance.settled == "in_doubt":
            state = _clear_up(state, record, instance, body)
        else:
            state = _put(state, instance)
    return state


def _clear_up(state: RunState, record: Record, instance: Instance, body: event_pb2.GateClosed) -> RunState:
    """Take somebody's word about a doubt: it happened, or it is to be done again."""
    if body.outcome == event_pb2.GATE_OUTCOME_HAPPENED:
        return _settle(state, evolve(instance, settled="done", reason="", output=body.output))
    current = instance.current
    if body.outcome == event_pb2.GATE_OUTCOME_REPEAT:
        # A compensation may have been refused before it was ever tried.
        heal = Heal(RETRY_SAME_KEY, current.id, record.time_ns) if current is not None else None
        return _put(state, evolve(instance, settled="", reason="", heal=heal, denied=""))
    return _put(state, instance)


def _on_undo_planned(state: RunState, record: Record, body: event_pb2.UndoPlanned) -> RunState | None:
    if state.finished is None and state.undo is not None:
        return None
    undo = evolve(state.undo or Undo(), planned=body)
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

    What was approved was approved for whoever undid then.
    """
    earlier = state.instances.get(name)
    if earlier is None:
        return Instance(id=name, step=name)
    current, why = earlier.current, earlier.reason
    again = evolve(
        earlier,
        settled="",
        heal=None,
        gate="",
        approved=NOTHING,
        amended=NOTHING,
        denied="",
        failure=None,
        reason="",
    )
    act = acted(earlier)
    if act is not None and act.action is not None and happened(earlier) != "no":
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


def _on_revoked(state: RunState, record: Record, body: event_pb2.Revoked) -> RunState | None:
    # topic: claim, pool, revoke, attempt
    found = _answered(state, record, body.attempt)
    if found is None or found[1].revoked or found[1].claimer:
        return None
    return _change(state, found[0], evolve(found[1], revoked=True, ended_ns=record.time_ns))


# --- ans -------------------------------------------------------------------------------------------


def _on_plan_answer(state: RunState, record: Record, body: event_pb2.PlanAnswer) -> RunState | None:
    if (
        state.plan is not None
        or state.plan_answer is not None
        or body.attempt != plan_attempt(state.plan_asks)
    ):
        return None
    return evolve(state, plan_answer=body) if body.WhichOneof("answer") else None


def plan_attempt(number: int) -> str:
    """Name the attempts at making a plan; `goal` is no step's id, so they are unique in the run."""
    return f"goal-a{number}"


def _on_proposal(state: RunState, record: Record, body: event_pb2.Proposal) -> RunState | None:
    found = _answered(state, record, body.attempt)
    if found is None or found[1].proposal_ask is None or found[1].proposal is not None:
        return None
    if body.WhichOneof("answer") is None:
        return None
    return _change(state, found[0], evolve(found[1], proposal=body, ended_ns=record.time_ns))


def _on_intent(state: RunState, record: Record, body: event_pb2.Intent) -> RunState | None:
    found = _answered(state, record, body.attempt)
    if found is None or not found[1].is_act or found[1].claimer or found[1].revoked:
        return None
    changed = evolve(
        found[1],
        claimer=body.claimer or NAMELESS,
        claimed_ns=record.time_ns,
        before=dict(body.before) if body.before else found[1].before,
    )
    return _change(state, found[0], changed)


def _on_unreadable(state: RunState, record: Record) -> RunState:
    """A claim that cannot be read is a claim all the same: nobody else can have the attempt."""
    if not _fits(("ans", "worker", "*", "intent", "*"), record):
        return state
    claim = event_pb2.Intent(attempt=record.address.topic[-1], claimer=UNREADABLE)
    if not _counts(state, "intent", claim):
        return state
    claimed = _on_intent(state, record, claim)
    return state if claimed is None else claimed


def _on_result(state: RunState, record: Record, body: event_pb2.Result) -> RunState | None:
    found = _answered(state, record, body.attempt)
    if found is None or found[1].action is None or found[1].result is not None or found[1].revoked:
        return None
    if body.WhichOneof("answer") is None or found[1] is not found[0].current:
        return None
    if body.action_sequence != found[1].sequence:
        return None
    if body.HasField("output") and body.output.WhichOneof("kind") is None:
        return None
    pending = found[1].action.pending
    if pending and body.HasField("output") and body.arguments.keys() != pending.keys():
        return None
    event_id = record.event.id if record.event is not None else ""
    result = ResultFact(event_id, record.sequence, record.time_ns, body)
    ended = record.time_ns if body.HasField("failure") else 0
    answered = evolve(found[1], result=result, ended_ns=ended)
    if answered.was_left_behind:
        # Nobody has called it.
        state = evolve(state, actions=state.actions - 1)
    # It also takes the place of the heal for its silence, if one was decided.
    return _change(state, evolve(found[0], heal=None), answered)


def _on_orphan(state: RunState, record: Record, body: event_pb2.Orphan) -> RunState | None:
    found = _answered(state, record, body.attempt)
    if found is None or found[1].claimer != (body.claimer or NAMELESS):
        return None
    attempt = found[1]
    if attempt.result is not None or (attempt.orphan_ns and attempt.seen_dead >= body.seen_dead):
        return None
    changed = evolve(
        attempt, orphan_ns=attempt.orphan_ns or record.time_ns, seen_dead=attempt.seen_dead or body.seen_dead
    )
    return _change(state, found[0], changed)


def _on_verdict(state: RunState, record: Record, body: event_pb2.Verdict) -> RunState | None:
    if record.address.topic[-1] != body.attempt:
        return None
    found = _find(state, body.attempt)
    # A late confirmation settles a doubt.
    if found is None or found[0].settled not in ("", "in_doubt") or found[1] is not found[0].current:
        return None
    instance, attempt = found
    if attempt.result is None or attempt.verdict is not None or attempt.revoked:
        return None
    if body.result_id != attempt.result.event_id:
        return None
    if body.round != attempt.round_asked or not body.outcome or not attempt.can_be_judged:
        return None
    verdict = VerdictFact(record.time_ns, body)
    refutations = attempt.refutations + (body.outcome == event_pb2.OUTCOME_REFUTED)
    attempt = evolve(attempt, verdict=verdict, ended_ns=record.time_ns, refutations=refutations)
    state = _put(state, evolve(instance, attempts=(*instance.attempts[:-1], attempt)))
    return _conclude(state, instance.id)


def _conclude(state: RunState, instance_id: str) -> RunState:
    """Settle an instance whose attempt is confirmed, and what it rests on too; then what rests on it."""
    instance = state.instances[instance_id]
    attempt = instance.current
    result = attempt.result if attempt is not None else None
    if attempt is None or result is None or attempt.verdict is None or attempt.revoked:
        return state
    if attempt.verdict.message.outcome != event_pb2.OUTCOME_CONFIRMED:
        return state
    if instance.settled not in ("", "in_doubt"):
        return state
    if attempt.follows and not state.stands(attempt.follows):
        return state
    if not took_what_counts(state, attempt):
        message = event_pb2.Result()
        message.CopyFrom(result.message)
        message.failure.CopyFrom(
            failures.transient(failures.LEFT_BEHIND, "another worker's read counts, with another output")
        )
        attempt = evolve(attempt, result=replace(result, message=message), verdict=None)
        return _put(state, evolve(instance, attempts=(*instance.attempts[:-1], attempt)))
    output = result.message.output
    state = _settle(state, evolve(instance, settled="done", output=output))
    follower = state.followers.get(attempt.id)
    return _conclude(state, state.attempts[follower]) if follower is not None else state


HANDLERS: Mapping[str, tuple[tuple[str, ...], _Handler]] = {
    "submit": (("cmd", "submit"), _on_submit),
    "cancel": (("cmd", "cancel"), _on_cancel),
    "pause": (("cmd", "pause"), _on_pause),
    "resume": (("cmd", "resume"), _on_resume),
    "undo": (("cmd", "undo"), _on_undo),
    "decide": (("cmd", "decide"), _on_decide),
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
    "revoked": (("dec", "claim", "*", "revoke", "*"), _on_revoked),
    "plan_answer": (("ans", "planner", "*", "plan", "*"), _on_plan_answer),
    "proposal": (("ans", "executor", "*", "proposal", "*"), _on_proposal),
    "intent": (("ans", "worker", "*", "intent", "*"), _on_intent),
    "result": (("ans", "worker", "*", "result", "*"), _on_result),
    "orphan": (("ans", "worker", "*", "orphan", "*"), _on_orphan),
    "verdict": (("ans", "verifier", "*", "verdict", "*"), _on_verdict),
}
"""Where each kind of event is written, and what it does. A test asserts that no kind is missing."""
