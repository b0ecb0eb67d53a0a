"""Reading: the words of a goal as the value of a parameter's kind.

Pure and total: whatever the text, it is read exactly or is `Unreadable`, and what could mean two things is
unreadable. There is no clock: "tomorrow" is counted from the day that is given. Every pattern is bounded and
takes linear time.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from actors.models.lam import weeks, when
from actors.models.lam.inputs import Place
from actors.models.lam.options import Kind, Parameter
from actors.models.lam.spelled import number_of
from core.errors import HandrailError
from core.slots import BadSlot, Slot, read_money

MAX_CHARS = 16_384
MAX_LISTED = 100
MAX_SHORT_CHARS = when.MAX_CHARS
"""Of everything but text, words, e-mail addresses, choices and lists."""

_MARK = re.compile(r"(?:#|№|no\.?|nr\.?|number)\s{0,3}(?=[0-9])", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,18}|[0-9]{1,3}(?:,[0-9]{3}){1,5})")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,15}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(?:\.[0-9]{1,9})?")
_TRUE = frozenset({"yes", "on", "true", "y"})
_FALSE = frozenset({"no", "off", "false", "n"})
_NAMED = re.compile(r"([\w., -]{1,40}?)\s{0,3}(euros?|pounds?|dollars?|yen)", re.IGNORECASE)
_CODES = {"euro": "EUR", "pound": "GBP", "dollar": "USD", "yen": "JPY"}
_DECIMAL_COMMA = re.compile(
    r"([€$£A-Za-z]{0,3}\s{0,3})([0-9]{1,3}(?:\.[0-9]{3}){1,4}|[0-9]{1,12}),([0-9]{2})(?![0-9])(.{0,5})"
)
_BEFORE = re.compile(r"(?:[-+.,]|[0-9][ .,'’])$")
_AFTER = re.compile(r"(?:[.,'’ ]?[0-9]|\s?%|\s?(?:k|thousand|million|mio|billion|bn)\b)", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»„`"
_QUOTED = re.compile(
    r"\"([^\"]{1,2000})\"|“([^”]{1,2000})”|„([^“”]{1,2000})[“”]|«([^»]{1,2000})»|‘([^’]{1,2000})’(?!\w)"
    r"|(?<!\w)'((?:[^']|(?<=\w)'(?=\w)){1,2000})'(?!\w)"
)
_BETWEEN = re.compile(r",\s{0,3}(?:and|or)\s|[,;\n]|\s(?:and|&)\s", re.IGNORECASE)
_FOLD = re.compile(r"[\s_-]+")


class Unreadable(HandrailError):
    """A text that is no value of the kind, or could be more than one."""


def read(kind: Kind, text: str, today: datetime.date, choices: Sequence[str] = ()) -> Any:
    """Return the JSON value that words of a goal stand for; raises Unreadable, and nothing else."""
    if len(text) > MAX_CHARS:
        raise Unreadable(f"{len(text)} characters are too many to be read")
    text = text.strip()
    try:
        if kind == "choice":
            return _choice(text, choices)
        if kind in _LONG:
            return _LONG[kind](text)
        if kind in _SHORT and len(text) <= MAX_SHORT_CHARS:
            return _SHORT[kind](" ".join(text.split()), today)
    except BadSlot as error:
        raise Unreadable(str(error)) from None
    raise Unreadable(f"{text[:50]!r} cannot be read as {kind}")


def read_for(parameter: Parameter, text: str, place: Place, today: datetime.date) -> tuple[Any, Place]:
    """Return what the words at a place of a text mean to a parameter, and where they stand whole.

    It is not looked whether the parameter takes that, but for weeks, which may be said in other words than it
    takes; raises Unreadable.
    """
    words = text[place[0] : place[1]]
    if parameter.weeks:
        week = weeks.at(text, place, today)
        if week is not None:
            return week
        if any(char.isdigit() for char in words):
            raise Unreadable(f"{words[:50]!r} is no week, or could be two")
    return read(parameter.kind, words, today, parameter.choices), place


def is_cut(text: str, start: int, stop: int) -> bool:
    """Whether a number that stands at a place in a text goes on before or after it: 5 of -5, 000 of 1 000."""
    before, after = text[max(0, start - 2) : start], text[stop : stop + 12]
    return _BEFORE.search(before) is not None or _AFTER.match(after) is not None


def quoted(text: str) -> list[tuple[int, int]]:
    """Return where the quotations of a text stand, without their marks."""
    return [found.span(found.lastindex or 0) for found in _QUOTED.finditer(text)]


def fold(text: str) -> str:
    """Return a choice as it is compared: "Finance lead" is "finance_lead"."""
    return _FOLD.sub(" ", text).strip().casefold()


def _choice(text: str, choices: Sequence[str]) -> str:
    found = text if text in choices else None
    if found is None:
        folded = fold(text)
        same = [choice for choice in choices if fold(choice) == folded]
        found = same[0] if len(same) == 1 else None
    if found is None:
        raise Unreadable(f"{text[:50]!r} is none of {', '.join(choices[:20]) or 'nothing'}")
    return found


def _integer(text: str, _: datetime.date) -> int:
    found = number_of(text)
    if found is not None:
        return found
    text = text[mark.end() :] if (mark := _MARK.match(text)) else text
    if not _INTEGER.fullmatch(text):
        raise Unreadable(f"{text[:50]!r} is not a whole number")
    return int(text.replace(",", ""))


def _number(text: str, today: datetime.date) -> int | float:
    if not _NUMBER.fullmatch(text) or "." not in text:
        return _integer(text, today)
    return float(text.replace(",", ""))


def _boolean(text: str, _: datetime.date) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise Unreadable(f"{text[:50]!r} is neither yes nor no")
    return text.lower() in _TRUE


def _money(text: str, today: datetime.date) -> dict[str, Any]:
    if named := _NAMED.fullmatch(text):
        code = _CODES[named[2].lower().removesuffix("s")]
        number = number_of(named[1].strip())
        text = f"{named[1].strip() if number is None else number} {code}"
    # A comma before two last digits can only be the point.
    if comma := _DECIMAL_COMMA.fullmatch(text):
        text = f"{comma[1]}{comma[2].replace('.', '')}.{comma[3]}{comma[4]}"
    return read_money(text)


def _when(kind: str, text: str, today: datetime.date) -> str:
    found = when.read(kind, text, today)
    if found is None:
        raise Unreadable(f"{text[:50]!r} is not {when.KINDS[kind]}, or could be two")
    return found


def _list(text: str) -> list[str]:
    parts = [part for part in _BETWEEN.split(text) if part.strip()]
    if not parts or len(parts) > MAX_LISTED:
        raise Unreadable(f"a list has 1 to {MAX_LISTED} parts")
    return [_text(part) for part in parts]


def _text(text: str) -> str:
    return str(Slot(type="text").read(text))


def _word(text: str) -> str:
    return str(Slot(type="word").read(text.strip(_QUOTES)))


def _email(text: str) -> str:
    return str(Slot(type="email").read(text))


_LONG: Mapping[str, Callable[[str], Any]] = {"text": _text, "word": _word, "email": _email, "list": _list}
_SHORT: Mapping[str, Callable[[str, datetime.date], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "money": _money,
    **{kind: partial(_when, kind) for kind in when.KINDS},
}
