"""The keys of runs: made once, deleted for good, and without them nothing can be read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bus import subjects
from core.ports import LogError, RunForgotten
from handrail.cipher import is_encrypted
from tests.contract.bench import Bench, ask, event, note


async def test_what_is_written_is_encrypted_and_bound_to_its_place(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    await log.append(note(key), event("one"))
    await log.append(ask(key), event("two"))
    stream = subjects.ev_stream(key.shard)
    stored = await log.store.first(stream, subjects.run_filter(key))
    assert is_encrypted(stored.data)
    assert b"one" not in stored.data
    # What was written elsewhere in the run is no event here.
    await log.store.publish(stream, subjects.build(ask(key, "other")), stored.data)
    assert [record.event and record.event.id for record in await log.read(key)] == ["one", "two", None]


async def test_all_who_begin_a_run_at_once_have_one_key(bench: Bench) -> None:
    key, logs = bench.key(), [await bench.log() for _ in range(4)]
    await asyncio.gather(*(log.begin(key) for log in logs))
    assert len({await log.key_of(key) for log in logs}) == 1
    # And with answers that were lost on the way.
    assert await logs[0].key_of(bench.key()) is None


async def test_an_erased_key_is_gone_for_everybody_and_for_good(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    blob = await log.put_blob(key, b"large")
    await log.append(note(key), event("one"))
    assert await other.get_blob(key, blob) == b"large"
    await log.erase(key)
    await log.erase(key)
    for reader in (log, await bench.log()):
        (record,) = await reader.read(key)
        assert (record.event, record.forgotten) == (None, True)
        with pytest.raises(RunForgotten):
            await reader.key_of(key)
        with pytest.raises(RunForgotten):
            await reader.append(note(key), event())
        with pytest.raises(RunForgotten):
            await reader.get_blob(key, blob)
        with pytest.raises(RunForgotten):
            await reader.begin(key)
    # Who has read in the run before, hears of it with the note at the latest.
    await log.append(note(key, "forgotten"), event("left"))
    assert [record.event.id for record in await other.read(key) if record.event][-1] == "left"
    assert [record.forgotten for record in await other.read(key)] == [True, False]


async def test_a_key_that_is_made_anew_while_one_is_erased_is_erased_as_well(bench: Bench) -> None:
    log, other, key = await bench.log(), await bench.log(), bench.key()
    await log.append(note(key), event("one"))
    store = log.store

    class Meanwhile:
        """A store at which somebody else is quicker, once."""

        erased = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def erase(self, stream: str, sequence: int) -> None:
            await store.erase(stream, sequence)
            self.erased += 1
            if self.erased == 1:
                await other.begin(key)

    slow = Meanwhile()
    log.keys._store = slow
    await log.erase(key)
    assert slow.erased == 2
    for reader in (log, other, await bench.log()):
        with pytest.raises(RunForgotten):
            await reader.key_of(key)


async def test_nobody_writes_a_key_over_another(bench: Bench) -> None:
    log, key = await bench.log(), bench.key()
    await log.begin(key)
    made = await log.key_of(key)
    if bench.memory is None:
        with pytest.raises(LogError):
            await log.store.publish(subjects.KEY_STREAM, subjects.key_cell(key), bytes(32))
    assert await log.key_of(key) == made


async def test_a_damaged_key_reads_nothing_and_stops_nobody(bench: Bench) -> None:
    log, key, sound = await bench.log(), bench.key(), bench.key()
    await log.append(note(key), event("one"))
    await log.append(note(sound), event("two"))
    cell = await log.store.only(subjects.KEY_STREAM, subjects.key_cell(key))
    await log.store.erase(subjects.KEY_STREAM, cell.sequence)
    await log.store.publish(subjects.KEY_STREAM, subjects.key_cell(key), b"short")
    fresh = await bench.log()
    assert [record.event for record in await fresh.read(key)] == [None]
    assert [record.forgotten for record in await fresh.read(key)] == [False]
    with pytest.raises(LogError, match="damaged"):
        await fresh.append(note(key), event())
    assert [record.event.id for record in await fresh.read(sound)] == ["two"]


async def test_who_listens_need_not_ask(bench: Bench) -> None:
    if bench.memory is not None:
        pytest.skip("there is nothing to be asked over a wire")
    log, key, other = await bench.log(), bench.key(), await bench.log()
    await other.listen()
    asked = other.store.only

    async def nobody(stream: str, subject: str) -> Any:
        raise AssertionError(f"{subject} was asked for")

    other.store.only = nobody
    # Begun until it is heard: the subscription may still be on its way.
    while not other.keys._heard:
        await log.begin(key := bench.key())
        await asyncio.sleep(0.01)
    await log.append(note(key), event("one"))
    assert [record.event.id for record in await other.read(key)] == ["one"]
    await other.append(ask(key), event("two"))
    assert [record.event.id for record in await log.read(key)] == ["one", "two"]
    other.store.only = asked
    await log.erase(key)
    while (await other.read(key))[0].event is not None:
        await asyncio.sleep(0.01)
