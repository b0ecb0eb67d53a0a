"""The limit: what a broker like ours does with as many events as a plan has, and nothing else.

`publish`: each plan is so many appends, one after another, by one client. `chain`: each plan goes to and fro
between this process and another, each answering the other's event with its own, all of them durable first.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.broker import SHARDS, Access, open_log
from bench.drive import Lines, round_async
from bus import streams
from bus.broker import EmbeddedBroker
from bus.directory import DataDirectory
from bus.log import NatsLog
from core.ports import Address, Consumer, RunKey
from handrail.v1 import event_pb2

THERE = Consumer("there", ("ev.{shard}.bench.*.cmd.>",), ack_wait_s=30)
BACK = Consumer("back", ("ev.{shard}.bench.*.ans.>",), ack_wait_s=30)
MAX_UNANSWERED = 1_000
PAYLOAD = "x" * 250


class Chains:
    """The client's end: plans that wait for their next event."""

    def __init__(self, log: NatsLog) -> None:
        self._log = log
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        """Wake the plan that an event belongs to."""
        async for delivery in self._log.consume(BACK, limit=MAX_UNANSWERED):
            waiting = self._waiting.pop(delivery.key.run, None)
            if waiting is not None:
                waiting.set_result(None)
            await delivery.ack()

    async def run(self, number: int, events: int) -> None:
        """Make half of the events, each when the other half's has come."""
        key = _key(number)
        for i in range((events + 1) // 2):
            last = 2 * i + 1 == events
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[key.run] = waiting
            await self._log.append(Address(key, "cmd", ("submit" if not last else "cancel",)), _event())
            if not last:
                await waiting


class Publishes:
    """The other kind of limit: plans that wait for nobody."""

    def __init__(self, log: NatsLog) -> None:
        self._log = log

    async def listen(self) -> None:
        """Hear nothing."""

    async def run(self, number: int, events: int) -> None:
        """Make all of the events, one after another."""
        key = _key(number)
        for _ in range(events):
            await self._log.append(Address(key, "cmd", ("submit",)), _event())


async def echo(access: Access) -> None:
    """Answer every event with one of our own, until killed."""
    answering: set[asyncio.Task[None]] = set()
    async with open_log(access) as log:

        async def answer(key: RunKey) -> None:
            await log.append(Address(key, "ans", ("worker", "w", "result", "a1")), _event())

        async for delivery in log.consume(THERE, limit=MAX_UNANSWERED):
            record = delivery.record
            if record is not None and record.address.topic == ("submit",):
                task = asyncio.create_task(answer(delivery.key))
                answering.add(task)
                task.add_done_callback(answering.discard)
            await delivery.ack()


async def serve(kind: str, durability: str, place: Path) -> None:
    """Run a broker, and answer the bench; each order says how many `events` a plan has."""
    directory = DataDirectory.acquire(place)
    broker = EmbeddedBroker(directory, {"worker": ()}, relaxed=durability == "relaxed")
    await broker.start()
    access = Access(broker.url, broker.credentials("admin").password)
    async with open_log(access) as log, AsyncExitStack() as held:
        await streams.ensure(log.link, shards=SHARDS, consumers=(THERE, BACK) if kind == "chain" else ())
        if kind == "chain":
            await held.enter_async_context(_echoing(access))
        work = Chains(log) if kind == "chain" else Publishes(log)
        listening = asyncio.create_task(work.listen())
        await _answer(work)
        listening.cancel()
    await broker.stop()
    directory.release()


@asynccontextmanager
async def _echoing(access: Access) -> AsyncIterator[None]:
    """Have another process answer, for as long as the context lasts."""
    command = [sys.executable, "-m", "bench.limit", "echo", access.url]
    other = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    assert other.stdin is not None
    other.stdin.write(access.password.encode() + b"\n")
    await other.stdin.drain()
    try:
        yield
    finally:
        other.kill()
        await other.wait()


async def _answer(work: Chains | Publishes) -> None:
    lines = Lines()
    lines.say({"ready": True})
    orders = lines.orders()
    while (order := await asyncio.to_thread(next, orders, None)) is not None:
        events = int(order["events"][order["what"]])

        async def run_plan(number: int, events: int = events) -> None:
            await work.run(number, events)

        lines.say(await round_async(run_plan, concurrency=order["concurrency"], seconds=order["seconds"]))


def _key(number: int) -> RunKey:
    shard = number % len(SHARDS)
    return RunKey(shard, "bench", f"r{shard}-{time.monotonic_ns():x}{number:08x}")


def _event() -> event_pb2.Event:
    return event_pb2.Event(
        id=uuid.uuid4().hex, version=1, writer="bench", cancel=event_pb2.Cancel(reason=PAYLOAD)
    )


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        asyncio.run(echo(Access(sys.argv[2], sys.stdin.readline().strip())))
    else:
        asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
