"""How what a run has done is taken back: which compensations, in which order, and what stays.

Pure, over the state. A compensation is an action like any other; what it is made of comes from the contract
under which the effect was made, from what is in the log of it, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Literal

from core import conditions, conformance, values
from core.labels import CHOICE, EACH, TRUSTED, WHEN, Label, labels_of
from core.plan import compensation, is_compensation
from core.shape import shape_of
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

Happened = Literal["yes", "no", "unknown"]


class _Stays(Exception):
    """Why an effect cannot be taken back."""


def plan_undo(
    state: RunState,
    contracts: Mapping[str, tool_pb2.ToolContract],
    contents: Mapping[str, str],
    asked: event_pb2.Undo,
) -> event_pb2.UndoPlanned:
    """Return how all that was asked for is undone; raises NotLoaded for large values."""
    assert state.plan is not None
    known = {**contracts, **state.contracts}
    planned = event_pb2.UndoPlanned(submitter=asked.submitter or state.goal.submitter, dry_run=asked.dry_run)
    for instance in effects(state, asked.step):
        attempt = acted(instance)
        tool = attempt.action.tool if attempt is not None and attempt.action is not None else ""
        try:
            step = _compensate(state, instance, attempt, known, contents)
        except _Stays as why:
            planned.stays.add(step=instance.id, tool=tool, why=str(why))
        except values.BadValue as error:
            lost = f"what it was done with cannot be read: {error}"
            planned.stays.add(step=instance.id, tool=tool, why=lost)
        else:
            planned.compensations.add(undoes=instance.id, step=step)
    _put_in_order(state, planned)
    plan = plan_pb2.Plan(steps=[one.step for one in planned.compensations])
    for name, contract in sorted(conformance.tools_of(plan, known).items()):
        if name not in state.contracts:
            planned.contracts[name].CopyFrom(contract)
    return planned


def effects(state: RunState, step: str = "") -> list[Instance]:
    """Return the instances that changed something, or may have, and are not undone: the last first.

    With a step, or one of its instances, only that and what rests on it.
    """
    assert state.plan is not None
    if step and (step not in state.instances or is_compensation(step)):
        return []
    shape = shape_of(state.plan)
    resting = _resting_on(shape.needed_by, state.instances[step].step) if step else frozenset[str]()

    def is_wanted(instance: Instance) -> bool:
        return not step or step in (instance.id, instance.step) or instance.step in resting

    found = [
        instance
        for instance in state.instances.values()
        if not is_compensation(instance.id)
        and is_wanted(instance)
        and has_effect(state, instance)
        and happened(instance) != "no"
        and not is_undone(state, instance.id)
    ]
    found.sort(key=lambda one: (shape.rank[one.step], -1 if one.index is None else one.index), reverse=True)
    return found


def has_effect(state: RunState, instance: Instance) -> bool:
    """Whether what carried an instance out changes the world."""
    attempt = acted(instance)
    if attempt is None or attempt.action is None:
        return False
    return state.contracts[attempt.action.tool].effect != tool_pb2.EFFECT_READ


def is_undone(state: RunState, instance: str) -> bool:
    """Whether the effect of an instance has been taken back."""
    made = state.instances.get(compensation(instance))
    return made is not None and made.settled == "done"


def acted(instance: Instance) -> Attempt | None:
    """Return the attempt that changed something, if any did: the last that was claimed."""
    return next((one for one in reversed(instance.attempts) if one.is_act and one.claimer), None)


def happened(instance: Instance) -> Happened:
    """Say whether an instance has changed something, whatever became of its step."""
    attempt = acted(instance)
    if instance.settled == "done":
        return "yes"
    if attempt is not None and attempt.result is not None:
        verdict = attempt.verdict.message if attempt.verdict is not None else event_pb2.Verdict()
        denied = verdict.happened == event_pb2.HAPPENED_NO
        if attempt.result.message.happened == event_pb2.HAPPENED_YES and not denied:
            return "yes"
    # Who has done it said so: a verdict alone must not have it done twice, or forgotten.
    return "unknown" if instance.doubtful is not None or instance.was_said_done else "no"


def labels(state: RunState, name: str) -> Mapping[str, Label]:
    """Return who has written the arguments of a compensation: whoever wrote what they are made of."""
    assert state.plan is not None
    planned = state.undo.planned if state.undo is not None else None
    undoes = next((c.undoes for c in (planned.compensations if planned else ()) if c.step.id == name), "")
    instance = state.instances[undoes]
    attempt = acted(instance)
    assert attempt is not None
    assert attempt.action is not None
    plan_labels = labels_of(state.plan, state.contracts)
    asked = plan_labels.of_action(instance.step)
    contract = state.contracts[attempt.action.tool]
    everything = reduce(Label.join, asked.values(), TRUSTED)

    def of(variable: str, field: str) -> Label:
        if variable == "args":
            return asked.get(field, everything)
        if variable == "output":
            return plan_labels.of_output(instance.step, (field,) if field else ())
        found = everything.join(Label(untrusted=True, steps=frozenset((instance.step,))))
        for read in contract.reads:
            readers = state.contracts[read.tool].readers if read.tool in state.contracts else ()
            if readers and field in (read.name, ""):
                found = found.join(Label(readers=frozenset(readers)))
        return found

    # Who decided what was done decides what is taken back.
    decides = {name: label for name, label in asked.items() if name in (WHEN, EACH, CHOICE)}
    return decides | {
        argument: reduce(Label.join, (of(*used) for used in conditions.selections(text)), TRUSTED)
        for argument, text in contract.undo_arguments.items()
    }


def _compensate(
    state: RunState,
    instance: Instance,
    attempt: Attempt | None,
    contracts: Mapping[str, tool_pb2.ToolContract],
    contents: Mapping[str, str],
) -> plan_pb2.Step:
    """Return the action that takes an effect back."""
    assert attempt is not None
    assert attempt.action is not None
    contract = state.contracts[attempt.action.tool]
    if not contract.undo:
        lost = contract.effect == tool_pb2.EFFECT_IRREVERSIBLE
        raise _Stays("it cannot be undone" if lost else f"nothing is known to undo {contract.name}")
    if happened(instance) == "unknown":
        raise _Stays("nobody knows whether it happened")
    undo = contracts.get(contract.undo)
    if undo is None:
        raise _Stays(f"there is no tool {contract.undo} any more")
    ceiling = state.goal.ceiling or tool_pb2.PERMISSION_EXECUTE
    if undo.permission > ceiling:
        raise _Stays(f"{undo.name} needs the permission {_word(undo.permission)}, above the goal's ceiling")
    scope = _scope(instance, attempt, contents)
    step = plan_pb2.Step(id=compensation(instance.id), tool=undo.name, title=f"undo {instance.id}")
    arguments: dict[str, Any] = {}
    for name, text in contract.undo_arguments.items():
        try:
            arguments[name] = conditions.evaluate(text, scope)
        except conditions.ConditionError as error:
            raise _Stays(f"what {undo.name} needs as {name} is not known: {error}") from None
        step.arguments[name].constant.CopyFrom(values.inline(arguments[name]))
    found = conformance.check_arguments(undo, arguments)
    if found:
        text = "; ".join(f"{v.field}: {v.message}" for v in found)
        raise _Stays(f"{undo.name} does not take what it would be called with: {text}")
    return step


def _scope(instance: Instance, attempt: Attempt, contents: Mapping[str, str]) -> dict[str, Any]:
    """Return what the undo of an effect can be made of: what is in the log of it."""
    assert attempt.action is not None
    result = attempt.result.message if attempt.result is not None else event_pb2.Result()
    arguments = {**attempt.action.arguments, **result.arguments}
    output = instance.output if instance.output is not None else result.output
    found = {"args": arguments, "reads": _before(instance)}
    scope: dict[str, Any] = {
        variable: {name: values.load(value, contents) for name, value in held.items()}
        for variable, held in found.items()
    }
    if output.WhichOneof("kind"):
        scope["output"] = values.load(output, contents)
    return scope


def _before(instance: Instance) -> Mapping[str, plan_pb2.Value]:
    """Return what was read before the effect: by the first who may have had it, and by nobody after."""
    found: Mapping[str, plan_pb2.Value] = {}
    for attempt in instance.attempts:
        if attempt.is_act and attempt.claimer and attempt.action and not attempt.action.resolves:
            found = attempt.before
    return found


def _put_in_order(state: RunState, planned: event_pb2.UndoPlanned) -> None:
    """Say for each compensation which steps are taken back before: the nearest of those that rest on it."""
    assert state.plan is not None
    shape = shape_of(state.plan)
    step_of = {one.step.id: state.instances[one.undoes].step for one in planned.compensations}
    taken_back = frozenset(step_of.values())
    after = {step: sorted(_resting_on(shape.needed_by, step, taken_back) & taken_back) for step in taken_back}
    for one in planned.compensations:
        one.after.extend(after[step_of[one.step.id]])


def _resting_on(
    needed_by: Mapping[str, Iterable[str]], step: str, until: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Return the steps that need a step, or need one that does, but not beyond those of `until`."""
    found: set[str] = set()
    waiting = list(needed_by[step])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += () if one in until else needed_by[one]
    return frozenset(found)


def _word(permission: tool_pb2.Permission.ValueType) -> str:
    return tool_pb2.Permission.Name(permission).removeprefix("PERMISSION_").lower()
