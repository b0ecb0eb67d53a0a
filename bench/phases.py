"""Where the latency of one plan goes, with nothing else to do: the client's call, and the log's times."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load import TOOLS, plan
from handrail.client import Client
from handrail.v1 import run_service_pb2

PLANS = 60
WARM = 10
WHAT = {
    "submit": "gateway: checked, stored",
    "plan_accepted": "decider: plan checked, stored",
    "action": "decider: folded, decided, authorised, stored",
    "intent": "worker: permit checked, claim stored",
    "result": "worker: acted, result stored",
    "verdict": "verifier: action read, judged, verdict stored",
    "finished": "decider: folded, decided, end stored",
}


async def measure(address: str, token: Path, case: str) -> str:
    """Run plans one at a time and return a table of medians."""
    whole: list[float] = []
    phases: dict[str, list[float]] = defaultdict(list)
    form = plan(TOOLS[case])
    async with Client(address, token_file=token) as client:
        for number in range(WARM + PLANS):
            begun = time.time_ns()
            run = await client.run("bench", plan=form)
            ended = time.time_ns()
            if number < WARM:
                continue
            events = [seen async for seen in client.watch(run.id, until_now=True)]
            whole.append((ended - begun) / 1e6)
            _add(phases, events, begun, ended)
    lines = ["what a plan takes, as its client sees it (ms, median):"]
    lines += [f"  {statistics.median(whole):8.2f}  Client.run"]
    lines += ["", "from one stored message to the next (ms, median; clocks of one machine):"]
    for name, values in phases.items():
        lines.append(f"  {statistics.median(values):8.2f}  {name}")
    lines += ["", "by who makes us wait (ms, sums of the medians):"]
    lines += [f"  {total:8.2f}  {name}" for name, total in _by_kind(phases).items()]
    return "\n".join(lines)


def _add(
    phases: dict[str, list[float]],
    events: Sequence[run_service_pb2.WatchRunResponse],
    begun: int,
    ended: int,
) -> None:
    before = begun
    stored: dict[str, list[run_service_pb2.WatchRunResponse]] = {}
    for seen in events:
        stored.setdefault(seen.cursor, []).append(seen)
    numbers: Counter[str] = Counter()
    for together in stored.values():
        # What was said before the last one is in the same message.
        last = together[-1]
        arm = str(last.event.WhichOneof("body"))
        numbers[arm] += 1
        said = len(together) - 1 + len(last.event.before)
        name = f"{arm} {numbers[arm]}" + (f" (with {said} before it)" if said else "")
        at = last.time.ToNanoseconds()
        phases[name].append((at - before) / 1e6)
        before = at
    phases["the client has it"].append((ended - before) / 1e6)


def _by_kind(phases: Mapping[str, Sequence[float]]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for name, values in phases.items():
        kind = name.split()[0]
        found[WHAT.get(kind, "gateway and client: told")] += statistics.median(values)
    return dict(found)
