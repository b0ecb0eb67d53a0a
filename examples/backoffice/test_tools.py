"""The tools, called as plain functions, and their contracts, judged as a verifier would."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import database
import faults
import pytest
import tools
from tools import (
    add_note,
    backup_email_by_key,
    book_slot,
    cancel_refund,
    cancel_slot,
    change_address,
    check_address,
    check_move,
    check_stock,
    close_ticket,
    create_employee,
    create_sales_report,
    create_task,
    draft_email,
    email_by_key,
    find_customers,
    find_employee,
    find_tickets,
    get_checklist,
    get_customer,
    get_invoice,
    get_order,
    get_refund,
    get_report,
    get_ticket,
    list_emails,
    list_late_orders,
    list_notes,
    list_open_lines,
    list_orders,
    list_refunds,
    list_tasks,
    move_slot,
    refund_by_key,
    refund_order,
    release_stock,
    reopen_ticket,
    reply_to_ticket,
    reserve_stock,
    send_email,
    send_email_backup,
    slot_by_reference,
)

from core import conditions, contracts, judgement, playbook
from handrail import project
from handrail.calling import ToolThreads, invoke
from handrail.tool import Money, Tool, ToolError, collect, set_deadline

PROJECT = Path(__file__).parent
THREADS = ToolThreads(4)
TOOLS: dict[str, Tool] = {tool.contract.name: tool for tool in collect(tools)}
EUROS = Money(minor=500, currency="EUR")

# A call of every tool with an effect that the seed allows.
CALLS: dict[str, dict[str, Any]] = {
    "add_note": {"customer_id": 1, "text": "prefers mornings"},
    "approve_invoice": {"invoice_id": 9001},
    "book_slot": {"room": "Elm", "title": "Talk", "starts_at": "2026-03-09T09:00", "minutes": 30},
    "cancel_refund": {"refund_id": 1},
    "cancel_slot": {"slot_id": 1},
    "change_address": {"order_id": 1001, "address": "1 New Street, SE"},
    "close_ticket": {"ticket_id": 502, "resolution": "no answer"},
    "create_employee": {"name": "Ida Nyström", "role": "support", "starts_on": "2026-03-16"},
    "create_sales_report": {},
    "create_task": {"employee_id": 1, "title": "Mop", "owner": "me", "due_on": "2026-03-16"},
    "draft_email": {"customer_id": 1, "template": "late_order", "order_id": 1001},
    "escalate_ticket": {"ticket_id": 503},
    "hold_invoice": {"invoice_id": 9004, "reason": "came before"},
    "mark_draft": {"draft_id": 1, "status": "discarded"},
    "mark_employee": {"employee_id": 8, "status": "withdrawn"},
    "mark_note": {"note_id": 1, "status": "retracted"},
    "mark_reservation": {"reservation_id": 1, "status": "released"},
    "mark_slot": {"slot_id": 1, "status": "cancelled"},
    "mark_task": {"task_id": 1, "status": "done"},
    "move_slot": {"slot_id": 1, "starts_at": "2026-03-04T16:00"},
    "open_ticket": {"customer_id": 1, "subject": "Lamp", "body": "It hums."},
    "record_apology": {"order_id": 1007},
    "refund_order": {"order_id": 1001, "amount": {"minor": 500, "currency": "EUR"}},
    "release_stock": {"reservation_id": 1},
    "reopen_ticket": {"ticket_id": 512},
    "reply_to_ticket": {"ticket_id": 501, "body": "It is on its way."},
    "reserve_stock": {"order_id": 1001, "sku": "LAMP-OAK", "quantity": 1},
    "restore_invoice": {"invoice_id": 9002, "status": "held", "queue": "", "reason": "as it was"},
    "restore_ticket": {
        "ticket_id": 505,
        "status": "closed",
        "priority": "low",
        "assignee": "ada",
        "resolution": "answered",
    },
    "route_invoice": {"invoice_id": 9003, "queue": "purchasing"},
    "send_email": {"to": "a@example.com", "subject": "Hello", "body": "Hi"},
    "send_email_backup": {"to": "a@example.com", "subject": "Hello", "body": "Hi"},
    "update_ticket": {"ticket_id": 501, "priority": "low", "assignee": "maren.falk"},
}


def rows(table: str) -> list[Any]:
    return database.connection().execute(f"SELECT * FROM {table}").fetchall()


def refused(code: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    return caught.value


# --- orders and refunds ----------------------------------------------------------------------------


def test_a_refund_gives_back_a_part_and_then_the_rest() -> None:
    refund_order(1001, EUROS, key="a")
    order = get_order(1001)
    assert (order.refunded.minor, order.refundable.minor) == (500, order.paid.minor - 500)
    refund_order(1001, order.refundable, key="b")
    assert get_order(1001).refundable.minor == 0


def test_a_refund_stays_within_what_was_paid() -> None:
    more = Money(minor=get_order(1001).paid.minor + 1, currency="EUR")
    refused("refund_exceeds_paid", refund_order, 1001, more, key="a")
    refused("refund_exceeds_paid", refund_order, 1005, EUROS, key="b")
    refused("currency_mismatch", refund_order, 1001, Money(minor=1, currency="GBP"), key="c")
    refused("amount_not_positive", refund_order, 1001, Money(minor=0, currency="EUR"), key="d")
    refused("order_not_found", refund_order, 9, EUROS, key="e")
    refused("bad_key", refund_order, 1001, EUROS, key="")
    assert rows("refunds") == rows("outcomes") == rows("ledger") == []


def test_a_repeated_key_returns_the_first_outcome() -> None:
    first = refund_order(1001, EUROS, key="a")
    assert refund_order(1001, EUROS, key="a") == first
    refused("key_reused", refund_order, 1001, Money(minor=1, currency="EUR"), key="a")
    assert len(rows("refunds")) == len(rows("ledger")) == 1
    assert refund_by_key("a") == get_refund(first.id) == first
    assert refund_by_key("b") is None
    assert get_refund(99) is None


def test_a_refund_is_cancelled_once_and_for_all() -> None:
    first = refund_order(1001, EUROS, key="a")
    assert cancel_refund(first.id) == cancel_refund(first.id)
    assert get_order(1001).refunded.minor == 0
    assert [row["tool"] for row in rows("ledger")] == ["refund_order", "cancel_refund"]
    assert list_refunds(1001).refunds[0].status == "cancelled"
    refused("refund_not_found", cancel_refund, 99)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same time; return what each returned, or the code of its error."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(timeout=10)
        try:
            return call()
        except ToolError as error:
            return error.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_two_refunds_of_one_order_at_once_cannot_exceed_what_was_paid() -> None:
    paid = get_order(1001).paid
    ended = together(*(lambda n=n: refund_order(1001, paid, key=f"k{n}") for n in range(6)))
    assert ended.count("refund_exceeds_paid") == 5
    assert len(rows("refunds")) == 1


def test_one_key_used_at_once_acts_once() -> None:
    ended = together(*(lambda: refund_order(1001, EUROS, key="same") for _ in range(6)))
    assert len({refund.id for refund in ended}) == 1
    assert len(rows("refunds")) == len(rows("ledger")) == 1


def test_an_address_changes_until_the_order_is_shipped() -> None:
    assert check_address(1001, "1 New Street").changeable
    change_address(1001, "1 New Street")
    change_address(1001, "1 New Street")
    assert check_address(1001, "1 New Street").same
    assert len(rows("ledger")) == 1
    assert not check_address(1006, "1 New Street").changeable
    refused("already_shipped", change_address, 1006, "1 New Street")
    refused("address_empty", change_address, 1001, " ")


def test_orders_are_listed() -> None:
    assert {order.id for order in list_late_orders().orders} == {1007, 1013, 1022, 1031}
    assert all(order.status == "unpaid" for order in list_orders(status="unpaid").orders)
    assert {order.customer_id for order in list_orders(customer_id=1).orders} == {1}
    assert len(list_orders(limit=3).orders) == 3


def test_customers_are_found_and_noted() -> None:
    assert [customer.id for customer in find_customers("LINDQ").customers] == [1]
    refused("customer_not_found", get_customer, 99)
    note = add_note(1, "prefers mornings")
    assert list_notes(1).notes == [note]


# --- stock -------------------------------------------------------------------------------------------


def test_stock_never_goes_below_nothing() -> None:
    assert check_stock("RUG-JUTE").available == 1
    orders = (1001, 1014, 1017, 1027)
    ended = together(*(lambda n=n: reserve_stock(n, "RUG-JUTE", 1, key=f"k{n}") for n in orders))
    assert ended.count("stock_too_low") == 3
    (made,) = (one for one in ended if one != "stock_too_low")
    assert check_stock("RUG-JUTE").available == 0
    assert release_stock(made.id) == release_stock(made.id)
    assert check_stock("RUG-JUTE").available == 1
    refused("quantity_not_positive", reserve_stock, 1001, "RUG-JUTE", 0, key="x")
    refused("product_not_found", reserve_stock, 1001, "NONE", 1, key="y")


def test_a_line_is_reserved_once() -> None:
    assert [line.sku for line in list_open_lines(1001).lines] == ["LAMP-OAK", "MUG-BLUE"]
    reserve_stock(1001, "LAMP-OAK", 1, key="a")
    refused("already_reserved", reserve_stock, 1001, "LAMP-OAK", 1, key="b")
    assert [line.sku for line in list_open_lines(1001).lines] == ["MUG-BLUE"]


# --- tickets, e-mail, calendar, invoices, people, reports ------------------------------------------------


def test_a_ticket_is_answered_closed_and_reopened() -> None:
    reply_to_ticket(501, "On its way.", key="a")
    assert get_ticket(501).status == "waiting"
    assert close_ticket(501, "answered").resolution == "answered"
    refused("ticket_closed", reply_to_ticket, 501, "One more thing", key="b")
    refused("close_needs_resolution", close_ticket, 502, " ")
    assert reopen_ticket(501).status == "open"
    stale = find_tickets(status="waiting", idle_days=14).tickets
    assert {ticket.id for ticket in stale} == {502, 504, 510}


def test_two_providers_know_nothing_of_each_other() -> None:
    send_email("a@example.com", "Hello", "Hi", key="k")
    send_email("a@example.com", "Hello", "Hi", key="k")
    assert len(rows("outbox")) == 1
    assert email_by_key("k") is not None
    assert backup_email_by_key("k") is None
    send_email_backup("a@example.com", "Hello", "Hi", key="k")
    assert {email.id for email in list_emails("a@example.com").emails} == {"primary-1", "backup-1"}
    refused("bad_recipient", send_email, "nobody", "Hello", "Hi", key="j")


def test_a_draft_is_written_and_not_sent() -> None:
    draft = draft_email(1, "refund", key="a", order_id=1001, amount=Money(minor=1205, currency="EUR"))
    assert "12.05 EUR" in draft.body
    assert draft.to == get_customer(1).email
    assert rows("outbox") == []
    refused("template_incomplete", draft_email, 1, "refund", key="b")


def test_a_room_is_booked_once_at_a_time() -> None:
    slot = book_slot("Elm", "Talk", "2026-03-09T09:00", 60, reference="r1", attendees=["a.b@example.com"])
    assert slot_by_reference("r1") == slot
    assert slot.attendees[0].name == "A B"
    refused("double_booking", book_slot, "Elm", "Talk", "2026-03-09T09:30", 60, reference="r2")
    other = book_slot("Elm", "Talk", "2026-03-09T10:00", 30, reference="r3")
    assert not check_move(other.id, "2026-03-09T09:30").free
    refused("double_booking", move_slot, other.id, "2026-03-09T09:30")
    cancel_slot(slot.id)
    assert move_slot(other.id, "2026-03-09T09:30").ends_at == "2026-03-09T10:00"
    assert check_move(other.id, "2026-03-09T09:30").same
    refused("slot_cancelled", move_slot, slot.id, "2026-03-10T09:00")
    refused("bad_time", move_slot, other.id, "2026-13-45T99:00")


def test_an_invoice_that_came_before_is_known() -> None:
    assert get_invoice(9004).duplicate
    assert not get_invoice(9001).duplicate
    tools.approve_invoice(9001)
    refused("invoice_approved", tools.hold_invoice, 9001, "too late")
    refused("hold_needs_reason", tools.hold_invoice, 9002, " ")


def test_a_new_hire_gets_an_address_and_tasks() -> None:
    assert not find_employee("Ida Nyström").found
    hire = create_employee("Ida Nyström", "support", "2026-03-16", key="a")
    assert hire.email == "ida.nystrom@backoffice.example"
    refused("employee_exists", create_employee, "Ida Nyström", "support", "2026-03-16", key="b")
    refused("bad_name", find_employee, "李")
    for number, item in enumerate(get_checklist("support", "2026-03-16").items):
        create_task(hire.id, item.title, item.owner, item.due_on, key=f"t{number}")
    assert len(list_tasks(hire.id).tasks) == 4
    refused("task_exists", create_task, hire.id, "Sign the contract", "me", "2026-03-16", key="z")


def test_a_report_has_a_chart_on_the_disk(office: Path) -> None:
    report = create_sales_report()
    assert create_sales_report("2026-W09") == report
    found = get_report("last")
    assert found is not None
    assert found.sha256 == report.sha256
    assert (office.parent / report.path).read_text().startswith("<svg")
    assert len(rows("ledger")) == 1
    refused("bad_time", create_sales_report, "2026-W60")
    assert "nothing" in create_sales_report("2020-W01").summary


def test_nothing_is_written_after_the_deadline() -> None:
    def late() -> None:
        set_deadline(0.0)
        refused("deadline_passed", refund_order, 1001, EUROS, key="a")

    thread = threading.Thread(target=late)  # the deadline stays in the thread's own context
    thread.start()
    thread.join(timeout=10)
    assert rows("refunds") == []


# --- the database ------------------------------------------------------------------------------------


def test_processes_that_come_first_together_make_one_database(office: Path) -> None:
    code = (
        "import database; print(database.connection().execute('SELECT count(*) FROM orders').fetchone()[0])"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in started] == ["40"] * 4
    assert database.connection().execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_threads_that_come_first_together_make_one_database() -> None:
    assert [order.id for order in together(*(lambda: get_order(1001) for _ in range(8)))] == [1001] * 8


def test_the_seed_is_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    before = "\n".join(database.connection().iterdump())
    refund_order(1001, EUROS, key="a")
    faults.set_fault("refund_order", "lie")
    assert database.main(["reset"]) == 0
    assert "\n".join(database.connection().iterdump()) == before
    assert database.main(["show", "customers"]) == 0
    assert "Ada Lindqvist" in capsys.readouterr().out
    assert database.main(["show", "nothing; DROP TABLE orders"]) == 2
    assert database.main([]) == 2


def test_a_database_of_an_older_version_starts_again(office: Path) -> None:
    def dump() -> str:
        return "\n".join(database.connection().iterdump())

    before = dump()
    with closing(sqlite3.connect(office)) as db:
        db.execute("ALTER TABLE notes DROP COLUMN status")
        db.execute("PRAGMA user_version = 1")
    # Whoever opens it next looks at its version: here another thread.
    assert together(dump) == [before]


def test_a_deleted_database_is_made_again(office: Path) -> None:
    refund_order(1001, EUROS, key="a")
    office.unlink()
    assert get_order(1001).refunded.minor == 0


def test_a_read_tool_cannot_write() -> None:
    with database.reading() as db, pytest.raises(Exception, match="readonly"):
        db.execute("DELETE FROM orders")


# --- contracts and faults ------------------------------------------------------------------------------


def test_no_contract_contradicts_itself() -> None:
    assert [f"{v.field}: {v.message}" for v in contracts.check_tools(list(TOOLS.values()))] == []


def test_every_tool_with_an_effect_is_judged_here() -> None:
    assert set(CALLS) == {name for name, tool in TOOLS.items() if tool.contract.has_effect}
    assert all(TOOLS[name].contract.post for name in CALLS)


def prepare() -> None:
    """Make what the calls need: a refund, a reservation, a note, a draft and a task to change."""
    refund_order(1014, EUROS, key="before")
    reserve_stock(1014, "VASE-CLAY", 1, key="before")
    add_note(2, "writes in Portuguese")
    draft_email(2, "call_booked", key="before")
    create_task(2, "Sweep", "me", "2026-03-16", key="before")


async def read(name: str, arguments: Any) -> Any:
    return await invoke(TOOLS[name], arguments, timeout_s=10, threads=THREADS)


async def act(
    name: str, key: str = "key", arguments: dict[str, Any] | None = None
) -> tuple[bool, bool, bool | None]:
    """Call a tool as a worker does; say whether pre and post held, and what the read-back says."""
    contract = contracts.to_proto(TOOLS[name].contract)
    arguments = CALLS[name] if arguments is None else arguments
    before = {"args": arguments, "reads": await judgement.observe(contract, {"args": arguments}, read)}
    ready = not contract.pre or conditions.holds(contract.pre, before)
    output = await invoke(TOOLS[name], arguments, key=key, timeout_s=10, threads=THREADS)
    seen = {"args": arguments, "output": output}
    reads = await judgement.observe(contract, seen, read)
    evidence = judgement.judge([contract.post], {**seen, "reads": reads})
    found = await read(contract.readback, {"key": key}) is not None if contract.readback else None
    return ready, evidence[0].held, found


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_a_contract_confirms_what_was_done(name: str) -> None:
    prepare()
    effects = len(rows("ledger"))
    ready, confirmed, found = await act(name)
    assert (ready, confirmed) == (True, True)
    assert found is not False
    assert len(rows("ledger")) == effects + 1


@pytest.mark.parametrize("name", sorted(n for n in CALLS if TOOLS[n].contract.idempotency != "none"))
async def test_a_repeated_action_is_one_effect_and_still_confirmed(name: str) -> None:
    """Natural and keyed alike; `pre` must allow the repeat too."""
    prepare()
    await act(name)
    effects = len(rows("ledger"))
    ready, confirmed, _ = await act(name)
    assert (ready, confirmed) == (True, True)
    assert len(rows("ledger")) == effects


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_a_contract_catches_a_lie(name: str) -> None:
    prepare()
    effects = len(rows("ledger"))
    faults.set_fault(name, "lie")
    _, confirmed, found = await act(name)
    assert not confirmed
    assert not found
    assert len(rows("ledger")) == effects


@pytest.mark.parametrize("name", ["refund_order", "reserve_stock", "create_task", "add_note"])
async def test_a_contract_catches_wrong_output(name: str) -> None:
    faults.set_fault(name, "wrong_output")
    _, confirmed, found = await act(name)
    assert not confirmed
    assert found is not False


def test_a_fault_strikes_as_often_as_it_was_set() -> None:
    faults.set_fault("send_email", "transient", times=2)
    for _ in range(2):
        error = refused("rehearsed_fault", send_email, "a@example.com", "Hello", "Hi", key="k")
        assert error.transient
    send_email("a@example.com", "Hello", "Hi", key="k")
    faults.set_fault("send_email", "hang", seconds=0.01)
    faults.clear_faults()
    assert rows("faults") == []
    assert faults.main([]) == faults.main(["set", "send_email", "nonsense"]) == 2


@pytest.mark.parametrize(("kind", "effects"), [("crash", 0), ("crash_after", 1)])
def test_a_crash_kills_the_process_before_or_after_the_effect(kind: str, effects: int) -> None:
    faults.set_fault("add_note", kind)
    code = "import tools; tools.add_note(1, 'from a process that dies')"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60).returncode == -9
    assert len(rows("notes")) == len(rows("ledger")) == effects
    assert [row["times_left"] for row in rows("faults")] == [0]


# --- the project ----------------------------------------------------------------------------------------


def test_every_goal_of_the_readme_is_a_playbooks() -> None:
    playbooks = project.load(PROJECT).playbooks
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Goals to try")[2].partition("\n## ")[0]
    goals = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    found = [playbook.match(goal, playbooks, {}) for goal in goals]
    assert [match for match in found if isinstance(match, playbook.NoMatch)] == []
    named = {match.playbook.name for match in found if isinstance(match, playbook.Match)}
    assert named == {known.name for known in playbooks}
