"""Goals as steps: what a customer wrote is given to a step that may do some things and no others.

There is no playbook in a step, so what people would say for one means the tool behind it (`means` in the
grammar). What a step has to know and nobody said stands beside the words, as what else it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from actors.models.lam.grammar import References
from actors.models.lam.options import Option, Parameter
from actors.models.lam.recipes import Recipe, Step
from actors.models.lam.templates import Blank, Draw, Emit

BESIDE = 0.75
"""How often what was not said stands beside the words."""
MOST_GRANTED = 6

_PLAIN = frozenset({"integer", "money", "date", "time", "email"})


class Granted:
    """Makes steps of recipes."""

    def __init__(
        self,
        options: Sequence[Option],
        means: Mapping[str, Mapping[str, References]],
        pool_of: Callable[[Blank, Parameter], str],
        pool: Callable[[str], Emit],
    ) -> None:
        self._options = {one.name: one for one in options}
        self._tools = [one for one in options if not one.is_playbook]
        self._means = means
        self._pool_of, self._pool = pool_of, pool

    def takes(self, recipe: Recipe) -> bool:
        """Whether something can be said to a step."""
        if len(recipe.steps) != 1:
            return not recipe.steps and bool(self._tools)
        option = recipe.steps[0].option
        return not option.is_playbook or bool(self._means.get(option.name))

    def offered(self, recipe: Recipe, rng: Random) -> list[str]:
        """Return the tools that a step is granted: that which is meant, and others."""
        names = {step.option.name for step in recipe.steps}
        for _ in range(1 + int(rng.random() * MOST_GRANTED)):
            names.add(self._tools[int(rng.random() * len(self._tools))].name)
        return sorted(names)

    def of(self, recipe: Recipe, rng: Random) -> Recipe:
        """Return what is said, meant for a step."""
        if not recipe.steps:
            return recipe
        (step,) = recipe.steps
        if step.option.is_playbook:
            meant = self._means[step.option.name]
            name = sorted(meant)[int(rng.random() * len(meant))]
            arguments = {
                taken: step.arguments[slot] for taken, slot in meant[name].items() if slot in step.arguments
            }
            step = Step(self._options[name], arguments)
        beside = [
            one
            for one in step.option.parameters
            if one.required
            and one.kind in _PLAIN
            and one.name not in step.arguments
            and rng.random() < BESIDE
        ]
        labels = {one.name: _label(one.name, rng) for one in beside}
        first = rng.random() < 0.5

        def emit(draw: Draw) -> None:
            if first:
                self._give(draw, beside, labels, before=True)
            recipe.emit(draw)
            if not first:
                self._give(draw, beside, labels, before=False)

        given = {**step.arguments, **{one.name: _given(one.name) for one in beside}}
        return Recipe(recipe.pattern, emit, False, (Step(step.option, given),), recipe.asks)

    def _give(
        self, draw: Draw, beside: Sequence[Parameter], labels: Mapping[str, str], *, before: bool
    ) -> None:
        for one in beside:
            blank = Blank(one.name, one.name)
            pool = self._pool_of(blank, one)
            text = " ".join(draw.text(self._pool(pool)).split())
            value = (text, Blank(_given(one.name), pool))
            label = f"{labels[one.name]}: "
            draw.pieces += [(label, None), value, ("\n", None)] if before else [(f"\n{label}", None), value]


def _given(name: str) -> str:
    return f"given.{name}"


def _label(name: str, rng: Random) -> str:
    words = name.replace("_", " ")
    return (words, words, name, words.removesuffix(" id"), f"goal {words}")[int(rng.random() * 5)]
