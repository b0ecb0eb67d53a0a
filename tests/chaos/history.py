"""What happened, as rows: the log of every run, flattened; what was struck; what was asked for.

The log is read past the gateway, by a follower of every shard with the administrator's own connection, so
that what a client is told can be compared with what is there.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bus.link import Link
from bus.log import NatsLog
from core.ports import Record
from handrail.v1 import event_pb2

CREDENTIALS_FILE = "credentials.json"
READ_TIMEOUT_S = 30.0

Deed = Literal["kill", "stop", "cut", "hold"]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing said in a run's log. What was said before another in one event has a place in it."""

    run: str
    sequence: int
    place: int
    time_ns: int
    kind: str
    writer: str
    id: str
    body: Any
    # The attempt in the subject, for answers; "" for others.
    attempt: str = ""

    @property
    def role(self) -> str:
        """Who wrote it: gateway, decider, planner, executor, verifier, worker."""
        return self.writer.split("/")[0].split("-")[0]

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands in its shard."""
        return self.sequence, self.place


@dataclass(slots=True)
class Asked:
    """A goal that was submitted: what it is called, which course it takes, its effects."""

    ref: str
    course: str
    # The effects that are owed once the run is done, each (tool, ref); those of the world's own tables say
    # which have keys.
    owes: tuple[tuple[str, str], ...] = ()
    # What may become of it: "done", "failed", "cancelled".
    ends: tuple[str, ...] = ("done",)
    # The commands that the course itself gives.
    commands: tuple[str, ...] = ()
    # The compensations that are owed once the run is undone as it was wanted, each (tool, ref).
    undoes: tuple[tuple[str, str], ...] = ()
    run: str = ""
    asked_ns: int = 0
    acknowledged_ns: int = 0


@dataclass(slots=True)
class Stroke:
    """One deed upon one process, and what was seen of it."""

    number: int
    target: str
    deed: Deed
    point: str = ""
    course: str = ""
    pause_s: float = 0.0
    after_s: float = 0.0
    pid: int = 0
    # Which processes held minds then.
    minds: set[int] = field(default_factory=set)
    # When it was struck, when a stopped or held one was let go (or None), when its successor was there.
    struck_ns: int = 0
    freed_ns: int = 0
    alive_ns: int = 0
    # The first event that only the revived part can have made, and when what it had in hand went on.
    back_ns: int = 0
    resumed_ns: list[int] = field(default_factory=list)
    # What it had in hand: (run, step or attempt).
    in_hand: list[tuple[str, str]] = field(default_factory=list)
    # Another stroke fell before it was back: its times say nothing.
    crowded: bool = False
    failure: str = ""

    def __str__(self) -> str:
        how = f"at {self.point}" if self.point else f"after {self.after_s:.2f} s"
        pause = f" for {self.pause_s:.1f} s" if self.pause_s else ""
        return f"#{self.number} {self.deed} {self.target} {how}{pause}"

    @property
    def since_ns(self) -> int:
        """From when on recovery counts: the kill, or the end of a stop."""
        return self.freed_ns or self.struck_ns


def rows(record: Record) -> Iterator[Row]:
    """Flatten one record: what was said before comes first."""
    event = record.event
    if event is None:
        return
    said = [*event.before, event]
    for place, one in enumerate(said):
        kind = one.WhichOneof("body") or ""
        body = getattr(one, kind) if kind else None
        yield Row(
            run=record.address.key.run,
            sequence=record.sequence,
            place=place,
            time_ns=record.time_ns,
            kind=kind,
            writer=one.writer or event.writer,
            id=one.id or event.id,
            body=body,
            attempt=str(getattr(body, "attempt", "")),
        )


class Tap:
    """Follows every shard's log from its beginning, and keeps it."""

    def __init__(self, address: str, data: Path, shards: int) -> None:
        """`address` is where the broker is found, over all its restarts."""
        self._address = address
        self._data = data
        self._shards = shards
        self._log: NatsLog | None = None
        self._following: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.runs: defaultdict[str, list[Row]] = defaultdict(list)
        self.rows: list[Row] = []
        self.stored: dict[tuple[int, int], str] = {}

    async def start(self) -> None:
        """Connect and follow."""
        self._log = await self._connect()
        self._following = [asyncio.create_task(self._follow(shard)) for shard in range(self._shards)]

    async def stop(self) -> None:
        """Disconnect."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        if self._log is not None:
            await self._log.close()

    async def wait_for(self, what: str, condition: Callable[[], Any], timeout_s: float) -> Any:
        """Wait until a condition on the log holds, and return what it gave."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := condition()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not within {timeout_s:g} s") from None
        return found

    def of(self, run: str, *kinds: str) -> list[Row]:
        """Return what was said in a run, of some kinds."""
        return [row for row in self.runs.get(run, []) if not kinds or row.kind in kinds]

    async def missing(self, timeout_s: float = READ_TIMEOUT_S) -> list[str]:
        """Read everything again, and return what was there before and is not any more, or is another."""
        # What comes while it is read may lie behind what is read.
        seen = dict(self.stored)
        found: dict[tuple[int, int], str] = {}
        log = await self._connect()
        try:
            for shard in range(self._shards):
                last = max((sequence for at, sequence in seen if at == shard), default=0)
                if not last:
                    continue
                # A log that has lost its end never comes to it.
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        async for record in log.scan(shard, filters=("ev.{shard}.>",)):
                            found[shard, record.sequence] = record.event.id if record.event else ""
                            if record.sequence >= last:
                                break
        finally:
            await log.close()
        return [
            f"event {sequence} of shard {shard} was {id}, and is {found.get((shard, sequence), 'gone')}"
            for (shard, sequence), id in seen.items()
            if found.get((shard, sequence)) != id
        ]

    async def _connect(self) -> NatsLog:
        passwords = json.loads((self._data / CREDENTIALS_FILE).read_text())
        link = await Link.connect(
            f"nats://{self._address}",
            user="admin",
            password=passwords["admin"],
            name="tap/0",
            inbox_prefix="_INBOX_admin",
        )
        return NatsLog(link, shards=tuple(range(self._shards)), timeout_s=READ_TIMEOUT_S)

    async def _follow(self, shard: int) -> None:
        assert self._log is not None
        async for record in self._log.scan(shard, filters=("ev.{shard}.>",)):
            self.stored[shard, record.sequence] = record.event.id if record.event else ""
            for row in rows(record):
                self.runs[row.run].append(row)
                self.rows.append(row)
            self._changed.set()


def status_name(status: int) -> str:
    """Return the word for a run's status."""
    return event_pb2.RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()  # type: ignore[arg-type]
