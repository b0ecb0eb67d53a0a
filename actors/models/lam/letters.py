"""Texts that somebody wrote to a step: a wish among other sentences, or none, and what others slipped in.

A text is drawn as pieces, so that it stays known which of its characters fill a blank of the wish.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from actors.models.lam.grammar import Steps
from actors.models.lam.noise import Piece
from actors.models.lam.recipes import Recipe, Recipes
from actors.models.lam.templates import Draw, Emit

T = TypeVar("T")
Frame = tuple[Emit, Emit]

MOST_SENTENCES = 4
"""One less of them stands before a wish, and as many after it; mostly fewer do."""
_ENDS = (". ", ". ", ". ", ". ", "! ", ".\n", "\n", ".\n\n")
_AFTER_TEXT = (".\n", "\n", ".\n\n", "\n\n", ". ")
_QUOTES = frozenset("\"'“”‘’«»„")
_FIRST = re.compile(r"[a-z]")


class Letters:
    """Writes what steps are given to read."""

    def __init__(
        self, steps: Steps, recipes: Recipes, open_end: Callable[[Sequence[Piece]], bool], asking: list[Frame]
    ) -> None:
        """`open_end` says where a text would run on; `asking` is what is put around what can be asked for."""
        self._open_end = open_end
        self._asking = asking
        self._around = recipes.framed(steps.around)
        self._unwished = dict(zip(steps.unwished, recipes.framed(steps.unwished), strict=True))
        self._quoted = dict(zip(steps.quoted, recipes.framed(steps.quoted), strict=True))
        self._hostile = dict(zip(steps.hostile, recipes.framed(steps.hostile), strict=True))
        self._idle = list(zip(steps.idle, recipes.texts(steps.idle), strict=True))

    def wanted(self, recipe: Recipe, draw: Draw, share: float) -> None:
        """Draw a wish; so many of those that can be asked for are."""
        recipe.emit(draw)
        if recipe.asking and self._asking and draw.rng.random() < share:
            put_around(draw, _one(draw.rng, self._asking), self._open_end(draw.pieces))

    def unwanted(self, wish: str, draw: Draw, *, quoted: bool, open_end: bool) -> str:
        """Draw a text that names a wish which nobody has; return the pattern that says so."""
        frames = self._quoted if quoted else self._unwished
        if open_end and not quoted:
            # What follows a text would be a part of it, and deny nothing.
            frames = {said: halves for said, halves in frames.items() if said.endswith("~")} or frames
        return self._within(frames, wish, draw)

    def injected(self, wish: str, draw: Draw) -> tuple[str, str]:
        """Return instructions that are nobody's, and their pattern."""
        inner = Draw(draw.rng, draw.today)
        pattern = self._within(self._hostile, wish, inner)
        return "".join(text for text, _ in inner.pieces), pattern

    def idle(self, draw: Draw) -> tuple[str, str]:
        """Return a sentence in which nothing is wanted, and its pattern."""
        pattern, emit = _one(draw.rng, self._idle)
        return draw.text(emit), pattern

    def written(self, draw: Draw, room: float) -> None:
        """Put other sentences around what was drawn, a greeting and a name; `room` says how many."""
        rng = draw.rng
        before, after = ([self.idle(draw)[0] for _ in range(_few(rng, room))] for _ in range(2))
        own, draw.pieces = draw.pieces, []
        for sentence in before:
            self._say(draw, [(sentence, None)])
        self._say(draw, own, last=not after)
        for number, sentence in enumerate(after, start=1):
            self._say(draw, [(sentence, None)], last=number == len(after))
        if self._around and rng.random() < room:
            put_around(draw, _one(rng, self._around), False)

    def _say(self, draw: Draw, pieces: list[Piece], *, last: bool = False) -> None:
        """Add a sentence, with what ends it."""
        pieces = [piece for piece in pieces if piece[0]]
        if not pieces:
            return
        rng = draw.rng
        text, blank = pieces[0]
        if blank is None and rng.random() < 0.85:
            pieces[0] = (_FIRST.sub(lambda found: found[0].upper(), text, count=1), None)
        draw.pieces += pieces
        text, _ = pieces[-1]
        if self._open_end(pieces):
            # A text of several sentences ends where the line does.
            ends: Sequence[str] = _AFTER_TEXT[:4] if ". " in text else _AFTER_TEXT
        elif text.rstrip()[-1:] in ".?!:":
            ends = (" ", " ", "\n", "\n\n")
        else:
            ends = _ENDS
        end = _one(rng, ends)
        draw.pieces.append((end.rstrip() if last and rng.random() < 0.7 else end, None))

    def _within(self, frames: dict[str, Frame], wish: str, draw: Draw) -> str:
        pattern = _one(draw.rng, list(frames))
        before, after = frames[pattern]
        before(draw)
        draw.pieces.append((wish, None))
        after(draw)
        return pattern


def put_around(draw: Draw, frame: Frame, open_end: bool) -> None:
    """Put a frame around what was drawn; nothing follows where it would be taken for a part of it."""
    before, after = frame
    own, draw.pieces = draw.pieces, []
    before(draw)
    draw.pieces += own
    if not open_end:
        after(draw)


def referring(pieces: Sequence[Piece], name: str, phrase: str) -> list[Piece]:
    """Return a wish in which a phrase stands for what filled a blank; nobody quotes a phrase."""
    found = list(pieces)
    at = next(at for at, (_, blank) in enumerate(found) if blank is not None and blank.name == name)
    found[at] = (phrase, None)
    if 0 < at < len(found) - 1 and _is_mark(found[at - 1]) and _is_mark(found[at + 1]):
        del found[at + 1], found[at - 1]
    return found


def _is_mark(piece: Piece) -> bool:
    text, blank = piece
    return blank is None and text in _QUOTES


def _few(rng: Random, room: float) -> int:
    return int(rng.random() ** 1.6 * MOST_SENTENCES * room)


def _one(rng: Random, of: Sequence[T]) -> T:
    return of[int(rng.random() * len(of))]
