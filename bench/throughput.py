"""W1: plans of five sequential steps that do nothing, beside the limit and the peers.

Targets of one durability are up together and take their rounds in turn, in an order that moves on from round
to round, so that what else the machine does hits all of them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import postgres, rivals, targets
from bench.drivers import DriverFailed
from bench.stack import ROOT, StackFailed
from bench.syncs import fsyncs_per_plan
from bench.targets import Target
from bench.venvs import Missing

CONCURRENCIES = (1, 16, 64)
CASES = ("read", "effect")
WARM_S = 1.0
SYNC_S = 3.0
FALLBACK_EVENTS = 20

Say = Callable[[str], None]
Result = dict[str, Any]
_CannotRun = (Missing, postgres.PostgresMissing, DriverFailed, StackFailed, OSError)


@dataclass(frozen=True)
class Effort:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 2.0
    concurrencies: tuple[int, ...] = CONCURRENCIES
    count_syncs: bool = True


def measure(
    place: Path,
    effort: Effort,
    *,
    durabilities: Sequence[str],
    peers: bool,
    against: Mapping[str, Path],
    say: Say,
) -> Result:
    """Measure every durability and return one row for each target, case and concurrency."""
    rows: list[Result] = []
    about: dict[str, Result] = {}
    skipped: dict[str, str] = {}
    for durability in durabilities:
        with _targets(place, durability, peers, against, skipped, say) as found:
            if found:
                _measure_class(found, effort, place, rows, about, skipped, say)
    return {"rows": rows, "targets": about, "skipped": skipped}


@contextmanager
def _targets(
    place: Path, durability: str, peers: bool, against: Mapping[str, Path], skipped: dict[str, str], say: Say
) -> Iterator[list[Target]]:
    with ExitStack() as stack:
        found: list[Target] = []

        def add(name: str, make: Callable[[], AbstractContextManager[Target]]) -> None:
            say(f"starting {name} ({durability})")
            try:
                found.append(stack.enter_context(make()))
            except _CannotRun as error:
                skipped[f"{name} ({durability})"] = str(error)
                say(f"skipped: {error}")

        if durability != "none":
            kept = "always" if durability == "always" else "relaxed"
            add("Handrail", lambda: targets.ours(place, kept))  # type: ignore[arg-type]
            for name, root in against.items():
                add(name, lambda n=name, r=root: targets.ours(place, kept, root=r, name=n))  # type: ignore[misc]
            for kind in ("publish", "chain"):
                add(f"limit: {kind}", lambda k=kind: targets.limit(place, kept, k))  # type: ignore[misc]
        if peers:
            for name, make in _peers(place, durability, stack, skipped).items():
                add(name, make)
        yield found


def _peers(
    place: Path, durability: str, stack: ExitStack, skipped: dict[str, str]
) -> dict[str, Callable[[], AbstractContextManager[Target]]]:
    if durability == "none":
        return {
            "LangGraph, memory": lambda: rivals.langgraph(place, durability, None),
            "AutoGen gRPC": lambda: rivals.autogen(place, durability, None),
        }
    found: dict[str, Callable[[], AbstractContextManager[Target]]] = {
        "LangGraph, SQLite": lambda: rivals.langgraph(place, durability, None),
        "DBOS, SQLite": lambda: rivals.dbos(place, durability, None),
    }
    try:
        home = place / f"postgres-{durability}"
        home.mkdir()
        server = stack.enter_context(postgres.running(home, synchronous_commit=durability == "always"))
        found["LangGraph, PostgreSQL"] = lambda: rivals.langgraph(place, durability, server)
        found["DBOS, PostgreSQL"] = lambda: rivals.dbos(place, durability, server)
    except _CannotRun as error:
        skipped[f"peers on PostgreSQL ({durability})"] = str(error)
    found["Restate"] = lambda: rivals.restate(place, durability, None)
    return found


def _measure_class(
    found: list[Target],
    effort: Effort,
    place: Path,
    rows: list[Result],
    about: dict[str, Result],
    skipped: dict[str, str],
    say: Say,
) -> None:
    failed: set[str] = set()

    def attempt(target: Target, work: Callable[[], Result]) -> Result | None:
        if target.name in failed:
            return None
        try:
            return work()
        except DriverFailed as error:
            failed.add(target.name)
            skipped[f"{target.name} ({target.durability})"] = str(error)
            say(f"{target.name} failed: {error}")
            return None

    _warm(found, attempt)
    for case in CASES:
        for concurrency in effort.concurrencies:
            taking = [target for target in found if case in target.cases]
            rounds: dict[str, list[Result]] = {target.name: [] for target in taking}
            for number in range(effort.rounds):
                turn = number % max(1, len(taking))
                for target in (*taking[turn:], *taking[:turn]):
                    answer = attempt(
                        target,
                        lambda t=target: t.round(case, concurrency, effort.seconds, sample=t.ours),  # type: ignore[misc]  # noqa: B023
                    )
                    if answer is not None and answer["wall_s"] > 0:
                        rounds[target.name].append(answer)
            for target in taking:
                if rounds[target.name]:
                    row = summarise(rounds[target.name])
                    row |= {"target": target.name, "durability": target.durability}
                    row |= {
                        "case": case,
                        "concurrency": concurrency,
                        "ours": target.ours,
                        "limit": target.limit,
                    }
                    rows.append(row)
                    say(_line(row))
    for target in found:
        if target.name not in failed:
            about[f"{target.name} ({target.durability})"] = {
                "settings": target.settings,
                "memory_mib": round(target.memory_mib(), 1),
                "fsyncs": _syncs(target, effort, place, attempt),
            }


def _warm(found: list[Target], attempt: Callable[..., Result | None]) -> None:
    """Warm everything up; what our plans store is how many events the limit makes."""
    events = dict.fromkeys(CASES, FALLBACK_EVENTS)
    for target in found:
        for case in target.cases:
            if target.limit:
                target.extra["events"] = events
            answer = attempt(target, lambda t=target, c=case: t.round(c, 4, WARM_S))
            if target.ours and answer is not None and target is found[0]:
                events[case] = round(answer["events"])


def _syncs(target: Target, effort: Effort, place: Path, attempt: Callable[..., Result | None]) -> Result:
    if not effort.count_syncs:
        return {}
    counted = {}
    for case in target.cases:
        said = attempt(target, lambda c=case: {"n": fsyncs_per_plan(target, c, SYNC_S, place)})
        counted[case] = said["n"] if said else None
    return counted


def summarise(rounds: Sequence[Result]) -> Result:
    """Return one row of several rounds: medians of them, percentiles of all their plans."""
    latencies = sorted(one for answer in rounds for one in answer["latencies_ms"])
    steps = sorted(one for answer in rounds for one in answer["steps_ms"])
    speeds = [answer["plans"] / answer["wall_s"] for answer in rounds]
    row: Result = {
        "plans_per_s": round(statistics.median(speeds), 1),
        "rounds": [round(speed, 1) for speed in speeds],
        "plans": sum(answer["plans"] for answer in rounds),
        "errors": sum(answer["errors"] for answer in rounds),
        "first_errors": [error for answer in rounds for error in answer["first_errors"]][:3],
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "cpu_ms": _medians([answer["cpu_ms"] for answer in rounds]),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if steps:
        row |= {"step_p50_ms": percentile(steps, 0.5), "step_p99_ms": percentile(steps, 0.99)}
    for name in ("events", "bytes"):
        if name in rounds[0]:
            row[name] = round(statistics.median(answer[name] for answer in rounds), 1)
    if "actions" in rounds[0]:
        row["actions"] = sum(answer["actions"] for answer in rounds)
    return row


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile of what is sorted."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) if ordered else None


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for one in rounds for name in one}
    return {name: round(statistics.median(one.get(name, 0.0) for one in rounds), 2) for name in sorted(names)}


def _line(row: Result) -> str:
    errors = f"  {row['errors']} ERRORS: {row['first_errors']}" if row["errors"] else ""
    return (
        f"  {row['durability']:<8}{row['case']:<7} C={row['concurrency']:<3} {row['target']:<42}"
        f"{row['plans_per_s']:>8.1f} plans/s  p50 {row['p50_ms'] or 0:>7.1f} ms  p99 {row['p99_ms'] or 0:>7.1f} ms"  # noqa: E501
        f"  cpu {sum(row['cpu_ms'].values()):>5.1f} ms{errors}"
    )


def root_of(text: str) -> tuple[str, Path]:
    """Read `NAME=PATH` or a path, as a name and a checkout."""
    name, _, path = text.rpartition("=")
    found = Path(path).resolve()
    if not (found / "handrail").is_dir():
        raise ValueError(f"{found} is not a checkout of Handrail")
    return name or f"Handrail at {found.name if found != ROOT else 'here'}", found
