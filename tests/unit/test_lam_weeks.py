"""Weeks of the calendar, as people say them."""

from __future__ import annotations

import datetime
from random import Random

import pytest

from actors.models.lam import forms, weeks

TODAY = datetime.date(2026, 3, 2)


@pytest.mark.parametrize(
    ("said", "week"),
    [
        ("2026-W06", "2026-W06"),
        ("week 2025-w06", "2025-W06"),
        ("week 6", "2026-W06"),
        ("Wk 06", "2026-W06"),
        ("wk6", "2026-W06"),
        ("KW  6", "2026-W06"),
        ("calendar week no. 9", "2026-W09"),
        ("week nine", "2026-W09"),
        ("week 6 of 2025", "2025-W06"),
        ("2025, week 6", "2025-W06"),
        ("last week", "2026-W09"),
        ("this week", "2026-W10"),
        ("next week", "2026-W11"),
        # The nearest one, whatever the year.
        ("week 52", "2025-W52"),
        ("week 53", "2026-W53"),
        ("week 53 of 2025", None),
        ("week 54", None),
        ("week 0", None),
        ("6", None),
        ("last", None),
        ("weeks 6", None),
        ("6 weeks", None),
        ("week 6 and 7", None),
        ("the first week of March", None),
        ("", None),
        ("week " + "6" * 100, None),
    ],
)
def test_a_week_is_read_or_is_none(said: str, week: str | None) -> None:
    assert weeks.read(said, TODAY) == week


@pytest.mark.parametrize(
    ("text", "pointed", "whole"),
    [
        ("sales of week 6 please", "6", "week 6"),
        ("sales, ISO week 2026-W09, please", "W09", "ISO week 2026-W09"),
        ("wk 8 sales", "8", "wk 8"),
        ("week 6 of 2025, please", "6", "week 6 of 2025"),
        ("week 6-7", "6", "6"),
        ("in 6 weeks", "6", "6"),
        ("order 6", "6", "6"),
    ],
)
def test_what_stands_beside_a_number_makes_it_a_week(text: str, pointed: str, whole: str) -> None:
    start = text.index(pointed)
    begin, end = weeks.whole(text, (start, start + len(pointed)))
    assert text[begin:end] == whole


def test_every_week_that_is_written_can_be_read() -> None:
    rng = Random(1)
    for day in range(0, 1000, 7):
        today = TODAY + datetime.timedelta(days=day)
        for _ in range(20):
            assert weeks.read(forms.week(rng, today), today) is not None
