"""Words as the network reads them: no vocabulary, but hashes of a word, of its ends and of its shape.

A rare word has a place of its own in none of the tables and can still be pointed at, since every token keeps
where it stands in the text. Digits are read as digits, whichever they are.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WORDS = 6_144
AFFIXES = 2_560
SHAPES = 512
FEATURES = 4
MAX_TOKENS = 160
AFFIX_CHARS = 3
MAX_WORD_CHARS = 64
_TOKEN = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"  # an e-mail address
    r"|\d+(?:[.,:/-]\d+)*"  # a number, a date, a time
    r"|[^\W\d_]+(?:['’][^\W\d_]+)*"  # a word
    r"|\w|[^\w\s]"
)
_DIGIT = re.compile(r"\d")
_RUNS = re.compile(r"(X)X+|(x)x+")

Features = NDArray[np.int32]
"""One row a token: word, beginning, end, shape; 0 is none."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text, and where it stands."""

    text: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Take a text apart, in order; one more than MAX_TOKENS says that it is too long."""
    found = []
    for piece in _TOKEN.finditer(text):
        found.append(Token(piece[0], piece.start(), piece.end()))
        if len(found) > MAX_TOKENS:
            break
    return found


def features_of(words: Sequence[str]) -> Features:
    """Return what the network reads of words."""
    return np.array([_features(word[:MAX_WORD_CHARS]) for word in words], np.int32).reshape(-1, FEATURES)


@lru_cache(maxsize=65_536)
def _features(word: str) -> tuple[int, int, int, int]:
    folded = _DIGIT.sub("0", unicodedata.normalize("NFKC", word).casefold())
    affixes = (f"<{folded[:AFFIX_CHARS]}", f"{folded[-AFFIX_CHARS:]}>")
    first, last = (_hash(affix, AFFIXES) for affix in affixes)
    return _hash(folded, WORDS), first, last, _hash(_shape(word), SHAPES)


def _hash(text: str, size: int) -> int:
    return zlib.crc32(text.encode()) % (size - 1) + 1


def _shape(word: str) -> str:
    """Say capitals, small letters and digits: of letters how they begin, of digits how many there are."""
    plain = "".join("0" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in word)
    return _RUNS.sub(r"\1\2", plain)
