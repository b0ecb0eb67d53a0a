"""W3: a thousand runs that wait, released at once by a timer of their own or by their users; ours only.

The timer that a user sets today is a run's deadline: paused runs with one deadline are due together, and each
is ended by it. The others are resumed by one client as fast as it can. Before that, what a waiting run costs,
and how long a decider that is killed takes to be of use again with all of them open.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from bench import processes, stack
from bench.load import plan
from bench.throughput import percentile
from handrail.client import Client
from handrail.v1 import event_pb2

RUNS = 1_000
RESUMED = 200
QUICK_RUNS = 40
QUICK_RESUMED = 20
AT_A_TIME = 32
STEPS = 20
PARK_S_PER_RUN = 0.04
MIN_DEADLINE_S = 12.0
SETTLE_S = 2.0
RELEASE_TIMEOUT_S = 90.0
KiB = 1 << 10

_T = TypeVar("_T")


def measure(place: Path, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Park, look, release; returns measures by name."""
    runs, resumed = (QUICK_RUNS, QUICK_RESUMED) if quick else (RUNS, RESUMED)
    project = stack.copy_project(place / "parked", "always")
    with stack.running(project) as running:
        return asyncio.run(_measure(running, runs, resumed, say))


async def _measure(
    running: stack.Stack, count: int, resumed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    async with Client(running.address, timeout_s=RELEASE_TIMEOUT_S, token_file=running.token) as client:
        await run_one(client)
        quick_s = await restart_decider(running, client)
        await asyncio.sleep(SETTLE_S)
        before = memory(running)
        deadline_s = max(MIN_DEADLINE_S, count * PARK_S_PER_RUN + 2 * SETTLE_S)
        due = datetime.now(UTC) + timedelta(seconds=deadline_s)
        say(f"parking {count} runs")
        parked = await _park(client, count, due)
        await asyncio.sleep(SETTLE_S)
        after = memory(running)
        full_s = await restart_decider(running, client)
        left_s = due.timestamp() - time.time()
        say(f"{len(parked)} runs are paused; their deadline is in {left_s:.0f} s")
        found: dict[str, Any] = {
            "runs parked": len(parked),
            "KiB per parked run: decider": per_run(before, after, len(parked), "decider"),
            "KiB per parked run: whole stack": per_run(before, after, len(parked), ""),
            "a goal submitted as the decider is killed is done after, s: no open runs": round(quick_s, 2),
            f"the same, s: {len(parked)} open runs": round(full_s, 2),
        }
        if left_s < SETTLE_S:
            found["released by their deadline"] = "not measured: parking took too long"
        else:
            found |= await _release_by_timer(client, parked, due)
        say(f"parking {resumed} runs to be resumed")
        found |= await _release_by_hand(client, await _park(client, resumed, None))
    return found


async def run_one(client: Client) -> None:
    """Run a plan to its end."""
    submitted = await client.submit("bench", plan=plan("act"))
    await client.wait(submitted.run, timeout_s=RELEASE_TIMEOUT_S)


async def restart_decider(running: stack.Stack, client: Client) -> float:
    """Kill the decider and return how long a goal that is submitted at that moment takes."""
    os.kill(running.processes()["decider"], signal.SIGKILL)
    begun = time.monotonic()
    await run_one(client)
    return time.monotonic() - begun


async def _park(client: Client, count: int, due: datetime | None) -> list[str]:
    """Submit long plans and pause each at once; returns those that are paused."""

    async def park(_: int) -> str:
        submitted = await client.submit("bench", plan=plan("act", STEPS), deadline=due)
        await client.pause(submitted.run)
        return submitted.run

    runs = await each(park, range(count))

    async def paused(run: str) -> bool:
        return (await client.get(run)).status == event_pb2.RUN_STATUS_PAUSED

    kept = await each(paused, runs)
    return [run for run, yes in zip(runs, kept, strict=True) if yes]


async def _release_by_timer(client: Client, runs: Sequence[str], due: datetime) -> dict[str, Any]:
    await asyncio.sleep(max(0.0, due.timestamp() - time.time()))

    async def ended_ms(run: str) -> float:
        await client.wait(run, timeout_s=RELEASE_TIMEOUT_S)
        seen = [event async for event in client.watch(run, until_now=True)]
        return seen[-1].time.ToNanoseconds() / 1e6 - due.timestamp() * 1e3

    late = sorted(await each(ended_ms, runs))
    return {
        "released by their deadline: p50 ms late": percentile(late, 0.5),
        "released by their deadline: p99 ms late": percentile(late, 0.99),
        "released by their deadline: earliest, ms": round(late[0], 1),
        "released by their deadline: last, ms late": round(late[-1], 1),
    }


async def _release_by_hand(client: Client, runs: Sequence[str]) -> dict[str, Any]:
    begun = time.time_ns()

    async def resumed(run: str) -> float:
        await client.resume(run)
        return time.time_ns() / 1e6

    told = await each(resumed, runs)

    async def began_ms(run: str) -> float:
        """Return when the first action after the resume was authorised."""
        again = False
        async for seen in client.watch(run):
            again = again or seen.event.HasField("resume")
            if again and seen.event.HasField("action"):
                return seen.time.ToNanoseconds() / 1e6
        raise AssertionError(f"run {run} ended without another action")

    late = sorted(at - begun / 1e6 for at in await each(began_ms, runs))
    return {
        f"{len(runs)} resumed by one client: all resumes answered after, ms": round(
            max(told) - begun / 1e6, 1
        ),
        f"{len(runs)} resumed by one client: p50 until the next action, ms": percentile(late, 0.5),
        f"{len(runs)} resumed by one client: p99 until the next action, ms": percentile(late, 0.99),
    }


async def each(work: Callable[[Any], Awaitable[_T]], items: Sequence[Any] | range) -> list[_T]:
    """Do something for each, so many at a time."""
    gate = asyncio.Semaphore(AT_A_TIME)

    async def one(item: Any) -> _T:
        async with gate:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


def memory(running: stack.Stack) -> dict[str, int]:
    """Return the memory of each process; the smallest of a few looks, as rubbish comes and goes."""
    looks = [
        {name: processes.memory_bytes(pid) for name, pid in running.processes().items()} for _ in range(3)
    ]
    return {name: min(look.get(name, 0) for look in looks) for name in looks[0]}


def per_run(before: dict[str, int], after: dict[str, int], count: int, name: str) -> float:
    """Return the KiB by which a process has grown for each run; without a name, all of them together."""
    names = [name] if name else list(after)
    grown = sum(after.get(one, 0) - before.get(one, 0) for one in names)
    return round(grown / max(1, count) / KiB, 1)
