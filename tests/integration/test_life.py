"""A run's whole life over the in-memory log: decider, minds and a worker as they are, tools of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.executor import Executor
from actors.host import AgentLoop
from actors.models.function import FunctionProposer
from actors.models.table import DecisionTable
from actors.verifier import Verifier
from bus import subjects
from bus.memory import MemoryLog
from core import run
from core.conformance import Limits
from core.contracts import to_proto
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, Log, RunKey
from core.state import RunState
from handrail.release import release
from handrail.tool import Tool, ToolError, call, tool
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from tests.integration.patient import PatientBroker
from tests.keys import CHECKER, SIGNER
from workers.host import Worker
from workers.instance import Instance

KEY = RunKey(0, "default", "r0-life000001")
TIMEOUT_S = 20.0


class World:
    """What the tools act on."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.calls: list[str] = []
        self.faults: dict[str, list[Any]] = {}

    def tools(self) -> list[Tool]:
        world = self

        def fault(name: str) -> Any:
            world.calls.append(name)
            queue = world.faults.get(name, [])
            return queue.pop(0) if queue else None

        @tool(effect="read")
        def find(key: str) -> int | None:
            """Find what was made."""
            return world.made.get(key)

        @tool(effect="read")
        def add(a: int, b: int) -> int:
            """Add."""
            error = fault("add")
            if error is not None:
                raise error
            return a + b

        @tool(
            effect="write",
            idempotency="keyed",
            key="key",
            readback="find",
            reads={"made": call("count")},
            post="reads.made > 0 && output == args.amount",
            timeout_s=0.5,
        )
        async def make(amount: int, key: str) -> int:
            """Make something."""
            error = fault("make")
            if error == "hang":
                world.made[key] = amount
                await asyncio.Event().wait()
            if error == "lie":
                return amount
            if error is not None:
                raise error
            return world.made.setdefault(key, amount)

        @tool(effect="read")
        def count() -> int:
            """Count what was made."""
            return len(world.made)

        @tool(effect="read")
        def peek() -> int:
            """Look before acting."""
            error = fault("peek")
            if error is not None:
                raise error
            return 1

        @tool(effect="write", idempotency="natural", reads={"seen": call("peek")}, pre="reads.seen == 1")
        def careful() -> int:
            """Act only if what was seen is right."""
            world.calls.append("careful")
            return 1

        found = (find, add, make, count, peek, careful)
        return [f.__handrail_tool__.with_toolbox("box") for f in found]  # type: ignore[attr-defined]


def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> dict[str, Any]:
    """Propose too much first, and what is allowed when it is asked again."""
    told = inputs["told"]
    told_before = told in PROPOSED
    PROPOSED.add(told)
    return {"grant": 0, "arguments": {"b": inputs["most"] if told_before else inputs["most"] + 1}}


PROPOSED: set[str] = set()


class Stage:
    """The parts, on one log."""

    def __init__(self) -> None:
        self.world = World()
        self.broker = PatientBroker()
        self.log: Log = MemoryLog(self.broker, (0,))
        tools = {t.contract.name: t for t in self.world.tools()}
        contracts = {name: to_proto(t.contract) for name, t in tools.items()}
        self.decider = Decider(
            self._log(),
            Catalogue(contracts=contracts, limits=Limits(proposers=True)),
            signer=SIGNER,
            instance="t",
        )
        self.worker = Worker(
            self._log(),
            tools,
            toolbox="box",
            instance=Instance("here", 1, "box_0", 1),
            checker=CHECKER,
            concurrency=4,
        )
        self.loops = [
            AgentLoop(agent, self._log(), pool="main", instance="t", concurrency=4)
            for agent in (
                Executor(DecisionTable(), FunctionProposer(propose), pool="main", instance="t"),
                Verifier(tools, contracts, checker=CHECKER, pool="main", instance="t"),
            )
        ]
        self.tasks: list[asyncio.Task[None]] = []

    def _log(self) -> Log:
        return MemoryLog(self.broker, (0,))

    def start(self) -> None:
        work = [self.decider.serve(), self.worker.serve(), *(loop.run() for loop in self.loops)]
        self.tasks = [asyncio.create_task(w) for w in work]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

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


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    stage.start()
    yield stage
    await stage.stop()


def output(state: RunState, step: str) -> str:
    found = state.instances[step].output
    return found.json if found is not None else ""


async def test_an_executor_does_what_it_was_granted_and_no_more(stage: Stage) -> None:
    grant = {"tool": "add", "with": {"a": 1}, "open": {"b": "value <= input.most"}}
    inputs = {"most": 5, "told": "once"}
    await stage.submit({"id": "some", "with": inputs, "grants": [grant]})
    state = await stage.finish()
    assert state.finished is not None
    assert state.finished.status == event_pb2.RUN_STATUS_DONE
    assert output(state, "some") == "6"
    first, second, _ = state.instances["some"].attempts
    assert [violation.code for violation in first.refused] == ["outside_grant"]
    assert not second.refused


async def test_references_carry_values_from_step_to_step(stage: Stage) -> None:
    await stage.submit(
        {"id": "one", "tool": "add", "with": {"a": 1, "b": 2}},
        {"id": "two", "tool": "add", "with": {"a": "$one", "b": 10}},
        {"id": "made", "tool": "make", "with": {"amount": "$two"}},
    )
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    assert output(state, "made") == "13"
    assert list(stage.world.made.values()) == [13]
    assert state.strays == 0
    # Decider, worker and verifier say which Handrail they are, of what is bundled too.
    parts = [part.event for record in await stage.log.read(KEY) for part in run.unbundled(record)]
    written = [event for event in parts if event is not None and event.id != "submit"]
    assert {event.handrail for event in written} == {release()}
    assert {event.writer.partition("/")[0] for event in written} == {"decider", "worker-box", "verifier"}


async def test_a_hanging_effect_is_called_again_with_its_key(stage: Stage) -> None:
    stage.world.faults["make"] = ["hang"]
    await stage.submit({"id": "made", "tool": "make", "with": {"amount": 5}})
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    assert list(stage.world.made.values()) == [5]
    assert stage.world.calls.count("make") == 2


async def test_a_lie_is_refuted_and_the_action_repeated(stage: Stage) -> None:
    stage.world.faults["make"] = ["lie"]
    await stage.submit({"id": "made", "tool": "make", "with": {"amount": 5}})
    state = await stage.finish()
    outcomes = [a.verdict.message.outcome for a in state.instances["made"].attempts if a.verdict]
    assert outcomes == [event_pb2.OUTCOME_REFUTED, event_pb2.OUTCOME_CONFIRMED]
    assert list(stage.world.made.values()) == [5]


async def test_transient_errors_are_healed(stage: Stage) -> None:
    stage.world.faults["make"] = [ToolError("busy", transient=True)] * 2
    await stage.submit({"id": "made", "tool": "make", "with": {"amount": 5}})
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    assert [h.strategy for h in state.instances["made"].heals] == ["retry", "retry"]


async def test_an_executor_chooses_and_a_worker_acts(stage: Stage) -> None:
    rules = [
        {"when": "input.n > 10", "tool": "make", "with": {"amount": 1}},
        {"tool": "make", "with": {"amount": "$input.n"}},
    ]
    await stage.submit(
        {"id": "n", "tool": "add", "with": {"a": 1, "b": 2}},
        {"id": "pick", "with": {"n": "$n"}, "choose": rules},
    )
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    assert output(state, "pick") == "3"


async def test_a_finished_run_costs_no_memory(stage: Stage) -> None:
    await stage.submit({"id": "one", "tool": "add", "with": {"a": 1, "b": 2}})
    await stage.finish()
    async with asyncio.timeout(TIMEOUT_S):
        while stage.decider.cached:
            await asyncio.sleep(0)


async def test_a_run_whose_deliveries_went_elsewhere_costs_no_memory() -> None:
    """Another decider was pinned for a while, and may have ended the run: nothing would ever wake it here."""
    stage = Stage()
    deciding = asyncio.create_task(stage.decider.serve())
    await stage.submit({"id": "one", "tool": "add", "with": {"a": 1, "b": 2}})
    async with asyncio.timeout(TIMEOUT_S):
        while len(records := await stage.log.read(KEY)) < 2 or any(
            e.busy for e in stage.decider._runs.values()
        ):
            await asyncio.sleep(0)
        assert stage.decider.cached == 1
        stage.decider._check_order(KEY.shard, records[-1].sequence + 2)
        assert stage.decider.cached == 0
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)


async def test_a_paused_run_costs_no_memory(stage: Stage) -> None:
    pause = event_pb2.Event(id="pause", version=run.VERSION)
    pause.pause.SetInParent()
    await stage.log.append(Address(KEY, "cmd", ("pause",)), pause)
    await stage.submit({"id": "one", "tool": "add", "with": {"a": 1, "b": 2}})
    async with asyncio.timeout(TIMEOUT_S):
        while not (records := await stage.log.read(KEY)) or len(records) < 3 or stage.decider.cached:
            await asyncio.sleep(0)
    state = run.fold(KEY, await stage.log.read(KEY))
    assert state.status == event_pb2.RUN_STATUS_PAUSED
    resume = event_pb2.Event(id="resume", version=run.VERSION)
    resume.resume.SetInParent()
    await stage.log.append(Address(KEY, "cmd", ("resume",)), resume)
    assert (await stage.finish()).status == event_pb2.RUN_STATUS_DONE


async def test_a_precondition_that_cannot_be_read_is_tried_and_then_given_up(stage: Stage) -> None:
    stage.world.faults["peek"] = [RuntimeError("no peeking")] * 9
    await stage.submit({"id": "careful", "tool": "careful"})
    state = await stage.finish()
    assert state.status == event_pb2.RUN_STATUS_FAILED
    assert state.finished is not None
    assert state.finished.failure.code == "pre_refuted"
    assert "careful" not in stage.world.calls
