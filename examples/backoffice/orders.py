"""Tools on orders: what was bought, where it goes, and whether it is late."""

from __future__ import annotations

import sqlite3
from typing import Annotated

import database
from faults import injectable
from pydantic import Field
from records import (
    ADDRESS_CHECK,
    MAX_LISTED,
    ORDER,
    AddressCheck,
    Line,
    Order,
    OrderLine,
    Orders,
    OrderStatus,
    of_each,
)

from handrail.tool import Money, call, tool

_ORDERS = """
    SELECT o.*,
        (SELECT coalesce(sum(quantity * price_minor), 0) FROM order_lines WHERE order_id = o.id) AS total,
        (SELECT coalesce(sum(amount_minor), 0) FROM payments WHERE order_id = o.id) AS paid,
        (SELECT coalesce(sum(amount_minor), 0) FROM refunds
            WHERE order_id = o.id AND status = 'refunded') AS refunded
    FROM orders o
"""


@tool(effect="read", endorses=ORDER)
@injectable
def get_order(order_id: int) -> Order:
    """Look an order up: its lines, its address, what was paid and what can still be refunded."""
    with database.reading() as db:
        return _order(db, database.get(db, "order", f"{_ORDERS} WHERE o.id = ?", order_id))


@tool(effect="read", endorses=of_each("orders", ORDER))
@injectable
def list_orders(
    customer_id: int | None = None,
    status: OrderStatus | None = None,
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50,
) -> Orders:
    """List orders, the latest first; of one customer, or in one status, where that is given."""
    with database.reading() as db:
        rows = db.execute(
            f"{_ORDERS} WHERE o.customer_id = coalesce(?, o.customer_id) AND o.status = coalesce(?, o.status)"
            " ORDER BY o.placed_on DESC, o.id LIMIT ?",
            (customer_id, status, limit),
        ).fetchall()
        return Orders(orders=[_order(db, row) for row in rows])


@tool(effect="read", endorses=of_each("orders", ORDER))
@injectable
def list_late_orders(limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50) -> Orders:
    """List orders that are paid, not shipped by the promised day, and not apologised for."""
    with database.reading() as db:
        rows = db.execute(
            f"{_ORDERS} WHERE o.status = 'paid' AND o.promised_on < ? AND o.apologised_on IS NULL"
            " ORDER BY o.promised_on, o.id LIMIT ?",
            (database.today(db).isoformat(), limit),
        ).fetchall()
        return Orders(orders=[_order(db, row) for row in rows])


@tool(effect="read", endorses=ADDRESS_CHECK)
@injectable
def check_address(order_id: int, address: Line) -> AddressCheck:
    """Say whether the address of an order can still be changed, and whether it is this one already."""
    with database.reading() as db:
        order = database.get(db, "order", "SELECT status, address FROM orders WHERE id = ?", order_id)
        return AddressCheck(
            order_id=order_id,
            changeable=order["status"] in ("unpaid", "paid"),
            same=order["address"] == address,
        )


@tool(
    effect="write",
    idempotency="natural",
    undo=call("change_address", order_id="args.order_id", address="reads.order.address"),
    reads={"order": call("get_order", order_id="args.order_id")},
    post="reads.order.address == args.address",
    critical=["order_id", "address"],
    endorses=ORDER,
)
@injectable
def change_address(order_id: int, address: Line) -> Order:
    """Send an order to another address; possible until it is shipped."""
    with database.writing() as db:
        order = database.get(db, "order", "SELECT address FROM orders WHERE id = ?", order_id)
        if order["address"] != address:
            db.execute("UPDATE orders SET address = ? WHERE id = ?", (address, order_id))
            database.record(db, "change_address", {"order_id": order_id, "address": address})
        return _order(db, database.get(db, "order", f"{_ORDERS} WHERE o.id = ?", order_id))


@tool(
    effect="write",
    idempotency="natural",
    reads={"order": call("get_order", order_id="args.order_id")},
    pre="reads.order.late",
    post="reads.order.apologised",
    endorses=ORDER,
)
@injectable
def record_apology(order_id: int) -> Order:
    """Remember that the customer of a late order was told that we are sorry."""
    with database.writing() as db:
        order = database.get(db, "order", "SELECT apologised_on FROM orders WHERE id = ?", order_id)
        if order["apologised_on"] is None:
            today = database.today(db).isoformat()
            db.execute("UPDATE orders SET apologised_on = ? WHERE id = ?", (today, order_id))
            database.record(db, "record_apology", {"order_id": order_id})
        return _order(db, database.get(db, "order", f"{_ORDERS} WHERE o.id = ?", order_id))


def _order(db: sqlite3.Connection, row: sqlite3.Row) -> Order:
    lines = db.execute("SELECT sku, quantity FROM order_lines WHERE order_id = ? ORDER BY sku", (row["id"],))

    def money(minor: int) -> Money:
        return Money(minor=minor, currency=row["currency"])

    return Order(
        id=row["id"],
        customer_id=row["customer_id"],
        status=row["status"],
        address=row["address"],
        placed_on=row["placed_on"],
        promised_on=row["promised_on"],
        late=row["status"] == "paid" and row["promised_on"] < database.today(db).isoformat(),
        apologised=row["apologised_on"] is not None,
        lines=[OrderLine(**line) for line in lines],
        total=money(row["total"]),
        paid=money(row["paid"]),
        refunded=money(row["refunded"]),
        refundable=money(row["paid"] - row["refunded"]),
    )
