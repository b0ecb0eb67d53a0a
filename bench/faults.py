"""W4: one call in ten fails for the moment: plans done, actions beyond the five, and traces. Ours only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import stack, targets, traces
from bench.load import STEPS

CONCURRENCY = 16
# Longer would write more traces than the files keep.
SECONDS = 4.0
QUICK_SECONDS = 1.5


def measure(place: Path, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run plans of flaky reads and of flaky effects, each on a stack of its own, and return a row of each."""
    rows = []
    for case in ("flaky_read", "flaky_effect"):
        home = place / f"faults-{case}"
        home.mkdir()
        with targets.our_stack(home, "always") as running, targets.ours_on(running, "always") as target:
            answer = target.round(case, CONCURRENCY, QUICK_SECONDS if quick else SECONDS)
            rows.append(_row(case, answer, running))
            say(f"W4 {rows[-1]}")
    return {"rows": rows}


def _row(case: str, answer: dict[str, Any], running: stack.Stack) -> dict[str, Any]:
    plans = answer["plans"] + answer["errors"]
    return {
        "case": case.removeprefix("flaky_") + "s",
        "plans": plans,
        "done_share": answer["plans"] / max(1, plans),
        "extra_share": answer["actions"] / max(1, STEPS * answer["plans"]) - 1,
        "plans_per_s": answer["plans"] / answer["wall_s"],
        "first_errors": answer["first_errors"],
        # A round has ended when the tracer has caught up.
        "caught_up_s": answer["drain_s"],
        "traces": asdict(traces.completeness(running)),
    }
