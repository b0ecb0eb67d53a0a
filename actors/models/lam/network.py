"""The network in NumPy: the same sums as in torch, without its 700 MB and its second to import.

A closed set is encoded once; a decision then reads the situation once, scores the options, and fills the
parameters of the one that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from actors.models.lam.closed_set import OTHERS, ClosedSet, Parts
from actors.models.lam.layout import MAX_LENGTH, Measures
from actors.models.lam.reader import Situation

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Weights = Mapping[str, Floats]
Encode = Callable[[Sequence[Situation]], list[Floats]]
"""What reads situations: each place of each becomes what it means."""
_NORM_EPSILON = np.float32(1e-5)
_GELU = np.float32(math.sqrt(2 / math.pi))


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """The vectors of a closed set; those of the options come after the other decisions'."""

    options: Floats
    parameters: Floats
    choices: Floats
    fields: Floats


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of parameters, a row each: where their values come from, and which words they are."""

    rows: Floats
    sources: Floats
    first: Floats
    last: Floats


class Network:
    """Scores; what they mean is for others to say."""

    def __init__(self, weights: Weights, measures: Measures | None = None) -> None:
        self.weights = weights
        self.measures = measures or Measures()
        self._scale = np.float32(1 / math.sqrt(self.measures.width))

    def encode_set(self, closed: ClosedSet) -> EncodedSet:
        """Return the vectors of a closed set."""
        sorts = {"option": closed.tops, "parameter": closed.parameters}
        sorts |= {"choice": closed.choices, "field": closed.fields}
        found = {sort: self._bag(sort, parts) for sort, parts in sorts.items()}
        options = np.concatenate([self.weights["others"], found["option"]])
        assert len(options) == OTHERS + len(closed.options)
        return EncodedSet(options, found["parameter"], found["choice"], found["field"])

    def encode(self, situations: Sequence[Situation]) -> list[Floats]:
        """Return what each place of each situation means."""
        features, segments, used, mask = filled_up(situations)
        length = mask.shape[1]
        x = self._words(features) + self.weights["position.weight"][:length]
        x = x + self.weights["segment.weight"][segments] + self.weights["used.weight"][used]
        x[:, 0] += self.weights["start"]
        hidden = np.where(mask, np.float32(0), np.float32(-1e9))[:, None, None, :]
        for layer in range(self.measures.layers):
            x = self._layer(f"layers.{layer}.", x, hidden)
        x = self._norm("norm", x)
        return [x[row, : len(one)] for row, one in enumerate(situations)]

    def score_options(self, states: Floats, encoded: EncodedSet) -> Floats:
        """Return the score of each decision: the others, then the options."""
        asked = self._linear("ask_option", states[0])
        return cast(Floats, (encoded.options @ asked) * self._scale)

    def fill(self, states: Floats, option: Floats, parameters: Floats) -> Known:
        """Return what is known of the parameters of an option."""
        around = np.broadcast_to(np.concatenate([states[0], option]), (len(parameters), 2 * len(option)))
        query = self._linear("query", np.concatenate([around, parameters], -1))
        weights = softmax((self._linear("look", query) @ states.T) * self._scale)
        context = weights @ self._linear("take", states)
        thought = _gelu(self._linear("think", np.concatenate([query, context], -1)))
        rows = self._norm("settle", query + thought)
        first = (self._linear("ask_first", rows) @ self._linear("be_first", states).T) * self._scale
        last = (self._linear("ask_last", rows) @ self._linear("be_last", states).T) * self._scale
        return Known(rows, self._linear("source", rows), first, last)

    def score_choices(self, row: Floats, choices: Floats, said: Floats) -> Floats:
        """Return the score of each value that a parameter's schema lists."""
        scores = (choices @ self._linear("ask_choice", row)) * self._scale
        return cast(Floats, scores + said * self.weights["said.weight"][0, 0])

    def score_fields(self, row: Floats, fields: Floats, steps: NDArray[np.int32], matches: Floats) -> Floats:
        """Return the score of each field of what earlier steps returned."""
        held = fields + self.weights["segment.weight"][steps]
        scores = (held @ self._linear("ask_field", row)) * self._scale
        return cast(Floats, scores + matches @ self.weights["near.weight"][0])

    def _bag(self, sort: str, parts: Parts) -> Floats:
        both = np.concatenate([self._mean(parts.names), self._mean(parts.words)], -1)
        inner = self._linear(f"{sort}.second", _gelu(self._linear(f"{sort}.first", both)))
        marks = (
            self.weights[f"{sort}.kind.weight"][parts.kinds]
            + self.weights[f"{sort}.flag.weight"][parts.flags]
        )
        return self._norm(f"{sort}.norm", inner + marks)

    def _mean(self, features: NDArray[np.int32]) -> Floats:
        known = (features[..., :1] > 0).astype(np.float32)
        return cast(Floats, (self._words(features) * known).sum(-2) / np.maximum(known.sum(-2), 1))

    def _words(self, features: NDArray[np.int32]) -> Floats:
        tables = [self.weights[f"words.tables.{i}.weight"] for i in range(features.shape[-1])]
        found = tables[0][features[..., 0]]
        for i, table in enumerate(tables[1:], 1):
            found = found + table[features[..., i]]
        return found

    def _layer(self, name: str, x: Floats, hidden: Floats) -> Floats:
        batch, length, width = x.shape
        heads = self.measures.heads
        split = self._linear(f"{name}qkv", self._norm(f"{name}before", x))
        q, k, v = split.reshape(batch, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) * np.float32(1 / math.sqrt(width // heads))
        seen = (softmax(scores + hidden) @ v).swapaxes(1, 2).reshape(batch, length, width)
        x = x + self._linear(f"{name}out", seen)
        inner = _gelu(self._linear(f"{name}up", self._norm(f"{name}between", x)))
        return x + self._linear(f"{name}down", inner)

    def _linear(self, name: str, x: Floats) -> Floats:
        return cast(Floats, x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + _NORM_EPSILON)
        return cast(Floats, centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])


def filled_up(situations: Sequence[Situation]) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
    """Return features, segments and uses as long as the longest situation, and where each has words."""
    length = max(len(one) for one in situations)
    assert length <= MAX_LENGTH
    features = np.zeros((len(situations), length, situations[0].features.shape[1]), np.int32)
    segments, used = np.zeros((2, len(situations), length), np.int32)
    mask = np.zeros((len(situations), length), bool)
    for row, one in enumerate(situations):
        features[row, : len(one)] = one.features
        segments[row, : len(one)], used[row, : len(one)] = one.segments, one.used
        mask[row, : len(one)] = True
    return features, segments, used, mask


def _gelu(x: Floats) -> Floats:
    return cast(Floats, np.float32(0.5) * x * (1 + np.tanh(_GELU * x * (1 + np.float32(0.044715) * x * x))))


def softmax(x: Floats) -> Floats:
    """Return shares of scores, along the last axis."""
    raised = np.exp(x - x.max(-1, keepdims=True))
    return cast(Floats, raised / raised.sum(-1, keepdims=True))
