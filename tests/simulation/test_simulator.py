"""The simulator in short: seeds are clean, the same seed is the same run, and planted bugs are found.

All of it happens in processes of its own: what the simulation patches is nobody else's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.simulation import fleet, report
from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
SEEDS = 25
QUICK = [name for name, mutant in MUTANTS.items() if mutant.within <= fleet.QUICK_WITHIN]
JOBS = 2


def test_every_promise_is_kept() -> None:
    sum = fleet.sail(range(SEEDS), jobs=JOBS)
    assert not sum.failures, "\n\n".join(told for _, told in sum.failures)
    assert sum.seeds == SEEDS
    assert not report.missing(sum.counts, seeds=SEEDS)


def test_a_seed_replays_exactly_in_any_process() -> None:
    digests = [_digest(7, hash_seed) for hash_seed in ("0", "0", "12345")]
    assert digests[0] == digests[1] == digests[2]
    assert _digest(8, "0") != digests[0]


def test_planted_bugs_are_found() -> None:
    assert len(QUICK) >= 12
    missed = [catch for catch in fleet.hunt(QUICK, jobs=JOBS) if catch.seed is None]
    assert not missed, f"not found: {missed}"


def test_a_simulation_in_which_nothing_happens_is_broken() -> None:
    assert report.missing(Counter(), seeds=1) == ["event: submit", "run: done"]
    assert "kill decider" in report.missing(Counter(), seeds=report.EXPECTED_WITHIN)
    # Hardly a run was planned, so hardly a promise was put to the test.
    idle = Counter({"event: submit": 200, "event: plan_accepted": 20, "event: action": 900, "run: done": 90})
    assert report.missing(idle, seeds=report.SHARED_WITHIN) == [
        "more than 20 of 'event: plan_accepted' in 200 runs"
    ]


def test_a_broken_promise_is_told_with_its_replay() -> None:
    told = _run("--seed", "0", "--mutant", "double_dispatch", "--trace")
    assert told.returncode == 1
    assert "breaks attempts_follow_each_other" in told.stdout
    seed, mutant = 0, "double_dispatch"
    _, failure = fleet.live_through(seed, mutant)
    assert failure.endswith(f"replay: {report.replay(seed)} --mutant {mutant}")


def _digest(seed: int, hash_seed: str) -> str:
    found = re.search(r"seed \d+: ([0-9a-f]{64})", _run("--seed", str(seed), hash_seed=hash_seed).stdout)
    assert found is not None
    return found[1]


def _run(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
