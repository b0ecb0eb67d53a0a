"""What is true wherever minds live: the same suite for tasks of this process and for Ray actors.

Both are fed by a real broker; the loop's own bounds are tested on a log of the test's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.host import Host, HostStatus, InProcessHost
from actors.pool import AgentSpec, PoolSpec
from bus.log import NatsLog
from core.ports import RunKey
from handrail.v1 import event_pb2
from tests.cluster import echo
from tests.cluster.stage import RayProcess, broker, eventually, furnish, ray_head

KEY = RunKey(0, "t", "r0-0123456789")
DRAIN_S = 10.0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def head(stage: ExitStack, tmp_path_factory: pytest.TempPathFactory):
    return stage.enter_context(ray_head(tmp_path_factory.mktemp("ray")))[0]


@pytest.fixture
def broker_url(tmp_path: Path) -> Iterator[str]:
    with broker(tmp_path / "broker") as url:
        yield url


@pytest.fixture
async def log(broker_url: str) -> AsyncIterator[NatsLog]:
    await furnish(broker_url)
    log = await echo.connect(broker_url)
    yield log
    await log.close()


@pytest.fixture(params=["in_process", "ray"])
async def host(request: pytest.FixtureRequest, tmp_path: Path, log: NatsLog) -> AsyncIterator[Host]:
    if request.param == "in_process":
        host = InProcessHost(echo.build)
        yield host
        await host.stop(0.0)
    else:
        process = await RayProcess.start(request.getfixturevalue("head"), tmp_path / "ray_host.log")
        yield process
        await process.stop(0.0)
        await process.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def specs(broker_url: str, gate: Path) -> list[AgentSpec]:
    pool = PoolSpec(echo.ROLE, echo.POOL, actors=2, concurrency=4)
    return pool.slots(broker_url=broker_url, options={"gate": str(gate)})


async def answers(log: NatsLog) -> list[event_pb2.Proposal]:
    records = await log.read(KEY)
    return [r.event.proposal for r in records if r.event is not None and r.event.HasField("proposal")]


async def answered(log: NatsLog, attempts: set[str]) -> list[event_pb2.Proposal]:
    async def probe() -> list[event_pb2.Proposal] | None:
        given = await answers(log)
        return given if attempts <= {proposal.attempt for proposal in given} else None

    return await eventually(probe)


async def statuses(host: Host, fits) -> list[HostStatus]:
    async def probe() -> list[HostStatus] | None:
        found = await host.statuses()
        return found if fits(found) else None

    return await eventually(probe)


async def test_every_ask_is_answered_once_and_the_work_is_counted(host, log, specs) -> None:
    await host.ensure(specs)
    attempts = {f"a{number}" for number in range(40)}
    for attempt in sorted(attempts):
        await log.append(*echo.ask(KEY, attempt))

    given = await answered(log, attempts)

    assert len(given) == len(attempts)
    assert {proposal.choice.reason for proposal in given} <= {spec.name for spec in specs}
    found = await statuses(host, lambda found: sum(status.handled for status in found) == len(attempts))
    assert sorted(status.instance for status in found) == [spec.name for spec in specs]
    assert all(status.in_flight == 0 and status.failed == 0 and not status.draining for status in found)


async def test_what_an_agent_fails_at_comes_again_until_it_can(host, log, specs, gate) -> None:
    await host.ensure(specs)
    await log.append(*echo.ask(KEY, "a1", "flaky"))
    await statuses(host, lambda found: sum(status.failed for status in found) >= 2)
    assert await answers(log) == []

    gate.touch()

    await answered(log, {"a1"})


async def test_what_is_not_for_an_agent_is_a_stray(host, log, specs) -> None:
    await host.ensure(specs)
    address, _ = echo.ask(KEY, "a1")
    await log.append(address, event_pb2.Event(id="x", version=1, pause=event_pb2.Pause()))

    await statuses(host, lambda found: sum(status.strays for status in found) == 1)

    assert await answers(log) == []


async def test_no_agent_takes_more_than_it_may(host, log, specs, gate) -> None:
    await host.ensure(specs[:1])
    attempts = {f"a{number}" for number in range(10)}
    for attempt in sorted(attempts):
        await log.append(*echo.ask(KEY, attempt, "gate"))
    await statuses(host, lambda found: found and found[0].in_flight == specs[0].concurrency)

    gate.touch()

    assert len(await answered(log, attempts)) == len(attempts)


async def test_a_surplus_slot_ends_and_the_others_go_on(host, log, specs) -> None:
    await host.ensure(specs)
    await host.ensure(specs[1:])
    await log.append(*echo.ask(KEY, "a1"))

    given = await answered(log, {"a1"})

    assert given[0].choice.reason == specs[1].name
    assert [status.instance for status in await host.statuses()] == [specs[1].name]


async def test_stopping_finishes_what_is_in_flight_and_takes_no_more(host, log, specs, gate) -> None:
    await host.ensure(specs)
    await log.append(*echo.ask(KEY, "a1", "gate"))
    await statuses(host, lambda found: sum(status.in_flight for status in found) == 1)

    stopping = asyncio.create_task(host.stop(DRAIN_S))
    gate.touch()
    await stopping

    assert [proposal.attempt for proposal in await answers(log)] == ["a1"]
    assert await host.statuses() == []


async def test_what_is_not_finished_in_time_is_put_back_for_others(host, log, specs, gate) -> None:
    await host.ensure(specs)
    await log.append(*echo.ask(KEY, "a1", "gate"))
    await statuses(host, lambda found: sum(status.in_flight for status in found) == 1)

    await host.stop(0.0)
    gate.touch()
    await host.ensure(specs)

    assert len(await answered(log, {"a1"})) == 1
