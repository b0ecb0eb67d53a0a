"""What a running stack's broker says: how much it stores, what the tracer has yet to send, whole logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats

from bus import consumers
from bus.link import Link
from bus.log import NatsLog
from core.ports import Record, RunKey

SHARDS = (0, 1, 2, 3)
ADMIN = "admin"
INBOX = "_INBOX_admin"
ANSWER_TIMEOUT_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Access:
    """Where a broker is, and how one that may do everything signs in."""

    url: str
    password: str


@dataclass(frozen=True, slots=True)
class Stored:
    """How much a broker holds, in all of its streams."""

    messages: int
    bytes: int


@asynccontextmanager
async def open_log(access: Access) -> AsyncIterator[NatsLog]:
    """Connect to the log, for as long as the context lasts."""
    link = await Link.connect(access.url, user=ADMIN, password=access.password, inbox_prefix=INBOX)
    log = NatsLog(link, SHARDS)
    try:
        yield log
    finally:
        await log.close()


def stored(access: Access) -> Stored:
    """Ask a broker how much it holds."""
    return asyncio.run(_stored(access))


async def _stored(access: Access) -> Stored:
    client = await nats.connect(access.url, user=ADMIN, password=access.password, inbox_prefix=INBOX.encode())
    try:
        answer = await client.request("$JS.API.STREAM.LIST", b"", timeout=ANSWER_TIMEOUT_S)
    finally:
        await client.close()
    states = [one["state"] for one in json.loads(answer.data)["streams"]]
    # By the last sequence: what a timer's stream has dropped was stored too.
    return Stored(sum(s["last_seq"] for s in states), sum(s["bytes"] for s in states))


def drain_tracer(access: Access, timeout_s: float) -> tuple[float, int]:
    """Wait until every run that has ended is traced; returns how long that took, and how many are not."""
    return asyncio.run(_drain_tracer(access, timeout_s))


async def _drain_tracer(access: Access, timeout_s: float) -> tuple[float, int]:
    begun = time.monotonic()
    async with open_log(access) as log:
        while left := await log.backlog(consumers.tracer()):
            if time.monotonic() - begun > timeout_s:
                break
            await asyncio.sleep(POLL_S)
    return time.monotonic() - begun, left


async def logs(access: Access) -> dict[RunKey, list[Record]]:
    """Return the log of every run, read in one pass over each shard."""
    found: dict[RunKey, list[Record]] = defaultdict(list)
    async with open_log(access) as log:
        for shard in SHARDS:
            last = await log.last(shard, f"ev.{shard}.>")
            if last is None:
                continue
            async for record in log.scan(shard, filters=("ev.{shard}.>",)):
                found[record.address.key].append(record)
                if record.sequence >= last.sequence:
                    break
    return found
