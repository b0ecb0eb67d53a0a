"""Noise: how people really type, on the words around the blanks; of what fills one, at most the case changes.

Pieces come in and go out as (text, blank), so that what fills a blank can be found again wherever it moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from actors.models.lam.templates import Blank

SHORTER = 0.16
"""How many goals are typed with short forms ("pls", "don't"), where they have words for it."""
SYNONYMS = 0.5
"""How many of the words that have synonyms are said otherwise."""
TYPOS = 0.2
BARE = 0.22
"""How many goals lose what punctuation they have."""
STOPPED = 0.3
"""How many goals get a full stop, or more than one."""
BENT = 0.6
"""Of the goals in small letters or capitals, how many have names and texts in them that are, too."""
SPACED = 0.04
CASES = (("as it is", 0.36), ("sentence", 0.42), ("lower", 0.15), ("upper", 0.03), ("title", 0.04))

Piece = tuple[str, Blank | None]

_SPACES = re.compile(r"[ \t]{2,}")
_LOOSE = re.compile(r" +(?=[,.;:?!])")
_MARKS = re.compile(r"(?<=\w)[,;:!?](?= |$)|(?<=\w)\.(?= |$)| - ")
_WORD = re.compile(r"[A-Za-z]{4,}")
_FIRST = re.compile(r"[A-Za-z]")
_ENDS = (".", ".", ".", ".", "!", "!!", "...", " .", "?", "??")
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo",
    "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
_RELATIVE = ("today", "tomorrow", "in ", "the day", "day after", "a week", "next ", "this ")


class Words:
    """Replaces words by others that mean the same."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self._table = table
        listed = "|".join(re.escape(word) for word in sorted(table, key=lambda word: (-len(word), word)))
        self._pattern = re.compile(rf"\b(?:{listed})\b") if table else None

    def apply(self, rng: Random, text: str, rate: float) -> str:
        """Return the text with some of its words replaced."""
        if self._pattern is None:
            return text

        def replace(found: re.Match[str]) -> str:
            if rng.random() >= rate:
                return found[0]
            others = self._table[found[0]]
            return others[int(rng.random() * len(others))]

        return self._pattern.sub(replace, text)


def tidy(pieces: Sequence[Piece]) -> list[Piece]:
    """Join texts, and take away the spaces that branches with nothing in them leave."""
    joined: list[Piece] = []
    for text, blank in pieces:
        if blank is None and joined and joined[-1][1] is None:
            joined[-1] = (joined[-1][0] + text, None)
        elif text:
            joined.append((text, blank))
    for index, (text, blank) in enumerate(joined):
        if blank is None:
            text = _LOOSE.sub("", _SPACES.sub(" ", text))
            text = text.lstrip(" ") if index == 0 else text
            text = text.rstrip(" ") if index == len(joined) - 1 else text
            joined[index] = (text, None)
        elif index and joined[index - 1][0].endswith(" on ") and text.lower().startswith(_RELATIVE):
            joined[index - 1] = (joined[index - 1][0][:-3], None)
    return joined


def disturb(rng: Random, pieces: list[Piece], *, open_end: bool) -> list[Piece]:
    """Type carelessly; where the end is open, what comes after the last blank would be taken for a part."""
    if rng.random() < TYPOS:
        for _ in range(1 + int(rng.random() ** 2 * 3)):
            _typo(rng, pieces)
    if rng.random() < BARE:
        pieces = [(text if blank else _bare(text), blank) for text, blank in pieces]
    if not open_end and rng.random() < STOPPED and pieces and not _ends(pieces):
        pieces.append((_ENDS[int(rng.random() * len(_ENDS))], None))
    pieces = _cased(rng, pieces)
    if rng.random() < SPACED:
        _spaced(rng, pieces)
    return pieces


def _ends(pieces: Sequence[Piece]) -> bool:
    return pieces[-1][0][-1:] in ".?!"


def _bare(text: str) -> str:
    return _MARKS.sub(lambda found: " " if found[0] == " - " else "", text)


def _cased(rng: Random, pieces: list[Piece]) -> list[Piece]:
    drawn, case = rng.random(), "as it is"
    for name, share in CASES:
        drawn -= share
        if drawn < 0:
            case = name
            break
    if case == "sentence":
        if pieces and pieces[0][1] is None:
            text = pieces[0][0]
            pieces[0] = (_FIRST.sub(lambda found: found[0].upper(), text, count=1), None)
        return pieces
    if case == "as it is":
        return pieces
    change = {"lower": str.lower, "upper": str.upper, "title": str.title}[case]
    bent = case != "title" and rng.random() < BENT
    return [
        (change(text) if blank is None or (bent and blank.bends) else text, blank) for text, blank in pieces
    ]


def _typo(rng: Random, pieces: list[Piece]) -> None:
    """Swap, drop, double or miss a letter of one word."""
    words = [
        (index, found)
        for index, (text, blank) in enumerate(pieces)
        if blank is None
        for found in _WORD.finditer(text)
    ]
    if not words:
        return
    index, found = words[int(rng.random() * len(words))]
    word, at = found[0], 1 + int(rng.random() * (len(found[0]) - 2))
    kind = rng.random()
    if kind < 0.3:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind < 0.6:
        word = word[:at] + word[at + 1 :]
    elif kind < 0.75:
        word = word[:at] + word[at] + word[at:]
    else:
        near = _NEIGHBOURS.get(word[at].lower(), "e")
        word = word[:at] + near[int(rng.random() * len(near))] + word[at + 1 :]
    text = pieces[index][0]
    pieces[index] = (text[: found.start()] + word + text[found.end() :], None)


def _spaced(rng: Random, pieces: list[Piece]) -> None:
    kind = rng.random()
    if kind < 0.3:
        pieces.insert(0, ("  "[: 1 + int(rng.random() * 2)], None))
    elif kind < 0.5:
        pieces[:] = [(text if blank else text.replace(" ", "  ", 2), blank) for text, blank in pieces]
    elif kind < 0.7:
        pieces[:] = [(text if blank else text.replace(", ", "\n", 1), blank) for text, blank in pieces]
    else:
        pieces.append((("\n", " ", "\r\n", "\t")[int(rng.random() * 4)], None))
