"""Weeks of the calendar, as people say them."""

from __future__ import annotations

import datetime
import json
import time
from random import Random
from typing import Any

import pytest

from actors.models.lam import forms, weeks
from actors.models.lam.options import Parameter, options_of
from actors.models.lam.tracing import Tracer
from handrail.v1 import tool_pb2

TODAY = datetime.date(2026, 3, 2)


@pytest.mark.parametrize(
    ("said", "week"),
    [
        ("2026-W06", "2026-W06"),
        ("week 2025-w06", "2025-W06"),
        ("2026W06", "2026-W06"),
        ("week 6", "2026-W06"),
        ("Wk 06", "2026-W06"),
        ("wk6", "2026-W06"),
        ("W06", "2026-W06"),
        ("KW  6", "2026-W06"),
        ("week #6", "2026-W06"),
        ("calendar week no. 9", "2026-W09"),
        ("ISO week number 9", "2026-W09"),
        ("week 6 of 2025", "2025-W06"),
        # The nearest one, whatever the year; none that could be two.
        ("week 52", "2025-W52"),
        ("week 28", None),
        ("week 40", None),
        ("week 53", None),
        ("week 53 of 2026", "2026-W53"),
        ("week 53 of 2025", None),
        ("2025-W53", None),
        ("9999-W06", None),
        ("week 6 of 1500", None),
        ("week 54", None),
        ("week 0", None),
        ("week 88", None),
        ("week twenty-one", None),
        ("w 6", None),
        ("6", None),
        ("last", None),
        ("weeks 6", None),
        ("6 weeks", None),
        ("week 6 and 7", None),
        ("the first week of March", None),
        ("٢٠٢٦-W٠٩", None),
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
        ("sales of week 6 to ada@shop.example", "6", "week 6"),
        ("the report from week 6, and send it", "6", "week 6"),
        ("the week 6 report", "week 6", "week 6"),
        ("sales, ISO week 2026-W09, please", "W09", "ISO week 2026-W09"),
        ("wk 8 sales", "8", "wk 8"),
        ("week 6 of 2025, please", "6", "week 6 of 2025"),
        ("sales in week 6.", "in week 6", "week 6"),
        ("sales of week 6\n- and close 502", "6", "week 6"),
        ("to do:\n- week 6 report\n- lunch", "6", "week 6"),
        ("- week 6 report", "6", "week 6"),
    ],
)
def test_what_stands_beside_a_number_makes_it_a_week(text: str, pointed: str, whole: str) -> None:
    start = text.index(pointed)
    found = weeks.at(text, (start, start + len(pointed)), TODAY)
    assert found is not None
    begin, end = found[1]
    assert text[begin:end] == whole


@pytest.mark.parametrize(
    "text",
    [
        "order 6",
        "in 6 weeks",
        "week 6-7",
        "week 6–8",
        "week 6 – 8",
        "week 6 to 8",
        "week 6 to week 8",
        "week 6 and 7",
        "week 6 and seven",
        "week 5 and week 6",
        "week 5, week 6",
        "2026-W06–W08",
        "2026-W06 to 2026-W08",
        "week 6, 1500 orders",
        "order 1001, week 6",
        "week 6 2000 words",
        "week 6 2025",
        "2025 week 6",
        "week 6 (2025)",
        "week 6 '25",
        "week 6 - 2025",
        "- week 5 - week 6",
        "week 6 -\n2025",
        "1 May 2025, week 6",
        "week 6 of March",
        "week 6 in March",
        "week 6 March",
        "week 6 of the month",
        "week 6 of last year",
        "week 6 last year",
        "last year's week 6",
        "this week 6 orders",
        "week 6 days",
        "week 6 EUR",
        "week 6%",
        "since week 6",
        "the week before week 6",
        "INV-W06",
        "week 6.5",
        "week 6th",
    ],
)
def test_what_stands_beside_a_week_can_make_it_another(text: str) -> None:
    start = text.index("6")
    assert weeks.at(text, (start, start + 1), TODAY) is None


def test_every_week_that_is_written_can_be_read() -> None:
    rng = Random(1)
    for day in range(0, 1000, 7):
        today = TODAY + datetime.timedelta(days=day)
        for _ in range(20):
            assert weeks.read(forms.week(rng, today), today) is not None


def test_weeks_are_told_in_time_that_grows_with_the_text() -> None:
    for part in ("week ", "week 6 of ", "iso ", "w", "2026-", "week 6 and "):
        text = part * 20_000
        began = time.perf_counter()
        weeks.at(text, (0, 1), TODAY)
        assert time.perf_counter() - began < 2.0


def options_with(schema: dict[str, Any]) -> Parameter:
    document = {"type": "object", "properties": {"it": schema}, "definitions": {"W": {"type": "string"}}}
    contract = tool_pb2.ToolContract(name="t", description="t", input_schema=json.dumps(document))
    (found,) = options_of({"t": contract}, [])
    return found.parameters[0]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string", "pattern": r"^\d{4}-W\d{2}$"}, True),
        ({"type": "string", "pattern": r"^(last|20\d\d-W[0-5]\d)$"}, True),
        ({"type": "string"}, False),
        ({"type": "string", "minLength": 8}, False),
        ({"type": "string", "minLength": 8, "maxLength": 8}, False),
        ({"type": "string", "pattern": r"^[\w-]{8}$"}, False),
        ({"type": "string", "pattern": r"^\d{4}-[A-Z]\d{2}$"}, False),
        ({"type": "string", "pattern": r"^\S{8}$"}, False),
        ({"type": "integer"}, False),
        # What it refers to stands in the whole.
        ({"$ref": "#/definitions/W"}, False),
    ],
)
def test_which_parameters_take_weeks_their_schemas_say(schema: dict[str, Any], told: bool) -> None:
    assert options_with(schema).weeks is told


def test_a_week_is_traced_to_where_it_is_read_and_nowhere_else() -> None:
    parameter = options_with({"type": "string", "pattern": r"^\d{4}-W\d{2}$"})
    for goal, value, said in (
        ("sales of week 9 please", "2026-W09", "week 9"),
        ("sales of 2026-W09 please", "2026-W09", "2026-W09"),
        ("sales of week 9 of 2025", "2025-W09", "week 9 of 2025"),
        ("sales of week 9 of 2025", "2026-W09", None),
        ("sales of week 9, 2025", "2026-W09", None),
    ):
        traced = Tracer(goal, TODAY).trace(parameter, value)
        place = (traced.span.start, traced.span.end) if traced.HasField("span") else None
        assert (goal[slice(*place)] if place else None) == said, goal
