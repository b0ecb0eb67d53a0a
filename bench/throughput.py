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
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench import postgres, rivals, targets
from bench.drivers import DriverFailed
from bench.stack import ROOT, Durability, StackFailed
from bench.syncs import fsyncs_per_plan
from bench.targets import Target
from bench.venvs import Missing

CONCURRENCIES = (1, 16, 64)
CASES = ("read", "effect")
WARM_CONCURRENCY = 4
FALLBACK_EVENTS = 20

Say = Callable[[str], None]
Result = dict[str, Any]
_T = TypeVar("_T")
_CannotRun = (Missing, postgres.PostgresMissing, DriverFailed, StackFailed, OSError)


@dataclass(frozen=True)
class Effort:
    """How long and how often; the times are of one round, of warming up, and of counting syncs."""

    rounds: int = 5
    seconds: float = 2.0
    concurrencies: tuple[int, ...] = CONCURRENCIES
    warm_s: float = 1.0
    peers_syncs: bool = True
    syncs_s: float = 2.0


def measure(
    place: Path,
    *,
    effort: Effort,
    durabilities: Sequence[str],
    peers: bool,
    against: Mapping[str, Path],
    say: Say,
) -> Result:
    """Measure every durability and return one row for each target, case and concurrency."""
    measured: Result = {"rows": [], "targets": {}, "skipped": {}}
    for durability in durabilities:
        with _targets(place, durability, peers, against, measured["skipped"], say) as found:
            if found:
                _Class(found, effort, place, measured, say).measure()
    return measured


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
            kept: Durability = "always" if durability == "always" else "relaxed"
            add("Handrail", partial(targets.ours, place, kept))
            for name, root in against.items():
                add(name, partial(targets.ours, place, kept, root=root, name=name))
            for kind in ("publish", "chain"):
                add(f"limit: {kind}", partial(targets.limit, place, kept, kind))
        if peers:
            for name, make in _peers(place, durability, stack, skipped).items():
                add(name, make)
        yield found


def _peers(
    place: Path, durability: str, stack: ExitStack, skipped: dict[str, str]
) -> dict[str, Callable[[], AbstractContextManager[Target]]]:
    if durability == "none":
        return {
            "LangGraph, memory": partial(rivals.langgraph, place, durability, None),
            "AutoGen gRPC": partial(rivals.autogen, place, durability, None),
        }
    found: dict[str, Callable[[], AbstractContextManager[Target]]] = {
        "LangGraph, SQLite": partial(rivals.langgraph, place, durability, None),
        "DBOS, SQLite": partial(rivals.dbos, place, durability, None),
    }
    try:
        home = place / f"postgres-{durability}"
        home.mkdir()
        server = stack.enter_context(postgres.running(home, synchronous_commit=durability == "always"))
        found["LangGraph, PostgreSQL"] = partial(rivals.langgraph, place, durability, server)
        found["DBOS, PostgreSQL"] = partial(rivals.dbos, place, durability, server)
    except _CannotRun as error:
        skipped[f"peers on PostgreSQL ({durability})"] = str(error)
    found["Restate"] = partial(rivals.restate, place, durability, None)
    return found


class _Class:
    """The measurement of targets of one durability. A target that fails once is left out from then on."""

    def __init__(self, found: list[Target], effort: Effort, place: Path, measured: Result, say: Say) -> None:
        self._found = found
        self._effort = effort
        self._place = place
        self._measured = measured
        self._say = say
        self._failed: set[str] = set()

    def measure(self) -> None:
        """Warm everything up, take the rounds, then look at what they left behind."""
        self._warm()
        for case in CASES:
            for concurrency in self._effort.concurrencies:
                self._rounds(case, concurrency)
        for target in self._found:
            if target.name not in self._failed:
                self._measured["targets"][f"{target.name} ({target.durability})"] = {
                    "settings": target.settings,
                    "memory_mib": round(target.memory_mib(), 1),
                    "fsyncs": self._syncs(target),
                }

    def _warm(self) -> None:
        """What our plans store is how many events the limit makes."""
        events = dict.fromkeys(CASES, FALLBACK_EVENTS)
        for target in self._found:
            for case in target.cases:
                if target.limit:
                    target.extra["events"] = events
                answer = self._attempt(target, target.round, case, WARM_CONCURRENCY, self._effort.warm_s)
                if target.ours and answer is not None and target is self._found[0]:
                    events[case] = round(answer["events"])

    def _rounds(self, case: str, concurrency: int) -> None:
        taking = [target for target in self._found if case in target.cases]
        rounds: dict[str, list[Result]] = {target.name: [] for target in taking}
        for number in range(self._effort.rounds):
            turn = number % max(1, len(taking))
            for target in (*taking[turn:], *taking[:turn]):
                work = partial(target.round, sample=target.ours)
                answer = self._attempt(target, work, case, concurrency, self._effort.seconds)
                if answer is not None and answer["wall_s"] > 0:
                    rounds[target.name].append(answer)
        for target in taking:
            if rounds[target.name]:
                row = {
                    "target": target.name,
                    "durability": target.durability,
                    "case": case,
                    "concurrency": concurrency,
                    "ours": target.ours,
                    "limit": target.limit,
                    **summarise(rounds[target.name]),
                }
                self._measured["rows"].append(row)
                self._say(_line(row))

    def _syncs(self, target: Target) -> dict[str, float | None]:
        if target.limit or not (target.ours or self._effort.peers_syncs):
            return {}
        return {
            case: self._attempt(target, fsyncs_per_plan, target, case, self._effort.syncs_s, self._place)
            for case in target.cases
        }

    def _attempt(self, target: Target, work: Callable[..., _T], *arguments: Any) -> _T | None:
        if target.name in self._failed:
            return None
        try:
            return work(*arguments)
        except DriverFailed as error:
            self._failed.add(target.name)
            self._measured["skipped"][f"{target.name} ({target.durability})"] = str(error)
            self._say(f"{target.name} failed: {error}")
            return None


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
        "drain_s": round(statistics.median(answer["drain_s"] for answer in rounds), 2),
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
    wrong = f"  {row['errors']} ERRORS: {row['first_errors']}" if row["errors"] else ""
    return (
        f"  {row['durability']:<8}{row['case']:<7} C={row['concurrency']:<3} {row['target']:<42}"
        f"{row['plans_per_s']:>8.1f} plans/s  p50 {row['p50_ms'] or 0:>7.1f} ms  "
        f"p99 {row['p99_ms'] or 0:>7.1f} ms  cpu {sum(row['cpu_ms'].values()):>5.1f} ms{wrong}"
    )


def root_of(text: str) -> tuple[str, Path]:
    """Read `NAME=PATH` or a path, as a name and a checkout."""
    name, _, path = text.rpartition("=")
    found = Path(path).resolve()
    if not (found / "handrail").is_dir():
        raise ValueError(f"{found} is not a checkout of Handrail")
    return name or f"Handrail at {found.name if found != ROOT else 'here'}", found
