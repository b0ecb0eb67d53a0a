"""What is left of a run that is forgotten: what the decider says of it before the run's key is deleted."""

from __future__ import annotations

from collections import Counter

from core.state import RunState
from core.undo import acted, happened, has_effect
from handrail.v1 import event_pb2


def left_of(state: RunState) -> event_pb2.Forgotten:
    """Return what stays readable of a run: how it ended, and what it did to the world, in numbers."""
    asked = state.forget or event_pb2.Forget()
    left = event_pb2.Forgotten(status=state.status, submitter=asked.submitter, reason=asked.reason)
    left.submitted.FromNanoseconds(state.submitted_ns)
    left.ended.FromNanoseconds(state.ended_ns)
    if state.finished is not None and state.finished.HasField("failure"):
        left.failure = state.finished.failure.code
    left.effects.update(_effects(state))
    return left


def _effects(state: RunState) -> Counter[str]:
    """Count by tool the effects that happened or may have happened, those that were undone included."""
    found: Counter[str] = Counter()
    for instance in state.instances.values():
        attempt = acted(instance)
        if attempt is None or attempt.action is None or not has_effect(state, instance):
            continue
        found[attempt.action.tool] += happened(instance) != "no"
    return +found
