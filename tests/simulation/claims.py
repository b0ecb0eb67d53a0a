"""What must hold of claims, permits, results and verdicts: one function for each promise."""

from __future__ import annotations

from collections.abc import Iterator

from core import failures
from core.state import Attempt
from handrail.v1 import event_pb2
from tests.simulation.watch import Invariant, Look, attempt_of, reads

_PERMIT_GRACE_NS = 25_000_000_000
"""From a worker's look at a permit to its claim, while it is not stopped: its reads and its append."""


def claims_exclude_each_other(look: Look) -> Iterator[str]:
    """Of an attempt's claim, its revoke and a refusal exactly one comes to be.

    A read needs no claim; that it is taken back when it has been answered changes nothing in the world.
    """
    if look.arm not in ("intent", "revoked"):
        return
    earlier = look.run.claims.get(look.record.address.topic[-1], [])
    idle = (
        look.arm == "revoked"
        and set(earlier) == {"result"}
        and reads(look.before, look.record.address.topic[-1])
    )
    if earlier and not idle:
        yield f"{look.arm} of {look.record.address.topic[-1]} after {earlier}"


def permits_are_bound(look: Look) -> Iterator[str]:
    """A permit names exactly its action; what has expired is not claimed."""
    if look.arm == "action":
        action, permit = look.event.action, look.event.action.permit
        named = (permit.run, permit.step, permit.attempt, permit.tool)
        if named != (look.after.key.run, action.step, action.attempt, action.tool):
            yield f"the permit of {action.attempt} is for {named}"
    elif look.arm == "intent":
        attempt = attempt_of(look.before, look.event.intent.attempt)
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
    if look.arm != "result" or not look.event.result.HasField("output"):
        return
    for earlier in look.bundled:
        if earlier.event is not None and earlier.event.result.HasField("failure"):
            yield f"{look.event.result.attempt} was read after {earlier.event.result.attempt} had failed"


def claims_are_asked_for(look: Look) -> Iterator[str]:
    """A worker only ever claims what the run knows of: an ask that changes nothing is not acted on."""
    if look.arm == "intent" and look.event.intent.attempt not in look.before.attempts:
        yield f"{look.event.intent.attempt} is claimed, and the run knows nothing of it"


def death_is_certain(look: Look) -> Iterator[str]:
    """Who is said to be dead is dead."""
    if (
        look.arm == "orphan"
        and look.event.orphan.seen_dead
        and not look.watch.is_dead(look.event.orphan.claimer)
    ):
        yield f"{look.event.orphan.claimer} is said to be dead and lives"


def done_is_confirmed(look: Look) -> Iterator[str]:
    """A step is done only with a confirmed verdict that names its current attempt and its result.

    Or somebody who was asked about its doubt has said that it happened.
    """
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
        if look.arm == "gate_closed" and look.event.gate_closed.outcome == event_pb2.GATE_OUTCOME_HAPPENED:
            # `gates_close_for_a_reason` says whether somebody has said so.
            continue
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


CLAIMS: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        claims_exclude_each_other,
        permits_are_bound,
        asks_are_well_made,
        chains_stop,
        claims_are_asked_for,
        death_is_certain,
        done_is_confirmed,
        chains_hold_together,
    )
}
