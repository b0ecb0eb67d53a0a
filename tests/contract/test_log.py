"""The contract of `core.ports.Log`, checked against the log on NATS and its twin in memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from bus import blobs, intake, subjects
from bus.streams import PIN_TIMEOUT_S
from core.ports import Address, Consumer, FenceLost, LogError, LogUnavailable, Record
from handrail.v1 import plan_pb2
from tests.awake import Awake
from tests.contract.bench import Bench, Collector, LossyStore, ask, event, ids, intent, note, until

ACK_WAIT_S = 0.6
SOON_S = 0.2
ATTEMPTS = 3
Test = Callable[[Bench], Awaitable[None]]


def quick(bench: Bench, rest: str = ">", *, pinned: bool = False) -> Consumer:
    return Consumer("hand", bench.filters(rest), ack_wait_s=ACK_WAIT_S, pinned=pinned)


def ticking(bench: Bench) -> Consumer:
    return Consumer("ticking", (f"timer.due.{{shard}}.{bench.tenant}.>",), stream="timer")


def again_after_a_pause(longer_than_s: float) -> Callable[[Test], Test]:
    """Run a test again, as another tenant, where it failed and this process had paused for longer.

    For what is lost by whoever is silent for a while, which a process that pauses is, too.
    """

    def wrap(test: Test) -> Test:
        @functools.wraps(test)
        async def attempts(bench: Bench) -> None:
            for attempt in range(1, ATTEMPTS + 1):
                awake = Awake()
                try:
                    async with awake:
                        return await test(replace(bench, tenant=f"t{uuid4().hex[:10]}"))
                except AssertionError:
                    if awake.longest_s <= longer_than_s or attempt == ATTEMPTS:
                        raise

        return attempts

    return wrap


# --- appends, fences, reads ----------------------------------------------------------------------


async def test_reads_what_was_appended_in_order(bench: Bench) -> None:
    log, key, other = await bench.log(), bench.key(), bench.key()
    written = [event() for _ in range(20)]
    sequences = [await log.append(note(key), one) for one in written]
    await log.append(note(other), event())

    records = await log.read(key)
    assert ids(records) == [one.id for one in written]
    assert [record.sequence for record in records] == sequences == sorted(sequences)
    assert records[0].address == note(key)
    assert abs(records[0].time_ns - time.time_ns()) < 60e9
    assert ids(await log.read(key, after=sequences[14])) == [one.id for one in written[15:]]
    assert await log.read(key, after=sequences[-1]) == []
    assert await log.read(bench.key()) == []


async def test_the_backlog_is_what_is_not_answered(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    consumer = await bench.make(quick(bench, "*.dec.>"))
    assert await log.backlog(consumer) == 0
    for _ in range(3):
        await log.append(note(key), event())
    await log.append(note(bench.key(1)), event())
    await log.append(intent(key, "box", "a1"), event())
    assert await log.backlog(consumer) == 4
    collector = Collector(log, consumer)
    taken = await collector.wait(4)
    assert await log.backlog(consumer) == 4
    for delivery in taken[:3]:
        await delivery.ack()
    async with asyncio.timeout(5):
        while await log.backlog(consumer) != 1:
            await asyncio.sleep(0.01)
    await collector.close()


async def test_a_trace_context_travels_beside_an_event(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    consumer = await bench.make(quick(bench))
    first = await log.append(ask(key), event(), trace=trace)
    second = await log.append(note(key), event(), fence=subjects.decisions(key, first), trace=trace)
    third = await log.append(intent(key, "box", "a1"), event())

    assert [record.trace for record in await log.read(key)] == [trace, trace, ""]
    assert [(await log.get(key.shard, at)).trace for at in (first, second, third)] == [trace, trace, ""]
    last = await log.last(key.shard, f"{subjects.ev_prefix(key)}.dec.>")
    assert last.trace == trace
    collector = Collector(log, consumer)
    assert [delivery.record.trace for delivery in await collector.wait(3)] == [trace, trace, ""]
    await collector.close()
    async with contextlib.aclosing(log.follow(key)) as follow:
        assert [(await anext(follow)).trace for _ in range(3)] == [trace, trace, ""]


async def test_reads_more_than_a_batch(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    sequences = await asyncio.gather(*(log.append(note(key), event()) for _ in range(1_200)))
    records = await log.read(key)
    assert [record.sequence for record in records] == sorted(sequences)


async def test_reads_several_runs_at_once(bench: Bench) -> None:
    log = await bench.log()
    keys = [bench.key(shard) for shard in (*log.shards, *log.shards)]
    for number in range(3):
        for key in keys:
            await log.append(note(key), event(f"{key.run}-{number}"))
    empty = bench.key()
    asked = [*keys[1:], empty]
    found = await log.read_runs(asked)
    assert found == {key: await log.read(key) for key in asked}
    assert [len(found[key]) for key in asked] == [3] * len(keys[1:]) + [0]
    assert await log.read_runs([]) == {}


async def test_finds_single_records(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    first = await log.append(note(key), event("one"))
    second = await log.append(ask(key), event("two"))

    last = await log.last(key.shard, f"{subjects.ev_prefix(key)}.dec.>")
    assert last is not None
    assert (last.sequence, last.event.id) == (second, "two")
    assert await log.last(key.shard, subjects.run_filter(bench.key())) is None
    got = await log.get(key.shard, first)
    assert got is not None
    assert [got, last] == await log.read(key)
    assert await log.get(key.shard, 10**9) is None


async def test_decisions_are_fenced(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    first = await log.append(note(key), event(), fence=subjects.decisions(key, 0))
    # Facts do not break a decision's fence.
    await log.append(intent(key, "box", "a1"), event())
    second = await log.append(ask(key), event(), fence=subjects.decisions(key, first))

    with pytest.raises(FenceLost):
        await log.append(note(key), event(), fence=subjects.decisions(key, first))
    assert second == (await log.read(key))[-1].sequence


async def test_one_of_twenty_claims_wins(bench: Bench) -> None:
    logs, key = [await bench.log() for _ in range(4)], bench.key()

    async def claim(index: int) -> bool:
        address = intent(key, "box", "a1")
        if index % 2:
            address = subjects.parse(f"{subjects.ev_prefix(key)}.dec.claim.box.revoke.a1")
        try:
            await logs[index % 4].append(address, event(), fence=subjects.claim(key, "box", "a1"))
        except FenceLost:
            return False
        return True

    won = await asyncio.gather(*(claim(index) for index in range(20)))
    assert sum(won) == 1
    assert len(await logs[0].read(key)) == 1
    await logs[0].append(intent(key, "box", "a2"), event(), fence=subjects.claim(key, "box", "a2"))


async def test_a_fenced_append_with_a_lost_answer_finds_itself(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    log.store = store = LossyStore(log.store)
    store.lose_after = 1
    mine = event()

    async def write_behind_it() -> None:
        last = await other.last(key.shard, subjects.run_filter(key))
        await other.append(note(key), event(), fence=subjects.decisions(key, last.sequence))

    store.meanwhile = write_behind_it
    sequence = await log.append(note(key), mine, fence=subjects.decisions(key, 0))
    records = await log.read(key)
    assert (records[0].sequence, records[0].event.id, len(records)) == (sequence, mine.id, 2)


@pytest.mark.parametrize("last", ["decision", "answer", "command"])
async def test_a_run_is_fenced_against_all_that_is_said_in_it(bench: Bench, last: str) -> None:
    log, key, other = await bench.log(), bench.key(), bench.key()
    said = {
        "decision": ask(key),
        "answer": intent(key, "box", "a1"),
        "command": Address(key, "cmd", ("pause",)),
    }
    first = await log.append(note(key), event(), fence=subjects.everything(key, 0))
    # What is said in another run does not break it.
    await log.append(note(other), event())
    second = await log.append(said[last], event())
    with pytest.raises(FenceLost):
        await log.append(ask(key), event(), fence=subjects.everything(key, first))
    assert (await log.read(key))[-1].sequence == second
    third = await log.append(ask(key), event(), fence=subjects.everything(key, second))
    assert third == (await log.read(key))[-1].sequence


async def test_a_lost_answer_finds_itself_before_a_fact_that_came_behind_it(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    await other.append(intent(key, "box", "a1"), event())
    first = (await log.read(key))[-1].sequence
    log.store = store = LossyStore(log.store)
    store.lose_after = 1

    async def answer() -> None:
        await other.append(intent(key, "box", "a2"), event())

    store.meanwhile, mine = answer, event()
    sequence = await log.append(note(key), mine, fence=subjects.everything(key, first))
    records = await log.read(key)
    assert len(records) == 3
    assert (records[1].sequence, records[1].event.id) == (sequence, mine.id)


async def test_a_lost_answer_does_not_hide_a_fact_that_came_first(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    first = await other.append(note(key), event())
    await other.append(intent(key, "box", "a1"), event())
    log.store = store = LossyStore(log.store)
    store.lose_before = 1
    with pytest.raises(FenceLost):
        await log.append(note(key), event(), fence=subjects.everything(key, first))
    assert len(await log.read(key)) == 2


async def test_a_fenced_append_that_never_arrived_is_sent_again(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    log.store = store = LossyStore(log.store)
    store.lose_before = 3
    await log.append(note(key), event(), fence=subjects.decisions(key, 0))
    assert len(await log.read(key)) == 1


async def test_a_lost_answer_does_not_hide_a_foreign_event(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    await other.append(note(key), event(), fence=subjects.decisions(key, 0))
    log.store = store = LossyStore(log.store)
    store.lose_before = 1
    with pytest.raises(FenceLost):
        await log.append(note(key), event(), fence=subjects.decisions(key, 0))


async def test_an_unfenced_append_with_a_lost_answer_is_written_at_least_once(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    log.store = store = LossyStore(log.store)
    store.lose_after = 2
    mine = event()
    await log.append(note(key), mine)
    assert set(ids(await log.read(key))) == {mine.id}


async def test_patience_ends(bench: Bench) -> None:
    log, key = await bench.log(timeout_s=0.2), bench.key()
    log.store = store = LossyStore(log.store)
    store.lose_before = 10**6
    for fence in (None, subjects.decisions(key, 0)):
        with pytest.raises(LogUnavailable):
            await log.append(note(key), event(), fence=fence)


async def test_an_event_that_is_too_large_is_refused(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    large = event()
    large.writer = "x" * 1_100_000
    with pytest.raises(LogError, match="blobs"):
        await log.append(note(key), large)
    assert await log.read(key) == []


async def test_what_cannot_be_decoded_is_a_record_without_event(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    hand = Collector(log, await bench.make(quick(bench)))
    deep = b"\x0a\x02"
    for garbage in (b"\xff\xff\xff", deep):
        await log.store.publish(subjects.ev_stream(key.shard), subjects.build(note(key)), garbage)
    records = await log.read(key)
    assert [record.event for record in records] == [None, None]
    delivered = await hand.wait(2)
    assert [d.record.event for d in delivered if d.record] == [None, None]
    await hand.close()


# --- following -----------------------------------------------------------------------------------


async def test_follows_what_was_and_what_comes(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    written = [event() for _ in range(6)]
    for one in written[:3]:
        await log.append(note(key), one)

    seen: list[Record] = []
    caught_up = asyncio.Event()

    async def watch() -> None:
        async with contextlib.aclosing(log.follow(key, after=0)) as records:
            async for record in records:
                seen.append(record)
                if len(seen) == 3:
                    caught_up.set()
                if len(seen) == 6:
                    return

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(5):
        await caught_up.wait()
        await log.append(note(bench.key()), event())
        for one in written[3:]:
            await log.append(note(key), one)
        await watching
    assert ids(seen) == [one.id for one in written]


async def test_scans_a_shard_by_several_patterns(bench: Bench) -> None:
    log, one, two = await bench.log(), bench.key(1), bench.key(1)
    await log.append(note(one, "accepted"), event("a"))
    await log.append(ask(one), event("x"))
    await log.append(note(two, "finished"), event("b"))
    filters = (*bench.filters("*.dec.note.accepted"), *bench.filters("*.dec.note.finished"))
    seen: list[str] = []

    async def watch() -> None:
        async with contextlib.aclosing(log.scan(1, filters=filters)) as records:
            async for record in records:
                seen.append(record.event.id)
                if len(seen) == 3:
                    return

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(5):
        await until(lambda: len(seen) == 2)
        await log.append(note(one, "finished"), event("c"))
        await watching
    assert seen == ["a", "b", "c"]


async def test_a_closed_log_says_so_at_once(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    await log.append(note(key), event())
    records = log.follow(key)
    await anext(records)
    waiting = asyncio.create_task(anext(records))
    await asyncio.sleep(0.05)
    await log.close()
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(waiting, 2)
    if bench.kind == "nats":
        async with Awake() as awake:
            with pytest.raises(LogUnavailable):
                await log.append(note(key), event())
            with pytest.raises(LogUnavailable):
                await log.read(key)
        assert awake.seconds < 1


# --- consuming -----------------------------------------------------------------------------------


@again_after_a_pause(ACK_WAIT_S / 2)
async def test_delivers_of_all_shards_until_acknowledged(bench: Bench) -> None:
    log = await bench.log()
    consumer = await bench.make(quick(bench))
    hand = Collector(log, consumer)
    keys = [bench.key(0), bench.key(1)]
    for key in keys:
        await log.append(note(key), event())
    for delivery in await hand.wait(2):
        assert delivery.deliveries == 1
        await delivery.ack()
    assert {delivery.key for delivery in hand.taken} == set(keys)
    await asyncio.sleep(ACK_WAIT_S + SOON_S)
    assert len(hand.taken) == 2
    await hand.close()


async def test_delivers_again_after_the_ack_wait(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    hand = Collector(log, await bench.make(quick(bench)))
    await log.append(note(key), event())
    first, second = await hand.wait(2)
    assert (first.deliveries, second.deliveries) == (1, 2)
    assert first.record == second.record
    assert first.time_ns == first.record.time_ns
    await second.ack()
    await hand.close()


@again_after_a_pause(ACK_WAIT_S / 2)
async def test_progress_holds_a_redelivery_off(bench: Bench) -> None:
    log = await bench.log()
    hand = Collector(log, await bench.make(quick(bench)))
    await log.append(note(bench.key()), event())
    (delivery,) = await hand.wait(1)
    for _ in range(8):
        await asyncio.sleep(ACK_WAIT_S / 4)
        await delivery.progress()
    assert len(hand.taken) == 1
    await hand.wait(2)
    await hand.close()


async def test_a_nak_delivers_again_after_its_delay(bench: Bench) -> None:
    log = await bench.log()
    hand = Collector(log, await bench.make(Consumer("hand", bench.filters(), ack_wait_s=30.0)))
    await log.append(note(bench.key()), event())
    (delivery,) = await hand.wait(1)
    begun = time.monotonic()
    async with Awake() as awake:
        await delivery.nak(0.3)
        await hand.wait(2)
    assert time.monotonic() - begun > 0.2
    assert awake.seconds < 0.3 + ACK_WAIT_S
    async with Awake() as awake:
        await hand.taken[1].nak()
        await hand.wait(3)
    assert awake.seconds < ACK_WAIT_S
    await hand.taken[2].ack()
    await hand.close()


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_no_more_than_the_limit_is_unanswered(bench: Bench, limit: int) -> None:
    log = await bench.log()
    consumer = await bench.make(Consumer("slow", bench.filters(), ack_wait_s=30.0))
    keys = [bench.key(index % 2) for index in range(20)]
    await asyncio.gather(*(log.append(note(key), event()) for key in keys))
    hand = Collector(log, consumer, limit)
    await hand.wait(limit)
    await asyncio.sleep(SOON_S)
    assert len(hand.taken) == limit
    answered = 0
    while answered < len(keys):
        await hand.wait(answered + 1)
        assert len(hand.taken) - answered <= limit
        await hand.taken[answered].ack()
        answered += 1
    assert {d.key for d in hand.taken} == set(keys)
    await hand.close()


async def test_no_shard_starves(bench: Bench) -> None:
    log = await bench.log()
    consumer = await bench.make(Consumer("fair", bench.filters(), ack_wait_s=30.0))
    await asyncio.gather(*(log.append(note(bench.key(index % 2)), event()) for index in range(40)))
    hand = Collector(log, consumer, limit=1)
    for index in range(20):
        await (await hand.wait(index + 1))[index].ack()
    shards = [delivery.key.shard for delivery in hand.taken[:20]]
    assert 5 <= sum(shards) <= 15
    await hand.close()


async def test_two_clients_share_a_consumer(bench: Bench) -> None:
    logs = [await bench.log(), await bench.log()]
    consumer = await bench.make(Consumer("share", bench.filters(), ack_wait_s=30.0))
    hands = [Collector(log, consumer, limit=4) for log in logs]
    keys = [bench.key() for _ in range(8)]
    await asyncio.gather(*(logs[0].append(note(key), event()) for key in keys))
    # Neither can hold more than four, so both must take their part; nobody answers meanwhile.
    await hands[0].wait(4)
    await hands[1].wait(4)
    taken = [delivery.key for hand in hands for delivery in hand.taken]
    assert sorted(key.run for key in taken) == sorted(key.run for key in keys)
    for hand in hands:
        await hand.close()


def endless_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes at all has not waited for a pull to end."""
    monkeypatch.setattr(intake, "PULL_EXPIRES_S", 60.0)


async def test_what_comes_beyond_the_credit_costs_no_shard_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulls that stand open on two shards can bring more than there is room for; that is put back."""
    endless_pulls(monkeypatch)
    log = await bench.log()
    consumer = await bench.make(Consumer("beyond", bench.filters(), ack_wait_s=30.0))
    hand = Collector(log, consumer, limit=8)
    for _ in range(6):
        # Uneven bursts, each held until as many are here as there is room for.
        first = len(hand.taken)
        await asyncio.gather(*(log.append(note(bench.key(i % 3 // 2)), event()) for i in range(9)))
        await hand.wait(first + 8)
        for delivery in hand.taken[first : first + 8]:
            await delivery.ack()
        await hand.wait(first + 9)
        await hand.taken[first + 8].ack()
    await hand.close()


async def test_a_full_client_leaves_the_rest_to_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    endless_pulls(monkeypatch)
    logs = [await bench.log(), await bench.log()]
    consumer = await bench.make(Consumer("full", bench.filters(), ack_wait_s=30.0))
    full = Collector(logs[0], consumer, limit=1)
    await logs[0].append(note(bench.key()), event())
    await full.wait(1)
    free = Collector(logs[1], consumer, limit=50)
    for index in range(10):
        await logs[0].append(note(bench.key(index % 2)), event())
    await free.wait(10)
    assert len(full.taken) == 1
    await full.close()
    await free.close()


async def test_closing_hands_back_what_nobody_took(bench: Bench) -> None:
    logs = [await bench.log(), await bench.log()]
    consumer = await bench.make(Consumer("leave", bench.filters(), ack_wait_s=30.0))
    for _ in range(5):
        await logs[0].append(note(bench.key()), event())
    deliveries = logs[0].consume(consumer, limit=5)
    async with asyncio.timeout(5):
        await anext(deliveries)
        await deliveries.aclose()
    other = Collector(logs[1], consumer)
    await other.wait(4)
    await asyncio.sleep(SOON_S)
    assert len(other.taken) == 4
    await other.close()


async def test_closing_the_log_ends_the_iteration(bench: Bench) -> None:
    log = await bench.log()
    consumer = await bench.make(quick(bench))
    ended = asyncio.create_task(anext(log.consume(consumer, limit=1), None))
    await asyncio.sleep(0.05)
    await log.close()
    assert await asyncio.wait_for(ended, 5) is None


@again_after_a_pause(PIN_TIMEOUT_S / 4)
async def test_a_pinned_consumer_has_one_client_until_it_stops(bench: Bench) -> None:
    logs = [await bench.log(), await bench.log()]
    consumer = await bench.make(quick(bench, pinned=True))
    first = Collector(logs[0], consumer)
    key = bench.key()
    await logs[0].append(note(key), event())
    await (await first.wait(1))[0].ack()
    second = Collector(logs[1], consumer)
    for index in range(10):
        await logs[0].append(note(key), event())
        await (await first.wait(index + 2))[-1].ack()
    # A quiet time does not move it.
    await asyncio.sleep(2.5)
    await logs[0].append(note(key), event())
    await (await first.wait(12))[-1].ack()
    assert second.taken == []

    await first.close()
    begun = time.monotonic()
    await logs[0].append(note(key), event())
    await (await second.wait(1))[0].ack()
    assert time.monotonic() - begun < 4
    await second.close()


@again_after_a_pause(PIN_TIMEOUT_S / 4)
async def test_a_full_pinned_client_keeps_its_pin(bench: Bench) -> None:
    logs = [await bench.log(), await bench.log()]
    consumer = await bench.make(Consumer("keep", bench.filters(), ack_wait_s=30.0, pinned=True))
    key = bench.key()
    first = Collector(logs[0], consumer, limit=2)
    await logs[0].append(note(key), event())
    await first.wait(1)
    second = Collector(logs[1], consumer)
    for _ in range(3):
        await logs[0].append(note(key), event())
    await first.wait(2)
    await asyncio.sleep(3)
    assert second.taken == []
    await first.taken[0].ack()
    await first.wait(3)
    await first.close()
    await second.close()


# --- timers, blobs, cells ------------------------------------------------------------------------


@again_after_a_pause(0.4)
async def test_timers_fire_when_due(bench: Bench) -> None:
    log = await bench.log()
    hand = Collector(log, await bench.make(ticking(bench)))
    past, future = bench.key(0), bench.key(1)
    due_ns = time.time_ns() + 900_000_000
    await log.arm(future, "wake", due_ns)
    await log.arm(past, "wake", time.time_ns() - 10**12)
    first, second = await hand.wait(2)
    assert (first.key, first.record) == (past, None)
    assert second.key == future
    assert due_ns <= second.time_ns < due_ns + 1_500_000_000
    for tick in (first, second):
        await tick.ack()
    await hand.close()


@again_after_a_pause(0.2)
async def test_arming_again_moves_a_timer(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    hand = Collector(log, await bench.make(ticking(bench)))
    await log.arm(key, "wake", time.time_ns() + 3_600_000_000_000)
    await log.arm(key, "other", time.time_ns() + 3_600_000_000_000)
    due_ns = time.time_ns() + 400_000_000
    await log.arm(key, "wake", due_ns)
    (tick,) = await hand.wait(1)
    assert tick.time_ns >= due_ns
    await tick.ack()
    # And later: what was to fire soon does not.
    await log.arm(key, "other", time.time_ns() + 500_000_000)
    await log.arm(key, "other", time.time_ns() + 3_600_000_000_000)
    await asyncio.sleep(1.2)
    assert len(hand.taken) == 1
    await hand.close()


@pytest.mark.parametrize("size", [0, 1, blobs.CHUNK_BYTES, 3 * blobs.CHUNK_BYTES + 7])
async def test_blobs_come_back(bench: Bench, size: int) -> None:
    log, key = await bench.log(), bench.key()
    content = bytes(index % 251 for index in range(size))
    blob = await log.put_blob(key, content)
    assert blob.size_bytes == size
    assert await log.put_blob(key, content) == blob
    assert await log.get_blob(key, blob) == content


async def test_a_wrong_blob_is_not_returned(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    blob = await log.put_blob(key, b"right")
    # A second message under the name changes nothing; the first one counts.
    subject = subjects.blob_chunk(key, blob.sha256, 0)
    await log.store.publish(subjects.blob_stream(key.shard), subject, b"wrong")
    assert await log.get_blob(key, blob) == b"right"

    forged = plan_pb2.Blob(sha256="0" * 64, size_bytes=5, chunks=1)
    subject = subjects.blob_chunk(key, forged.sha256, 0)
    await log.store.publish(subjects.blob_stream(key.shard), subject, b"wrong")
    with pytest.raises(LogError, match="digest"):
        await log.get_blob(key, forged)
    with pytest.raises(LogError, match="incomplete"):
        await log.get_blob(bench.key(), blob)
    for odd in (
        plan_pb2.Blob(sha256="x.>", size_bytes=5, chunks=1),
        plan_pb2.Blob(sha256=blob.sha256, size_bytes=5, chunks=10**6),
        plan_pb2.Blob(sha256=blob.sha256, size_bytes=10**12, chunks=1),
    ):
        with pytest.raises(LogError):
            await log.get_blob(key, odd)
    with pytest.raises(LogError, match="limit"):
        await log.put_blob(key, bytes(blobs.MAX_BLOB_BYTES + 1))


async def test_a_cell_holds_what_was_written_first(bench: Bench) -> None:
    logs = [await bench.log(), await bench.log()]
    cell = f"cell-{bench.tenant}"
    contents = [f"content {index}".encode() for index in range(10)]
    answers = await asyncio.gather(
        *(logs[index % 2].reserve(cell, content) for index, content in enumerate(contents))
    )
    assert len(set(answers)) == 1
    assert answers[0] in contents
    assert await logs[0].reserve(cell, b"later") == answers[0]


async def test_a_cell_with_a_lost_answer_still_says_what_it_holds(bench: Bench) -> None:
    log = await bench.log()
    log.store = store = LossyStore(log.store)
    store.lose_after = 1
    assert await log.reserve(f"cell-{bench.tenant}", b"mine") == b"mine"


async def test_fullness_is_a_part_of_the_whole(bench: Bench) -> None:
    log = await bench.log()
    assert 0.0 <= await log.fullness(log.shards[0]) < 0.8
