"""What comes between a decider's look at a run and its decision to act again on a step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from bus.clock import VirtualClock
from bus.memory import MemoryBroker, MemoryLog
from core import failures, run, values
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, Delivery, Fence, RunKey
from core.state import Attempt, RunState
from handrail.v1 import event_pb2, tool_pb2
from orchestrator.decider import MAX_OVERTAKEN, Decider
from tests.keys import SIGNER
from tests.scenarios.play import write

KEY = RunKey(0, "default", "r0-overtaken1")
START_NS = 1_700_000_000_000_000_000
TIMEOUT_S = 10.0
CLAIMER = "here-1-box_0-1"


class Log(MemoryLog):
    """A log in which something may happen just before an ask is appended."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        if self.meanwhile is not None and address.topic[0] == "ask":
            await self.meanwhile()
        return await super().append(address, event, fence=fence, trace=trace)


class Patient(Decider):
    """A decider that counts how often it has postponed a decision."""

    naks = 0

    async def _postpone(self, batch: list[Delivery]) -> None:
        self.naks += 1
        await super()._postpone(batch)


class Stage:
    """A run of two effects with keys, and a decider; everybody else is played by the test."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START_NS)
        broker = MemoryBroker(self.clock)
        self.log, self.deciding = MemoryLog(broker), Log(broker)
        contracts = {"send": write("send", idempotency=tool_pb2.IDEMPOTENCY_KEYED)}
        self.decider = Patient(self.deciding, Catalogue(contracts=contracts), signer=SIGNER, instance="t")
        self.due_ns = START_NS

    async def say(self, channel: Any, topic: tuple[str, ...], body: Any) -> None:
        event = event_pb2.Event(id=uuid4().hex, version=run.VERSION)
        getattr(event, topic[2] if channel == "ans" else topic[0]).CopyFrom(body)
        await self.log.append(Address(KEY, channel, topic), event)

    async def state(self) -> RunState:
        return run.fold(KEY, await self.log.read(KEY))

    async def until(self, condition: Callable[[RunState], object]) -> RunState:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition(state := await self.state()):
                await asyncio.sleep(0)
        return state

    async def asked(self) -> list[str]:
        """Return the attempts that a worker was asked for, whatever came of the ask."""
        said = [r.event for r in await self.log.read(KEY) if r.event is not None]
        every = [part for event in said for part in (*event.before, event)]
        return [part.action.attempt for part in every if part.HasField("action")]

    async def attempt(self, id: str) -> Attempt:
        state = await self.state()
        return next(a for a in state.instances[state.attempts[id]].attempts if a.id == id)

    # --- what a client, a worker and a verifier say --------------------------------------------------

    async def submit(self) -> None:
        body = event_pb2.Submit(goal=event_pb2.Goal(text="goal"))
        steps = [{"id": step, "tool": "send"} for step in ("one", "two")]
        body.goal.plan.CopyFrom(plan_from_form({"steps": steps}))
        await self.say("cmd", ("submit",), body)

    async def worker(self, kind: str, attempt: str, body: Any) -> None:
        await self.say("ans", ("worker", "box", kind, attempt), body)

    async def claim(self, attempt: str) -> None:
        await self.worker("intent", attempt, event_pb2.Intent(attempt=attempt, claimer=CLAIMER))

    async def fail(self, attempt: str) -> None:
        body = event_pb2.Result(attempt=attempt, failure=failures.transient("busy", "not now"))
        body.action_sequence = (await self.attempt(attempt)).sequence
        await self.worker("result", attempt, body)

    async def fall_silent(self, attempt: str) -> None:
        body = event_pb2.Orphan(attempt=attempt, claimer=CLAIMER, seen_dead=True)
        await self.worker("orphan", attempt, body)

    async def answer(self, attempt: str) -> None:
        """Say that it is done, and confirm it."""
        body = event_pb2.Result(attempt=attempt, output=values.inline(1))
        body.action_sequence = (await self.attempt(attempt)).sequence
        await self.worker("result", attempt, body)
        result = (await self.attempt(attempt)).result
        assert result is not None
        verdict = event_pb2.Verdict(attempt=attempt, result_id=result.event_id, round=1)
        verdict.outcome = event_pb2.OUTCOME_CONFIRMED
        await self.say("ans", ("verifier", "main", "verdict", attempt), verdict)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Both steps will be tried again: `one` has failed, `two` has fallen silent and may yet be answered."""
    stage = Stage()
    serving = asyncio.create_task(stage.decider.serve())
    await stage.submit()
    await stage.until(lambda state: len(state.attempts) == 2)
    for attempt in ("one-a1", "two-a1"):
        await stage.claim(attempt)
    await stage.fail("one-a1")
    await stage.fall_silent("two-a1")
    state = await stage.until(lambda state: all(i.heal for i in state.instances.values()))
    stage.due_ns = max(i.heal.not_before_ns for i in state.instances.values() if i.heal)
    assert await stage.asked() == ["one-a1", "two-a1"]
    yield stage
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_step_that_has_come_to_be_done_is_not_repeated(stage: Stage) -> None:
    """The answer comes before another step is asked for in the same look, which must not hide it."""

    async def meanwhile() -> None:
        stage.deciding.meanwhile = None
        await stage.answer("two-a1")

    stage.deciding.meanwhile = meanwhile
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: "one-a2" in state.attempts)
    await stage.answer("one-a2")
    state = await stage.until(lambda state: state.finished)
    assert await stage.asked() == ["one-a1", "two-a1", "one-a2"]
    assert state.status == event_pb2.RUN_STATUS_DONE
    assert (state.strays, stage.decider.naks) == (0, 0)


async def test_nor_is_one_that_has_come_to_be_done_after_that_ask(stage: Stage) -> None:
    async def meanwhile() -> None:
        if "one-a2" in await stage.asked():
            stage.deciding.meanwhile = None
            await stage.answer("two-a1")

    stage.deciding.meanwhile = meanwhile
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: stage.deciding.meanwhile is None)
    await stage.answer("one-a2")
    state = await stage.until(lambda state: state.finished)
    assert await stage.asked() == ["one-a1", "two-a1", "one-a2"]
    assert (state.strays, stage.decider.naks) == (0, 0)


async def test_one_of_which_nothing_is_heard_is_repeated(stage: Stage) -> None:
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: len(state.attempts) == 4)
    assert await stage.asked() == ["one-a1", "two-a1", "one-a2", "two-a2"]


async def test_who_is_overtaken_again_and_again_waits(stage: Stage) -> None:
    """Whatever comes counts; after a few tries it is postponed, and what has come leads to another look."""
    tries = 0

    async def meanwhile() -> None:
        nonlocal tries
        tries += 1
        if tries <= MAX_OVERTAKEN + 1:
            assert not stage.decider.naks
            await stage.say("cmd", ("resume",), event_pb2.Resume())

    stage.deciding.meanwhile = meanwhile
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: len(state.attempts) == 4)
    # And one for each of the two.
    assert (tries, stage.decider.naks) == (MAX_OVERTAKEN + 3, 1)
    assert await stage.asked() == ["one-a1", "two-a1", "one-a2", "two-a2"]


async def test_a_step_that_can_be_done_no_more_is_overtaken_by_nothing(stage: Stage) -> None:
    await stage.answer("two-a1")
    tries = 0

    async def meanwhile() -> None:
        nonlocal tries
        tries += 1
        await stage.say("cmd", ("resume",), event_pb2.Resume())

    stage.deciding.meanwhile = meanwhile
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: "one-a2" in state.attempts)
    assert tries == 1


async def test_what_nobody_can_read_keeps_no_run_from_being_forgotten(stage: Stage) -> None:
    """An agent may write what is no record: a decision on all that was said passes over it."""
    stream, junk = stage.log.broker.stream("EV_0"), f"ev.0.default.{KEY.run}.ans.worker.box.result.a%b"
    left = 12
    appending = stage.deciding.append

    async def append(address: Address, event: event_pb2.Event, **rest: Any) -> int:
        nonlocal left
        if event.HasField("forgotten") and left:
            left -= 4
            for _ in range(4):
                stream.add(junk, b"x", stage.clock.now_ns())
        return await appending(address, event, **rest)

    stage.deciding.append = append  # type: ignore[method-assign]
    await stage.answer("two-a1")
    stage.clock.advance_to(stage.due_ns)
    await stage.until(lambda state: "one-a2" in state.attempts)
    await stage.answer("one-a2")
    await stage.until(lambda state: state.over)
    await stage.say("cmd", ("forget",), event_pb2.Forget(submitter="ines"))
    await stage.until(lambda state: state.forgotten)
    assert left == 0
    assert stage.decider.naks == 0
