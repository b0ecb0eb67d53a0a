"""From scores to a decision: what is taken, where each argument comes from, and how sure each part of it is.

A decision is valid by construction: an option that is on offer, values that its parameters can have, read
from the goal's own words, listed by the schema, or referred to. What cannot be read is not guessed at.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from actors.models.lam import when
from actors.models.lam.closed_set import ABSTAIN, OTHERS, STOP, ClosedSet, choices_of
from actors.models.lam.inputs import Place
from actors.models.lam.layout import FIELD, LISTED, MAX_SPAN_TOKENS, MISSING, OMIT, SOURCES, SPAN
from actors.models.lam.network import Encode, EncodedSet, Floats, Known, Network, softmax
from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.reader import Situation, matches_of, said_of
from actors.models.lam.reading import Unreadable, is_cut, quoted, read, read_for
from core import values
from handrail.v1 import trajectory_pb2

TRIED_SPANS = 8
MIN_AROUND = 2
"""How many words stand around a quotation that is a text of a goal, and not the goal."""
NUMBERS = frozenset({"integer", "number", "money"})
_WRITTEN: frozenset[Kind] = frozenset({"text", "word", "choice", "date", "time", "moment", "email"})
FITTING: Mapping[Kind, frozenset[Kind]] = {
    "text": _WRITTEN,
    "word": _WRITTEN,
    "email": frozenset({"email", "text"}),
    "date": frozenset({"date", "text"}),
    "time": frozenset({"time", "text"}),
    "moment": frozenset({"moment", "text"}),
    "choice": frozenset({"choice", "text"}),
    "number": frozenset({"number", "integer"}),
}
"""Of which kinds a field may be for a parameter of a kind; of the same, where nothing is said."""
MAX_BESIDE = 8
"""How many words before a part of a day or a time, and after it, may belong to it."""
ALTERNATIVES = 3


@cache
def _on_one_thread() -> object:
    """Have NumPy multiply on one thread from now on.

    Products as small as these take longer on several, and much longer where the cores are busy. It is said
    for the whole process, and once: threads that each said it for a while would undo each other's.
    """
    return ThreadpoolController().limit(limits=1, user_api="blas")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was decided, and how probable the network holds it to be."""

    # "option", or the name of a parameter.
    what: str
    # "option", or where the value comes from.
    source: str
    raw: float


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision with its parts, and the options that came next."""

    decision: trajectory_pb2.Decision
    option: Option | None
    parts: tuple[Part, ...]
    alternatives: tuple[tuple[str, float], ...]


class Decider:
    """Decides in situations of one closed set."""

    def __init__(
        self,
        network: Network,
        closed: ClosedSet,
        offered: Collection[str] | None = None,
        encode: Encode | None = None,
    ) -> None:
        """`offered` names the options that it may take, all where nothing is said; `encode` reads instead."""
        self._network = network
        self._encode = encode or network.encode
        self.closed = closed
        self._encoded: EncodedSet = network.encode_set(closed)
        known = closed.index if offered is None else offered
        # Which of the options.
        self._may = np.array([one.name in known for one in closed.options], bool)

    def without(self, names: Collection[str], *, gone: bool) -> Decider:
        """Return one that may not take some options: they have changed since it learnt, or are `gone`."""
        if gone:
            there = [one for one in self.closed.options if one.name not in names]
            offered = {one.name for one, may in zip(self.closed.options, self._may, strict=True) if may}
            return Decider(self._network, ClosedSet(there), offered, self._encode)
        found = copy.copy(self)
        found._may = self._may & [one.name not in names for one in self.closed.options]
        return found

    def decide(
        self,
        situations: Sequence[tuple[str, Situation]],
        today: datetime.date,
        among: Mapping[str, Collection[str]] | None = None,
        within: Sequence[Place] = (),
    ) -> list[Decided]:
        """Decide in each situation, goal and what is read of it; they are encoded together.

        `among` are all options that there are here, and of each the parameters that are to be filled in.
        What is read stands in one of the places of `within`, if there are any, and never across two.
        """
        _on_one_thread()
        states = self._encode([situation for _, situation in situations])
        return [
            self._decide(goal, situation, state, today, among, within)
            for (goal, situation), state in zip(situations, states, strict=True)
        ]

    def _decide(
        self,
        goal: str,
        situation: Situation,
        states: Floats,
        today: datetime.date,
        among: Mapping[str, Collection[str]] | None,
        within: Sequence[Place],
    ) -> Decided:
        scores = self._network.score_options(states, self._encoded)
        if among is not None:
            there = [at == ABSTAIN for at in range(OTHERS)] + [o.name in among for o in self.closed.options]
            scores = np.where(there, scores, np.float32(-1e9))
        shares = softmax(scores)
        ranked = [int(at) for at in np.argsort(-shares)]
        best = ranked[0]
        others = tuple(
            (self.closed.options[at - OTHERS].name, float(shares[at]))
            for at in ranked
            if at >= OTHERS and at != best and self._may[at - OTHERS]
        )[:ALTERNATIVES]
        part = Part("option", "option", float(shares[best]))
        if best == STOP:
            return Decided(trajectory_pb2.Decision(stop=trajectory_pb2.Stop()), None, (part,), others)
        # What is not on offer takes part in the choice all the same: its neighbour is not what was wanted.
        if best == ABSTAIN or not self._may[best - OTHERS] or not np.isfinite(shares).all():
            return Decided(trajectory_pb2.Decision(abstain=trajectory_pb2.Abstain()), None, (part,), others)
        option = self.closed.options[best - OTHERS]
        call = trajectory_pb2.OptionCall(option=option.name)
        parts = [part]
        if option.parameters:
            at = self.closed.parameter_at[option.name, option.parameters[0].name]
            parameters = self._encoded.parameters[at : at + len(option.parameters)]
            known = self._network.fill(states, self._encoded.options[best], parameters)
            filling = _Filling(self, goal, situation, known, today, within)
            parts += (
                filling.fill(row, option, one, call)
                for row, one in enumerate(option.parameters)
                if among is None or one.name in among[option.name]
            )
            filling.settle(call)
        return Decided(trajectory_pb2.Decision(call=call), option, tuple(parts), others)

    def choices(self, option: Option, parameter: Parameter, row: Floats, situation: Situation) -> Floats:
        """Return how probable each listed value of a parameter is."""
        listed = choices_of(parameter.kind, parameter.choices)
        at = [self.closed.choice_at[option.name, parameter.name, choice] for choice in listed]
        said = said_of(parameter, situation.tokens)
        return softmax(self._network.score_choices(row, self._encoded.choices[at], said))

    def fields(self, option: Option, parameter: Parameter, row: Floats, situation: Situation) -> Floats:
        """Return how probable each field of what earlier steps returned is."""
        candidates = situation.candidates
        at = [one.at for one in candidates]
        steps = np.array([one.step for one in candidates], np.int32)
        matches = matches_of(option, parameter, candidates)
        return softmax(self._network.score_fields(row, self._encoded.fields[at], steps, matches))


class _Filling:
    """The parameters of one option in one situation."""

    def __init__(
        self,
        decider: Decider,
        goal: str,
        situation: Situation,
        known: Known,
        today: datetime.date,
        within: Sequence[Place] = (),
    ) -> None:
        self._decider = decider
        self._goal = goal
        self._situation = situation
        self._known = known
        self._today = today
        self._within = within
        # Texts that stand for a whole quotation: where the words are that were pointed at.
        self._widened: dict[str, tuple[int, int]] = {}

    def fill(self, row: int, option: Option, parameter: Parameter, call: trajectory_pb2.OptionCall) -> Part:
        """Fill a parameter in; return where its value comes from, and how sure that is."""
        possible = np.zeros(len(SOURCES), bool)
        possible[[SPAN, MISSING if parameter.required else OMIT]] = True
        possible[LISTED] = bool(choices_of(parameter.kind, parameter.choices))
        possible[FIELD] = bool(self._fitting(parameter))
        # What can be is asked for after the shares, so that what could not be counts as doubt.
        shares = softmax(self._known.sources[row])
        source = int(np.argmax(np.where(possible, shares, -1)))
        sure = float(shares[source])
        if source == SPAN:
            sure *= self._point(row, parameter, call)
        elif source == LISTED:
            sure *= self._choose(row, option, parameter, call)
        elif source == FIELD:
            sure *= self._refer(row, option, parameter, call)
        elif source == MISSING:
            call.missing.append(parameter.name)
        return Part(parameter.name, SOURCES[source], sure)

    def _point(self, row: int, parameter: Parameter, call: trajectory_pb2.OptionCall) -> float:
        spans = self._whole(row) if parameter.kind == "text" else self._alone(row)
        for (start, stop), raw, sure in spans:
            if parameter.kind in NUMBERS and is_cut(self._goal, start, stop):
                continue
            if parameter.kind in when.KINDS:
                place = self._said_whole(parameter.kind, (start, stop))
                if place is None:
                    continue
                start, stop = place
            try:
                found, (start, stop) = read_for(parameter, self._goal, (start, stop), self._today)
            except Unreadable:
                continue
            if not parameter.takes(found) or not self._stands_together(start, stop):
                continue
            filled = call.arguments[parameter.name]
            filled.value.json = values.encode(found)
            filled.span.start, filled.span.end = start, stop
            if parameter.kind == "text" and raw != (start, stop) and not parameter.weeks:
                self._widened[parameter.name] = raw
            return sure
        if parameter.required:
            call.missing.append(parameter.name)
        return 0.0

    def _said_whole(self, kind: Kind, place: Place) -> Place | None:
        """Return where a day or a time stands whole; None where what is beside it makes it another."""
        start, stop = place
        inside = self._place(start, stop)
        begins = [one.start for one in self._situation.tokens if one.start <= start][-MAX_BESIDE - 1 :]
        ends = [one.end for one in self._situation.tokens if one.end >= stop][: MAX_BESIDE + 1]
        if self._within:
            begins = [one for one in begins if self._place(one, start) == inside]
            ends = [one for one in ends if self._place(stop, one) == inside]
        return when.whole(kind, self._goal, place, (begins, ends), self._today)

    def settle(self, call: trajectory_pb2.OptionCall) -> None:
        """Take back what was widened to a quotation that is more than that text: the whole goal, or so."""
        spans = {name: filled.span for name, filled in call.arguments.items() if filled.HasField("span")}
        for name, (start, stop) in self._widened.items():
            own = spans[name]
            others = (span for other, span in spans.items() if other != name)
            outside = [t for t in self._situation.tokens if t.end <= own.start or t.start >= own.end]
            says_more = any(span.start < own.end and span.end > own.start for span in others)
            if says_more or sum(token.text[0].isalnum() for token in outside) < MIN_AROUND:
                own.start, own.end = start, stop
                call.arguments[name].value.json = values.encode(
                    read("text", self._goal[start:stop], self._today)
                )

    def _fitting(self, parameter: Parameter) -> list[int]:
        """Return which fields hold what the parameter takes, as far as their kinds say."""
        kinds = FITTING.get(parameter.kind, frozenset({parameter.kind}))
        return [at for at, one in enumerate(self._situation.candidates) if one.kind in kinds]

    def _spans(self, row: int) -> Iterator[tuple[int, int, float]]:
        """Yield the likeliest spans of the goal, where they stand and how probable each is."""
        tokens = self._situation.tokens
        count = len(tokens)
        if not count:
            return
        first, last = (softmax(s[row, 1 : count + 1]) for s in (self._known.first, self._known.last))
        near = np.tri(count, count, MAX_SPAN_TOKENS - 1, dtype=np.float32)
        both = np.triu(np.outer(first, last)) * near
        if self._within:
            place = np.array([self._place(one.start, one.end) for one in tokens])
            both *= (place[:, None] == place) & (place >= 0)
        for at in np.argsort(-both, axis=None)[:TRIED_SPANS]:
            begin, end = divmod(int(at), count)
            if begin <= end and both[begin, end] > 0:
                yield tokens[begin].start, tokens[end].end, float(both[begin, end])

    def _place(self, start: int, stop: int) -> int:
        """Return in which of the places something stands; -1 where in none."""
        return next((at for at, (a, b) in enumerate(self._within) if a <= start and stop <= b), -1)

    def _stands_together(self, start: int, stop: int) -> bool:
        """Whether what was read does not reach beyond one of the places that it has to stand in."""
        return not self._within or self._place(start, stop) >= 0

    def _alone(self, row: int) -> Iterator[tuple[Place, Place, float]]:
        yield from (((start, stop), (start, stop), sure) for start, stop, sure in self._spans(row))

    def _whole(self, row: int) -> Iterator[tuple[Place, Place, float]]:
        """Yield the likeliest spans, what was pointed at first of each; a quotation stands for its words."""
        found: dict[Place, float] = {}
        first: dict[Place, Place] = {}
        quotations = [one for one in quoted(self._goal) if not self._within or self._place(*one) >= 0]
        for start, stop, sure in self._spans(row):
            around = [(a, b) for a, b in quotations if a <= start and stop <= b]
            key = min(around, key=lambda one: one[1] - one[0]) if around else (start, stop)
            found[key] = found.get(key, 0.0) + sure
            first.setdefault(key, (start, stop))
        yield from sorted(((key, first[key], sure) for key, sure in found.items()), key=lambda one: -one[2])

    def _choose(
        self, row: int, option: Option, parameter: Parameter, call: trajectory_pb2.OptionCall
    ) -> float:
        shares = self._decider.choices(option, parameter, self._known.rows[row], self._situation)
        best = int(np.argmax(shares))
        told: Any = choices_of(parameter.kind, parameter.choices)[best]
        filled = call.arguments[parameter.name]
        filled.value.json = values.encode(told == "true" if parameter.kind == "boolean" else told)
        filled.enumerated.SetInParent()
        return float(shares[best])

    def _refer(
        self, row: int, option: Option, parameter: Parameter, call: trajectory_pb2.OptionCall
    ) -> float:
        shares = self._decider.fields(option, parameter, self._known.rows[row], self._situation)
        best = max(self._fitting(parameter), key=lambda at: float(shares[at]))
        field = call.arguments[parameter.name].field
        field.step, field.path = self._situation.candidates[best].id, self._situation.candidates[best].path
        return float(shares[best])
