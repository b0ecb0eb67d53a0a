"""Chains over the in-memory log: the real decider, worker and verifier, and tools that do what they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.host import AgentLoop
from actors.verifier import Verifier
from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from core import failures, run
from core.contracts import to_proto
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, Record, RunKey
from core.state import RunState
from handrail.tool import Tool, ToolError, tool
from handrail.v1 import event_pb2
from orchestrator.decider import MAX_CARRIED_BYTES, Decider
from tests.integration.patient import PatientBroker
from tests.keys import CHECKER, SIGNER
from workers.host import TOGETHER_S, Worker
from workers.instance import Instance

KEY = RunKey(0, "default", "r0-chain00001")
TIMEOUT_S = 20.0


class Stage:
    """The parts, on one log, with tools of a test's own."""

    def __init__(
        self, *functions: Any, hands: tuple[Any, ...] = (), broker: MemoryBroker | None = None
    ) -> None:
        self.broker = broker or PatientBroker()
        self.log = MemoryLog(self.broker, (0,))
        tools = _tools(functions)
        contracts = {name: to_proto(one.contract) for name, one in tools.items()}
        catalogue = Catalogue(contracts=contracts)
        self.decider = Decider(MemoryLog(self.broker, (0,)), catalogue, signer=SIGNER, instance="t")
        self._hands = _tools(hands) if hands else tools
        self._verifier = Verifier(tools, contracts, checker=CHECKER, pool="main", instance="t")
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, *parts: str) -> None:
        """Start parts, or all of them."""
        for part in parts or ("decider", "worker", "verifier"):
            log = MemoryLog(self.broker, (0,))
            if part == "decider":
                work = self.decider.serve()
            elif part == "worker":
                own = Instance("here", 1, "box_0", len(self.tasks) + 1)
                self.worker = Worker(
                    log, self._hands, toolbox="box", instance=own, checker=CHECKER, concurrency=4
                )
                work = self.worker.serve()
            else:
                work = AgentLoop(self._verifier, log, pool="main", instance="t", concurrency=4).run()
            self.tasks[part] = asyncio.create_task(work)

    async def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def submit(self, *steps: dict[str, Any]) -> None:
        event = event_pb2.Event(id="submit", version=run.VERSION)
        event.submit.goal.text = "goal"
        event.submit.goal.plan.CopyFrom(plan_from_form({"steps": list(steps)}))
        address = Address(KEY, "cmd", ("submit",))
        await self.log.append(address, event, fence=subjects.first(address))

    async def finish(self) -> RunState:
        async with asyncio.timeout(TIMEOUT_S):
            state = run.initial(KEY)
            async for record in self.log.follow(KEY):
                state = run.apply(state, record)
                if state.finished is not None:
                    return state
        raise AssertionError("unreachable")

    async def kinds(self) -> list[str]:
        """The log in words: what stands in one event is joined."""
        return [_words(record) for record in await self.log.read(KEY)]


def _tools(functions: tuple[Any, ...]) -> dict[str, Tool]:
    found = (function.__handrail_tool__.with_toolbox("box") for function in functions)
    return {one.contract.name: one for one in found}


def _words(record: Record) -> str:
    parts = [part.event for part in run.unbundled(record) if part.event is not None]
    return "+".join(str(event.WhichOneof("body")) for event in parts)


@pytest.fixture
async def stages() -> AsyncIterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for stage in made:
        await stage.stop()


def add_tool(faults: list[Any] | None = None, calls: list[int] | None = None) -> Any:
    @tool(effect="read")
    async def add(n: int) -> int:
        """Add one."""
        if calls is not None:
            calls.append(n)
        fault = faults.pop(0) if faults else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, asyncio.Event):
            await fault.wait()
        return n + 1

    return add


FIVE: list[dict[str, Any]] = [
    {"id": "s1", "tool": "add", "with": {"n": 0}},
    *({"id": f"s{i}", "tool": "add", "with": {"n": f"$s{i - 1}"}} for i in range(2, 6)),
]


async def test_five_reads_are_five_events(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.host.TOGETHER_S", 60)
    stage = Stage(add_tool())
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    state = await stage.finish()
    assert state.instances["s5"].output is not None
    assert state.instances["s5"].output.json == "5"
    assert await stage.kinds() == [
        "submit",
        "plan_accepted+action+action+action+action+action",
        "result+result+result+result+result",
        "verdict+verdict+verdict+verdict+verdict",
        "finished",
    ]


async def test_a_chain_goes_on_where_a_read_failed_for_a_while(
    stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.host.TOGETHER_S", 60)
    calls: list[int] = []
    stage = Stage(add_tool([None, None, ToolError("busy", transient=True)], calls))
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE
    assert calls == [0, 1, 2, 2, 3, 4], "what had been read is not read again"
    assert [len(state.instances[f"s{i}"].attempts) for i in range(1, 6)] == [1, 1, 2, 2, 2]
    assert state.actions == len(calls)
    assert (await stage.kinds())[2:] == [
        "result+result+result+result+result",
        "verdict+verdict",
        "healed",
        "action+action+action",
        "result+result+result",
        "verdict+verdict+verdict",
        "finished",
    ]


async def test_a_chain_that_is_slow_tells_what_it_has(stages: list[Stage]) -> None:
    slow = asyncio.Event()
    calls: list[int] = []
    stage = Stage(add_tool([None, slow], calls))
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    async with asyncio.timeout(TIMEOUT_S):
        while len(calls) < 2:
            await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(TOGETHER_S + 0.1, slow.set)
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE
    results = [kind for kind in await stage.kinds() if kind.startswith("result")]
    assert len(results) > 1


async def test_a_chain_whose_worker_died_is_read_again(stages: list[Stage]) -> None:
    never = asyncio.Event()
    calls: list[int] = []
    stage = Stage(add_tool([None, never], calls), broker=MemoryBroker())
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    async with asyncio.timeout(TIMEOUT_S):
        while len(calls) < 2:
            await asyncio.sleep(0)
    for task in (stage.tasks["worker"], *stage.worker._tasks):
        task.cancel()
    stage.start("worker")
    assert (await stage.finish()).status == event_pb2.RUN_STATUS_DONE


async def test_a_chain_goes_on_where_a_worker_died_and_the_next_one_fails_early(stages: list[Stage]) -> None:
    """What was read first counts, so the failure does not; what rests on it must not wait for ever."""
    slow, never = asyncio.Event(), asyncio.Event()
    calls: list[int] = []
    faults = [slow, never, ToolError("busy", transient=True)]
    stage = Stage(add_tool(faults, calls), broker=MemoryBroker())
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    async with asyncio.timeout(TIMEOUT_S):
        while not calls:
            await asyncio.sleep(0)
        # Slow enough that its result is written before the chain goes on.
        asyncio.get_running_loop().call_later(TOGETHER_S + 0.1, slow.set)
        while not any(kind == "result" for kind in await stage.kinds()):
            await asyncio.sleep(0.01)
    for task in (stage.tasks["worker"], *stage.worker._tasks):
        task.cancel()
    stage.start("worker")
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE
    assert calls == [0, 1, 0, 1, 2, 3, 4]


async def test_large_values_pass_along_a_chain(stages: list[Stage]) -> None:
    @tool(effect="read")
    async def grow(text: str) -> str:
        """Make a text longer."""
        return text + "x" * 50_000

    stage = Stage(grow)
    stages.append(stage)
    stage.start()
    first: dict[str, Any] = {"id": "s1", "tool": "grow", "with": {"text": ""}}
    rest = [{"id": f"s{i}", "tool": "grow", "with": {"text": f"$s{i - 1}"}} for i in range(2, 13)]
    await stage.submit(first, *rest)
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    output = state.instances["s12"].output
    assert output is not None
    assert output.blob.size_bytes == 12 * 50_000 + 2


async def test_a_reference_that_leads_nowhere_fails_in_the_worker(stages: list[Stage]) -> None:
    stage = Stage(add_tool())
    stages.append(stage)
    stage.start()
    await stage.submit(FIVE[0], {"id": "s2", "tool": "add", "with": {"n": "$s1.missing"}})
    state = await stage.finish()
    assert state.finished is not None
    assert state.status in (event_pb2.RUN_STATUS_FAILED, event_pb2.RUN_STATUS_REFUSED)


async def test_a_worker_whose_tool_has_an_effect_by_now_does_not_carry_it_out_in_a_chain(
    stages: list[Stage],
) -> None:
    """The decider knows the tool as a read; the worker's code is newer."""
    acted: list[int] = []

    @tool(effect="write", idempotency="natural", name="add")
    async def newer(n: int) -> int:
        """Add one, somewhere."""
        acted.append(n)
        return n + 1

    stage = Stage(add_tool(), hands=(newer,))
    stages.append(stage)
    stage.start()
    await stage.submit(*FIVE)
    state = await stage.finish()
    assert state.finished is not None
    assert state.finished.failure.code == failures.PERMIT
    assert acted == []


async def test_notes_that_are_too_large_to_be_carried_go_on_their_own(stages: list[Stage]) -> None:
    @tool(effect="read")
    async def keep(text: str, n: int) -> int:
        """Keep a text."""
        return n

    stage = Stage(keep)
    stages.append(stage)
    stage.start()
    text = "x" * (MAX_CARRIED_BYTES // 5)
    await stage.submit(
        {"id": "s0", "tool": "keep", "with": {"text": text, "n": 0}},
        *({"id": f"s{i}", "tool": "keep", "with": {"text": text, "n": f"$s{i - 1}"}} for i in range(1, 6)),
    )
    assert (await stage.finish()).status == event_pb2.RUN_STATUS_DONE
    assert (await stage.kinds())[:3] == ["submit", "plan_accepted", "+".join(["action"] * 6)]
