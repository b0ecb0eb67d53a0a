"""A broker that dies under a running stack, and comes back on files that somebody has been at meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bus import streams
from bus.broker import EmbeddedBroker
from bus.directory import DataDirectory
from bus.foreign import ForeignBroker
from bus.link import Link
from bus.log import NatsStore
from bus.permissions import ACCOUNT
from bus.subjects import KEY_STREAM, key_cell
from core.errors import HandrailError
from core.ports import LogError, LogUnavailable, RunKey
from handrail.cli.init import create
from handrail.settings import Settings, load_settings
from handrail.stack import keeping, parts
from handrail.stack.keeping import kept
from orchestrator.book import BadBook, check_book
from orchestrator.key_copy import KeyCopy
from orchestrator.notary import LogAltered, last_in
from tests.contract.nats_process import NatsProcess
from tests.integration import damage as damages
from tests.processes import alive

EVENTS = 60
WAIT_S = 30.0
SUBJECT = "ev.0.acme.r0-{:08d}.dec.note.x"


def strike(pid: int, damage: Callable[[], object]) -> None:
    """Kill a broker and be at its files before this process's event loop can start it again."""
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.001)
    damage()


async def write(link: Link, count: int, first: int = 0) -> None:
    store = NatsStore(link)
    for number in range(first, first + count):
        await store.publish("EV_0", SUBJECT.format(number % 3), b"%06d" % number * 30)


@dataclass
class Scene:
    """A broker, its stack's settings, and a part of that stack which wants to write."""

    broker: parts.Broker
    settings: Settings
    place: Path
    # Of the store: the streams' directories.
    streams: Path
    written: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.broker.pid is not None
        return self.broker.pid

    @property
    def block(self) -> Path:
        (found,) = (self.streams / "EV_0" / "msgs").glob("*.blk")
        return found

    async def link(self, role: str = "decider") -> Link:
        return await parts.way(self.broker, self.settings, role).link()

    async def patiently(self, role: str) -> Link:
        """Connect when the broker is there for everybody again."""
        while True:
            with suppress(LogError):
                await (await self.link("gateway")).close()
                return await self.link(role)
            await asyncio.sleep(0.01)

    async def sign(self) -> None:
        """Have the notary sign for all there is."""
        link = await self.link("notary")
        one = parts.notary(link, self.settings, self.place)
        serving = asyncio.create_task(one.serve())
        try:
            assert await one.drain(WAIT_S)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await link.close()

    async def fill(self) -> None:
        link = await self.link()
        await write(link, EVENTS)
        await link.close()
        await self.sign()

    @asynccontextmanager
    async def insisting(self) -> AsyncIterator[None]:
        """Have a part of the stack write whenever it can, over a connection that it had before."""
        link = await self.link()

        async def insist() -> None:
            while True:
                with suppress(LogError):
                    self.written.append(
                        await NatsStore(link).publish(
                            "EV_0", SUBJECT.format(9), b"an effect that nobody may have"
                        )
                    )
                await asyncio.sleep(0.005)

        # What it does is begun only when whoever is within lets the event loop go on.
        task = asyncio.create_task(insist())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await link.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    create(tmp_path / "shed")
    settings = load_settings(tmp_path / "shed")
    with DataDirectory.acquire(tmp_path / "data") as directory:
        broker = parts.broker_of(settings, directory, tmp_path / "shed")
        streams = directory.path / "broker" / "jetstream" / ACCOUNT / "streams"
        yield Scene(broker, settings, directory.path / "notary", streams)


def older(scene: Scene) -> None:
    """The copy that was made beside the store takes its place."""
    shutil.rmtree(scene.streams / "EV_0" / "msgs")
    shutil.copytree(scene.streams.parent / "older", scene.streams / "EV_0" / "msgs")


def delete(scene: Scene) -> None:
    shutil.rmtree(scene.streams / "EV_0")


DAMAGES: dict[str, tuple[Callable[[Scene], None], int]] = {
    "a bit in the middle": (lambda scene: damages.flip(scene.block, 0.5), 31),
    "a cut tail": (lambda scene: damages.cut(scene.block), 55),
    "an edited event": (lambda scene: damages.edit(scene.block, "EV_0", 12, b"000099" * 30), 12),
    "two events that changed places": (lambda scene: damages.swap(scene.block, "EV_0", 20), 20),
    "an older copy": (older, EVENTS - 9),
    "a deleted stream": (delete, 1),
}


@pytest.mark.parametrize(("damage", "first"), DAMAGES.values(), ids=DAMAGES)
async def test_a_broker_that_comes_back_with_another_log_ends_the_stack(
    scene: Scene, damage: Callable[[Scene], None], first: int
) -> None:
    """Nobody has written to it, who was connected before, and the error says where it is wrong."""

    async def live() -> None:
        async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
            link = await scene.link()
            await write(link, EVENTS - 10)
            shutil.copytree(scene.streams / "EV_0" / "msgs", scene.streams.parent / "older")
            await write(link, 10, EVENTS - 10)
            await link.close()
            await scene.sign()
            async with scene.insisting():
                strike(scene.pid, lambda: damage(scene))
                await asyncio.Event().wait()

    with pytest.raises(LogAltered, match="handrail restore") as found:
        await live()
    assert (found.value.stream, found.value.sequence) == ("EV_0", first)
    assert scene.written == []
    assert scene.broker.pid is None
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_broker_that_comes_back_with_its_log_is_gone_on_with(scene: Scene) -> None:
    """Again and again, and what was written between is signed for and compared."""
    async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
        await scene.fill()
        for _ in range(3):
            async with scene.insisting():
                strike(scene.pid, lambda: None)
                scene.written.clear()
                while not scene.written:
                    await asyncio.sleep(0.01)
            await scene.sign()
        link = await scene.link("notary")
        assert await parts.notary(link, scene.settings, scene.place).compare(lambda *_: None) > EVENTS + 2
        await link.close()


async def test_keys_that_the_broker_lost_are_back_from_the_notarys_copy(scene: Scene) -> None:
    """And those that the copy does not have yet are the notary's to write: it may be about to."""
    old, new = (RunKey(0, "acme", f"r0-0000000{number}") for number in (1, 5))
    async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
        link = await scene.link("admin")
        await NatsStore(link).publish(KEY_STREAM, key_cell(old), b"o" * 32)
        await scene.fill()
        strike(scene.pid, lambda: shutil.rmtree(scene.streams / KEY_STREAM))
        await link.close()
        link = await scene.patiently("admin")
        stored = await NatsStore(link).only(KEY_STREAM, key_cell(old))
        assert stored is not None
        assert stored.data == b"o" * 32
        await NatsStore(link).publish(KEY_STREAM, key_cell(new), b"n" * 32)
        strike(scene.pid, lambda: None)
        await link.close()
        link = await scene.patiently("admin")
        assert dict(KeyCopy(scene.place / "EV_0").kept()) == {old: b"o" * 32}
        await link.close()


async def test_what_was_not_signed_for_cannot_be_missed(scene: Scene) -> None:
    """As docs/audit.md says: the comparison goes as far as the last head."""
    async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
        await scene.fill()
        link = await scene.link()
        await write(link, 5, EVENTS)
        strike(scene.pid, lambda: damages.drop(scene.block, "EV_0", 5))
        await link.close()
        link = await scene.patiently("notary")
        assert await last_in(link, "EV_0") == EVENTS
        await link.close()


def lose_a_book(place: Path) -> None:
    shutil.rmtree(place / "EV_0")


def lose_all_books(place: Path) -> None:
    """At a start they would be begun anew."""
    for book in (path for path in place.iterdir() if path.is_dir()):
        shutil.rmtree(book)


def begin_anew(place: Path) -> None:
    """With a key of its own, and nothing signed for."""
    shutil.rmtree(place)
    parts.notary_keys(place)


@pytest.mark.parametrize("damage", [lose_a_book, lose_all_books, shutil.rmtree, begin_anew])
async def test_a_notarys_directory_that_is_another_ends_the_stack_too(
    scene: Scene, damage: Callable[[Path], None]
) -> None:
    async def live() -> None:
        async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
            await scene.fill()
            strike(scene.pid, lambda: damage(scene.place))
            await asyncio.Event().wait()

    with pytest.raises(BadBook, match=r"Restore .* from a backup"):
        await live()


async def test_a_broker_that_dies_while_it_is_compared_is_compared_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the log that it cannot be read just now."""
    embedded, prepare, times = scene.broker, keeping._prepare, 0
    assert isinstance(embedded, EmbeddedBroker)

    async def prepared(*arguments: Any, begun: bool) -> None:
        nonlocal times
        times += 1
        if times in (2, 3):
            embedded.kill()
        await prepare(*arguments, begun=begun)

    monkeypatch.setattr(keeping, "_prepare", prepared)
    async with asyncio.timeout(WAIT_S), kept(scene.broker, scene.settings, scene.place):
        await scene.fill()
        async with scene.insisting():
            strike(scene.pid, lambda: None)
            scene.written.clear()
            while not scene.written:
                await asyncio.sleep(0.01)
    assert times == 4


async def test_a_broker_that_dies_while_it_is_made_ready_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks it would ask again for half a minute."""
    embedded, ensure, times = scene.broker, streams.ensure, 0
    assert isinstance(embedded, EmbeddedBroker)

    async def ensured(*arguments: Any, **named: Any) -> None:
        nonlocal times
        times += 1
        if times == 2:
            embedded.kill()
        await ensure(*arguments, **named)

    monkeypatch.setattr(streams, "ensure", ensured)
    async with asyncio.timeout(streams.SETUP_TIMEOUT_S / 2), kept(scene.broker, scene.settings, scene.place):
        await scene.fill()
        async with scene.insisting():
            strike(scene.pid, lambda: None)
            scene.written.clear()
            while not scene.written:
                await asyncio.sleep(0.01)
    assert times == 3


async def test_a_context_that_ends_by_itself_ends_the_broker(scene: Scene) -> None:
    with pytest.raises(LogUnavailable):
        async with kept(scene.broker, scene.settings, scene.place):
            raise LogUnavailable("of its own")
    assert scene.broker.pid is None


# --- a broker that somebody else runs ---------------------------------------------------------------


@pytest.fixture
def others(scene: Scene, tmp_path: Path) -> Iterator[tuple[Scene, NatsProcess]]:
    place = tmp_path / "theirs"
    place.mkdir()
    process = NatsProcess(place, "jetstream { sync_interval: always }\n")
    process.start()
    streams = place / "store" / "jetstream" / "$G" / "streams"
    yield Scene(ForeignBroker(process.url), scene.settings, scene.place, streams), process
    with suppress(ProcessLookupError):
        process.stop()


async def test_a_foreign_broker_that_comes_back_with_another_log_ends_the_stack(
    others: tuple[Scene, NatsProcess],
) -> None:
    """As soon as that is noticed: nobody can be kept from it before."""
    theirs, process = others

    async def live() -> None:
        async with asyncio.timeout(WAIT_S), kept(theirs.broker, theirs.settings, theirs.place):
            await theirs.fill()
            process.kill()
            damages.edit(theirs.block, "EV_0", 12, b"000099" * 30)
            process.start()
            await asyncio.Event().wait()

    with pytest.raises(LogAltered) as found:
        await live()
    assert (found.value.stream, found.value.sequence) == ("EV_0", 12)


async def test_a_foreign_broker_that_comes_back_with_its_log_is_gone_on_with(
    others: tuple[Scene, NatsProcess],
) -> None:
    theirs, process = others
    async with asyncio.timeout(WAIT_S), kept(theirs.broker, theirs.settings, theirs.place):
        await theirs.fill()
        for _ in range(2):
            with capture_logs() as said:
                process.kill()
                await asyncio.sleep(0.2)
                process.start()
                while not any(line["event"] == "the broker is back" for line in said):
                    await asyncio.sleep(0.01)
        assert check_book(theirs.place / "EV_0", parts.notary_keys(theirs.place).checker) is not None


# --- what runs beside a context ---------------------------------------------------------------------


async def test_the_context_ends_with_the_error_of_what_is_essential() -> None:
    async def fail() -> None:
        raise HandrailError("of what is essential")

    async def wait() -> None:
        async with keeping.essential(fail()):
            await asyncio.Event().wait()

    async def stumble() -> None:
        async with keeping.essential(fail()):
            try:
                await asyncio.Event().wait()
            finally:
                raise LogUnavailable("what came of it")

    for context in (wait, stumble):
        with pytest.raises(HandrailError, match="of what is essential"):
            await context()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
