"""What must hold of undos: one function for each promise.

All of it is told from the log and from what has happened in the world, and nothing from `core.undo`: which
compensation takes an effect back, and with what, stands here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from core import values
from core.plan import dependencies
from core.state import Instance, RunState
from handrail.v1 import event_pb2, tool_pb2
from tests.simulation.tools import CONTRACTS
from tests.simulation.watch import Invariant, Look, RunWatch, UndoWatch
from tests.simulation.world import Effect

PREFIX = "undo-"
_With = Callable[[Effect, int], dict[str, Any]]


def _same(effect: Effect, was: int) -> dict[str, Any]:
    return {"who": effect.who, "n": effect.n}


def _as_it_was(effect: Effect, was: int) -> dict[str, Any]:
    return {"who": effect.who, "n": effect.n, "was": was}


UNDOING: dict[str, tuple[str, _With]] = {
    "put": ("unput", _same),
    "hold": ("release", _same),
    "place": ("displace", _as_it_was),
    "book": ("unbook", _same),
    "wire": ("unwire", _same),
}
"""By tool: what takes its effect back, and with what, of the effect and of how often it was seen before."""
OF_OUTPUT = frozenset({"put", "wire"})
"""The tools of which the undo needs the output."""


def is_compensation(step: str) -> bool:
    """Whether an instance is a compensation: no step of the simulation is called so."""
    return step.startswith(PREFIX)


def wanted(run: RunWatch) -> frozenset[str]:
    """Return the compensations of the undo that goes on."""
    planned = run.undo.planned if run.undo is not None else None
    return frozenset(one.step.id for one in planned.compensations) if planned is not None else frozenset()


def _is_undone(run: RunWatch, state: RunState, instance: str) -> bool:
    """Whether something was taken back, as the run has it."""
    made = state.instances.get(PREFIX + instance)
    return made is not None and made.settled == "done"


def _resting_on(state: RunState, step: str) -> set[str]:
    """Return the steps that rest on a step, directly or not."""
    assert state.plan is not None
    needs, found = dependencies(state.plan), {step}
    while more := {one for one, needed in needs.items() if needed & found} - found:
        found |= more
    return found - {step}


def _in_scope(state: RunState, undo: UndoWatch, instance: Instance) -> bool:
    """Whether what was asked for covers an instance."""
    step = undo.asked.step if undo.asked is not None else ""
    if not step or step in (instance.id, instance.step):
        return True
    return step in state.instances and instance.step in _resting_on(state, state.instances[step].step)


# --- after every event -----------------------------------------------------------------------------


def undos_are_asked_for(look: Look) -> Iterator[str]:
    """An undo is asked for when a run has ended and no other undo of it goes on; who is second gets none.

    Its plan answers exactly that ask, or a goal that wants it when its run fails.
    """
    run, event = look.run, look.event
    if look.arm == "undo":
        counts = run.is_over and look.before.plan is not None
        if look.counts != counts:
            yield f"an undo is asked for, and {'counts' if look.counts else 'does not count'}"
    if look.arm != "undo_planned" or not look.counts:
        return
    planned, undo, goal = event.undo_planned, run.undo, look.before.goal
    asked = undo.asked if undo is not None else None
    if undo is None and (not goal.undo_on_failure or run.ended is not None or run.undos):
        yield "an undo is planned that nobody has asked for"
    if undo is not None and (undo.planned is not None or undo.asked is None):
        yield "an undo is planned twice"
    wanted = (asked.submitter, asked.dry_run) if asked is not None else ("", False)
    if (planned.submitter, planned.dry_run) != (wanted[0] or goal.submitter, wanted[1]):
        yield f"{wanted} was asked for, and {(planned.submitter, planned.dry_run)} is planned"


def undos_take_back_what_happened(look: Look) -> Iterator[str]:
    """What is to be taken back has happened, is not taken back yet, and is taken back as it happened.

    What the world was like before, is what it was before the first effect of the step. A tool that says that
    it has acted, and has not, is believed: that it cannot be seen may have other reasons.
    """
    if look.arm != "undo_planned" or not look.counts:
        return
    run, state = look.run, look.before
    undo = run.undo or UndoWatch(0, None)
    for one in look.event.undo_planned.compensations:
        effects, instance = run.effects.get(one.undoes, []), state.instances.get(one.undoes)
        if one.step.id != PREFIX + one.undoes or instance is None or not (effects or _is_told(instance)):
            yield f"{one.undoes} is to be undone by {one.step.id}, and has not happened"
            continue
        if _is_undone(run, state, one.undoes) or not _in_scope(state, undo, instance):
            yield f"{one.undoes} is to be undone, and was before, or nobody has asked for it"
        if not effects:
            continue
        effect = effects[0]
        tool, arguments = UNDOING.get(effect.charge.tool, ("", _same))
        given = {name: values.load(held.constant, {}) for name, held in one.step.arguments.items()}
        expected = arguments(effect, _seen_before(run, effect))
        if (one.step.tool, given) != (tool, expected):
            yield f"{one.undoes} is to be undone by {one.step.tool}({given}), and wants {tool}({expected})"


def _seen_before(run: RunWatch, effect: Effect) -> int:
    """Return how often the same was done before an effect, by whichever step of the run."""
    all = (other for name, some in run.effects.items() if not is_compensation(name) for other in some)
    return sum((o.who, o.n) == (effect.who, effect.n) and o.time_ns < effect.time_ns for o in all)


def undos_leave_nothing_out(look: Look) -> Iterator[str]:
    """All that happened and was asked about is taken back, or is said to stay; and it stays for a reason.

    What is known to have happened stays only where nothing undoes its tool, or its output is not known.
    """
    if look.arm != "undo_planned" or not look.counts:
        return
    run, state, planned = look.run, look.before, look.event.undo_planned
    undo = run.undo or UndoWatch(0, None)
    taken = {one.undoes for one in planned.compensations}
    stays = {one.step for one in planned.stays}
    for name in sorted(taken & stays):
        yield f"{name} is to be undone, and is said to stay"
    for name, effects in run.effects.items():
        if is_compensation(name) or not _in_scope(state, undo, state.instances[name]):
            continue
        if _is_undone(run, state, name):
            continue
        sure = _is_known(state.instances[name])
        if name not in taken | stays and sure:
            yield f"{name} has happened, and is neither undone nor said to stay"
        if name in stays and sure and _can_be_undone(state.instances[name], effects[0]):
            yield f"{name} has happened, can be undone, and is said to stay"


def _is_known(instance: Instance) -> bool:
    """Whether the log says that something has happened."""
    return instance.settled == "done" or _is_told(instance)


def _is_told(instance: Instance) -> bool:
    """Whether the last that acted says that it has, and no read-back that it has not."""
    last = next((a for a in reversed(instance.attempts) if a.is_act and a.claimer), None)
    result = last.result.message if last is not None and last.result is not None else event_pb2.Result()
    verdict = last.verdict.message if last is not None and last.verdict is not None else event_pb2.Verdict()
    return result.happened == event_pb2.HAPPENED_YES and verdict.happened != event_pb2.HAPPENED_NO


def _can_be_undone(instance: Instance, effect: Effect) -> bool:
    tool = effect.charge.tool
    if tool not in UNDOING:
        return False
    # A read-back says something else than the tool, and so may somebody who was asked.
    known = instance.output is not None and instance.output.json == str(effect.n)
    return known or tool not in OF_OUTPUT


def compensations_are_as_planned(look: Look) -> Iterator[str]:
    """A compensation is asked for by an undo that acts, as that has planned it, under one key for life."""
    if look.arm != "action" or not is_compensation(look.event.action.step) or not look.counts:
        return
    action, undo = look.event.action, look.run.undo
    planned = undo.planned if undo is not None else None
    one = next((c.step for c in (planned.compensations if planned else ()) if c.step.id == action.step), None)
    if planned is None or planned.dry_run or one is None:
        yield f"{action.attempt} is asked for, and no undo that acts has planned it"
        return
    if action.key != f"{look.after.key.run}:{action.step}":
        yield f"{action.attempt} has the key {action.key!r}"
    is_act = action.kind == event_pb2.ACTION_KIND_ACT
    given = {name: held.constant for name, held in one.arguments.items()}
    if is_act and (action.tool, dict(action.arguments)) != (one.tool, given):
        yield f"{action.attempt} is not as it was planned"


def compensations_wait(look: Look) -> Iterator[str]:
    """A compensation is begun only when all that is undone and rests on its effect is undone."""
    if look.arm != "action" or not is_compensation(look.event.action.step) or look.run.undo is None:
        return
    state, step, planned = look.before, look.event.action.step, look.run.undo.planned
    if planned is None or step.removeprefix(PREFIX) not in state.instances:
        return
    resting = _resting_on(state, state.instances[step.removeprefix(PREFIX)].step)
    for one in planned.compensations:
        waits = state.instances[one.undoes].step in resting
        if waits and state.instances[one.step.id].settled != "done":
            yield f"{step} is begun before {one.step.id}"


def what_is_stopped_begins_nothing(look: Look) -> Iterator[str]:
    """Who knows that an undo is cancelled or paused, or that a part went wrong, begins no other part."""
    known, step = look.views[0], look.event.action.step
    if known.undo is None or known.undo.planned is None or step not in known.instances:
        return
    others = [name for name in wanted(look.run) if name != step and name in known.instances]
    # What somebody wants done again goes on with the word that says so.
    wrong = next((n for n in others if _is_wrong(known, n) and _is_wrong(look.before, n)), "")
    why = "is cancelled" if known.undo.cancel is not None else "is paused" if known.paused else ""
    why = why or (f"has gone wrong in {wrong}" if wrong else "")
    if why and not any(view.instances[step].attempts for view in look.views if step in view.instances):
        yield f"{step} is begun though the undo {why}"


def _is_wrong(state: RunState, name: str) -> bool:
    return state.instances[name].settled in ("failed", "in_doubt")


def nothing_else_goes_on(look: Look) -> Iterator[str]:
    """From its plan on an undo is all that goes on: nothing of the run itself is begun, or counts."""
    run, undo = look.run, look.run.undo
    if undo is None or undo.planned is None or look.arm == "undo_ended":
        return
    body = getattr(look.event, look.arm) if look.arm else None
    step = getattr(body, "step", "")
    if look.is_decision and step and not is_compensation(step):
        yield f"{look.arm} of {step} while the run is being undone"
    for name, instance in look.after.instances.items():
        changed = instance is not look.before.instances.get(name) and not is_compensation(name)
        if changed and instance != look.before.instances.get(name):
            yield f"{look.arm} changes {name} while the run is being undone"
    if run.ended is not None and look.after.standing != look.before.standing:
        yield f"{look.arm} changes where the run stands"


def undos_end_truthfully(look: Look) -> Iterator[str]:
    """A run is said to be undone if it was done and nothing of it is left, and only then."""
    if look.arm != "undo_ended" or not look.counts:
        return
    run, state, undo, said = look.run, look.before, look.run.undo, look.event.undo_ended
    if undo is None or undo.planned is None:
        yield "an undo ends that was not planned"
        return
    stood = run.ended if run.ended is not None else event_pb2.RUN_STATUS_UNSPECIFIED
    undone = event_pb2.RUN_STATUS_UNDONE
    if said.status not in (stood, undone) or (said.status == undone and stood not in (_DONE, undone)):
        yield f"it ends as {said.status}, and stood at {stood}"
    left = [name for name in _happened(run) if not _is_undone(run, state, name)]
    if said.status == undone and left:
        yield f"it ends as undone, and of {left} something is left"
    taken = [one.undoes for one in undo.planned.compensations]
    everything = undo.asked is None or not (undo.asked.step or undo.asked.dry_run)
    if everything and taken and not left and stood == _DONE and said.status != undone:
        yield "nothing is left, and it does not end as undone"
    short = [name for name in taken if not _is_undone(run, state, name)]
    if bool(short) != said.HasField("failure") and not undo.planned.dry_run:
        yield f"it leaves {short} as planned, and {'says nothing' if short else 'says'} of a failure"


_DONE = event_pb2.RUN_STATUS_DONE


def _happened(run: RunWatch) -> Collection[str]:
    """Return the instances of a run with effects in the world."""
    return [name for name, effects in run.effects.items() if effects and not is_compensation(name)]


UNDOS: dict[str, Invariant] = {
    invariant.__name__: invariant
    for invariant in (
        undos_are_asked_for,
        undos_take_back_what_happened,
        undos_leave_nothing_out,
        compensations_are_as_planned,
        compensations_wait,
        nothing_else_goes_on,
        undos_end_truthfully,
    )
}


# --- at every effect -------------------------------------------------------------------------------


def effects_are_undone_once(effect: Effect, watch: RunWatch | None) -> Iterator[str]:
    """A compensation happens to what has happened, as an undo that acts has planned it."""
    step = effect.charge.step
    if watch is None or not is_compensation(step):
        return
    if watch.undone_by(step) is None:
        yield "a compensation that no undo wants"
    first = next(iter(watch.effects.get(step.removeprefix(PREFIX), [])), None)
    if first is None:
        if not _is_told(watch.state.instances[step.removeprefix(PREFIX)]):
            yield "what has not happened is taken back"
        return
    tool, arguments = UNDOING.get(first.charge.tool, ("", _same))
    if (effect.charge.tool, effect.arguments) != (tool, arguments(first, _seen_before(watch, first))):
        yield f"{effect.charge.tool}({effect.arguments}) takes {first.charge.tool}({first.arguments}) back"
    again = watch.effects.get(step, ())
    if again and CONTRACTS[tool].idempotency != tool_pb2.IDEMPOTENCY_NONE:
        yield f"{step} is taken back a second time"
