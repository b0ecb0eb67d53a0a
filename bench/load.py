"""The client of the load, in a process of its own: `python -m bench.load ADDRESS`.

Plans of five steps, each of which takes what the one before it returned, given by the client. A plan counts
from the call of `Client.run` until it has returned the run, which must be done and hold the right number.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bench.drive import Lines, round_async
from core import failures
from handrail.client import Client
from handrail.v1 import event_pb2, run_service_pb2

STEPS = 5
TOOLS = {"read": "step", "effect": "act", "flaky_read": "flaky_step", "flaky_effect": "flaky_act"}
SAMPLED_RUNS = 30
RUN_TIMEOUT_S = 60.0


def plan(tool: str, steps: int = STEPS) -> dict[str, Any]:
    """Return a plan whose steps are sequential because each needs the one before it."""
    first: dict[str, Any] = {"id": "s1", "tool": tool, "with": {"n": 0}}
    rest = [{"id": f"s{i}", "tool": tool, "with": {"n": f"$s{i - 1}"}} for i in range(2, steps + 1)]
    return {"steps": [first, *rest]}


class Load:
    """A client of a server, and the plans that it runs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._runs: list[str] = []
        self._actions = 0

    async def round(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run plans for a while, or say how long single steps of the last ones took, by the log's times."""
        if order["what"] == "steps":
            return {"steps_ms": await self._step_latencies_ms()}
        self._runs, self._actions = [], 0
        form = plan(TOOLS[order["what"]])

        async def run_plan(_: int) -> None:
            run = await self._client.run("bench", plan=form, timeout_s=RUN_TIMEOUT_S)
            _check(run)
            self._actions += sum(_was_called(attempt) for step in run.steps for attempt in step.attempts)
            self._runs.append(run.id)

        answer = await round_async(run_plan, concurrency=order["concurrency"], seconds=order["seconds"])
        answer["actions"] = self._actions
        return answer

    async def _step_latencies_ms(self) -> list[float]:
        spread = self._runs[:: max(1, len(self._runs) // SAMPLED_RUNS)][:SAMPLED_RUNS]
        return [ms for run in spread for ms in await step_latencies_ms(self._client, run)]


async def step_latencies_ms(client: Client, run: str) -> list[float]:
    """Return how long each step of a run took from its action to its verdict, as the log has them."""
    asked: dict[str, int] = {}
    found: list[float] = []
    async for seen in client.watch(run, until_now=True):
        for event in (*seen.event.before, seen.event):
            if event.HasField("action"):
                asked[event.action.attempt] = seen.time.ToNanoseconds()
            elif event.HasField("verdict") and event.verdict.attempt in asked:
                found.append((seen.time.ToNanoseconds() - asked[event.verdict.attempt]) / 1e6)
    return found


def _was_called(attempt: run_service_pb2.Attempt) -> bool:
    """Whether its tool was called: what a chain left behind when it stopped was not."""
    if attempt.failure.code == failures.LEFT_BEHIND:
        return False
    return bool(attempt.outcome) or attempt.HasField("failure")


def _check(run: run_service_pb2.Run) -> None:
    outputs = [step.output.json for step in run.steps]
    wanted = [str(i + 1) for i in range(len(run.steps))]
    if run.status != event_pb2.RUN_STATUS_DONE or outputs != wanted:
        raise AssertionError(f"run {run.id}: status {run.status}, outputs {outputs}")


async def main(address: str) -> None:
    """Answer the bench until it is done."""
    async with Client(address, timeout_s=RUN_TIMEOUT_S) as client:
        load = Load(client)
        lines = Lines()
        lines.say({"ready": True})
        orders = lines.orders()
        while (order := await asyncio.to_thread(next, orders, None)) is not None:
            lines.say(await load.round(order))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
