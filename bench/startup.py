"""How long a start takes, what a stack weighs, and how fast a log is folded. Ours only."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import counts, processes, stack
from bench.load import plan
from core.ports import Record
from core.run import fold

STARTS = 5
EVENTS = 10_000
LONG_STEPS = 400
NAP_S = 4.0
WEIGH_AFTER_S = 1.5
RUN_TIMEOUT_S = 60.0
MiB = 1 << 20


def measure(place: Path, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Return measures by name."""
    starts = [_start(place / f"start{i}") for i in range(1 if quick else STARTS)]
    say(f"started {len(starts)} times")
    found: dict[str, Any] = {
        "`handrail run` until its first event, s": round(statistics.median(first for first, _ in starts), 2),
        "`handrail run` of five reads, all of it, s": round(
            statistics.median(whole for _, whole in starts), 2
        ),
        "embedded stack (`handrail run`), MiB": round(_embedded_mib(place / "nap"), 1),
    }
    begun = time.monotonic()
    with stack.running(stack.copy_project(place / "up", "always")) as running:
        found["`handrail up --host inline` until it is up, s"] = round(time.monotonic() - begun, 2)
        time.sleep(WEIGH_AFTER_S)
        pids = processes.tree(running.pid)
        held = sum(map(processes.memory_bytes, pids))
        found[f"`handrail up --host inline`, {len(pids)} processes, MiB"] = round(held / MiB, 1)
    say("folding")
    short = asyncio.run(counts.records("act", 5))
    times = -(-EVENTS // len(short))
    found[f"folding {EVENTS:,} events of {times} runs, s"] = round(_fold_s(short, times), 3)
    if not quick:
        long = asyncio.run(counts.records("act", LONG_STEPS))
        one = _fold_s(long, 1)
        found[f"folding one run of {LONG_STEPS} steps ({len(long):,} events), s"] = round(one, 3)
    return found


def _start(project: Path) -> tuple[float, float]:
    """Return how long a run takes in a fresh project until its first event, and until its end."""
    process = _run(project, plan("step"))
    begun = time.monotonic()
    assert process.stdout is not None
    line = process.stdout.readline()
    first = time.monotonic() - begun
    rest = process.communicate(timeout=RUN_TIMEOUT_S)[0]
    if process.returncode:
        raise AssertionError(f"`handrail run` ended with {process.returncode}: {line}{rest}")
    return first, time.monotonic() - begun


def _embedded_mib(project: Path) -> float:
    form = {"steps": [{"id": "s1", "tool": "nap", "with": {"seconds": NAP_S}}]}
    process = _run(project, form)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(WEIGH_AFTER_S)
    held = sum(map(processes.memory_bytes, processes.tree(process.pid)))
    process.communicate(timeout=RUN_TIMEOUT_S)
    return held / MiB


def _run(project: Path, form: dict[str, Any]) -> subprocess.Popen[str]:
    stack.copy_project(project, "always")
    (project / "plan.json").write_text(json.dumps(form))
    command = [sys.executable, "-m", "handrail.cli.main", "run", "bench", "--json"]
    return subprocess.Popen(
        [*command, "--project", str(project), "--plan", str(project / "plan.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=stack.environment(),
        cwd=stack.ROOT,
    )


def _fold_s(records: Sequence[Record], times: int) -> float:
    """Return the best of three."""
    key = records[0].address.key
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(times):
            fold(key, records)
        best = min(best, time.perf_counter() - begun)
    return best
