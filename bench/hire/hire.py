"""The tools of a shop that hires out machines: its bookings, their invoices, and what is broken.

The state is one SQLite file, HIRE_DB from the project's directory, made and filled at first use. Every effect
shows in a booking, so that the verifier can look at it: a moved one has its day, a cancelled and an invoiced
one its state, and a machine that was reported gets a booking of the workshop's.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from handrail.tool import ToolError, call, tool

PROJECT = Path(__file__).resolve().parent
BUSY_TIMEOUT_S = 10.0
BOOKINGS = 4_999
WORKSHOP = "workshop@hire.example"
FIRST_NAMES = (
    "ada", "ben", "carla", "dmitri", "esra", "finn", "gwen", "hugo", "ines", "jonas", "kira", "liam", "mona",
    "nils", "olga", "pavel", "rosa", "sven", "tilda", "uwe", "vera", "wim", "yara", "zoe",
)  # fmt: skip
LAST_NAMES = (
    "abel", "brandt", "costa", "dietz", "ekman", "frost", "garcia", "hahn", "ito", "jensen", "kaya", "lund",
    "maier", "novak", "okafor", "peeters", "quinn", "rossi", "silva", "toth", "urban", "vogel", "weiss",
    "zhu",
)  # fmt: skip
DOMAINS = ("groundworks.example", "mail.example", "baumeister.example", "roadcrew.example", "post.example")
KINDS = ("EX", "DU", "RO", "GE", "PL", "LI", "CM", "TL")
MACHINES = 40
"""Of each kind: EX-1 to EX-40."""

SCHEMA = """
CREATE TABLE bookings (
    booking_id INTEGER PRIMARY KEY, email TEXT NOT NULL, machine TEXT NOT NULL, day TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('booked', 'cancelled', 'invoiced', 'workshop'))
);
CREATE INDEX by_email ON bookings (email);
CREATE TABLE cancellations (booking_id INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE invoices (key TEXT PRIMARY KEY, booking_id INTEGER NOT NULL, email TEXT NOT NULL);
CREATE TABLE faults (key TEXT PRIMARY KEY, booking_id INTEGER NOT NULL, text TEXT NOT NULL);
"""

Day = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="a date: 2026-03-04",
        json_schema_extra={"format": "date"},
    ),
]
Email = Annotated[
    str,
    Field(
        pattern=r"^[^@\s]+@[^@\s]+$", description="an e-mail address", json_schema_extra={"format": "email"}
    ),
]
Machine = Annotated[str, Field(pattern=r"^[A-Za-z]{2}-\d{1,3}$", description="a machine: EX-14")]
Text = Annotated[str, Field(min_length=1, max_length=500, description="what is wrong with it")]
Reason = Literal["weather", "not_needed", "broken", "too_expensive"]
State = Literal["booked", "cancelled", "invoiced", "workshop"]

FOUND = {"booking": call("find_booking", booking_id="args.booking_id")}
"""What most effects are seen in."""


class Booking(BaseModel):
    """A machine on a day, for somebody."""

    booking_id: int
    email: Email
    machine: Machine
    day: Day
    state: State


class Bookings(BaseModel):
    """Bookings that were found."""

    bookings: list[Booking]


@tool(effect="read", endorses=["booking_id", "state"])
def find_booking(booking_id: int) -> Booking:
    """Look a booking up by its number."""
    with _database() as db:
        return _booking(db, booking_id)


@tool(effect="read", endorses=["bookings[].booking_id", "bookings[].state"])
def bookings_of(email: Email) -> Bookings:
    """List the bookings of a customer."""
    with _database() as db:
        rows = db.execute("SELECT * FROM bookings WHERE email = ? ORDER BY booking_id", (email,)).fetchall()
        return Bookings(bookings=[Booking(**row) for row in rows])


@tool(
    effect="write",
    idempotency="natural",
    undo=call("move_booking", booking_id="args.booking_id", day="reads.booking.day"),
    reads=FOUND,
    pre="reads.booking.state == 'booked'",
    post="reads.booking.day == args.day && reads.booking.state == 'booked'",
)
def move_booking(booking_id: int, day: Day) -> Booking:
    """Move a booking to another day."""
    with _database() as db:
        db.execute("UPDATE bookings SET day = ? WHERE booking_id = ?", (day, booking_id))
        return _booking(db, booking_id)


@tool(
    effect="write",
    idempotency="natural",
    reads=FOUND,
    post="reads.booking.state == 'cancelled'",
)
def cancel_booking(booking_id: int, reason: Reason) -> Booking:
    """Cancel a booking, for a reason."""
    with _database() as db:
        if _booking(db, booking_id).state not in ("booked", "cancelled"):
            raise ToolError(f"booking {booking_id} is over and cannot be cancelled", code="booking_over")
        db.execute("UPDATE bookings SET state = 'cancelled' WHERE booking_id = ?", (booking_id,))
        db.execute("INSERT OR REPLACE INTO cancellations VALUES (?, ?)", (booking_id, reason))
        return _booking(db, booking_id)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    reads={"booking": call("find_booking", booking_id="output.booking_id")},
    post="reads.booking.machine == args.machine && reads.booking.state == 'workshop'",
)
def report_fault(machine: Machine, text: Text, key: str) -> Booking:
    """Report a fault of a machine: the workshop gets it."""
    with _database() as db:
        held = db.execute("SELECT booking_id FROM faults WHERE key = ?", (key,)).fetchone()
        if held is not None:
            return _booking(db, held["booking_id"])
        today = datetime.now(UTC).date().isoformat()
        made = db.execute(
            "INSERT INTO bookings (email, machine, day, state) VALUES (?, ?, ?, 'workshop')",
            (WORKSHOP, machine, today),
        )
        assert made.lastrowid is not None
        db.execute("INSERT INTO faults VALUES (?, ?, ?)", (key, made.lastrowid, text))
        return _booking(db, made.lastrowid)


@tool(
    effect="irreversible",
    idempotency="keyed",
    key="key",
    reads=FOUND,
    pre="reads.booking.state == 'booked'",
    post="reads.booking.state == 'invoiced'",
)
def send_invoice(booking_id: int, key: str, email: Email | None = None) -> Booking:
    """Send the invoice of a booking to its customer, or to another address."""
    with _database() as db:
        found = _booking(db, booking_id)
        if db.execute("SELECT 1 FROM invoices WHERE key = ?", (key,)).fetchone() is None:
            db.execute("INSERT INTO invoices VALUES (?, ?, ?)", (key, booking_id, email or found.email))
            db.execute("UPDATE bookings SET state = 'invoiced' WHERE booking_id = ?", (booking_id,))
        return _booking(db, booking_id)


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """Open the database for one transaction; whoever comes first fills it."""
    file = PROJECT / os.environ.get("HIRE_DB", "hire.db")
    with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                _fill(db)
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _fill(db: sqlite3.Connection) -> None:
    """Make the tables, and a booking of every number up to BOOKINGS."""
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    begin = date(2026, 1, 1)
    db.executemany(
        "INSERT INTO bookings VALUES (?, ?, ?, ?, 'booked')",
        (
            (number, email_of(number), machine_of(number), (begin + timedelta(days=number % 730)).isoformat())
            for number in range(1, BOOKINGS + 1)
        ),
    )
    db.execute("PRAGMA user_version = 1")


def email_of(number: int) -> str:
    """Return the address of a customer; there are some thousands."""
    first, rest = FIRST_NAMES[number % len(FIRST_NAMES)], number // len(FIRST_NAMES)
    last, rest = LAST_NAMES[rest % len(LAST_NAMES)], rest // len(LAST_NAMES)
    return f"{first}.{last}@{DOMAINS[(number + rest) % len(DOMAINS)]}"


def machine_of(number: int) -> str:
    """Return one of the machines."""
    return f"{KINDS[number % len(KINDS)]}-{1 + number // len(KINDS) % MACHINES}"


def _booking(db: sqlite3.Connection, booking_id: int) -> Booking:
    row = db.execute("SELECT * FROM bookings WHERE booking_id = ?", (booking_id,)).fetchone()
    if row is None:
        raise ToolError(f"there is no booking {booking_id}", code="booking_not_found")
    return Booking(**row)
