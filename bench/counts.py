"""Counts that do not wobble: what a plan stores, and what it costs to fold it.

`count_plan` runs one plan through the real decider, worker and verifier on the log in memory and counts what
they append; the same code gives the same counts on every machine. `tests/unit/test_counts.py` holds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.host import AgentLoop
from actors.verifier import Verifier
from bench.load import plan
from bus.memory import MemoryBroker, MemoryLog
from core import run
from core.contracts import to_proto
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, Fence, Record, RunKey
from handrail.keys import PrivateKey, PublicKeys
from handrail.tool import Tool, collect
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from workers.host import Worker
from workers.instance import Instance

PROJECT = Path(__file__).with_name("project")
KEY = RunKey(0, "default", "r0-counts0000")
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What one plan stored."""

    events: int
    bytes: int
    by_kind: Mapping[str, int]
    steps: int
    # Of folding the whole log: function calls, and the most memory that it holds at once.
    fold_calls: int
    fold_bytes: int

    @property
    def publishes_per_step(self) -> float:
        """Return how many events there were for each step, those of the run as a whole left out."""
        whole = sum(self.by_kind.get(kind, 0) for kind in ("submit", "plan_accepted", "finished"))
        return (self.events - whole) / self.steps


class CountingBroker(MemoryBroker):
    """A broker in memory that keeps the size of everything published."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[str, int]] = []

    def put(self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = "") -> int:
        """Publish, and note it once it is accepted."""
        sequence = super().put(stream, subject, data, fence, trace)
        self.published.append((stream, len(data)))
        return sequence


def count_plan(tool: str, *, steps: int = 5) -> Counts:
    """Run a plan of so many sequential calls of a tool of the bench's project, and count."""
    broker = CountingBroker()
    found = asyncio.run(_run_plan(broker, tool, steps))
    kinds = Counter(record.event.WhichOneof("body") or "" for record in found if record.event is not None)
    events = sum(stream.startswith("EV_") for stream, _ in broker.published)
    size = sum(size for _, size in broker.published)
    fold = partial(run.fold, KEY, found)
    # What is made once and kept is no cost of a plan.
    fold()
    return Counts(events, size, kinds, steps, _calls(fold), _peak_bytes(fold))


async def records(tool: str, steps: int) -> list[Record]:
    """Return the log of such a plan."""
    return await _run_plan(CountingBroker(), tool, steps)


async def _run_plan(broker: CountingBroker, tool: str, steps: int) -> list[Record]:
    tools = {one.contract.name: one for one in _tools()}
    contracts = {name: to_proto(one.contract) for name, one in tools.items()}
    log, key = MemoryLog(broker), PrivateKey.generate()
    checker = PublicKeys.parse(key.public, "bench")
    decider = Decider(MemoryLog(broker), Catalogue(contracts=contracts), signer=key, instance="bench")
    worker = Worker(
        MemoryLog(broker),
        tools,
        toolbox="steps",
        instance=Instance("bench", 1, "steps_0", 1),
        checker=checker,
        concurrency=8,
    )
    verifier = Verifier(tools, contracts, checker=checker, pool="main", instance="bench")
    loop = AgentLoop(verifier, MemoryLog(broker), pool="main", instance="bench", concurrency=8)
    tasks = [asyncio.create_task(work) for work in (decider.serve(), worker.serve(), loop.run())]
    try:
        goal = event_pb2.Goal(text="bench", plan=plan_from_form(plan(tool, steps)))
        event = event_pb2.Event(id="0" * 32, version=run.VERSION, writer="gateway/bench")
        event.submit.goal.CopyFrom(goal)
        await log.append(Address(KEY, "cmd", ("submit",)), event)
        async with asyncio.timeout(TIMEOUT_S):
            async for record in log.follow(KEY):
                if record.event is not None and record.event.HasField("finished"):
                    break
        if record.event is None or record.event.finished.status != event_pb2.RUN_STATUS_DONE:
            raise AssertionError(f"the plan ended with {record.event}")
        return await log.read(KEY)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _calls(work: Callable[[], Any]) -> int:
    """Return how many functions a piece of pure work calls: what it costs, on every machine the same."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def _peak_bytes(work: Callable[[], Any]) -> int:
    """Return how much memory of Python's own a piece of work holds at once."""
    tracemalloc.start()
    try:
        kept = work()
        return tracemalloc.get_traced_memory()[1] if kept is not None else 0
    finally:
        tracemalloc.stop()


def _tools() -> list[Tool]:
    spec = importlib.util.spec_from_file_location("bench_steps", PROJECT / "steps.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [one.with_toolbox("steps") for one in collect(module)]


def main() -> None:
    """Print the counts of a plan of reads and of one of effects."""
    with contextlib.suppress(BrokenPipeError):
        for tool in ("step", "act"):
            found = count_plan(tool)
            kinds = ", ".join(f"{count} {kind}" for kind, count in found.by_kind.items())
            print(
                f"{tool}: {found.events} events ({kinds}), {found.bytes} bytes, "
                f"{found.publishes_per_step:.1f} a step; folding: {found.fold_calls} calls, "
                f"{found.fold_bytes} bytes"
            )


if __name__ == "__main__":
    main()
