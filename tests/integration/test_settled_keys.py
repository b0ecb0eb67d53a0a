"""The broker's keys and the notary's copy at a start, one of which somebody lost, damaged or swapped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus import streams, subjects
from bus.link import Link
from bus.log import NatsLog
from core.ports import Address, RunForgotten, RunKey
from handrail.cipher import new_key
from handrail.keys import PrivateKey, PublicKeys
from handrail.stack.restoring import _salvage_keys
from handrail.v1 import event_pb2
from orchestrator.book import BadBook
from orchestrator.key_copy import KEYS_FILE, KeyCopy, key_in
from orchestrator.notary import Notary
from tests.contract.nats_process import NatsProcess

KEY = PrivateKey.generate()
KEYS = PublicKeys.parse(KEY.public, "the key")
ONE, TWO = (RunKey(0, "acme", f"r0-{number:010}") for number in range(2))


@dataclass
class Stage:
    """Two runs in a log, whose keys the notary has copied."""

    broker: NatsProcess
    link: Link
    book: Path
    keys: dict[RunKey, bytes]

    def log(self) -> NatsLog:
        """Return a log that knows no key yet."""
        return NatsLog(self.link, (0,))

    async def settle(self) -> None:
        """Do what a start does."""
        await Notary(self.link, self.book.parent, "origin", KEY, KEYS, shards=(0,)).settle_keys()

    async def put(self, run: RunKey, key: bytes | None) -> None:
        """Have another key in the broker, or none."""
        store = self.log().store
        cell = await store.only(subjects.KEY_STREAM, subjects.key_cell(run))
        assert cell is not None
        await store.erase(subjects.KEY_STREAM, cell.sequence)
        if key is not None:
            await store.publish(subjects.KEY_STREAM, subjects.key_cell(run), key)

    async def note(self, run: RunKey) -> None:
        """Say that a run was forgotten."""
        event = event_pb2.Event(id="left", version=5, forgotten=event_pb2.Forgotten())
        await self.log().append(Address(run, "dec", ("note", "forgotten")), event)

    async def key(self, run: RunKey) -> bytes | None:
        """Return the key that the broker has; empty where it was deleted."""
        try:
            return await self.log().key_of(run)
        except RunForgotten:
            return b""

    def edit(self, old: bytes, new: bytes) -> None:
        """Edit the copy."""
        path = self.book / KEYS_FILE
        path.write_bytes(path.read_bytes().replace(old, new))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    broker = NatsProcess(tmp_path)
    broker.start()
    link = await Link.connect(broker.url)
    await streams.ensure(link, shards=(0,), consumers=[], max_bytes=64 << 20)
    book = tmp_path / "notary" / "EV_0"
    book.mkdir(parents=True)
    stage, keys = Stage(broker, link, book, {}), dict[RunKey, bytes]()
    for run in (ONE, TWO):
        event = event_pb2.Event(id=run.run, version=5, submit=event_pb2.Submit())
        await stage.log().append(Address(run, "cmd", ("submit",)), event)
        keys[run] = await stage.log().key_of(run) or b""
    stage.keys = keys
    await stage.settle()
    assert dict(KeyCopy(book).kept()) == keys
    yield stage
    await link.close()
    broker.stop()


async def test_what_the_broker_lost_is_back(stage: Stage) -> None:
    await stage.put(ONE, None)
    # And one that somebody deleted without a word in the log.
    await stage.put(TWO, b"")
    await stage.settle()
    assert {run: await stage.key(run) for run in stage.keys} == stage.keys


@pytest.mark.parametrize("left", [None, b""], ids=["nothing", "the empty message"])
async def test_what_was_forgotten_does_not_come_back(stage: Stage, left: bytes | None) -> None:
    # The decider or the broker died between, and the notary has not read of it.
    await stage.note(ONE)
    await stage.put(ONE, left)
    await stage.settle()
    assert {run: await stage.key(run) for run in stage.keys} == {ONE: b"", TWO: stage.keys[TWO]}
    assert key_in(stage.book, ONE) == b""
    assert stage.keys[ONE].hex() not in (stage.book / KEYS_FILE).read_text()


async def test_a_key_that_came_back_with_an_older_copy_is_deleted(stage: Stage) -> None:
    KeyCopy(stage.book).erase([ONE])
    await stage.settle()
    assert {run: await stage.key(run) for run in stage.keys} == {ONE: b"", TWO: stage.keys[TWO]}


async def test_of_two_keys_the_one_that_decrypts_is_kept(stage: Stage) -> None:
    one, two = (stage.keys[run] for run in (ONE, TWO))
    flipped = bytes([one[0] ^ 1]) + one[1:]
    stage.edit(one.hex().encode(), flipped.hex().encode())
    await stage.put(TWO, new_key())
    await stage.settle()
    assert {run: await stage.key(run) for run in stage.keys} == {ONE: one, TWO: two}
    assert dict(KeyCopy(stage.book).kept()) == {ONE: one, TWO: two}
    assert [record.event.id for record in await stage.log().read(ONE) if record.event] == [ONE.run]


async def test_the_notary_keeps_that_a_run_was_forgotten_whose_key_it_never_saw(stage: Stage) -> None:
    (stage.book / KEYS_FILE).unlink()
    await stage.note(ONE)
    await stage.put(ONE, None)
    notary = Notary(stage.link, stage.book.parent, "origin", KEY, KEYS, shards=(0,))
    notary.begin()
    serving = asyncio.create_task(notary.serve())
    assert await notary.drain(10)
    serving.cancel()
    assert dict(KeyCopy(stage.book).kept()) == stage.keys | {ONE: b""}


async def test_what_damaged_files_say_of_keys_is_salvaged(stage: Stage) -> None:
    (stage.book / KEYS_FILE).unlink()
    await stage.log().erase(ONE)
    stage.broker.kill()
    (store,) = stage.book.parent.parent.glob("store/jetstream/*/streams/KEY")
    _salvage_keys(stage.book.parent, store)
    assert dict(KeyCopy(stage.book).kept()) == stage.keys | {ONE: b""}


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(b"0 acme", b"0_acme", 1),
        lambda text: b"0x" + text[2:],
        lambda text: text + text,
        lambda text: text[:20] + b"\n" + text[21:],
    ],
)
async def test_a_copy_that_was_edited_is_told_and_made_anew_without_it(
    stage: Stage, edit: Callable[[bytes], bytes]
) -> None:
    path = stage.book / KEYS_FILE
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(BadBook, match="Move it elsewhere"):
        await stage.settle()
    path.unlink()
    await stage.settle()
    assert dict(KeyCopy(stage.book).kept()) == stage.keys
