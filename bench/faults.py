"""W4: one call in ten fails for the moment; how many plans are done, and what that took. Ours only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import targets
from bench.load import STEPS

CONCURRENCY = 16
SECONDS = 6.0
QUICK_SECONDS = 2.0


def measure(place: Path, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run plans of flaky reads and of flaky effects, and return a row of each."""
    rows = []
    home = place / "faults"
    home.mkdir()
    with targets.ours(home, "always") as target:
        for case in ("flaky_read", "flaky_effect"):
            answer = target.round(case, CONCURRENCY, QUICK_SECONDS if quick else SECONDS)
            plans = answer["plans"] + answer["errors"]
            rows.append(
                {
                    "case": case.removeprefix("flaky_") + "s",
                    "plans": plans,
                    "done_share": answer["plans"] / max(1, plans),
                    "extra_share": answer["actions"] / max(1, STEPS * answer["plans"]) - 1,
                    "plans_per_s": answer["plans"] / answer["wall_s"],
                    "first_errors": answer["first_errors"],
                    "spans": "-",
                }
            )
            say(f"W4 {rows[-1]}")
    return {"rows": rows}
