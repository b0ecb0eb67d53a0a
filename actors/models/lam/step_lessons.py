"""What a step with grants teaches: of what it was given, which of its tools was right, and with what.

Who decided has to be somebody else than the model: a bigger one, a function, or whoever said yes to what the
model was unsure of, or put its arguments right. Pure; why not is said in words without particulars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from actors.models import Task
from actors.models.lam.inputs import TooMuch, text_of
from actors.models.lam.options import Option
from actors.models.lam.text import MAX_TOKENS, tokens_of
from actors.models.lam.tracing import Tracer, is_shared
from actors.models.lam.verified import said_by, task_of, wanted_of
from core import values
from core.redaction import masked
from core.state import Instance, RunState
from handrail.v1 import event_pb2
from handrail.v1 import trajectory_pb2 as pb

OWN_WORD = "nobody but the action model itself said that it is right"
LONG = "it was given more than the model reads"
REDACTED = "something secret was taken out of it"
UNTRACED = "a value in it is not from what the step was given, or stands there twice"
NO_OPTION = "the model has no option for one of its tools"


@dataclass(frozen=True)
class StepLesson:
    """What was decided in a step, on what, and why it does not train."""

    task: Task
    proposal: event_pb2.Proposal
    text: str
    call: pb.OptionCall
    offered: tuple[str, ...]
    why_not: str


def lesson_of(state: RunState, instance: Instance, options: Mapping[str, Option]) -> StepLesson | None:
    """Return what a step teaches; nothing where no mind was asked, or nobody knows what was decided."""
    task, proposal = task_of(instance), instance.proposal
    if task is None or proposal is None or not proposal.HasField("call"):
        return None
    at = proposal.call.grant
    if at >= len(task.grants) or task.grants[at].tool != proposal.call.tool:
        return None
    wanted = wanted_of(state, instance)
    if wanted is not None and not wanted[0]:
        # Somebody said no, and not whether to this or to doing anything.
        return None
    try:
        text, _ = text_of(task.title, task.inputs)
        tool, arguments = wanted or said_by(proposal.call)
    except (TooMuch, values.BadValue, values.NotLoaded):
        return None
    offered = tuple(sorted({grant.tool for grant in task.grants} & options.keys()))
    call = pb.OptionCall(option=tool)
    lesson = StepLesson(task, proposal, text, call, offered, "" if wanted else OWN_WORD)
    if tool not in options:
        return _not(lesson, NO_OPTION)
    if len(tokens_of(text)) > MAX_TOKENS:
        return _not(lesson, LONG)
    if masked(task.inputs) != task.inputs or masked(arguments) != arguments:
        return _not(_hidden(lesson, arguments), REDACTED)
    traced = _fill(lesson, arguments, options[tool])
    return lesson if traced and not is_shared([call], options) else _not(lesson, UNTRACED)


def _fill(lesson: StepLesson, arguments: Mapping[str, Any], option: Option) -> bool:
    """Say where each argument is from; False where that is nowhere that the model could have read it."""
    grant = lesson.task.grants[lesson.proposal.call.grant]
    # What a grant fixes is not for the model to say, whatever somebody put it to.
    for name in grant.arguments.keys() | (arguments.keys() - grant.open.keys()):
        lesson.call.arguments[name].context.key = name
    tracer = Tracer(lesson.text, lesson.task.day)
    for name in sorted(arguments.keys() & grant.open.keys()):
        parameter = option.parameter(name)
        if parameter is None:
            lesson.call.arguments[name].untraced.SetInParent()
            return False
        place = _read_at(lesson.proposal, name, arguments[name])
        filled = tracer.trace(parameter, arguments[name], place)
        lesson.call.arguments[name].CopyFrom(filled)
        if filled.HasField("untraced"):
            return False
    return True


def _read_at(proposal: event_pb2.Proposal, name: str, value: Any) -> tuple[int, int] | None:
    """Return where the model itself had read a value, if it had."""
    for step in proposal.thought.decisions:
        filled = step.call.arguments.get(name)
        if filled is not None and filled.HasField("span") and filled.value.json == values.encode(value):
            return filled.span.start, filled.span.end
    return None


def _hidden(lesson: StepLesson, arguments: Mapping[str, Any]) -> StepLesson:
    """Return a lesson without anything that names itself a secret, and without places in what is left."""
    for name in arguments:
        lesson.call.arguments[name].untraced.SetInParent()
    return replace(lesson, text=text_of(lesson.task.title, masked(lesson.task.inputs))[0])


def _not(lesson: StepLesson, why: str) -> StepLesson:
    return replace(lesson, why_not=lesson.why_not or why)
