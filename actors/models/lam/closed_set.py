"""A closed set as arrays: what the network reads of every option, parameter, listed value and output field.

They are laid out flat, in the options' order, so that all of them are encoded at once and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from actors.models.lam.options import Kind, Option
from actors.models.lam.text import FEATURES, Features, features_of, tokens_of

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_BAG = 48
_NAMES = 8
STOP, ABSTAIN = 0, 1
"""The two decisions that are no option, before the options."""
OTHERS = 2

Bags = NDArray[np.int32]
"""The features of the words of several texts, each of MAX_BAG words at most; 0 is none."""


@dataclass(frozen=True)
class Part:
    """What one thing is made of: its name, what is said of it, and what it is."""

    names: Features
    words: Features
    kind: int = 0
    flag: int = 0


@dataclass(frozen=True)
class Parts:
    """Several things of one sort, one below the other."""

    names: Bags
    words: Bags
    kinds: NDArray[np.int32]
    flags: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.kinds)


class ClosedSet:
    """The options of a decision, and where their parts lie in the arrays."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = tuple(options)
        self.index = {option.name: i for i, option in enumerate(self.options)}
        self.parameter_at: dict[tuple[str, str], int] = {}
        self.choice_at: dict[tuple[str, str, str], int] = {}
        self.field_at: dict[tuple[str, str], int] = {}
        parameters: list[Part] = []
        choices: list[Part] = []
        fields: list[Part] = []
        for option in self.options:
            for one in option.parameters:
                self.parameter_at[option.name, one.name] = len(parameters)
                said = _features(one.text)
                parameters.append(Part(_features(one.name), said, KINDS.index(one.kind), int(one.required)))
                for choice in choices_of(one.kind, one.choices):
                    self.choice_at[option.name, one.name, choice] = len(choices)
                    choices.append(Part(_features(choice), _features("")))
            for field in option.fields:
                self.field_at[option.name, field.path] = len(fields)
                named = Part(_features(field.path), _features(option.words), KINDS.index(field.kind))
                fields.append(named)
        self.tops = _stack(
            Part(_features(o.words), _features(o.text), int(o.effect), int(o.is_playbook))
            for o in self.options
        )
        self.parameters, self.choices, self.fields = (
            _stack(parts) for parts in (parameters, choices, fields)
        )


def choices_of(kind: Kind, choices: Sequence[str]) -> Sequence[str]:
    """Return what a parameter can be by being listed."""
    return ("true", "false") if kind == "boolean" else choices


def _features(text: str) -> Features:
    words = [token.text for token in tokens_of(text.replace("_", " ").replace(".", " "))]
    return features_of([word for word in words if word[0].isalnum()])


def _stack(parts: Iterable[Part]) -> Parts:
    held = list(parts)
    return Parts(
        _bags([part.names for part in held], _NAMES),
        _bags([part.words for part in held], MAX_BAG),
        np.array([part.kind for part in held], np.int32),
        np.array([part.flag for part in held], np.int32),
    )


def _bags(texts: Sequence[Features], size: int) -> Bags:
    bags = np.zeros((len(texts), size, FEATURES), np.int32)
    for bag, text in zip(bags, texts, strict=True):
        bag[: len(text)] = text[:size]
    return bags
