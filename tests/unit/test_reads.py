"""Reads of runs that are made together: how many there are, and that no run keeps or fails another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from bus.memory import MemoryBroker, MemoryLog
from core.ports import LogError, Record, RunKey
from orchestrator.reads import MAX_TOGETHER, Reads


def keys(count: int, shard: int = 0) -> list[RunKey]:
    return [RunKey(shard, "default", f"r{shard}-{i:010}") for i in range(count)]


class Slow(MemoryLog):
    """A log whose reads wait until they are let go, and that cannot read some runs."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.asked: list[list[RunKey]] = []
        self.go = asyncio.Event()
        self.held: set[int] = {0, 1}
        self.bad: set[RunKey] = set()

    async def read_runs(self, keys: Iterable[RunKey]) -> dict[RunKey, list[Record]]:
        wanted = list(keys)
        self.asked.append(wanted)
        if wanted[0].shard in self.held:
            await self.go.wait()
        if self.bad.intersection(wanted):
            raise LogError("one of them cannot be read")
        return {key: [] for key in wanted}

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        return (await self.read_runs([key]))[key]


async def begun(log: Slow, count: int) -> None:
    async with asyncio.timeout(5):
        while len(log.asked) < count:
            await asyncio.sleep(0)


def start(reads: Reads, wanted: list[RunKey]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(reads.read(key)) for key in wanted]


async def test_who_is_alone_is_read_at_once_and_who_comes_meanwhile_after_it_together() -> None:
    log = Slow()
    reads = Reads(log)
    first, *rest = keys(MAX_TOGETHER + 1)
    tasks = start(reads, [first])
    await begun(log, 1)
    tasks += start(reads, rest)
    await asyncio.sleep(0)
    log.go.set()
    await asyncio.gather(*tasks)
    assert log.asked == [[first], rest]


async def test_no_read_is_of_more_than_so_many_runs() -> None:
    log = Slow()
    log.go.set()
    wanted = keys(3 * MAX_TOGETHER + 1)
    await asyncio.gather(*start(Reads(log), wanted))
    assert [len(one) for one in log.asked] == [MAX_TOGETHER] * 3 + [1]
    assert [key for one in log.asked for key in one] == wanted


async def test_a_slow_shard_keeps_no_other_waiting() -> None:
    log = Slow()
    log.held = {0}
    reads = Reads(log)
    waiting = start(reads, keys(3))
    await asyncio.gather(*start(reads, keys(3, shard=1)))
    assert not any(task.done() for task in waiting)
    log.go.set()
    await asyncio.gather(*waiting)


async def test_a_run_that_cannot_be_read_fails_alone() -> None:
    log = Slow()
    log.go.set()
    wanted = keys(5)
    log.bad = {wanted[2]}
    found = await asyncio.gather(*start(Reads(log), wanted), return_exceptions=True)
    assert [isinstance(one, LogError) for one in found] == [False, False, True, False, False]


async def test_who_gives_up_ends_the_read_for_nobody_else() -> None:
    log = Slow()
    one, other = start(Reads(log), keys(2))
    await begun(log, 1)
    one.cancel()
    await asyncio.wait([one])
    log.go.set()
    assert await other == []


async def test_closing_ends_what_is_read() -> None:
    log = Slow()
    reads = Reads(log)
    tasks = start(reads, keys(2))
    await begun(log, 1)
    reads.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in found)


@pytest.mark.parametrize("wave", range(2))
async def test_nothing_is_kept_of_what_was_read(wave: int) -> None:
    log = Slow()
    log.go.set()
    reads = Reads(log)
    for _ in range(wave + 1):
        await asyncio.gather(*start(reads, keys(3)))
        await asyncio.sleep(0)
    assert not reads._next
    assert not reads._tasks
