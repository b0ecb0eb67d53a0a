"""What is printed: the plan, each stroke as it falls, and the table at the end; and the same as JSON."""

from __future__ import annotations

import argparse
import hashlib
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
    from tests.chaos.cases import CaseResult
    from tests.chaos.outcome import Outcome


class Say:
    """Speaks while a campaign goes on."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._begun = time.monotonic()
        # Strokes of each host.
        self._done: Counter[str] = Counter()

    def phase(self, text: str) -> None:
        """Say what begins."""
        print(f"[{self._elapsed()}] {text}", flush=True)

    def stroke(self, stroke: Stroke, outcome: Outcome) -> None:
        """Say how a stroke ended."""
        self._done[outcome.host] += 1
        if self._quiet and not stroke.failure:
            return
        back = f"back in {(stroke.back_ns - stroke.since_ns) / 1e9:.2f} s" if stroke.back_ns else "not back"
        if stroke.failure:
            back = f"FAILED: {stroke.failure}"
        runs = sum(1 for asked in outcome.asked if asked.run)
        place = f"{self._done[outcome.host]}/{len(outcome.strokes)}"
        print(f"[{self._elapsed()}] {place} {stroke} ({stroke.pid}): {back}; {runs} runs", flush=True)

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


def digest(strokes: Sequence[Stroke]) -> str:
    """Return a short sum of a plan: the same seed draws the same."""
    return hashlib.sha256("\n".join(map(str, strokes)).encode()).hexdigest()[:8]


def command(wanted: argparse.Namespace, seed: int) -> str:
    """Return the command that repeats a campaign."""
    words = ["python -m tests.chaos"]
    for name, value in vars(wanted).items():
        if name not in ("seed", "json", "keep") and value not in ("", None) and value is not False:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join([*words, f"--seed {seed}"])


def summary(outcomes: Sequence[Outcome], results: Sequence[CaseResult], seed: int) -> dict[str, Any]:
    """Return the whole of what was shown, for a file."""
    wrong = Counter(finding.wrong for outcome in outcomes for finding in outcome.findings)
    deeds = Counter(stroke.deed for o in outcomes for stroke in o.strokes if stroke.struck_ns)
    named = ("lost", "not ended", "repeated", "missing", "not verified")
    spread = times(outcomes)
    return {
        "seed": seed,
        "hosts": [outcome.host for outcome in outcomes],
        "plans": {outcome.host: digest(outcome.strokes) for outcome in outcomes},
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
        "other": sum(count for name, count in wrong.items() if name not in named),
        "not_reached": sum(bool(stroke.failure) for o in outcomes for stroke in o.strokes),
        "cases": {
            kind: [result.name for result in results if result.result == kind]
            for kind in ("held", "failed", "skipped")
        },
        "elapsed_s": round(sum(outcome.elapsed_s for outcome in outcomes), 1),
        "times": spread,
        "late": [row for row in spread if _late(row)],
    }


def _late(row: dict[str, Any]) -> bool:
    """Whether the 99th percentile of either time is over what is wanted."""
    spreads = (row["back_s"], row["resumed_s"])
    return bool(row["wanted_s"]) and any(s.get("p99", 0.0) > row["wanted_s"] for s in spreads)


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    strokes = ", ".join(f"{count} {deed}" for deed, count in sorted(found["strokes"].items()))
    print(f"\n{strokes or 'no strokes'}; {found['points']} at named points; {found['runs']} runs;", end=" ")
    print(", ".join(f"{len(names)} cases {kind}" for kind, names in found["cases"].items()), end="; ")
    print(f"{found['elapsed_s']:.0f} s")
    for name in found["cases"]["skipped"]:
        print(f"NOT SHOWN here: {name}")
    print(f"{found['in_flight_at_kills']} actions in flight at kills", end=" ")
    print(f"({found['in_flight_at_strokes']} at all strokes):", end=" ")
    print(f"lost {found['lost']}, repeated {found['repeated']}, in doubt {found['in_doubt']},", end=" ")
    print(f"not verified {found['not_verified']}, other {found['other']}, not reached {found['not_reached']}")
    if found["times"]:
        print("seconds until a target has done something again, and until what it had in hand went on:")
        print(f"{'host':7}{'target':10}{'deed':6}{'n':>4}{'back p50':>10}{'p99':>8}{'max':>8}", end="")
        print(f"{'in hand: n':>12}{'p50':>8}{'p99':>8}{'max':>8}  wanted p99")
    for row in found["times"]:
        print(f"{row['host']:7}{row['target']:10}{row['deed']:6}{row['strokes']:4}", end="")
        print(_numbers(row["back_s"], 10), end="")
        print(f"{row['resumed_s'].get('count', 0):12}", _numbers(row["resumed_s"], 7), end="  ")
        wanted = f"{row['wanted_s']:g}" if row["wanted_s"] else "-"
        print(f"{wanted}{'  OVER' if _late(row) else ''}")
    if found["late"]:
        names = ", ".join(f"{row['target']} after a {row['deed']} on {row['host']}" for row in found["late"])
        print(f"slower than wanted: {names} (strokes that fell together are not in these times)")
    sys.stdout.flush()


def show_failures(outcomes: Sequence[Outcome], results: Sequence[CaseResult], again: str) -> None:
    """Print everything that went wrong, with the logs of the runs and how to see it again."""
    failed = [result for result in results if result.result == "failed"]
    if not failed and not any(outcome.failures for outcome in outcomes):
        return
    print("\nBROKEN PROMISES", flush=True)
    for outcome in outcomes:
        for line in outcome.failures:
            print(f"  {outcome.host}: {line}")
        for run, lines in outcome.logs.items():
            print(f"  the log of {run}:", *(f"    {line}" for line in lines), sep="\n")
        for point in sorted({stroke.point for stroke in outcome.strokes if stroke.failure and stroke.point}):
            print(f"  this point alone: python -m tests.chaos --kills 1 --points --only {point}", end=" ")
            print(f"--host {outcome.host} --seed {outcome.seed}")
    for result in failed:
        print(f"  {result}", *(f"    {line}" for line in result.logs), sep="\n")
        print(f"  this case alone: python -m tests.chaos --kills 0 --cases --only {result.name}")
    print(f"  everything again: {again}", flush=True)


def _numbers(spread: dict[str, float], width: int) -> str:
    if not spread:
        return f"{'-':>{width}}{'-':>8}{'-':>8}"
    return f"{spread['p50']:{width}.2f}{spread['p99']:8.2f}{spread['max']:8.2f}"


def write(path: Path, found: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write everything to a file."""
    strokes = [
        {"host": o.host, **asdict(stroke), "minds": sorted(stroke.minds)}
        for o in outcomes
        for stroke in o.strokes
    ]
    failures = [line for outcome in outcomes for line in outcome.failures]
    path.write_text(json.dumps({**found, "failures": failures, "all_strokes": strokes}, indent=1))
