"""Tools on support tickets."""

from __future__ import annotations

import sqlite3
from datetime import date

import database
from faults import injectable
from records import (
    MAX_LISTED,
    MAX_TEXT,
    TICKET,
    Line,
    Priority,
    Replies,
    Reply,
    Text,
    Ticket,
    Tickets,
    TicketStatus,
    of_each,
)

from handrail.tool import call, tool

_BY_ID = "SELECT * FROM tickets WHERE id = ?"
# What a ticket was before something was done to it: that puts it back.
_AS_BEFORE = call(
    "restore_ticket",
    ticket_id="args.ticket_id",
    status="reads.ticket.status",
    priority="reads.ticket.priority",
    assignee="reads.ticket.assignee",
    resolution="reads.ticket.resolution",
)


@tool(effect="read", endorses=TICKET)
@injectable
def get_ticket(ticket_id: int) -> Ticket:
    """Look a ticket up by id."""
    with database.reading() as db:
        return _ticket(db, database.get(db, "ticket", _BY_ID, ticket_id))


@tool(effect="read", endorses=of_each("tickets", TICKET))
@injectable
def find_tickets(
    text: str = "", status: TicketStatus | None = None, customer_id: int | None = None, idle_days: int = 0
) -> Tickets:
    """Find tickets by words, status, customer, and for how many days nothing has happened; the last first."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM tickets WHERE instr(lower(subject || ' ' || body), lower(?)) > 0"
            " AND status = coalesce(?, status) AND customer_id = coalesce(?, customer_id)"
            " AND julianday(?) - julianday(last_activity_on) >= ? ORDER BY id DESC LIMIT ?",
            (text[:MAX_TEXT], status, customer_id, database.today(db).isoformat(), idle_days, MAX_LISTED),
        ).fetchall()
        return Tickets(tickets=[_ticket(db, row) for row in rows])


@tool(effect="read")
@injectable
def ticket_by_key(key: str) -> Ticket | None:
    """Look a ticket up by the key under which it was opened; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM tickets WHERE key = ?", (key,)).fetchone()
        return None if row is None else _ticket(db, row)


@tool(effect="read")
@injectable
def list_replies(ticket_id: int) -> Replies:
    """List our answers to a ticket, the last first."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT id, ticket_id, body, written_on FROM replies WHERE ticket_id = ?"
            " ORDER BY id DESC LIMIT ?",
            (ticket_id, MAX_LISTED),
        )
        return Replies(replies=[Reply(**row) for row in rows])


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="ticket_by_key",
    undo=call("close_ticket", ticket_id="output.id", resolution="'opened by mistake'"),
    reads={"found": call("find_tickets", customer_id="args.customer_id")},
    post="reads.found.tickets.exists(t, t.id == output.id && t.subject == args.subject)",
    endorses=TICKET,
)
@injectable
def open_ticket(
    customer_id: int, subject: Line, body: Text, key: str, priority: Priority = "normal"
) -> Ticket:
    """Open a ticket for a customer."""

    def act(db: sqlite3.Connection) -> Ticket:
        database.get(db, "customer", "SELECT id FROM customers WHERE id = ?", customer_id)
        today = database.today(db).isoformat()
        row = db.execute(
            "INSERT INTO tickets (customer_id, subject, body, priority, opened_on, last_activity_on, key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
            (customer_id, subject, body, priority, today, today, key),
        ).fetchone()
        return _ticket(db, row)

    arguments = {"customer_id": customer_id, "subject": subject, "body": body, "priority": priority}
    return database.keyed("open_ticket", key, arguments, Ticket, act)


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"ticket": call("get_ticket", ticket_id="args.ticket_id")},
    post="reads.ticket.priority == args.priority && reads.ticket.assignee == args.assignee",
    endorses=TICKET,
)
@injectable
def update_ticket(ticket_id: int, priority: Priority, assignee: str) -> Ticket:
    """Set the priority of a ticket and who looks after it."""
    return _set("update_ticket", ticket_id, priority=priority, assignee=assignee)


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"ticket": call("get_ticket", ticket_id="args.ticket_id")},
    pre="reads.ticket.status != 'closed'",
    post="reads.ticket.status == 'escalated' && reads.ticket.priority == 'high'",
)
@injectable
def escalate_ticket(ticket_id: int, assignee: str = "team lead") -> Ticket:
    """Hand a ticket to somebody who can decide more."""
    return _set("escalate_ticket", ticket_id, status="escalated", priority="high", assignee=assignee)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    reads={"ticket": call("list_replies", ticket_id="args.ticket_id")},
    post="reads.ticket.replies.exists(r, r.id == output.id && r.body == args.body)",
    shows=["customer"],
)
@injectable
def reply_to_ticket(ticket_id: int, body: Text, key: str) -> Reply:
    """Answer a ticket; it then waits for the customer."""

    def act(db: sqlite3.Connection) -> Reply:
        database.get(db, "ticket", "SELECT id FROM tickets WHERE id = ?", ticket_id)
        today = database.today(db).isoformat()
        row = db.execute(
            "INSERT INTO replies (ticket_id, body, key, written_on) VALUES (?, ?, ?, ?)"
            " RETURNING id, ticket_id, body, written_on",
            (ticket_id, body, key, today),
        ).fetchone()
        db.execute(
            "UPDATE tickets SET status = 'waiting', last_activity_on = ? WHERE id = ?", (today, ticket_id)
        )
        return Reply(**row)

    return database.keyed("reply_to_ticket", key, {"ticket_id": ticket_id, "body": body}, Reply, act)


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"ticket": call("get_ticket", ticket_id="args.ticket_id")},
    post="reads.ticket.status == 'closed' && reads.ticket.resolution == args.resolution",
    endorses=TICKET,
)
@injectable
def close_ticket(ticket_id: int, resolution: Line) -> Ticket:
    """Close a ticket and say how it ended."""
    return _set("close_ticket", ticket_id, status="closed", resolution=resolution)


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"ticket": call("get_ticket", ticket_id="args.ticket_id")},
    post="reads.ticket.status != 'closed'",
    endorses=TICKET,
)
@injectable
def reopen_ticket(ticket_id: int) -> Ticket:
    """Open a closed ticket again; another one stays as it is."""
    with database.writing() as db:
        if database.get(db, "ticket", _BY_ID, ticket_id)["status"] == "closed":
            db.execute("UPDATE tickets SET status = 'open', resolution = '' WHERE id = ?", (ticket_id,))
            database.record(db, "reopen_ticket", {"ticket_id": ticket_id})
        return _ticket(db, database.get(db, "ticket", _BY_ID, ticket_id))


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"ticket": call("get_ticket", ticket_id="args.ticket_id")},
    post="reads.ticket.status == args.status && reads.ticket.priority == args.priority"
    " && reads.ticket.assignee == args.assignee && reads.ticket.resolution == args.resolution",
    endorses=TICKET,
)
@injectable
def restore_ticket(
    ticket_id: int, status: TicketStatus, priority: Priority, assignee: str, resolution: str
) -> Ticket:
    """Put a ticket back to how it was: its status, its priority, whose it is and how it ended."""
    columns = {"status": status, "priority": priority, "assignee": assignee, "resolution": resolution}
    return _set("restore_ticket", ticket_id, **columns)


def _set(tool_name: str, ticket_id: int, **columns: str) -> Ticket:
    """Set columns of a ticket; where they are so already, nothing happens."""
    with database.writing() as db:
        row = database.get(db, "ticket", _BY_ID, ticket_id)
        if any(row[column] != value for column, value in columns.items()):
            settings = ", ".join(f"{column} = ?" for column in columns)
            values = (*columns.values(), database.today(db).isoformat(), ticket_id)
            db.execute(f"UPDATE tickets SET {settings}, last_activity_on = ? WHERE id = ?", values)
            database.record(db, tool_name, {"ticket_id": ticket_id, **columns})
        return _ticket(db, database.get(db, "ticket", _BY_ID, ticket_id))


def _ticket(db: sqlite3.Connection, row: sqlite3.Row) -> Ticket:
    today = database.today(db)
    return Ticket(
        id=row["id"],
        customer_id=row["customer_id"],
        subject=row["subject"],
        body=row["body"],
        status=row["status"],
        priority=row["priority"],
        assignee=row["assignee"],
        age_days=(today - date.fromisoformat(row["opened_on"])).days,
        idle_days=(today - date.fromisoformat(row["last_activity_on"])).days,
        resolution=row["resolution"],
    )
