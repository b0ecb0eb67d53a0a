"""Reading: the words of a goal as the value of a parameter's kind.

Pure and total: whatever the text, it is read exactly or is `Unreadable`, and what could mean two things is
unreadable. There is no clock: "tomorrow" is counted from the day that is given. Every pattern is bounded and
takes linear time.

Dates: 2026-03-04; "4 March 2026", "March 4th", "the 4th of Mar"; 4.3.2026 (dots put the day first);
04/03/2026 only where it cannot be read the other way round (25/03/2026, 03/25/2026, 05/05/2026); today,
tomorrow, the day after tomorrow; "Friday", "next Friday" and "this Friday" are the first Friday after the
day that is given; "in three days", "in 2 weeks", "a week from today". Without a year it is the next such
day, today included.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.models.lam.options import Kind
from core.errors import HandrailError
from core.slots import BadSlot, Slot, read_money, read_time

MAX_CHARS = 16_384
MAX_LISTED = 100
MAX_SHORT_CHARS = 64
"""Of everything but text, words, e-mail addresses, choices and lists."""

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
MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_NAMES = {name[:3]: number for number, name in enumerate(MONTHS, start=1)}
_NAMES |= {name: number for number, name in enumerate(MONTHS, start=1)} | {"sept": 9}
_WEEKDAYS = {name[:length]: number for number, name in enumerate(DAYS) for length in (3, 9)}
_WEEKDAYS |= {"tues": 1, "thur": 3, "thurs": 3}
_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DAY_MONTH = re.compile(r"(?:the )?([0-9]{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})\.?,?(?: ([0-9]{4}))?")
_MONTH_DAY = re.compile(r"([a-z]{3,9})\.? (?:the )?([0-9]{1,2})(?:st|nd|rd|th)?(?:,? ([0-9]{4}))?")
_DOTS = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})?")
_SLASHES = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
_WEEKDAY = re.compile(r"(?:(?:on|next|this|coming|this coming) )?([a-z]{3,9})\.?")
_AHEAD = re.compile(r"(?:in )?([a-z0-9 -]{1,20}?) (day|week)s?(?: (?:from (?:now|today)|ahead))?")
_SAID = {"today": 0, "tomorrow": 1, "day after tomorrow": 2, "the day after tomorrow": 2}
_TIMES = {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}
_SHORT_TIME = re.compile(r"([0-9]{1,2}[:.h][0-9]{2})\s?h?|([0-9]{1,2})\s?h(?:rs)?", re.IGNORECASE)
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
    found = _small(text)
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


def _small(text: str) -> int | None:
    """Return a number that is said in words."""
    return _WORDS.get(text.lower())


def _boolean(text: str, _: datetime.date) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise Unreadable(f"{text[:50]!r} is neither yes nor no")
    return text.lower() in _TRUE


def _money(text: str, today: datetime.date) -> dict[str, Any]:
    if named := _NAMED.fullmatch(text):
        code = _CODES[named[2].lower().removesuffix("s")]
        number = _small(named[1].strip())
        text = f"{named[1].strip() if number is None else number} {code}"
    # A comma before two last digits can only be the point.
    if comma := _DECIMAL_COMMA.fullmatch(text):
        text = f"{comma[1]}{comma[2].replace('.', '')}.{comma[3]}{comma[4]}"
    return read_money(text)


def _date(text: str, today: datetime.date) -> str:
    try:
        found = _day(text.lower(), today)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise Unreadable(f"{text[:50]!r} is not a day like 2026-01-31, or could be two")
    return found.isoformat()


def _day(text: str, today: datetime.date) -> datetime.date | None:
    """Return the day; what is not in the calendar is a ValueError."""
    if found := _ISO.fullmatch(text):
        return datetime.date(int(found[1]), int(found[2]), int(found[3]))
    if text in _SAID:
        return today + datetime.timedelta(days=_SAID[text])
    if (found := _WEEKDAY.fullmatch(text)) and found[1] in _WEEKDAYS:
        return today + datetime.timedelta(days=(_WEEKDAYS[found[1]] - today.weekday() - 1) % 7 + 1)
    if (found := _DAY_MONTH.fullmatch(text)) and found[2] in _NAMES:
        return _next(found[3], _NAMES[found[2]], int(found[1]), today)
    if (found := _MONTH_DAY.fullmatch(text)) and found[1] in _NAMES:
        return _next(found[3], _NAMES[found[1]], int(found[2]), today)
    if found := _DOTS.fullmatch(text):
        return _next(found[3], int(found[2]), int(found[1]), today)
    if found := _SLASHES.fullmatch(text):
        first, second, year = (int(part) for part in found.groups())
        if first > 12 or second > 12 or first == second:
            return datetime.date(year, min(first, second), max(first, second))
        return None
    if (found := _AHEAD.fullmatch(text)) and (text.startswith("in ") or "from" in text or "ahead" in text):
        count = 1 if found[1] in ("a", "one") else _small(found[1])
        count = int(found[1]) if count is None and re.fullmatch("[0-9]{1,4}", found[1]) else count
        if count is not None:
            return today + datetime.timedelta(days=count * (7 if found[2] == "week" else 1))
    return None


def _next(year: str | None, month: int, day: int, today: datetime.date) -> datetime.date:
    """Return the day; without a year the next such one, which is at most eight years away (29 February)."""
    if year is not None:
        return datetime.date(int(year), month, day)
    datetime.date(2000, month, day)  # a day that no year has
    for number in range(today.year, today.year + 9):
        try:
            found = datetime.date(number, month, day)
        except ValueError:
            continue
        if found >= today:
            return found
    raise ValueError("no such day is near")


def _time(text: str, _: datetime.date) -> str:
    if text.lower() in _TIMES:
        return _TIMES[text.lower()]
    if found := _SHORT_TIME.fullmatch(text):
        text = re.sub("[.hH]", ":", found[1]) if found[1] else f"{found[2]}:00"
    return read_time(text)


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
    "date": _date,
    "time": _time,
}
