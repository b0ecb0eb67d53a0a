"""Weeks of the calendar in words: 2026-W06; "week 6", "wk 06", "KW 6", "W6"; "week 6 of 2025".

Without a year it is the nearest such week, and none where that is months away. What stands beside it can make
it another one, or several: "week 2 of March", "week 6 to 8", "since week 6", "1001, week 6" are none. A dash
at the beginning of a line is a bullet, and says nothing of it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from actors.models.lam.inputs import Place
from actors.models.lam.spelled import NUMBER_WORDS
from actors.models.lam.when import MONTHS, YEARS

NEAR = 17
"""So many weeks from today at most, where nobody says the year: the other one is as far."""
_NAMED = r"(?:(?:iso|calendar)\s{1,3})?(?:week|wk|kw|cw)\.?\s{0,3}"
_FORM = re.compile(
    rf"(?<![\w-])(?:(?:{_NAMED})?(?P<dated>[0-9]{{4}})-?w(?P<of_it>[0-9]{{2}})"
    rf"|(?:{_NAMED}(?:(?:no|nr)\.?\s{{0,3}}|number\s{{1,3}}|\#)?|w)(?P<number>[0-9]{{1,2}})"
    r"(?:\s{1,3}of\s{1,3}(?P<year>[0-9]{4}))?)(?!\w)",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = rf"(?:[0-9]|(?:{'|'.join(sorted(NUMBER_WORDS))})\b)"
_MONTH = "|".join(f"{name}|{name[:3]}" for name in MONTHS)
_BENT_BEFORE = re.compile(
    r"(?:\b(?:this|last|next|past|previous|per|each|every|by|since|before|after|until|till|than|not|between"
    r"|year['’]?s)|[0-9]\W{0,3}(?:(?:and|or|to|through|until|till)\W{0,3})?|\S[^\S\n]{0,3}[-–—/&+])\s{0,3}$",
    re.IGNORECASE,
)
_BENT_AFTER = re.compile(
    r"[^\S\n]{0,3}[-–—/&+%€$£]|\W{0,3}['’]?[0-9]|\W{0,3}(?:of\b"
    rf"|(?:and|or|to|until|till|through|thru)\s{{1,3}}(?:including\s{{1,3}})?(?:{_NAMED}|w)?{_NUMBER}"
    rf"|(?:in\s{{1,3}}(?:the\s{{1,3}})?)?(?:{_MONTH}|month|last|next|previous|this\s{{1,3}}(?:year|month|quarter))\b"
    r"|days?\b|hours?\b|weeks?\b|months?\b|years?\b|people\b|persons?\b|words\b|eur\b|euros?\b|usd\b|gbp\b|chf\b"
    r"|pounds?\b|dollars?\b)",
    re.IGNORECASE,
)
_LOOKED = 24
"""So many characters before and after are looked at."""


def read(text: str, today: datetime.date) -> str | None:
    """Return the week that is said, as 2026-W06; None where it is none."""
    said = text.strip()
    found = at(said, (0, len(said)), today)
    return found[0] if found is not None and found[1] == (0, len(said)) else None


def at(text: str, place: Place, today: datetime.date) -> tuple[str, Place] | None:
    """Return the week that stands where was pointed at, and where it stands whole; None where none does."""
    for found in _standing(text, place):
        start, end = found.span()
        before, after = text[:start][-_LOOKED:], text[end:][:_LOOKED]
        if _BENT_BEFORE.search(before) or _BENT_AFTER.match(after):
            return None
        week = _week(found, today)
        return (week, (start, end)) if week is not None else None
    return None


def _standing(text: str, place: Place) -> Iterator[re.Match[str]]:
    """Yield what stands around a place, or in it."""
    for found in _FORM.finditer(text):
        start, end = found.span()
        if (start <= place[0] and place[1] <= end) or (place[0] <= start and end <= place[1]):
            yield found


def _week(found: re.Match[str], today: datetime.date) -> str | None:
    said = found["dated"] or found["year"]
    number = int(found["of_it"] or found["number"])
    years = [int(said)] if said else [today.year - 1, today.year, today.year + 1]
    mondays = [monday for year in years if (monday := _monday(year, number)) is not None]
    if not mondays:
        return None
    nearest = min(mondays, key=lambda one: abs(one - today))
    if not said and abs(nearest - today) > datetime.timedelta(weeks=NEAR):
        return None
    year, number, _ = nearest.isocalendar()
    return f"{year}-W{number:02}" if abs(year - today.year) <= YEARS else None


def _monday(year: int, number: int) -> datetime.date | None:
    try:
        return datetime.date.fromisocalendar(year, number, 1)
    except ValueError:
        return None
