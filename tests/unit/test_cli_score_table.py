"""The table of `lam eval`: what stands in which column, and what stays empty."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from actors.models.lam.evaluation import Score
from actors.models.lam.step_cases import StepScore
from handrail.cli.output import Output
from handrail.cli.score_table import ScoreTable

GOALS = Score(
    cases=2283,
    planned=1143,
    unwanted=1000,
    asking=140,
    acted=491,
    exact=0.841,
    coverage=0.427,
    precision=0.994,
    coverage_at_98=0.487,
    calibration_error=0.047,
    abstained=0.999,
    asked=0.774,
    unsafe=3,
    confirming=798,
    confirmed=415,
    p50_ms=11.99,
    p95_ms=28.87,
)
NOTHING_ACTED = replace(
    GOALS, planned=0, asking=0, acted=0, exact=0.0, coverage=0.0, precision=0.0, confirming=0
)
STEPS = StepScore(124, 77, 47, 7, 0.091, 1.0, 1.0, 2, 65, 58)
GENERATED = {
    "rows": 1008,
    "exact": 0.915,
    "exact_plans": 0.845,
    "coverage_at_98": 0.751,
    "calibration_error": 0.022,
}


def cells(header: str, row: str) -> dict[str, str]:
    """Read a row by where the header's words end: a cell lies between two of these ends."""
    found: dict[str, str] = {}
    before = row.index("  ") if header.startswith(" ") else 0
    for one in re.finditer(r"\S+(?: \S+)*", header):
        found[one.group()] = row[before : one.end()].strip()
        before = one.end()
    return found


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    table = ScoreTable(Output())
    table.goals("all", GOALS)
    table.goals("unwanted", NOTHING_ACTED)
    table.withdrawn("gone", replace(GOALS, cases=1140))
    table.steps("steps, all", STEPS)
    table.generated("generated", GENERATED)
    return capsys.readouterr().out.splitlines()


def test_there_is_one_header_and_a_line_for_each(lines: list[str]) -> None:
    assert len(lines) == 6
    assert not lines[0].startswith("all")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (
            1,
            {
                "number": "2,283",
                "exact": "84.1%",
                "acted on": "42.7%",
                "precision": "99.4%",
                "at 98 %": "48.7%",
                "error": "0.047",
                "abstained": "99.9%",
                "asked": "77.4%",
                "unsafe": "3",
                "asks about": "415 of 798",
                "p50 ms": "12.0",
                "p95 ms": "28.9",
            },
        ),
        (
            2,
            {
                "number": "2,283",
                "abstained": "99.9%",
                "unsafe": "3",
                "asks about": "0",
                "p50 ms": "12.0",
                "p95 ms": "28.9",
            },
        ),
        (3, {"number": "1,140", "abstained": "99.9%", "unsafe": "3"}),
        (
            4,
            {
                "number": "124",
                "exact": "9.1%",
                "precision": "100.0%",
                "abstained": "100.0%",
                "unsafe": "2",
                "asks about": "58 of 65",
            },
        ),
        (5, {"number": "1,008", "exact": "91.5%", "plans": "84.5%", "at 98 %": "75.1%", "error": "0.022"}),
    ],
)
def test_what_means_nothing_is_empty(lines: list[str], at: int, expected: dict[str, Any]) -> None:
    assert {column: cell for column, cell in cells(lines[0], lines[at]).items() if cell} == expected


def test_what_says_not_how_sure_it_is_has_neither_share_nor_error(capsys: pytest.CaptureFixture[str]) -> None:
    ScoreTable(Output()).goals("all", replace(GOALS, coverage_at_98=None, calibration_error=None))
    header, row = capsys.readouterr().out.splitlines()
    found = cells(header, row)
    assert (found["at 98 %"], found["error"], found["precision"]) == ("", "", "99.4%")
