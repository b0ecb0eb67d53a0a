"""Ordered reads of subject filters through a short-lived consumer, which is deleted at the end.

A gap, a lost connection or a lost consumer is met by a new consumer after the last message that was
handed out, so nothing is skipped and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import uuid4

from nats.aio.msg import Msg

from bus.answers import position, status, trace_of
from bus.link import Link
from bus.store import MAX_RETRY_S, Stored
from core.ports import LogError, LogUnavailable

BATCH = 500
BATCH_BYTES = 8 * 1024 * 1024
PULL_EXPIRES_S = 5.0
ANSWER_GRACE_S = 1.0
"""A pull that is not ended by then has been lost."""
INACTIVE_S = 15.0
"""How long the broker keeps the consumer of a reader that died."""
_SECOND_NS = 1_000_000_000
_BATCH_OVER = ("404", "408")
_NOW = b'{"batch":%d,"max_bytes":%d,"no_wait":true}' % (BATCH, BATCH_BYTES)


async def read(
    link: Link, stream: str, filters: tuple[str, ...], after: int, timeout_s: float
) -> list[Stored]:
    """Return every message on the filters after a sequence that is durable now."""
    found: list[Stored] = []
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        cursor = found[-1].sequence if found else after
        try:
            async with contextlib.aclosing(present(link, stream, filters, cursor)) as messages:
                async for stored in messages:
                    found.append(stored)
            return found
        except LogUnavailable:
            if link.closed or asyncio.get_running_loop().time() + MAX_RETRY_S >= deadline:
                raise
            await asyncio.sleep(MAX_RETRY_S)


def present(link: Link, stream: str, filters: tuple[str, ...], after: int) -> AsyncGenerator[Stored, None]:
    """Yield every message on the filters after a sequence that is durable now.

    Raises LogUnavailable where the broker goes away meanwhile.
    """
    return _Scan(link, stream, filters, after).run(endless=False)


async def follow(
    link: Link,
    stream: str,
    filters: tuple[str, ...],
    after: int,
    linger: Callable[[], Awaitable[None]] | None = None,
    expect: Callable[[str, bytes], None] | None = None,
) -> AsyncGenerator[Stored, None]:
    """Yield every message on the filters after a sequence, those to come included, without end.

    Whoever has time lingers when one comes: those after it then come together, at a fraction of the cost.
    `expect` is told of the subject and the data of each when it arrives, up to a batch before it is yielded.
    """
    cursor = after
    while True:
        try:
            scan = _Scan(link, stream, filters, cursor, linger, expect)
            async with contextlib.aclosing(scan.run(endless=True)) as messages:
                async for stored in messages:
                    cursor = stored.sequence
                    yield stored
        except LogUnavailable:
            if link.closed:
                raise
            await asyncio.sleep(MAX_RETRY_S)


class _Scan:
    """One consumer's life."""

    def __init__(
        self,
        link: Link,
        stream: str,
        filters: tuple[str, ...],
        after: int,
        linger: Callable[[], Awaitable[None]] | None = None,
        expect: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._link = link
        self._home = f"{stream}.read-{uuid4().hex}"
        self._stream = stream
        self._filters = filters
        self._after = after
        self._linger = linger
        self._expect = expect
        # Bounded by what is pulled: a batch and its end.
        self._arrived: asyncio.Queue[Msg | LogError] = asyncio.Queue()

    async def run(self, *, endless: bool) -> AsyncGenerator[Stored, None]:
        """Yield what there is now, or without end; raises LogUnavailable where it has to begin anew."""
        left = await self._create()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._home}"
        reply = self._link.listen(subject, self._arrive, self._arrived.put_nowait, home=self._home)
        # Whoever lingers takes what there is, and waits for one message when there was nothing.
        expected, waits = 1, False
        try:
            while endless or left > 0:
                asked = batch = 1 if waits else BATCH if endless else min(left, BATCH)
                pull = _NOW if self._linger and not waits else _pull(batch)
                await self._link.publish(subject, pull, reply=reply)
                while batch > 0 and (message := await self._next()) is not None:
                    if self._linger and waits:
                        await self._linger()
                    at = position(message.reply)
                    if at is None or at.consumer_sequence != expected:
                        raise LogUnavailable(f"a message of {self._stream} was lost on the way; read again")
                    expected, batch, left = expected + 1, batch - 1, left - 1
                    yield Stored(at.sequence, at.time_ns, message.subject, message.data, trace_of(message))
                waits = self._linger is not None and batch == asked
        finally:
            self._link.forget(reply, home=self._home)
            await self._delete()

    def _arrive(self, message: Msg) -> None:
        self._arrived.put_nowait(message)
        if self._expect is not None:
            self._expect(message.subject, message.data)

    async def _create(self) -> int:
        config: dict[str, Any] = {
            "name": self._home.partition(".")[2],
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * _SECOND_NS),
        }
        subject = f"CONSUMER.CREATE.{self._home}"
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
            subject = f"{subject}.{self._filters[0]}"
        else:
            config["filter_subjects"] = list(self._filters)
        info = await self._link.call(
            subject, {"stream_name": self._stream, "config": config, "action": "create"}
        )
        return int(info["num_pending"])

    async def _next(self) -> Msg | None:
        """Return the next message, or None where the pull has ended."""
        if self._arrived.empty():
            try:
                async with asyncio.timeout(PULL_EXPIRES_S + ANSWER_GRACE_S):
                    message = await self._arrived.get()
            except TimeoutError:
                raise LogUnavailable(f"the broker fell silent while reading {self._stream}") from None
        else:
            message = self._arrived.get_nowait()
        if isinstance(message, LogError):
            raise message
        code = status(message)
        if not code:
            return message
        said = str((message.headers or {}).get("Description", ""))
        if code in _BATCH_OVER or (code == "409" and ("MaxBytes" in said or "Batch" in said)):
            return None
        raise LogUnavailable(f"the consumer that reads {self._stream} is gone ({code} {said}); read again")

    async def _delete(self) -> None:
        with contextlib.suppress(LogError):
            await self._link.publish(f"$JS.API.CONSUMER.DELETE.{self._home}", reply=self._link.nowhere)


def _pull(batch: int) -> bytes:
    expires_ns = int(PULL_EXPIRES_S * _SECOND_NS)
    return b'{"batch":%d,"max_bytes":%d,"expires":%d}' % (batch, BATCH_BYTES, expires_ns)
