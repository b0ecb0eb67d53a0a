"""The broker beside a stack: at every start its log is compared, and with a wrong one the stack ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from bus import streams
from bus.broker import EmbeddedBroker
from bus.directory import usable
from bus.link import Link
from core.errors import HandrailError
from core.notarised import NotAsSigned
from handrail.settings import Settings
from handrail.stack import parts

if TYPE_CHECKING:
    from orchestrator.notary import Notary

FIRST_RESTART_S = 0.05
MAX_RESTART_S = 5.0

_logger = structlog.get_logger("stack")


@asynccontextmanager
async def kept(broker: parts.Broker, settings: Settings, place: Path) -> AsyncIterator[None]:
    """Have a broker up beside a context, with the log that the notary of `place` has signed for.

    It is started again when it ends; its clients reconnect. Where it comes back with another log nobody gets
    to it, and the context ends with NotAsSigned.
    """
    make: Callable[[Link], Notary] | None = None

    async def inspect() -> None:
        nonlocal make
        begun = make is not None
        # The keys of the first time: a notary's directory that is another later is not believed.
        make = make or parts.notary_maker(settings, place)
        link = await parts.way(broker, settings, "admin").link()
        try:
            await _prepare(link, make(link), settings, place, begun=begun)
            if not begun or isinstance(broker, EmbeddedBroker):
                # Not beside others who write and delete keys: of a foreign broker at the stack's start only.
                await make(link).settle_keys(begun=begun)
        finally:
            # Left open it would look for the broker for ever, and keep the process from saying why it ends.
            await link.close()

    async def keep() -> None:
        delay_s = FIRST_RESTART_S
        while True:
            status = await broker.wait()
            _logger.warning("the broker went away; having it back", status=status)
            try:
                await broker.start(inspect)
            except NotAsSigned as error:
                _logger.error("the broker came back with another log", reason=str(error))
                raise
            except (HandrailError, OSError) as error:
                _logger.warning("the broker is not back yet", reason=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, MAX_RESTART_S)
            else:
                delay_s = FIRST_RESTART_S
                _logger.info("the broker is back")

    try:
        await broker.start(inspect)
        async with essential(keep()), background(broker.mend()):
            yield
    finally:
        await broker.stop()


async def _prepare(link: Link, notary: Notary, settings: Settings, place: Path, *, begun: bool) -> None:
    """Compare the log with what was signed for, then make the streams and consumers that are missing."""

    def progress(stream: str, at: int, size: int) -> None:
        _logger.info("comparing the log with what was signed for", stream=stream, message=at, of=size)

    # Before anything is created: a stream that is gone must not come back empty.
    await notary.compare(progress, begun=begun)
    with usable(place):
        notary.begin()
    await streams.ensure(link, shards=parts.shards_of(settings), consumers=parts.all_consumers(settings))


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run something beside a context, and end it with the context."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        await _end(task)


@asynccontextmanager
async def essential(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run something beside a context, and end it with the context, or the context with its error."""
    owner = asyncio.current_task()
    assert owner is not None
    interrupted = False

    def interrupt(ended: asyncio.Task[Any]) -> None:
        nonlocal interrupted
        if not ended.cancelled() and ended.exception() is not None:
            interrupted = owner.cancel()

    task = asyncio.create_task(work)
    task.add_done_callback(interrupt)
    try:
        yield
    finally:
        await _end(task)
        if interrupted:
            owner.uncancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            # It is why the context ended, whatever came of that.
            raise error from None


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.error("a part of the stack ended", reason=repr(task.exception()))
