"""The ports through which the rest of the world is reached, and the few values that cross them.

Every port has a real and an in-memory implementation and one contract suite for both. Nothing here does
anything; errors that an implementation may raise are below `LogError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from core.errors import HandrailError
from handrail.v1 import event_pb2, plan_pb2

Channel = Literal["cmd", "dec", "ans"]


@dataclass(frozen=True, slots=True)
class RunKey:
    """Where a run lives: its shard (for life), its tenant, its id."""

    shard: int
    tenant: str
    run: str


@dataclass(frozen=True, slots=True)
class Address:
    """A subject of a run's log, taken apart. `topic` is what follows the channel:

    ("submit",), ("ask", "worker", pool), ("note", kind), ("claim", pool, "revoke", attempt),
    (role, pool, kind, attempt).
    """

    key: RunKey
    channel: Channel
    topic: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """An event where it stands in the log. `event` is None where it could not be decoded.

    `trace` is the W3C trace context that came with it, as it was written, or "". `forgotten` says that it
    could be decoded until its run was forgotten.
    """

    sequence: int
    time_ns: int
    address: Address
    event: event_pb2.Event | None
    trace: str = ""
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Fence:
    """A publish is refused unless the last sequence on `filter` (a subject, wildcards allowed) is this."""

    filter: str
    sequence: int


class LogError(HandrailError):
    """The log did not do what was asked."""


class FenceLost(LogError):
    """Another writer came first."""


class LogUnavailable(LogError):
    """The broker cannot be reached, or did not answer in time: the outcome is unknown."""


class LogFull(LogError):
    """The broker has no room: nothing was written."""


class LogForbidden(LogError):
    """The broker user may not do this."""


class RunForgotten(LogError):
    """The run's key has been deleted: what was written under it nobody can read, and nothing more is."""


class Delivery(Protocol):
    """A message handed to a consumer; redelivered until it is acknowledged."""

    @property
    def key(self) -> RunKey:
        """The run that it belongs to."""
        ...

    @property
    def record(self) -> Record | None:
        """The event; None for a timer's tick."""
        ...

    @property
    def time_ns(self) -> int:
        """When the broker stored it, by the broker's clock."""
        ...

    @property
    def deliveries(self) -> int:
        """How many times it has been delivered, this one included."""
        ...

    async def ack(self) -> None:
        """Never deliver it again."""
        ...

    async def nak(self, delay_s: float = 0.0) -> None:
        """Deliver it again after a delay."""
        ...

    async def progress(self) -> None:
        """Say that it is still being worked on."""
        ...


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable consumer, one for each open shard: its name and what it filters.

    `filters` are subject patterns in which `{shard}` stands for the shard's number. A pinned consumer
    delivers to one client at a time, which is the lease of the shard.
    """

    name: str
    filters: tuple[str, ...]
    stream: Literal["ev", "timer"] = "ev"
    pinned: bool = False
    ack_wait_s: float = 1.5
    max_ack_pending: int = 1_000


class Log(Protocol):
    """The log: fenced appends, reads in stream order, durable consumers, timers, blobs, request cells."""

    @property
    def shards(self) -> tuple[int, ...]:
        """The open shards."""
        ...

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Append durably, with a trace context beside the event, and return the sequence.

        With a fence an unknown outcome is resolved by looking for the event's own id and retrying, until
        the log's timeout. Raises FenceLost, LogUnavailable, LogFull, LogForbidden.
        """
        ...

    async def read(self, key: RunKey, *, after: int = 0) -> list[Record]:
        """Return every record of a run that was durable when this was called, in stream order."""
        ...

    async def read_runs(self, keys: Iterable[RunKey]) -> dict[RunKey, list[Record]]:
        """Return every record of several runs, as `read` does, for little more than it takes to read one."""
        ...

    def follow(self, key: RunKey, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield the records of a run, those to come included, across reconnections, without end."""
        ...

    def scan(self, shard: int, *, filters: tuple[str, ...], after: int = 0) -> AsyncIterator[Record]:
        """Yield a shard's records on any of the subject patterns, in stream order, without end.

        In a pattern `{shard}` stands for the shard's number. Those to come are included, across
        reconnections, as for `follow`.
        """
        ...

    async def last(self, shard: int, filter: str) -> Record | None:
        """Return the last record on a subject filter, read through the stream's leader."""
        ...

    async def end(self, key: RunKey) -> int:
        """Return the sequence of the last message of a run, were it one that is no record; 0 without any."""
        ...

    async def get(self, shard: int, sequence: int) -> Record | None:
        """Return one record by its sequence."""
        ...

    def consume(self, consumer: Consumer, *, limit: int) -> AsyncIterator[Delivery]:
        """Yield deliveries of all shards, at most `limit` of them unanswered (ack or nak) at a time."""
        ...

    async def backlog(self, consumer: Consumer) -> int:
        """Return how many messages of all shards a durable consumer has yet to answer."""
        ...

    async def arm(self, key: RunKey, timer: str, due_ns: int) -> None:
        """Have a tick delivered at the due time; arming a timer again moves it."""
        ...

    async def put_blob(self, key: RunKey, content: bytes) -> plan_pb2.Blob:
        """Store a large value under its digest; storing it twice is storing it once."""
        ...

    async def get_blob(self, key: RunKey, blob: plan_pb2.Blob) -> bytes:
        """Return a large value; raises LogError where it is incomplete or its digest is wrong."""
        ...

    async def begin(self, key: RunKey) -> None:
        """Make the key under which a run's payloads are encrypted; what is written first makes it as well."""
        ...

    async def key_of(self, key: RunKey) -> bytes | None:
        """Return that key; None where there is none. Raises RunForgotten where it was deleted."""
        ...

    async def erase(self, key: RunKey) -> None:
        """Delete that key for good; erasing it twice is erasing it once."""
        ...

    async def reserve(self, cell: str, content: bytes) -> bytes:
        """Write a request cell if it is empty; return what it holds now."""
        ...

    async def fullness(self, shard: int) -> float:
        """Return how much of a shard's room is used, from 0 to 1."""
        ...

    async def close(self) -> None:
        """Stop consuming and disconnect."""
        ...
