"""Recipes: a grammar's templates, compiled for the options of a project, each with what it decides.

What a blank is filled with depends on the parameter that it fills: a listed value is said in its own words
and is `Enumerated`; everything else is drawn from a pool and is a span of the goal.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from actors.models.lam.generic import beside, spoken
from actors.models.lam.grammar import BadGrammar, Grammar, Said
from actors.models.lam.options import Option, Parameter
from actors.models.lam.templates import BadTemplate, Blank, Draw, Emit, Fill, Templates
from core import spelling

PLAYBOOK_WEIGHT = 5.0
SAID_WEIGHT = 0.8
"""Of a tool that people hardly ask for, where somebody has said how they do."""
BESIDE = 5.0
"""The weight of what lies near the options of a project without a grammar, where each other group has 1."""
QUOTED_GOALS = 0.08
"""Of the texts that goals carry, how many read like a goal themselves."""
_QUOTES = re.compile(r"[\"“”„‘’«»]|(?<!\w)'|'(?!\w)")
MAX_DRAWS = 20
OWN_PHRASES = 0.12
"""Of the goals of an option that the grammar knows, how many are said as its own phrases and name say it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its option, and for each argument a blank or a field of an earlier step ("$s1.id")."""

    option: Option
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to say something, and what it decides; no steps is to abstain."""

    # The template that it was compiled of.
    pattern: str
    emit: Emit
    # It can follow "could you please".
    asking: bool
    steps: tuple[Step, ...] = ()
    # Somebody has to be asked for what is missing.
    asks: bool = False


_BENDING = frozenset({"date", "time", "moment"})

Choices = Sequence[tuple[float, Sequence[Recipe]]]
"""Groups of recipes with their weights."""


class Recipes:
    """Everything that can be said in a project."""

    def __init__(self, options: Sequence[Option], grammar: Grammar) -> None:
        self._options = {one.name: one for one in options}
        self._grammar = grammar
        self._templates = Templates(grammar.pieces)
        self._pools: dict[str, Emit] = {}
        self._texts: dict[tuple[str, ...], list[Emit]] = {}
        self._wishes: dict[str, tuple[list[Recipe], list[Recipe]]] = {}
        said = {one.name: grammar.options.get(one.name, Said()) for one in options}
        plain = {one.name: spoken(one) if said[one.name].plain else Said() for one in options}
        for name in grammar.options:
            self._option(name, "the grammar")
        self.calls: list[tuple[float, list[Recipe]]] = []
        try:
            self.calls = [self._calls(one, said[one.name], plain[one.name]) for one in options]
            self.asks = [self._asks(one, said[one.name], plain[one.name]) for one in options]
            self.chains = self._chains()
            self.outside = self._outside()
            self._unwished = [recipe for one in options for recipe in self._denied(one, said[one.name])]
        except BadTemplate as error:
            raise BadGrammar(str(error)) from None
        self.calls = [group for group in self.calls if group[0] and group[1]]
        self.asks = [group for group in self.asks if group[0] and group[1]]

    def framed(self, texts: Sequence[str]) -> list[tuple[Emit, Emit]]:
        """Return what is put before and after a goal."""
        halves = [text.partition("~") for text in texts]
        before, after = (
            self.texts([left for left, _, _ in halves]),
            self.texts([right for *_, right in halves]),
        )
        return list(zip(before, after, strict=True))

    def unwanted(self) -> Choices:
        """Return what says of a call, however it is weighed, that nobody wants it."""
        texts = self._grammar.typing.unwanted
        calls = [(weight, [one for one in group if one.asking]) for weight, group in self.calls]
        weighed = [(weight, group) for weight, group in calls if group]
        if not texts or not weighed:
            return [(1.0, self._unwished)] if self._unwished else []
        total = list(accumulate(weight for weight, _ in weighed))

        def within(before: Emit, after: Emit, follows: bool) -> Emit:
            def emit(draw: Draw) -> None:
                before(draw)
                for _ in range(MAX_DRAWS):
                    drawn = draw.rng.random() * total[-1]
                    _, group = weighed[min(bisect(total, drawn), len(weighed) - 1)]
                    inner = Draw(draw.rng, draw.today)
                    group[int(draw.rng.random() * len(group))].emit(inner)
                    # What follows a text would be a part of it, and deny nothing.
                    if not (follows and self.open_end(inner.pieces)):
                        break
                draw.pieces.append(("".join(text for text, _ in inner.pieces), None))
                after(draw)

            return emit

        frames = zip(texts, self.framed(texts), strict=True)
        recipes = [
            Recipe(text, within(*halves, follows=not text.endswith("~")), False) for text, halves in frames
        ]
        # Few of its own do not outweigh the many that hold for every option.
        share = min(1.0, len(self._unwished) / len(recipes))
        return [(1.0, recipes), (share, self._unwished)] if self._unwished else [(1.0, recipes)]

    def open_end(self, pieces: Sequence[tuple[str, Blank | None]]) -> bool:
        """Whether what follows the goal would be taken for a part of the text that it ends with."""
        last = next((blank for text, blank in reversed(pieces) if text), None)
        return last is not None and last.pool in self._grammar.prose

    def texts(self, texts: Sequence[str]) -> list[Emit]:
        """Return what draws each of these, which have no blanks."""
        found = self._texts.get(tuple(texts))
        if found is None:
            try:
                found = [self._templates.compile(text) for text in texts]
            except BadTemplate as error:
                raise BadGrammar(str(error)) from None
            self._texts[tuple(texts)] = found
        return found

    def wishes(self, name: str, said: Said) -> tuple[list[Recipe], list[Recipe]]:
        """Return what is said for a tool to a step, with all that is needed and without."""
        if name not in self._wishes:
            option = self._option(name, "steps")
            if said.unwished:
                raise BadGrammar(f"steps: what is said to {name} is unwished by what is put around it alone")
            try:
                calls = self._said(option, said.do, True) + self._said(option, said.say, False)
                self._wishes[name] = calls, self._said(option, said.ask, False, asks=True)
            except BadTemplate as error:
                raise BadGrammar(str(error)) from None
        return self._wishes[name]

    def _option(self, name: str, where: str) -> Option:
        if name not in self._options:
            told = spelling.hint(name, self._options)
            raise BadGrammar(f"{where} has {name!r}, which is no option of the project{told}")
        return self._options[name]

    def _calls(self, option: Option, said: Said, plain: Said) -> tuple[float, list[Recipe]]:
        weight = said.weight
        if weight is None:
            weight = PLAYBOOK_WEIGHT if option.is_playbook else plain.weight or 1.0
            weight = max(weight, SAID_WEIGHT) if said.do or said.say else weight
        own = self._said(option, said.do, True) + self._said(option, said.say, False)
        general = self._said(option, plain.do, True) + self._said(option, plain.say, False)
        if own and general:
            # As often as the share says, whatever the number of either.
            times = max(1, round(len(general) / OWN_PHRASES / len(own)))
            own = own * times
        return weight, own + general

    def _asks(self, option: Option, said: Said, plain: Said) -> tuple[float, list[Recipe]]:
        texts = said.ask or plain.ask
        weight = PLAYBOOK_WEIGHT if option.is_playbook else 1.0
        return weight if said.weight != 0 else 0.0, self._said(option, texts, False, asks=True)

    def _denied(self, option: Option, said: Said) -> list[Recipe]:
        """Return what sounds like an option: its blanks are filled, and nothing is meant by it."""

        def plain(emit: Emit) -> Emit:
            return lambda draw: draw.pieces.append((draw.text(emit), None))

        return [
            Recipe(one.pattern, plain(one.emit), False) for one in self._said(option, said.unwished, False)
        ]

    def _said(
        self, option: Option, texts: Sequence[str], asking: bool, *, asks: bool = False
    ) -> list[Recipe]:
        found = []
        for text in texts:
            parameters = {one.name: one for one in option.parameters}
            names: dict[str, str] = {}
            emit = self._templates.compile(text, self._fill(parameters, names))
            found.append(Recipe(text, emit, asking, (Step(option, names),), asks))
        return found

    def _chains(self) -> Choices:
        groups: list[tuple[float, list[Recipe]]] = []
        for chain in self._grammar.chains:
            named = [(name, arguments) for step in chain.steps for name, arguments in step.items()]
            steps = tuple(Step(self._option(name, "a chain"), arguments) for name, arguments in named)
            parameters: dict[str, Parameter] = {}
            for at, step in enumerate(steps):
                for name, source in step.arguments.items():
                    parameter = step.option.parameter(name)
                    if parameter is None:
                        raise BadGrammar(f"a chain gives {step.option.name} {name!r}, which it does not take")
                    if not source.startswith("$"):
                        parameters.setdefault(source, parameter)
                    elif not _is_returned(source, steps[:at]):
                        told = f"a chain gives {step.option.name} {source!r}"
                        raise BadGrammar(f"{told}, which no step before it returns")
            for texts, asking in ((chain.do, True), (chain.say, False)):
                recipes = [
                    Recipe(text, self._templates.compile(text, self._fill(parameters, {})), asking, steps)
                    for text in texts
                ]
                if recipes:
                    groups.append((len(recipes) ** 0.5, recipes))
        return groups

    def _outside(self) -> Choices:
        def decoy(blank: Blank) -> Emit:
            return self.pool(blank.pool)

        groups: list[tuple[float, Sequence[str]]] = [(1.0, texts) for texts in self._grammar.outside.values()]
        if not self._grammar.options:
            # Nobody has said what lies near.
            groups.append((BESIDE, beside(list(self._options.values()))))
        return [
            (weight, [Recipe(text, self._templates.compile(text, decoy), False) for text in texts])
            for weight, texts in groups
            if texts
        ]

    def _fill(self, parameters: Mapping[str, Parameter], names: dict[str, str]) -> Fill:
        """Return what fills the blanks of a template for these parameters, noting their names."""

        def fill(blank: Blank) -> Emit:
            if blank.decoy:
                return self.pool(blank.pool)
            parameter = parameters.get(blank.name)
            if parameter is None:
                raise BadTemplate(
                    f"{{{blank.name}}} is filled into nothing; there are {', '.join(parameters)}"
                )
            names[blank.name] = blank.name
            if parameter.kind == "choice":
                return self._choice(blank, parameter)
            return self._span(blank, parameter)

        return fill

    def _choice(self, blank: Blank, parameter: Parameter) -> Emit:
        said = self._grammar.listed.get(parameter.name, {})
        choices = [blank.listed] if blank.listed else list(parameter.choices)
        if blank.listed and blank.listed not in parameter.choices:
            raise BadTemplate(f"{blank.listed!r} is none of {', '.join(parameter.choices)}")
        words = [self._templates.any_of(said.get(one) or (one.replace("_", " "),)) for one in choices]

        def emit(draw: Draw) -> None:
            index = int(draw.rng.random() * len(choices))
            draw.listed[blank.name] = choices[index]
            if not blank.listed:
                words[index](draw)

        return emit

    def _span(self, blank: Blank, parameter: Parameter) -> Emit:
        name = self.pool_of(blank, parameter)
        pool = self.pool(name)
        bends = parameter.kind in _BENDING or name in self._grammar.bending or name in self._grammar.prose
        marked = Blank(blank.name, name, bends=bends)
        prose = name in self._grammar.prose

        def emit(draw: Draw) -> None:
            quoting = prose and self.calls and draw.rng.random() < QUOTED_GOALS
            said = self._any_goal(draw) if quoting else draw.text(pool)
            draw.pieces.append((_fitting(parameter, said), marked))

        return emit

    def _any_goal(self, draw: Draw) -> str:
        """Draw a goal that is a text's content, and not for anybody to carry out."""
        _, recipes = self.calls[int(draw.rng.random() * len(self.calls))]
        text = draw.text(recipes[int(draw.rng.random() * len(recipes))].emit)
        return _QUOTES.sub("", text) or "it"

    def pool_of(self, blank: Blank, parameter: Parameter) -> str:
        """Return the pool that is named, that of the parameter's name, or that of its kind."""
        if blank.pool != blank.name:
            return blank.pool
        if parameter.name in self._grammar.pools:
            return parameter.name
        if parameter.kind in ("text", "word", "other"):
            words = [parameter.name, *parameter.name.split("_")[::-1]]
            named = [self._grammar.named[word] for word in words if word in self._grammar.named]
            found = named[0] if named else parameter.kind if parameter.kind != "other" else "text"
            one_word = f"{found}_word"
            return one_word if parameter.kind == "word" and one_word in self._grammar.pools else found
        return parameter.kind

    def value(self, draw: Draw, parameter: Parameter) -> str:
        """Draw a value for a parameter."""
        name = self.pool_of(Blank(parameter.name, parameter.name), parameter)
        return _fitting(parameter, draw.text(self.pool(name)))

    def pool(self, name: str) -> Emit:
        """Return what draws a value of a pool."""
        if name not in self._grammar.pools:
            raise BadTemplate(f"there is no pool {name!r}")
        if name not in self._pools:
            self._pools[name] = self._templates.any_of(self._grammar.pools[name])
        return self._pools[name]


def _is_returned(source: str, steps: Sequence[Step]) -> bool:
    """Whether one of the steps returns a field: "$s1.customer_id"."""
    returned = {f"$s{at}.{field.path}" for at, one in enumerate(steps, 1) for field in one.option.fields}
    return source in returned


def _fitting(parameter: Parameter, text: str) -> str:
    """Return a text as far as it is one for this parameter."""
    words = text.split()
    return words[0] if parameter.kind == "word" and not parameter.weeks else " ".join(words)
