"""Runs that are due together: the decider reads them together, each once, and ends each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bus.clock import VirtualClock
from bus.memory import MemoryBroker, MemoryLog
from core import failures, run
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, Record, RunKey
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from orchestrator.reads import MAX_TOGETHER
from tests.keys import SIGNER
from tests.scenarios.play import contract

RUNS = 3 * MAX_TOGETHER
START_NS = 1_700_000_000_000_000_000
DUE_NS = START_NS + 60 * 10**9
TIMEOUT_S = 20.0


class CountingLog(MemoryLog):
    """A log that counts its reads, and holds them back until they are let go."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.reads: list[int] = []
        self.go = asyncio.Event()
        self.go.set()

    async def read_runs(self, keys: Iterable[RunKey]) -> dict[RunKey, list[Record]]:
        wanted = list(keys)
        self.reads.append(len(wanted))
        await self.go.wait()
        return {key: await MemoryLog.read(self, key) for key in wanted}

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        self.reads.append(1)
        return await super().read(key, after=after)


class Tick:
    """A tick as it is handed out."""

    record = None

    def __init__(self, key: RunKey, time_ns: int, deliveries: int) -> None:
        self.key, self.time_ns, self.deliveries = key, time_ns, deliveries
        self.answer = ""

    async def ack(self) -> None:
        self.answer = "ack"

    async def nak(self, delay_s: float = 0.0) -> None:
        self.answer = "nak"

    async def progress(self) -> None:
        """Nothing is asked of it."""


class Stage:
    """A decider whose runs are paused and have one deadline."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START_NS)
        self.broker = MemoryBroker(self.clock)
        self.log = CountingLog(self.broker)
        catalogue = Catalogue(contracts={"look": contract("look")})
        self.decider = Decider(self.log, catalogue, signer=SIGNER, instance="t")

    async def park(self, key: RunKey) -> None:
        """Submit and pause a run before anybody hears of it."""
        submit = event_pb2.Event(id=f"{key.run}-s", version=run.VERSION)
        submit.submit.goal.text = "goal"
        submit.submit.goal.plan.CopyFrom(plan_from_form({"steps": [{"id": "one", "tool": "look"}]}))
        submit.submit.goal.deadline.FromNanoseconds(DUE_NS)
        await self.log.append(Address(key, "cmd", ("submit",)), submit)
        pause = event_pb2.Event(id=f"{key.run}-p", version=run.VERSION)
        pause.pause.SetInParent()
        await self.log.append(Address(key, "cmd", ("pause",)), pause)

    async def at_rest(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while any(entry.busy for entry in self.decider._runs.values()) or self.decider.cached:
                await asyncio.sleep(0)

    async def ended(self, keys: Iterable[RunKey]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            for key in keys:
                async for record in self.log.follow(key):
                    if record.event is not None and record.event.HasField("finished"):
                        assert record.event.finished.failure.code == failures.DEADLINE
                        break


async def _parked(count: int) -> tuple[Stage, list[RunKey], asyncio.Task[None]]:
    stage = Stage()
    keys = [RunKey(0, "default", f"r0-{i:010}") for i in range(count)]
    serving = asyncio.create_task(stage.decider.serve())
    for key in keys:
        await stage.park(key)
    async with asyncio.timeout(TIMEOUT_S):
        while len(stage.broker._timers) < count:
            await asyncio.sleep(0)
    await stage.at_rest()
    stage.log.reads.clear()
    return stage, keys, serving


async def _stop(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_runs_that_are_due_together_are_read_together() -> None:
    stage, keys, serving = await _parked(RUNS)
    stage.clock.advance_to(DUE_NS)
    await stage.ended(keys)
    await _stop(serving)
    assert sum(stage.log.reads) == RUNS
    assert len(stage.log.reads) <= RUNS / MAX_TOGETHER + 2


async def test_one_bad_run_keeps_none_of_the_others() -> None:
    stage, keys, serving = await _parked(RUNS)
    bad = event_pb2.Event(id="newer", version=run.VERSION + 1)
    bad.skipped.step = "one"
    await stage.log.append(Address(keys[7], "dec", ("note", "skipped")), bad)
    stage.clock.advance_to(DUE_NS)
    await stage.ended(key for key in keys if key != keys[7])
    await _stop(serving)
    assert run.fold(keys[7], await stage.log.read(keys[7])).status == event_pb2.RUN_STATUS_UNREADABLE


async def test_a_tick_that_comes_again_before_it_is_answered_is_read_for_once() -> None:
    stage, keys, serving = await _parked(1)
    stage.log.go.clear()
    ticks = [Tick(keys[0], DUE_NS, 1)]
    stage.decider._take(ticks[0])
    async with asyncio.timeout(TIMEOUT_S):
        while not stage.log.reads:
            await asyncio.sleep(0)
    for again in (2, 3):
        ticks.append(Tick(keys[0], DUE_NS, again))
        stage.decider._take(ticks[-1])
    stage.log.go.set()
    await stage.ended(keys)
    await stage.at_rest()
    await _stop(serving)
    assert stage.log.reads == [1]
    assert [tick.answer for tick in ticks] == ["ack"] * 3


async def test_every_other_tick_reads_the_run_again() -> None:
    """The first may have been early; what it was read for says nothing of what came since."""
    stage, keys, serving = await _parked(1)
    resume = event_pb2.Event(id="resume", version=run.VERSION)
    resume.resume.SetInParent()
    await stage.log.append(Address(keys[0], "cmd", ("resume",)), resume)
    async with asyncio.timeout(TIMEOUT_S):
        while not (entry := stage.decider._runs.get(keys[0])) or entry.busy or not entry.at_rest:
            await asyncio.sleep(0)
    stage.log.reads.clear()
    read = []
    for time_ns, deliveries in ((DUE_NS - 2, 1), (DUE_NS - 1, 1), (DUE_NS - 1, 2), (DUE_NS - 1, 1)):
        stage.decider._take(Tick(keys[0], time_ns, deliveries))
        async with asyncio.timeout(TIMEOUT_S):
            while entry.busy:
                await asyncio.sleep(0)
        read.append(len(stage.log.reads))
    assert stage.decider._runs[keys[0]] is entry, "it is held, as it waits for its worker"
    assert read == [1, 2, 2, 3]
    stage.clock.advance_to(DUE_NS)
    await stage.ended(keys)
    await _stop(serving)
