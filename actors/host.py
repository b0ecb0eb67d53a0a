"""Where minds live: the loop that feeds an agent from the log, a slot that keeps it running, and a host in
this process.

A record is acknowledged only after every answer to it is durable. It is never dropped: while the broker is
away the loop keeps trying, and a record whose handling fails is put back with a growing delay until it is
given up as poisoned. Both hosts (this one and Ray's) run the same `Slot`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from actors.agent import Agent, Answer, PoisonPolicy
from actors.pool import AgentSpec
from core.errors import HandrailError
from core.ports import Delivery, Log, LogError, LogUnavailable, Record
from handrail.v1 import event_pb2
from observability import tracing

PROGRESS_INTERVAL_S = 0.5
HANDLE_TIMEOUT_S = 300.0
FIRST_RETRY_S = 0.05
MAX_RETRY_S = 2.0
FIRST_RESTART_S = 0.1
MAX_RESTART_S = 5.0
HEALTHY_AFTER_S = 10.0
SETTLE_TIMEOUT_S = 2.0

AgentFactory = Callable[[AgentSpec], Awaitable[tuple[Agent, Log]]]
"""Builds an agent with a log of its own; the slot that asked for them closes the log."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class AgentCrashed(HandrailError):
    """The loop of an agent ended though nobody had asked it to."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What a slot says of itself. That it answers at all is its heartbeat."""

    role: str
    pool: str
    instance: str
    pid: int
    in_flight: int
    handled: int
    failed: int
    strays: int
    started_at: float
    draining: bool
    error: str = ""


class Host(Protocol):
    """Where agents live."""

    async def ensure(self, specs: Sequence[AgentSpec]) -> None:
        """Have exactly these slots: start what is missing, drain what is surplus."""
        ...

    async def statuses(self) -> list[HostStatus]:
        """Return what every slot that answers says of itself."""
        ...

    async def stop(self, drain_s: float) -> None:
        """Drain every slot and end it."""
        ...


class AgentLoop:
    """Feeds one agent from the log, with at most `concurrency` records at a time. Runs once."""

    def __init__(
        self,
        agent: Agent,
        log: Log,
        *,
        pool: str,
        instance: str,
        concurrency: int,
        poison: PoisonPolicy | None = None,
    ) -> None:
        self._agent = agent
        self._log = log
        self._pool = pool
        self._instance = instance
        self._concurrency = concurrency
        self._poison = poison or PoisonPolicy()
        self._in_flight: dict[asyncio.Task[None], Delivery] = {}
        self._pulling: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._draining = False
        self._handled = self._failed = self._strays = 0
        self._started_at = time.time()

    def status(self) -> HostStatus:
        """Return what the loop says of itself."""
        return HostStatus(
            role=self._agent.role,
            pool=self._pool,
            instance=self._instance,
            pid=os.getpid(),
            in_flight=len(self._in_flight),
            handled=self._handled,
            failed=self._failed,
            strays=self._strays,
            started_at=self._started_at,
            draining=self._draining,
        )

    async def run(self) -> None:
        """Pull and answer until drained; raises what made pulling impossible."""
        self._pulling = asyncio.create_task(self._pull())
        if self._draining:
            self._pulling.cancel()
        try:
            await asyncio.wait({self._pulling})
            while self._in_flight:
                await asyncio.wait(self._in_flight)
        finally:
            await _cancel(self._pulling, *self._in_flight)
            self._ended.set()
        if not self._draining and not self._pulling.cancelled():
            self._pulling.result()
            raise AgentCrashed(f"{self._instance}: the log stopped delivering; it is started anew")

    async def drain(self, timeout_s: float) -> None:
        """Stop pulling, finish what is in flight, and end; what does not finish in time is put back."""
        self._draining = True
        if self._pulling is None:
            return
        self._pulling.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        left = dict(self._in_flight)
        await _cancel(*left)
        with suppress(TimeoutError, LogError):
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                await asyncio.gather(*(delivery.nak() for delivery in left.values()))
                await self._ended.wait()

    async def _pull(self) -> None:
        async for delivery in self._log.consume(self._agent.consumer(self._pool), limit=self._concurrency):
            task = asyncio.create_task(self._take(delivery))
            self._in_flight[task] = delivery
            task.add_done_callback(self._in_flight.pop)

    async def _take(self, delivery: Delivery) -> None:
        with tracing.handling(delivery.key, delivery.record):
            await self._answer(delivery)

    async def _answer(self, delivery: Delivery) -> None:
        alive = asyncio.create_task(_keep_alive(delivery))
        try:
            await self._answer_durably(delivery)
        except Exception:  # noqa: BLE001
            # The supervision point of minds: whatever an agent raises, its record is delivered again and in
            # the end given up with an answer, and the loop goes on.
            self._failed += 1
            _log.exception("agent_failed", instance=self._instance, deliveries=delivery.deliveries)
            with suppress(LogError):
                await delivery.nak(self._poison.delay_s(delivery.deliveries))
        finally:
            alive.cancel()

    async def _answer_durably(self, delivery: Delivery) -> None:
        record, begun = delivery.record, time.monotonic()
        if record is None or record.event is None:
            answers = []
        elif self._poison.is_poison(delivery.deliveries):
            _log.error("agent_gave_up", instance=self._instance, run=record.address.key.run)
            answers = self._agent.give_up(record)
        else:
            answers = await self._persist(self._handle, record)
        append = functools.partial(self._log.append, trace=tracing.carried())
        for answer in answers:
            _time(answer.event, time.monotonic() - begun)
            await self._persist(append, answer.address, answer.event)
        if answers:
            self._handled += 1
        else:
            self._strays += 1
        # Where this fails the record comes again, and its answers with it: duplicates change nothing.
        with suppress(LogError):
            await delivery.ack()

    async def _handle(self, record: Record) -> list[Answer]:
        async with asyncio.timeout(HANDLE_TIMEOUT_S):
            return await self._agent.handle(record, self._log)

    async def _persist(self, operation: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
        """Carry out an operation on the log, for as long as the broker is away or the loop is ended."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                return await operation(*arguments)
            except LogUnavailable as error:
                _log.warning("log_unavailable", instance=self._instance, error=str(error))
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, MAX_RETRY_S)


class Slot:
    """A place in a pool: builds its agent, runs it, and starts it anew with backoff when it crashes."""

    def __init__(self, spec: AgentSpec, factory: AgentFactory) -> None:
        self.spec = spec
        self._factory = factory
        self._loop: AgentLoop | None = None
        self._stopping = asyncio.Event()
        self._started_at = time.time()
        self._error = ""

    def status(self) -> HostStatus:
        """Return what the slot's agent says of itself, or why there is none at the moment."""
        if self._loop is not None:
            return self._loop.status()
        return HostStatus(
            role=self.spec.role,
            pool=self.spec.pool,
            instance=self.spec.name,
            pid=os.getpid(),
            in_flight=0,
            handled=0,
            failed=0,
            strays=0,
            started_at=self._started_at,
            draining=self._stopping.is_set(),
            error=self._error,
        )

    async def run(self) -> None:
        """Keep the agent running until the slot is drained."""
        delay_s = FIRST_RESTART_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                await self._run_once()
            except Exception as error:  # noqa: BLE001
                # The supervision point of slots: an agent that cannot be built, or whose loop ended, is
                # built anew for as long as its slot is wanted.
                self._error = f"{type(error).__name__}: {error}"
                _log.exception("agent_crashed", instance=self.spec.name)
            if time.monotonic() - begun > HEALTHY_AFTER_S:
                delay_s = FIRST_RESTART_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, MAX_RESTART_S)

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in flight, within a time, and run no more."""
        self._stopping.set()
        if self._loop is not None:
            await self._loop.drain(timeout_s)

    async def _run_once(self) -> None:
        agent, log = await self._factory(self.spec)
        try:
            if self._stopping.is_set():
                return
            self._loop = AgentLoop(
                agent,
                log,
                pool=self.spec.pool,
                instance=self.spec.name,
                concurrency=self.spec.concurrency,
            )
            await self._loop.run()
        finally:
            self._loop = None
            with suppress(LogError):
                await log.close()


class InProcessHost:
    """Minds as tasks of this process."""

    def __init__(self, factory: AgentFactory) -> None:
        self._factory = factory
        self._slots: dict[str, tuple[Slot, asyncio.Task[None]]] = {}

    async def ensure(self, specs: Sequence[AgentSpec]) -> None:
        """Have exactly these slots: start what is missing, drain what is surplus or has changed."""
        wanted = {spec.name: spec for spec in specs}
        surplus = [name for name, (slot, _) in self._slots.items() if wanted.get(name) != slot.spec]
        await self._end(surplus, SETTLE_TIMEOUT_S)
        for name in wanted.keys() - self._slots.keys():
            slot = Slot(wanted[name], self._factory)
            self._slots[name] = (slot, asyncio.create_task(slot.run(), name=name))

    async def statuses(self) -> list[HostStatus]:
        """Return what every slot says of itself."""
        return [slot.status() for slot, _ in self._slots.values()]

    async def stop(self, drain_s: float) -> None:
        """Drain every slot and end it."""
        await self._end(list(self._slots), drain_s)

    async def _end(self, names: Sequence[str], drain_s: float) -> None:
        ending = [self._slots.pop(name) for name in names]
        await asyncio.gather(*(slot.drain(drain_s) for slot, _ in ending))
        if ending:
            await asyncio.wait([task for _, task in ending], timeout=SETTLE_TIMEOUT_S)
        await _cancel(*(task for _, task in ending))


def _time(event: event_pb2.Event, seconds: float) -> None:
    """Say in an answer how long it took, unless its agent has."""
    body = getattr(event, str(event.WhichOneof("body")))
    if "took" in body.DESCRIPTOR.fields_by_name and not body.HasField("took"):
        body.took.FromNanoseconds(int(seconds * 1e9))


async def _keep_alive(delivery: Delivery) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        with suppress(LogError):
            await delivery.progress()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
