"""Days, times and moments in words, and where they stand whole.

Dates: 2026-03-04; "4 March 2026", "March 4th", "the 4th of Mar"; 4.3.2026 (dots put the day first);
04/03/2026 only where it cannot be read the other way round (25/03/2026, 03/25/2026, 05/05/2026); today,
tomorrow, the day after tomorrow; "Friday", "next Friday" and "this Friday" are the first Friday after the
day that is given; "in three days", "in 2 weeks", "a week from today"; "the 13th", "the 4th of next month".
Without a year or a month it is the next such day, today included. A weekday beside a date has to be that
date's: "Monday the 16th" is no day where the 16th is a Tuesday.

Times: 15:30, 3pm, 15h, noon; in words with the part of the day: "half past three in the afternoon". Midnight
is none, since nobody knows of which day. Moments: a day and a time, in either order: "Friday at 3pm",
"15:30 on 4 March", 2026-03-04T15:30.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence

from actors.models.lam import clock
from actors.models.lam.inputs import Place
from actors.models.lam.spelled import number_of
from core.slots import BadSlot, read_time

MAX_CHARS = 64
YEARS = 100
"""So many years from today at most: what is further away is another number."""
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
_SAID = {"today": 0, "tonight": 0, "tomorrow": 1, "day after tomorrow": 2, "the day after tomorrow": 2}
_LENGTHS = {"day": 1, "week": 7, "fortnight": 14}
_TIMES = {"noon": "12:00", "midday": "12:00"}
_EVENING = "17:00"

_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_DAY_MONTH = re.compile(r"(?:the )?([0-9]{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})\.?,?(?: ([0-9]{4}))?")
_MONTH_DAY = re.compile(r"([a-z]{3,9})\.? (?:the )?([0-9]{1,2})(?:st|nd|rd|th)?(?:,? ([0-9]{4}))?")
_DOTS = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})?")
_SLASHES = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
_ORDINAL = re.compile(r"the ([0-9]{1,2})(?:st|nd|rd|th)(?: (?:of )?(this|next) month)?")
_WEEKDAY = re.compile(r"(?:(?:on|next|this|coming|this coming) )?([a-z]{3,9})\.?")
_WEEKDAY_OF = re.compile(r"([a-z]{3,9})\.?,? (?=the [0-9]|[0-9]|[a-z]{3,9}\.? )(.{3,40})")
_AHEAD = re.compile(r"(?:in )?([a-z0-9 -]{1,20}?) (day|week|fortnight)s?(?: (?:from (?:now|today)|ahead))?")
_SHORT_TIME = re.compile(r"([0-9]{1,2}[:.h][0-9]{2})\s?h?|([0-9]{1,2})\s?h(?:rs)?", re.IGNORECASE)
_HOURS_LONG = re.compile(r"[0-9]{1,2}\s?h(?:rs)?", re.IGNORECASE)
_GAP = re.compile(r"(?:,| ,)? (?:(?:at|on|from|around|@) )?|(?<=[0-9])[Tt](?=[0-9])", re.IGNORECASE)

# What stands beside a day or a time, and makes it another one.
_DAY = "|".join((*sorted(_WEEKDAYS, key=len, reverse=True), "today", "tonight", "tomorrow"))
_MONTH = "|".join(sorted(_NAMES, key=len, reverse=True))
_APART = r"[\s,()\[\]/–—-]*"
_DAY_BEFORE = re.compile(rf"\b({_DAY})\b\.?{_APART}(?:the\s+)?$", re.IGNORECASE)
_DAY_AFTER = re.compile(rf"{_APART}({_DAY})\b", re.IGNORECASE)
_DATE_AFTER = re.compile(
    rf"\.?{_APART}(?:the\s+)?(?:[0-9]{{1,2}}(?:st|nd|rd|th)\b|[0-9]{{1,2}}\.[0-9]|[0-9]{{1,2}}/[0-9]|[0-9]{{4}}-[0-9]"
    rf"|(?:[0-9]{{1,2}}|[a-z-]+\s+of)\s+(?:{_MONTH})\b|(?:{_MONTH})\b\.?\s+(?:the\s+)?[0-9])",
    re.IGNORECASE,
)
_BENT_DAY_BEFORE = re.compile(
    r"\b(?:last|previous|before|after|weeks?|(?:weeks?|days?|fortnights?)\s+(?:from|on|after|before))"
    r"\s+(?:the\s+|on\s+)?$",
    re.IGNORECASE,
)
_BENT_DAY_AFTER = re.compile(
    r"\s+(?:week\b|next\s+week\b|(?:before|after)\s+(?:last|next|that)\b|of\s+(?!course\b)"
    r"|in\s+(?:an?|one|two|three|four|[0-9]{1,2})\s+(?:fortnight|weeks?|days?)\b)",
    re.IGNORECASE,
)
_BENT_TIME_BEFORE = re.compile(
    rf"\b(?:half|past|(?:{'|'.join(clock.HOURS)}|quarter|twenty|twenty[- ]five)(?:\s+minutes)?\s+to"
    r"|(?:at|from|between)\s+[0-9]{1,2}\s+to)\s+$",
    re.IGNORECASE,
)
_LOOKED = 40
"""So many characters before and after are looked at."""


def read(kind: str, text: str, today: datetime.date) -> str | None:
    """Return what is said of one of the `KINDS`; None where it is none, or could be two."""
    return {"date": day, "time": lambda said, _: time(said), "moment": moment}[kind](text, today)


def day(text: str, today: datetime.date) -> str | None:
    """Return the day that is said, as 2026-03-04; None where it is none, or could be two."""
    try:
        found = _day(text.lower(), today)
    except (ValueError, OverflowError):
        return None
    return found.isoformat() if found is not None else None


def time(text: str) -> str | None:
    """Return the time that is said, as 15:30."""
    if text.lower() in _TIMES:
        return _TIMES[text.lower()]
    if found := _SHORT_TIME.fullmatch(text):
        text = re.sub("[.hH]", ":", found[1]) if found[1] else f"{found[2]}:00"
    try:
        return clock.said(text) or read_time(text)
    except BadSlot:
        return None


def moment(text: str, today: datetime.date) -> str | None:
    """Return a day and a time, between which there is no more than "at", "on" or a comma."""
    found = set()
    for gap in _GAP.finditer(text):
        parts = text[: gap.start()], text[gap.end() :]
        for first, second in (parts, parts[::-1]):
            on, at = day(first, today), time(second)
            if on is not None and at is not None and _go_together(first.lower(), second, at):
                found.add(f"{on}T{at}")
    return found.pop() if len(found) == 1 else None


def whole(
    kind: str, text: str, place: Place, edges: tuple[Sequence[int], Sequence[int]], today: datetime.date
) -> Place | None:
    """Return where a day, a time or a moment stands of which a part may be another: 3:15 in the afternoon.

    `edges` are where words before it begin, and words after it end. None where it is none, not even with what
    is beside it, or where that bends it ("a week from Friday") or says another day ("tomorrow, Friday").
    """

    def value(at: Place) -> str | None:
        words = text[at[0] : at[1]]
        if at[1] - at[0] > MAX_CHARS or "\n" in words.strip():
            return None
        return read(kind, " ".join(words.split()), today)

    around = sorted(((a, b) for a in edges[0] for b in edges[1]), key=lambda at: at[0] - at[1])
    own = value(place)
    widest = next((at for at in around if value(at) is not None), place)
    told = value(widest)
    if told is None:
        return None
    if kind != "date" and _BENT_TIME_BEFORE.search(text[: widest[0]][-_LOOKED:]):
        return None
    if kind != "time" and _is_bent(text, widest, told, today):
        return None
    return place if told == own else widest


def _is_bent(text: str, at: Place, told: str, today: datetime.date) -> bool:
    before, after = text[: at[0]][-_LOOKED:], text[at[1] :][:_LOOKED]
    if _BENT_DAY_BEFORE.search(before) or _BENT_DAY_AFTER.match(after):
        return True
    said = text[at[0] : at[1]].lower()
    if (named := _WEEKDAY.fullmatch(said)) and named[1] in _WEEKDAYS and _DATE_AFTER.match(after):
        return True
    found = datetime.date.fromisoformat(told[:10])
    beside = (_DAY_BEFORE.search(before), _DAY_AFTER.match(after))
    return any(one is not None and not _is_named(found, one[1].lower(), today) for one in beside)


def _is_named(found: datetime.date, name: str, today: datetime.date) -> bool:
    if name in _WEEKDAYS:
        return found.weekday() == _WEEKDAYS[name]
    return found == today + datetime.timedelta(days=_SAID[name])


def _go_together(said: str, clock_said: str, at: str) -> bool:
    """Whether a time is one of a day: none of this morning is tonight, and 15 h may be how long it takes."""
    if said == "tonight":
        return at >= _EVENING
    return not (said.startswith("in ") and _HOURS_LONG.fullmatch(clock_said))


def _day(text: str, today: datetime.date) -> datetime.date | None:
    """Return the day; what is not in the calendar is a ValueError."""
    if text in _SAID:
        return today + datetime.timedelta(days=_SAID[text])
    if (found := _WEEKDAY.fullmatch(text)) and found[1] in _WEEKDAYS:
        return today + datetime.timedelta(days=(_WEEKDAYS[found[1]] - today.weekday() - 1) % 7 + 1)
    if (found := _WEEKDAY_OF.fullmatch(text)) and found[1] in _WEEKDAYS:
        dated = _dated(found[2], today)
        return dated if dated is not None and dated.weekday() == _WEEKDAYS[found[1]] else None
    if (found := _AHEAD.fullmatch(text)) and (text.startswith("in ") or "from" in text or "ahead" in text):
        count = 1 if found[1] in ("a", "one") else number_of(found[1])
        count = int(found[1]) if count is None and re.fullmatch("[0-9]{1,4}", found[1]) else count
        if count is not None:
            return today + datetime.timedelta(days=count * _LENGTHS[found[2]])
    return _dated(text, today)


def _dated(text: str, today: datetime.date) -> datetime.date | None:
    """Return the day of a date, which says at least its number in the month."""
    if found := _ISO.fullmatch(text):
        return datetime.date(int(found[1]), int(found[2]), int(found[3]))
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
    elif found := _ORDINAL.fullmatch(text):
        return _in_month(int(found[1]), found[2], today)
    return None


def _in_month(number: int, said: str | None, today: datetime.date) -> datetime.date:
    """Return a day of this month or the next one; of none that is said, the next month that has it."""
    if not 1 <= number <= 31:
        raise ValueError("no month has such a day")
    month = datetime.date(today.year, today.month, 1)
    if said == "next" or (said is None and number < today.day):
        month = _after(month)
    while said is None and _after(month) - month < datetime.timedelta(days=number):
        month = _after(month)
    return month.replace(day=number)


def _after(month: datetime.date) -> datetime.date:
    """Return the first day of the next month."""
    return (month + datetime.timedelta(days=31)).replace(day=1)


def _next(year: str | None, month: int, number: int, today: datetime.date) -> datetime.date:
    """Return the day; without a year the next such one, which is at most eight years away (29 February)."""
    if year is not None:
        if abs(int(year) - today.year) > YEARS:
            raise ValueError("that is no year")
        return datetime.date(int(year), month, number)
    datetime.date(2000, month, number)  # a day that no year has
    for near in range(today.year, today.year + 9):
        try:
            found = datetime.date(near, month, number)
        except ValueError:
            continue
        if found >= today:
            return found
    raise ValueError("no such day is near")


KINDS: Mapping[str, str] = {
    "date": "a day like 2026-01-31",
    "time": "a time like 15:30 or 3pm",
    "moment": "a day and a time like 2026-01-31T15:30",
}
"""What is read here, and what it is like."""
