"""One connection to the broker: cheap requests, and errors that say at once what happened.

Answers arrive on one wildcard subscription below the user's own inbox prefix. A permission violation, which
the broker reports apart from any answer, fails what waits on that subject; a lost connection fails all that
waits. Reconnecting never ends; only `close` does. What is sent while disconnected is not kept, except acks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from nats import errors as nats_errors
from nats.aio import client as nats_client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.answers import parse_answer, parse_headers, position, status
from core.ports import LogError, LogForbidden, LogUnavailable

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 5.0
RECONNECT_WAIT_S = 0.1
PING_INTERVAL_S = 0.7
"""Two pings unanswered at the third: a broker that hangs is noticed after about two seconds."""
MAX_PINGS_OUTSTANDING = 2
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

logger = logging.getLogger("handrail.bus")


class Client(nats_client.Client):
    """The client, reading headers at a fraction of the cost: every decision has some, and they are ours."""

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        return parse_headers(raw)


@dataclass(slots=True)
class _Waiter:
    """What waits for messages on one subject of the shared inbox."""

    subject: str
    deliver: Callable[[Msg], None]
    fail: Callable[[LogError], None]


class Inbox:
    """Subjects of one's own to be answered on; draining it makes the broker forget what waits to answer."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        concerns: Callable[[str], bool],
        fail: Callable[[LogError], None],
    ) -> None:
        self._client = client
        self.prefix = prefix
        self.concerns = concerns
        self.fail = fail
        self.subscription: Subscription | None = None

    def subject(self, token: str) -> str:
        """Return the subject on which an answer with this token arrives."""
        return f"{self.prefix}.{token}"

    async def drain(self) -> None:
        """Withdraw the interest, and handle what is under way already."""
        subscription = self.subscription
        if subscription is None:
            return
        # When the connection goes meanwhile, the broker has forgotten it anyway.
        with contextlib.suppress(nats_errors.Error, TimeoutError):
            # The client's own drain may remove the subscription before the broker has.
            await self._client._send_unsubscribe(subscription._id)
            await _flush(self._client)
            while subscription.pending_msgs:
                await asyncio.sleep(0)
        await self.drop()

    async def drop(self) -> None:
        """Forget it at once."""
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            with contextlib.suppress(nats_errors.Error):
                await subscription.unsubscribe()


class Link:
    """A connection as one broker user."""

    def __init__(self, url: str, *, user: str, password: str, name: str, inbox_prefix: str) -> None:
        self.user = user or "(nobody)"
        self.url = url
        self.connected = asyncio.Event()
        """Set while the broker can be reached."""
        self._credentials = (user, password)
        self._name = name
        self._own = f"{inbox_prefix}.{uuid4().hex}"
        self.nowhere = f"{self._own}.none"
        """A reply subject for answers that nobody needs."""
        self._client = Client()
        self._waiters: dict[str, _Waiter] = {}
        self._homes: dict[str, _Waiter] = {}
        self._inboxes: set[Inbox] = set()
        self._overheard: dict[str, Callable[[Msg], None]] = {}
        self._tokens = 0
        self._closing = False
        self._dialling = False
        self._refused: asyncio.Future[str] | None = None
        self._revival: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        user: str = "",
        password: str = "",
        name: str = "handrail",
        inbox_prefix: str = "_INBOX",
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> Link:
        """Connect, and make sure that answers can be heard.

        Raises LogUnavailable where nobody answers in time, LogForbidden where the broker refuses the user.
        """
        link = cls(url, user=user, password=password, name=name, inbox_prefix=inbox_prefix)
        try:
            await link._dial(timeout_s)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def closed(self) -> bool:
        """Whether it was closed, for good."""
        return self._closing

    # --- speaking --------------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Msg:
        """Publish and return the answer. Raises LogUnavailable (outcome unknown) or LogForbidden."""
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def deliver(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        def fail(error: LogError) -> None:
            if not answer.done():
                answer.set_exception(error)

        reply = self.listen(subject, deliver, fail)
        try:
            await self.publish(subject, payload, reply=reply, headers=headers)
            async with asyncio.timeout(timeout_s):
                message = await answer
        except TimeoutError:
            raise LogUnavailable(
                f"the broker at {self.url} did not answer on {subject} within {timeout_s:g} s: "
                "the outcome is unknown; try again"
            ) from None
        finally:
            self.forget(reply)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()
        if status(message) == "503":
            raise LogUnavailable(
                f"nobody listens on {subject}: JetStream is not ready, has run out of disk, or the streams "
                "and consumers have not been set up"
            )
        return message

    async def call(
        self, subject: str, body: Mapping[str, Any], *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Make an API request in JSON and return its answer; its error raises as one of LogError's kinds."""
        payload = json.dumps(body, separators=(",", ":")).encode()
        message = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        return parse_answer(message, subject)

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a message; raises LogUnavailable while disconnected."""
        if not self.connected.is_set():
            raise LogUnavailable(f"the broker at {self.url} cannot be reached: is it running?")
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except nats_errors.MaxPayloadError:
            raise LogError(
                f"{len(payload)} bytes on {subject} are more than the broker takes: put large values in blobs"
            ) from None
        except nats_errors.Error as error:
            raise LogUnavailable(f"could not send on {subject}: {error!r}; try again") from error

    async def answer(self, subject: str, payload: bytes) -> None:
        """Send an ack: kept over a short disconnection, lost over a long one, when redelivery takes over."""
        with contextlib.suppress(nats_errors.Error):
            await self._client.publish(subject, payload)

    # --- listening -------------------------------------------------------------------------------

    def listen(
        self,
        subject: str,
        deliver: Callable[[Msg], None],
        fail: Callable[[LogError], None],
        *,
        home: str = "",
    ) -> str:
        """Return a reply subject for requests on `subject`; until `forget`, its messages are delivered.

        What a consumer delivers comes under its stored subject, so it is known by the consumer's `home`.
        """
        self._tokens += 1
        token = f"{self._tokens:x}"
        waiter = self._waiters[token] = _Waiter(subject, deliver, fail)
        if home:
            self._homes[home] = waiter
        return f"{self._own}.{token}"

    def forget(self, reply: str, *, home: str = "") -> None:
        """Listen on a reply subject no longer."""
        self._waiters.pop(reply.rpartition(".")[2], None)
        self._homes.pop(home, None)

    async def subscribe(
        self,
        deliver: Callable[[Msg], Awaitable[None]],
        fail: Callable[[LogError], None],
        concerns: Callable[[str], bool],
    ) -> Inbox:
        """Open an inbox apart from the shared one.

        `fail` hears of a lost connection, after which the inbox is dead, and of violations on subjects that
        it is concerned with.
        """
        inbox = Inbox(self._client, f"{self._own}-{uuid4().hex[:12]}", concerns, fail)
        try:
            inbox.subscription = await self._client.subscribe(
                f"{inbox.prefix}.*", cb=deliver, pending_bytes_limit=0
            )
        except nats_errors.Error as error:
            raise LogUnavailable(f"could not subscribe at {self.url}: {error!r}; try again") from error
        self._inboxes = {known for known in self._inboxes if known.subscription is not None} | {inbox}
        return inbox

    async def overhear(self, subject: str, deliver: Callable[[Msg], None]) -> None:
        """Be told of what others publish, as far as the user may, and while connected."""
        self._overheard[subject] = deliver
        # While it connects it comes to this by itself.
        if not self._dialling:
            await self._overhear(subject, deliver)

    async def _overhear(self, subject: str, deliver: Callable[[Msg], None]) -> None:
        async def hand_over(message: Msg) -> None:
            deliver(message)

        # The next connection does it where this one is lost.
        with contextlib.suppress(nats_errors.Error):
            await self._client.subscribe(subject, cb=hand_over)

    async def close(self) -> None:
        """Disconnect for good."""
        self._closing = True
        self.connected.clear()
        self._fail_all(LogUnavailable("the connection to the broker was closed"))
        if self._revival is not None:
            self._revival.cancel()
        with contextlib.suppress(nats_errors.Error, OSError):
            await self._client.close()

    # --- the connection's life -------------------------------------------------------------------

    async def _dial(self, timeout_s: float) -> None:
        user, password = self._credentials
        self._client = Client()
        self._refused = asyncio.get_running_loop().create_future()
        self._dialling = True
        options: dict[str, Any] = {"user": user, "password": password} if user else {}
        connecting = asyncio.create_task(
            self._client.connect(
                self.url,
                name=self._name,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_connected,
                closed_cb=self._on_closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]
                ping_interval=PING_INTERVAL_S,  # type: ignore[arg-type]
                max_outstanding_pings=MAX_PINGS_OUTSTANDING,
                **options,
            )
        )
        try:
            either: set[asyncio.Future[Any]] = {connecting, self._refused}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() and not self._refused.done():
                raise LogUnavailable(
                    f"no broker answered at {self.url} within {timeout_s:g} s: is it running?"
                )
            if not self._refused.done():
                connecting.result()
                # What is in flight is bounded by what was asked for, so no byte limit is needed here.
                await self._client.subscribe(f"{self._own}.*", cb=self._on_message, pending_bytes_limit=0)
                await _flush(self._client)
            if self._refused.done():
                raise LogForbidden(
                    f"the broker at {self.url} refused user {self.user}: {self._refused.result()}; "
                    "check the credentials, and that this is your broker"
                )
        except BaseException as error:
            connecting.cancel()
            await self._client.close()
            if isinstance(error, nats_errors.Error | OSError):
                raise LogUnavailable(f"could not connect to the broker at {self.url}: {error!r}") from error
            raise
        finally:
            self._dialling = False
        for overheard in list(self._overheard.items()):
            await self._overhear(*overheard)
        self.connected.set()

    async def _on_message(self, message: Msg) -> None:
        at = position(message.reply)
        if at is None:
            waiter = self._waiters.get(message.subject.rpartition(".")[2])
        else:
            waiter = self._homes.get(at.home)
        if waiter is not None:
            waiter.deliver(message)

    async def _on_connected(self) -> None:
        self.connected.set()

    async def _on_disconnected(self) -> None:
        self.connected.clear()
        inboxes, self._inboxes = self._inboxes, set()
        self._fail_all(LogUnavailable(f"lost the connection to the broker at {self.url}"), inboxes)
        for inbox in inboxes:
            await inbox.drop()

    async def _on_closed(self) -> None:
        # The client gives up where the broker sends an error that it does not know; we do not.
        if not (self._closing or self._dialling) and self._revival is None:
            self._revival = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        while not self._closing:
            try:
                await self._dial(CONNECT_TIMEOUT_S)
                break
            except LogError as error:
                logger.warning("reconnecting to %s: %s", self.url, error)
                await asyncio.sleep(RECONNECT_WAIT_S)
        self._revival = None

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower()
        violation = _VIOLATION.search(text)
        if violation is not None:
            self._on_violation(violation.group(1), violation.group(2))
        elif "authorization violation" in text and self._refused is not None and not self._refused.done():
            self._refused.set_result("authorization violation")
        else:
            logger.debug("broker %s: %r", self.url, error)

    def _on_violation(self, action: str, subject: str) -> None:
        """Fail what waits on a subject; the client hands it over in lower case."""
        error = LogForbidden(
            f"broker user {self.user} may not {'subscribe to' if action == 'subscription' else 'publish to'} "
            f"{subject}: use the user of this role and pool, or correct the broker's permissions"
        )
        logger.warning("%s", error)
        own = self._own.lower()
        if action == "subscription" and subject.startswith(f"{own}.") and self._refused is not None:
            if not self._refused.done():
                self._refused.set_result(str(error))
            return
        for waiter in list(self._waiters.values()):
            if waiter.subject.lower() == subject:
                waiter.fail(error)
        for inbox in self._inboxes:
            if subject.startswith(inbox.prefix.lower()) or inbox.concerns(subject):
                inbox.fail(error)

    def _fail_all(self, error: LogError, inboxes: set[Inbox] | None = None) -> None:
        for waiter in list(self._waiters.values()):
            waiter.fail(error)
        for inbox in inboxes if inboxes is not None else set(self._inboxes):
            inbox.fail(error)


async def _flush(client: Client) -> None:
    """Wait until the broker has met all that was sent; the client's first ping may overtake it."""
    await client.flush()
    await client.flush()
