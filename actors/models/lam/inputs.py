"""What a step was given as one text: what it is for, and a line for each value within its inputs.

The generator writes its steps with this very function, so that what is learnt and what is read look the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.slots import is_money, write_money

Place = tuple[int, int]
"""Where words stand in a text, from and to."""
MAX_LEAVES = 64
MAX_DEPTH = 6
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NAMES = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value of an input as text, and where it stands in what is read; the title has no path."""

    path: str
    start: int
    end: int
    # Where its text begins in the value; None where the value is no text, and has another form here.
    skipped: int | None = 0


class TooMuch(ValueError):
    """Inputs that are not read whole: something of them could be just what matters."""


def text_of(title: str, inputs: Mapping[str, Any]) -> tuple[str, list[Leaf]]:
    """Return what the model reads of a step, and where each value stands in it; raises TooMuch."""
    head = title.strip() or "Decide what to do"
    leaves = [Leaf("", 0, len(head), len(title) - len(title.lstrip()))]
    text = f"{head}:\n" if inputs else head
    for path, told, skipped in _leaves("", inputs, 0):
        if len(leaves) > MAX_LEAVES:
            raise TooMuch(f"it was given more than the {MAX_LEAVES} values that the action model reads")
        text += f"{_NAMES.sub(' ', path).strip()}: "
        leaves.append(Leaf(path, len(text), len(text) + len(told), skipped))
        text += f"{told}\n"
    return text.removesuffix("\n"), leaves


def _leaves(path: str, value: Any, depth: int) -> Iterator[tuple[str, str, int | None]]:
    """Yield the values within a value: path, text, and where the text begins in it if it is one."""
    if depth > MAX_DEPTH:
        raise TooMuch(f"it was given values that are nested deeper than the {MAX_DEPTH} levels that it reads")
    if is_money(value):
        yield path, write_money(value["minor"], value["currency"]), None
    elif isinstance(value, Mapping):
        # By their names: no two processes need have an ask's inputs in one order.
        for name, inner in sorted(value.items()):
            plain = _PLAIN.fullmatch(name) is not None
            part = f".{name}" if plain and path else name if plain else f"[{json.dumps(name)}]"
            yield from _leaves(f"{path}{part}", inner, depth + 1)
    elif isinstance(value, str):
        yield path, value.strip(), len(value) - len(value.lstrip())
    elif isinstance(value, list | tuple) and not all(isinstance(one, str | int) for one in value):
        for at, one in enumerate(value):
            yield from _leaves(f"{path}[{at}]", one, depth + 1)
    elif isinstance(value, list | tuple):
        yield path, ", ".join(map(str, value)), None
    elif isinstance(value, bool):
        yield path, "true" if value else "false", None
    elif value is not None:
        yield path, str(value), None
