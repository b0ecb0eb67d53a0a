"""W5: a thousand runs that wait at gates, approved at once by one client; ours only.

Each wants one action that somebody must approve, and one read after it. While they wait, what a waiting run
costs; then the decider is killed, so that what goes on is what the log has, and all of them are approved as
fast as one client can.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import stack
from bench.parked import (
    RELEASE_TIMEOUT_S,
    SETTLE_S,
    each,
    memory,
    per_run,
    restart_decider,
    run_one,
)
from bench.throughput import percentile
from handrail.client import Client
from handrail.v1 import event_pb2, run_service_pb2

RUNS = 1_000
QUICK_RUNS = 40
OPEN_TIMEOUT_S = 60.0
POLL_S = 0.2
TOOL = "gated_act"
RULE = f"""
@id("wait")
@reason("somebody must approve it")
forbid (principal, action == Action::"{TOOL}", resource)
unless {{ context.approvals >= 1 }};
"""
PLAN = {
    "steps": [
        {"id": "act", "tool": TOOL, "with": {"n": 0}},
        {"id": "look", "tool": "step", "with": {"n": "$act"}},
    ]
}


def measure(place: Path, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Have runs wait, look, approve; returns measures by name."""
    project = stack.copy_project(place / "gated", "always")
    (project / "policy" / "gates.cedar").write_text(RULE)
    with stack.running(project) as running:
        return asyncio.run(_measure(running, QUICK_RUNS if quick else RUNS, say))


async def _measure(running: stack.Stack, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    async with Client(running.address, timeout_s=RELEASE_TIMEOUT_S, token_file=running.token) as client:
        await run_one(client)
        await asyncio.sleep(SETTLE_S)
        before = memory(running)
        say(f"opening {count} gates")
        runs = await each(lambda _: _submit(client), range(count))
        gates = await _opened(client, count)
        await asyncio.sleep(SETTLE_S)
        after = memory(running)
        restart_s = await restart_decider(running, client)
        await asyncio.sleep(SETTLE_S)
        anew = memory(running)
        say(f"approving {len(gates)} gates")
        begun = time.monotonic()
        answered = await each(lambda gate: _approve(client, gate, begun), gates)
        ended = await each(lambda run: _ended(client, run), runs)
        took_s = time.monotonic() - begun
    done = sorted(ms for ms in ended if ms is not None)
    return {
        "runs waiting at a gate": len(gates),
        "KiB per waiting run: decider": per_run(before, after, count, "decider"),
        "KiB per waiting run: decider, started again": per_run(before, anew, count, "decider"),
        "KiB per waiting run: gateway": per_run(before, after, count, "gateway"),
        "KiB per waiting run: whole stack": per_run(before, after, count, ""),
        "a goal submitted as the decider is killed is done after, s": round(restart_s, 2),
        "all approvals answered after, s": round(max(answered), 2),
        "all runs ended after, s": round(took_s, 2),
        "from a decision to the run's end: p50 ms": percentile(done, 0.5),
        "from a decision to the run's end: p99 ms": percentile(done, 0.99),
        "runs lost": count - len(done),
    }


async def _submit(client: Client) -> str:
    return (await client.submit("bench", plan=PLAN)).run


async def _opened(client: Client, count: int) -> list[run_service_pb2.Gate]:
    """Wait until the inbox has a gate for every run."""
    limit = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        gates = [gate async for gate in client.gates()]
        if len(gates) == count:
            return gates
        if time.monotonic() > limit:
            raise AssertionError(f"{len(gates)} of {count} gates are open after {OPEN_TIMEOUT_S:g} s")
        await asyncio.sleep(POLL_S)


async def _approve(client: Client, gate: run_service_pb2.Gate, begun: float) -> float:
    await client.decide(gate.id, approve=True, approver="ada", binding=gate.what.binding)
    return time.monotonic() - begun


async def _ended(client: Client, run: str) -> float | None:
    """Return how long a run took from the decision to its end, by its log; None where it is not done."""
    decided_ns = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            async for seen in client.watch(run):
                if seen.event.HasField("decide"):
                    decided_ns = seen.time.ToNanoseconds()
                elif seen.event.HasField("finished") and decided_ns:
                    done = seen.event.finished.status == event_pb2.RUN_STATUS_DONE
                    return (seen.time.ToNanoseconds() - decided_ns) / 1e6 if done else None
    return None
