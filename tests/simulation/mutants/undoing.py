"""Mistakes about what is taken back, when, how often, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from core import action, course, decisions, run, undo
from core.plan import is_compensation
from core.rules import Rules
from core.state import RunState, Undo, evolve
from core.undo_course import UndoCourse
from handrail.v1 import event_pb2
from tests.simulation.mutants.planting import Patch, handling, planted
from workers.toolbox import Toolbox


def _counted(arms: tuple[str, ...], when: Callable[[RunState], bool] = lambda state: True) -> Patch:
    """Let some events count whenever they come."""
    counts = run._counts

    def lax(state: RunState, arm: str, body: Any) -> bool:
        return counts(state, arm, body) or (arm in arms and when(state))

    return patch.object(run, "_counts", lax)


def _last_before(instance: Any) -> Any:
    found = [one.before for one in instance.attempts if one.is_act and one.claimer]
    return found[-1] if found else {}


@planted(within=150)
def doubts_are_undone() -> Patch:
    """What may have happened is taken back as if it had."""
    happened = undo.happened

    def surely(instance: Any) -> Any:
        found = happened(instance)
        return "yes" if found == "unknown" else found

    return patch.object(undo, "happened", surely)


@planted(within=50)
def undos_have_no_order() -> Patch:
    """Everything is taken back at once."""
    return patch.object(undo, "_put_in_order", lambda state, planned: None)


@planted(within=400)
def undos_wait_for_neighbours_only() -> Patch:
    """What rests on an effect by way of something that stays is not waited for."""

    def near(needed_by: Any, step: str, until: Any = frozenset()) -> Any:
        return frozenset(needed_by[step])

    return patch.object(undo, "_resting_on", near)


@planted(within=400)
def before_is_what_came_last() -> Patch:
    """A repeat looks at the world once more, and what it sees is what it was like before."""
    look = Toolbox.look

    async def again(self: Any, asked: event_pb2.Action, arguments: Any) -> Any:
        copy = event_pb2.Action()
        copy.CopyFrom(asked)
        # One with a precondition would be refused.
        copy.resolves = asked.resolves and bool(self._contracts[asked.tool].pre)
        return await look(self, copy, arguments)

    @contextmanager
    def both() -> Iterator[None]:
        with patch.object(Toolbox, "look", again), patch.object(undo, "_before", _last_before):
            yield

    return both()


@planted(within=400)
def before_is_lost_with_its_claim() -> Patch:
    """What a lost attempt has read is not known any more."""
    return patch.object(undo, "_before", _last_before)


@planted(within=400)
def late_facts_count() -> Patch:
    """What comes late of the run itself, or is said at its gates, counts while it is undone."""
    return _counted(("intent", "result", "verdict", "decide"), lambda state: not state.over)


@planted(within=50)
def dry_undos_act() -> Patch:
    """An undo that only says what it would do does it."""
    on_planned = run.HANDLERS["undo_planned"][1]

    def acting(state: Any, record: Any, body: event_pb2.UndoPlanned) -> Any:
        copy = event_pb2.UndoPlanned()
        copy.CopyFrom(body)
        copy.dry_run = False
        return on_planned(state, record, copy)

    return handling("undo_planned", acting)


@planted(within=400)
def failures_do_not_stop_undos() -> Patch:
    """The others go on when one has gone wrong."""

    def on(self: Any, instance: Any, previous: Any = None) -> Any:
        return [] if self._waits(instance) else self._start(instance, previous)

    return patch.object(UndoCourse, "_begin", on)


@planted(within=20)
def second_askers_get_an_undo() -> Patch:
    """Who asks while another undo goes on gets one too."""
    return _counted(("undo",), lambda state: state.finished is not None)


@planted(within=50)
def running_runs_are_undone() -> Patch:
    """A run that goes on is undone."""

    def at_once(state: RunState, record: Any, body: event_pb2.Undo) -> Any:
        return None if state.plan is None else evolve(state, undo=Undo(asked=body))

    return handling("undo", at_once)


@planted(within=50)
def each_undo_has_its_keys() -> Patch:
    """The same compensation has another key when somebody else undoes the run."""
    key = action.action_key

    def named(state: RunState, instance: Any) -> str:
        asked = state.undo.asked if state.undo is not None else None
        whose = f"/{asked.submitter}" if asked is not None and is_compensation(instance.id) else ""
        return key(state, instance) + whose

    @contextmanager
    def both() -> Iterator[None]:
        with patch.object(action, "action_key", named), patch.object(course, "action_key", named):
            yield

    return both()


@planted(within=1000)
def undos_forget_doubts() -> Patch:
    """What may have been taken back in an earlier undo is taken back again."""
    return patch.object(decisions, "happened", lambda instance: "no")


@planted(within=20)
def what_is_undone_is_undone_again() -> Patch:
    """Nobody remembers what has been taken back."""
    return patch.object(undo, "is_undone", lambda state, instance: False)


@planted(within=150)
def undos_cannot_be_stopped() -> Patch:
    """An undo goes on with its parts after a cancel."""
    ending = UndoCourse._ending

    def deaf(self: Any) -> Any:
        self.undo = evolve(self.undo, cancel=None)
        return ending(self)

    return patch.object(UndoCourse, "_ending", deaf)


@planted(within=50)
def undone_whatever_stays() -> Patch:
    """A run is called undone though something of it stays."""
    done = UndoCourse._done

    def hasty(self: Any) -> Any:
        known, bare = self.planned, event_pb2.UndoPlanned()
        bare.CopyFrom(known)
        bare.ClearField("stays")
        self.planned = bare
        return done(self)

    return patch.object(UndoCourse, "_done", hasty)


@planted(within=400, policies=True)
def approvals_outlive_their_undo() -> Patch:
    """What was approved for one who undoes is approved for the next."""
    made = decisions._compensation

    def approved(state: RunState, name: str, now_ns: int) -> Any:
        known = state.instances.get(name)
        found = made(state, name, now_ns)
        return found if known is None else evolve(found, approved=known.approved)

    return patch.object(decisions, "_compensation", approved)


@planted(within=150, policies=True)
def undos_are_the_submitters() -> Patch:
    """The policy is asked in the name of whoever has submitted the goal."""
    return patch.object(Rules, "_user", lambda self, instance: self.state.goal.submitter)


@planted(within=400, policies=True)
def undos_are_trusted() -> Patch:
    """Nobody asks who has written what a compensation is made of."""
    return patch.object(undo, "labels", lambda state, name: {})
