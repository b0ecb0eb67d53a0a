"""Rows to train the action model from, made of a grammar: the same seed makes the same bytes.

Every value of a row was taken from somewhere, and can be read there again: `read_for(parameter,
goal[start:end], said_at)` is what the row says. Which kinds of goals there are, and how many of each, stands
in `SHARES`.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Sequence
from random import Random

from google.protobuf.timestamp_pb2 import Timestamp

from actors.models.lam import noise, several
from actors.models.lam.grammar import BadGrammar, Grammar
from actors.models.lam.granted import Given, Granted
from actors.models.lam.letters import Frame, Letters, put_around
from actors.models.lam.options import Option
from actors.models.lam.reading import Unreadable, read_for
from actors.models.lam.recipes import Choices, Recipe, Recipes, Step
from actors.models.lam.templates import Blank, Draw
from core import values
from handrail.v1 import trajectory_pb2 as pb

SHARES = {"outside": 0.125, "unwanted": 0.08, "asks": 0.09, "chains": 0.13}
"""Of the goals: what no option does, what nobody wants, what has to be asked for, several tools; the rest are
calls."""
STEPS = 0.5
"""How many are no goals of their own, but what a step was given; it has one decision, a goal mostly two."""
MAX_DRAWS = 20
IN_A_ROW = 0.15
FOR_EACH = 0.05
"""Of the calls: how many are asked for with another one, and how many for several numbers."""
ASKING = 0.45
"""How many of the goals that can follow "could you" follow something like it."""
WANTED = 0.15
"""How many of these are put with words that could deny them, and do not."""
AROUND = 0.35
"""How many have a greeting, a reason or thanks around them."""
DAYS = 365
"""Over how many days the goals were said."""
HOUR = 9


def rows(
    options: Sequence[Option], grammar: Grammar, *, seed: int, trajectories: int, today: datetime.date
) -> Iterator[pb.TrajectoryRow]:
    """Yield the rows of so many trajectories, each said within a year from `today`."""
    yield from _Generator(options, grammar, seed, today).rows(trajectories)


class _Generator:
    def __init__(self, options: Sequence[Option], grammar: Grammar, seed: int, today: datetime.date) -> None:
        self._recipes = recipes = Recipes(options, grammar)
        self._seed, self._today, self._rng = seed, today, Random(seed)
        self._synonyms = noise.Words(grammar.typing.synonyms)
        self._shorter = noise.Words(grammar.typing.shorter)
        self._asking = recipes.framed(grammar.typing.asking)
        self._around = recipes.framed(grammar.typing.around)
        self._wanted = recipes.framed(grammar.typing.wanted)
        letters = Letters(grammar.steps, recipes, self._recipes.open_end, self._asking)
        self._granted = Granted(options, grammar, recipes, letters, self._typed)
        groups = {
            "outside": recipes.outside,
            "unwanted": recipes.unwanted(),
            "asks": recipes.asks,
            "chains": recipes.chains,
        }
        groups = {name: group for name, group in groups.items() if group}
        self._kinds = [(SHARES[name], _Draws(group)) for name, group in groups.items()]
        self._calls = _Draws(recipes.calls) if recipes.calls else None
        self._pool = recipes.pool
        if self._calls:
            rest = 1.0 - sum(share for share, _ in self._kinds)
            self._kinds.append((rest, self._calls))
        if not self._kinds:
            raise BadGrammar("there is nothing that could be said: no options and no grammar")

    def rows(self, trajectories: int) -> Iterator[pb.TrajectoryRow]:
        for number in range(trajectories):
            name = f"synthetic-{self._seed}-{number}"
            said_on = self._today + datetime.timedelta(days=int(self._rng.random() * DAYS))
            given = self._granted.step(self._rng, said_on) if self._rng.random() < STEPS else None
            if given is None:
                yield from self._trajectory(name, self._draw(), said_on)
            else:
                yield self._step(name, given, said_on)

    def _draw(self) -> Recipe:
        drawn = self._rng.random()
        for share, draws in self._kinds[:-1]:
            drawn -= share
            if drawn < 0:
                return draws.one(self._rng)
        recipe = self._kinds[-1][1].one(self._rng)
        return self._in_company(recipe) if self._calls else recipe

    def _step(self, name: str, given: Given, said_on: datetime.date) -> pb.TrajectoryRow:
        """Return what is decided in a step: one thing."""
        filled = _Filled(given.text, given.spans, given.listed, said_on)
        decision = pb.Decision(abstain=pb.Abstain())
        if given.step is not None:
            decision = filled.call(given.step, asks=None, fixed=given.fixed)
        return pb.TrajectoryRow(
            trajectory=name,
            source=pb.TRAJECTORY_SOURCE_SYNTHETIC,
            goal=given.text,
            said_at=_said_at(said_on),
            decision=decision,
            entities=filled.entities,
            pattern=given.pattern,
            offered=given.offered,
        )

    def _in_company(self, recipe: Recipe) -> Recipe:
        """Return a call, or now and then something that asks for more than it."""
        assert self._calls is not None
        drawn = self._rng.random()
        if drawn < IN_A_ROW:
            parts = [recipe]
            for _ in range(several.how_many(self._rng) - 1):
                other = self._calls.one(self._rng)
                if several.adds_to(parts, other):
                    parts.append(other)
            return several.in_a_row(parts, self._recipes.open_end)
        counting = several.counted(recipe.steps[0].option)
        if drawn < IN_A_ROW + FOR_EACH and counting in recipe.steps[0].arguments:
            return several.for_each(recipe, several.how_many(self._rng), self._pool)
        return recipe

    def _trajectory(self, name: str, recipe: Recipe, said_on: datetime.date) -> Iterator[pb.TrajectoryRow]:
        draw = Draw(self._rng, said_on)
        recipe.emit(draw)
        goal, spans = self._typed(self._framed(draw, recipe))
        filled = _Filled(goal, spans, draw.listed, said_on)
        decisions = [filled.call(step, asks=recipe.asks) for step in recipe.steps]
        if not decisions:
            decisions = [pb.Decision(abstain=pb.Abstain())]
        elif not recipe.asks:
            decisions.append(pb.Decision(stop=pb.Stop()))
        past = [
            pb.PastStep(id=f"s{number}", call=decision.call)
            for number, decision in enumerate(decisions, start=1)
        ]
        for index, decision in enumerate(decisions):
            yield pb.TrajectoryRow(
                trajectory=name,
                index=index,
                source=pb.TRAJECTORY_SOURCE_SYNTHETIC,
                goal=goal,
                said_at=_said_at(said_on),
                past=past[:index],
                decision=decision,
                entities=filled.entities,
                pattern=recipe.pattern,
            )

    def _framed(self, draw: Draw, recipe: Recipe) -> Draw:
        """Put what people say around a goal around it."""
        if recipe.asking and self._wanted and self._rng.random() < WANTED:
            put_around(draw, self._one_of(self._wanted), self._recipes.open_end(draw.pieces))
        elif recipe.asking and self._asking and self._rng.random() < ASKING:
            put_around(draw, self._one_of(self._asking), self._recipes.open_end(draw.pieces))
        if self._around and self._rng.random() < AROUND:
            open_end = self._recipes.open_end(draw.pieces)
            frame = self._one_of(self._around)
            if recipe.asks and not open_end:
                # What follows what lacks something may say just that: a number, or whatever text it is.
                after = draw.text(frame[1])
                open_end = not _lacks_numbers(recipe, draw) or any(char.isdigit() for char in after)
                frame = frame[0], lambda drawn: drawn.pieces.append((after, None))
            put_around(draw, frame, open_end)
        return draw

    def _one_of(self, frames: Sequence[Frame]) -> Frame:
        return frames[int(self._rng.random() * len(frames))]

    def _typed(self, draw: Draw) -> tuple[str, dict[str, tuple[int, int, Blank]]]:
        """Type it, and say where the blanks are."""
        rng = self._rng
        shorter = rng.random() < noise.SHORTER
        pieces = []
        for text, blank in draw.pieces:
            if blank is None:
                text = self._synonyms.apply(rng, text, noise.SYNONYMS)
                text = self._shorter.apply(rng, text, 0.8) if shorter else text
            pieces.append((text, blank))
        pieces = noise.tidy(pieces)
        pieces = noise.disturb(rng, pieces, open_end=self._recipes.open_end(pieces))
        at, spans = 0, {}
        for text, blank in pieces:
            if blank is not None:
                spans[blank.name] = (at, at + len(text), blank)
            at += len(text)
        return "".join(text for text, _ in pieces), spans


def _lacks_numbers(recipe: Recipe, draw: Draw) -> bool:
    """Whether all that has to be asked for is numbers."""
    said = {blank.name for _, blank in draw.pieces if blank is not None} | set(draw.listed)
    (step,) = recipe.steps
    lacking = [
        one for one in step.option.parameters if one.required and step.arguments.get(one.name) not in said
    ]
    return all(one.kind == "integer" for one in lacking)


class _Filled:
    """A goal with its blanks filled, and the decisions that follow from it."""

    def __init__(
        self,
        goal: str,
        spans: dict[str, tuple[int, int, Blank]],
        listed: dict[str, str],
        said_on: datetime.date,
    ) -> None:
        self._goal, self._spans, self._listed, self._said_on = goal, spans, listed, said_on
        self.entities = [
            f"{blank.pool}={' '.join(goal[start:end].casefold().split())}"
            for start, end, blank in spans.values()
        ]

    def call(self, step: Step, *, asks: bool | None, fixed: Collection[str] = ()) -> pb.Decision:
        """Return the decision; `asks` says whether something is missing of it, `fixed` what is not for it."""
        call = pb.OptionCall(option=step.option.name)
        for name in fixed:
            call.arguments[name].context.key = name
        for name, source in step.arguments.items():
            if source.startswith("$"):
                at, _, path = source[1:].partition(".")
                call.arguments[name].field.CopyFrom(pb.FieldOf(step=at, path=path))
            elif source in self._listed:
                argument = call.arguments[name]
                argument.value.CopyFrom(values.inline(self._listed[source]))
                argument.enumerated.SetInParent()
            elif source in self._spans:
                self._span(call, step, name, source)
        missing = [
            one.name for one in step.option.parameters if one.required and one.name not in call.arguments
        ]
        if asks is not None and bool(missing) != asks:
            text = f"{', '.join(missing)} missing" if missing else "nothing missing"
            raise BadGrammar(f"{step.option.name} with {text}: {self._goal!r}")
        call.missing.extend(missing)
        return pb.Decision(call=call)

    def _span(self, call: pb.OptionCall, step: Step, name: str, source: str) -> None:
        start, end, _ = self._spans[source]
        parameter = step.option.parameter(name)
        assert parameter is not None, "recipes name parameters that there are"
        try:
            said = self._goal[start:end]
            value, _ = read_for(parameter, said, (0, len(said)), self._said_on)
        except Unreadable as error:
            raise BadGrammar(f"{step.option.name}.{name} in {self._goal!r}: {error}") from None
        argument = call.arguments[name]
        argument.value.CopyFrom(values.inline(value))
        argument.span.CopyFrom(pb.GoalSpan(start=start, end=end))


def _said_at(day: datetime.date) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(datetime.datetime.combine(day, datetime.time(HOUR)))
    return found


class _Draws:
    """Draws a group by its weight, and one of it evenly."""

    def __init__(self, groups: Choices) -> None:
        self._groups = groups
        self._total = sum(weight for weight, _ in groups)

    def one(self, rng: Random) -> Recipe:
        drawn = rng.random() * self._total
        for weight, group in self._groups[:-1]:
            drawn -= weight
            if drawn < 0:
                return group[int(rng.random() * len(group))]
        last = self._groups[-1][1]
        return last[int(rng.random() * len(last))]
