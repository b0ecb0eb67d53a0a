"""What a broker user may not do surfaces at once, as an error that names the user and the subject."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bus import consumers, permissions, streams, subjects
from bus.link import Link
from bus.log import NatsLog
from core.ports import LogForbidden, RunKey
from tests.awake import Awake
from tests.contract.bench import Collector, ask, event, ids, intent, note
from tests.contract.nats_process import NatsProcess

POOLS = {"planner": ["main"], "worker": ["box", "other"], "verifier": ["main"]}
DURABLES = [consumers.decider(), consumers.ticks(), consumers.worker("box"), consumers.worker("other")]
KEY = RunKey(0, "Tenant", "r0-allowed00")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsProcess]:
    members = permissions.users(POOLS)
    broker = NatsProcess(tmp_path, permissions.render(members, {user.name: "secret" for user in members}))
    broker.start()
    yield broker
    broker.stop()


async def link_as(broker: NatsProcess, user: str, prefix: str = "", password: str = "secret") -> Link:
    own = prefix or permissions.inbox_prefix(user)
    return await Link.connect(broker.url, user=user, password=password, inbox_prefix=own)


@contextlib.asynccontextmanager
async def log_as(broker: NatsProcess, user: str) -> AsyncIterator[NatsLog]:
    log = NatsLog(await link_as(broker, user), (0,))
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def ready(broker: NatsProcess) -> NatsProcess:
    admin = await link_as(broker, "admin")
    await streams.ensure(admin, shards=[0], consumers=DURABLES, max_bytes=64 << 20)
    await admin.close()
    return broker


async def test_each_does_its_own_work(ready: NatsProcess) -> None:
    async with (
        log_as(ready, "gateway") as gateway,
        log_as(ready, "decider") as decider,
        log_as(ready, "worker-box") as worker,
    ):
        hearing = Collector(decider, consumers.decider())
        ticking = Collector(decider, consumers.ticks())
        acting = Collector(worker, consumers.worker("box"))
        submit = subjects.parse(f"{subjects.ev_prefix(KEY)}.cmd.submit")
        first = await gateway.append(submit, event("submit"), fence=subjects.first(submit))
        await (await hearing.wait(1))[0].ack()
        await decider.append(ask(KEY), event("ask"), fence=subjects.decisions(KEY, 0))
        (action,) = await acting.wait(1)
        await worker.append(intent(KEY, "box", "a1"), event("in"), fence=subjects.claim(KEY, "box", "a1"))
        await action.ack()
        await decider.arm(KEY, "wake", 0)
        await (await ticking.wait(1))[0].ack()
        assert ids(await gateway.read(KEY)) == ids(await decider.read(KEY)) == ["submit", "ask", "in"]
        assert await gateway.reserve("cell", b"mine") == b"mine"
        blob = await worker.put_blob(KEY, b"large")
        assert await decider.get_blob(KEY, blob) == b"large"
        found = await worker.get(0, first)
        assert found is not None
        scan = gateway.scan(0, filters=("ev.{shard}.*.*.dec.>", "ev.{shard}.*.*.cmd.submit"))
        async with asyncio.timeout(5):
            assert ids([await anext(scan), await anext(scan)]) == ["submit", "ask"]  # type: ignore[call-overload]
        await scan.aclose()  # type: ignore[attr-defined]
        for collector in (hearing, ticking, acting):
            await collector.close()


async def test_a_forged_decision_is_refused_at_once(ready: NatsProcess) -> None:
    async with log_as(ready, "worker-box") as worker, log_as(ready, "decider") as decider:
        await decider.begin(KEY)
        with Awake() as awake:
            for fence in (None, subjects.decisions(KEY, 0)):
                with pytest.raises(LogForbidden, match=r"worker-box may not publish to ev\.0\..*dec\.note"):
                    await worker.append(note(KEY), event(), fence=fence)
            # What it may do goes on working, whatever is refused beside it.
            refused = asyncio.create_task(worker.append(note(KEY), event()))
            await worker.append(intent(KEY, "box", "a1"), event("mine"))
            with pytest.raises(LogForbidden):
                await refused
            with pytest.raises(LogForbidden):
                await worker.append(intent(KEY, "other", "a1"), event())
            with pytest.raises(LogForbidden):
                await worker.arm(KEY, "wake", 0)
            with pytest.raises(LogForbidden):
                await worker.read(KEY)
            with pytest.raises(LogForbidden):
                await anext(worker.consume(consumers.worker("other"), limit=1))
        assert awake.seconds < 1
        assert ids(await decider.read(KEY)) == ["mine"]


async def test_a_wrong_password_or_inbox_is_refused_at_once(ready: NatsProcess) -> None:
    with Awake() as awake:
        with pytest.raises(LogForbidden, match="worker-box"):
            await link_as(ready, "worker-box", password="guess")
        with pytest.raises(LogForbidden, match="worker-box"):
            await link_as(ready, "worker-box", prefix="_INBOX_decider")
    assert awake.seconds < 2
