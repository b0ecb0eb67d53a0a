"""What must hold after every decision: one function for each promise."""

from __future__ import annotations

from collections.abc import Iterator

from core import failures, run
from core.course import DEFAULT_MAX_ACTIONS
from core.healing import DEFAULT_MAX_HEALS, LEASE_GRACE_NS, REREAD
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, tool_pb2
from tests.simulation import undos
from tests.simulation.watch import Invariant, Look, reads


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
    """A decision is never a stray: it is fenced against every other, and was right when it was made.

    Facts may overtake it, but not one upon which a worker acts.
    """
    if not look.is_decision or look.counts:
        return
    if look.arm != "action" and any(
        run.counted(view, run.apply(view, look.record)) for view in look.views[:-1]
    ):
        look.watch.counts["overtaken decisions"] += 1
        return
    yield f"the decision {look.arm} changes nothing"


def runs_stay_readable(look: Look) -> Iterator[str]:
    """Nobody writes what this version cannot read."""
    if look.record.event is None or not look.arm or look.after.unreadable:
        yield "it cannot be read"


def runs_end_once(look: Look) -> Iterator[str]:
    """After its end the decider says nothing more of a run, until somebody asks for its undo.

    That it takes back an answered read changes nothing.
    """
    idle = look.arm == "revoked" and not look.counts and reads(look.before, look.event.revoked.attempt)
    if look.is_decision and look.run.is_over and not idle and look.arm != "forgotten":
        yield f"{look.arm} after the run has ended"


def the_ended_is_forgotten_once(look: Look) -> Iterator[str]:
    """A run is forgotten when somebody wants it after its end, once, and no decision follows."""
    if look.run.forgotten is not None and look.is_decision:
        yield f"{look.arm} after the run was forgotten"
    if look.arm == "forgotten" and not look.run.is_over:
        yield "it is forgotten before it has ended"
    if look.arm == "forgotten" and not look.run.to_forget:
        yield "it is forgotten, and nobody has asked for that since its end"


def ends_are_final(look: Look) -> Iterator[str]:
    """A run or an undo ends when nobody owes an answer any more, and a run as done only if every step is."""
    if look.arm not in ("finished", "undo_ended"):
        return
    for attempt in look.before.in_flight:
        if attempt.action is not None:
            yield f"it ends while {attempt.id} is in flight"
    if look.event.finished.status == event_pb2.RUN_STATUS_DONE:
        for instance in look.before.instances.values():
            if instance.settled not in ("done", "skipped"):
                yield f"it ends as done, but {instance.id} is not"


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
        if not any(_may_begin(view, view.instances.get(step)) for view in (*look.views, *look.imagined)):
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
    if undos.is_compensation(getattr(look.event, look.arm).step):
        yield from undos.what_is_stopped_begins_nothing(look)
        return
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
    """What is not idempotent is repeated only where it certainly has not happened, or somebody wants it."""
    if look.arm != "action" or look.event.action.kind != event_pb2.ACTION_KIND_ACT:
        return
    action = look.event.action
    contract = look.before.contracts.get(action.tool)
    if contract is None or contract.idempotency != tool_pb2.IDEMPOTENCY_NONE:
        return
    instances = [view.instances.get(action.step) for view in look.views]
    if action.step in look.run.wanted_again:
        return
    if not any(instance is not None and instance.doubtful is None for instance in instances):
        yield f"{action.step} is repeated though an earlier attempt is in doubt"


def budgets_hold(look: Look) -> Iterator[str]:
    """A run has no more heals and actions than it may have, and an undo of it no more heals."""
    most, heals = look.after.bound("max_heals", DEFAULT_MAX_HEALS), 0
    if look.arm == "healed":
        undone = undos.wanted(look.run) if undos.is_compensation(look.event.healed.step) else None
        heals = sum(
            len(instance.heals)
            for name, instance in look.after.instances.items()
            if (name in undone if undone is not None else not undos.is_compensation(name))
        )
    if heals > most:
        yield f"{heals} heals are more than the {most} that it may have"
    if (
        look.arm == "action"
        and look.run.undo is None
        and look.after.actions > look.after.bound("max_actions", DEFAULT_MAX_ACTIONS)
    ):
        yield f"{look.after.actions} actions are more than the run may have"


def submissions_are_first(look: Look) -> Iterator[str]:
    """The first thing in a run's log is its one submission."""
    missing = look.before.submit is None and look.run.forgotten is None
    if (look.arm == "submit") != missing:
        yield f"{look.arm} where the submission is {'missing' if missing else 'there'}"


DECISIONS: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        decisions_build_on_each_other,
        decisions_count,
        runs_stay_readable,
        runs_end_once,
        the_ended_is_forgotten_once,
        ends_are_final,
        silence_is_waited_for,
        attempts_follow_each_other,
        what_ends_begins_nothing,
        heals_wait,
        deadlines_wait,
        keys_stay,
        repeats_are_sound,
        budgets_hold,
        submissions_are_first,
    )
}
