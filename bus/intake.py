"""The deliveries of one durable consumer on all its shards, over one shared credit.

With credit for every shard, a pull stands open on each. With less, shards are asked in turn for one message
that is there, and only when none has any does a pull stand open on all of them; what comes when the credit is
used up is handed back (NAK), and no pull is made until there is credit again. A pinned consumer keeps its pin
by pulling at least every second, with credit or without.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from bus import subjects
from bus.answers import Position, position, status, trace_of
from bus.link import Inbox, Link
from bus.store import Stored
from bus.streams import PRIORITY_GROUP, consumer_home
from core.ports import Consumer, LogError, LogUnavailable, Record, RunKey

MAX_BATCH = 64
PULL_EXPIRES_S = 2.0
PINNED_EXPIRES_S = 1.0
"""Half of the time after which a silent holder loses its pin."""
ANSWER_GRACE_S = 1.0
"""A pull that has not ended by then has been lost."""
TICK_S = 0.25
RETRY_WAIT_S = 0.1
MISSING_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 1.0
_SECOND_NS = 1_000_000_000
_EMPTY = ("404", "408")
_FATAL = ("push based", "MaxRequest")


@dataclass(slots=True, eq=False)
class NatsDelivery:
    """A message of a durable consumer; the first ack or nak answers it."""

    key: RunKey
    record: Record | None
    time_ns: int
    deliveries: int
    # What the record is read of; None for a tick.
    stored: Stored | None
    _intake: Intake
    _reply: str
    _answered: bool = False

    async def ack(self) -> None:
        """Never deliver it again; where the ack is lost it does come again."""
        await self._answer(b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Deliver it again after a delay."""
        await self._answer(b"-NAK" if delay_s <= 0 else b'-NAK {"delay":%d}' % int(delay_s * _SECOND_NS))

    async def progress(self) -> None:
        """Say that it is still being worked on."""
        if not self._answered:
            await self._intake.answer(self._reply, b"+WPI", done=False)

    async def _answer(self, payload: bytes) -> None:
        if not self._answered:
            self._answered = True
            await self._intake.answer(self._reply, payload, done=True)


@dataclass(slots=True, eq=False)
class _Pull:
    """The pull on one shard: how many messages it may still bring, and what the last one told."""

    subject: str
    home: str
    open: int = 0
    token: str = ""
    ends_s: float = 0.0
    not_before_s: float = 0.0
    made_s: float = 0.0
    missing_since_s: float = 0.0
    # Had nothing when it was last asked.
    empty: bool = False
    pin: str = ""


class Intake:
    """A continuous pull; `next` hands out what has come, until `close`."""

    def __init__(
        self,
        link: Link,
        consumer: Consumer,
        shards: tuple[int, ...],
        limit: int,
        read: Callable[[Stored], Awaitable[Record | None]],
        expect: Callable[[str, bytes], None],
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._link = link
        self._read = read
        self._expect = expect
        self._consumer = consumer
        self._limit = limit
        self._expires_s = PINNED_EXPIRES_S if consumer.pinned else PULL_EXPIRES_S
        homes = [".".join(consumer_home(consumer, shard)) for shard in shards]
        # In the order in which they are asked: whoever was asked goes to the end.
        self._pulls = [_Pull(f"$JS.API.CONSUMER.MSG.NEXT.{home}", home) for home in homes]
        self._by_home = {pull.home: pull for pull in self._pulls}
        self._by_token: dict[str, _Pull] = {}
        self._asked: _Pull | None = None
        self._tokens = 0
        self._unanswered = 0
        # Holds no more than `limit` deliveries, and one error or end.
        self._ready: asyncio.Queue[NatsDelivery | LogError | None] = asyncio.Queue()
        self._inbox: Inbox | None = None
        self._wake = asyncio.Event()
        self._closed = False
        self._pump: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to pull."""
        self._pump = asyncio.create_task(self._keep_pulling())

    async def next(self) -> NatsDelivery | None:
        """Return the next delivery, or None after the end; raises what stopped it."""
        while True:
            item = await self._ready.get()
            if isinstance(item, LogError):
                raise item
            if item is None or item.stored is None:
                return item
            # Not when it arrives: its run's key may have to come first, and nothing else waits for that.
            try:
                item.record = await self._read(item.stored)
                return item
            except LogUnavailable:
                await item.nak(RETRY_WAIT_S)

    async def answer(self, reply: str, payload: bytes, *, done: bool) -> None:
        """Send an ack; the last one of a delivery gives its credit back."""
        await self._link.answer(reply, payload)
        if done:
            self._unanswered -= 1
            if self._limit - self._unanswered <= len(self._pulls):
                self._wake.set()

    async def close(self) -> None:
        """Stop pulling, and hand back what nobody has taken."""
        if self._closed:
            return
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
        if self._inbox is not None:
            await asyncio.wait({asyncio.create_task(self._inbox.drain())}, timeout=DRAIN_TIMEOUT_S)
        while not self._ready.empty():
            item = self._ready.get_nowait()
            if isinstance(item, NatsDelivery):
                await item.nak()
        self._ready.put_nowait(None)

    # --- pulling ---------------------------------------------------------------------------------

    async def _keep_pulling(self) -> None:
        while True:
            self._wake.clear()
            if self._link.connected.is_set():
                try:
                    if self._inbox is None:
                        self._inbox = await self._link.subscribe(self._deliver, self._fail, self._concerns)
                    await self._fill()
                except LogUnavailable:
                    self._forget_pulls()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _fill(self) -> None:
        """Make the pulls that the credit allows."""
        inbox, credit, now = self._inbox, self._limit - self._unanswered, self._loop.time()
        if inbox is None or self._closed:
            return
        if credit <= 0:
            for pull in self._pulls:
                pull.empty = False
            await self._keep_pins(now)
            return
        for pull in self._pulls:
            if pull.open and now >= pull.ends_s:
                self._shut(pull)
        idle = [pull for pull in self._pulls if not pull.open and now >= pull.not_before_s]
        if credit >= len(self._pulls):
            for pull in idle:
                await self._make(inbox, pull, min(MAX_BATCH, credit // len(self._pulls)))
        elif self._asked is None:
            ask = next((pull for pull in idle if not pull.empty), None)
            if ask is None:
                for pull in idle:
                    await self._make(inbox, pull, 1)
            else:
                self._asked = ask
                self._pulls.remove(ask)
                self._pulls.append(ask)
                await self._make(inbox, ask, 1, standing=False)

    async def _make(self, inbox: Inbox, pull: _Pull, batch: int, *, standing: bool = True) -> None:
        self._tokens += 1
        pull.token = f"{self._tokens:x}"
        self._by_token[pull.token] = pull
        pull.open, pull.made_s = batch, self._loop.time()
        pull.ends_s = pull.made_s + ANSWER_GRACE_S
        body: dict[str, int | str | bool] = {"batch": batch}
        if standing:
            pull.ends_s += self._expires_s
            body["expires"] = int(self._expires_s * _SECOND_NS)
        else:
            body["no_wait"] = True
        await self._link.publish(pull.subject, self._request(pull, body), reply=inbox.subject(pull.token))

    async def _keep_pins(self, now: float) -> None:
        """Pull on pinned shards without room for any message, which says only that we live."""
        for pull in self._pulls:
            if pull.pin and now >= pull.made_s + PINNED_EXPIRES_S:
                pull.made_s = now
                body: dict[str, int | str | bool] = {"batch": 1, "max_bytes": 1, "expires": _SECOND_NS}
                await self._link.publish(pull.subject, self._request(pull, body), reply=self._link.nowhere)

    def _request(self, pull: _Pull, body: dict[str, int | str | bool]) -> bytes:
        if self._consumer.pinned:
            body["group"] = PRIORITY_GROUP
            if pull.pin:
                body["id"] = pull.pin
        return json.dumps(body, separators=(",", ":")).encode()

    def _shut(self, pull: _Pull) -> None:
        self._by_token.pop(pull.token, None)
        pull.open = 0
        if self._asked is pull:
            self._asked = None

    def _forget_pulls(self) -> None:
        for pull in self._pulls:
            self._shut(pull)

    # --- receiving -------------------------------------------------------------------------------

    async def _deliver(self, message: Msg) -> None:
        at = position(message.reply)
        if at is None:
            pull = self._by_token.get(message.subject.rpartition(".")[2])
            if pull is not None and (code := status(message)):
                self._end(pull, code, str((message.headers or {}).get("Description", "")))
        else:
            pull = self._by_home[at.home]
            pull.missing_since_s, pull.empty = 0.0, False
            if self._consumer.pinned and message.headers:
                pull.pin = message.headers.get("Nats-Pin-Id", pull.pin)
            if self._closed or self._unanswered >= self._limit:
                # It has used up a place of its pull all the same.
                await self._link.answer(message.reply, b"-NAK")
            else:
                await self._take(message, at)
            if pull.open <= 1:
                self._shut(pull)
            else:
                pull.open -= 1
        if pull is not None and not pull.open:
            try:
                await self._fill()
            except LogUnavailable:
                self._forget_pulls()

    async def _take(self, message: Msg, at: Position) -> None:
        stored: Stored | None = None
        try:
            if self._consumer.stream == "timer":
                key = subjects.parse_due(message.subject)
            else:
                key = subjects.parse(message.subject).key
                stored = Stored(at.sequence, at.time_ns, message.subject, message.data, trace_of(message))
                self._expect(message.subject, message.data)
        except subjects.BadSubject:
            # Not of the log's form, and never will be.
            await self._link.answer(message.reply, b"+ACK")
            return
        self._unanswered += 1
        self._ready.put_nowait(
            NatsDelivery(key, None, at.time_ns, at.deliveries, stored, self, message.reply)
        )

    def _end(self, pull: _Pull, code: str, said: str) -> None:
        """Meet the end of a pull that had room left."""
        self._shut(pull)
        now = self._loop.time()
        if code in _EMPTY:
            pull.empty = True
        elif code == "423":
            pull.pin = ""
        elif code == "400" or any(sign in said for sign in _FATAL):
            self._fail(LogError(f"the broker refuses to serve consumer {pull.home}: {said}; set it up again"))
        else:
            pull.not_before_s = now + RETRY_WAIT_S
        if code != "503":
            pull.missing_since_s = 0.0
            return
        pull.missing_since_s = pull.missing_since_s or now
        if now - pull.missing_since_s > MISSING_TIMEOUT_S:
            self._fail(LogError(f"consumer {pull.home} does not exist: set up the streams and consumers"))

    def _concerns(self, subject: str) -> bool:
        return any(f".{pull.home.lower()}." in f"{subject}." for pull in self._pulls)

    def _fail(self, error: LogError) -> None:
        if isinstance(error, LogUnavailable):
            # The connection is lost; the pump begins anew when it is back.
            self._inbox = None
            self._forget_pulls()
        elif not self._closed:
            self._ready.put_nowait(error)
