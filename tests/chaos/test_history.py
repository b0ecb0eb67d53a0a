"""What the tap has seen is in the log for good, and what it sees while it looks is no loss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from bus.store import Stored
from core.ports import Address, Record, RunKey
from handrail.v1 import event_pb2
from tests.chaos.history import Tap

SHARDS = (0, 1)
TIMEOUT_S = 5.0


class Log(MemoryLog):
    """A log in which something may happen when a shard begins to be read."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, SHARDS)
        self.meanwhile: Callable[[int], Any] = lambda shard: None

    async def scan(self, shard: int, *, filters: tuple[str, ...], after: int = 0) -> AsyncIterator[Record]:
        await self.meanwhile(shard)
        async for record in super().scan(shard, filters=filters, after=after):
            yield record


class Scene:
    """A tap on a log in memory, in each shard of which a run was submitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = MemoryBroker()
        self.log = MemoryLog(self.broker, SHARDS)
        self.tap = Tap("", Path(), len(SHARDS))
        self.meanwhile: Callable[[int], Any] = self.nothing

        async def connect(tap: Tap) -> Log:
            log = Log(self.broker)
            log.meanwhile = self.meanwhile
            return log

        monkeypatch.setattr(Tap, "_connect", connect)

    async def nothing(self, shard: int) -> None:
        """Let nothing happen."""

    async def submit(self, shard: int) -> None:
        """Submit a run, and wait until the tap has seen it."""
        key, seen = RunKey(shard, "default", f"r{shard}-{uuid4().hex[:12]}"), len(self.tap.stored)
        event = event_pb2.Event(id=uuid4().hex, version=1, submit=event_pb2.Submit())
        await self.log.append(Address(key, "cmd", ("submit",)), event)
        await self.tap.wait_for("the submission", lambda: len(self.tap.stored) > seen, TIMEOUT_S)

    def messages(self, shard: int) -> list[Stored | None]:
        """What a shard holds, to be meddled with."""
        return self.broker.stream(subjects.ev_stream(shard)).messages


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene(monkeypatch)
    await scene.tap.start()
    for shard in (*SHARDS, *SHARDS):
        await scene.submit(shard)
    yield scene
    await scene.tap.stop()


async def test_nothing_is_missing(scene: Scene) -> None:
    assert await scene.tap.missing() == []


async def test_what_is_written_while_it_looks_is_not_missing(scene: Scene) -> None:
    async def meanwhile(shard: int) -> None:
        if shard == 1:
            # Behind what has been read of shard 0, and seen.
            await scene.submit(0)

    scene.meanwhile = meanwhile
    assert await scene.tap.missing() == []
    assert len(scene.tap.stored) == 5


async def test_an_event_that_is_another_is_told(scene: Scene) -> None:
    first, second = scene.messages(0)
    assert first is not None
    assert second is not None
    written = event_pb2.Event(id="another", version=1).SerializeToString()
    cipher = await scene.log.keys.to_write(subjects.parse(second.subject).key)
    data = cipher.encrypt(written, second.subject)
    scene.messages(0)[1] = Stored(2, second.time_ns, second.subject, data)
    was = scene.tap.stored[0, 2]
    assert await scene.tap.missing() == [f"event 2 of shard 0 was {was}, and is another"]


async def test_an_event_that_stands_elsewhere_is_told(scene: Scene) -> None:
    messages = scene.messages(0)
    messages[:] = [
        Stored(place, one.time_ns, one.subject, one.data)
        for place, one in enumerate(reversed(messages), start=1)
        if one is not None
    ]
    assert len(await scene.tap.missing()) == 2


async def test_a_run_that_is_gone_altogether_is_told(scene: Scene) -> None:
    was = scene.tap.stored[1, 2]
    scene.messages(1).pop()
    assert await scene.tap.missing(timeout_s=0.1) == [f"event 2 of shard 1 was {was}, and is gone"]
