"""Mistakes about what may be done again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from core import course
from core.course import Course
from core.healing import Healer
from core.state import Instance as StepInstance
from handrail.v1 import event_pb2
from tests.simulation.mutants.planting import Patch, planted


@planted(within=150)
def heals_at_once() -> Patch:
    """A heal is carried out before its time."""
    carry_out = Course._carry_out_heal

    def at_once(self: Any, instance: Any) -> Any:
        hasty = replace(instance, heal=replace(instance.heal, not_before_ns=0))
        return carry_out(self, hasty)

    return patch.object(Course, "_carry_out_heal", at_once)


@planted(within=50)
def lease_is_not_waited_for() -> Patch:
    """A silent claim is resolved as soon as it is said to be silent."""
    return patch.object(course, "LEASE_GRACE_NS", -(10**15))


@planted(within=20)
def key_per_attempt() -> Patch:
    """Every attempt has a key of its own."""
    authorise = course.authorise

    def keyed(*rest: Any, **named: Any) -> event_pb2.Action:
        action = authorise(*rest, **named)
        action.key += action.attempt[-1]
        return action

    return patch.object(course, "authorise", keyed)


@planted(within=150)
def no_of_the_living() -> Patch:
    """A read-back that finds nothing permits a repeat, though whoever claimed it lives."""
    after = Healer.after_read_back

    def believe(self: Any, attempt: Any, result: Any) -> Any:
        if result.happened == event_pb2.HAPPENED_NO and self.tries < self.max_attempts:
            return self.retry(attempt, "retry", result.failure)
        return after(self, attempt, result)

    return patch.object(Healer, "after_read_back", believe)


@planted(within=20)
def everything_is_repeated() -> Patch:
    """What is in doubt is done again, whatever the tool says of itself."""
    resolve = Healer.resolve

    def again(self: Any, attempt: Any, cause: Any) -> Any:
        if self.tries < self.max_attempts:
            return self.retry(self.instance.current or attempt, "retry_same_key", cause)
        return resolve(self, attempt, cause)

    return patch.object(Healer, "resolve", again)


@planted(within=50)
def doubts_are_forgotten() -> Patch:
    """An earlier attempt that is in doubt is not thought of when a later one fails."""
    return patch.object(StepInstance, "doubtful", property(lambda self: None))


@planted(within=400)
def heals_are_not_counted() -> Patch:
    """A run is healed however often it has been."""
    begin = Healer.__init__

    def forgetful(self: Any, *rest: Any, heals: int) -> None:
        begin(self, *rest, heals=0)

    return patch.object(Healer, "__init__", forgetful)
