"""Tools on e-mail: drafts, and two providers that can stand in for each other."""

from __future__ import annotations

import sqlite3
from typing import Literal

import database
from faults import injectable
from records import MAX_LISTED, Draft, DraftStatus, Email, Emails, Line, Text

from handrail.tool import Money, ToolError, call, tool

Template = Literal["refund", "address_changed", "late_order", "call_booked"]
Table = Literal["mail_primary", "mail_backup"]

_DRAFT = 'id, recipient AS "to", subject, body, status'

# Subject and body; a template that speaks of an order or an amount cannot be drafted without.
TEMPLATES: dict[Template, tuple[str, str]] = {
    "refund": (
        "Your refund for order {order_id}",
        "Dear {name},\n\nwe have refunded {amount} for your order {order_id}.\n\nYour back office",
    ),
    "address_changed": (
        "New address for order {order_id}",
        "Dear {name},\n\nyour order {order_id} now goes to {address}.\n\nYour back office",
    ),
    "late_order": (
        "We are sorry: order {order_id} is late",
        "Dear {name},\n\nyour order {order_id} was promised for {promised_on} and is still with us."
        " We are sorry, and will ship it as soon as we can.\n\nYour back office",
    ),
    "call_booked": (
        "Our call",
        "Dear {name},\n\nwe have booked a time to talk to you, and look forward to it.\n\nYour back office",
    ),
}


@tool(effect="read")
@injectable
def get_draft(draft_id: int) -> Draft | None:
    """Look a draft up by id; nothing where there is none."""
    with database.reading() as db:
        row = db.execute(f"SELECT {_DRAFT} FROM drafts WHERE id = ?", (draft_id,)).fetchone()
        return None if row is None else Draft(**row)


@tool(effect="read")
@injectable
def get_email(email_id: Line) -> Email | None:
    """Look an e-mail up by id, whoever carried it; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM outbox WHERE provider || '-' || id = ?", (email_id,)).fetchone()
        return None if row is None else _email(row["provider"], row)


@tool(effect="read")
@injectable
def list_emails(to: Line) -> Emails:
    """List the latest e-mails to an address, whoever carried them."""
    with database.reading() as db:
        rows = db.execute(
            "SELECT * FROM outbox WHERE recipient = ? ORDER BY id DESC LIMIT ?", (to, MAX_LISTED)
        )
        return Emails(emails=[_email(row["provider"], row) for row in rows])


@tool(effect="read")
@injectable
def email_by_key(key: str) -> Email | None:
    """Look up what the primary provider took under a key; nothing where there is nothing."""
    return _by_key("mail_primary", key)


@tool(effect="read")
@injectable
def backup_email_by_key(key: str) -> Email | None:
    """Look up what the backup provider took under a key; nothing where there is nothing."""
    return _by_key("mail_backup", key)


@tool(
    effect="draft",
    idempotency="keyed",
    key="key",
    undo=call("mark_draft", draft_id="output.id", status="'discarded'"),
    reads={"draft": call("get_draft", draft_id="output.id")},
    post="reads.draft != null && reads.draft.subject == output.subject && reads.draft.body == output.body",
)
@injectable
def draft_email(
    customer_id: int, template: Template, key: str, order_id: int | None = None, amount: Money | None = None
) -> Draft:
    """Write an e-mail to a customer from a template; nothing is sent."""

    def act(db: sqlite3.Connection) -> Draft:
        customer = database.get(db, "customer", "SELECT * FROM customers WHERE id = ?", customer_id)
        known: dict[str, object] = {"name": customer["name"]}
        if order_id is not None:
            order = database.get(db, "order", "SELECT * FROM orders WHERE id = ?", order_id)
            known |= {"order_id": order_id, "address": order["address"], "promised_on": order["promised_on"]}
        if amount is not None:
            known["amount"] = f"{amount.minor // 100}.{amount.minor % 100:02} {amount.currency}"
        try:
            subject, body = (text.format_map(known) for text in TEMPLATES[template])
        except KeyError as error:
            text = f"the template {template} needs {error}; give the order, and the amount if it names one"
            raise ToolError(text, code="template_incomplete") from error
        row = db.execute(
            f"INSERT INTO drafts (recipient, subject, body, key) VALUES (?, ?, ?, ?) RETURNING {_DRAFT}",
            (customer["email"], subject, body, key),
        ).fetchone()
        return Draft(**row)

    arguments = {
        "customer_id": customer_id, "template": template, "order_id": order_id, "amount": amount
    }  # fmt: skip
    return database.keyed("draft_email", key, arguments, Draft, act)


@tool(
    effect="draft",
    idempotency="natural",
    undo=call("mark_draft", draft_id="args.draft_id", status="reads.draft.status"),
    reads={"draft": call("get_draft", draft_id="args.draft_id")},
    pre="reads.draft != null",
    post="reads.draft != null && reads.draft.status == args.status",
)
@injectable
def mark_draft(draft_id: int, status: DraftStatus) -> Draft:
    """Discard a draft, or take it up again; it is kept either way."""
    with database.writing() as db:
        database.mark(db, "draft", draft_id, status)
        return Draft(**database.get(db, "draft", f"SELECT {_DRAFT} FROM drafts WHERE id = ?", draft_id))


@tool(
    effect="irreversible",
    idempotency="keyed",
    key="key",
    readback="email_by_key",
    reads={"email": call("get_email", email_id="output.id")},
    post="reads.email != null && reads.email.to == args.to && reads.email.subject == args.subject"
    " && reads.email.body == args.body",
    critical=["to"],
    shows=["customer"],
    timeout_s=10.0,
    retry="transient",
    capability="email",
)
@injectable
def send_email(to: Line, subject: Line, body: Text, key: str, attachment: str = "") -> Email:
    """Send an e-mail through the primary provider."""
    return _send("send_email", "mail_primary", to, subject, body, attachment, key)


@tool(
    effect="irreversible",
    idempotency="keyed",
    key="key",
    readback="backup_email_by_key",
    reads={"email": call("get_email", email_id="output.id")},
    post="reads.email != null && reads.email.to == args.to && reads.email.subject == args.subject"
    " && reads.email.body == args.body",
    critical=["to"],
    shows=["customer"],
    timeout_s=20.0,
    retry="transient",
    capability="email",
)
@injectable
def send_email_backup(to: Line, subject: Line, body: Text, key: str, attachment: str = "") -> Email:
    """Send an e-mail through the backup provider."""
    return _send("send_email_backup", "mail_backup", to, subject, body, attachment, key)


def _send(tool_name: str, table: Table, to: str, subject: str, body: str, attachment: str, key: str) -> Email:
    def act(db: sqlite3.Connection) -> Email:
        row = db.execute(
            f"INSERT INTO {table} (recipient, subject, body, attachment, key, sent_on)"
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
            (to, subject, body, attachment, key, database.today(db).isoformat()),
        ).fetchone()
        return _email(_provider(table), row)

    arguments = {"to": to, "subject": subject, "body": body, "attachment": attachment}
    return database.keyed(tool_name, key, arguments, Email, act)


def _by_key(table: Table, key: str) -> Email | None:
    with database.reading() as db:
        row = db.execute(f"SELECT * FROM {table} WHERE key = ?", (key,)).fetchone()
        return None if row is None else _email(_provider(table), row)


def _provider(table: Table) -> str:
    return table.removeprefix("mail_")


def _email(provider: str, row: sqlite3.Row) -> Email:
    return Email(
        id=f"{provider}-{row['id']}",
        to=row["recipient"],
        subject=row["subject"],
        body=row["body"],
        attachment=row["attachment"],
        sent_on=row["sent_on"],
    )
