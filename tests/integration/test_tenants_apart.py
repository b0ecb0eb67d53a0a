"""A gateway for some tenants: it serves them, and neither writes nor decrypts what is another tenant's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bus import consumers, permissions, streams, subjects
from bus.link import Link
from bus.log import NatsLog
from core.conformance import Limits
from core.ports import LogForbidden, RunKey
from handrail import errors
from handrail.client import Client
from handrail.issuer import Tokens
from handrail.tokens import LocalKeys
from handrail.v1 import event_pb2
from orchestrator.gateway import Gateway
from orchestrator.projection import Projection
from tests.contract.bench import event, note
from tests.contract.nats_process import NatsProcess

POOLS = {"worker": ["box"]}
SERVED = ("acme", "hooli")
THEIRS = RunKey(0, "umbrella", "r0-umbrella00")
PLAN = {"steps": [{"id": "look", "tool": "look"}]}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsProcess]:
    members = permissions.users(POOLS, SERVED)
    broker = NatsProcess(tmp_path, permissions.render(members, {user.name: "secret" for user in members}))
    broker.start()
    admin = await link_as(broker, "admin")
    durables = [consumers.decider(), consumers.ticks(), consumers.worker("box")]
    await streams.ensure(admin, shards=[0], consumers=durables, max_bytes=64 << 20)
    log = NatsLog(admin, (0,))
    submit = subjects.parse(f"{subjects.ev_prefix(THEIRS)}.cmd.submit")
    submitted = event_pb2.Event(
        id="s", version=1, submit=event_pb2.Submit(goal=event_pb2.Goal(text="theirs"))
    )
    await log.append(submit, submitted)
    await log.append(note(THEIRS), event("theirs"))
    await log.close()
    yield broker
    broker.stop()


async def link_as(broker: NatsProcess, user: str) -> Link:
    prefix = permissions.inbox_prefix(user)
    return await Link.connect(broker.url, user=user, password="secret", inbox_prefix=prefix)


async def test_a_gateway_for_some_reads_and_writes_theirs_alone(broker: NatsProcess) -> None:
    log, ours = NatsLog(await link_as(broker, "gateway"), (0,)), RunKey(0, "hooli", "r0-hooli00000")
    try:
        submit = subjects.parse(f"{subjects.ev_prefix(ours)}.cmd.submit")
        await log.begin(ours)
        await log.append(submit, event("ours"))
        blob = await log.put_blob(ours, b"large")
        assert [record.event.id for record in await log.read(ours) if record.event] == ["ours"]
        assert await log.get_blob(ours, blob) == b"large"
        with pytest.raises(LogForbidden):
            await log.read(THEIRS)
        with pytest.raises(LogForbidden):
            await log.begin(RunKey(0, "umbrella", "r0-umbrella01"))
        with pytest.raises(LogForbidden):
            await log.put_blob(THEIRS, b"large")
        for subject in (f"{subjects.ev_prefix(THEIRS)}.cmd.cancel", subjects.key_cell(THEIRS)):
            with pytest.raises(LogForbidden):
                await log.store.publish("", subject, b"x")
    finally:
        await log.close()


async def test_a_gateway_for_some_hears_of_the_keys_of_theirs_alone(broker: NatsProcess) -> None:
    gateway, admin = NatsLog(await link_as(broker, "gateway"), (0,)), await link_as(broker, "admin")
    tracer, log = NatsLog(await link_as(broker, "tracer"), (0,)), NatsLog(admin, (0,))
    runs = [RunKey(0, tenant, "r0-heard00000") for tenant in ("umbrella", *SERVED)]
    try:
        await gateway.listen()
        await tracer.listen()
        for link in (gateway.link, tracer.link):
            await link.request("$JS.API.INFO")
        for run in runs:
            await log.begin(run)
        while len(gateway.keys._heard) < len(SERVED) or len(tracer.keys._heard) < len(runs):
            await asyncio.sleep(0.01)
        assert [*gateway.keys._heard] == runs[1:]
        assert [*tracer.keys._heard] == runs
    finally:
        for one in (gateway, tracer, log):
            await one.close()


KEY = subjects.key_cell(THEIRS)
WAYS: dict[str, Any] = {
    f"DIRECT.GET.KEY.{KEY}": None,
    "DIRECT.GET.KEY": {"last_by_subj": KEY},
    "DIRECT.GET.KEY.key.0.acme.r0-acme000000": {"seq": 1},
    "DIRECT.GET.KEY.key.0.*.r0-umbrella00": None,
    "DIRECT.GET.KEY.key.>": {"batch": 10, "seq": 1},
    "STREAM.MSG.GET.KEY": {"seq": 1},
    "CONSUMER.CREATE.KEY": {"stream_name": "KEY", "config": {"ack_policy": "none"}},
    "CONSUMER.CREATE.KEY.read-1": {"stream_name": "KEY", "config": {"name": "read-1", "ack_policy": "none"}},
    f"CONSUMER.CREATE.KEY.read-1.{KEY}": {
        "stream_name": "KEY",
        "config": {"name": "read-1", "ack_policy": "none", "filter_subject": KEY},
    },
    "CONSUMER.DURABLE.CREATE.KEY.read-1": {"stream_name": "KEY", "config": {"durable_name": "read-1"}},
    "STREAM.CREATE.MINE": {"name": "MINE", "sources": [{"name": "KEY"}]},
    "STREAM.UPDATE.KEY": {"name": "KEY", "republish": {"src": ">", "dest": "_INBOX_gateway.x"}},
    "STREAM.SNAPSHOT.KEY": {"deliver_subject": "_INBOX_gateway.x"},
}


@pytest.mark.parametrize("call", WAYS)
async def test_no_way_leads_to_the_key_of_another_tenants_run(broker: NatsProcess, call: str) -> None:
    link, admin = await link_as(broker, "gateway"), await link_as(broker, "admin")
    try:
        key = await NatsLog(admin, (0,)).key_of(THEIRS)
        assert key
        body = b"" if WAYS[call] is None else json.dumps(WAYS[call]).encode()
        try:
            answer = (await link.request(f"$JS.API.{call}", body, timeout_s=1)).data
        except (LogForbidden, errors.HandrailError):
            answer = b""
        assert key not in answer
        assert b'"message"' not in answer
        assert b'"type":"io.nats.jetstream.api.v1.consumer_create_response","config"' not in answer
    finally:
        await link.close()
        await admin.close()


async def test_a_gateway_serves_its_tenants_and_lists_theirs(broker: NatsProcess, tmp_path: Path) -> None:
    keys = LocalKeys(tmp_path)
    keys.ensure()
    listing = tmp_path / "listing.sqlite"
    # As it was left by one for everybody: it is not believed.
    Projection(listing).close()
    gateway = Gateway(
        NatsLog(await link_as(broker, "gateway"), (0,)),
        contracts={},
        limits=Limits(),
        projection=Projection(listing, SERVED),
        callers=Tokens(keys),
        tenants=SERVED,
    )
    address = (await gateway.start("127.0.0.1:0")).local
    try:
        for tenant in SERVED:
            token = keys.sign("ann", ["submitter"], tenant=tenant)
            async with Client(address, token=token, timeout_s=5) as client:
                run = (await client.submit(f"for {tenant}", request_id="monday")).run
                assert (await client.get(run)).goal == f"for {tenant}"
                assert [one.goal async for one in client.list()] == [f"for {tenant}"]
        async with Client(
            address, token=keys.sign("eve", ["admin"], tenant="umbrella"), timeout_s=5
        ) as client:
            with pytest.raises(errors.PermissionDenied, match="does not serve umbrella, which eve is of"):
                await client.get(THEIRS.run)
    finally:
        await gateway.stop(0)
