"""Runs are shown, listed, watched and steered over gRPC; so are tools, health and reflection."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bus.memory import MemoryBroker, MemoryLog
from core.conformance import Limits
from core.ports import Address, LogUnavailable, Record
from core.run import VERSION
from handrail.v1 import event_pb2, run_service_pb2, tool_service_pb2
from handrail.v1.run_service_pb2 import GetRunRequest, ListRunsRequest, WatchRunRequest
from orchestrator import gateway, services
from orchestrator.gateway import Gateway, ListenError
from orchestrator.projection import Projection
from tests.integration.gateway_stage import ARRIVES_S, CONTRACTS, Stage, details, staged, until

BAD_IDS = [
    "",
    "r0",
    "r0-UPPERCASE",
    "r0-abc.defgh",
    "r0-*",
    ">",
    "r0-abc defgh",
    "r0-abcdefgh\n",
    "r0-abcdefgh\u200b",
]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def submit(stage: Stage, text: str = "refund order 1001") -> str:
    goal = event_pb2.Goal(text=text)
    response = await stage.runs.SubmitGoal(run_service_pb2.SubmitGoalRequest(goal=goal))
    return str(response.run)


async def fails(call: Any, code: grpc.StatusCode, reason: str = "") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    if reason:
        assert details(caught.value)[0].reason == reason
    return caught.value


async def watch(stage: Stage, run: str, **fields: Any) -> list[run_service_pb2.WatchRunResponse]:
    return [seen async for seen in stage.runs.WatchRun(WatchRunRequest(run=run, **fields), timeout=10)]


def bodies(seen: list[run_service_pb2.WatchRunResponse]) -> list[str | None]:
    return [response.event.WhichOneof("body") for response in seen]


# --- get, steer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", BAD_IDS)
async def test_a_malformed_id_is_an_invalid_argument(stage: Stage, run: str) -> None:
    await fails(stage.runs.GetRun(GetRunRequest(run=run)), grpc.StatusCode.INVALID_ARGUMENT, "BAD_RUN_ID")
    await fails(watch(stage, run), grpc.StatusCode.INVALID_ARGUMENT, "BAD_RUN_ID")


@pytest.mark.parametrize("run", ["r0-abcdefgh", "r9999-abcdefgh"])
async def test_what_is_not_there_is_not_found(stage: Stage, run: str) -> None:
    code = grpc.StatusCode.NOT_FOUND
    await fails(stage.runs.GetRun(GetRunRequest(run=run)), code, "RUN_NOT_FOUND")
    await fails(stage.runs.CancelRun(run_service_pb2.CancelRunRequest(run=run)), code, "RUN_NOT_FOUND")
    await fails(watch(stage, run), code, "RUN_NOT_FOUND")
    await fails(stage.tools.GetTool(tool_service_pb2.GetToolRequest(name="get_ordr")), code, "TOOL_NOT_FOUND")
    assert stage.events() == 0


async def test_a_run_is_paused_resumed_and_cancelled_once_each(stage: Stage) -> None:
    run = await submit(stage)
    for _ in range(2):
        await stage.runs.PauseRun(run_service_pb2.PauseRunRequest(run=run, reason="lunch"))
    assert (await stage.runs.GetRun(GetRunRequest(run=run))).run.status == event_pb2.RUN_STATUS_PAUSED
    for _ in range(2):
        await stage.runs.ResumeRun(run_service_pb2.ResumeRunRequest(run=run))
    for _ in range(2):
        await stage.runs.CancelRun(run_service_pb2.CancelRunRequest(run=run))
    assert bodies(await watch(stage, run, until_now=True)) == ["submit", "pause", "resume", "cancel"]
    await stage.finish(run, event_pb2.RUN_STATUS_CANCELLED)
    await stage.runs.CancelRun(run_service_pb2.CancelRunRequest(run=run))
    for call in (
        stage.runs.PauseRun(run_service_pb2.PauseRunRequest(run=run)),
        stage.runs.ResumeRun(run_service_pb2.ResumeRunRequest(run=run)),
    ):
        error = await fails(call, grpc.StatusCode.FAILED_PRECONDITION, "RUN_ENDED")
        assert "cancelled" in (error.details() or "")
    assert stage.events() == 5


async def test_a_bad_reason_is_refused(stage: Stage) -> None:
    run = await submit(stage)
    for reason in ("\u202e", "x" * 2_000):
        call = stage.runs.CancelRun(run_service_pb2.CancelRunRequest(run=run, reason=reason))
        await fails(call, grpc.StatusCode.INVALID_ARGUMENT, "BAD_REASON")
    assert stage.events() == 1


# --- watch ------------------------------------------------------------------------------------------


async def test_a_watch_sends_everything_and_ends_with_the_run(stage: Stage) -> None:
    run = await submit(stage)
    watching = aiter(stage.runs.WatchRun(WatchRunRequest(run=run)))
    # Before the run ends the watch has begun.
    seen = [await anext(watching)]
    await stage.runs.PauseRun(run_service_pb2.PauseRunRequest(run=run))
    end = await stage.finish(run)
    await stage.note(run, "skipped", event_pb2.Skipped(step="late"))
    seen += [response async for response in watching]
    assert bodies(seen) == ["submit", "pause", "finished"]
    assert seen[-1].cursor == str(end)
    assert seen[-1].subject.endswith(f".{run}.dec.note.finished")
    assert all(response.time.seconds > 0 for response in seen)
    # After the end there is nothing to wait for: all that there is comes, and what came late too.
    assert bodies(await watch(stage, run, after=seen[0].cursor)) == ["pause", "finished", "skipped"]
    assert bodies(await watch(stage, run, after=seen[-1].cursor)) == ["skipped"]


async def test_a_watch_until_now_ends_with_what_there_is(stage: Stage) -> None:
    run = await submit(stage)
    seen = await watch(stage, run, until_now=True)
    assert bodies(seen) == ["submit"]
    assert await watch(stage, run, until_now=True, after=seen[0].cursor) == []


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 30, "٣", "1\n", "4711"])
async def test_a_bad_cursor_is_refused(stage: Stage, cursor: str) -> None:
    run = await submit(stage)
    await fails(watch(stage, run, after=cursor), grpc.StatusCode.INVALID_ARGUMENT, "BAD_CURSOR")


async def test_watches_are_freed_when_they_are_cancelled_or_late(stage: Stage) -> None:
    run = await submit(stage)
    calls = [stage.runs.WatchRun(WatchRunRequest(run=run)) for _ in range(5)]
    for call in calls:
        await call.read()
    watchers = stage.gateway._runs._watchers
    assert len(watchers) == 5
    for call in calls:
        call.cancel()
    await until(lambda: not watchers)
    late = stage.runs.WatchRun(WatchRunRequest(run=run), timeout=ARRIVES_S)
    await late.read()
    await fails(late.read(), grpc.StatusCode.DEADLINE_EXCEEDED)
    await until(lambda: not watchers)


async def test_a_slow_reader_holds_its_own_watch_back_and_can_leave(stage: Stage) -> None:
    run = await submit(stage)
    for _ in range(100):
        await stage.note(run, "skipped", event_pb2.Skipped(step="s", reason="x" * 50_000))
    call = stage.runs.WatchRun(WatchRunRequest(run=run))
    await call.read()
    other = await watch(stage, run, until_now=True)
    assert len(other) == 101
    call.cancel()
    await until(lambda: not stage.gateway._runs._watchers)


async def test_watchers_are_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_WATCHERS", 1)
    run = await submit(stage)
    first = stage.runs.WatchRun(WatchRunRequest(run=run))
    await first.read()
    await fails(watch(stage, run), grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")
    first.cancel()


async def test_a_stopping_gateway_sends_its_watchers_away_at_once(stage: Stage) -> None:
    run = await submit(stage)
    call = stage.runs.WatchRun(WatchRunRequest(run=run))
    await call.read()
    async with asyncio.timeout(5):
        stopping = asyncio.create_task(stage.gateway.stop(60))
        await fails(call.read(), grpc.StatusCode.UNAVAILABLE, "GATEWAY_STOPPING")
        await stopping


# --- lists ------------------------------------------------------------------------------------------


async def listed(stage: Stage, **fields: Any) -> run_service_pb2.ListRunsResponse:
    return await stage.runs.ListRuns(ListRunsRequest(**fields))


async def test_runs_are_listed_newest_first_page_by_page(stage: Stage) -> None:
    runs = [await submit(stage, f"goal {i}") for i in range(7)]
    assert (await listed(stage)).runs[0].goal == "goal 6"
    seen, token, pages = [], "", 0
    while True:
        page = await listed(stage, page_size=3, page_token=token)
        seen += [run.id for run in page.runs]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert pages == 3
    by_time = sorted(runs, key=lambda run: run.partition("-")[2], reverse=True)
    assert seen == by_time


async def test_runs_are_listed_by_state_as_it_changes(stage: Stage) -> None:
    run, other = await submit(stage), await submit(stage)

    async def is_listed(status: int) -> bool:
        return run in [r.id for r in (await listed(stage, status=status)).runs]

    async def becomes(status: int) -> None:
        async with asyncio.timeout(5):
            while not await is_listed(status):
                await asyncio.sleep(0.01)
        assert (await stage.runs.GetRun(GetRunRequest(run=run))).run.status == status

    await becomes(event_pb2.RUN_STATUS_PLANNING)
    answer = event_pb2.Event(id="plan", version=VERSION)
    answer.plan_answer.plan.SetInParent()
    await stage.log.append(Address(stage.key(run), "ans", ("planner", "main", "plan", "goal-a1")), answer)
    await stage.note(run, "plan_accepted", event_pb2.PlanAccepted())
    await becomes(event_pb2.RUN_STATUS_RUNNING)
    await stage.runs.PauseRun(run_service_pb2.PauseRunRequest(run=run))
    await becomes(event_pb2.RUN_STATUS_PAUSED)
    await stage.runs.ResumeRun(run_service_pb2.ResumeRunRequest(run=run))
    await becomes(event_pb2.RUN_STATUS_RUNNING)
    await stage.runs.CancelRun(run_service_pb2.CancelRunRequest(run=run))
    await becomes(event_pb2.RUN_STATUS_CANCELLING)
    await stage.finish(run, event_pb2.RUN_STATUS_CANCELLED)
    await becomes(event_pb2.RUN_STATUS_CANCELLED)
    [summary] = (await listed(stage, status=event_pb2.RUN_STATUS_CANCELLED)).runs
    assert summary.ended.seconds >= summary.submitted.seconds > 0
    assert [r.id for r in (await listed(stage, status=event_pb2.RUN_STATUS_PLANNING)).runs] == [other]


async def test_pages_are_guarded(stage: Stage) -> None:
    for _ in range(3):
        await submit(stage)
    token = (await listed(stage, page_size=1)).next_page_token
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    forged = base64.urlsafe_b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode().rstrip("=")
    tools = (await stage.tools.ListTools(tool_service_pb2.ListToolsRequest(page_size=1))).next_page_token
    for fields in (
        {"page_size": -1},
        {"page_token": forged},
        {"page_token": token[:-2]},
        {"page_token": "!!!"},
        {"page_token": "x" * 10_000},
        {"page_token": tools},
        {"page_token": token, "status": event_pb2.RUN_STATUS_PLANNING},
    ):
        await fails(listed(stage, **fields), grpc.StatusCode.INVALID_ARGUMENT, "BAD_PAGE")
    await fails(listed(stage, status=77), grpc.StatusCode.INVALID_ARGUMENT, "BAD_FILTER")
    assert len((await listed(stage, page_size=5_000, page_token=token)).runs) == 2


async def test_the_listing_survives_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    broker, path = MemoryBroker(), tmp_path / "listing.sqlite"
    async with staged(broker, path=path) as stage:
        run = await submit(stage)
        await stage.finish(run)
        async with asyncio.timeout(5):
            while not (await listed(stage, status=event_pb2.RUN_STATUS_DONE)).runs:
                await asyncio.sleep(0.01)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT run, status FROM run").fetchall() == [(run, event_pb2.RUN_STATUS_DONE)]
    db.close()
    async with staged(broker, path=path) as stage:
        [summary] = (await listed(stage)).runs
        assert (summary.id, summary.status) == (run, event_pb2.RUN_STATUS_DONE)
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8_000)
    async with staged(broker, path=path) as stage:
        [summary] = (await listed(stage)).runs
        assert summary.status == event_pb2.RUN_STATUS_DONE
    assert path.with_name("listing.sqlite.discarded").exists()


async def test_the_listing_of_another_log_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "listing.sqlite"
    async with staged(path=path) as stage:
        await submit(stage, "of the old log")
        await stage.finish(await submit(stage))
    async with staged(path=path) as stage:
        run = await submit(stage, "of the new log")
        async with asyncio.timeout(10):
            while [r.id for r in (await listed(stage)).runs] != [run]:
                await asyncio.sleep(0.02)


async def test_a_foreign_database_is_kept_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "somebodys.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    async with staged(path=path) as stage:
        run = await submit(stage)
        assert [r.id for r in (await listed(stage)).runs] == [run]
    with sqlite3.connect(path.with_name("somebodys.sqlite.discarded")) as db:
        assert db.execute("SELECT count(*) FROM precious").fetchone() == (0,)
    db.close()


# --- tools, health, reflection, the address -----------------------------------------------------------


async def test_tools_are_listed_and_shown(stage: Stage) -> None:
    first = await stage.tools.ListTools(tool_service_pb2.ListToolsRequest(page_size=1))
    rest = await stage.tools.ListTools(tool_service_pb2.ListToolsRequest(page_token=first.next_page_token))
    assert [t.name for t in (*first.tools, *rest.tools)] == sorted(CONTRACTS)
    shown = await stage.tools.GetTool(tool_service_pb2.GetToolRequest(name="refund_order"))
    assert shown.tool == CONTRACTS["refund_order"]


class Unreachable(MemoryLog):
    """A log whose broker can be taken away."""

    gone = False

    async def last(self, shard: int, filter: str) -> Record | None:
        if self.gone:
            raise LogUnavailable("gone")
        return await super().last(shard, filter)


async def test_health_follows_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "PROBE_EVERY_S", 0.02)
    broker = MemoryBroker()
    log = Unreachable(broker)
    async with staged(broker, log=log) as stage:
        stub = health_pb2_grpc.HealthStub(stage.channel)

        async def check(service: str) -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

        async def becomes(status: int) -> None:
            async with asyncio.timeout(5):
                while await check(gateway.RUN_SERVICE) != status:
                    await asyncio.sleep(0.01)
            assert await check("") == status
            assert await check(gateway.TOOL_SERVICE) == health_pb2.HealthCheckResponse.SERVING

        await becomes(health_pb2.HealthCheckResponse.SERVING)
        log.gone = True
        await becomes(health_pb2.HealthCheckResponse.NOT_SERVING)
        log.gone = False
        await becomes(health_pb2.HealthCheckResponse.SERVING)


async def test_reflection_names_the_services(stage: Stage) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(stage.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {gateway.RUN_SERVICE, gateway.TOOL_SERVICE, "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", ":0", "10.1.2.3:0", "example.com:0", "127.0.0.1", "x"]
)
async def test_without_tls_the_gateway_listens_on_this_machine_only(listen: str) -> None:
    broker = MemoryBroker()
    gateway = Gateway(MemoryLog(broker), contracts=CONTRACTS, limits=Limits(), projection=Projection())
    with pytest.raises(ListenError, match="listen on"):
        await gateway.start(listen)
    await gateway.stop(0)


async def test_a_port_in_use_is_said(stage: Stage) -> None:
    second = Gateway(stage.log, contracts=CONTRACTS, limits=Limits(), projection=Projection())
    with pytest.raises(ListenError, match="in use"):
        await second.start(stage.address)
    await second.stop(0)


async def test_work_stops_with_the_deadline_of_the_rpc() -> None:
    cancelled = asyncio.Event()

    class Hanging(MemoryLog):
        async def read(self, *_: Any, **__: Any) -> list[Record]:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return []

    broker = MemoryBroker()
    async with staged(broker, log=Hanging(broker)) as stage:
        await stage.channel.channel_ready()
        call = stage.runs.GetRun(GetRunRequest(run="r0-abcdefgh"), timeout=ARRIVES_S)
        await fails(call, grpc.StatusCode.DEADLINE_EXCEEDED)
        async with asyncio.timeout(5):
            await cancelled.wait()
