"""The back office's database: connections, short transactions, keyed effects and the ledger.

The file named by BACKOFFICE_DB (from the project's directory) is created and seeded at first use, in one
transaction, whoever comes first; so is one that an older version has left. An effect, its ledger row and what
its key came to are one transaction.

    python database.py reset         start again from the seed
    python database.py show TABLE    print a table (without TABLE: their names)
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import seed
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from handrail.tool import ToolError, remaining_s

PROJECT = Path(__file__).resolve().parent
SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 5.0
MAX_KEY_LENGTH = 300

# What a broken constraint means to whoever called: by the name of a CHECK, or the columns of a UNIQUE.
REFUSALS = {
    "stock_too_low": "there is not enough in stock; check the stock and reserve less",
    "address_empty": "the address is empty; give a full postal address",
    "amount_not_positive": "an amount must be more than zero",
    "quantity_not_positive": "a quantity must be more than zero",
    "subject_empty": "the subject is empty; say in a few words what it is about",
    "close_needs_resolution": "a ticket is closed with a resolution; say how it ended",
    "hold_needs_reason": "an invoice is held for a reason; say which",
    "bad_recipient": "the recipient is not an e-mail address",
    "unknown_fault": "there is no such fault; faults.py names them",
    "ends_before_start": "a slot must end after it starts; give at least one minute",
}
DUPLICATES = {
    "employees.email": ("employee_exists", "somebody of that name is employed already; find them first"),
    "reservations.order_id, reservations.sku": (
        "already_reserved",
        "this product is reserved for this order already; release that reservation first",
    ),
    "tasks.employee_id, tasks.title": ("task_exists", "this employee has that task already"),
}

_local = threading.local()
# Set while a fault rehearses a tool that says that it acted but did not (see faults.py).
lying: ContextVar[bool] = ContextVar("backoffice_lying", default=False)

_M = TypeVar("_M", bound=BaseModel)


def path() -> Path:
    """Return where the database is."""
    return PROJECT / os.environ.get("BACKOFFICE_DB", "backoffice.db")


def connection() -> sqlite3.Connection:
    """Return this thread's connection; a new one where the file or the process is another than before."""
    file = path()
    stamp = _stamp(file)
    kept: sqlite3.Connection | None = getattr(_local, "connection", None)
    if kept is not None and stamp is not None and _local.stamp == stamp:
        return kept
    if kept is not None:
        kept.close()
    _local.connection = _open(file)
    _local.stamp = _stamp(file)
    found: sqlite3.Connection = _local.connection
    return found


@contextmanager
def reading() -> Iterator[sqlite3.Connection]:
    """Read one consistent state; a write through this connection is refused by SQLite."""
    db = connection()
    db.execute("PRAGMA query_only = ON")
    db.execute("BEGIN")
    try:
        yield db
    finally:
        db.execute("ROLLBACK")
        db.execute("PRAGMA query_only = OFF")


@contextmanager
def writing() -> Iterator[sqlite3.Connection]:
    """Write in one short transaction; what the constraints refuse becomes a ToolError, nothing written."""
    if remaining_s() == 0.0:
        raise ToolError("the time for this call was over before it began", code="deadline_passed")
    db = connection()
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        text = f"the database is busy ({error}); nothing was written, try again"
        raise ToolError(text, code="database_busy", transient=True) from error
    try:
        yield db
    except sqlite3.IntegrityError as error:
        db.execute("ROLLBACK")
        raise refusal(str(error)) from error
    except sqlite3.OperationalError as error:
        db.execute("ROLLBACK")
        text = f"the database failed ({error}); nothing was written, try again"
        raise ToolError(text, code="database_failed", transient=True) from error
    except BaseException:
        db.execute("ROLLBACK")
        raise
    try:
        db.execute("ROLLBACK" if lying.get() else "COMMIT")
    except sqlite3.Error:
        # Raised as it is: whether the effect happened is in doubt.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def keyed(
    tool: str,
    key: str,
    arguments: Mapping[str, Any],
    output: type[_M],
    act: Callable[[sqlite3.Connection], _M],
) -> _M:
    """Act once per key: a repeated key returns the first outcome, and with other arguments is refused."""
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        text = f"{tool} needs an idempotency key of 1 to {MAX_KEY_LENGTH} characters"
        raise ToolError(text, code="bad_key")
    with writing() as db:
        first = db.execute(
            "SELECT arguments_json, output_json FROM outcomes WHERE tool = ? AND key = ?", (tool, key)
        ).fetchone()
        if first is not None:
            if first["arguments_json"] != _canonical(arguments):
                text = f"{tool}: the key {key!r} was used with other arguments; use a key of its own"
                raise ToolError(text, code="key_reused")
            return output.model_validate_json(first["output_json"])
        result = act(db)
        db.execute(
            "INSERT INTO outcomes (tool, key, arguments_json, output_json) VALUES (?, ?, ?, ?)",
            (tool, key, _canonical(arguments), result.model_dump_json()),
        )
        record(db, tool, arguments, key)
        return result


def mark(db: sqlite3.Connection, kind: str, row_id: int, status: str) -> sqlite3.Row:
    """Set the status of a record and return its row; where it is so already, nothing happens."""
    query = f"SELECT * FROM {kind}s WHERE id = ?"
    if get(db, kind, query, row_id)["status"] != status:
        db.execute(f"UPDATE {kind}s SET status = ? WHERE id = ?", (status, row_id))
        record(db, f"mark_{kind}", {f"{kind}_id": row_id, "status": status})
    return get(db, kind, query, row_id)


def record(db: sqlite3.Connection, tool: str, arguments: Mapping[str, Any], key: str = "") -> None:
    """Append an effect to the ledger, in the transaction that has it."""
    db.execute(
        "INSERT INTO ledger (tool, key, arguments_json, pid, time) VALUES (?, ?, ?, ?, ?)",
        (tool, key, _canonical(arguments), os.getpid(), datetime.now(UTC).isoformat()),
    )


def get(db: sqlite3.Connection, code: str, query: str, *values: object) -> sqlite3.Row:
    """Return the one row of a query; where there is none, raise `<code>_not_found`."""
    row: sqlite3.Row | None = db.execute(query, values).fetchone()
    if row is None:
        shown = ", ".join(map(str, values))
        text = f"there is no {code} {shown}; look it up with a find or list tool first"
        raise ToolError(text, code=f"{code}_not_found")
    return row


def today(db: sqlite3.Connection) -> date:
    """Return the business date: a setting, so that ages and delays do not change under a test."""
    found = get(db, "setting", "SELECT value FROM settings WHERE name = ?", "today")
    return date.fromisoformat(found["value"])


def refusal(message: str) -> ToolError:
    """Turn what a constraint says into an error with a stable code."""
    if match := re.fullmatch(r"CHECK constraint failed: (\w+)", message):
        code = match[1]
        return ToolError(REFUSALS.get(code, message), code=code if code in REFUSALS else "invalid_value")
    if match := re.fullmatch(r"UNIQUE constraint failed: (.+)", message):
        code, text = DUPLICATES.get(match[1], ("duplicate", f"that exists already ({match[1]})"))
        return ToolError(text, code=code)
    if match := re.fullmatch(r"([a-z_]+): (.+)", message):
        return ToolError(match[2], code=match[1])
    return ToolError(f"the database refused this: {message}", code="invalid_value")


def reset() -> None:
    """Start again from the seed, in one transaction: whoever is connected stays connected."""
    db = connection()
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("BEGIN IMMEDIATE")
    try:
        _fill(db)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    finally:
        db.execute("PRAGMA foreign_keys = ON")


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit code."""
    match arguments:
        case ["reset"]:
            reset()
            print(f"{path()} is as the seed has it")
            return 0
        case ["show"]:
            named = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            print("\n".join(row["name"] for row in connection().execute(named)))
            return 0
        case ["show", table]:
            return _show(table)
    print(__doc__, file=sys.stderr)
    return 2


def _show(table: str) -> int:
    known = connection().execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if known is None:
        print(f"there is no table {table!r}; `python database.py show` names them", file=sys.stderr)
        return 2
    rows = connection().execute(f'SELECT * FROM "{table}"').fetchall()
    for row in rows:
        print("  ".join(f"{name}={row[name]}" for name in row.keys()))  # noqa: SIM118 - a Row is no mapping
    print(f"{len(rows)} rows")
    return 0


def _stamp(file: Path) -> tuple[str, int, int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return str(file), status.st_dev, status.st_ino, os.getpid()


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.row_factory = sqlite3.Row
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
        _create(db)
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _create(db: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # SQLite does not wait for this lock: another process is creating the file at this moment.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            _fill(db)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _fill(db: sqlite3.Connection) -> None:
    named = "SELECT type, name FROM sqlite_master WHERE type IN ('view', 'table') ORDER BY type DESC"
    for kind, name in db.execute(named).fetchall():
        db.execute(f'DROP {kind} "{name}"')
    statement = ""
    for line in (PROJECT / "schema.sql").read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    seed.fill(db)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _canonical(arguments: Mapping[str, Any]) -> str:
    return json.dumps(to_jsonable_python(arguments), sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
