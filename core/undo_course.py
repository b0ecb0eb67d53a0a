"""The course of an undo: which compensations can be made, and when it has ended.

The first that goes wrong stops the others: none is begun until somebody has said what becomes of it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping

from core import failures
from core.course import Course
from core.failures import permanent
from core.gates import denial
from core.moves import Decide, Move, note
from core.plan import is_compensation
from core.rules import Rules
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2


class UndoCourse(Course):
    """One look at a run that is being undone."""

    def __init__(self, state: RunState, now_ns: int, contents: Mapping[str, str], rules: Rules) -> None:
        super().__init__(state, now_ns, contents, rules)
        assert state.undo is not None
        assert state.undo.planned is not None
        self.undo, self.planned = state.undo, state.undo.planned
        self.steps = {one.step.id: one.step for one in self.planned.compensations}
        self.needs = dict.fromkeys(self.steps, frozenset[str]())
        self.rank = {name: place for place, name in enumerate(self.steps)}
        self._after = {one.step.id: tuple(one.after) for one in self.planned.compensations}
        # The compensations of each step of the plan.
        self._of_step: defaultdict[str, list[str]] = defaultdict(list)
        for one in self.planned.compensations:
            self._of_step[state.instances[one.undoes].step].append(one.step.id)
        # To stop half-way because the run was expensive would help nobody; each step's attempts are bounded.
        self.max_actions = sys.maxsize
        self.heals = sum(len(state.instances[name].heals) for name in self.steps)
        # Whether one has gone wrong in this look.
        self._goes_wrong = False

    def _deadline(self) -> list[Move]:
        return []

    def _done(self) -> Decide:
        everything = self.undo.asked is None or not self.undo.asked.step
        made = any(instance.settled == "done" for instance in self._compensations(every=True))
        is_undone = everything and made and not self.planned.stays
        if is_undone and self.state.standing == event_pb2.RUN_STATUS_DONE:
            return _end(event_pb2.RUN_STATUS_UNDONE)
        return _end(self.state.standing)

    def _ending(self) -> Decide | None:
        if self.undo.cancel is not None and self.state.open:
            reason = self.undo.cancel.reason or "somebody stopped the undo"
            return _end(self.state.standing, permanent(failures.CANCELLED, reason))
        given_up = next((one for one in self._compensations() if one.settled == "failed"), None)
        return _end(self.state.standing, given_up.failure) if given_up is not None else None

    def _compensations(self, *, every: bool = False) -> list[Instance]:
        """Return the compensations of this undo, or of every one of the run."""
        instances = self.state.instances
        return [instances[name] for name in (filter(is_compensation, instances) if every else self.steps)]

    def _look(self, instance: Instance) -> list[Move]:
        moves = super()._look(instance)
        self._goes_wrong |= any(isinstance(m, Decide) and m.arm in ("in_doubt", "step_failed") for m in moves)
        return moves

    def _begin(self, instance: Instance, previous: Attempt | None = None) -> list[Move]:
        return self._start(instance, previous) if self._may_begin(instance) else []

    def _may_begin(self, instance: Instance) -> bool:
        """Whether the turn of a compensation has come, and nothing has gone wrong."""
        if self.ending is not None or self.state.paused or self._goes_wrong:
            return False
        if any(one.settled == "in_doubt" for one in self._compensations()):
            return False
        return not self._waits(instance)

    def _carry_out_heal(self, instance: Instance) -> list[Move]:
        current = instance.current
        # What an earlier undo has tried is begun like any other.
        is_begun = current is not None and not self.state.is_past(current)
        return super()._carry_out_heal(instance) if is_begun or self._may_begin(instance) else []

    def _lengthen(self, instance: Instance, moves: list[Move]) -> list[Move]:
        # Nothing of the plan comes after a compensation.
        return moves

    def _waits(self, instance: Instance) -> bool:
        """Whether something that rests on the effect is not undone yet."""
        before = (name for step in self._after[instance.id] for name in self._of_step[step])
        return any(self.state.instances[name].settled != "done" for name in before)

    def _meet_doubt(self, instance: Instance) -> list[Move]:
        denied = self.state.gates.get(instance.denied)
        if denied is not None:
            return [note("step_failed", event_pb2.StepFailed(step=instance.id, failure=denial(denied)))]
        planned = self._planned(instance)
        # Nobody has to choose how it is done.
        assert planned is not None
        tool, arguments = planned
        arguments = arguments | self.scope.written(instance)
        self.doubts.append(self.rules.doubt(instance, self.state.contracts[tool], arguments))
        return []


def _end(status: event_pb2.RunStatus.ValueType, failure: event_pb2.Failure | None = None) -> Decide:
    return note("undo_ended", event_pb2.UndoEnded(status=status, failure=failure))
