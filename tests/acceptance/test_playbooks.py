"""Every playbook of the sample, end to end through the real command line, with the database checked after."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.conftest import Up, handrail, query

Check = Callable[[Callable[..., list[Any]]], object]

GOALS: list[tuple[str, Check]] = [
    (
        "refund order 1001 and tell the customer",
        lambda db: (
            db("SELECT sum(amount_minor) FROM refunds WHERE order_id = 1001")
            == db("SELECT amount_minor FROM payments WHERE order_id = 1001")
            and len(db("SELECT * FROM outbox WHERE subject LIKE '%1001%' OR body LIKE '%1001%'")) == 1
        ),
    ),
    (
        "refund order 1001 and tell the customer",
        # Again: nothing is left to refund, and nobody is told twice.
        lambda db: (
            len(db("SELECT * FROM refunds WHERE order_id = 1001")) == 1
            and len(db("SELECT * FROM outbox WHERE subject LIKE '%1001%' OR body LIKE '%1001%'")) == 1
        ),
    ),
    (
        "refund 12.50 EUR of order 1007",
        lambda db: db("SELECT amount_minor, currency FROM refunds WHERE order_id = 1007") == [(1250, "EUR")],
    ),
    ("cancel refund 1", lambda db: db("SELECT status FROM refunds WHERE id = 1") == [("cancelled",)]),
    (
        "move the delivery of order 1012 to 5 Quay Street, Dublin",
        lambda db: "Quay Street" in db("SELECT address FROM orders WHERE id = 1012")[0][0],
    ),
    ("close stale ticket 502", lambda db: db("SELECT status FROM tickets WHERE id = 502") == [("closed",)]),
    (
        "close all stale tickets",
        lambda db: db("SELECT count(*) FROM tickets WHERE status = 'waiting' AND id IN (504, 510)") == [(0,)],
    ),
    ("triage ticket 503", lambda db: db("SELECT status FROM tickets WHERE id = 503") != [("open",)]),
    (
        "onboard Ida Berg in finance from 2026-04-01",
        lambda db: (
            db(
                "SELECT count(*) FROM tasks t JOIN employees e ON e.id = t.employee_id"
                " WHERE e.name = 'Ida Berg'"
            )
            == [(4,)]
        ),
    ),
    (
        "triage invoice 9004",
        lambda db: len(db("SELECT tool FROM ledger WHERE tool LIKE '%invoice%'")) == 1,
    ),
    ("send the weekly report", lambda db: len(db("SELECT * FROM outbox WHERE attachment <> ''")) == 1),
    (
        "reschedule meeting 1 to 2026-03-10 at 10:00 and tell the team",
        lambda db: (
            db("SELECT starts_at FROM slots WHERE id = 1") == [("2026-03-10T10:00",)]
            and db("SELECT count(*) FROM outbox WHERE subject LIKE 'Meeting 1 %'") == [(4,)]
        ),
    ),
    (
        "reserve stock for order 1017",
        lambda db: len(db("SELECT * FROM reservations WHERE order_id = 1017")) > 0,
    ),
    (
        "apologise to all customers with late orders",
        lambda db: db("SELECT count(*) FROM orders WHERE apologised_on IS NOT NULL") == [(4,)],
    ),
    (
        "book a call with customer 3 on 2026-03-11 at 15:30",
        lambda db: db("SELECT room FROM slots WHERE starts_at = '2026-03-11T15:30'") == [("Cedar",)],
    ),
    (
        "note on customer 2: prefers to be called in the morning",
        lambda db: len(db("SELECT * FROM notes WHERE customer_id = 2")) == 1,
    ),
]


@pytest.mark.parametrize(("goal", "check"), GOALS, ids=[f"{i:02}-{g[:24]}" for i, (g, _) in enumerate(GOALS)])
def test_a_goal_is_carried_out(up: Up, goal: str, check: Check) -> None:
    done = handrail("run", goal, "--server", up.address, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert "DONE" in json.dumps(last).upper()
    assert check(lambda sql: query(up.project, sql)), query(up.project, "SELECT tool, key FROM ledger")


def test_every_effect_is_in_the_ledger_once(up: Up) -> None:
    twice = query(
        up.project,
        "SELECT tool, key, count(*) FROM ledger WHERE key <> '' GROUP BY tool, key HAVING count(*) > 1",
    )
    assert twice == []


def test_a_goal_that_matches_nothing_is_refused_with_what_is_nearest(up: Up) -> None:
    done = handrail("run", "refund whatever was ordered last spring", "--server", up.address)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "refund order" in done.stdout + done.stderr


def test_a_dry_run_touches_nothing(up: Up) -> None:
    before = query(up.project, "SELECT count(*) FROM ledger")
    done = handrail("run", "refund order 1008 and tell the customer", "--server", up.address, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert query(up.project, "SELECT count(*) FROM ledger") == before
