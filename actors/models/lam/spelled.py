"""Numbers that are said in words."""

from __future__ import annotations

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_ONES += " seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: number for number, word in enumerate(_ONES.split())}
_WORDS |= {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}
_WORDS |= {
    f"{ten}{dash}{one}": 10 * tens + ones
    for tens, ten in enumerate(_TENS.split(), start=2)
    for ones, one in enumerate(_ONES.split()[1:10], start=1)
    for dash in ("-", " ")
}
_WORDS |= {"a hundred": 100, "one hundred": 100, "hundred": 100}
NUMBER_WORDS = frozenset(word for word in _WORDS if word.isalpha())
"""The words that numbers are said in."""


def number_of(text: str) -> int | None:
    """Return a number that is said in words."""
    return _WORDS.get(text.lower())
