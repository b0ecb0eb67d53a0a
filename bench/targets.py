"""What is measured: our own stack and the limit. A target takes rounds of plans and says what they cost.

Peers are in `bench.rivals`. Every target runs in processes of its own, drivers included.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import broker, processes, stack
from bench.drivers import Driver
from bench.stack import Durability

MiB = 1 << 20
DRAIN_TIMEOUT_S = 60.0


@dataclass
class Target:
    """Something that runs plans, with what is needed to measure it.

    `parts` names the processes whose trees are its own, beyond its drivers; `cases` are the kinds of plans
    that it runs; `count` reads what has been stored so far; `drain` waits for work that nobody waits for.
    """

    name: str
    durability: str
    settings: str
    drivers: Sequence[Driver]
    parts: Callable[[], Mapping[str, int]] = dict
    cases: tuple[str, ...] = ("read",)
    count: Callable[[], broker.Stored] | None = None
    drain: Callable[[], float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    ours: bool = False
    limit: bool = False
    client_apart: bool = False

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each of its parts has used."""
        found: dict[str, float] = {}
        for name, pid in self.parts().items():
            role = name.partition(":")[0]
            found[role] = found.get(role, 0.0) + sum(map(processes.cpu_s, processes.tree(pid)))
        clients = {pid for driver in self.drivers for pid in processes.tree(driver.pid)}
        return {**found, "client": sum(map(processes.cpu_s, clients))}

    def pids(self) -> list[int]:
        """Return every process of it, drivers included."""
        roots = (*self.parts().values(), *(driver.pid for driver in self.drivers))
        trees = [processes.tree(pid) for pid in roots]
        return sorted({pid for one in trees for pid in one})

    def memory_mib(self) -> float:
        """Return the memory that it holds, by share where it is shared; without a client that is apart."""
        held = {pid for root in self.parts().values() for pid in processes.tree(root)}
        return sum(map(processes.memory_bytes, held if self.client_apart else self.pids())) / MiB

    def round(self, what: str, concurrency: int, seconds: float, *, sample: bool = False) -> dict[str, Any]:
        """Run plans for a while and return what came of it and what it cost."""
        shares = _shares(concurrency, len(self.drivers))
        working = [(driver, share) for driver, share in zip(self.drivers, shares, strict=True) if share]
        held = self.count() if self.count else None
        before = self.cpu_s()
        for driver, share in working:
            driver.send(concurrency=share, seconds=seconds, what=what, **self.extra)
        answers = [driver.answer(seconds) for driver, _ in working]
        # What is put off belongs to this round's costs, and must not run during somebody else's.
        drained_s = self.drain() if self.drain else 0.0
        after = self.cpu_s()
        answer = _merged(answers)
        plans = max(1, answer["plans"])
        answer["cpu_ms"] = {name: (after[name] - before.get(name, 0.0)) / plans * 1e3 for name in after}
        answer["drain_s"] = drained_s
        if held is not None and self.count is not None:
            now = self.count()
            # Failed plans stored something too; there should be none.
            answer["events"] = (now.messages - held.messages) / plans
            answer["bytes"] = (now.bytes - held.bytes) / plans
        if sample:
            answer["steps_ms"] = self.drivers[0].order(what="steps")["steps_ms"]
        return answer


def _shares(concurrency: int, drivers: int) -> list[int]:
    return [concurrency // drivers + (i < concurrency % drivers) for i in range(drivers)]


def _merged(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {
        "plans": sum(answer["plans"] for answer in answers),
        "wall_s": max(answer["wall_s"] for answer in answers),
        "errors": sum(answer["errors"] for answer in answers),
    }
    for name in ("latencies_ms", "first_errors"):
        merged[name] = [one for answer in answers for one in answer[name]]
    merged["steps_ms"] = []
    if any("actions" in answer for answer in answers):
        merged["actions"] = sum(answer.get("actions", 0) for answer in answers)
    return merged


@contextmanager
def ours(
    place: Path, durability: Durability, *, root: Path = stack.ROOT, name: str = "Handrail"
) -> Iterator[Target]:
    """Run a stack and a client of it; `root` is the checkout whose code runs."""
    with (
        our_stack(place, durability, root=root, name=name) as running,
        ours_on(running, durability, root=root, name=name) as target,
    ):
        yield target


@contextmanager
def our_stack(
    place: Path, durability: Durability, *, root: Path = stack.ROOT, name: str = "Handrail"
) -> Iterator[stack.Stack]:
    """Run a stack on a project of its own."""
    project = stack.copy_project(place / re.sub(r"\W+", "-", f"{name} {durability}"), durability)
    with stack.running(project, root=root) as running:
        yield running


@contextmanager
def ours_on(
    running: stack.Stack, durability: Durability, *, root: Path = stack.ROOT, name: str = "Handrail"
) -> Iterator[Target]:
    """Run a client of a stack."""
    command = [sys.executable, "-m", "bench.load", running.address]
    stderr = running.project / "client.stderr"
    env = stack.environment(root, HANDRAIL_TOKEN_FILE=str(running.token))
    driver = Driver(command, env=env, cwd=root, stderr=stderr)
    try:
        yield Target(
            name=name,
            durability=durability,
            settings=f"broker sync = {durability}, host = inline, 1 worker, traces to a file",
            drivers=[driver],
            # Not the supervisor, of which all others descend; it does nothing.
            parts=lambda: {n: pid for n, pid in running.processes().items() if n != "supervisor"},
            cases=("read", "effect"),
            count=lambda: broker.stored(running.access),
            drain=lambda: broker.drain_tracer(running.access, DRAIN_TIMEOUT_S)[0],
            ours=True,
            client_apart=True,
        )
    finally:
        driver.close()


@contextmanager
def limit(place: Path, durability: Durability, kind: str) -> Iterator[Target]:
    """Run as many bare publishes as our plans have events: by one client, or to and fro between two."""
    command = [sys.executable, "-m", "bench.limit", kind, durability]
    place = place / f"limit-{kind}-{durability}"
    place.mkdir()
    driver = Driver(
        [*command, place / "data"], env=stack.environment(), cwd=stack.ROOT, stderr=place / "stderr"
    )
    names = {
        "publish": "limit: bare publishes, one client",
        "chain": "limit: to and fro between two processes",
    }
    try:
        yield Target(
            name=names[kind],
            durability=durability,
            settings=f"nats-server, sync = {durability}",
            drivers=[driver],
            cases=("read", "effect"),
            limit=True,
        )
    finally:
        driver.close()
