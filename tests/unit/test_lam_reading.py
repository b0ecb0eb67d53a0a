"""What words of a goal are read as, by the kind of a parameter."""

from __future__ import annotations

import datetime
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.lam.options import Kind
from actors.models.lam.reading import MAX_CHARS, Unreadable, is_cut, read

MONDAY = datetime.date(2026, 3, 2)
ROLES = ("support", "finance_lead", "Team Lead")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "1001", 1001),
        ("integer", "#1001", 1001),
        ("integer", "no. 1001", 1001),
        ("integer", "Nr 7", 7),
        ("integer", "1,250", 1250),
        ("integer", "-3", -3),
        ("integer", "seven", 7),
        ("integer", "Twenty-five", 25),
        ("integer", "forty two", 42),
        ("integer", "a hundred", 100),
        ("number", "3.5", 3.5),
        ("number", "1,250.75", 1250.75),
        ("number", "twelve", 12),
        ("boolean", "Yes", True),
        ("boolean", "off", False),
        ("time", "15:30", "15:30"),
        ("time", "3pm", "15:00"),
        ("time", "3:30 p.m.", "15:30"),
        ("time", "15h", "15:00"),
        ("time", "9h05", "09:05"),
        ("time", "15.30", "15:30"),
        ("time", "noon", "12:00"),
        ("time", "half past three in the afternoon", "15:30"),
        ("time", "2:30 in the afternoon", "14:30"),
        ("time", "10 o'clock in the morning", "10:00"),
        ("time", "a quarter to one in the afternoon", "12:45"),
        ("time", "quarter to twelve in the morning", "11:45"),
        ("time", "three thirty p.m.", "15:30"),
        ("time", "eleven at night", "23:00"),
        ("time", "ten minutes to seven in the evening", "18:50"),
        ("time", "twenty five past nine am", "09:25"),
        ("email", "ada@example.com", "ada@example.com"),
        ("word", "'MUG-BLUE'", "MUG-BLUE"),
        ("text", " “prefers mornings.” ", "prefers mornings."),
        ("text", "$order.id", "$order.id"),
        ("list", "ada@a.example, bob@b.example and 'c'", ["ada@a.example", "bob@b.example", "c"]),
        ("list", "mugs", ["mugs"]),
        ("choice", "Support", "support"),
        ("choice", "finance lead", "finance_lead"),
        ("choice", "TEAM_LEAD", "Team Lead"),
    ],
)
def test_values(kind: Kind, text: str, value: Any) -> None:
    found = read(kind, text, MONDAY, ROLES)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "minor", "currency"),
    [
        ("12.50 EUR", 1250, "EUR"),
        ("€12,50", 1250, "EUR"),
        ("12,50 €", 1250, "EUR"),
        ("1.250,00 €", 125_000, "EUR"),
        ("1,250 USD", 125_000, "USD"),
        ("20 euros", 2000, "EUR"),
        ("20.5 Euro", 2050, "EUR"),
        ("twenty euros", 2000, "EUR"),
        ("twelve pounds", 1200, "GBP"),
        ("5 dollars", 500, "USD"),
        ("300 yen", 300, "JPY"),
    ],
)
def test_amounts(text: str, minor: int, currency: str) -> None:
    assert read("money", text, MONDAY) == {"minor": minor, "currency": currency}


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-03-04", "2026-03-04"),
        ("4 March 2026", "2026-03-04"),
        ("4 March", "2026-03-04"),
        ("2 March", "2026-03-02"),
        ("1 March", "2027-03-01"),
        ("March 4th", "2026-03-04"),
        ("March 4, 2027", "2027-03-04"),
        ("the 4th of March", "2026-03-04"),
        ("mar 4", "2026-03-04"),
        ("4 Sept.", "2026-09-04"),
        ("29 Feb", "2028-02-29"),
        ("4.3.2026", "2026-03-04"),
        ("04.03.", "2026-03-04"),
        ("25/03/2026", "2026-03-25"),
        ("03/25/2026", "2026-03-25"),
        ("05/05/2026", "2026-05-05"),
        ("today", "2026-03-02"),
        ("Tomorrow", "2026-03-03"),
        ("the day after tomorrow", "2026-03-04"),
        ("Friday", "2026-03-06"),
        ("next  fri", "2026-03-06"),
        ("this Thursday", "2026-03-05"),
        # It is Monday: the one that comes.
        ("Monday", "2026-03-09"),
        ("next Monday", "2026-03-09"),
        ("in three days", "2026-03-05"),
        ("in 2 weeks", "2026-03-16"),
        ("in a week", "2026-03-09"),
        ("a week from today", "2026-03-09"),
        ("in a fortnight", "2026-03-16"),
        ("tonight", "2026-03-02"),
        ("the 13th", "2026-03-13"),
        ("the 2nd", "2026-03-02"),
        ("the 1st", "2026-04-01"),
        ("the 1st of this month", "2026-03-01"),
        ("the 30th of next month", "2026-04-30"),
        ("Monday the 16th", "2026-03-16"),
        ("Thursday, March 5th", "2026-03-05"),
        ("thu 5 March 2026", "2026-03-05"),
    ],
)
def test_days(text: str, day: str) -> None:
    assert read("date", text, MONDAY) == day


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", ""),
        ("integer", "12.5"),
        ("integer", "1,25"),
        ("integer", "1001 and 1002"),
        ("integer", "٣"),
        ("integer", "9" * 19),
        ("number", "1.250,00"),
        ("boolean", "maybe"),
        ("money", "20"),
        ("money", "20 bucks"),
        ("money", "1.250 EUR"),
        ("money", "many euros"),
        ("money", "€20 EUR"),
        # 4 March or April 3rd.
        ("date", "04/03/2026"),
        ("date", "30 February"),
        ("date", "2026-02-30"),
        ("date", "0000-01-01"),
        ("date", "May"),
        ("date", "13th"),
        ("date", "the 32nd"),
        ("date", "the 31st of next month"),
        ("date", "Tuesday the 16th"),
        ("date", "Friday, March 5th"),
        ("date", "soon"),
        ("date", "3 days"),
        ("date", "in 9999999 days"),
        ("time", "3"),
        ("time", "half past three"),
        ("time", "10 o'clock"),
        ("time", "12 in the morning"),
        ("time", "half past 3:30 pm"),
        ("time", "2 at night"),
        ("time", "ten to eleven am"),
        ("time", "quarter to twelve pm"),
        ("time", "10:30, in the evening"),
        ("time", "midnight"),
        ("moment", "today at midnight"),
        ("moment", "tonight at 1am"),
        ("moment", "in 3 days 15h"),
        ("moment", "Friday"),
        ("moment", "10:00"),
        ("date", "5 March 1400"),
        ("time", "25:00"),
        ("time", "24h"),
        ("email", "ada at example"),
        ("word", "two words"),
        ("text", "''"),
        ("list", ", ,"),
        ("list", ",".join("ab" * 60)),
        ("choice", "nobody"),
        ("other", "anything"),
    ],
)
def test_what_cannot_be_read_or_could_be_two_things(kind: Kind, text: str) -> None:
    with pytest.raises(Unreadable):
        read(kind, text, MONDAY, ROLES)


def test_two_choices_that_are_written_alike_are_told_apart_by_their_exact_form_only() -> None:
    assert read("choice", "in_stock", MONDAY, ("in stock", "in_stock")) == "in_stock"
    with pytest.raises(Unreadable):
        read("choice", "In Stock", MONDAY, ("in stock", "in_stock"))


@given(
    st.sampled_from(get_args(Kind)),
    st.text() | st.text("0123456789.,:/-#€$ aehinoprstuwyMFnd", max_size=40),
    st.dates(),
)
def test_reading_is_total(kind: Kind, text: str, today: datetime.date) -> None:
    with suppress(Unreadable):
        read(kind, text, today, ROLES)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("char", ["9", ",", "a", " ", "'", "1.", "the ", "\n"])
def test_a_long_text_takes_no_time(kind: Kind, char: str) -> None:
    for text in (char * MAX_CHARS, (char * MAX_CHARS)[: MAX_CHARS - 1] + "x"):
        with suppress(Unreadable):
            read(kind, text, MONDAY, ROLES)


@pytest.mark.parametrize(
    ("text", "number", "cut"),
    [
        ("refund 20 EUR", "20", False),
        ("order 1001, please", "1001", False),
        ("order 1001.", "1001", False),
        ("minus -5", "5", True),
        ("1 000 EUR", "000", True),
        ("1,250 units", "250", True),
        ("1,250 units", "1", True),
        ("$5 million", "5", True),
        ("5k", "5", True),
        ("20 % off", "20", True),
    ],
)
def test_a_number_that_goes_on_is_no_number(text: str, number: str, cut: bool) -> None:
    start = text.rindex(number)
    assert is_cut(text, start, start + len(number)) == cut


def test_a_duration_is_no_time_of_day() -> None:
    for text in ("3 hours", "2 hours"):
        with pytest.raises(Unreadable):
            read("time", text, datetime.date(2026, 3, 2))
