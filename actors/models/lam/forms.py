"""Forms: days, times, amounts and numbers as people write them; `reading` reads every one of them back."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from random import Random

from actors.models.lam import clock, weeks, when
from actors.models.lam.when import DAYS, MONTHS

_ORDINALS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
_SAID = ("today", "tomorrow", "tomorrow", "tomorrow", "the day after tomorrow", "day after tomorrow")
_SMALL = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "fourteen")
_TENS = ("five", "ten", "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "eighty", "a hundred")
_CODES = ("EUR", "EUR", "EUR", "EUR", "EUR", "GBP", "GBP", "USD", "CHF", "SEK", "PLN", "DKK", "CAD")
_NAMES = {"EUR": ("euros", "euro", "euros"), "GBP": ("pounds", "pound"), "USD": ("dollars", "dollars")}
_SYMBOLS = {"EUR": "€", "GBP": "£", "USD": "$"}
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_CENTS = (".00", ".50", ".99", ".90", ".95", ".25", ".49")


def date(rng: Random, today: datetime.date) -> str:
    """Write a day that is near."""
    kind = rng.random()
    if kind < 0.2:
        return _one(rng, _SAID)
    if kind < 0.4:
        name = _one(rng, DAYS)
        name = name.title() if rng.random() < 0.7 else name
        name = name[:3] if rng.random() < 0.15 else name
        return f"{_one(rng, ('', '', 'next ', 'next ', 'this '))}{name}"
    if kind < 0.48:
        count = _one(rng, (*_SMALL[:6], "2", "3", "4", "5", "10"))
        unit = _one(rng, ("days", "days", "weeks"))
        rest = ("in a week", "a week from today", "in a fortnight")
        return _one(rng, (f"in {count} {unit}", f"in {count} {unit}", f"in {count} {unit}", *rest))
    if kind < 0.56:
        return _of_month(rng, today)
    return _dated(rng, today + datetime.timedelta(days=1 + int(rng.random() ** 2 * 330)))


def iso_date(rng: Random, today: datetime.date) -> str:
    """Write a day in digits only, the year first."""
    return (today + datetime.timedelta(days=int(rng.random() * 120) - 10)).isoformat()


def time(rng: Random, today: datetime.date) -> str:
    """Write a time of a working day, mostly."""
    hour = 8 + int(rng.random() * 10) if rng.random() < 0.9 else int(rng.random() * 24)
    minute = int(_one(rng, ("0", "0", "0", "15", "30", "30", "45", "10", "20", "5", "50")))
    kind = rng.random()
    if kind < 0.45:
        return f"{hour:02}:{minute:02}" if rng.random() < 0.8 else f"{hour}:{minute:02}"
    if kind < 0.5:
        return _one(rng, ("noon", "noon", "midday"))
    if kind > 0.92 and 8 <= hour <= 21:
        return clock.write(rng, hour, minute)
    if kind < 0.56:
        return _one(rng, (f"{hour}.{minute:02}", f"{hour}h{minute:02}", f"{hour}:{minute:02}h", f"{hour}h"))
    half = _one(rng, ("am", "am", " am", "AM", " AM", " a.m.")).replace("a" if hour > 11 else "?", "p")
    half = half.replace("A", "P") if hour > 11 else half
    on_dial = (hour - 1) % 12 + 1
    if minute == 0 and rng.random() < 0.9:
        return f"{on_dial}{half}"
    return f"{on_dial}{_one(rng, '::.')}{minute:02}{half}"


def moment(rng: Random, today: datetime.date) -> str:
    """Write a day and a time as calendars do."""
    return f"{iso_date(rng, today)}T{8 + int(rng.random() * 10):02}:{_one(rng, ('00', '00', '30', '15'))}"


def day_and_time(rng: Random, today: datetime.date) -> str:
    """Write a day and a time as people say it, in either order; some of what they say could be two."""
    while True:
        day, at = date(rng, today), time(rng, today)
        if rng.random() < 0.2:
            text = f"{at} on {day}" if day[-1].isdigit() or day.istitle() else f"{at} {day}"
        else:
            text = f"{day}{_one(rng, (' at ', ' at ', ' at ', ', ', ' ', ' from ', ' @ '))}{at}"
        if when.moment(text, today) is not None:
            return text


def week(rng: Random, today: datetime.date) -> str:
    """Write a week of the calendar that is near, by its number mostly."""
    near = weeks.NEAR - 2
    year, number, _ = (today + datetime.timedelta(weeks=int(rng.random() * 2 * near) - near)).isocalendar()
    written = f"{year}-W{number:02}"
    kind = rng.random()
    if kind < 0.45:
        return f"week {written}" if kind < 0.08 else written
    if kind < 0.52:
        return f"week {number} of {year}"
    marks = ("week ", "week ", "week ", "wk ", "wk", "Week ", "KW ", "calendar week ", "week no. ", "W")
    return f"{_one(rng, marks)}{_one(rng, (str(number), str(number), f'{number:02}'))}"


def money(rng: Random, today: datetime.date) -> str:
    """Write an amount with its currency."""
    code = _one(rng, _CODES)
    whole = int(10 ** (0.5 + rng.random() * 2.6))
    cents = _one(rng, _CENTS) if rng.random() < 0.4 else ""
    number = f"{whole:,}" if rng.random() < 0.5 else str(whole)
    kind = rng.random()
    if code not in _SYMBOLS or kind < 0.3:
        code = code.lower() if code in ("EUR", "GBP", "USD", "CHF") and rng.random() < 0.25 else code
        parts = (f"{number}{cents} {code}", f"{number}{cents} {code}", f"{code} {number}{cents}")
        return _one(rng, (*parts, f"{number}{cents}{code}"))
    if kind < 0.62:
        sign = _SYMBOLS[code]
        return _one(
            rng,
            (
                f"{sign}{number}{cents}",
                f"{sign}{number}{cents}",
                f"{number}{cents} {sign}",
                f"{number}{cents}{sign}",
            ),
        )
    if kind < 0.7:
        cents = f",{(cents or '.50')[1:]}"
        return _one(rng, (f"{whole}{cents} €", f"€{whole}{cents}", f"{whole}{cents} EUR", f"{whole}{cents}€"))
    if kind < 0.76:
        return f"{_one(rng, _TENS)} {_NAMES[code][0]}"
    return f"{number}{cents} {_one(rng, _NAMES[code])}"


def count(rng: Random, today: datetime.date) -> str:
    """Write how many of something, a few mostly."""
    kind = rng.random()
    if kind < 0.3:
        return _one(rng, _SMALL)
    return str(1 + int(rng.random() ** 3 * (12 if kind < 0.8 else 200)))


def integer(rng: Random, today: datetime.date) -> str:
    """Write a number that names something."""
    number = int(10 ** (0.3 + rng.random() * 4.5))
    return f"{number:,}" if rng.random() < 0.04 else str(number)


def number(rng: Random, today: datetime.date) -> str:
    """Write a number that measures something."""
    return f"{rng.random() * 10 ** (1 + int(rng.random() * 3)):.{int(rng.random() * 3)}f}"


def code(rng: Random, today: datetime.date) -> str:
    """Write a code of letters and digits, as things in a warehouse have."""
    letters = "".join(_one(rng, _LETTERS) for _ in range(2 + int(rng.random() * 3)))
    digits = str(int(10 ** (1 + rng.random() * 3)))
    tail = _one(rng, _LETTERS) if rng.random() < 0.2 else ""
    return _one(
        rng, (f"{letters}-{digits}{tail}", f"{letters}{digits}{tail}", f"{letters}-{digits}-{tail or 'X'}")
    )


def key(rng: Random, today: datetime.date) -> str:
    """Write what nobody means: letters that are no word."""
    return "".join(
        _one(rng, "abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(4 + int(rng.random() * 20))
    )


Form = Callable[[Random, datetime.date], str]

FORMS: Mapping[str, Form] = {
    "date": date,
    "iso_date": iso_date,
    "time": time,
    "moment": moment,
    "day_and_time": day_and_time,
    "week": week,
    "money": money,
    "count": count,
    "integer": integer,
    "number": number,
    "code": code,
    "key": key,
}


def _of_month(rng: Random, today: datetime.date) -> str:
    """Write a day by its number, mostly with its weekday or its month beside it."""
    day = today + datetime.timedelta(days=1 + int(rng.random() * 26))
    ordinal = _ordinal(day)
    kind = rng.random()
    if kind < 0.3:
        return f"the {ordinal}"
    if kind < 0.45:
        return f"the {ordinal} of {'this' if day.month == today.month else 'next'} month"
    name = DAYS[day.weekday()]
    name = name[:3] if rng.random() < 0.25 else name
    name = name.title() if rng.random() < 0.7 else name
    month = MONTHS[day.month - 1].title()
    rest = (
        f" the {ordinal}",
        f" the {ordinal}",
        f", {month} {ordinal}",
        f", {day.day} {month}",
        f" {day.day} {month}",
    )
    return f"{name}{_one(rng, rest)}"


def _ordinal(day: datetime.date) -> str:
    return f"{day.day}{_ORDINALS.get(day.day, 'th')}"


def _dated(rng: Random, day: datetime.date) -> str:
    """Write one day, with its year mostly where it is far."""
    name = MONTHS[day.month - 1].title()
    short = name[:3] if day.month != 5 else name
    name = _one(rng, (name, name, name, short, short.lower(), name.lower()))
    ordinal = _ordinal(day)
    year = f" {day.year}" if rng.random() < 0.3 else ""
    kind = rng.random()
    if kind < 0.4:
        return day.isoformat()
    if kind < 0.55:
        return f"{day.day} {name}{year}"
    if kind < 0.75:
        comma = "," if year and rng.random() < 0.5 else ""
        return f"{name} {_one(rng, (ordinal, str(day.day)))}{comma}{year}"
    if kind < 0.88:
        return f"{_one(rng, ('', '', 'the '))}{ordinal}{_one(rng, ('', ' of', ' of'))} {name}{year}"
    if kind < 0.94 or day.day <= 12:
        return f"{day.day}.{day.month}.{day.year}"
    return _one(rng, (f"{day.day:02}/{day.month:02}/{day.year}", f"{day.month}/{day.day}/{day.year}"))


def _one(rng: Random, of: Sequence[str]) -> str:
    return of[int(rng.random() * len(of))]
