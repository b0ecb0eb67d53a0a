"""Joining: several plans as one, for a goal that asks for more than one thing.

The steps of each part get a name of their own. What a part does to the world waits until the parts before it
have ended, and what is looked at waits for what was done before. Bounds of a part's own cannot be kept by the
whole, so such a part stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core import conditions
from core import plan as graph
from core.errors import HandrailError
from core.references import Limits
from handrail.v1 import plan_pb2

MAX_TITLE_CHARS = Limits().max_title_chars


class CannotJoin(HandrailError):
    """Plans that cannot be one plan, with what to do instead."""


@dataclass(frozen=True)
class Part:
    """A plan that becomes a part of another; its steps are named after it unless it is one step."""

    name: str
    plan: plan_pb2.Plan
    # It does more than read: it waits for what stands before it.
    acts: bool


def joined(parts: Sequence[Part]) -> plan_pb2.Plan:
    """Return one plan of several; a single part is a plan already. Raises CannotJoin."""
    if len(parts) == 1:
        return parts[0].plan
    whole = plan_pb2.Plan(title=_title(parts))
    # The steps that nothing waits for yet; and the last that did something to the world.
    last: list[str] = []
    done: list[str] = []
    for part in parts:
        if part.plan.HasField("budget") and part.plan.budget != plan_pb2.Budget():
            title = part.plan.title or part.name
            raise CannotJoin(f"{title!r:.80} has bounds of its own: ask for it by itself")
        steps = _renamed(part)
        inner = [step.id for step in steps]
        needs = graph.dependencies(plan_pb2.Plan(steps=steps))
        for step in steps:
            if needs[step.id].isdisjoint(inner):
                waited = last if part.acts else done
                step.after.extend(one for one in waited if one not in needs[step.id])
        needed = {need for step in steps for need in (*needs[step.id], *step.after)}
        if part.acts:
            done = [one for one in inner if one not in needed]
        last = [one for one in (*last, *inner) if one not in needed]
        whole.steps.extend(steps)
    return whole


def _title(parts: Sequence[Part]) -> str:
    """What the parts are for, each once, as far as a title holds it."""
    title = "; ".join(dict.fromkeys(part.plan.title for part in parts))
    return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…"


def _renamed(part: Part) -> list[plan_pb2.Step]:
    """Return the steps of a part under names that no other part has."""
    steps = [plan_pb2.Step.FromString(step.SerializeToString()) for step in part.plan.steps]
    if [step.id for step in steps] == [part.name]:
        return steps
    names = {step.id: f"{part.name}_{step.id}" for step in steps}
    too_long = [name for name in names.values() if not graph.STEP_ID.fullmatch(name)]
    if too_long:
        raise CannotJoin(f"{too_long[0]!r} is too long for the name of a step: ask for it by itself")
    for step in steps:
        step.id = names[step.id]
        for arguments in (step.arguments, *(one.arguments for one in graph.alternatives(step))):
            for argument in arguments.values():
                if argument.WhichOneof("form") == "reference":
                    argument.reference = _reference(argument.reference, names)
        step.each = _reference(step.each, names) if step.each else ""
        step.after[:] = [names.get(one, one) for one in step.after]
        if step.when:
            try:
                step.when = conditions.renamed(step.when, names)
            except conditions.ConditionError as error:
                raise CannotJoin(f"{error}: ask for it by itself") from None
    return steps


def _reference(text: str, names: Mapping[str, str]) -> str:
    found = graph.parse_reference(text)
    if found.root in graph.RESERVED or found.root not in names:
        return text
    return str(graph.Reference(names[found.root], found.path))
