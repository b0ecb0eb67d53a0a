"""How many goals a second the action model decides, alone and in batches: in NumPy, and with torch.

As many threads as the batch is large think about the sample's goals by hand, as a mind does of which so much
is asked at once. What each goal comes to, and how sure, is compared with what it comes to alone in NumPy.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from actors.models.lam import shelf
from actors.models.lam.answering import Model, open_model, reads_with
from actors.models.lam.evaluation import read_cases
from actors.models.lam.options import options_of
from actors.models.lam.planning import Thought
from bench import tables
from bench.stack import ROOT
from bench.throughput import percentile
from handrail import project
from handrail.cli.measuring import GOALS_DAY

SAMPLE = ROOT / "examples" / "backoffice"
NUMPY = "NumPy"
SURE = 1e-3
"""How much less sure a thought may be that is the same: sums are added up in another order."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """What is tried, and how long each."""

    sizes: Sequence[int] = (1, 8, 32)
    seconds: float = 8.0
    goals: int = 1_000


FULL, QUICK = Effort(), Effort(sizes=(1, 4), seconds=0.3, goals=20)


def measure(effort: Effort, say: Callable[[str], None]) -> Result:
    """Return a row for each engine and size of batch."""
    loaded = project.load(SAMPLE)
    folder = shelf.champion(SAMPLE / loaded.settings.lam.path)
    assert folder is not None, "the sample has a model that serves"
    options = options_of(loaded.protos, loaded.playbooks)
    goals = [one.goal for one in read_cases(SAMPLE / "goals")][: effort.goals]

    def opened(device: str, size: int) -> Model:
        return open_model(folder, options, {}, reads=reads_with(device, size))

    alone = opened("", 1)
    expected = {goal: alone.thinker.think(goal, GOALS_DAY) for goal in goals}
    rows = []
    for device in ("", *_devices()):
        for size in effort.sizes:
            name = f"torch, {device}" if device else NUMPY
            say(f"{name}, {size} at once ...")
            row = _course(opened(device, size), goals, expected, size, effort.seconds)
            rows.append({"engine": name, "batch": size, **row})
    return {"model": alone.digest, "goals": len(goals), "rows": rows}


def _devices() -> list[str]:
    """Return what torch can compute on here."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _course(
    model: Model, goals: Sequence[str], expected: dict[str, Thought], size: int, seconds: float
) -> Result:
    took: list[float] = []
    other: set[str] = set()

    def think(first: int) -> None:
        at = first
        # Every goal once at least, and then as long as there is time.
        while time.perf_counter() < ends or at < len(goals):
            goal = goals[at % len(goals)]
            begun = time.perf_counter()
            thought = model.thinker.think(goal, GOALS_DAY)
            took.append((time.perf_counter() - begun) * 1e3)
            if not _same(thought, expected[goal]):
                other.add(goal)
            at += size

    model.thinker.think(goals[0], GOALS_DAY)
    begins = time.perf_counter()
    ends = begins + seconds
    with ThreadPoolExecutor(size) as threads:
        for _ in threads.map(think, range(size)):
            pass
    took_s = time.perf_counter() - begins
    return {
        "per_s": len(took) / took_s,
        "p50_ms": percentile(sorted(took), 0.5) or 0.0,
        "p95_ms": percentile(sorted(took), 0.95) or 0.0,
        "other": len(other),
    }


def _same(one: Thought, other: Thought) -> bool:
    """Whether two thoughts come to the same, and are as sure of it."""
    return (one.outcome, one.steps) == (other.outcome, other.steps) and abs(one.sure - other.sure) < SURE


def table(measured: Result) -> str:
    """Return the rows as a table, in Markdown."""
    base = measured["rows"][0]["per_s"]
    head = ["engine", "at once", "goals/s", "to one alone", "p50, ms", "p95, ms", "other thoughts"]
    found: tables.Table = [head]
    for row in measured["rows"]:
        times = [f"{row['per_s']:.0f}", f"{row['per_s'] / base:.2f}"]
        spread = [tables.ms(row["p50_ms"]), tables.ms(row["p95_ms"])]
        other = f"{row['other']} of {measured['goals']}"
        found.append([row["engine"], str(row["batch"]), *times, *spread, other])
    return tables.markdown(found)
