"""Phrases: matching a goal's words against literal words and typed slots, in linear time.

A phrase is run like an automaton over the words of the goal, all its possible readings at once, so there is
no backtracking to exploit. Case, spacing and punctuation at the edges of words do not matter; a text slot
takes as few words as it can.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from core.slots import BadSlot, Slot

MAX_PHRASE_WORDS = 64
MAX_WORDS = 4_000

_PART = re.compile(r"\{([a-z][a-z0-9_]*)\}|[^\s{}]+")
_EDGES = ".,;:!?…¿¡\"'`´“”‘’«»()[]{}<>*#~–—"
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Literal:
    """A word that must stand there."""

    word: str


@dataclass(frozen=True, slots=True)
class Blank:
    """A slot to be filled with words of the goal."""

    name: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a goal: folded for comparison, and where it stands."""

    folded: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Filled:
    """A slot that has got its words, and those filled before it."""

    name: str
    first: int
    last: int
    before: _Filled | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read the words so far: the part that comes next, and the slots filled."""

    part: int
    since: int  # the word where the slot that is being filled began; -1 outside one
    filled: _Filled | None


Phrase = tuple[Literal | Blank, ...]


def parse_phrase(text: str) -> Phrase:
    """Take a phrase apart; what is wrong with it is a ValueError."""
    parts: list[Literal | Blank] = []
    position = 0
    for found in _PART.finditer(text):
        if text[position : found.start()].strip():
            raise ValueError(f"{text!r}: a slot is written {{name}}, in lower case letters, digits and '_'")
        position = found.end()
        if found[1] is not None:
            parts.append(Blank(found[1]))
        elif word := fold(found[0]):
            parts.append(Literal(word))
    if text[position:].strip():
        raise ValueError(f"{text!r}: a slot is written {{name}}, in lower case letters, digits and '_'")
    if not any(isinstance(part, Literal) for part in parts):
        raise ValueError(f"{text!r}: a phrase needs at least one word of its own")
    if len(parts) > MAX_PHRASE_WORDS:
        raise ValueError(f"a phrase has at most {MAX_PHRASE_WORDS} words, not {len(parts)}")
    names = slots_of(tuple(parts))
    if len(set(names)) != len(names):
        raise ValueError(f"{text!r}: a slot stands in a phrase once")
    return tuple(parts)


def slots_of(phrase: Phrase) -> list[str]:
    """Return the names of the slots that a phrase has."""
    return [part.name for part in phrase if isinstance(part, Blank)]


def weight(phrase: Phrase) -> int:
    """Return how specific a phrase is: the letters that it brings itself."""
    return sum(len(part.word) for part in phrase if isinstance(part, Literal))


def fold(word: str) -> str:
    """Return a word as it is compared: no case, no punctuation at its edges."""
    return unicodedata.normalize("NFKC", word).casefold().strip(_EDGES)


def split(goal: str) -> list[Word]:
    """Return the words of a goal; what is punctuation only is none."""
    words = (Word(fold(found[0]), found.start(), found.end()) for found in _WORD.finditer(goal))
    return [word for word in words if word.folded and word.folded != "-"]


def places(
    phrase: Phrase, goal: str, words: list[Word], slots: Mapping[str, Slot]
) -> dict[str, tuple[int, int]] | None:
    """Return where in the goal each slot is read from, if the whole goal reads as the phrase, else None."""
    readings = [_Reading(0, -1, None)]
    for index, word in enumerate(words):
        following: dict[tuple[int, int], _Reading] = {}
        for reading in readings:
            for step in _advance(phrase, goal, words, slots, reading, index, word):
                following.setdefault((step.part, _identity(phrase, slots, step)), step)
        if not following:
            return None
        readings = list(following.values())
    whole = next((reading for reading in readings if reading.part == len(phrase)), None)
    if whole is None:
        return None
    done = whole.filled
    found: dict[str, tuple[int, int]] = {}
    while done is not None:
        found[done.name] = _place(goal, words, done.first, done.last, slots[done.name])
        done = done.before
    return found


def _advance(
    phrase: Phrase,
    goal: str,
    words: list[Word],
    slots: Mapping[str, Slot],
    reading: _Reading,
    index: int,
    word: Word,
) -> list[_Reading]:
    """Return how a reading can go on over one more word, the preferred way first."""
    if reading.part == len(phrase):
        return []
    part = phrase[reading.part]
    if isinstance(part, Literal):
        return [_Reading(reading.part + 1, -1, reading.filled)] if word.folded == part.word else []
    slot = slots[part.name]
    since = index if reading.since < 0 else reading.since
    steps = []
    if slot.type == "text" or _fits(slot, _span(goal, words, since, index, slot)):
        steps.append(_Reading(reading.part + 1, -1, _Filled(part.name, since, index, reading.filled)))
    if index - since + 1 < slot.max_words:
        steps.append(_Reading(reading.part, since, reading.filled))
    return steps


def _identity(phrase: Phrase, slots: Mapping[str, Slot], reading: _Reading) -> int:
    """Tell readings of the same part apart; of a text that began at two places, the first is kept."""
    if reading.part == len(phrase) or reading.since < 0:
        return -1
    part = phrase[reading.part]
    return reading.since if isinstance(part, Blank) and slots[part.name].type != "text" else -2


def _span(goal: str, words: list[Word], first: int, last: int, slot: Slot) -> str:
    start, end = _place(goal, words, first, last, slot)
    return goal[start:end]


def _place(goal: str, words: list[Word], first: int, last: int, slot: Slot) -> tuple[int, int]:
    start, end = words[first].start, words[last].end
    if slot.type == "text":
        return start, end
    text = goal[start:end]
    start += len(text) - len(text.lstrip(_EDGES))
    return start, max(start, start + len(text.strip(_EDGES)))


def _fits(slot: Slot, text: str) -> bool:
    try:
        slot.read(text)
    except BadSlot:
        return False
    return True
