"""Playbooks: workflows that somebody has mapped. A goal's words choose one and fill its slots.

Slot values are constants of the plan that comes out: `{slot}` alone is the typed value, inside text it is
written into it. A value that looks like a reference or like code stays what it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core import conformance, phrases, values
from core import plan as graph
from core.errors import HandrailError
from core.slots import BadSlot, Slot
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

MAX_GOAL_CHARS = 16_384
MAX_PHRASES = 50
MAX_SLOTS = 50
MAX_NEAREST = 3

_BRACES = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]*)\}|[{}]")
_COMPARED_CHARS = 200
_TITLE_CHARS = 200


class BadPlaybook(HandrailError):
    """A playbook that cannot become a plan with these slots."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class PlaybookRule(_Model):
    """A row of a decision table."""

    when: str = ""
    tool: str
    arguments: Annotated[dict[str, Any], Field(alias="with", default_factory=dict)]


class PlaybookGrant(_Model):
    """What an executor may do: one tool, what is fixed of it, and within what it fills in the rest."""

    tool: str
    arguments: Annotated[dict[str, Any], Field(alias="with", default_factory=dict)]
    open: dict[str, str] = {}


class PlaybookStep(_Model):
    """A step: of one tool, with a decision table, or with what an executor is granted."""

    id: str
    title: str = ""
    tool: str = ""
    arguments: Annotated[dict[str, Any], Field(alias="with", default_factory=dict)]
    choose: tuple[PlaybookRule, ...] = ()
    grants: tuple[PlaybookGrant, ...] = ()
    each: str = ""
    each_limit: Annotated[int, Field(ge=0, le=graph.MAX_STEPS)] = 0
    when: str = ""
    post: str = ""
    after: tuple[str, ...] = ()
    timeout_s: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    max_attempts: Annotated[int, Field(ge=0, le=20)] = 0


class PlaybookLimits(_Model):
    """Bounds of the runs that a playbook makes; 0 means the default."""

    max_steps: Annotated[int, Field(ge=0)] = 0
    max_actions: Annotated[int, Field(ge=0)] = 0
    max_heals: Annotated[int, Field(ge=0)] = 0
    max_spend: dict[Annotated[str, Field(pattern=r"^[A-Z]{3}$")], Annotated[int, Field(ge=0)]] = {}


class Playbook(_Model):
    """A workflow with the phrases that ask for it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    title: str = ""
    phrases: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_PHRASES)]
    slots: Annotated[dict[str, Slot], Field(max_length=MAX_SLOTS)] = {}
    limits: PlaybookLimits = PlaybookLimits()
    steps: Annotated[tuple[PlaybookStep, ...], Field(min_length=1, max_length=graph.MAX_STEPS)]

    @model_validator(mode="after")
    def _agree(self) -> Playbook:
        for text in self.phrases:
            for name in phrases.slots_of(phrases.parse_phrase(text)):
                self._slot(name, f"the phrase {text!r}")
        samples = {name: slot.sample for name, slot in self.slots.items()}
        try:
            instantiate(self, samples)
        except (HandrailError, ValueError) as error:
            raise ValueError(str(error)) from None
        return self

    def _slot(self, name: str, where: str) -> Slot:
        if name not in self.slots:
            known = ", ".join(self.slots) or "none"
            raise ValueError(f"{where} has a slot {{{name}}}, which is not among the slots ({known})")
        return self.slots[name]


@dataclass(frozen=True, slots=True)
class Match:
    """The playbook that a goal asks for, and the values of its slots."""

    playbook: Playbook
    slots: Mapping[str, Any]
    # Where in the goal those stand that it says.
    places: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """Why no playbook can be taken, and the phrases that come nearest."""

    reason: str
    nearest: tuple[str, ...]
    # It reads as a phrase: of several playbooks, or of one that does not take what it says.
    said: bool = False


def match(goal_text: str, playbooks: Sequence[Playbook], context: Mapping[str, Any]) -> Match | NoMatch:
    """Return the one playbook with a phrase that the whole goal reads as; the most specific phrase wins."""
    if len(goal_text) > MAX_GOAL_CHARS:
        return NoMatch(f"the goal has {len(goal_text)} characters; {MAX_GOAL_CHARS} can be matched", ())
    words = phrases.split(goal_text)
    if not words or len(words) > phrases.MAX_WORDS:
        reason = (
            "the goal has no words" if not words else f"the goal has {len(words)} words, which is too many"
        )
        return NoMatch(reason, _nearest(goal_text, playbooks))
    found: list[tuple[int, Match]] = []
    problems: list[tuple[int, str]] = []
    for playbook in playbooks:
        for text in playbook.phrases:
            phrase = phrases.parse_phrase(text)
            places = phrases.places(phrase, goal_text, words, playbook.slots)
            if places is None:
                continue
            try:
                read = {n: playbook.slots[n].read(goal_text[start:end]) for n, (start, end) in places.items()}
                filled = _fill(playbook, read, context)
                found.append((phrases.weight(phrase), Match(playbook, filled, places)))
            except BadSlot as error:
                problems.append((phrases.weight(phrase), f"'{text}' matches, but {error}"))
    if not found:
        reason = max(problems)[1] if problems else "no playbook has a phrase like this"
        return NoMatch(reason, _nearest(goal_text, playbooks), said=bool(problems))
    most = max(weight for weight, _ in found)
    best = [candidate for weight, candidate in found if weight == most]
    names = sorted({candidate.playbook.name for candidate in best})
    if len(names) > 1:
        reason = f"it could mean any of {', '.join(names)}; say it in more of their own words"
        nearest = _nearest(goal_text, [candidate.playbook for candidate in best])
        return NoMatch(reason, nearest, said=True)
    return best[0]


def instantiate(playbook: Playbook, slots: Mapping[str, Any]) -> plan_pb2.Plan:
    """Return the plan of a playbook with these values in its slots."""
    blanks = _Blanks(playbook, slots)
    return plan_pb2.Plan(
        title=blanks.title(playbook.title or playbook.name),
        steps=[_step(step, blanks) for step in playbook.steps],
        origin=f"playbook:{playbook.name}",
        budget=plan_pb2.Budget(**playbook.limits.model_dump()),
    )


def check(
    playbook: Playbook,
    contracts: Mapping[str, tool_pb2.ToolContract],
    limits: conformance.Limits | None = None,
) -> list[plan_pb2.Violation]:
    """Return what is wrong with the plans that a playbook makes, judged by one with sample values.

    A sample shows its type only: that it is out of a range or not in a list says nothing.
    """
    plan = instantiate(playbook, {name: slot.sample for name, slot in playbook.slots.items()})
    unknown_context = plan_pb2.Value(blob=plan_pb2.Blob())
    goal = event_pb2.Goal(context=unknown_context, ceiling=tool_pb2.PERMISSION_ADMIN)
    found = conformance.check_plan(plan, contracts, goal=goal, limits=limits or conformance.Limits())
    sampled = _sampled(playbook)
    return [
        violation
        for violation in found
        if violation.code != "bad_argument" or not violation.field.startswith(sampled)
    ]


def _fill(playbook: Playbook, read: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """Take what the phrase left open from the context, then from the defaults."""
    filled: dict[str, Any] = {}
    for name, slot in playbook.slots.items():
        if name in read:
            filled[name] = read[name]
        elif name in context:
            try:
                filled[name] = slot.accept(context[name])
            except BadSlot as error:
                raise BadSlot(f"'{name}' in the context does not fit: {error}") from None
        elif slot.default is not None:
            filled[name] = slot.accept(slot.default)
        else:
            raise BadSlot(f"'{name}' ({slot.type}) is missing: say it in the goal or give it in the context")
    return filled


def _nearest(goal_text: str, playbooks: Sequence[Playbook]) -> tuple[str, ...]:
    goal = goal_text[:_COMPARED_CHARS].casefold()
    words = {word.folded for word in phrases.split(goal)}
    ranked: list[tuple[float, str]] = []
    for playbook in playbooks:
        for text in playbook.phrases:
            own = {part.word for part in phrases.parse_phrase(text) if isinstance(part, phrases.Literal)}
            likeness = difflib.SequenceMatcher(None, goal, text[:_COMPARED_CHARS].casefold()).quick_ratio()
            ranked.append((len(own & words) / len(own | words) + likeness, text))
    ranked.sort(key=lambda pair: -pair[0])
    return tuple(dict.fromkeys(text for _, text in ranked))[:MAX_NEAREST]


class _Blanks:
    """The slots of one playbook with their values, written into constants."""

    def __init__(self, playbook: Playbook, values: Mapping[str, Any]) -> None:
        self.slots = playbook.slots
        self.values = values

    def argument(self, value: Any, where: str) -> plan_pb2.Argument:
        """Return what a playbook says of an argument: a reference, or a constant."""
        if isinstance(value, str) and value.startswith("$") and not value.startswith("$$"):
            return plan_pb2.Argument(reference=str(graph.parse_reference(value)))
        constant = value[1:] if isinstance(value, str) and value.startswith("$$") else value
        return plan_pb2.Argument(constant=values.inline(self.constant(constant, where, values.MAX_DEPTH)))

    def constant(self, value: Any, where: str, levels: int) -> Any:
        """Fill the slots in a JSON value."""
        if levels < 0:
            raise BadPlaybook(f"{where} is nested deeper than {values.MAX_DEPTH} levels")
        if isinstance(value, list):
            return [self._inner(item, where, levels) for item in value]
        if isinstance(value, dict):
            return {key: self._inner(item, where, levels) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        alone = _BRACES.fullmatch(value)
        if alone is not None and alone[1] is not None:
            return self._value(alone[1], where)
        return self.text(value, where)

    def text(self, text: str, where: str) -> str:
        """Write the slots into a text."""

        def fill(found: re.Match[str]) -> str:
            if found[0] in ("{{", "}}"):
                return found[0][0]
            if found[1] is None:
                raise BadPlaybook(f"{where}: a lone '{found[0]}'; a slot is written {{name}}, a brace '{{{{'")
            value = self._value(found[1], where)
            return self.slots[found[1]].show(value)

        return _BRACES.sub(fill, text)

    def title(self, text: str) -> str:
        """Write the slots into a title, which is short and holds nothing invisible."""
        filled = " ".join(self.text(text, "the title").split())
        return "".join(char for char in filled if char.isprintable())[:_TITLE_CHARS]

    def _inner(self, value: Any, where: str, levels: int) -> Any:
        if isinstance(value, str) and value.startswith("$"):
            if not value.startswith("$$"):
                raise BadPlaybook(
                    f"{where}: a reference is the whole argument, not a part of it; '$$' is a dollar"
                )
            value = value[1:]
        return self.constant(value, where, levels - 1)

    def _value(self, name: str, where: str) -> Any:
        if name not in self.slots:
            known = ", ".join(self.slots) or "none"
            raise BadPlaybook(f"{where} has a slot {{{name}}}, which is not among the slots ({known})")
        if name not in self.values:
            raise BadPlaybook(f"{where}: the slot {{{name}}} has no value")
        return self.values[name]


def _step(step: PlaybookStep, blanks: _Blanks) -> plan_pb2.Step:
    message = plan_pb2.Step(
        id=step.id,
        title=blanks.title(step.title),
        route=_route(step),
        tool=step.tool,
        arguments=_arguments(step.arguments, blanks, step.id),
        after=step.after,
        when=step.when,
        each=step.each,
        each_limit=step.each_limit,
        post=step.post,
        max_attempts=step.max_attempts,
        rules=[
            plan_pb2.Rule(
                when=rule.when,
                tool=rule.tool,
                arguments=_arguments(rule.arguments, blanks, f"{step.id}.choose[{index}]"),
            )
            for index, rule in enumerate(step.choose)
        ],
        grants=[
            plan_pb2.Grant(
                tool=grant.tool,
                arguments=_arguments(grant.arguments, blanks, f"{step.id}.grants[{index}]"),
                open=grant.open,
            )
            for index, grant in enumerate(step.grants)
        ],
    )
    if step.timeout_s:
        message.timeout.FromNanoseconds(round(step.timeout_s * 1e9))
    return message


def _route(step: PlaybookStep) -> plan_pb2.Route.ValueType:
    if step.grants:
        return plan_pb2.ROUTE_LAM
    return plan_pb2.ROUTE_CHOOSE if step.choose else plan_pb2.ROUTE_DIRECT


def _arguments(given: Mapping[str, Any], blanks: _Blanks, where: str) -> dict[str, plan_pb2.Argument]:
    return {name: blanks.argument(value, f"{where}.with.{name}") for name, value in given.items()}


def _sampled(playbook: Playbook) -> tuple[str, ...]:
    """Return the fields of a plan whose values come from slots."""
    fields: list[str] = []
    for index, step in enumerate(playbook.steps):
        tables = [(f"steps[{index}].arguments", step.arguments)]
        tables += [
            (f"steps[{index}].rules[{row}].arguments", rule.arguments) for row, rule in enumerate(step.choose)
        ]
        tables += [
            (f"steps[{index}].grants[{row}].arguments", grant.arguments)
            for row, grant in enumerate(step.grants)
        ]
        for where, arguments in tables:
            fields += [f"{where}.{name}" for name, value in arguments.items() if "{" in str(value)]
    return tuple(fields)
