"""Tools on suppliers' invoices."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Literal

import database
from faults import injectable
from pydantic import Field
from records import INVOICE, Invoice, Line, Queue

from handrail.tool import Money, call, tool

Reason = Annotated[str, Field(max_length=300)]

_INVOICES = """
    SELECT i.*, EXISTS (SELECT 1 FROM invoices e WHERE e.supplier = i.supplier AND e.number = i.number
        AND e.id < i.id) AS duplicate
    FROM invoices i WHERE i.id = ?
"""
# What an invoice was before it was routed or held: that puts it back.
_AS_BEFORE = call(
    "restore_invoice",
    invoice_id="args.invoice_id",
    status="reads.invoice.status",
    queue="reads.invoice.queue",
    reason="reads.invoice.reason",
)


@tool(effect="read", endorses=INVOICE, readers=["staff"])
@injectable
def get_invoice(invoice_id: int) -> Invoice:
    """Look an invoice up, and whether the same one came before."""
    with database.reading() as db:
        return _invoice(db, invoice_id)


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"invoice": call("get_invoice", invoice_id="args.invoice_id")},
    post="reads.invoice.status == 'routed' && reads.invoice.queue == args.queue",
    endorses=INVOICE,
    readers=["staff"],
)
@injectable
def route_invoice(invoice_id: int, queue: Queue) -> Invoice:
    """Put an invoice into a queue."""
    return _set("route_invoice", invoice_id, status="routed", queue=queue, reason="")


@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"invoice": call("get_invoice", invoice_id="args.invoice_id")},
    post="reads.invoice.status == 'held' && reads.invoice.reason == args.reason",
    endorses=INVOICE,
    readers=["staff"],
)
@injectable
def hold_invoice(invoice_id: int, reason: Line) -> Invoice:
    """Keep an invoice from being paid, and say why."""
    return _set("hold_invoice", invoice_id, status="held", queue="", reason=reason)


# Not to `approved`: that is a decision of its own, and needs a permission of its own.
@tool(
    effect="write",
    idempotency="natural",
    undo=_AS_BEFORE,
    reads={"invoice": call("get_invoice", invoice_id="args.invoice_id")},
    post="reads.invoice.status == args.status && reads.invoice.queue == args.queue"
    " && reads.invoice.reason == args.reason",
    endorses=INVOICE,
    readers=["staff"],
)
@injectable
def restore_invoice(
    invoice_id: int, status: Literal["received", "routed", "held"], queue: Queue | Literal[""], reason: Reason
) -> Invoice:
    """Put an invoice back to where it was, in which queue and for which reason."""
    return _set("restore_invoice", invoice_id, status=status, queue=queue, reason=reason)


@tool(
    effect="write",
    permission="approve",
    idempotency="natural",
    reads={"invoice": call("get_invoice", invoice_id="args.invoice_id")},
    pre="!reads.invoice.duplicate",
    post="reads.invoice.status == 'approved'",
    critical=["invoice_id"],
    endorses=INVOICE,
    readers=["staff"],
)
@injectable
def approve_invoice(invoice_id: int) -> Invoice:
    """Approve an invoice for payment."""
    return _set("approve_invoice", invoice_id, status="approved")


def _set(tool_name: str, invoice_id: int, **columns: str) -> Invoice:
    with database.writing() as db:
        row = database.get(db, "invoice", "SELECT * FROM invoices WHERE id = ?", invoice_id)
        if any(row[column] != value for column, value in columns.items()):
            settings = ", ".join(f"{column} = ?" for column in columns)
            db.execute(f"UPDATE invoices SET {settings} WHERE id = ?", (*columns.values(), invoice_id))
            database.record(db, tool_name, {"invoice_id": invoice_id, **columns})
        return _invoice(db, invoice_id)


def _invoice(db: sqlite3.Connection, invoice_id: int) -> Invoice:
    row = database.get(db, "invoice", _INVOICES, invoice_id)
    return Invoice(
        id=row["id"],
        supplier=row["supplier"],
        number=row["number"],
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        purchase_order=row["purchase_order"],
        received_on=row["received_on"],
        due_on=row["due_on"],
        status=row["status"],
        queue=row["queue"],
        reason=row["reason"],
        duplicate=bool(row["duplicate"]),
    )
