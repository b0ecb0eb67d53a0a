"""The log over a broker that is killed, stopped or full: what was acknowledged stays, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bus import streams, subjects
from bus.link import Link
from bus.log import NatsLog
from core.ports import Consumer, LogError, LogFull, LogUnavailable, Record, RunKey
from tests.awake import Awake
from tests.contract.bench import Collector, ask, event, ids, note, until
from tests.contract.nats_process import NatsProcess
from tests.processes import states

SHARDS = (0, 1)
HAND = Consumer("hand", ("ev.{shard}.>",))
PINNED = Consumer("pinned", ("ev.{shard}.>",), pinned=True)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsProcess]:
    broker = NatsProcess(tmp_path, "jetstream { sync_interval: always }\n")
    broker.start()
    admin = await Link.connect(broker.url)
    await streams.ensure(admin, shards=SHARDS, consumers=[HAND, PINNED], max_bytes=64 << 20)
    await admin.close()
    yield broker
    broker.stop()


@contextlib.asynccontextmanager
async def connect(broker: NatsProcess, timeout_s: float = 10.0) -> AsyncIterator[NatsLog]:
    log = NatsLog(await Link.connect(broker.url), SHARDS, timeout_s=timeout_s)
    try:
        yield log
    finally:
        await log.close()


async def test_no_acknowledged_event_is_lost_over_kills(broker: NatsProcess) -> None:
    keys = [RunKey(index % 2, "t", f"r{index % 2}-chain{index:03d}") for index in range(4)]
    written: dict[RunKey, list[tuple[int, str]]] = {key: [] for key in keys}
    enough = asyncio.Event()

    async def write(log: NatsLog, key: RunKey) -> None:
        last = 0
        while not enough.is_set():
            one = event()
            last = await log.append(note(key), one, fence=subjects.decisions(key, last))
            written[key].append((last, one.id))

    async with connect(broker) as log, connect(broker) as reader:
        hand = Collector(reader, HAND, limit=50)
        answering = asyncio.create_task(answer_all(hand))
        writing = [asyncio.create_task(write(log, key)) for key in keys]
        for round in range(3):
            target = {key: len(events) + 20 for key, events in written.items()}
            await until(lambda target=target: all(len(written[k]) >= n for k, n in target.items()), 20)
            broker.kill()
            if round == 1:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), 0.5)
            broker.start()
        target = {key: len(events) + 20 for key, events in written.items()}
        await until(lambda: all(len(written[k]) >= n for k, n in target.items()), 20)
        enough.set()
        await asyncio.gather(*writing)

        for key in keys:
            records = await log.read(key)
            assert [(record.sequence, record.event.id) for record in records if record.event] == written[key]
        wanted = {(key, sequence) for key in keys for sequence, _ in written[key]}
        await until(lambda: {(d.key, d.record.sequence) for d in hand.taken if d.record} == wanted, 15)
        answering.cancel()
        await hand.close()


async def answer_all(hand: Collector) -> None:
    answered = 0
    while True:
        while answered < len(hand.taken):
            await hand.taken[answered].ack()
            answered += 1
        await asyncio.sleep(0.005)


async def test_following_goes_on_over_a_restart(broker: NatsProcess) -> None:
    key = RunKey(0, "t", "r0-followed")
    seen: list[Record] = []

    async def watch(log: NatsLog) -> None:
        async for record in log.follow(key):
            seen.append(record)

    async with connect(broker) as log:
        watching = asyncio.create_task(watch(log))
        written = [event() for _ in range(9)]
        for index, one in enumerate(written):
            await log.append(ask(key), one)
            if index in (2, 5):
                await until(lambda index=index: len(seen) == index + 1)
                broker.kill()
                broker.start()
        await until(lambda: len(seen) == len(written), 10)
        assert ids(seen) == [one.id for one in written]
        watching.cancel()


async def test_a_pinned_consumer_goes_on_over_a_restart(broker: NatsProcess) -> None:
    key = RunKey(0, "t", "r0-pinned")
    async with connect(broker) as log:
        hand = Collector(log, PINNED)
        for index in range(4):
            await log.append(note(key), event())
            await hand.wait(index + 1, timeout_s=8)
            await hand.taken[-1].ack()
            broker.kill()
            broker.start()
        await hand.close()


async def test_a_broker_that_hangs_is_noticed(broker: NatsProcess) -> None:
    key = RunKey(0, "t", "r0-hanging")
    async with connect(broker, timeout_s=1.0) as log:
        await log.append(note(key), event())
        os.kill(broker.pid, signal.SIGSTOP)
        # A thread on the other core goes on for a moment, and could still answer.
        await until(lambda: states(broker.pid) == {"T"}, 5)
        try:
            with Awake() as awake:
                with pytest.raises(LogUnavailable):
                    await log.append(note(key), event())
                await until(lambda: not log.link.connected.is_set(), 5)
            assert awake.seconds < 4
            with pytest.raises(LogUnavailable):
                await log.read(key)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await asyncio.wait_for(log.link.connected.wait(), 5)
        await log.append(note(key), event())


async def test_a_connection_that_the_client_gave_up_is_made_anew(broker: NatsProcess) -> None:
    key = RunKey(0, "t", "r0-revived")
    async with connect(broker) as log:
        hand = Collector(log, HAND)
        await log.append(note(key), event())
        await hand.wait(1)
        # As the client does where the broker sends an error that it does not know.
        await log.link._client.close()
        await log.append(note(key), event())
        await hand.wait(2)
        await hand.close()


async def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    broker = NatsProcess(tmp_path)
    broker.start()
    url = broker.url
    broker.stop()
    with Awake() as awake, pytest.raises(LogUnavailable, match="is it running"):
        await Link.connect(url, timeout_s=0.5)
    assert awake.seconds < 2


async def test_a_full_stream_refuses_and_keeps_what_it_has(broker: NatsProcess) -> None:
    admin = await Link.connect(broker.url)
    await streams.ensure(admin, shards=[7], consumers=[], max_bytes=256 * 1024)
    await admin.close()
    key = RunKey(7, "t", "r7-full")
    large = event()
    large.writer = "x" * 10_000
    written = 0
    async with connect(broker) as log:
        refused: LogFull | None = None
        while refused is None and written < 100:
            large.id = f"e{written}"
            try:
                await log.append(note(key), large)
                written += 1
            except LogFull as error:
                refused = error
        assert "room" in str(refused)
        assert ids(await log.read(key)) == [f"e{index}" for index in range(written)]


async def test_setting_up_again_changes_nothing(broker: NatsProcess) -> None:
    admin = await Link.connect(broker.url)
    before = [await admin.call(f"STREAM.INFO.EV_{shard}", {}) for shard in SHARDS]
    await streams.ensure(admin, shards=SHARDS, consumers=[HAND, PINNED], max_bytes=64 << 20)
    after = [await admin.call(f"STREAM.INFO.EV_{shard}", {}) for shard in SHARDS]
    assert [info["config"] for info in before] == [info["config"] for info in after]
    for field in ("deny_delete", "deny_purge"):
        assert before[0]["config"][field] is True
    for field in ("allow_rollup_hdrs", "allow_msg_schedules", "allow_msg_ttl", "allow_direct"):
        assert not before[0]["config"].get(field)
    assert (before[0]["config"]["discard"], before[0]["config"]["storage"]) == ("new", "file")

    # More room, and a consumer that waits longer, are taken over.
    slower = replace(HAND, ack_wait_s=9.0)
    await streams.ensure(admin, shards=SHARDS, consumers=[slower], max_bytes=65 << 20)
    info = await admin.call("CONSUMER.INFO.EV_0.hand", {})
    assert info["config"]["ack_wait"] == 9_000_000_000
    assert (await admin.call("STREAM.INFO.EV_0", {}))["config"]["max_bytes"] == 65 << 20
    await admin.close()


async def test_a_stream_that_endangers_the_promises_is_refused(broker: NatsProcess) -> None:
    admin = await Link.connect(broker.url)
    config = {"name": "EV_9", "subjects": ["ev.9.>"], "storage": "file", "discard": "old", "num_replicas": 1}
    await admin.call("STREAM.CREATE.EV_9", config)
    with pytest.raises(LogError, match="EV_9 has discard='old'"):
        await streams.ensure(admin, shards=[9], consumers=[])
    await admin.close()


async def test_reading_leaves_no_consumer_behind(broker: NatsProcess) -> None:
    key = RunKey(0, "t", "r0-clean")
    async with connect(broker) as log:
        await log.append(note(key), event())
        await log.read(key)
        async with contextlib.aclosing(log.follow(key)) as records:  # type: ignore[type-var]
            await anext(records)
        async with asyncio.timeout(5):
            while sorted((await log.link.call("CONSUMER.NAMES.EV_0", {}))["consumers"]) != ["hand", "pinned"]:
                await asyncio.sleep(0.01)


async def test_who_listens_hears_after_the_connection_was_lost_too(broker: NatsProcess) -> None:
    async def heard() -> None:
        for number in range(1_000):
            run = RunKey(0, "t", f"r0-{how}{number:06}")
            await log.begin(run)
            await asyncio.sleep(0.01)
            if run in listener.keys._heard:
                return
        raise AssertionError(f"nothing was heard {how}")

    async with connect(broker) as log, connect(broker) as listener:
        await listener.listen()
        how = "before"
        await heard()
        broker.kill()
        broker.start()
        how = "restarted"
        await heard()
        # As after an error of the broker that the client does not know: it gives up, and the link does not.
        await listener.link._client.close()
        how = "revived"
        await heard()


async def test_a_stream_of_before_tells_of_keys_when_it_has_been_met_again(broker: NatsProcess) -> None:
    async with connect(broker) as log, connect(broker) as listener:
        info = await log.link.call("STREAM.INFO.KEY", {})
        before = {name: value for name, value in info["config"].items() if name != "republish"}
        await log.link.call("STREAM.UPDATE.KEY", before)
        await listener.listen()
        await listener.link.request("$JS.API.INFO")
        await log.begin(RunKey(0, "t", "r0-before00"))
        await streams.ensure(log.link, shards=SHARDS, consumers=[], max_bytes=64 << 20)
        await log.begin(RunKey(0, "t", "r0-after000"))
        await until(lambda: [*listener.keys._heard] == [RunKey(0, "t", "r0-after000")], 5)
