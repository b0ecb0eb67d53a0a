"""Tools on the rooms' calendar.

The calendar is of the kind that takes a caller's reference and never looks at it: booking is not idempotent,
but what is booked can be found again by the reference once the calendar has settled.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import Annotated

import database
from faults import injectable
from pydantic import Field
from records import SLOT, Attendee, Day, Line, Moment, MoveCheck, Slot, Slots, SlotStatus, of_each

from handrail.tool import ToolError, call, tool

MAX_ATTENDEES = 50

Minutes = Annotated[int, Field(ge=5, le=480)]


@tool(effect="read", endorses=of_each("slots", SLOT))
@injectable
def list_calendar(room: Line, day: Day) -> Slots:
    """List what is booked in a room on a day."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM slots WHERE room = ? AND status = 'booked' AND substr(starts_at, 1, 10) = ?"
            " ORDER BY starts_at",
            (room, day),
        ).fetchall()
        return Slots(slots=[_slot(db, row) for row in rows])


@tool(effect="read", endorses=SLOT)
@injectable
def get_slot(slot_id: int) -> Slot:
    """Look a booked or cancelled slot up by id."""
    with database.reading() as db:
        return _slot(db, _row(db, slot_id))


@tool(effect="read", endorses=SLOT)
@injectable
def slot_by_reference(key: str) -> Slot | None:
    """Look a slot up by the reference under which it was booked; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM slots WHERE reference = ?", (key,)).fetchone()
        return None if row is None else _slot(db, row)


@tool(effect="read", endorses=["free", "same"])
@injectable
def check_move(slot_id: int, starts_at: Moment) -> MoveCheck:
    """Say whether a slot could start at another time, and whether it does already."""
    with database.reading() as db:
        row = _row(db, slot_id)
        ends_at = _end(starts_at, _minutes(row))
        return MoveCheck(
            free=_free(db, row["room"], starts_at, ends_at, slot_id), same=row["starts_at"] == starts_at
        )


@tool(
    effect="write",
    idempotency="none",
    key="reference",
    readback="slot_by_reference",
    settle_s=1.0,
    timeout_s=3.0,
    undo=call("cancel_slot", slot_id="output.id"),
    reads={"calendar": call("list_calendar", room="args.room", day="output.day")},
    post="reads.calendar.slots.exists(s, s.id == output.id && s.starts_at == args.starts_at)",
    endorses=SLOT,
)
@injectable
def book_slot(
    room: Line,
    title: Line,
    starts_at: Moment,
    minutes: Minutes,
    reference: str,
    attendees: Annotated[list[Line], Field(max_length=MAX_ATTENDEES)] = [],  # noqa: B006 - never changed
) -> Slot:
    """Book a room for so many minutes; attendees are e-mail addresses."""
    arguments = {
        "room": room, "title": title, "starts_at": starts_at, "minutes": minutes, "attendees": attendees
    }  # fmt: skip
    with database.writing() as db:
        slot_id = db.execute(
            "INSERT INTO slots (room, title, starts_at, ends_at, reference) VALUES (?, ?, ?, ?, ?)",
            (room, title, starts_at, _end(starts_at, minutes), reference),
        ).lastrowid
        for email in dict.fromkeys(attendees):
            name = email.partition("@")[0].replace(".", " ").title()
            db.execute(
                "INSERT INTO attendees (slot_id, email, name) VALUES (?, ?, ?)", (slot_id, email, name)
            )
        database.record(db, "book_slot", arguments, reference)
        return _slot(db, database.get(db, "slot", "SELECT * FROM slots WHERE id = ?", slot_id))


@tool(
    effect="write",
    idempotency="natural",
    undo=call("move_slot", slot_id="args.slot_id", starts_at="reads.slot.starts_at"),
    reads={"slot": call("get_slot", slot_id="args.slot_id")},
    post="reads.slot.starts_at == args.starts_at && reads.slot.status == 'booked'",
    endorses=SLOT,
)
@injectable
def move_slot(slot_id: int, starts_at: Moment) -> Slot:
    """Have a booked slot start at another time; it stays as long as it is."""
    with database.writing() as db:
        row = _row(db, slot_id)
        if row["status"] != "booked":
            text = f"slot {slot_id} is cancelled and cannot be moved; book a new one"
            raise ToolError(text, code="slot_cancelled")
        if row["starts_at"] != starts_at:
            ends_at = _end(starts_at, _minutes(row))
            moved = "UPDATE slots SET starts_at = ?, ends_at = ? WHERE id = ?"
            db.execute(moved, (starts_at, ends_at, slot_id))
            database.record(db, "move_slot", {"slot_id": slot_id, "starts_at": starts_at})
        return _slot(db, _row(db, slot_id))


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_slot", slot_id="args.slot_id", status="reads.slot.status"),
    reads={"slot": call("get_slot", slot_id="args.slot_id")},
    post="reads.slot.status == 'cancelled'",
    endorses=SLOT,
)
@injectable
def cancel_slot(slot_id: int) -> Slot:
    """Cancel a booked slot: the room is free again."""
    with database.writing() as db:
        if _row(db, slot_id)["status"] == "booked":
            db.execute("UPDATE slots SET status = 'cancelled' WHERE id = ?", (slot_id,))
            database.record(db, "cancel_slot", {"slot_id": slot_id})
        return _slot(db, _row(db, slot_id))


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_slot", slot_id="args.slot_id", status="reads.slot.status"),
    reads={"slot": call("get_slot", slot_id="args.slot_id")},
    post="reads.slot.status == args.status",
    endorses=SLOT,
)
@injectable
def mark_slot(slot_id: int, status: SlotStatus) -> Slot:
    """Book a cancelled slot again, as it was and if the room is still free; or the reverse."""
    with database.writing() as db:
        return _slot(db, database.mark(db, "slot", slot_id, status))


def _row(db: sqlite3.Connection, slot_id: int) -> sqlite3.Row:
    return database.get(db, "slot", "SELECT * FROM slots WHERE id = ?", slot_id)


def _free(db: sqlite3.Connection, room: str, starts_at: str, ends_at: str, but: int = 0) -> bool:
    taken = db.execute(
        "SELECT 1 FROM slots WHERE room = ? AND status = 'booked' AND id <> ?"
        " AND starts_at < ? AND ends_at > ?",
        (room, but, ends_at, starts_at),
    )
    return taken.fetchone() is None


def _end(starts_at: str, minutes: int) -> str:
    return (_moment(starts_at) + timedelta(minutes=minutes)).isoformat(timespec="minutes")


def _minutes(row: sqlite3.Row) -> int:
    return int((_moment(row["ends_at"]) - _moment(row["starts_at"])).total_seconds() // 60)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ToolError(
            f"there is no such time as {text}; give one like 2026-03-04T10:00", code="bad_time"
        ) from error


def _slot(db: sqlite3.Connection, row: sqlite3.Row) -> Slot:
    people = db.execute("SELECT email, name FROM attendees WHERE slot_id = ? ORDER BY email", (row["id"],))
    return Slot(
        id=row["id"],
        room=row["room"],
        title=row["title"],
        day=row["starts_at"][:10],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        status=row["status"],
        attendees=[Attendee(**person) for person in people],
    )
