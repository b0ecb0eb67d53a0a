"""Waiting for runs: kept while they are heard, followed where they are not, and never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bus.memory import MemoryBroker
from core.ports import Address, LogUnavailable
from core.run import VERSION
from handrail import errors
from handrail.client import Client
from handrail.v1 import event_pb2
from handrail.v1.event_pb2 import RUN_STATUS_DONE, RUN_STATUS_FAILED, RUN_STATUS_UNREADABLE
from orchestrator import services, waits
from orchestrator.projection import Projection
from tests.integration.gateway_stage import ARRIVES_S, Stage, staged, until
from tests.integration.test_gateway_submit import Flaky


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        # Before that nothing is kept.
        await until(lambda: stage.gateway._projection.ready)
        yield stage


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    async with Client(stage.address) as client:
        yield client


async def begun(stage: Stage) -> str:
    """Wait until there is a run, and name it."""
    await until(lambda: stage.events() > 0)
    messages = [m for shard in stage.log.shards for m in stage.broker.stream(f"EV_{shard}").messages]
    return str(messages[0].subject.split(".")[3])


async def test_submit_and_wait_in_one_call(stage: Stage, client: Client) -> None:
    running = asyncio.create_task(client.run("refund order 1001", timeout_s=10))
    await stage.finish(await begun(stage), RUN_STATUS_FAILED)
    run = await running
    assert (run.status, run.goal) == (RUN_STATUS_FAILED, "refund order 1001")
    assert (stage.events(), stage.cells()) == (2, 0)
    # It was kept for one answer; another reads the log.
    assert (await client.wait(run.id)).status == RUN_STATUS_FAILED


async def test_many_wait_for_one_run(stage: Stage, client: Client) -> None:
    async with staged(stage.broker) as other, Client(other.address) as elsewhere:
        running = asyncio.create_task(client.run("refund order 1001", request_id="one", timeout_s=10))
        run = await begun(stage)
        waiting = [asyncio.create_task(each.wait(run, timeout_s=10)) for each in (client, elsewhere) * 3]
        waiting += [
            asyncio.create_task(each.run("refund order 1001", request_id="one", timeout_s=10))
            for each in (client, elsewhere)
        ]
        await stage.note(run, "plan_rejected", event_pb2.PlanRejected())
        await stage.finish(run)
        found = [await task for task in (running, *waiting)]
        assert {(one.id, one.status) for one in found} == {(run, RUN_STATUS_DONE)}


async def test_a_run_with_too_much_to_keep_is_followed(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "MAX_KEPT_RECORDS", 5)
    running = asyncio.create_task(client.run("refund order 1001", timeout_s=10))
    run = await begun(stage)
    for _ in range(10):
        await stage.note(run, "plan_rejected", event_pb2.PlanRejected())
    await stage.finish(run)
    assert (await running).status == RUN_STATUS_DONE


async def test_only_the_latest_runs_are_kept(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "MAX_KEPT_RUNS", 2)
    running = asyncio.create_task(client.run("the first", timeout_s=10))
    run = await begun(stage)
    for number in range(4):
        await client.submit(f"another {number}")
    await stage.finish(run)
    assert (await running).goal == "the first"


async def test_a_run_that_needs_a_human_is_not_waited_for(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "SETTLED_AFTER_S", 0.05)
    running = asyncio.create_task(client.run("refund order 1001", timeout_s=10))
    run = await begun(stage)
    event = event_pb2.Event(id="later", version=VERSION + 1, writer="decider/test")
    event.finished.status = RUN_STATUS_DONE
    await stage.log.append(Address(stage.key(run), "dec", ("note", "healed")), event)
    assert (await running).status == RUN_STATUS_UNREADABLE
    assert (await client.wait(run)).status == RUN_STATUS_UNREADABLE


@pytest.mark.parametrize("after", [False, True], ids=["goal not written", "goal written"])
async def test_a_lost_answer_makes_no_second_run(after: bool) -> None:
    broker = MemoryBroker()
    log = Flaky(broker, LogUnavailable("the broker is gone"), after=after)
    async with staged(broker, log=log) as stage, Client(stage.address) as client:
        running = asyncio.create_task(client.run("refund order 1001", timeout_s=10))
        await stage.finish(await begun(stage))
        assert (await running).status == RUN_STATUS_DONE
        assert (stage.events(), stage.cells()) == (2, 0)


async def test_nobody_waits_for_a_feed_that_begins_anew(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits.Kept, "hear", lambda self, record: None)
    run = (await client.submit("refund order 1001")).run
    assert stage.gateway._waits.kept(stage.key(run)) is not None
    await stage.finish(run)
    monkeypatch.setattr(Projection, "ready", False)
    assert (await client.wait(run, timeout_s=5)).status == RUN_STATUS_DONE


async def test_where_too_many_wait_the_goal_is_durable_all_the_same(
    stage: Stage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "MAX_WATCHERS", 0)
    with pytest.raises(errors.ResourceExhausted):
        await client.run("refund order 1001", timeout_s=10)
    assert stage.events() == 1


async def test_the_wait_has_an_end(stage: Stage, client: Client) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await client.run("refund order 1001", timeout_s=ARRIVES_S)
    assert stage.events() == 1
