"""Tracing: where the value of an argument that somebody chose can have come from, among what a model may say.

Pure and exact: a span is whole words that the typed normaliser reads as this very value, and what nothing
explains is untraced. Where a goal says a value twice nobody knows which was meant, unless whoever asks does.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.lam.inputs import Place
from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.reading import Unreadable, is_cut, read_for
from actors.models.lam.spelled import NUMBER_WORDS
from actors.models.lam.text import MAX_TOKENS, Token, tokens_of
from core import values
from handrail.v1 import trajectory_pb2

MAX_READ_TOKENS = 14
MAX_LIST_TOKENS = 40
MAX_PLACES = 100
_LISTED: frozenset[Kind] = frozenset({"choice", "boolean"})
_COUNTED: frozenset[Kind] = frozenset({"integer", "number"})
_PROSE: frozenset[Kind] = frozenset({"text", "list"})
_LARGE = r"(?:hundred|thousand|million|billion)"
_WORD = rf"(?:{'|'.join(sorted(NUMBER_WORDS))}|thousand|million|billion)"
_SAID = re.compile(
    rf"\b(?:\d[\d.,]{{0,30}}\s{{1,3}}(?={_LARGE}\b))?"
    rf"{_WORD}\b(?:[\s-]{{1,3}}(?:and\s{{1,3}})?{_WORD}\b)*",
    re.IGNORECASE,
)
"""A number in words, as far as it goes: "two hundred and five"."""


@dataclass
class Tracer:
    """Traces the values of one goal."""

    goal: str
    today: datetime.date
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the goal apart, once."""
        self._tokens = tokens_of(self.goal)[:MAX_TOKENS]
        self._starts = {token.start for token in self._tokens}
        self._ends = {token.end for token in self._tokens}
        self._said = [found.span() for found in _SAID.finditer(self.goal)]

    def trace(
        self, parameter: Parameter, value: Any, place: Place | None = None
    ) -> trajectory_pb2.FilledArgument:
        """Return a value with its source; `place` is where it was read from, if that is known."""
        found = trajectory_pb2.FilledArgument()
        if parameter.kind in _LISTED and self._is_listed(parameter, value):
            found.value.CopyFrom(values.inline(value))
            found.enumerated.SetInParent()
            return found
        if place is None and parameter.name in self.context and same(self.context[parameter.name], value):
            # Whatever the goal says, that nothing is learnt of it is never wrong.
            found.context.key = parameter.name
            return found
        places = self.places(parameter, value)
        if place is not None:
            places = [at for at in places if _overlap(at, place)]
            at = place if self.reads(parameter, place, value) else next(iter(places), None)
        else:
            at = places[0] if places and all(_overlap(places[0], other) for other in places) else None
        if at is not None:
            found.value.CopyFrom(values.inline(value))
            found.span.start, found.span.end = at
            return found
        key = self._key(value) if place is None and not places else None
        if key is not None:
            found.context.key = key
            return found
        found.value.CopyFrom(values.inline(value))
        found.untraced.SetInParent()
        return found

    def _is_listed(self, parameter: Parameter, value: Any) -> bool:
        return isinstance(value, bool) if parameter.kind == "boolean" else value in parameter.choices

    def places(self, parameter: Parameter, value: Any) -> list[Place]:
        """Return where the value stands, the best first: of what overlaps one is enough."""
        windows = self._windows(parameter, value) if parameter.kind != "text" or parameter.weeks else ()
        occurrences = self._occurrences(value) if parameter.kind == "text" else ()
        found = dict.fromkeys((*windows, *occurrences))
        # Of a number the digits alone, and these rather than words; of all else as many words as mean it.
        size = 1 if parameter.kind in _COUNTED else -1
        ranked = sorted(
            found,
            key=lambda at: (
                parameter.kind in _COUNTED and not self.goal[at[0] : at[1]].isdigit(),
                size * (at[1] - at[0]),
                at[0],
            ),
        )
        # That "one" is a number nobody can know.
        return [
            at
            for at in ranked
            if self.reads(parameter, at, value)
            and not (parameter.kind in _COUNTED and self.goal[at[0] : at[1]].casefold() == "one")
        ]

    def _occurrences(self, value: Any) -> Iterator[Place]:
        """Yield where the very words stand."""
        at = self.goal.find(value) if isinstance(value, str) and value else -1
        for _ in range(MAX_PLACES):
            if at < 0:
                return
            yield at, at + len(value)
            at = self.goal.find(value, at + 1)

    def _windows(self, parameter: Parameter, value: Any) -> Iterator[Place]:
        """Yield where words in a row begin and end that can be read as the value."""
        width = MAX_LIST_TOKENS if parameter.kind == "list" else MAX_READ_TOKENS
        tokens: Sequence[Token] = self._tokens
        for first, token in enumerate(tokens):
            for last in tokens[first : first + width]:
                at = (token.start, last.end)
                if self._means(parameter, at, value):
                    yield at

    def reads(self, parameter: Parameter, place: Place, value: Any) -> bool:
        """Whether whole words stand there that mean the value."""
        return self._whole(place) and self._means(parameter, place, value)

    def _whole(self, place: Place) -> bool:
        words = self.goal[place[0] : place[1]]
        start, end = place[0] + len(words) - len(words.lstrip()), place[1] - len(words) + len(words.rstrip())
        return start in self._starts and end in self._ends

    def _means(self, parameter: Parameter, place: Place, value: Any) -> bool:
        start, end = place
        if parameter.kind in _COUNTED | {"money"}:
            parts = (one for one in self._said if _overlap(one, place))
            if is_cut(self.goal, start, end) or any(one[0] < start or end < one[1] for one in parts):
                return False
        try:
            found, whole = read_for(parameter, self.goal, place, self.today)
        except Unreadable:
            return False
        return same(found, value) and whole == place

    def _key(self, value: Any) -> str | None:
        return next((name for name in sorted(self.context) if same(self.context[name], value)), None)


def is_shared(calls: Iterable[trajectory_pb2.OptionCall], options: Mapping[str, Option]) -> bool:
    """Whether two parameters have one value of the goal: nobody knows whose it is. A text may hold others."""
    found: set[tuple[Place, str, bool]] = set()
    for call in calls:
        option = options.get(call.option)
        for name, one in call.arguments.items():
            parameter = option.parameter(name) if option is not None else None
            if one.HasField("span") and parameter is not None:
                found.add(((one.span.start, one.span.end), name, parameter.kind in _PROSE))
    return any(
        name != other_name and (place == other or (_overlap(place, other) and not (prose or other_prose)))
        for place, name, prose in found
        for other, other_name, other_prose in found
    )


def entities_of(
    past: Iterable[trajectory_pb2.PastStep],
    options: Mapping[str, Option],
    context: Mapping[str, Any] | None = None,
) -> list[str]:
    """Name what decisions are about, as far as the goal and a context say: by kind and value, however said.

    A split keeps together what is about the same; what it was called there does not matter.
    """
    found = set()
    for step in past:
        option = options.get(step.call.option)
        for name, argument in step.call.arguments.items():
            parameter = option.parameter(name) if option is not None else None
            if parameter is None:
                continue
            kind = "number" if parameter.kind in _COUNTED else parameter.kind
            if argument.HasField("span"):
                found.add(f"{kind}={argument.value.json}".casefold())
            elif context and argument.HasField("context") and argument.context.key in context:
                found.add(f"{kind}={values.encode(context[argument.context.key])}".casefold())
    return sorted(found)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are one: true is not 1."""
    return values.encode(one) == values.encode(other)


def _overlap(one: Place, other: Place) -> bool:
    return one[0] < other[1] and other[0] < one[1]
