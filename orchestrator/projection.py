"""The listing: one row for each run, fed from the shards' logs, in a SQLite file that may be thrown away.

Rows and checkpoints are committed together, so after a crash the feed goes on where the rows stand. A file
that is damaged, of another version, or of another log is discarded and read anew. Everything happens on the
event loop's thread; the statements are short. The states are those of `core.run`, except that a run counts
as running from when it has a plan, before that is accepted, and as waiting from its first doubt on, and while
a gate is open, even if another of its steps is still in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar, cast

import grpc
import structlog

from core.errors import HandrailError
from core.plan import is_compensation
from core.ports import Log, LogError, Record, RunKey
from core.run import VERSION
from core.state import ENDED
from handrail.v1 import event_pb2
from orchestrator import inbox
from orchestrator.inbox import Inbox
from orchestrator.rpc_errors import RETRY_S, Refusal

MAX_GOAL_CHARS = 500
MAX_BATCH_RECORDS = 500
COMMIT_EVERY_S = 0.5
MAX_DISCARDS = 3
READY_WAIT_S = 5.0
LOCK_WAIT_S = 1.0
EVERYTHING = "ev.{shard}.>"
DISCARDED = ".discarded"

_APPLICATION_ID = 0x48524C31
_SCHEMA_VERSION = 5
_FINAL = ", ".join(str(status) for status in sorted({*ENDED, event_pb2.RUN_STATUS_UNREADABLE}))
_SCHEMA = f"""
CREATE TABLE whose (tenants TEXT NOT NULL);
CREATE TABLE checkpoint (shard INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, time_ns INTEGER NOT NULL);
CREATE TABLE run (
    rank TEXT PRIMARY KEY, run TEXT NOT NULL, tenant TEXT NOT NULL, goal TEXT NOT NULL,
    submitter TEXT NOT NULL DEFAULT '', submitted_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL DEFAULT 0,
    phase INTEGER NOT NULL DEFAULT {event_pb2.RUN_STATUS_PLANNING},
    paused INTEGER NOT NULL DEFAULT 0, cancelling INTEGER NOT NULL DEFAULT 0,
    gates INTEGER NOT NULL DEFAULT 0,
    status INTEGER AS (CASE
        WHEN phase IN ({_FINAL}) THEN phase
        WHEN cancelling THEN {event_pb2.RUN_STATUS_CANCELLING}
        WHEN paused THEN {event_pb2.RUN_STATUS_PAUSED}
        WHEN gates THEN {event_pb2.RUN_STATUS_WAITING}
        ELSE phase END)
) WITHOUT ROWID;
CREATE INDEX run_by_status ON run (tenant, status, rank);
{inbox.SCHEMA}
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_CHECKPOINTS = "SELECT shard, sequence, time_ns FROM checkpoint"
_OPEN = f"phase NOT IN ({_FINAL})"
_PHASE = f"UPDATE run SET phase = ?, ended_ns = ? WHERE rank = ? AND {_OPEN}"
_UNDOING = (
    f"UPDATE run SET phase = {event_pb2.RUN_STATUS_UNDOING}, cancelling = 0, paused = 0, gates = 0 "
    f"WHERE rank = ? AND NOT ({_OPEN})"
)
_CANCELLING = (
    f"UPDATE run SET cancelling = 1 WHERE rank = ? AND {_OPEN} AND phase <> {event_pb2.RUN_STATUS_UNDOING}"
)
_UNDOES_ITSELF = f"UPDATE run SET phase = {event_pb2.RUN_STATUS_UNDOING} WHERE rank = ? AND {_OPEN}"
_UNDO_ENDED = f"UPDATE run SET phase = ? WHERE rank = ? AND phase = {event_pb2.RUN_STATUS_UNDOING}"
_FORGOTTEN = "UPDATE run SET phase = ?, ended_ns = ?, cancelling = 0, paused = 0 WHERE rank = ?"
_COLUMNS = "rank, run, tenant, goal, submitter, submitted_ns"
_INSERT = f"INSERT INTO run ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO"
_WHOSE = "SELECT goal, submitter FROM run WHERE rank = ?"
_GATES = "UPDATE run SET gates = max(0, gates + ?) WHERE rank = ?"

_logger = structlog.get_logger(__name__)


_T = TypeVar("_T")


class ProjectionBroken(HandrailError):
    """The projection's file cannot be used, or belongs to another log."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the listing knows of a run; rows are ordered by `rank`, which grows with time."""

    rank: str
    run: str
    goal: str
    status: int
    submitted_ns: int
    ended_ns: int


class Projection:
    """The listing of all runs, at a path or in memory."""

    def __init__(self, path: Path | str = ":memory:", tenants: Sequence[str] = ()) -> None:
        """With tenants it lists their runs alone, and reads no others."""
        self._path = str(path)
        self._filters = tuple(f"ev.{{shard}}.{tenant}.>" for tenant in tenants) or (EVERYTHING,)
        self._broken = asyncio.Event()
        self._ready = asyncio.Event()
        self._behind: set[int] = set()
        self._discarded = 0
        self.inbox = Inbox()
        self._whose = ",".join(tenants)
        self._use(_open(self._path, self._whose))

    @property
    def ready(self) -> bool:
        """Whether the listing is as far as the log was when it was opened."""
        return self._ready.is_set()

    async def feed(self, log: Log, tell: Callable[[Record], None]) -> NoReturn:
        """Follow every open shard for ever; start anew where the file turns out to be of no use.

        `tell` hears every record, one more time where the file was begun anew.
        """
        while True:
            self._behind = set(log.shards)
            try:
                async with asyncio.TaskGroup() as group:
                    for shard in log.shards:
                        group.create_task(self._feed_shard(log, shard, tell))
                    group.create_task(self._commit_regularly())
                    group.create_task(self._raise_when_broken())
            except* (sqlite3.Error, ProjectionBroken) as errors:
                error = str(errors.exceptions[0])
                _logger.warning("projection.discarded", path=self._path, error=error)
            self._discard()
            await asyncio.sleep(RETRY_S)

    def insert(self, key: RunKey, goal: event_pb2.Goal, submitted_ns: int) -> None:
        """Enter a run that was just submitted, ahead of the feed; the log stays the truth."""
        try:
            self._db.execute(f"{_INSERT} NOTHING", _entry(key, goal, submitted_ns))
        except sqlite3.Error as error:  # the submission is durable, and the feed will see it
            _logger.warning("projection.insert_failed", run=key.run, error=str(error))
            self._broken.set()

    async def page(self, tenant: str, *, status: int, limit: int, below: str) -> list[Row]:
        """Return runs, newest first: in a state (0: in any), below a rank ("" for the newest)."""
        sql = "SELECT rank, run, goal, status, submitted_ns, ended_ns FROM run WHERE tenant = :tenant"
        sql += " AND status = :status" if status else ""
        sql += " AND rank < :below" if below else ""
        values = {"tenant": tenant, "status": status, "below": below, "limit": limit}

        def look() -> list[Row]:
            return [Row(*row) for row in self._db.execute(f"{sql} ORDER BY rank DESC LIMIT :limit", values)]

        return await self._read(look)

    async def gates(self, tenant: str, *, limit: int, above: str) -> inbox.Page:
        """Return open gates, the oldest first, above a rank ("" for the first)."""
        return await self._read(lambda: self.inbox.page(self._db, tenant, limit=limit, above=above))

    async def _read(self, look: Callable[[], _T]) -> _T:
        """Look when the listing is as far as the log."""
        try:
            async with asyncio.timeout(READY_WAIT_S):
                await self._ready.wait()
            return look()
        except TimeoutError:
            pass
        except sqlite3.Error as error:
            _logger.warning("projection.read_failed", error=str(error))
            self._broken.set()
        message = "the listing is being read from the log; ask again in a moment, or for single runs"
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "LISTING_NOT_READY", message, retry_s=RETRY_S)

    def close(self) -> None:
        """Commit and close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._commit()
        self._db.close()

    # --- the feed ---

    async def _feed_shard(self, log: Log, shard: int, tell: Callable[[Record], None]) -> NoReturn:
        while True:
            try:
                await self._recognise(log, shard)
                target = await _end(log, shard, self._filters)
                self._note_progress(shard, target)
                scan = log.scan(shard, filters=self._filters, after=self._checkpoints.get(shard, (0, 0))[0])
                async with contextlib.aclosing(cast(AsyncGenerator[Record, None], scan)) as records:
                    async for record in records:
                        self._apply(shard, record)
                        tell(record)
                        self._note_progress(shard, target)
                        if self._pending >= MAX_BATCH_RECORDS:
                            self._commit()
                            await asyncio.sleep(0)  # a long catch-up leaves the loop to others
            except LogError as error:
                _logger.warning("projection.log_unavailable", shard=shard, error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _recognise(self, log: Log, shard: int) -> None:
        """Raise unless the log still holds what the checkpoint was taken at."""
        sequence, time_ns = self._checkpoints.get(shard, (0, 0))
        if sequence == 0:
            return
        record = await log.get(shard, sequence)
        if record is None or record.time_ns != time_ns:
            raise ProjectionBroken(f"shard {shard} does not hold what the listing saw at {sequence}")

    def _note_progress(self, shard: int, target: int) -> None:
        if self._ready.is_set():
            return
        if self._checkpoints.get(shard, (0, 0))[0] >= target:
            self._behind.discard(shard)
        if not self._behind:
            self._ready.set()

    def _apply(self, shard: int, record: Record) -> None:
        key, event = record.address.key, record.event
        arm = event.WhichOneof("body") if event is not None else None
        if event is None or arm is None or event.version > VERSION:
            if record.address.channel == "dec" and not record.forgotten:
                self._db.execute(_PHASE, (event_pb2.RUN_STATUS_UNREADABLE, 0, _rank(key)))
        elif arm == "submit":
            sql = f"{_INSERT} UPDATE SET submitted_ns = excluded.submitted_ns"
            self._db.execute(sql, _entry(key, event.submit.goal, record.time_ns))
            if event.submit.goal.HasField("plan"):
                self._db.execute(_PHASE, (event_pb2.RUN_STATUS_RUNNING, 0, _rank(key)))
        elif arm == "cancel":
            self._db.execute(_CANCELLING, (_rank(key),))
        elif arm in ("pause", "resume"):
            sql = f"UPDATE run SET paused = ? WHERE rank = ? AND {_OPEN}"
            self._db.execute(sql, (arm == "pause", _rank(key)))
        elif arm == "plan_answer" and event.plan_answer.HasField("plan"):
            self._db.execute(_PHASE, (event_pb2.RUN_STATUS_RUNNING, 0, _rank(key)))
        elif arm == "in_doubt" and not is_compensation(event.in_doubt.step):
            self._db.execute(_PHASE, (event_pb2.RUN_STATUS_WAITING, 0, _rank(key)))
        elif arm == "finished":
            self._db.execute(_PHASE, (event.finished.status, record.time_ns, _rank(key)))
        elif arm == "undo" and not event.undo.dry_run:
            self._db.execute(_UNDOING, (_rank(key),))
        elif arm == "forgotten":
            self._forget(key, event.forgotten)
        elif arm == "undo_ended" and event.undo_ended.status:
            self._db.execute(_UNDO_ENDED, (event.undo_ended.status, _rank(key)))
        if event is not None and any(one.HasField("undo_planned") for one in (event, *event.before)):
            # Of a run that undoes itself; of others it is in the listing already.
            self._db.execute(_UNDOES_ITSELF, (_rank(key),))
        change = self.inbox.apply(self._db, record, self._said, tell=self.ready)
        if change:
            self._db.execute(_GATES, (change, _rank(key)))
        self._checkpoints[shard] = (record.sequence, record.time_ns)
        self._pending += 1

    def _forget(self, key: RunKey, left: event_pb2.Forgotten) -> None:
        """Leave of a run what it says itself; the files are cleaned with the next commit."""
        submitted_ns, ended_ns = left.submitted.ToNanoseconds(), left.ended.ToNanoseconds()
        sql = f"{_INSERT} UPDATE SET goal = '', submitter = ''"
        self._db.execute(sql, (*_whole(key), "", "", submitted_ns))
        self._db.execute(_FORGOTTEN, (left.status, ended_ns, _rank(key)))
        self._unclean = True

    def _clean(self) -> None:
        """Have nothing in the files but what is in the tables."""
        self._db.commit()
        # What was moved from page to page is overwritten by nothing else.
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._path != ":memory:":
            Path(self._path + DISCARDED).unlink(missing_ok=True)
        self._unclean = False

    def _said(self, key: RunKey) -> tuple[str, str]:
        found = self._db.execute(_WHOSE, (_rank(key),)).fetchone()
        return found if found is not None else ("", "")

    def _commit(self) -> None:
        if self._unclean:
            # Before it is noted that the word was heard: whoever dies meanwhile hears it again.
            self._clean()
        self._db.executemany(
            "INSERT INTO checkpoint VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET sequence = excluded.sequence, time_ns = excluded.time_ns",
            [(shard, *at) for shard, at in self._checkpoints.items()],
        )
        self._db.commit()
        self._pending = 0

    async def _commit_regularly(self) -> NoReturn:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            if self._pending:
                self._commit()

    async def _raise_when_broken(self) -> NoReturn:
        await self._broken.wait()
        raise ProjectionBroken("a statement failed")

    # --- the file ---

    def _use(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._checkpoints = {shard: (sequence, at) for shard, sequence, at in db.execute(_CHECKPOINTS)}
        self._pending = 0
        self._unclean = False
        self._ready.clear()
        self._broken.clear()

    def _discard(self) -> None:
        self.inbox.begin_anew()
        self._db.close()
        self._discarded += 1
        self._use(_begin(":memory:" if self._discarded > MAX_DISCARDS else self._path, self._whose))


def _rank(key: RunKey) -> str:
    """Return what runs are ordered by: the part of the id that grows with time, then the shard.

    With the tenant, since a client may choose its run's id: two tenants can have runs of one id.
    """
    return f"{key.run.partition('-')[2]}-{key.shard}-{key.tenant}"


def _entry(key: RunKey, goal: event_pb2.Goal, submitted_ns: int) -> tuple[str, str, str, str, str, int]:
    text = goal.text
    shown = text if len(text) <= MAX_GOAL_CHARS else text[: MAX_GOAL_CHARS - 1] + "…"
    return *_whole(key), shown, goal.submitter, submitted_ns


def _whole(key: RunKey) -> tuple[str, str, str]:
    return _rank(key), key.run, key.tenant


async def _end(log: Log, shard: int, filters: Sequence[str]) -> int:
    """Return the sequence up to which a shard's listing must be read to be complete now."""
    found = [await log.last(shard, filter.format(shard=shard)) for filter in filters]
    return max((record.sequence for record in found if record is not None), default=0)


def _open(path: str, whose: str) -> sqlite3.Connection:
    """Open a listing; where it is of no use begin anew, and where it is in use keep one in memory."""
    try:
        return _connect(path, whose)
    except (sqlite3.Error, ProjectionBroken) as error:
        _logger.warning("projection.unusable", path=path, error=str(error))
        in_use = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
        return _begin(":memory:" if in_use else path, whose)


def _begin(path: str, whose: str) -> sqlite3.Connection:
    """Begin a listing, in memory where the file system does not let us."""
    try:
        _set_aside(path)
        return _connect(path, whose)
    except (sqlite3.Error, OSError) as error:
        _logger.warning("projection.in_memory", path=path, error=str(error))
        return _connect(":memory:", whose)


def _connect(path: str, whose: str) -> sqlite3.Connection:
    """Open a listing of some tenants' runs, or begin one; one process at a time has it."""
    db = sqlite3.connect(path, check_same_thread=False, timeout=LOCK_WAIT_S)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        # What is deleted may have to be forgotten.
        db.execute("PRAGMA secure_delete = ON")
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            db.executescript(_SCHEMA)
            db.execute("INSERT INTO whose VALUES (?)", (whose,))
            db.commit()
        elif (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
            raise ProjectionBroken(f"{path} is no listing of this version")
        elif db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise ProjectionBroken(f"{path} is damaged")
        elif db.execute("SELECT tenants FROM whose").fetchone() != (whose,):
            raise ProjectionBroken(f"{path} lists the runs of other tenants")
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: str) -> None:
    """Move a file out of the way, in place of the one before: it may have been somebody's by mistake."""
    if path == ":memory:":
        return
    with contextlib.suppress(FileNotFoundError):
        Path(path).replace(path + DISCARDED)
    for suffix in ("-wal", "-shm", "-journal"):
        Path(path + suffix).unlink(missing_ok=True)
