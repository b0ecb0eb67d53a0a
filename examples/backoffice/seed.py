"""What the database starts with: the same rows every time, around a fixed business date."""

from __future__ import annotations

import sqlite3
from datetime import date, timedelta

TODAY = date(2026, 3, 2)

CUSTOMERS = (
    ("Ada Lindqvist", "SE"), ("Bruno Carvalho", "PT"), ("Chiara Moretti", "IT"), ("Dieter Vogel", "DE"),
    ("Elif Kaya", "TR"), ("Fiona Gallagher", "IE"), ("Gustav Holm", "SE"), ("Hannah Brooks", "GB"),
    ("Ines Duarte", "PT"), ("Jonas Weber", "DE"), ("Katarzyna Nowak", "PL"), ("Liam Walsh", "IE"),
    ("Mireille Dubois", "FR"), ("Nikos Pappas", "GR"), ("Oliver Grant", "GB"), ("Petra Novotna", "CZ"),
    ("Quentin Lefevre", "FR"), ("Rosa Jimenez", "ES"), ("Sven Bakker", "NL"), ("Tara Singh", "GB"),
)  # fmt: skip

PRODUCTS = (
    ("MUG-BLUE", "Blue mug", 1490, 120),
    ("MUG-SAND", "Sand mug", 1490, 80),
    ("LAMP-OAK", "Oak desk lamp", 7900, 12),
    ("CHAIR-ASH", "Ash chair", 18900, 9),
    ("THROW-WOOL", "Wool throw", 6500, 30),
    ("VASE-CLAY", "Clay vase", 3900, 25),
    ("RUG-JUTE", "Jute rug", 12900, 1),
    ("CLOCK-WALL", "Wall clock", 4500, 0),
)

# Orders that are not what their age would make them.
UNPAID = {1005, 1026}
CANCELLED = {1019, 1033}
LATE = {1007, 1013, 1022, 1031}
FRESH = {1001, 1008, 1012, 1017}
LINES = {
    1001: (("LAMP-OAK", 1), ("MUG-BLUE", 2)),
    1008: (("CLOCK-WALL", 1), ("VASE-CLAY", 2)),
}
DEPOSIT_ONLY = 1011

TICKETS = (
    # customer, subject, body, status, priority, opened days ago, idle days
    (1, "Where is my parcel?", "I ordered last week and have heard nothing.", "open", "normal", 2, 1),
    (4, "Lamp flickers", "The oak lamp flickers after an hour.", "waiting", "normal", 40, 31),
    (6, "Charged twice", "My card shows two payments for one order.", "open", "high", 1, 1),
    (9, "Invoice copy", "Could you send me a copy of the invoice?", "waiting", "low", 25, 18),
    (2, "Change of address", "We are moving; please note our new address.", "open", "normal", 5, 4),
    (15, "Broken vase", "The vase arrived in pieces.", "open", "high", 3, 3),
    (11, "Colour question", "Is the sand mug closer to white or to brown?", "waiting", "low", 9, 6),
    (20, "Return label", "The return label does not print.", "open", "normal", 8, 7),
    (13, "Late again", "This is the second late delivery.", "escalated", "high", 12, 2),
    (7, "Thank you", "The chair is lovely.", "waiting", "low", 60, 58),
    (18, "Wrong colour", "I ordered blue and got sand.", "open", "normal", 4, 2),
    (3, "Gift wrapping", "Do you wrap gifts?", "closed", "low", 30, 28),
)

EMPLOYEES = (
    ("Maren Falk", "support"), ("Tomas Ortega", "support"), ("Noor Haddad", "warehouse"),
    ("Peter Lund", "warehouse"), ("Yuki Tanaka", "finance"), ("Clara Engel", "finance"),
    ("Sami Rintala", "engineering"), ("Greta Olsen", "engineering"),
)  # fmt: skip

CHECKLIST = (
    ("", "Sign the contract", "clara.engel@backoffice.example", -5),
    ("", "Prepare laptop and accounts", "sami.rintala@backoffice.example", -1),
    ("", "Walk through the house", "maren.falk@backoffice.example", 0),
    ("support", "Shadow the ticket queue", "tomas.ortega@backoffice.example", 1),
    ("warehouse", "Forklift briefing", "noor.haddad@backoffice.example", 1),
    ("finance", "Access to the ledger", "yuki.tanaka@backoffice.example", 1),
    ("engineering", "First change reviewed", "greta.olsen@backoffice.example", 3),
)

SLOTS = (
    # room, title, start, end, the first of the employees who attend, how many
    ("Alder", "Support review", "2026-03-04T10:00", "2026-03-04T11:00", 0, 4),
    ("Alder", "Stock take planning", "2026-03-04T13:00", "2026-03-04T14:00", 2, 3),
    ("Birch", "Month end", "2026-03-05T09:00", "2026-03-05T10:30", 4, 2),
    ("Birch", "Architecture hour", "2026-03-05T14:00", "2026-03-05T15:00", 6, 2),
    ("Cedar", "All hands", "2026-03-06T15:00", "2026-03-06T16:00", 0, 8),
)

INVOICES = (
    # supplier, number, minor units, purchase order, received days ago
    ("Nordic Clay", "NC-2207", 48_000, "PO-118", 3),
    ("Oakworks", "OW-0911", 612_000, "PO-121", 2),
    ("Paper & Co", "PC-5530", 9_900, "", 4),
    ("Nordic Clay", "NC-2207", 48_000, "PO-118", 1),
    ("City Power", "CP-8841", 73_500, "PO-077", 6),
    ("Fleet Lease", "FL-1002", 250_000, "PO-101", 2),
    ("Wool Mill", "WM-310", 131_000, "", 5),
    ("Clean Team", "CT-019", 22_400, "PO-090", 9),
)


def fill(db: sqlite3.Connection) -> None:
    """Write the seed into empty tables."""
    db.execute("INSERT INTO settings VALUES ('today', ?)", (TODAY.isoformat(),))
    for number, (name, country) in enumerate(CUSTOMERS, start=1):
        since = TODAY - timedelta(days=90 + 31 * number)
        row = (number, name, f"{_mailbox(name)}@example.com", country, since.isoformat())
        db.execute("INSERT INTO customers VALUES (?, ?, ?, ?, ?)", row)
    db.executemany("INSERT INTO products (sku, name, price_minor, on_hand) VALUES (?, ?, ?, ?)", PRODUCTS)
    for number in range(1001, 1041):
        _order(db, number)
    _tickets(db)
    _staff(db)
    for number, (supplier, paper, minor, purchase_order, age) in enumerate(INVOICES, start=9001):
        db.execute(
            "INSERT INTO invoices (id, supplier, number, amount_minor, currency, purchase_order, received_on,"
            " due_on) VALUES (?, ?, ?, ?, 'EUR', ?, ?, ?)",
            (number, supplier, paper, minor, purchase_order, _ago(age), _ago(age - 30)),
        )


def _order(db: sqlite3.Connection, number: int) -> None:
    index = number - 1001
    customer = index * 7 % len(CUSTOMERS) + 1
    age = 18 if number in LATE else 3 if number in FRESH else 1 + index * 37 % 60
    status = "delivered" if age > 12 else "shipped" if age > 5 else "paid"
    for special, ids in (("paid", LATE), ("unpaid", UNPAID), ("cancelled", CANCELLED)):
        status = special if number in ids else status
    name, country = CUSTOMERS[customer - 1]
    address = f"{name}, {10 + index} Market Street, {country}"
    currency = "GBP" if country == "GB" else "EUR"
    db.execute(
        "INSERT INTO orders (id, customer_id, status, currency, address, placed_on, promised_on)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, customer, status, currency, address, _ago(age), _ago(age - 7)),
    )
    lines = LINES.get(number) or {
        (PRODUCTS[(index * step + step) % 6][0], 1 + index % 3) for step in range(1, 2 + index % 3)
    }
    prices = {sku: price for sku, _, price, _ in PRODUCTS}
    for sku, quantity in sorted(lines):
        db.execute("INSERT INTO order_lines VALUES (?, ?, ?, ?)", (number, sku, quantity, prices[sku]))
    total = sum(prices[sku] * quantity for sku, quantity in lines)
    if status not in ("unpaid", "cancelled"):
        paid = total // 2 if number == DEPOSIT_ONLY else total
        row = (number, paid, _ago(age))
        db.execute("INSERT INTO payments (order_id, amount_minor, paid_on) VALUES (?, ?, ?)", row)


def _tickets(db: sqlite3.Connection) -> None:
    for number, (customer, subject, body, status, priority, age, idle) in enumerate(TICKETS, start=501):
        resolution = "answered" if status == "closed" else ""
        db.execute(
            "INSERT INTO tickets (id, customer_id, subject, body, status, priority, opened_on,"
            " last_activity_on, resolution) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, customer, subject, body, status, priority, _ago(age), _ago(idle), resolution),
        )


def _staff(db: sqlite3.Connection) -> None:
    staff = [(name, f"{_mailbox(name)}@backoffice.example", role) for name, role in EMPLOYEES]
    for name, email, role in staff:
        row = (name, email, role, "2024-09-02")
        db.execute("INSERT INTO employees (name, email, role, starts_on) VALUES (?, ?, ?, ?)", row)
    db.executemany("INSERT INTO checklist VALUES (?, ?, ?, ?)", CHECKLIST)
    for number, (room, title, starts_at, ends_at, first, count) in enumerate(SLOTS, start=1):
        slot = (number, room, title, starts_at, ends_at, f"seed-{number}")
        columns = "id, room, title, starts_at, ends_at, reference"
        db.execute(f"INSERT INTO slots ({columns}) VALUES (?, ?, ?, ?, ?, ?)", slot)
        for name, email, _ in staff[first : first + count]:
            db.execute("INSERT INTO attendees VALUES (?, ?, ?)", (number, email, name))


def _mailbox(name: str) -> str:
    return name.lower().replace(" ", ".")


def _ago(days: int) -> str:
    return (TODAY - timedelta(days=days)).isoformat()
