"""Instances and attempts in a run's state: how facts about them are put in, and what settles an instance.

For the handlers of the log's events, which are told apart by who writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from core import failures
from core.chain import took_what_counts
from core.plan import is_compensation
from core.ports import Record
from core.state import Attempt, Instance, RunState, evolve
from handrail.v1 import event_pb2

Handler = Callable[[RunState, Record, Any], RunState | None]
"""What a kind of event does to a run; None where it does not belong there now, and counts as a stray."""


def put(state: RunState, instance: Instance) -> RunState:
    """Put an instance into a run, and note whether it is open or has failed."""
    settled = instance.settled not in ("", "in_doubt")
    is_open = instance.id in state.open
    opened = state.open - {instance.id} if settled and is_open else state.open
    if not settled and not is_open:
        opened = state.open | {instance.id}
    failed = state.failed
    if instance.settled == "failed" and instance.id not in failed and not is_compensation(instance.id):
        failed = (*failed, instance.id)
    return evolve(state, instances={**state.instances, instance.id: instance}, open=opened, failed=failed)


def settle(state: RunState, instance: Instance) -> RunState:
    """Put a settled instance, and settle its fan-out when it was the last."""
    state = put(state, instance)
    if instance.index is None or instance.settled not in ("done", "skipped"):
        return state
    parent = state.instances[instance.step]
    parent = evolve(parent, left=parent.left - 1)
    return put(state, evolve(parent, settled="done") if parent.left == 0 else parent)


def add_attempt(state: RunState, step: str, attempt: Attempt) -> RunState | None:
    """Add the next attempt at an instance; None where there is no such instance, or it is settled."""
    instance = state.instances.get(step)
    if instance is None or instance.settled or not attempt.id or attempt.id in state.attempts:
        return None
    attempts = (*instance.attempts, evolve(attempt, number=len(instance.attempts) + 1))
    state = evolve(state, attempts={**state.attempts, attempt.id: step})
    return put(state, evolve(instance, attempts=attempts, heal=None))


def find(state: RunState, attempt_id: str) -> tuple[Instance, Attempt] | None:
    """Find an attempt, and the instance that it is at."""
    step = state.attempts.get(attempt_id)
    if step is None:
        return None
    instance = state.instances[step]
    return next(((instance, a) for a in instance.attempts if a.id == attempt_id), None)


def change(state: RunState, instance: Instance, changed: Attempt) -> RunState:
    """Put an attempt in the place of the one of the same id."""
    attempts = tuple(changed if a.id == changed.id else a for a in instance.attempts)
    return put(state, evolve(instance, attempts=attempts))


def answered(state: RunState, record: Record, attempt_id: str) -> tuple[Instance, Attempt] | None:
    """Find the attempt that an answer or a claim names, if it lies on that attempt's own subject."""
    found = find(state, attempt_id)
    if found is None or record.address.topic[-1] != attempt_id:
        return None
    return found if record.address.topic[1] == found[1].pool else None


def conclude(state: RunState, instance_id: str) -> RunState:
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
        return put(state, evolve(instance, attempts=(*instance.attempts[:-1], attempt)))
    output = result.message.output
    state = settle(state, evolve(instance, settled="done", output=output))
    follower = state.followers.get(attempt.id)
    return conclude(state, state.attempts[follower]) if follower is not None else state
