"""Teaching: goals with their plans, drawn from wordings, run for real on a stack, collected from its log.

A client submits each goal with the plan that its author means by it, as one that teaches. What of it trains
is for `handrail lam collect` to say: it reads the log and keeps what the verifier has confirmed.
"""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from actors.models.lam import forms
from actors.models.lam.reading import read
from actors.models.lam.row_text import write_line
from bench import stack
from bench.hire.hire import BOOKINGS, email_of, machine_of
from handrail.cli.collect import read_rows
from handrail.client import Client
from handrail.v1.trajectory_pb2 import TrajectoryRow

HIRE = Path(__file__).with_name("hire")
SAID = HIRE / "said.yaml"
AT_A_TIME = 32
RUN_TIMEOUT_S = 120.0
SPARE = 1.2
"""How many more goals than wanted are tried at most: of some nobody could tell which words were meant."""
FIRST_BOOKING = 10


class TeachingFailed(Exception):
    """What was taught was not confirmed, or could not be collected."""


@dataclass(frozen=True)
class Shown:
    """A goal as somebody says it, with the plan that they mean by it."""

    goal: str
    plan: dict[str, Any]


class Teacher:
    """Says goals: the same seed says the same, but for what day it is."""

    def __init__(self, seed: int, said: Mapping[str, Any] | None = None) -> None:
        """`said` is what said.yaml holds; each booking is spoken of once, so that no run spoils another."""
        said = said or yaml.safe_load(SAID.read_text(encoding="utf-8"))
        self._rng = Random(seed)
        self._plans = [(plan["steps"], wording) for plan in said["plans"] for wording in plan["say"]]
        self._why: dict[str, list[str]] = said["why"]
        self._text: list[str] = said["text"]
        self._bookings = list(range(FIRST_BOOKING, BOOKINGS + 1))
        self._rng.shuffle(self._bookings)

    def say(self, today: datetime.date) -> Shown:
        """Return the next goal."""
        steps, wording = self._rng.choice(self._plans)
        day = forms.date(self._rng, today)
        reason = self._rng.choice(list(self._why))
        said: dict[str, tuple[str, Any]] = {
            name: (text, text)
            for name, text in {
                "email": email_of(self._rng.randint(1, BOOKINGS)),
                "machine": machine_of(self._rng.randint(1, BOOKINGS)),
                "text": self._rng.choice(self._text),
            }.items()
        }
        said["day"] = (day, read("date", day, today))
        said["why"] = (self._rng.choice(self._why[reason]), reason)
        for name in ("booking", "other"):
            number = self._bookings.pop()
            said[name] = (str(number), number)
        goal = wording
        for name, (text, _) in said.items():
            goal = goal.replace(f"{{{name}}}", text)
        meant = {f"{{{name}}}": value for name, (_, value) in said.items()}
        plan = [
            {"id": "s1", **step, "with": {k: meant.get(v, v) for k, v in step["with"].items()}}
            for step in steps
        ]
        return Shown(goal, {"steps": plan})


def teach(project: Path, count: int, seed: int, say: Callable[[str], None]) -> list[list[TrajectoryRow]]:
    """Run goals on a stack until so many have taught something; return their rows, in order."""
    teacher = Teacher(seed)
    runs: list[str] = []
    with stack.running(project) as running:
        taught: list[list[TrajectoryRow]] = []
        while len(taught) < count and len(runs) < count * SPARE + 5:
            wanted = count - len(taught)
            runs += asyncio.run(_run(running, teacher, wanted))
            taught = _collected(project, runs)
            say(f"{len(runs)} runs, of which {len(taught)} teach")
    if len(taught) < count:
        raise TeachingFailed(f"of {len(runs)} runs {len(taught)} teach, and {count} have to: see {project}")
    return taught[:count]


async def _run(running: stack.Stack, teacher: Teacher, count: int) -> list[str]:
    """Have somebody show so many goals; returns their runs, in order."""
    gate = asyncio.Semaphore(AT_A_TIME)
    async with Client(running.address, token_file=running.token) as client:

        async def show(_: int) -> str:
            async with gate:
                shown = teacher.say(datetime.datetime.now(datetime.UTC).date())
                run = await client.run(shown.goal, plan=shown.plan, teaches=True, timeout_s=RUN_TIMEOUT_S)
                return run.id

        return list(await asyncio.gather(*map(show, range(count))))


def _collected(project: Path, runs: list[str]) -> list[list[TrajectoryRow]]:
    """Collect as anybody would; return the rows of each run that trains as a whole."""
    file = project / "lam" / "collected.jsonl"
    command = [
        sys.executable,
        "-m",
        "handrail.cli.main",
        "lam",
        "collect",
        "--project",
        str(project),
        "--json",
    ]
    done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise TeachingFailed(f"`handrail lam collect` failed: {done.stderr[-1000:]}")
    by_run: dict[str, list[TrajectoryRow]] = {}
    for row in read_rows(file):
        by_run.setdefault(row.trajectory, []).append(row)
    return [by_run[run] for run in runs if run in by_run]


def write_rows(path: Path, taught: list[list[TrajectoryRow]]) -> None:
    """Write the rows of some runs as a file that trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{write_line(row)}\n" for rows in taught for row in rows), encoding="utf-8")
