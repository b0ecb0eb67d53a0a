"""What must hold after every event: one function for each promise."""

from __future__ import annotations

from collections.abc import Iterator

from core import failures, run
from core.course import DEFAULT_MAX_ACTIONS
from core.healing import DEFAULT_MAX_HEALS, LEASE_GRACE_NS, REREAD
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, tool_pb2
from tests.simulation.watch import Invariant, Look

_PERMIT_GRACE_NS = 25_000_000_000
"""From a worker's look at a permit to its claim, while it is not stopped: its reads and its append."""


def decisions_build_on_each_other(look: Look) -> Iterator[str]:
    """Who decides knows every decision before: the fence refuses all others. (A revoke has another.)"""
    if not look.is_decision or look.arm == "revoked":
        return
    if look.basis is None:
        yield f"{look.arm} by nobody"
        return
    for number, sequence in reversed(look.run.decisions):
        if number != look.basis.number:
            if sequence > look.basis.applied:
                yield f"{look.arm} was decided without knowing of the decision {sequence}"
            return


def decisions_count(look: Look) -> Iterator[str]:
    """A decision is never a stray: it is fenced against every other, and was right when it was made."""
    if not look.is_decision or look.counts:
        return
    if any(run.apply(view, look.record).strays == view.strays for view in look.views[:-1]):
        look.watch.counts["overtaken decisions"] += 1
        return
    yield f"the decision {look.arm} changes nothing"


def runs_stay_readable(look: Look) -> Iterator[str]:
    """Nobody writes what this version cannot read."""
    if look.record.event is None or not look.arm or look.after.unreadable:
        yield "it cannot be read"


def runs_end_once(look: Look) -> Iterator[str]:
    """After `finished` the decider says nothing more."""
    if look.is_decision and look.before.finished is not None:
        yield f"{look.arm} after the run has ended"


def ends_are_final(look: Look) -> Iterator[str]:
    """A run ends when nobody owes an answer any more, and as done only when every step is."""
    if look.arm != "finished":
        return
    for attempt in look.before.in_flight:
        if attempt.action is not None:
            yield f"it ends while {attempt.id} is in flight"
    if look.event.finished.status == event_pb2.RUN_STATUS_DONE:
        for instance in look.before.instances.values():
            if instance.settled not in ("done", "skipped"):
                yield f"it ends as done, but {instance.id} is not"


def claims_exclude_each_other(look: Look) -> Iterator[str]:
    """Of an attempt's claim, its revoke and a refusal exactly one comes to be.

    A read needs no claim; that it is taken back when it has been answered changes nothing in the world.
    """
    if look.arm not in ("intent", "revoked"):
        return
    earlier = look.run.claims.get(look.record.address.topic[-1], [])
    attempt = _of(look.before, look.record.address.topic[-1])
    tool = attempt.action.tool if attempt is not None and attempt.action is not None else ""
    reads = tool in look.before.contracts and look.before.contracts[tool].effect == tool_pb2.EFFECT_READ
    if earlier and not (reads and look.arm == "revoked" and set(earlier) == {"result"}):
        yield f"{look.arm} of {look.record.address.topic[-1]} after {earlier}"


def _in_flight_ended(view: RunState, step: str, time_ns: int) -> str:
    """Say why an instance's current attempt cannot be given up; nothing where it can."""
    attempt = _current(view, step)
    if attempt is None or not attempt.in_flight or view.left_behind(attempt):
        return ""
    if attempt.action is None or attempt.result is not None:
        return f"{attempt.id} still waits for an answer"
    if not attempt.claimer:
        return f"{attempt.id} is neither claimed nor answered nor taken back"
    lease_ns = attempt.claimed_ns + attempt.action.timeout.ToNanoseconds() + LEASE_GRACE_NS
    if attempt.seen_dead or (attempt.orphan_ns and time_ns >= lease_ns):
        return ""
    return f"the lease of {attempt.id} is not over and its claimer not seen dead"


def _current(view: RunState, step: str) -> Attempt | None:
    instance = view.instances.get(step)
    return instance.current if instance is not None else None


def silence_is_waited_for(look: Look) -> Iterator[str]:
    """What is in flight is given up only when its claimer is seen dead, or silent beyond its lease."""
    if look.arm not in ("healed", "in_doubt", "step_failed") or not look.counts:
        return
    step = getattr(look.event, look.arm).step
    found = [_in_flight_ended(view, step, look.record.time_ns) for view in look.views]
    if all(found):
        yield f"{look.arm} of {step}: {found[-1]}"


def _may_begin(view: RunState, instance: Instance | None) -> bool:
    """Whether an instance may have another attempt."""
    if instance is None or instance.settled:
        return False
    attempt = instance.current
    if attempt is None or attempt.revoked or instance.heal is not None or view.left_behind(attempt):
        return True
    return attempt.proposal_ask is not None and attempt.proposal is not None


def attempts_follow_each_other(look: Look) -> Iterator[str]:
    """An instance has one attempt at a time: another begins when the one before is over or to be healed."""
    if look.arm == "plan_ask":
        if all(view.plan_asks and view.plan_answer is None for view in look.views):
            yield "a planner is asked while another is"
    elif look.arm in ("action", "proposal_ask"):
        step = getattr(look.event, look.arm).step
        if not any(_may_begin(view, view.instances.get(step)) for view in look.views):
            yield f"{step} has another attempt while one is in flight"
    elif look.arm == "verify_ask":
        step = look.before.attempts.get(look.event.verify_ask.attempt, "")
        heals = [view.instances[step].heal for view in look.views if step in view.instances]
        if not any(heal is not None and heal.strategy == REREAD for heal in heals):
            yield f"{step} is verified again though nobody decided that"


def what_ends_begins_nothing(look: Look) -> Iterator[str]:
    """Who knows that a run is cancelled or paused, or that a step of it has failed, begins no other step."""
    if look.arm not in ("action", "proposal_ask"):
        return
    known = look.views[0]
    why = "is cancelled" if known.cancel is not None else "is paused" if known.paused else ""
    why = why or (f"has failed in {known.failed[0]}" if known.failed else "")
    if not why:
        return
    step = getattr(look.event, look.arm).step
    if any(step in view.instances and view.instances[step].attempts for view in look.views):
        return
    yield f"{step} is begun though the run {why}"


def heals_wait(look: Look) -> Iterator[str]:
    """No heal is carried out before its time."""
    if look.arm not in ("action", "proposal_ask", "verify_ask"):
        return
    body = getattr(look.event, look.arm)
    step = look.before.attempts.get(body.attempt, "") if look.arm == "verify_ask" else body.step
    waits = []
    for view in look.views:
        heal = view.instances[step].heal if step in view.instances else None
        waits.append(0 if heal is None else heal.not_before_ns - look.record.time_ns)
    if waits and min(waits) > 0:
        yield f"{look.arm} of {step} comes {min(waits) / 1e6:.0f} ms too early"


def deadlines_wait(look: Look) -> Iterator[str]:
    """No deadline is acted on before its time."""
    late = look.arm == "finished" and look.event.finished.failure.code == failures.DEADLINE
    late = late or (look.arm == "revoked" and look.event.revoked.reason == failures.DEADLINE)
    if late and look.record.time_ns < look.before.deadline_ns:
        yield f"{(look.before.deadline_ns - look.record.time_ns) / 1e6:.0f} ms before the deadline"


def keys_stay(look: Look) -> Iterator[str]:
    """Every attempt at an instance has the same key, and no other instance has it."""
    if look.arm != "action":
        return
    step, key = look.event.action.step, look.event.action.key
    if look.run.keys.get(step, key) != key:
        yield f"the key of {step} was {look.run.keys[step]!r} and is {key!r}"
    if any(other == key for name, other in look.run.keys.items() if name != step):
        yield f"{step} has the key of another step"


def repeats_are_sound(look: Look) -> Iterator[str]:
    """What is not idempotent is repeated only when it is certain that it has not happened and will not."""
    if look.arm != "action" or look.event.action.kind != event_pb2.ACTION_KIND_ACT:
        return
    action = look.event.action
    contract = look.before.contracts.get(action.tool)
    if contract is None or contract.idempotency != tool_pb2.IDEMPOTENCY_NONE:
        return
    instances = [view.instances.get(action.step) for view in look.views]
    if not any(instance is not None and instance.doubtful is None for instance in instances):
        yield f"{action.step} is repeated though an earlier attempt is in doubt"


def permits_are_bound(look: Look) -> Iterator[str]:
    """A permit names exactly its action; what has expired is not claimed."""
    if look.arm == "action":
        action, permit = look.event.action, look.event.action.permit
        named = (permit.run, permit.step, permit.attempt, permit.tool)
        if named != (look.after.key.run, action.step, action.attempt, action.tool):
            yield f"the permit of {action.attempt} is for {named}"
    elif look.arm == "intent":
        attempt = _of(look.before, look.event.intent.attempt)
        if attempt is None or attempt.action is None:
            return
        slack_ns = look.watch.slack_ns(look.event.intent.claimer)
        over_ns = look.record.time_ns - attempt.action.permit.expires.ToNanoseconds()
        if over_ns > slack_ns + _PERMIT_GRACE_NS:
            yield f"{attempt.id} is claimed {over_ns / 1e9:.0f} s after its permit has expired"


def asks_are_well_made(look: Look) -> Iterator[str]:
    """No worker has to refuse an action for what it is; that it comes too late may happen."""
    failure = look.event.result.failure if look.arm == "result" else event_pb2.Failure()
    late = failures.failure_class(failure) == event_pb2.FAILURE_CLASS_TRANSIENT
    if failure.code == failures.PERMIT and not late:
        yield f"{look.event.result.attempt} was refused: {failure.message}"


def chains_stop(look: Look) -> Iterator[str]:
    """A worker that reads a chain reads nothing after what has failed."""
    for earlier in look.bundled if look.arm == "result" else ():
        if earlier.event is not None and earlier.event.result.HasField("failure"):
            yield f"{look.event.result.attempt} was read after {earlier.event.result.attempt} had failed"


def claims_are_asked_for(look: Look) -> Iterator[str]:
    """A worker only ever claims what the run knows of: an ask that changes nothing is not acted on."""
    if look.arm == "intent" and look.event.intent.attempt not in look.before.attempts:
        yield f"{look.event.intent.attempt} is claimed, and the run knows nothing of it"


def _of(state: RunState, attempt: str) -> Attempt | None:
    instance = state.instances.get(state.attempts.get(attempt, ""))
    return next((a for a in instance.attempts if a.id == attempt), None) if instance is not None else None


def death_is_certain(look: Look) -> Iterator[str]:
    """Who is said to be dead is dead."""
    if (
        look.arm == "orphan"
        and look.event.orphan.seen_dead
        and not look.watch.is_dead(look.event.orphan.claimer)
    ):
        yield f"{look.event.orphan.claimer} is said to be dead and lives"


def done_is_confirmed(look: Look) -> Iterator[str]:
    """A step is done only with a confirmed verdict that names its current attempt and its result."""
    if look.after.instances is look.before.instances:
        return
    for name, instance in look.after.instances.items():
        earlier = look.before.instances.get(name)
        if instance.settled != "done" or (earlier is not None and earlier.settled == "done"):
            continue
        if instance.count is not None:
            children = [i for i in look.after.instances.values() if i.step == name and i.index is not None]
            if len(children) != instance.count or any(i.settled not in ("done", "skipped") for i in children):
                yield f"{name} is done before its items are"
            continue
        attempt = instance.current
        result_id = attempt.result.event_id if attempt is not None and attempt.result is not None else ""
        if look.arm != "verdict" or attempt is None:
            yield f"{name} is done without a verdict"
            continue
        judged = look.run.verdicts.get(attempt.id, set()) | _said_now(look, attempt)
        if (result_id, event_pb2.OUTCOME_CONFIRMED) not in judged:
            yield f"{name} is done, but no verdict confirms the result that counts"
        elif result_id not in look.run.result_ids.get(attempt.id, ()):
            yield f"{name} is done by a result that is not in the log"


def _said_now(look: Look, attempt: Attempt) -> set[tuple[str, int]]:
    verdict = look.event.verdict
    return {(verdict.result_id, verdict.outcome)} if verdict.attempt == attempt.id else set()


def chains_hold_together(look: Look) -> Iterator[str]:
    """What rests on an earlier read of its chain is done only when that one is."""
    for instance in look.after.instances.values() if look.arm == "verdict" else ():
        attempt = instance.current
        if instance.settled == "done" and attempt is not None and attempt.follows:
            former = look.after.instances[look.after.attempts[attempt.follows]]
            if former.settled != "done" or former.current is None or former.current.id != attempt.follows:
                yield f"{instance.id} is done and rests on {attempt.follows}, which does not count"


def budgets_hold(look: Look) -> Iterator[str]:
    """A run has no more heals and actions than it may have."""
    if look.arm == "healed" and look.after.heals > look.after.bound("max_heals", DEFAULT_MAX_HEALS):
        yield f"{look.after.heals} heals are more than the run may have"
    if look.arm == "action" and look.after.actions > look.after.bound("max_actions", DEFAULT_MAX_ACTIONS):
        yield f"{look.after.actions} actions are more than the run may have"


def submissions_are_first(look: Look) -> Iterator[str]:
    """The first thing in a run's log is its one submission."""
    if (look.arm == "submit") != (look.before.submit is None):
        yield f"{look.arm} where the submission is {'missing' if look.before.submit is None else 'there'}"


INVARIANTS: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        decisions_build_on_each_other,
        decisions_count,
        runs_stay_readable,
        runs_end_once,
        ends_are_final,
        claims_exclude_each_other,
        silence_is_waited_for,
        attempts_follow_each_other,
        what_ends_begins_nothing,
        heals_wait,
        deadlines_wait,
        keys_stay,
        repeats_are_sound,
        permits_are_bound,
        asks_are_well_made,
        chains_stop,
        claims_are_asked_for,
        death_is_certain,
        done_is_confirmed,
        chains_hold_together,
        budgets_hold,
        submissions_are_first,
    )
}
