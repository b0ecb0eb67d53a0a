"""What is printed: the plan, each stroke as it falls, and the table at the end; and the same as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos import recovery
from tests.chaos.history import Stroke

if TYPE_CHECKING:
    from tests.chaos.campaign import Outcome


class Say:
    """Speaks while a campaign goes on."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._begun = time.monotonic()
        self._done = 0

    def phase(self, text: str) -> None:
        """Say what begins."""
        print(f"[{self._elapsed()}] {text}", flush=True)

    def stroke(self, stroke: Stroke, outcome: Outcome) -> None:
        """Say how a stroke ended."""
        self._done += 1
        if self._quiet and not stroke.failure:
            return
        back = f"back in {(stroke.back_ns - stroke.since_ns) / 1e9:.2f} s" if stroke.back_ns else "not back"
        if stroke.failure:
            back = f"FAILED: {stroke.failure}"
        runs = sum(1 for asked in outcome.asked if asked.run)
        line = f"[{self._elapsed()}] {self._done}/{len(outcome.strokes)} {stroke} ({stroke.pid}): {back}"
        print(f"{line}; {runs} runs", flush=True)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._begun:6.1f}"


def plan_lines(strokes: Sequence[Stroke]) -> list[str]:
    """Return the plan, short: how many of what."""
    named = Counter((s.target, s.deed) for s in strokes if s.point)
    random = Counter((s.target, s.deed) for s in strokes if not s.point)
    return [
        f"  {what}: "
        + ", ".join(f"{count} {deed} {target}" for (target, deed), count in sorted(some.items()))
        for what, some in (("at named points", named), ("at random", random))
        if some
    ]


def times(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return how long each kind of target took to be back, and what it had in hand to go on."""
    back: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    resumed: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for outcome in outcomes:
        for stroke in outcome.strokes:
            if stroke.crowded or not stroke.back_ns:
                continue
            kind = recovery.kind_of(stroke.target)
            place = (outcome.host, kind, str(stroke.deed))
            back[place].append((stroke.back_ns - stroke.since_ns) / 1e9)
            resumed[place] += [(at - stroke.since_ns) / 1e9 for at in stroke.resumed_ns]
    rows = []
    for place in sorted(back):
        host, kind, deed = place
        row: dict[str, Any] = {"host": host, "target": kind, "deed": deed, "strokes": len(back[place])}
        row["back_s"] = _spread(back[place])
        row["resumed_s"] = _spread(resumed[place])
        row["wanted_s"] = recovery.TARGET_S.get(kind)
        rows.append(row)
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99 = recovery.percentile(values, 0.5), recovery.percentile(values, 0.99)
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(max(values), 3), "count": len(values)}


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the whole of what was shown, for a file."""
    wrong = Counter(finding.wrong for outcome in outcomes for finding in outcome.findings)
    deeds = Counter(stroke.deed for o in outcomes for stroke in o.strokes if stroke.struck_ns)
    return {
        "hosts": [outcome.host for outcome in outcomes],
        "seeds": [outcome.seed for outcome in outcomes],
        "kills": deeds["kill"],
        "strokes": dict(deeds),
        "points": len({(o.host, s.point, s.deed) for o in outcomes for s in o.strokes if s.point}),
        "runs": sum(len(outcome.asked) for outcome in outcomes),
        "in_flight_at_kills": sum(len(outcome.in_flight) for outcome in outcomes),
        "in_flight_at_strokes": sum(len(outcome.in_flight_all) for outcome in outcomes),
        "lost": wrong["lost"] + wrong["not ended"] + wrong["missing"],
        "repeated": wrong["repeated"],
        "in_doubt": sum(outcome.doubts for outcome in outcomes),
        "not_verified": wrong["not verified"],
        "other": wrong["torn"] + wrong["unclaimed"] + wrong["commanded"],
        "not_reached": sum(bool(stroke.failure) for o in outcomes for stroke in o.strokes),
        "elapsed_s": round(sum(outcome.elapsed_s for outcome in outcomes), 1),
        "times": times(outcomes),
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print()
    print(
        f"{found['kills']} kills ({found['strokes']}), {found['points']} named points, {found['runs']} runs, "
        f"{found['elapsed_s']:.0f} s"
    )
    print(
        f"actions in flight at kills {found['in_flight_at_kills']} (at all strokes "
        f"{found['in_flight_at_strokes']}): lost {found['lost']}, repeated {found['repeated']}, "
        f"in doubt {found['in_doubt']}, not verified {found['not_verified']}, other {found['other']}, "
        f"points not reached or targets not back {found['not_reached']}"
    )
    print(f"{'host':7}{'target':10}{'deed':6}{'n':>4}  {'back: p50':>10}{'p99':>8}{'max':>8}", end="")
    print(f"  {'in hand went on: p50':>21}{'p99':>8}{'max':>8}  wanted p99")
    for row in found["times"]:
        print(f"{row['host']:7}{row['target']:10}{row['deed']:6}{row['strokes']:4}", end="  ")
        print(_numbers(row["back_s"], 10), _numbers(row["resumed_s"], 20), end="  ")
        print(f"{row['wanted_s']:g} s" if row["wanted_s"] else "")
    sys.stdout.flush()


def _numbers(spread: dict[str, float], width: int) -> str:
    if not spread:
        return f"{'-':>{width}}{'-':>8}{'-':>8}"
    return f"{spread['p50']:{width}.2f}{spread['p99']:8.2f}{spread['max']:8.2f}"


def write(path: Path, found: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write everything to a file."""
    strokes = [{"host": o.host, **asdict(stroke)} for o in outcomes for stroke in o.strokes]
    failures = [line for outcome in outcomes for line in outcome.failures]
    path.write_text(json.dumps({**found, "failures": failures, "all_strokes": strokes}, indent=1))
