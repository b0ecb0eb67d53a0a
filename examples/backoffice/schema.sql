-- The back office's tables. The rules of the house are here, so that no tool can break them: a message
-- "code: text" of a trigger, and the name of a constraint, is the code of the error that a tool raises.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE customers (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    email   TEXT NOT NULL UNIQUE,
    country TEXT NOT NULL,
    since   TEXT NOT NULL
);

-- Notes have no key: nothing can tell afterwards which call wrote which note.
CREATE TABLE notes (
    id          INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    text        TEXT NOT NULL,
    written_on  TEXT NOT NULL,
    status      TEXT NOT NULL DEFAULT 'written' CHECK (status IN ('written', 'retracted'))
);

CREATE TABLE products (
    sku         TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    price_minor INTEGER NOT NULL,
    on_hand     INTEGER NOT NULL,
    reserved    INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT stock_too_low CHECK (on_hand >= 0 AND reserved BETWEEN 0 AND on_hand)
);

CREATE TABLE orders (
    id            INTEGER PRIMARY KEY,
    customer_id   INTEGER NOT NULL REFERENCES customers(id),
    status        TEXT NOT NULL CHECK (status IN ('unpaid', 'paid', 'shipped', 'delivered', 'cancelled')),
    currency      TEXT NOT NULL CHECK (length(currency) = 3),
    address       TEXT NOT NULL CONSTRAINT address_empty CHECK (length(trim(address)) > 0),
    placed_on     TEXT NOT NULL,
    promised_on   TEXT NOT NULL,
    apologised_on TEXT
);

CREATE TABLE order_lines (
    order_id    INTEGER NOT NULL REFERENCES orders(id),
    sku         TEXT NOT NULL REFERENCES products(sku),
    quantity    INTEGER NOT NULL CHECK (quantity > 0),
    price_minor INTEGER NOT NULL CHECK (price_minor >= 0),
    PRIMARY KEY (order_id, sku)
);

CREATE TABLE payments (
    id           INTEGER PRIMARY KEY,
    order_id     INTEGER NOT NULL REFERENCES orders(id),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    paid_on      TEXT NOT NULL
);

CREATE TABLE refunds (
    id           INTEGER PRIMARY KEY,
    order_id     INTEGER NOT NULL REFERENCES orders(id),
    amount_minor INTEGER NOT NULL CONSTRAINT amount_not_positive CHECK (amount_minor > 0),
    currency     TEXT NOT NULL,
    reason       TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'refunded' CHECK (status IN ('refunded', 'cancelled')),
    key          TEXT NOT NULL UNIQUE,
    refunded_on  TEXT NOT NULL
);

CREATE TRIGGER refund_currency BEFORE INSERT ON refunds
WHEN NEW.currency <> (SELECT currency FROM orders WHERE id = NEW.order_id)
BEGIN
    SELECT RAISE(ABORT, 'currency_mismatch: a refund is made in the currency of its order');
END;

CREATE TRIGGER refund_within_paid BEFORE INSERT ON refunds
WHEN NEW.amount_minor
    + (SELECT coalesce(sum(amount_minor), 0) FROM refunds WHERE order_id = NEW.order_id AND status = 'refunded')
    > (SELECT coalesce(sum(amount_minor), 0) FROM payments WHERE order_id = NEW.order_id)
BEGIN
    SELECT RAISE(ABORT, 'refund_exceeds_paid: refunds of an order cannot exceed what was paid for it');
END;

CREATE TRIGGER refund_stays BEFORE UPDATE ON refunds
WHEN OLD.status = 'cancelled' OR NEW.amount_minor <> OLD.amount_minor OR NEW.order_id <> OLD.order_id
BEGIN
    SELECT RAISE(ABORT, 'refund_fixed: a refund can be cancelled and nothing else');
END;

CREATE TRIGGER address_before_shipping BEFORE UPDATE OF address ON orders
WHEN OLD.status IN ('shipped', 'delivered', 'cancelled')
BEGIN
    SELECT RAISE(ABORT, 'already_shipped: the address of an order changes only before it is shipped');
END;

CREATE TABLE reservations (
    id       INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL REFERENCES orders(id),
    sku      TEXT NOT NULL REFERENCES products(sku),
    quantity INTEGER NOT NULL CONSTRAINT quantity_not_positive CHECK (quantity > 0),
    status   TEXT NOT NULL DEFAULT 'reserved' CHECK (status IN ('reserved', 'released')),
    key      TEXT NOT NULL UNIQUE
);

CREATE UNIQUE INDEX already_reserved ON reservations(order_id, sku) WHERE status = 'reserved';

CREATE TRIGGER reservation_takes AFTER INSERT ON reservations
BEGIN
    UPDATE products SET reserved = reserved + NEW.quantity WHERE sku = NEW.sku;
END;

CREATE TRIGGER reservation_gives_back AFTER UPDATE OF status ON reservations
WHEN OLD.status = 'reserved' AND NEW.status = 'released'
BEGIN
    UPDATE products SET reserved = reserved - OLD.quantity WHERE sku = OLD.sku;
END;

CREATE TRIGGER reservation_takes_again AFTER UPDATE OF status ON reservations
WHEN OLD.status = 'released' AND NEW.status = 'reserved'
BEGIN
    UPDATE products SET reserved = reserved + NEW.quantity WHERE sku = NEW.sku;
END;

CREATE TABLE tickets (
    id               INTEGER PRIMARY KEY,
    customer_id      INTEGER NOT NULL REFERENCES customers(id),
    subject          TEXT NOT NULL CONSTRAINT subject_empty CHECK (length(trim(subject)) > 0),
    body             TEXT NOT NULL,
    status           TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'waiting', 'escalated', 'closed')),
    priority         TEXT NOT NULL DEFAULT 'normal' CHECK (priority IN ('low', 'normal', 'high')),
    assignee         TEXT NOT NULL DEFAULT '',
    opened_on        TEXT NOT NULL,
    last_activity_on TEXT NOT NULL,
    resolution       TEXT NOT NULL DEFAULT '',
    key              TEXT UNIQUE,
    CONSTRAINT close_needs_resolution CHECK (status <> 'closed' OR length(trim(resolution)) > 0)
);

CREATE TABLE replies (
    id         INTEGER PRIMARY KEY,
    ticket_id  INTEGER NOT NULL REFERENCES tickets(id),
    body       TEXT NOT NULL,
    key        TEXT NOT NULL UNIQUE,
    written_on TEXT NOT NULL
);

CREATE TRIGGER reply_to_open_ticket BEFORE INSERT ON replies
WHEN (SELECT status FROM tickets WHERE id = NEW.ticket_id) = 'closed'
BEGIN
    SELECT RAISE(ABORT, 'ticket_closed: a closed ticket takes no replies; reopen it first');
END;

CREATE TABLE drafts (
    id        INTEGER PRIMARY KEY,
    recipient TEXT NOT NULL,
    subject   TEXT NOT NULL,
    body      TEXT NOT NULL,
    key       TEXT NOT NULL UNIQUE,
    status    TEXT NOT NULL DEFAULT 'written' CHECK (status IN ('written', 'discarded'))
);

-- Two mail providers that know nothing of each other; what either has taken, it has sent.
CREATE TABLE mail_primary (
    id         INTEGER PRIMARY KEY,
    recipient  TEXT NOT NULL CONSTRAINT bad_recipient CHECK (recipient LIKE '_%@_%.__%'),
    subject    TEXT NOT NULL CONSTRAINT subject_empty CHECK (length(trim(subject)) > 0),
    body       TEXT NOT NULL,
    attachment TEXT NOT NULL,
    key        TEXT NOT NULL UNIQUE,
    sent_on    TEXT NOT NULL
);

CREATE TABLE mail_backup (
    id         INTEGER PRIMARY KEY,
    recipient  TEXT NOT NULL CONSTRAINT bad_recipient CHECK (recipient LIKE '_%@_%.__%'),
    subject    TEXT NOT NULL CONSTRAINT subject_empty CHECK (length(trim(subject)) > 0),
    body       TEXT NOT NULL,
    attachment TEXT NOT NULL,
    key        TEXT NOT NULL UNIQUE,
    sent_on    TEXT NOT NULL
);

CREATE VIEW outbox AS
    SELECT 'primary' AS provider, * FROM mail_primary
    UNION ALL
    SELECT 'backup' AS provider, * FROM mail_backup;

CREATE TABLE employees (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL,
    email     TEXT NOT NULL,
    role      TEXT NOT NULL CHECK (role IN ('support', 'warehouse', 'finance', 'engineering')),
    starts_on TEXT NOT NULL,
    status    TEXT NOT NULL DEFAULT 'employed' CHECK (status IN ('employed', 'withdrawn'))
);

CREATE UNIQUE INDEX employee_exists ON employees(email) WHERE status = 'employed';

CREATE TABLE tasks (
    id          INTEGER PRIMARY KEY,
    employee_id INTEGER NOT NULL REFERENCES employees(id),
    title       TEXT NOT NULL,
    owner       TEXT NOT NULL,
    due_on      TEXT NOT NULL,
    status      TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'done', 'cancelled')),
    key         TEXT UNIQUE
);

CREATE UNIQUE INDEX task_exists ON tasks(employee_id, title) WHERE status <> 'cancelled';

-- What has to be done for a new hire, by role ('' is everybody).
CREATE TABLE checklist (
    role       TEXT NOT NULL,
    title      TEXT NOT NULL,
    owner      TEXT NOT NULL,
    days_after INTEGER NOT NULL,
    PRIMARY KEY (role, title)
);

-- The calendar takes any booking that fits: it keeps a caller's reference, and does not look at it.
CREATE TABLE slots (
    id        INTEGER PRIMARY KEY,
    room      TEXT NOT NULL,
    title     TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    ends_at   TEXT NOT NULL,
    status    TEXT NOT NULL DEFAULT 'booked' CHECK (status IN ('booked', 'cancelled')),
    reference TEXT NOT NULL,
    CONSTRAINT ends_before_start CHECK (ends_at > starts_at)
);

CREATE TABLE attendees (
    slot_id INTEGER NOT NULL REFERENCES slots(id),
    email   TEXT NOT NULL,
    name    TEXT NOT NULL,
    PRIMARY KEY (slot_id, email)
);

CREATE TRIGGER no_double_booking BEFORE INSERT ON slots
WHEN NEW.status = 'booked' AND EXISTS (
    SELECT 1 FROM slots WHERE room = NEW.room AND status = 'booked'
    AND starts_at < NEW.ends_at AND ends_at > NEW.starts_at)
BEGIN
    SELECT RAISE(ABORT, 'double_booking: the room is taken at that time');
END;

CREATE TRIGGER no_double_booking_by_move BEFORE UPDATE ON slots
WHEN NEW.status = 'booked' AND EXISTS (
    SELECT 1 FROM slots WHERE room = NEW.room AND status = 'booked' AND id <> NEW.id
    AND starts_at < NEW.ends_at AND ends_at > NEW.starts_at)
BEGIN
    SELECT RAISE(ABORT, 'double_booking: the room is taken at that time');
END;

CREATE TABLE invoices (
    id             INTEGER PRIMARY KEY,
    supplier       TEXT NOT NULL,
    number         TEXT NOT NULL,
    amount_minor   INTEGER NOT NULL CHECK (amount_minor > 0),
    currency       TEXT NOT NULL,
    purchase_order TEXT NOT NULL DEFAULT '',
    received_on    TEXT NOT NULL,
    due_on         TEXT NOT NULL,
    status         TEXT NOT NULL DEFAULT 'received'
                   CHECK (status IN ('received', 'routed', 'held', 'approved')),
    queue          TEXT NOT NULL DEFAULT '' CHECK (queue IN ('', 'payables', 'purchasing', 'finance_lead')),
    reason         TEXT NOT NULL DEFAULT '',
    CONSTRAINT hold_needs_reason CHECK (status <> 'held' OR length(trim(reason)) > 0)
);

CREATE TRIGGER approved_is_final BEFORE UPDATE ON invoices
WHEN OLD.status = 'approved' AND NEW.status <> 'approved'
BEGIN
    SELECT RAISE(ABORT, 'invoice_approved: an approved invoice stays as it is');
END;

CREATE TABLE reports (
    week       TEXT PRIMARY KEY,
    path       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    orders     INTEGER NOT NULL,
    created_on TEXT NOT NULL
);

-- What a keyed call came to, written with its effect: a repeated key finds its first outcome here.
CREATE TABLE outcomes (
    tool           TEXT NOT NULL,
    key            TEXT NOT NULL,
    arguments_json TEXT NOT NULL,
    output_json    TEXT NOT NULL,
    PRIMARY KEY (tool, key)
);

-- One row for every effect, written with it: tests count them.
CREATE TABLE ledger (
    id             INTEGER PRIMARY KEY,
    tool           TEXT NOT NULL,
    key            TEXT NOT NULL,
    arguments_json TEXT NOT NULL,
    pid            INTEGER NOT NULL,
    time           TEXT NOT NULL
);

-- A testing aid, empty unless somebody rehearses a failure: see faults.py.
CREATE TABLE faults (
    tool       TEXT NOT NULL,
    kind       TEXT NOT NULL CONSTRAINT unknown_fault CHECK (kind IN
               ('transient', 'hang', 'hang_after', 'crash', 'crash_after', 'wrong_output', 'lie')),
    times_left INTEGER NOT NULL CHECK (times_left >= 0),
    seconds    REAL NOT NULL DEFAULT 5,
    PRIMARY KEY (tool, kind)
);
