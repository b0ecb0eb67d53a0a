"""The embedded stack: a broker of its own beside this process, everything else inside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from actors.host import InProcessHost
from bus.directory import DataDirectory, Endpoint
from bus.log import NatsLog
from core.course import MIND_POOL
from core.errors import HandrailError
from handrail.project import Project, Settings, load, load_settings
from handrail.stack import parts
from handrail.stack.keeping import background, kept
from observability import outlets, tracing
from workers.host import Worker
from workers.instance import Instance, site_of

if TYPE_CHECKING:
    from orchestrator.gateway import Addresses
    from orchestrator.notary import Notary

DRAIN_S = 5.0
TRACE_DRAIN_S = 2.0
NOTARY_DRAIN_S = 3.0
RESTART_DELAY_S = 0.5
RENEW_TOKEN_EVERY_S = 3_600.0

_logger = structlog.get_logger("stack")


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack."""

    address: str
    endpoint: Endpoint


@asynccontextmanager
async def embedded(project_dir: Path, data_dir: Path) -> AsyncIterator[Stack]:
    """Run a whole stack in this process, for as long as the context lasts."""
    project_dir = project_dir.resolve()
    async with AsyncExitStack() as stack:
        directory = await asyncio.to_thread(DataDirectory.acquire, data_dir)
        stack.callback(directory.release)
        settings = load_settings(project_dir)
        # Before the tools are imported: they may look at their environment at once.
        parts.forget_callers_token()
        parts.set_environment(settings, settings.toolboxes)
        if parts.has_secrets(settings):
            stack.callback(outlets.guard_streams())
            parts.meet_secrets(settings, project_dir, settings.toolboxes, endpoint=True)
        project = load(project_dir, rules=True, data=directory.path)
        keys = parts.keys_of(settings, directory, project_dir)
        parts.own_tokens(directory.path)
        broker = parts.broker_of(settings, directory, project_dir)
        place = parts.notary_place(settings, project_dir, directory.path)
        await stack.enter_async_context(kept(broker, settings, place))
        addresses = await _start_parts(stack, project, project_dir, directory, broker, keys)
        endpoint = Endpoint(
            gateway=addresses.local,
            public=addresses.public,
            broker_url=broker.url,
            pid=os.getpid(),
            epoch=directory.epoch,
            project=str(project_dir),
            host="inline",
        )
        directory.publish_endpoint(endpoint)
        yield Stack(addresses.local, endpoint)


async def _start_parts(
    stack: AsyncExitStack,
    project: Project,
    project_dir: Path,
    directory: DataDirectory,
    broker: parts.Broker,
    keys: parts.Keys,
) -> Addresses:
    settings = project.settings
    place = parts.notary_place(settings, project_dir, directory.path)
    if parts.wants_tracer():
        log = await parts.way(broker, settings, "tracer").open()
        stack.push_async_callback(log.close)
        await stack.enter_async_context(_tracing(log, settings, directory, place))
    link = await parts.way(broker, settings, "notary").link()
    stack.push_async_callback(link.close)
    await stack.enter_async_context(_notarising(parts.notary(link, settings, place)))
    tracing.configure("worker", f"{directory.epoch}-1")
    stack.push_async_callback(asyncio.to_thread, tracing.flush)
    ways = {role: parts.way(broker, settings, role, MIND_POOL) for role in parts.MIND_ROLES}
    log = await parts.way(broker, settings, "decider").open()
    stack.push_async_callback(log.close)
    await stack.enter_async_context(
        background(_keep_serving(parts.decider(log, project, keys.signer, f"{directory.epoch}").serve))
    )
    host = InProcessHost(partial(parts.agent_of, project))
    await host.ensure(parts.mind_specs(settings, project_dir, directory.path, ways, keys.checker))
    stack.push_async_callback(host.stop, DRAIN_S)
    for toolbox in settings.toolboxes:
        log = await parts.way(broker, settings, "worker", toolbox).open()
        stack.push_async_callback(log.close)
        instance = Instance(site_of(directory.path), directory.epoch, f"{toolbox}_0", 1)
        worker = parts.worker(log, project, toolbox, keys.checker, instance)
        await stack.enter_async_context(_working(worker))
    log = await parts.way(broker, settings, "gateway").open()
    stack.push_async_callback(log.close)
    await stack.enter_async_context(background(keep_token(directory.path)))
    gateway = parts.gateway(log, project, project_dir, directory.path)
    addresses = await gateway.start(settings.gateway.listen, tls=parts.tls_of(settings, project_dir))
    stack.push_async_callback(gateway.stop, 1.0)
    return addresses


async def keep_token(data: Path) -> None:
    """Write the owner's token anew before it ends."""
    while True:
        await asyncio.sleep(RENEW_TOKEN_EVERY_S)
        try:
            await asyncio.to_thread(parts.own_tokens, data)
        except (HandrailError, OSError) as error:
            # A disk that is full now is not so for ever, and the token lives on for days.
            _logger.warning("the owner's token cannot be written anew", error=str(error))


async def _keep_serving(serve: Callable[[], Awaitable[None]]) -> None:
    """Serve again when serving ends; the log tells where to go on. A supervision point."""
    while True:
        try:
            await serve()
        except Exception:
            _logger.exception("a part of the stack ended; it starts again")
        await asyncio.sleep(RESTART_DELAY_S)


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    async with background(_keep_serving(worker.serve)):
        yield
    await worker.drain(DRAIN_S)


@asynccontextmanager
async def _notarising(notary: Notary) -> AsyncIterator[None]:
    """Have the log signed for; at the end as far as it goes then."""
    async with background(_keep_serving(notary.serve)):
        yield
        await notary.drain(NOTARY_DRAIN_S)


@asynccontextmanager
async def _tracing(
    log: NatsLog, settings: Settings, directory: DataDirectory, place: Path
) -> AsyncIterator[None]:
    """Send the traces of runs; at the end those that are left, unless nobody takes them."""
    tracer, exporter, metrics = parts.tracer(log, settings, directory.path, place, f"{directory.epoch}-1")
    try:
        async with background(_keep_serving(tracer.serve)):
            yield
            await tracer.drain(TRACE_DRAIN_S)
    finally:
        await exporter.close()
        await asyncio.to_thread(metrics.close)
