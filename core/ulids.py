"""Unique names that sort by time: 48 bits of milliseconds and 80 random ones, in base 32, lower case."""

from __future__ import annotations

import re
from collections.abc import Callable

ENTROPY_BYTES = 10

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID = re.compile(f"[0-7][{_DIGITS}]{{25}}")


def ulid(time_ns: int, entropy: bytes) -> str:
    """Return the name of a time and of random bytes."""
    number = (time_ns // 1_000_000 % 2**48) << 80 | int.from_bytes(entropy[:ENTROPY_BYTES])
    return _base32(number)


def next_ulid(last: str) -> str:
    """Return the one that sorts right after another."""
    number = 0
    for character in last:
        number = number << 5 | _DIGITS.index(character)
    return _base32((number + 1) % 2**128)


def is_ulid(text: str) -> bool:
    """Whether a text is one, as they are written here."""
    return _ULID.fullmatch(text) is not None


class Ulids:
    """Makes one after another, each later than the last, also within a millisecond."""

    def __init__(self, clock: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._entropy = entropy
        self._last = ulid(0, bytes(ENTROPY_BYTES))

    def next(self) -> str:
        """Return a new one."""
        self._last = max(ulid(self._clock(), self._entropy(ENTROPY_BYTES)), next_ulid(self._last))
        return self._last


def _base32(number: int) -> str:
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -5, -5))
