"""The network's measures and the names of its weights: what training writes and inference reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actors.models.lam.closed_set import KINDS, OTHERS
from actors.models.lam.text import AFFIXES, SHAPES, WORDS

WIDTH = 192
LAYERS = 4
HEADS = 6
INNER = 768
# Tokens of the goal and of the names of what was done before.
MAX_LENGTH = 192
MAX_PAST = 6
MAX_SPAN_TOKENS = 120
EFFECTS = 8

SOURCES = ("omit", "span", "listed", "field", "missing")
"""Where the value of a parameter comes from, or that it has none."""
OMIT, SPAN, LISTED, FIELD, MISSING = range(len(SOURCES))
MATCHES = 4
"""What is told of a field beside its words: see `matches_of`."""


@dataclass(frozen=True, slots=True)
class Measures:
    """How large a network is; a test uses a small one."""

    width: int = WIDTH
    layers: int = LAYERS
    heads: int = HEADS
    inner: int = INNER


def shapes_of(measures: Measures) -> dict[str, tuple[int, ...]]:
    """Return the name and the shape of every weight."""
    return dict(_shapes(measures.width, measures.layers, measures.inner))


def _shapes(width: int, layers: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for i, size in enumerate((WORDS, AFFIXES, AFFIXES, SHAPES)):
        yield f"words.tables.{i}.weight", (size, width)
    yield "position.weight", (MAX_LENGTH, width)
    yield "segment.weight", (MAX_PAST + 1, width)
    yield "used.weight", (MAX_PAST + 1, width)
    yield "start", (width,)
    yield "others", (OTHERS, width)
    for layer in range(layers):
        at = f"layers.{layer}."
        yield from _norm(f"{at}before", width)
        yield from _norm(f"{at}between", width)
        yield from _linear(f"{at}qkv", width, 3 * width)
        yield from _linear(f"{at}out", width, width)
        yield from _linear(f"{at}up", width, inner)
        yield from _linear(f"{at}down", inner, width)
    yield from _norm("norm", width)
    yield from _norm("settle", width)
    for name, kinds in (("option", EFFECTS), ("parameter", len(KINDS)), ("choice", 1), ("field", len(KINDS))):
        yield from _linear(f"{name}.first", 2 * width, width)
        yield from _linear(f"{name}.second", width, width)
        yield f"{name}.kind.weight", (kinds, width)
        yield f"{name}.flag.weight", (2, width)
        yield from _norm(f"{name}.norm", width)
    for name in ("look", "take", "be_first", "be_last"):
        yield from _linear(name, width, width)
    for asked in ("option", "first", "last", "choice", "field"):
        yield from _linear(f"ask_{asked}", width, width)
    yield from _linear("query", 3 * width, width)
    yield from _linear("think", 2 * width, width)
    yield from _linear("source", width, len(SOURCES))
    yield "said.weight", (1, 1)
    yield "near.weight", (1, MATCHES)


def _linear(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
