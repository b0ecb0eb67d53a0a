"""A bench with either log behind it, and what the tests of both share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

from bus import streams
from bus.link import Link
from bus.log import NatsLog
from bus.memory import MemoryBroker, MemoryLog
from bus.records import StoreLog
from bus.store import Store, Stored
from core.ports import Address, Consumer, Delivery, Log, LogUnavailable, RunKey
from handrail.v1 import event_pb2
from tests.contract.nats_process import NatsProcess

SHARDS = (0, 1)
POLL_S = 0.005


@dataclass
class Bench:
    """A broker of either kind, a tenant of the test's own, and clients to close."""

    kind: str
    tenant: str
    server: NatsProcess | None = None
    admin: Link | None = None
    memory: MemoryBroker | None = None
    logs: list[StoreLog] = field(default_factory=list)

    async def log(self, *, timeout_s: float = 5.0) -> Any:
        log: StoreLog
        if self.memory is not None:
            log = MemoryLog(self.memory, SHARDS, timeout_s=timeout_s)
        else:
            assert self.server is not None
            log = NatsLog(await Link.connect(self.server.url), SHARDS, timeout_s=timeout_s)
        self.logs.append(log)
        return log

    async def make(self, consumer: Consumer) -> Consumer:
        """Create a durable consumer under a name that is the test's own."""
        own = replace(consumer, name=f"{consumer.name}-{self.tenant}")
        if self.admin is not None:
            await streams.ensure(self.admin, shards=SHARDS, consumers=[own], max_bytes=STREAM_BYTES)
        return own

    def key(self, shard: int = 0, run: str = "") -> RunKey:
        return RunKey(shard, self.tenant, run or f"r{shard}-{uuid4().hex[:12]}")

    def filters(self, rest: str = ">") -> tuple[str, ...]:
        return (f"ev.{{shard}}.{self.tenant}.{rest}",)


STREAM_BYTES = 64 * 1024 * 1024


class LossyStore:
    """A store that loses the answers to its next publishes, before or after they were made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lose_after = 0
        self.lose_before = 0
        self.meanwhile: Callable[[], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def publish(self, stream: str, subject: str, data: bytes, *rest: Any) -> int:
        if self.lose_before > 0:
            self.lose_before -= 1
            raise LogUnavailable("lost before it was made")
        sequence = await self._store.publish(stream, subject, data, *rest)
        if self.lose_after > 0:
            self.lose_after -= 1
            if self.meanwhile is not None:
                await self.meanwhile()
            raise LogUnavailable("lost after it was made")
        return sequence

    async def first(self, stream: str, filter: str, after: int = 0) -> Stored | None:
        return await self._store.first(stream, filter, after)


def event(id: str = "") -> event_pb2.Event:
    return event_pb2.Event(id=id or uuid4().hex, version=1, cancel=event_pb2.Cancel())


def note(key: RunKey, kind: str = "accepted") -> Address:
    return Address(key, "dec", ("note", kind))


def ask(key: RunKey, pool: str = "box") -> Address:
    return Address(key, "dec", ("ask", "worker", pool))


def intent(key: RunKey, pool: str, attempt: str) -> Address:
    return Address(key, "ans", ("worker", pool, "intent", attempt))


def ids(records: Sequence[Any]) -> list[str]:
    return [record.event.id for record in records]


class Collector:
    """Consumes in the background and keeps what has come; answers only what it is told to."""

    def __init__(self, log: Log, consumer: Consumer, limit: int = 100) -> None:
        self.taken: list[Delivery] = []
        self._deliveries = log.consume(consumer, limit=limit)
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async with contextlib.aclosing(cast(AsyncGenerator[Delivery, None], self._deliveries)) as deliveries:
            async for delivery in deliveries:
                self.taken.append(delivery)

    async def wait(self, count: int, timeout_s: float = 5.0) -> list[Delivery]:
        await until(lambda: len(self.taken) >= count or self._task.done(), timeout_s)
        if self._task.done():
            self._task.result()
        return self.taken[:count]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for a condition; a pause of this process costs one look, and not the rest of them."""
    for _ in range(int(timeout_s / POLL_S)):
        if condition():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError("the condition did not come true")
