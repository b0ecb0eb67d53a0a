"""Goals that ask for more than one thing: two or three recipes in a row, or one for several numbers.

What a goal of several parts is made of is told by its pattern, part by part, so that a wording that is held
back is held back in company too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from actors.models.lam.noise import Piece
from actors.models.lam.options import Option
from actors.models.lam.recipes import Recipe, Step
from actors.models.lam.templates import Draw, Emit

JOINT = "\n+\n"
"""Between the patterns of a goal's parts."""
THREE = 0.2
"""How many goals of several parts have three."""
PLURAL = 0.8
MAX_DRAWS = 20
AGAIN = 0.12
"""How often the noun is said with each number: "order 1 and order 2"."""

_NEXT = (
    " and ",
    " and ",
    ", and ",
    " and then ",
    ", then ",
    " & ",
    "; ",
    ", and also ",
    " plus ",
    ", after that ",
)
_NEW = (". ", ". Then ", ". Also, ", ". After that, ", ". And ", "; ", "\n", ".\n", "\n- ", " - then ")
_AFTER_TEXT = ("\n", ".\n", ". Then ", ". After that, ", ". Also ")
_BEFORE_LAST = (" and ", " and ", " and ", " & ", ", ", ", and ", " + ", " as well as ", " and also ")
_NOUN = re.compile(
    r"\b(order|ticket|case|customer|client|account|invoice|bill|meeting|slot|appointment|booking|reservation"
    r"|employee|colleague|refund|request|note|task|draft)( (?:no\.? |number |nr\.? |num |# ?|ID )?)$",
    re.IGNORECASE,
)


def in_a_row(parts: Sequence[Recipe], open_end: Callable[[Sequence[Piece]], bool]) -> Recipe:
    """Return what asks for one thing and then for others; `open_end` says where a text would run on."""

    def emit(draw: Draw) -> None:
        for number, part in enumerate(parts):
            inner = Draw(draw.rng, draw.today)
            part.emit(inner)
            if number:
                draw.pieces.append((_joint(draw, parts[number - 1 : number + 1], open_end), None))
            draw.pieces += [
                (text, blank and replace(blank, name=_of(number, blank.name))) for text, blank in inner.pieces
            ]
            draw.listed |= {_of(number, name): value for name, value in inner.listed.items()}

    steps = [
        Step(step.option, {name: _of(number, source) for name, source in step.arguments.items()})
        for number, part in enumerate(parts)
        for step in part.steps
    ]
    pattern = JOINT.join(part.pattern for part in parts)
    return Recipe(pattern, emit, parts[0].asking, tuple(steps))


def adds_to(parts: Sequence[Recipe], other: Recipe) -> bool:
    """Whether something can be asked for beside other things: not twice the same."""
    option = other.steps[0].option
    return any(one.required for one in option.parameters) or all(
        step.option != option for part in parts for step in part.steps
    )


def counted(option: Option) -> str | None:
    """Return the parameter of which a goal may name several: the only one that is required, a number."""
    required = [one for one in option.parameters if one.required]
    return required[0].name if len(required) == 1 and required[0].kind == "integer" else None


def for_each(recipe: Recipe, times: int, pool: Callable[[str], Emit]) -> Recipe:
    """Return what asks for the same thing for several numbers; `pool` says where these are drawn from."""
    (step,) = recipe.steps
    counting = counted(step.option)
    assert counting is not None, "of what is not counted there is one"
    source = step.arguments[counting]

    def emit(draw: Draw) -> None:
        recipe.emit(draw)
        places = [at for at, (_, one) in enumerate(draw.pieces) if one is not None and one.name == source]
        if not places:
            return
        at = places[0]
        text, blank = draw.pieces[at]
        assert blank is not None
        before = draw.pieces[at - 1][0] if at else ""
        noun = _NOUN.search(before)
        again = noun[1] + noun[2] if noun and draw.rng.random() < AGAIN else ""
        if noun and not again and draw.rng.random() < PLURAL:
            before = f"{before[: noun.end(1)]}s{noun[2]}"
        found: list[Piece] = [(text, replace(blank, name=_of(0, source)))]
        for number in range(1, times):
            last = number == times - 1
            joint = _BEFORE_LAST[int(draw.rng.random() * len(_BEFORE_LAST))] if last else ", "
            other = _other(draw, pool(blank.pool), [text for text, _ in found])
            found += [(joint + again, None), (other, replace(blank, name=_of(number, source)))]
        draw.pieces[max(0, at - 1) : at + 1] = [(before, None), *found] if at else found

    steps = [Step(step.option, {**step.arguments, counting: _of(number, source)}) for number in range(times)]
    return Recipe(recipe.pattern, emit, recipe.asking, tuple(steps))


def how_many(rng: Random) -> int:
    """Draw of how many parts a goal is."""
    return 3 if rng.random() < THREE else 2


def _other(draw: Draw, emit: Emit, texts: Sequence[str]) -> str:
    """Draw a number that is none of those that were said, as far as there are others."""
    found = draw.text(emit)
    for _ in range(MAX_DRAWS):
        if found not in texts:
            break
        found = draw.text(emit)
    return found


def _of(number: int, name: str) -> str:
    return f"{number}.{name}"


def _joint(draw: Draw, beside: Sequence[Recipe], open_end: Callable[[Sequence[Piece]], bool]) -> str:
    """Return what is said between two parts."""
    row = _NEXT if all(one.asking for one in beside) else _NEW
    joints: Sequence[str] = _AFTER_TEXT if open_end(draw.pieces) else row
    return joints[int(draw.rng.random() * len(joints))]
