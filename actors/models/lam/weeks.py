"""Weeks of the calendar in words: 2026-W06; "week 6", "wk 06", "KW 6"; "week 6 of 2026"; "last week".

Without a year it is the nearest such week. "The first week of March" is none, since it could be two.
"""

from __future__ import annotations

import datetime
import re

from actors.models.lam.inputs import Place
from actors.models.lam.spelled import NUMBER_WORDS, number_of

MAX_CHARS = 40
_SAID = {"last week": -1, "the last week": -1, "previous week": -1, "this week": 0, "next week": 1}
_NAMED = r"(?:iso |calendar )?(?:week|wk|kw|cw|w)\.? ?(?:no\.? ?|nr\.? ?|number |#)?"
_NUMBER = rf"(?P<number>[0-9]{{1,2}}|{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})"
_FORMS = (
    rf"(?:{_NAMED})?(?P<year>[0-9]{{4}})-?w(?P<number>[0-9]{{1,2}})",
    rf"{_NAMED}{_NUMBER}(?:(?:,? ?(?:of|in) |[,/] ?)(?P<year>[0-9]{{4}}))?",
    rf"(?P<year>[0-9]{{4}}),? {_NAMED}{_NUMBER}",
)
_READ = [re.compile(form) for form in _FORMS]
_SPACE = r"\s{1,3}"
_STANDS = [re.compile(rf"\b{form.replace(' ', _SPACE)}\b(?![-.,:/]?[0-9])", re.IGNORECASE) for form in _FORMS]


def read(text: str, today: datetime.date) -> str | None:
    """Return the week that is said, as 2026-W06; None where it is none."""
    said = " ".join(text.split()).lower()
    if len(said) > MAX_CHARS:
        return None
    if said in _SAID:
        return _written(today + datetime.timedelta(weeks=_SAID[said]))
    for form in _READ:
        if found := form.fullmatch(said):
            named = number_of(found["number"])
            number = int(found["number"]) if named is None else named
            years = [int(found["year"])] if found["year"] else [today.year + off for off in (-1, 0, 1)]
            mondays = [monday for year in years if (monday := _monday(year, number)) is not None]
            return _written(min(mondays, key=lambda one: abs(one - today))) if mondays else None
    return None


def whole(text: str, place: Place) -> Place:
    """Return where a week stands of whose number a part was pointed at; the place itself where none does."""
    start, stop = place
    around = (found.span() for form in _STANDS for found in form.finditer(text))
    return max(
        (at for at in around if at[0] <= start and stop <= at[1]), key=lambda at: at[1] - at[0], default=place
    )


def _monday(year: int, number: int) -> datetime.date | None:
    try:
        return datetime.date.fromisocalendar(year, number, 1)
    except ValueError:
        return None


def _written(day: datetime.date) -> str:
    year, number, _ = day.isocalendar()
    return f"{year}-W{number:02}"
