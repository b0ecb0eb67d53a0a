"""The twin on a clock that stands still: time passes only when it is moved, and then at once."""

from __future__ import annotations

import asyncio

from bus.clock import VirtualClock
from bus.memory import MemoryBroker, MemoryLog
from core.ports import Consumer, RunKey
from tests.contract.bench import Collector, event, note

SECOND_NS = 1_000_000_000
KEY = RunKey(0, "t", "r0-virtual00")
HAND = Consumer("hand", ("ev.{shard}.>",), ack_wait_s=60.0)
TICKS = Consumer("ticks", ("timer.due.{shard}.>",), stream="timer")


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_nothing_happens_before_its_time() -> None:
    clock = VirtualClock(now_ns=1_000 * SECOND_NS)
    log = MemoryLog(MemoryBroker(clock))
    hand, ticks = Collector(log, HAND), Collector(log, TICKS)
    await log.append(note(KEY), event())
    await log.arm(KEY, "wake", 1_000 * SECOND_NS + 3_600 * SECOND_NS)
    await settle()
    assert len(hand.taken) == 1

    clock.advance_to(1_059 * SECOND_NS)
    await settle()
    assert (len(hand.taken), len(ticks.taken)) == (1, 0)

    clock.advance_to(1_060 * SECOND_NS)
    await settle()
    assert [delivery.deliveries for delivery in hand.taken] == [1, 2]
    await hand.taken[1].nak(600.0)
    clock.advance_to(1_700 * SECOND_NS)
    await settle()
    assert len(hand.taken) == 3
    await hand.taken[2].ack()

    clock.advance_to(10_000 * SECOND_NS)
    await settle()
    assert {tick.time_ns for tick in ticks.taken} == {4_600 * SECOND_NS}
    assert len(hand.taken) == 3
    await log.close()


async def test_sleeping_ends_when_the_clock_has_moved() -> None:
    clock = VirtualClock()
    sleeping = asyncio.create_task(clock.sleep(5.0))
    await settle()
    assert clock.next_ns() == 5 * SECOND_NS
    clock.advance_to(4 * SECOND_NS)
    await settle()
    assert not sleeping.done()
    clock.advance_to(5 * SECOND_NS)
    await asyncio.wait_for(sleeping, 1)
    assert clock.next_ns() is None
