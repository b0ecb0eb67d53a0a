"""Tracing: where the value of an argument that somebody chose can have come from, among what a model may say.

Pure and exact: a span is one that the typed normaliser reads as this very value, and what nothing explains is
untraced. Where a goal says a value twice nobody can know which was meant; a place from which nothing else was
taken comes first, and then the first one.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.lam.options import Kind, Parameter
from actors.models.lam.reading import Unreadable, is_cut, read
from actors.models.lam.text import MAX_TOKENS, Token, tokens_of
from core import values
from handrail.v1 import trajectory_pb2

MAX_READ_TOKENS = 10
MAX_LIST_TOKENS = 40
MAX_PLACES = 100
_LISTED: frozenset[Kind] = frozenset({"choice", "boolean"})
_COUNTED: frozenset[Kind] = frozenset({"integer", "number"})

Place = tuple[int, int]


@dataclass
class Tracer:
    """Traces the values of one goal, each place for one argument as far as there are others."""

    goal: str
    today: datetime.date
    context: Mapping[str, Any] = field(default_factory=dict)
    taken: set[Place] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take the goal apart, once."""
        self._tokens = tokens_of(self.goal)[:MAX_TOKENS]

    def trace(
        self, parameter: Parameter, value: Any, place: Place | None = None
    ) -> trajectory_pb2.FilledArgument:
        """Return a value with its source; `place` is where it was read from, if that is known."""
        found = trajectory_pb2.FilledArgument()
        if parameter.kind in _LISTED and self._is_listed(parameter, value):
            found.value.CopyFrom(values.inline(value))
            found.enumerated.SetInParent()
            return found
        if place is None or not self._reads(parameter, place, value):
            place = self._place(parameter, value)
        if place is not None:
            self.taken.add(place)
            found.value.CopyFrom(values.inline(value))
            found.span.start, found.span.end = place
            return found
        key = self._key(parameter, value)
        if key is not None:
            found.context.key = key
            return found
        found.value.CopyFrom(values.inline(value))
        found.untraced.SetInParent()
        return found

    def _is_listed(self, parameter: Parameter, value: Any) -> bool:
        return isinstance(value, bool) if parameter.kind == "boolean" else value in parameter.choices

    def _place(self, parameter: Parameter, value: Any) -> Place | None:
        places = (
            self._occurrences(value) if parameter.kind == "text" else self._windows(parameter.kind, value)
        )
        # Of a number the digits alone, and these rather than words; of all else as many words as mean it.
        size = 1 if parameter.kind in _COUNTED else -1
        ranked = sorted(
            places,
            key=lambda at: (
                at in self.taken,
                parameter.kind in _COUNTED and not self.goal[at[0] : at[1]].isdigit(),
                size * (at[1] - at[0]),
                at[0],
            ),
        )
        return next((at for at in ranked if self._reads(parameter, at, value)), None)

    def _occurrences(self, value: Any) -> Iterator[Place]:
        """Yield where the very words stand, as whole words."""
        at = self.goal.find(value) if isinstance(value, str) and value else -1
        for _ in range(MAX_PLACES):
            if at < 0:
                return
            end = at + len(value)
            cut_before = at > 0 and self.goal[at - 1].isalnum() and value[0].isalnum()
            cut_after = end < len(self.goal) and self.goal[end].isalnum() and value[-1].isalnum()
            if not (cut_before or cut_after):
                yield at, end
            at = self.goal.find(value, at + 1)

    def _windows(self, kind: Kind, value: Any) -> Iterator[Place]:
        """Yield where words in a row begin and end that can be read as the value."""
        width = MAX_LIST_TOKENS if kind == "list" else MAX_READ_TOKENS
        tokens: Sequence[Token] = self._tokens
        for first, token in enumerate(tokens):
            for last in tokens[first : first + width]:
                at = (token.start, last.end)
                if self._means(kind, at, value, ()):
                    yield at

    def _reads(self, parameter: Parameter, place: Place, value: Any) -> bool:
        return self._means(parameter.kind, place, value, parameter.choices)

    def _means(self, kind: Kind, place: Place, value: Any, choices: Sequence[str]) -> bool:
        start, end = place
        if kind in _COUNTED | {"money"} and is_cut(self.goal, start, end):
            return False
        try:
            found = read(kind, self.goal[start:end], self.today, choices)
        except Unreadable:
            return False
        return _same(found, value)

    def _key(self, parameter: Parameter, value: Any) -> str | None:
        same = [name for name in sorted(self.context) if _same(self.context[name], value)]
        return parameter.name if parameter.name in same else next(iter(same), None)


def entity_of(parameter: Parameter, goal: str, argument: trajectory_pb2.FilledArgument) -> str:
    """Name what words of a goal stand for, so that a split can keep all that is about it together."""
    words = goal[argument.span.start : argument.span.end]
    return f"{parameter.name}={' '.join(words.casefold().split())}"


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are one: true is not 1."""
    return values.encode(one) == values.encode(other)
