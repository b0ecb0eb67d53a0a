"""The gateway on a real broker, as the broker's user `gateway`: what it may do suffices, and it survives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import streams, subjects
from bus.broker import EmbeddedBroker
from bus.directory import DataDirectory
from bus.link import Link
from bus.log import NatsLog
from core.conformance import Limits
from core.ports import Address
from core.run import VERSION
from handrail.client import Client
from handrail.v1 import event_pb2
from orchestrator.gateway import Gateway
from orchestrator.projection import Projection
from tests.integration.gateway_stage import CONTRACTS, TENANT, until

SHARDS = (0, 1)
POOLS = {"worker": ("shop",)}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    with DataDirectory.acquire(tmp_path / ".handrail") as directory:
        broker = EmbeddedBroker(directory, POOLS)
        await broker.start()
        admin = await connect(broker, "admin")
        await streams.ensure(admin, shards=SHARDS, consumers=[], max_bytes=64 * 1024 * 1024)
        await admin.close()
        yield broker
        await broker.stop()


async def connect(broker: EmbeddedBroker, role: str) -> Link:
    who = broker.credentials(role)
    return await Link.connect(broker.url, user=who.user, password=who.password, inbox_prefix=who.inbox_prefix)


async def test_runs_live_through_the_death_of_the_broker(broker: EmbeddedBroker, tmp_path: Path) -> None:
    log = NatsLog(await connect(broker, "gateway"), SHARDS)
    decider = NatsLog(await connect(broker, "decider"), SHARDS)
    gateway = Gateway(log, contracts=CONTRACTS, limits=Limits(), projection=Projection(tmp_path / "listing"))
    address = (await gateway.start("127.0.0.1:0")).local
    seen: list[str | None] = []

    async def watch(client: Client, run: str) -> None:
        async for response in client.watch(run, timeout_s=60):
            seen.append(response.event.WhichOneof("body"))

    async with Client(address, timeout_s=30) as client:
        context = {"notes": "x" * 200_000}
        run = (await client.submit("refund order 1001", context=context, request_id="one")).run
        watching = asyncio.create_task(watch(client, run))
        await until(lambda: seen == ["submit"])
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        submitting = asyncio.create_task(client.submit("while the broker is away"))
        await until(lambda: broker.pid is None)
        await broker.start()
        other = await submitting
        assert [r.id async for r in client.list()] == sorted(
            (run, other.run), key=lambda run: run.partition("-")[2], reverse=True
        )
        await client.pause(run)
        await until(lambda: seen == ["submit", "pause"])
        assert (await client.submit("refund order 1001", context=context, request_id="one")).existed
        key = subjects.run_key(run, TENANT)
        event = event_pb2.Event(id="end", version=VERSION, writer="decider/test")
        event.finished.status = event_pb2.RUN_STATUS_DONE
        await decider.append(Address(key, "dec", ("note", "finished")), event)
        await watching
        assert seen == ["submit", "pause", "finished"]
        assert (await client.wait(run)).status == event_pb2.RUN_STATUS_DONE
        async with asyncio.timeout(10):
            while [r.id async for r in client.list(status=event_pb2.RUN_STATUS_DONE)] != [run]:
                await asyncio.sleep(0.02)
    await gateway.stop(0.5)
    for opened in (log, decider):
        await opened.close()
