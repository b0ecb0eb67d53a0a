"""What the network reads of a situation: the goal's words, and what was done before, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from actors.models.lam.closed_set import ClosedSet, choices_of
from actors.models.lam.layout import MATCHES, MAX_LENGTH, MAX_PAST
from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.text import FEATURES, MAX_TOKENS, Features, Token, features_of, tokens_of
from handrail.v1 import trajectory_pb2


class TooLong(ValueError):
    """A goal of more words than the network reads, or more steps than it looks back on."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A field of what an earlier step returned: which step it is, from 1, and where it lies in the arrays."""

    step: int
    id: str
    option: str
    path: str
    kind: Kind
    at: int


@dataclass(frozen=True)
class Situation:
    """What is read before one decision. The first place is no word's: what all of it means is found there."""

    tokens: Sequence[Token]
    features: Features
    # 0 for the goal, n for the name of the nth step.
    segments: NDArray[np.int32]
    # n for a word that the nth step was called with.
    used: NDArray[np.int32]
    candidates: Sequence[Candidate] = field(default=())

    def __len__(self) -> int:
        return len(self.features)


def read_situation(
    goal: str,
    past: Sequence[trajectory_pb2.PastStep],
    closed: ClosedSet,
    tokens: Sequence[Token] | None = None,
) -> Situation:
    """Return what the network reads; raises TooLong."""
    tokens = tokens_of(goal) if tokens is None else tokens
    if len(tokens) > MAX_TOKENS or len(past) > MAX_PAST:
        raise TooLong(f"it reads goals of {MAX_TOKENS} words and looks back on {MAX_PAST} steps")
    words = [token.text for token in tokens]
    segments = [0] * (len(words) + 1)
    used = np.zeros(MAX_LENGTH, np.int32)
    candidates: list[Candidate] = []
    for number, step in enumerate(past, 1):
        if step.call.option not in closed.index:
            continue
        option = closed.options[closed.index[step.call.option]]
        named = option.words.split()[: (MAX_LENGTH - 1 - MAX_TOKENS) // MAX_PAST]
        words += named
        segments += [number] * len(named)
        for filled in step.call.arguments.values():
            if filled.WhichOneof("source") == "span":
                for at, token in enumerate(tokens, 1):
                    if token.start < filled.span.end and token.end > filled.span.start:
                        used[at] = number
        for one in option.fields:
            at = closed.field_at[option.name, one.path]
            candidates.append(Candidate(number, step.id, option.name, one.path, one.kind, at))
    features = np.zeros((len(words) + 1, FEATURES), np.int32)
    features[1:] = features_of(words)
    return Situation(tokens, features, np.array(segments, np.int32), used[: len(features)], candidates)


def matches_of(option: Option, parameter: Parameter, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
    """Say of each field how it fits a parameter: by kind, by name, by whose name it is, by nearness."""
    found = np.zeros((len(candidates), MATCHES), np.float32)
    wanted = parameter.name.split("_")
    for row, one in zip(found, candidates, strict=True):
        last = one.path.rpartition(".")[2]
        row[0] = one.kind == parameter.kind
        row[1] = last == parameter.name
        row[2] = last == wanted[-1] and wanted[0] in one.option
        row[3] = one.step == candidates[-1].step
    return found


def said_of(parameter: Parameter, tokens: Sequence[Token]) -> NDArray[np.float32]:
    """Say of each listed value of a parameter whether all its words stand in the goal."""
    words = {token.text.casefold() for token in tokens}
    listed = choices_of(parameter.kind, parameter.choices)
    return np.array([all(w in words for w in choice.casefold().split("_")) for choice in listed], np.float32)
