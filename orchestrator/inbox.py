"""The inbox: the gates that wait for somebody, as a table of the listing's file.

Like the listing it is fed from the shards' logs and may be thrown away. A gate is there from when it is
opened until it is closed, its run has ended, or that is undone.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from core.ports import Record, RunKey
from core.run import unbundled
from core.view import gate_id, left_open
from handrail.v1 import event_pb2, run_service_pb2

MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_UNHEARD = 1_000
"""Changes that a watcher has not taken yet; one that is slower begins anew."""

SCHEMA = """
CREATE TABLE gate (
    rank TEXT PRIMARY KEY, id TEXT NOT NULL, tenant TEXT NOT NULL, run TEXT NOT NULL, content BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX gate_by_run ON gate (run);
"""
_LEAVES_OPEN = ("finished", "undo_planned", "undo_ended", "forgotten")
"""From then on nobody decides any more at the gates that were open. The last, where none before it was heard
while it could be read."""
_ARMS = frozenset({"gate_opened", "gate_closed", *_LEAVES_OPEN})
_INSERT = "INSERT INTO gate (rank, id, tenant, run, content) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_PAGE = "SELECT rank, content FROM gate WHERE tenant = ? AND rank > ? ORDER BY rank LIMIT ?"


@dataclass(frozen=True, slots=True)
class Page:
    """Some open gates, and the rank after which there are more, or ""."""

    gates: list[run_service_pb2.Gate]
    more: str


class Changes:
    """What one watcher has yet to hear; `None` ends it."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._queue: asyncio.Queue[run_service_pb2.Gate | None] = asyncio.Queue()

    def tell(self, gate: run_service_pb2.Gate) -> None:
        """Tell of a gate that was opened or closed."""
        if self._queue.qsize() <= MAX_UNHEARD:
            self._queue.put_nowait(gate if self._queue.qsize() < MAX_UNHEARD else None)

    def end(self) -> None:
        """Say that what was told cannot be gone on with."""
        self._queue.put_nowait(None)

    async def next(self) -> run_service_pb2.Gate | None:
        """Return the next change; None where the watcher must begin anew."""
        return await self._queue.get()


class Inbox:
    """The table of gates, on the listing's connection, and those who watch it."""

    def __init__(self) -> None:
        self._watchers: set[Changes] = set()

    def watch(self, tenant: str) -> Changes:
        """Begin to hear of changes."""
        changes = Changes(tenant)
        self._watchers.add(changes)
        return changes

    def forget(self, changes: Changes) -> None:
        """Hear no more."""
        self._watchers.discard(changes)

    def begin_anew(self) -> None:
        """End every watch: the gates are read again from the log."""
        for changes in self._watchers:
            changes.end()

    def apply(
        self,
        db: sqlite3.Connection,
        record: Record,
        whose: Callable[[RunKey], tuple[str, str]],
        *,
        tell: bool,
    ) -> int:
        """Enter what a record says of gates; return by how many more are open in its run.

        `whose` says of a run its goal and who submitted it.
        """
        if record.event is None or record.address.channel != "dec" or not _concerns(record.event):
            return 0
        change, key = 0, record.address.key
        for gate in self._changed(db, record, whose):
            change += -1 if gate.HasField("closed") else 1
            for changes in self._watchers if tell else ():
                if changes.tenant == key.tenant:
                    changes.tell(gate)
        return change

    def _changed(
        self, db: sqlite3.Connection, record: Record, whose: Callable[[RunKey], tuple[str, str]]
    ) -> Iterator[run_service_pb2.Gate]:
        key = record.address.key
        for event in (part.event for part in unbundled(record) if part.event is not None):
            arm = event.WhichOneof("body")
            if arm == "gate_opened":
                goal, submitter = whose(key)
                name = gate_id(key.run, event.gate_opened.gate)
                asking = event.gate_opened.submitter or submitter
                gate = run_service_pb2.Gate(
                    id=name, run=key.run, goal=goal, submitter=asking, what=event.gate_opened
                )
                gate.opened.FromNanoseconds(record.time_ns)
                if db.execute(_INSERT, _row(key, gate)).rowcount:
                    yield gate
            elif arm == "gate_closed":
                name = gate_id(key.run, event.gate_closed.gate)
                yield from _close(db, key, "id = ?", name, event.gate_closed)
            elif arm in _LEAVES_OPEN:
                yield from _close(db, key, "run = ?", key.run, left_open(""))

    @staticmethod
    def page(db: sqlite3.Connection, tenant: str, *, limit: int, above: str) -> Page:
        """Return open gates, the oldest first, above a rank ("" for the first), as many as fit a message."""
        gates: list[run_service_pb2.Gate] = []
        last, size = above, 0
        for rank, content in db.execute(_PAGE, (tenant, above, limit + 1)):
            size += len(content)
            if len(gates) == limit or (gates and size > MAX_PAGE_BYTES):
                return Page(gates, last)
            gates.append(run_service_pb2.Gate.FromString(content))
            last = rank
        return Page(gates, "")


def _concerns(event: event_pb2.Event) -> bool:
    """Whether an event is about gates; most are not, and every one is looked at."""
    return event.WhichOneof("body") in _ARMS or any(e.WhichOneof("body") in _ARMS for e in event.before)


def _row(key: RunKey, gate: run_service_pb2.Gate) -> tuple[str, str, str, str, bytes]:
    # Nineteen digits hold every time of a broker, so that ranks sort as times do.
    rank = f"{gate.opened.ToNanoseconds():019d}-{gate.id}-{key.tenant}"
    return rank, gate.id, key.tenant, key.run, gate.SerializeToString()


def _close(
    db: sqlite3.Connection, key: RunKey, where: str, value: str, closed: event_pb2.GateClosed
) -> Iterable[run_service_pb2.Gate]:
    # Another tenant may have a run of the same id.
    sql = f"DELETE FROM gate WHERE {where} AND tenant = ? RETURNING content"
    contents = db.execute(sql, (value, key.tenant)).fetchall()
    for (content,) in contents:
        gate = run_service_pb2.Gate.FromString(content)
        gate.closed.CopyFrom(closed)
        gate.closed.gate = gate.what.gate
        yield gate
