"""The log over NATS JetStream: `core.ports.Log` on one link.

Of the broker's API it uses STREAM.MSG.GET (all single reads), CONSUMER.CREATE and DELETE of `read-*`
consumers (`read` and `follow`), and CONSUMER.MSG.NEXT with acks (`consume`). The direct get, which can be
stale, only for keys, which are written once; and never `Nats-Msg-Id`, which looks neither at subject nor
body.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg

from bus import reader, subjects
from bus.answers import (
    MESSAGE_NOT_FOUND,
    SEQUENCE_NOT_FOUND,
    TRACE_HEADER,
    ApiError,
    parse_answer,
    status,
    trace_in,
)
from bus.intake import Intake
from bus.link import Link
from bus.records import TIMEOUT_S, StoreLog
from bus.store import Stored, patiently
from bus.streams import consumer_home
from core.ports import Consumer, Delivery, Fence, LogError, LogForbidden, LogUnavailable, Record, RunKey

PUBLISH_TIMEOUT_S = 2.0
"""Of one try; the log's timeout bounds all of them."""
TICK_TTL = "720h"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_DUE_NS = 253_402_300_799 * 1_000_000_000
"""The last second of the year 9999, which is as far as the broker's time format goes."""


class NatsStore:
    """A broker's streams over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def publish(
        self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Publish once and return the sequence; LogUnavailable means that the outcome is unknown."""
        headers: dict[str, str] = {}
        if fence is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(fence.sequence)
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = fence.filter
        if trace:
            headers[TRACE_HEADER] = trace
        return await self.send(subject, data, headers or None)

    async def send(self, subject: str, data: bytes, headers: dict[str, str] | None) -> int:
        """Publish with headers of one's own choice."""
        message = await self._link.request(subject, data, headers=headers, timeout_s=PUBLISH_TIMEOUT_S)
        return int(parse_answer(message, subject)["seq"])

    async def first(self, stream: str, filter: str, after: int = 0) -> Stored | None:
        """Return the first message on a filter after a sequence."""
        return await self._fetch(stream, {"seq": after + 1, "next_by_subj": filter})

    async def last(self, stream: str, filter: str) -> Stored | None:
        """Return the last message on a filter."""
        return await self._fetch(stream, {"last_by_subj": filter})

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return a message by its sequence."""
        return await self._fetch(stream, {"seq": sequence})

    async def only(self, stream: str, subject: str) -> Stored | None:
        """Return the only message of a subject that is written once.

        Asked for directly; where that knows of none, of the stream's leader, as far as the user may.
        """
        message = await self._link.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
        if not status(message):
            headers = message.headers or {}
            try:
                sequence, time_ns = int(headers["Nats-Sequence"]), parse_time_ns(headers["Nats-Time-Stamp"])
            except (KeyError, ValueError) as error:
                raise LogError(f"the answer for {subject} says not where it lies: {error!r}") from None
            return Stored(sequence, time_ns, subject, message.data)
        try:
            return await self.last(stream, subject)
        except LogForbidden:
            return None

    async def erase(self, stream: str, sequence: int) -> None:
        """Delete a message, and overwrite what it said; one that is gone already is no error."""
        try:
            await self._link.call(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": False})
        except ApiError as error:
            if error.code != SEQUENCE_NOT_FOUND:
                raise

    async def _fetch(self, stream: str, query: dict[str, Any]) -> Stored | None:
        try:
            answer = await self._link.call(f"STREAM.MSG.GET.{stream}", query)
        except ApiError as error:
            if error.code == MESSAGE_NOT_FOUND:
                return None
            raise
        message = answer["message"]
        try:
            data = base64.b64decode(message.get("data") or "", validate=True)
            headers = base64.b64decode(message.get("hdrs") or "", validate=True)
        except binascii.Error as error:
            raise LogError(f"message {message.get('seq')} of {stream} cannot be decoded") from error
        time_ns = parse_time_ns(message["time"])
        return Stored(int(message["seq"]), time_ns, message["subject"], data, trace_in(headers))

    def now_s(self) -> float:
        """Return a time that only moves on."""
        return asyncio.get_running_loop().time()

    async def pause(self, delay_s: float) -> None:
        """Wait before another try, no longer than until a lost connection is back."""
        if self._link.closed:
            raise LogUnavailable("this log has been closed")
        if self._link.connected.is_set():
            await asyncio.sleep(delay_s)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._link.connected.wait(), delay_s)


class NatsLog(StoreLog):
    """The log of the open shards, over one link, which it owns."""

    def __init__(self, link: Link, shards: tuple[int, ...], *, timeout_s: float = TIMEOUT_S) -> None:
        self._nats = NatsStore(link)
        super().__init__(self._nats, shards, timeout_s, self.listen)
        self.link = link
        self._intakes: set[Intake] = set()

    async def listen(self) -> None:
        """Be told of the keys of new runs, as far as the user may be, and not have to ask for them."""
        await listen(self.link, self.keys.hear)

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        stream, filters = subjects.ev_stream(key.shard), (subjects.run_filter(key),)
        found = await reader.read(self.link, stream, filters, after, self.timeout_s)
        return [record for stored in found if (record := await self.record(stored)) is not None]

    async def read_runs(self, keys: Iterable[RunKey]) -> dict[RunKey, list[Record]]:
        """Return every record of several runs: one read for each shard."""
        found: dict[RunKey, list[Record]] = {key: [] for key in keys}
        for shard in {key.shard for key in found}:
            filters = tuple(subjects.run_filter(key) for key in found if key.shard == shard)
            stream = subjects.ev_stream(shard)
            stored_there = await reader.read(self.link, stream, filters, 0, self.timeout_s)
            for stored in stored_there:
                self.expect(stored.subject, stored.data)
            for stored in stored_there:
                record = await self.record(stored)
                if record is not None:
                    found[record.address.key].append(record)
        return found

    def follow(self, key: RunKey, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield the records of a run, those to come included, across reconnections, without end."""
        return self._follow(key.shard, (subjects.run_filter(key),), after)

    def scan(self, shard: int, *, filters: tuple[str, ...], after: int = 0) -> AsyncIterator[Record]:
        """Yield a shard's records on any of the subject patterns, in stream order, without end."""
        return self._follow(shard, tuple(pattern.format(shard=shard) for pattern in filters), after)

    async def _follow(self, shard: int, filters: tuple[str, ...], after: int) -> AsyncIterator[Record]:
        stream = subjects.ev_stream(shard)
        messages = reader.follow(self.link, stream, filters, after, expect=self.expect)
        async with contextlib.aclosing(messages):
            async for stored in messages:
                record = await self.record(stored)
                if record is not None:
                    yield record

    async def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        intake = Intake(self.link, consumer, self.shards, limit, self.record, self.expect)
        self._intakes.add(intake)
        intake.start()
        try:
            while (delivery := await intake.next()) is not None:
                yield delivery
        finally:
            self._intakes.discard(intake)
            await intake.close()

    async def backlog(self, consumer: Consumer) -> int:
        """Return how many messages of all shards a durable consumer has yet to answer."""
        homes = (consumer_home(consumer, shard) for shard in self.shards)
        infos = [await self.link.call(f"CONSUMER.INFO.{stream}.{name}", {}) for stream, name in homes]
        return sum(int(info["num_pending"]) + int(info["num_ack_pending"]) for info in infos)

    async def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick delivered at the due time; arming a timer again moves it."""
        headers = {
            "Nats-Schedule": f"@at {format_time_ns(due_ns)}",
            "Nats-Schedule-Target": subjects.timer_due(key),
            "Nats-Schedule-TTL": TICK_TTL,
        }
        subject = subjects.timer_arm(key, timer)
        await patiently(self.store, self.timeout_s, lambda: self._nats.send(subject, b"", headers))

    async def fullness(self, shard: int) -> float:
        """Return how much of a shard's room is used, from 0 to 1."""
        info = await self.link.call(f"STREAM.INFO.{subjects.ev_stream(shard)}", {})
        room = int(info["config"].get("max_bytes") or 0)
        return int(info["state"]["bytes"]) / room if room > 0 else 0.0

    async def close(self) -> None:
        """Stop consuming and disconnect."""
        for intake in list(self._intakes):
            await intake.close()
        await self.link.close()


async def listen(link: Link, hear: Callable[[RunKey, bytes], None]) -> None:
    """Be told of the keys that are stored from now on, and with an empty one of those that are deleted."""

    def deliver(message: Msg) -> None:
        cell, headers = message.subject.removeprefix(f"{subjects.HEARD}."), message.headers or {}
        run = subjects.run_at(cell)
        # A process of the same user could have an answer sent here, which is about something else.
        stored = headers.get("Nats-Stream") == subjects.KEY_STREAM and headers.get("Nats-Subject") == cell
        if run is not None and stored:
            hear(run, message.data)

    await link.overhear(subjects.HEARD_KEYS, deliver)


def format_time_ns(time_ns: int) -> str:
    """Write a time as RFC 3339, to the nanosecond."""
    seconds, nanoseconds = divmod(min(max(time_ns, 0), _MAX_DUE_NS), 1_000_000_000)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def parse_time_ns(text: str) -> int:
    """Read an RFC 3339 time in UTC, to the nanosecond."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return int((moment - _EPOCH).total_seconds()) * 1_000_000_000 + int(f"{fraction:0<9}"[:9] or 0)
