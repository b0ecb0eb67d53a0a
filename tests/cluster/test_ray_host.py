"""Minds on Ray, as real processes: what a killed one, a stuck one and a killed host leave undone."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from actors.host import HostStatus
from actors.pool import AgentSpec, PoolSpec
from actors.ray_head import RayHead
from bus.log import NatsLog
from core.ports import RunKey
from tests.cluster import echo
from tests.cluster.stage import RayProcess, broker, eventually, furnish, ray_head

ACTORS = 3
# Longer than all that is waited for in one of them.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def broker_url(directory: Path) -> Iterator[str]:
    with broker(directory / "broker") as url:
        yield url


@pytest.fixture(scope="module")
def head(directory: Path) -> Iterator[RayHead]:
    with ray_head(directory) as (head, _):
        yield head


@pytest.fixture(scope="module")
def host(head: RayHead, directory: Path) -> Iterator[RayProcess]:
    process = RayProcess(head, directory / "ray_host.log")
    yield process
    process.kill()


@pytest.fixture
async def log(broker_url: str) -> AsyncIterator[NatsLog]:
    await furnish(broker_url)
    log = await echo.connect(broker_url)
    yield log
    await log.close()


@pytest.fixture
def key() -> RunKey:
    return RunKey(0, "t", f"r0-{uuid4().hex}")


@pytest.fixture
def gate(directory: Path) -> Path:
    gate = directory / "gate"
    gate.unlink(missing_ok=True)
    return gate


@pytest.fixture
def specs(broker_url: str, gate: Path) -> list[AgentSpec]:
    pool = PoolSpec(echo.ROLE, echo.POOL, actors=ACTORS, concurrency=8)
    return pool.slots(broker_url=broker_url, options={"gate": str(gate)})


async def all_ready(host: RayProcess, count: int = ACTORS) -> list[HostStatus]:
    async def probe() -> list[HostStatus] | None:
        found = await host.statuses()
        return found if len(found) == count else None

    return await eventually(probe)


async def answers(log: NatsLog, key: RunKey) -> list[tuple[str, str]]:
    found = [record.event.proposal for record in await log.read(key) if record.event is not None]
    return [(proposal.attempt, proposal.choice.reason) for proposal in found if proposal.attempt]


async def test_minds_survive_their_host_and_are_found_again(host, head, directory, log, key, specs) -> None:
    predecessor = RayProcess(head, directory / "predecessor.log")
    await predecessor.ensure(specs)
    before = await all_ready(predecessor)
    assert sorted(status.instance for status in before) == [spec.name for spec in specs]
    predecessor.kill()
    await log.append(*echo.ask(key, "orphaned"))

    async def is_answered() -> bool:
        return bool(await answers(log, key))

    await eventually(is_answered)
    await host.ensure(specs)
    assert {status.pid for status in await all_ready(host)} == {status.pid for status in before}


async def test_a_killed_mind_comes_back_and_nothing_is_lost(host, log, key, specs, gate) -> None:
    await host.ensure(specs)
    before = await all_ready(host)
    attempts = {f"a{number}" for number in range(40)}
    for attempt in sorted(attempts)[:20]:
        await log.append(*echo.ask(key, attempt, "gate"))

    async def busy() -> HostStatus | None:
        found = max(await host.statuses(), key=lambda status: status.in_flight, default=None)
        return found if found is not None and found.in_flight else None

    victim = await eventually(busy)
    os.kill(victim.pid, signal.SIGKILL)
    gate.touch()
    for attempt in sorted(attempts)[20:]:
        await log.append(*echo.ask(key, attempt))

    async def all_answered() -> bool:
        return {attempt for attempt, _ in await answers(log, key)} == attempts

    async def back() -> bool:
        after = {status.instance: status.pid for status in await host.statuses()}
        return len(after) == ACTORS and after[victim.instance] != victim.pid

    await eventually(all_answered)
    await eventually(back)
    survivors = {status.pid for status in before} - {victim.pid}
    assert survivors < {status.pid for status in await all_ready(host)}

    # It hears again, too: only it is left to answer.
    alone = [spec for spec in specs if spec.name == victim.instance]
    await host.ensure(alone)
    await log.append(*echo.ask(key, "last"))

    async def last() -> bool:
        return ("last", victim.instance) in await answers(log, key)

    await eventually(last)


async def test_a_mind_that_hangs_is_started_anew(host, log, specs) -> None:
    await host.ensure(specs)
    victim = (await all_ready(host))[0]
    os.kill(victim.pid, signal.SIGSTOP)

    async def replaced() -> bool:
        after = {status.instance: status.pid for status in await host.statuses()}
        return after.get(victim.instance, victim.pid) != victim.pid

    await eventually(replaced)


async def test_the_project_is_importable(host, log, key, specs, tmp_path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "their_module.py").write_text("NAME = 'theirs'\n")
    spec = PoolSpec(echo.ROLE, echo.POOL).slots(
        broker_url=specs[0].broker_url,
        project_dir=str(project),
        options={**specs[0].options, "module": "their_module"},
    )
    await host.ensure(spec)
    await log.append(*echo.ask(key, "a1"))

    async def answered_as_theirs() -> bool:
        return await answers(log, key) == [("a1", "theirs")]

    await eventually(answered_as_theirs)


async def test_a_project_that_cannot_be_imported_is_named(host, log, specs) -> None:
    spec = PoolSpec(echo.ROLE, echo.POOL).slots(options={**specs[0].options, "module": "no_such_module"})
    await host.ensure(spec)

    async def named() -> bool:
        return "no_such_module" in "".join(status.error for status in await host.statuses())

    await eventually(named)
