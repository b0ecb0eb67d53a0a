"""Tools on refunds: the one place where money leaves the house."""

from __future__ import annotations

import sqlite3

import database
from faults import injectable
from records import MAX_LISTED, REFUND, Line, Refund, Refunds, of_each

from handrail.tool import Money, call, tool

_BY_ID = "SELECT * FROM refunds WHERE id = ?"


@tool(effect="read", endorses=REFUND)
@injectable
def get_refund(refund_id: int) -> Refund | None:
    """Look a refund up by id; nothing where there is none."""
    with database.reading() as db:
        return _refund(db.execute(_BY_ID, (refund_id,)).fetchone())


@tool(effect="read", endorses=REFUND)
@injectable
def refund_by_key(key: str) -> Refund | None:
    """Look a refund up by the key under which it was made; nothing where there is none."""
    with database.reading() as db:
        return _refund(db.execute("SELECT * FROM refunds WHERE key = ?", (key,)).fetchone())


@tool(effect="read", endorses=of_each("refunds", REFUND))
@injectable
def list_refunds(order_id: int) -> Refunds:
    """List the refunds of an order, cancelled ones too, the last first."""
    with database.reading() as db:
        database.get(db, "order", "SELECT id FROM orders WHERE id = ?", order_id)
        rows = db.execute(
            "SELECT * FROM refunds WHERE order_id = ? ORDER BY id DESC LIMIT ?", (order_id, MAX_LISTED)
        )
        return Refunds(refunds=[refund for row in rows if (refund := _refund(row))])


# `pre` is asked again when an attempt is repeated: it may say nothing that the refund itself makes untrue.
@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="refund_by_key",
    undo=call("cancel_refund", refund_id="output.id"),
    reads={
        "order": call("get_order", order_id="args.order_id"),
        "refund": call("get_refund", refund_id="output.id"),
    },
    pre="args.amount.minor > 0 && args.amount.currency == reads.order.paid.currency",
    post="reads.refund != null && reads.refund.order_id == args.order_id"
    " && reads.refund.amount == args.amount && reads.refund.status == 'refunded'"
    " && reads.order.refunded.minor >= args.amount.minor",
    critical=["order_id", "amount"],
    endorses=REFUND,
)
@injectable
def refund_order(order_id: int, amount: Money, key: str, reason: Line = "on request") -> Refund:
    """Give back all or a part of what was paid for an order."""

    def act(db: sqlite3.Connection) -> Refund:
        database.get(db, "order", "SELECT id FROM orders WHERE id = ?", order_id)
        row = db.execute(
            "INSERT INTO refunds (order_id, amount_minor, currency, reason, key, refunded_on)"
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
            (order_id, amount.minor, amount.currency, reason, key, database.today(db).isoformat()),
        ).fetchone()
        return _made(row)

    arguments = {"order_id": order_id, "amount": amount, "reason": reason}
    return database.keyed("refund_order", key, arguments, Refund, act)


@tool(
    effect="write",
    idempotency="natural",
    reads={"refund": call("get_refund", refund_id="args.refund_id")},
    pre="reads.refund != null",
    post="reads.refund != null && reads.refund.status == 'cancelled'",
    critical=["refund_id"],
    endorses=REFUND,
)
@injectable
def cancel_refund(refund_id: int) -> Refund:
    """Take a refund back."""
    with database.writing() as db:
        row = database.get(db, "refund", _BY_ID, refund_id)
        if row["status"] != "cancelled":
            db.execute("UPDATE refunds SET status = 'cancelled' WHERE id = ?", (refund_id,))
            database.record(db, "cancel_refund", {"refund_id": refund_id})
        return _made(database.get(db, "refund", _BY_ID, refund_id))


def _refund(row: sqlite3.Row | None) -> Refund | None:
    return None if row is None else _made(row)


def _made(row: sqlite3.Row) -> Refund:
    return Refund(
        id=row["id"],
        order_id=row["order_id"],
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        reason=row["reason"],
        status=row["status"],
        refunded_on=row["refunded_on"],
    )
