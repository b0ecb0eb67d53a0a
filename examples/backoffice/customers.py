"""Tools on customers and the notes on their accounts."""

from __future__ import annotations

import database
from faults import injectable
from records import (
    CUSTOMER,
    MAX_LISTED,
    NOTE,
    Customer,
    Customers,
    Line,
    Note,
    Notes,
    NoteStatus,
    Text,
    of_each,
)

from handrail.tool import call, tool


@tool(effect="read", endorses=of_each("customers", CUSTOMER))
@injectable
def find_customers(text: Line) -> Customers:
    """Find customers by a part of their name or e-mail address."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM customers WHERE instr(lower(name || ' ' || email), lower(?)) ORDER BY id LIMIT ?",
            (text, MAX_LISTED),
        )
        return Customers(customers=[Customer(**row) for row in rows])


@tool(effect="read", endorses=CUSTOMER)
@injectable
def get_customer(customer_id: int) -> Customer:
    """Look a customer up by id."""
    with database.reading() as db:
        return Customer(**database.get(db, "customer", "SELECT * FROM customers WHERE id = ?", customer_id))


# What is noted on an account is for colleagues: nobody writes it so that the customer can read it.
@tool(effect="read", endorses=of_each("notes", NOTE), readers=["staff"])
@injectable
def list_notes(customer_id: int) -> Notes:
    """List the latest notes on a customer's account, the last first, without those that were retracted."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM notes WHERE customer_id = ? AND status = 'written' ORDER BY id DESC LIMIT ?",
            (customer_id, MAX_LISTED),
        )
        return Notes(notes=[Note(**row) for row in rows])


@tool(effect="read", endorses=NOTE, readers=["staff"])
@injectable
def get_note(note_id: int) -> Note | None:
    """Look a note up by id, also one that was retracted; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM notes WHERE id = ?", (note_id,)).fetchone()
        return None if row is None else Note(**row)


# Notes carry no key and cannot be told apart: a doubt about one is for a human, and says so.
@tool(
    effect="write",
    idempotency="none",
    doubt=True,
    undo=call("mark_note", note_id="output.id", status="'retracted'"),
    reads={"account": call("list_notes", customer_id="args.customer_id")},
    post="reads.account.notes.exists(n, n.id == output.id && n.text == args.text)",
    endorses=NOTE,
    readers=["staff"],
)
@injectable
def add_note(customer_id: int, text: Text) -> Note:
    """Write a note on a customer's account."""
    arguments = {"customer_id": customer_id, "text": text}
    with database.writing() as db:
        database.get(db, "customer", "SELECT id FROM customers WHERE id = ?", customer_id)
        written_on = database.today(db).isoformat()
        row = db.execute(
            "INSERT INTO notes (customer_id, text, written_on) VALUES (?, ?, ?) RETURNING *",
            (customer_id, text, written_on),
        ).fetchone()
        database.record(db, "add_note", arguments)
        return Note(**row)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_note", note_id="args.note_id", status="reads.note.status"),
    reads={"note": call("get_note", note_id="args.note_id")},
    pre="reads.note != null",
    post="reads.note != null && reads.note.status == args.status",
    critical=["note_id"],
    endorses=NOTE,
    readers=["staff"],
)
@injectable
def mark_note(note_id: int, status: NoteStatus) -> Note:
    """Retract a note, or let it stand again; it is kept either way."""
    with database.writing() as db:
        return Note(**database.mark(db, "note", note_id, status))
