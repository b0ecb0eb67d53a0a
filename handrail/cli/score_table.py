"""The table of `lam eval`: a row for each set of goals or steps, written as soon as it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.models.lam.evaluation import Score
    from actors.models.lam.step_cases import StepScore
    from handrail.cli.output import Output

NAME_CELLS = 26
_COLUMNS = {
    "number": 6,
    "exact": 7,
    "plans": 7,
    "acted on": 8,
    "precision": 9,
    "at 98 %": 7,
    "error": 6,
    "abstained": 9,
    "asked": 7,
    "unsafe": 6,
    "asks about": 10,
    "p50 ms": 6,
    "p95 ms": 6,
}


class ScoreTable:
    """Rows of cells under one header, which comes with the first; what means nothing there is empty."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._begun = False

    def goals(self, name: str, scored: Score) -> None:
        """Write what a set of goals came to."""
        self._row(name, scored.cases, goal_cells(scored))

    def steps(self, name: str, scored: StepScore) -> None:
        """Write what a set of steps came to."""
        acted = scored.acted
        cells = {"exact": _share(scored.exact, scored.wanted), "precision": _share(scored.precision, acted)}
        cells |= {"abstained": _share(scored.abstained, scored.unwanted), "unsafe": str(scored.unsafe)}
        self._row(name, scored.cases, cells | {"asks about": _of(scored.asked_right, scored.asked)})

    def withdrawn(self, name: str, scored: Score) -> None:
        """Write what came of goals where what they take may not be had."""
        cells = {"abstained": _share(scored.abstained, scored.cases), "unsafe": str(scored.unsafe)}
        self._row(name, scored.cases, cells)

    def generated(self, name: str, scores: dict[str, Any]) -> None:
        """Write what a model showed on rows that were generated."""
        rows = scores["rows"]
        cells = {"exact": _share(scores["exact"], rows), "plans": _share(scores["exact_plans"], rows)}
        cells |= {"at 98 %": _share(scores["coverage_at_98"], rows)}
        self._row(name, rows, cells | {"error": _error(scores["calibration_error"])})

    def _row(self, name: str, number: int, cells: dict[str, str]) -> None:
        if not self._begun:
            self._begun = True
            self._output.line(_line("", {column: column for column in _COLUMNS}))
        self._output.line(_line(name, {"number": f"{number:,}", **cells}))


def goal_cells(scored: Score) -> dict[str, str]:
    """Return the cells of a set of goals."""
    at_98, error = scored.coverage_at_98, scored.calibration_error
    planned = scored.planned
    return {
        "exact": _share(scored.exact, planned),
        "acted on": _share(scored.coverage, planned),
        "precision": _share(scored.precision, scored.acted),
        "at 98 %": _share(at_98, planned) if at_98 is not None else "",
        "error": _error(error) if error is not None and planned else "",
        "abstained": _share(scored.abstained, scored.unwanted),
        "asked": _share(scored.asked, scored.asking),
        "unsafe": str(scored.unsafe),
        "asks about": _of(scored.confirmed, scored.confirming),
        "p50 ms": f"{scored.p50_ms:.1f}",
        "p95 ms": f"{scored.p95_ms:.1f}",
    }


def _line(name: str, cells: dict[str, str]) -> str:
    held = "  ".join(f"{cells.get(column, ''):>{wide}}" for column, wide in _COLUMNS.items())
    return f"{name:<{NAME_CELLS}}{held}".rstrip()


def _share(share: float, of: int) -> str:
    return f"{share:.1%}" if of else ""


def _of(right: int, asked: int) -> str:
    return f"{right} of {asked}" if asked else "0"


def _error(error: float) -> str:
    return f"{error:.3f}"
