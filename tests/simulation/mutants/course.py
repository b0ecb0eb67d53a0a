"""Mistakes about what a run lacks, and about what counts as done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from core import course, instances, run
from core.course import Course
from core.state import RunState, evolve
from handrail.v1 import event_pb2
from tests.simulation.mutants.planting import Patch, handling, planted


@planted(within=20)
def double_dispatch() -> Patch:
    """A step that is in flight is started once more when somebody looks again."""
    look = Course._next

    def again(self: Any, instance: Any) -> Any:
        attempt = instance.current
        silent = attempt is not None and attempt.claimer and attempt.result is None and not attempt.revoked
        if silent and attempt.is_act and len(instance.attempts) < 3:
            return self._start(instance, attempt)
        return look(self, instance)

    return patch.object(Course, "_next", again)


@planted(within=20)
def end_in_flight() -> Patch:
    """A run that is to end does not see through what is in flight."""
    return patch.object(Course, "_wind_down", lambda self, ending: [ending])


@planted(within=50)
def effects_in_chains() -> Patch:
    """What has an effect is asked for before what it needs is confirmed."""

    def any_link(state: Any, shape: Any, chain: Any, last: str, toolbox: str) -> str | None:
        waiting = [step for step in shape.needed_by[last] if not state.instances[step].settled]
        if len(waiting) != 1 or state.instances[waiting[0]].current is not None:
            return None
        step = shape.steps[waiting[0]]
        simple = step.tool in state.contracts and not (step.each or step.when or step.rules)
        alone = shape.needs[step.id] <= set(chain)
        return step.id if simple and alone and state.contracts[step.tool].toolbox == toolbox else None

    return patch.object(course, "next_link", any_link)


@planted(within=400)
def chains_that_never_break() -> Patch:
    """What rests on an earlier read is thought to count, though that one went wrong."""
    return patch.object(RunState, "left_behind", lambda self, attempt: False)


@planted(within=2000, policies=False)
def chains_count_at_once() -> Patch:
    """A read of a chain is done before the one that it rests on."""
    return patch.object(RunState, "stands", lambda self, attempt_id: True)


@planted(within=2000, policies=False)
def verdict_on_any_result() -> Patch:
    """A verdict counts whatever result it names."""
    on_verdict = run.HANDLERS["verdict"][1]

    def trusting(state: Any, record: Any, body: event_pb2.Verdict) -> Any:
        found = instances.find(state, body.attempt)
        if found is not None and found[1].result is not None:
            copy = event_pb2.Verdict()
            copy.CopyFrom(body)
            copy.result_id = found[1].result.event_id
            body = copy
        return on_verdict(state, record, body)

    return handling("verdict", trusting)


@planted(within=20)
def done_by_its_result() -> Patch:
    """A step is done when its worker says so."""
    on_result = run.HANDLERS["result"][1]

    def trusting(state: Any, record: Any, body: event_pb2.Result) -> Any:
        changed = on_result(state, record, body)
        if changed is None or not body.HasField("output"):
            return changed
        instance = changed.instances[changed.attempts[body.attempt]]
        return instances.settle(changed, replace(instance, settled="done", output=body.output))

    return handling("result", trusting)


@planted(within=150)
def cancel_is_ignored_after_an_intent() -> Patch:
    """A run goes on with its steps after a cancel, because one of them has been claimed."""
    ending = Course._ending

    def blind(self: Any) -> Any:
        known = self.state
        if known.cancel is not None and any(attempt.claimer for attempt in known.in_flight):
            self.state = evolve(known, cancel=None)
        found = ending(self)
        self.state = known
        return found

    return patch.object(Course, "_ending", blind)


@planted(within=50)
def pauses_are_ignored() -> Patch:
    """A paused run goes on."""
    moves = Course.moves

    def blind(self: Any) -> Any:
        self.state = evolve(self.state, paused=False)
        return moves(self)

    return patch.object(Course, "moves", blind)
