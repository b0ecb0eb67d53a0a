"""What is true wherever minds live: the same suite for tasks of this process and for Ray actors.

The tasks hear a log in memory, the actors a real broker. The loop's own bounds are tested below, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from actors.agent import Agent, PoisonPolicy
from actors.host import AgentCrashed, AgentLoop, Host, HostStatus, InProcessHost, Slot
from actors.pool import AgentSpec, PoolError, PoolSpec
from bus.memory import MemoryBroker, MemoryLog
from core.ports import Address, Consumer, Delivery, Log, LogForbidden, LogUnavailable, RunKey
from handrail.v1 import event_pb2
from tests.cluster import echo
from tests.cluster.stage import RayProcess, broker, eventually, furnish, ray_head

DRAIN_S = 10.0


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayProcess, str]]:
    """A host on Ray, whose actors outlive a test, and the address of its broker."""
    directory = tmp_path_factory.mktemp("ray")
    with broker(directory / "broker") as url, ray_head(directory) as (head, _):
        process = RayProcess(head, directory / "ray_host.log")
        yield process, url
        process.kill()


@pytest.fixture(params=["in_process", "ray"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Where the broker is, or nothing where it is in memory."""
    return request.getfixturevalue("ray")[1] if request.param == "ray" else ""


@pytest.fixture
def memory() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def log(broker_url: str, memory: MemoryBroker) -> AsyncIterator[Log]:
    if broker_url:
        await furnish(broker_url)
    log: Log = await echo.connect(broker_url) if broker_url else MemoryLog(memory)
    yield log
    await log.close()


@pytest.fixture
async def host(broker_url: str, memory: MemoryBroker, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async def build(spec: AgentSpec) -> tuple[Agent, Log]:
        return echo.Echo(spec.name, Path(spec.options["gate"])), MemoryLog(memory)

    if broker_url:
        yield request.getfixturevalue("ray")[0]
    else:
        tasks = InProcessHost(build)
        yield tasks
        await tasks.stop(0.0)


@pytest.fixture
def key() -> RunKey:
    return RunKey(0, "t", f"r0-{uuid4().hex}")


@pytest.fixture(scope="module")
def module_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture
def gate(module_dir: Path) -> Path:
    gate = module_dir / "gate"
    gate.unlink(missing_ok=True)
    return gate


@pytest.fixture
def specs(broker_url: str, gate: Path) -> list[AgentSpec]:
    pool = PoolSpec(echo.ROLE, echo.POOL, actors=2, concurrency=4)
    return pool.slots(broker_url=broker_url, options={"gate": str(gate)})


async def answers(log: Log, key: RunKey) -> list[event_pb2.Proposal]:
    records = await log.read(key)
    return [r.event.proposal for r in records if r.event is not None and r.event.HasField("proposal")]


async def answered(log: Log, key: RunKey, attempts: set[str]) -> list[event_pb2.Proposal]:
    async def probe() -> list[event_pb2.Proposal] | None:
        given = await answers(log, key)
        return given if attempts <= {proposal.attempt for proposal in given} else None

    return await eventually(probe)


async def total(host: Host, field: str) -> int:
    return sum(getattr(status, field) for status in await host.statuses())


async def the_one(host: Host) -> HostStatus:
    """What the only slot says of itself, when it gets to it."""

    async def probe() -> HostStatus | None:
        return next(iter(await host.statuses()), None)

    return await eventually(probe)


async def until(host: Host, field: str, least: int) -> None:
    async def probe() -> bool:
        return await total(host, field) >= least

    await eventually(probe)


async def test_every_ask_is_answered_once_and_the_work_is_counted(host, log, key, specs) -> None:
    await host.ensure(specs)
    before = await total(host, "handled")
    attempts = {f"a{number}" for number in range(40)}
    for attempt in sorted(attempts):
        await log.append(*echo.ask(key, attempt))

    given = await answered(log, key, attempts)

    assert len(given) == len(attempts)
    assert {proposal.choice.reason for proposal in given} <= {spec.name for spec in specs}
    await until(host, "handled", before + len(attempts))
    found = await host.statuses()
    assert sorted(status.instance for status in found) == [spec.name for spec in specs]
    assert all(status.in_flight == 0 and status.failed == 0 and not status.draining for status in found)


async def test_what_an_agent_fails_at_comes_again_until_it_can(host, log, key, specs, gate) -> None:
    await host.ensure(specs)
    before = await total(host, "failed")
    await log.append(*echo.ask(key, "a1", "flaky"))
    await until(host, "failed", before + 2)
    assert await answers(log, key) == []

    gate.touch()

    await answered(log, key, {"a1"})


async def test_what_is_not_for_an_agent_is_a_stray(host, log, key, specs) -> None:
    await host.ensure(specs)
    before = await total(host, "strays")
    address, _ = echo.ask(key, "a1")
    await log.append(address, event_pb2.Event(id="x", version=1, pause=event_pb2.Pause()))

    await until(host, "strays", before + 1)

    assert await answers(log, key) == []


async def test_no_agent_takes_more_than_it_may(host, log, key, specs, gate) -> None:
    await host.ensure(specs)
    most = sum(spec.concurrency for spec in specs)
    attempts = {f"a{number}" for number in range(2 * most)}
    for attempt in sorted(attempts):
        await log.append(*echo.ask(key, attempt, "gate"))
    await until(host, "in_flight", most)

    assert [status.in_flight for status in await host.statuses()] == [spec.concurrency for spec in specs]
    gate.touch()
    assert len(await answered(log, key, attempts)) == len(attempts)


async def test_a_surplus_slot_ends_and_the_others_go_on(host, log, key, specs) -> None:
    await host.ensure(specs)
    await host.ensure(specs[1:])
    await log.append(*echo.ask(key, "a1"))

    given = await answered(log, key, {"a1"})

    assert given[0].choice.reason == specs[1].name
    assert [status.instance for status in await host.statuses()] == [specs[1].name]


async def test_a_slot_whose_spec_has_changed_is_replaced(host, log, key, specs) -> None:
    changed = replace(specs[1], concurrency=1)
    await host.ensure(specs[1:])
    first = await the_one(host)

    await host.ensure([changed])

    assert (await the_one(host)).started_at > first.started_at
    await log.append(*echo.ask(key, "a1"))
    await answered(log, key, {"a1"})


async def test_stopping_finishes_what_is_in_flight_and_takes_no_more(host, log, key, specs, gate) -> None:
    await host.ensure(specs)
    await log.append(*echo.ask(key, "a1", "gate"))
    await until(host, "in_flight", 1)

    stopping = asyncio.create_task(host.stop(DRAIN_S))
    gate.touch()
    await stopping

    assert [proposal.attempt for proposal in await answers(log, key)] == ["a1"]
    assert await host.statuses() == []


async def test_what_is_not_finished_in_time_is_put_back_for_others(host, log, key, specs, gate) -> None:
    await host.ensure(specs)
    await log.append(*echo.ask(key, "a1", "gate"))
    await until(host, "in_flight", 1)

    await host.stop(0.0)
    gate.touch()
    await host.ensure(specs[:1])

    assert len(await answered(log, key, {"a1"})) == 1


# --- the loop -----------------------------------------------------------------------------------------


class Outage(MemoryLog):
    """A log whose next appends find no broker."""

    failures = 0

    async def append(self, address: Address, event: event_pb2.Event, **options: Any) -> int:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("no broker")
        return await super().append(address, event, **options)


class Closed(MemoryLog):
    """A log that may not be consumed."""

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        raise LogForbidden("not you")
        yield


def loop_over(log: Log, gate: Path) -> AgentLoop:
    policy = PoisonPolicy(max_deliveries=3, first_delay_s=0.001)
    agent = echo.Echo("echo", gate)
    return AgentLoop(agent, log, pool=echo.POOL, instance="echo", concurrency=4, poison=policy)


async def test_what_always_fails_is_given_up_with_an_answer(memory, key, gate) -> None:
    log = MemoryLog(memory)
    loop = loop_over(log, gate)
    running = asyncio.create_task(loop.run())
    await log.append(*echo.ask(key, "a1", "impossible"))

    given = await answered(log, key, {"a1"})

    assert given[0].choice.reason == "poisoned"
    assert loop.status().failed == 3
    await loop.drain(DRAIN_S)
    await running


async def test_while_the_broker_is_away_nothing_is_dropped(memory, key, gate) -> None:
    log = Outage(memory)
    loop = loop_over(log, gate)
    await log.append(*echo.ask(key, "a1"))
    log.failures = 3
    running = asyncio.create_task(loop.run())

    assert len(await answered(log, key, {"a1"})) == 1

    assert log.failures == 0
    assert loop.status().failed == 0
    await loop.drain(DRAIN_S)
    await running


async def test_a_loop_that_cannot_hear_says_why(memory, key, gate) -> None:
    with pytest.raises(LogForbidden):
        await loop_over(Closed(memory), gate).run()


async def test_a_loop_whose_log_has_ended_does_not_end_in_silence(memory, key, gate) -> None:
    log = MemoryLog(memory)
    running = asyncio.create_task(loop_over(log, gate).run())
    await log.append(*echo.ask(key, "a1"))
    await answered(log, key, {"a1"})

    await log.close()

    with pytest.raises(AgentCrashed, match="stopped delivering"):
        await running


async def test_a_slot_says_why_it_has_no_agent_and_tries_again(memory, key, gate) -> None:
    built = 0

    async def build(spec: AgentSpec) -> tuple[Agent, Log]:
        nonlocal built
        built += 1
        if built < 3:
            raise LogUnavailable("no broker")
        return echo.Echo(spec.name, gate), MemoryLog(memory)

    slot = Slot(PoolSpec(echo.ROLE, echo.POOL).slots()[0], build)
    running = asyncio.create_task(slot.run())

    async def probe() -> bool:
        return bool(slot.status().error)

    await eventually(probe)
    assert slot.status().error == "LogUnavailable: no broker"

    log = MemoryLog(memory)
    await log.append(*echo.ask(key, "a1"))
    await answered(log, key, {"a1"})
    await slot.drain(DRAIN_S)
    await running


@pytest.mark.parametrize(("actors", "concurrency"), [(-1, 1), (65, 1), (1, 0), (1, 257)])
def test_a_pool_has_bounds(actors: int, concurrency: int) -> None:
    with pytest.raises(PoolError, match="must be between"):
        PoolSpec("planner", "default", actors, concurrency)
