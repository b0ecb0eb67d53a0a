"""Tools on stock: what there is, and what is put aside for an order."""

from __future__ import annotations

import sqlite3

import database
from faults import injectable
from records import (
    MAX_LISTED,
    RESERVATION,
    Line,
    OrderLine,
    OrderLines,
    Reservation,
    Reservations,
    ReservationStatus,
    Stock,
    of_each,
)

from handrail.tool import call, tool

_RESERVATION = "SELECT id, order_id, sku, quantity, status FROM reservations"


@tool(effect="read", endorses=["on_hand", "reserved", "available"])
@injectable
def check_stock(sku: Line) -> Stock:
    """Say how much of a product there is, and how much of that is free."""
    with database.reading() as db:
        row = database.get(
            db,
            "product",
            "SELECT sku, name, on_hand, reserved, on_hand - reserved AS available FROM products"
            " WHERE sku = ?",
            sku,
        )
        return Stock(**row)


@tool(effect="read", endorses=["order_id", "lines[].quantity"])
@injectable
def list_open_lines(order_id: int) -> OrderLines:
    """List the lines of an order for which nothing is reserved yet."""
    with database.reading() as db:
        database.get(db, "order", "SELECT id FROM orders WHERE id = ?", order_id)
        rows = db.execute(
            "SELECT sku, quantity FROM order_lines l WHERE order_id = ? AND NOT EXISTS (SELECT 1 FROM"
            " reservations r WHERE r.order_id = l.order_id AND r.sku = l.sku AND r.status = 'reserved')"
            " ORDER BY sku",
            (order_id,),
        )
        return OrderLines(order_id=order_id, lines=[OrderLine(**row) for row in rows])


@tool(effect="read", endorses=of_each("reservations", RESERVATION))
@injectable
def list_reservations(order_id: int) -> Reservations:
    """List what is or was reserved for an order, the last first."""
    with database.reading() as db:
        rows = db.execute(
            f"{_RESERVATION} WHERE order_id = ? ORDER BY id DESC LIMIT ?", (order_id, MAX_LISTED)
        )
        return Reservations(reservations=[Reservation(**row) for row in rows])


@tool(effect="read", endorses=RESERVATION)
@injectable
def get_reservation(reservation_id: int) -> Reservation | None:
    """Look a reservation up by id; nothing where there is none."""
    with database.reading() as db:
        row = db.execute(f"{_RESERVATION} WHERE id = ?", (reservation_id,)).fetchone()
        return None if row is None else Reservation(**row)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    undo=call("release_stock", reservation_id="output.id"),
    reads={
        "made": call("get_reservation", reservation_id="output.id"),
        "stock": call("check_stock", sku="args.sku"),
    },
    pre="args.quantity > 0",
    post="reads.made != null && reads.made.order_id == args.order_id && reads.made.sku == args.sku"
    " && reads.made.quantity == args.quantity && reads.made.status == 'reserved'"
    " && reads.stock.reserved >= args.quantity",
    critical=["order_id", "sku", "quantity"],
    endorses=RESERVATION,
)
@injectable
def reserve_stock(order_id: int, sku: Line, quantity: int, key: str) -> Reservation:
    """Put so many of a product aside for an order."""

    def act(db: sqlite3.Connection) -> Reservation:
        database.get(db, "order", "SELECT id FROM orders WHERE id = ?", order_id)
        database.get(db, "product", "SELECT sku FROM products WHERE sku = ?", sku)
        row = db.execute(
            "INSERT INTO reservations (order_id, sku, quantity, key) VALUES (?, ?, ?, ?)"
            " RETURNING id, order_id, sku, quantity, status",
            (order_id, sku, quantity, key),
        ).fetchone()
        return Reservation(**row)

    arguments = {"order_id": order_id, "sku": sku, "quantity": quantity}
    return database.keyed("reserve_stock", key, arguments, Reservation, act)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_reservation", reservation_id="args.reservation_id", status="reads.made.status"),
    reads={"made": call("get_reservation", reservation_id="args.reservation_id")},
    pre="reads.made != null",
    post="reads.made != null && reads.made.status == 'released'",
    endorses=RESERVATION,
)
@injectable
def release_stock(reservation_id: int) -> Reservation:
    """Give what was put aside back to the shelf."""
    with database.writing() as db:
        row = database.get(db, "reservation", f"{_RESERVATION} WHERE id = ?", reservation_id)
        if row["status"] == "reserved":
            db.execute("UPDATE reservations SET status = 'released' WHERE id = ?", (reservation_id,))
            database.record(db, "release_stock", {"reservation_id": reservation_id})
        row = database.get(db, "reservation", f"{_RESERVATION} WHERE id = ?", reservation_id)
        return Reservation(**row)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("mark_reservation", reservation_id="args.reservation_id", status="reads.made.status"),
    reads={"made": call("get_reservation", reservation_id="args.reservation_id")},
    pre="reads.made != null",
    post="reads.made != null && reads.made.status == args.status",
    critical=["reservation_id"],
    endorses=RESERVATION,
)
@injectable
def mark_reservation(reservation_id: int, status: ReservationStatus) -> Reservation:
    """Put aside again what was released, if it is still there; or the reverse."""
    with database.writing() as db:
        database.mark(db, "reservation", reservation_id, status)
        return Reservation(**database.get(db, "reservation", f"{_RESERVATION} WHERE id = ?", reservation_id))
