"""The Python client against a real gateway: every call, and what it does while the server is away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bus.memory import MemoryBroker
from handrail import client as client_module
from handrail import errors
from handrail.client import Client
from handrail.sync_client import SyncClient
from handrail.v1 import event_pb2
from tests.integration.gateway_stage import CONTRACTS, Stage, staged, until


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    async with Client(stage.address) as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_run_from_submission_to_its_end(stage: Stage, client: Client) -> None:
    submitted = await client.submit("refund order 1001", context={"a": 1}, deadline=60)
    assert not submitted.existed
    assert (await client.get(submitted.run)).status == event_pb2.RUN_STATUS_PLANNING
    waiting = asyncio.create_task(client.wait(submitted.run, timeout_s=10))
    await client.pause(submitted.run, reason="lunch")
    await client.resume(submitted.run)
    await client.cancel(submitted.run)
    await stage.finish(submitted.run, event_pb2.RUN_STATUS_CANCELLED)
    assert (await waiting).status == event_pb2.RUN_STATUS_CANCELLED
    assert (await client.wait(submitted.run)).status == event_pb2.RUN_STATUS_CANCELLED
    seen = [event.event.WhichOneof("body") async for event in client.watch(submitted.run)]
    assert seen == ["submit", "pause", "resume", "cancel", "finished"]
    with pytest.raises(errors.FailedPrecondition) as caught:
        await client.pause(submitted.run)
    assert caught.value.metadata == {"status": "RUN_STATUS_CANCELLED"}


async def test_typed_errors(client: Client) -> None:
    with pytest.raises(errors.NotFound):
        await client.get("r0-abcdefgh")
    with pytest.raises(errors.NotFound, match="get_order"):
        await client.tool("get_ordr")
    with pytest.raises(errors.InvalidArgument) as caught:
        await client.submit("", plan={"steps": [{"id": "x", "tool": "nothing"}]})
    fields = [violation.field for violation in caught.value.violations]
    assert "goal.text" in fields
    assert "goal.plan.steps[0].tool" in fields
    await client.submit("one", request_id="same")
    with pytest.raises(errors.AlreadyExists) as reused:
        await client.submit("other", request_id="same")
    assert reused.value.metadata["run"].startswith("r")
    with pytest.raises(errors.InvalidArgument):
        await client.list_page(page_token="forged")
    with pytest.raises(errors.InvalidArgument):
        _ = [seen async for seen in client.watch("not a run")]


async def test_lists_and_tools(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 1)
    runs = [(await client.submit(f"goal {i}")).run for i in range(3)]
    assert {run.id async for run in client.list()} == set(runs)
    assert [run.id async for run in client.list(status=event_pb2.RUN_STATUS_DONE)] == []
    page = await client.list_page(page_size=2)
    assert len(page.runs) == 2
    assert len((await client.list_page(page_token=page.next_token)).runs) == 1
    assert [tool.name for tool in await client.tools()] == sorted(CONTRACTS)
    assert await client.tool("get_order") == CONTRACTS["get_order"]


async def test_wait_returns_when_a_human_must_look(stage: Stage, client: Client) -> None:
    run = (await client.submit("refund order 1001")).run
    waiting = asyncio.create_task(client.wait(run, timeout_s=10))
    step = event_pb2.PlanAccepted()
    step.plan.steps.add(id="look", tool="get_order")
    await stage.note(run, "plan_accepted", step)
    await stage.note(run, "in_doubt", event_pb2.InDoubt(step="look", why="nobody knows"))
    assert (await waiting).status == event_pb2.RUN_STATUS_WAITING
    assert (await client.wait(run)).status == event_pb2.RUN_STATUS_WAITING


async def test_two_clients_with_one_request_id_get_one_run(stage: Stage, client: Client) -> None:
    async with Client(stage.address) as other:
        answers = await asyncio.gather(
            *(side.submit("refund order 1001", request_id="once") for side in (client, other) * 5)
        )
    assert len({answer.run for answer in answers}) == 1
    assert sorted(answer.existed for answer in answers) == [False] + [True] * 9


async def test_a_watch_goes_on_where_it_was_when_the_gateway_comes_back() -> None:
    broker, listen = MemoryBroker(), f"127.0.0.1:{free_port()}"
    seen: list[str | None] = []
    async with Client(listen) as client:

        async def watch(run: str) -> None:
            async for event in client.watch(run, timeout_s=30):
                seen.append(event.event.WhichOneof("body"))

        async with staged(broker, listen=listen):
            run = (await client.submit("refund order 1001")).run
            watching = asyncio.create_task(watch(run))
            await until(lambda: seen == ["submit"])
        async with staged(broker, listen=listen) as again:
            await client.pause(run)
            await until(lambda: seen == ["submit", "pause"])
            await again.finish(run)
            await watching
    assert seen == ["submit", "pause", "finished"]


async def test_a_submission_waits_for_a_gateway_that_is_starting_and_is_made_once() -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with Client(listen, timeout_s=20) as client:
        submitting = asyncio.create_task(client.submit("refund order 1001"))
        await asyncio.sleep(0)
        async with staged(listen=listen) as stage:
            submitted = await submitting
            assert not submitted.existed
            assert stage.events() == 1


async def test_without_a_server_calls_end_in_time() -> None:
    address = f"127.0.0.1:{free_port()}"
    # Long enough for a first try to be refused.
    async with Client(address, timeout_s=1.0) as client:
        async with asyncio.timeout(6.5):
            with pytest.raises(errors.Unavailable, match="handrail up"):
                await client.submit("refund order 1001")
            with pytest.raises(errors.Unavailable):
                _ = [seen async for seen in client.watch("r0-abcdefgh", outage_s=0.2)]
            with pytest.raises(errors.Unavailable):
                _ = [seen async for seen in client.watch("r0-abcdefgh", timeout_s=1.0)]


async def test_a_watch_ends_with_its_timeout(client: Client) -> None:
    run = (await client.submit("refund order 1001")).run
    with pytest.raises(errors.DeadlineExceeded):
        _ = [seen async for seen in client.watch(run, timeout_s=0.2)]


async def test_a_server_of_something_else_is_recognised() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.Internal, match="no Handrail server"):
            await client.get("r0-abcdefgh")
    await server.stop(0)


async def test_what_is_no_grpc_server_is_unavailable() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(f"127.0.0.1:{port}", timeout_s=0.5) as client:
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
            await client.get("r0-abcdefgh")


async def test_the_sync_client(stage: Stage) -> None:
    def work() -> Any:
        with SyncClient(stage.address) as client:
            run = client.submit("refund order 1001", request_id="sync").run
            assert client.submit("refund order 1001", request_id="sync").existed
            client.pause(run)
            client.resume(run)
            first = next(iter(client.watch(run)))
            assert first.event.HasField("submit")
            assert len(list(client.watch(run, until_now=True))) == 3
            assert [r.id for r in client.list()] == [r.id for r in client.list_page().runs] == [run]
            assert client.tool("get_order") in client.tools()
            client.cancel(run)
            assert client.get(run).status == event_pb2.RUN_STATUS_CANCELLING
            asyncio.run_coroutine_threadsafe(stage.finish(run), loop).result()
            with pytest.raises(errors.InvalidArgument):
                client.submit("")
            return client.wait(run, timeout_s=10).status

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(work) == event_pb2.RUN_STATUS_DONE
    await until(lambda: not stage.gateway._runs._watchers)
