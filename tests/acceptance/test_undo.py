"""Taking it back, through the whole stack on the sample: the world is as before, and what stays is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handrail.v1 import event_pb2, run_service_pb2
from tests.acceptance.conftest import Up, copy_sample, handrail, query, start

DONE, FAILED, STAYS, WAITING = 0, 1, 6, 3
REFUND = "refund order {} and tell the customer"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = start(copy_sample(tmp_path_factory.mktemp("undo") / "backoffice", gates=True), "inline")
    yield running
    running.stop()


def call(up: Up, *arguments: str) -> tuple[int, str]:
    done = handrail(*arguments, "--server", up.address)
    return done.returncode, done.stdout + done.stderr


def carry_out(up: Up, goal: str, **options: Any) -> run_service_pb2.Run:
    """Carry a goal out, with everything approved by somebody else."""
    with up.client() as client:
        run = client.run(goal, submitter="maren", timeout_s=60, **options)
        while run.status == event_pb2.RUN_STATUS_WAITING:
            (gate,) = [gate for gate in run.gates if not gate.HasField("closed")]
            client.decide(gate.id, approve=True, approver="yuki", binding=gate.what.binding)
            run = client.wait(run.id, timeout_s=60)
    return run


def order(up: Up, number: int) -> dict[str, Any]:
    """Read an order, as a run of the sample sees it."""
    plan = {"steps": [{"id": "order", "tool": "get_order", "with": {"order_id": number}}]}
    with up.client() as client:
        run = client.run("look", plan=plan, timeout_s=60)
    found: dict[str, Any] = json.loads(run.steps[0].output.json)
    return found


def refunds(up: Up, number: int) -> list[str]:
    return [row[0] for row in query(up.project, "SELECT status FROM refunds WHERE order_id = ?", number)]


def set_fault(up: Up, tool: str, kind: str, times: int = 1) -> None:
    query(up.project, "REPLACE INTO faults VALUES (?, ?, ?, ?)", tool, kind, times, 1.0)


def compensations(up: Up, run: str) -> int:
    """How many times a worker was asked to compensate something."""
    with up.client() as client:
        events = [e for seen in client.watch(run, until_now=True) for e in (*seen.event.before, seen.event)]
    return sum(e.action.step.startswith("undo-") for e in events)


def test_a_refund_is_taken_back_and_the_email_stays(up: Up) -> None:
    before = order(up, 1001)
    run = carry_out(up, REFUND.format(1001)).id
    assert order(up, 1001)["refundable"]["minor"] == 0
    code, said = call(up, "undo", run, "--dry-run", "--as", "ines")
    assert code == STAYS, said
    assert "○ undo-refund" in said
    assert "cancel_refund" in said
    assert "refund_id  1" in said
    assert "notify (send_email) would stay: it cannot be undone" in said
    assert refunds(up, 1001) == ["refunded"]
    code, said = call(up, "undo", run, "--as", "ines", "--reason", "they kept it")
    assert code == STAYS, said
    assert "undone: " in said
    assert "refund by cancel_refund" in said
    assert "notify (send_email) stays: it cannot be undone" in said
    assert order(up, 1001) == before
    asked = compensations(up, run)
    code, said = call(up, "undo", run, "--as", "ines")
    assert code == STAYS, said
    assert compensations(up, run) == asked
    assert refunds(up, 1001) == ["cancelled"]
    _tell(up, run)


def _tell(up: Up, run: str) -> None:
    """The commands that look at a run tell of its undo."""
    code, said = call(up, "show", run)
    assert code == DONE
    assert "↶ refund" in said
    assert "↶ undo for ines" in said
    shown = json.loads(call(up, "show", run, "--json")[1])["run"]
    marks = {step["id"]: step["status"] for step in shown["steps"]}
    assert marks["refund"] == "STEP_STATUS_UNDONE"
    assert (shown["undo"]["submitter"], shown["undo"]["ended"]) == ("ines", True)
    code, said = call(up, "policy", "explain", run, "undo-refund", "--project", str(up.project))
    assert code == DONE, said
    assert "undo-refund: cancel_refund, asked for by ines" in said
    for command in (("replay", run), ("log", run), ("trace", run), ("watch", run)):
        code, said = call(up, *command)
        assert code == DONE, (command, said)


def test_what_can_be_undone_whole_leaves_the_run_undone(up: Up) -> None:
    stock = "SELECT sku, on_hand, reserved FROM products ORDER BY sku"
    held = "SELECT count(*) FROM reservations WHERE status = 'reserved'"
    before = query(up.project, stock), query(up.project, held)
    run = carry_out(up, "reserve stock for order 1012")
    assert run.status == event_pb2.RUN_STATUS_DONE
    assert (query(up.project, stock), query(up.project, held)) != before
    code, said = call(up, "undo", run.id, "--json")
    assert code == DONE, said
    found = json.loads(said.splitlines()[-1])["run"]
    assert found["status"] == "RUN_STATUS_UNDONE"
    assert (query(up.project, stock), query(up.project, held)) == before
    assert run.id in call(up, "list", "--status", "undone")[1]


def test_a_run_that_fails_takes_back_what_it_did(up: Up) -> None:
    before = order(up, 1004)
    set_fault(up, "draft_email", "transient", times=50)
    try:
        code, said = call(up, "run", REFUND.format(1004), "--undo-on-failure", "--as", "ines")
    finally:
        query(up.project, "DELETE FROM faults")
    assert code == FAILED, said
    assert "undone: " in said
    assert "refund by cancel_refund" in said
    assert refunds(up, 1004) == ["cancelled"]
    assert order(up, 1004) == before


def test_a_compensation_that_fails_waits_and_is_tried_again(up: Up) -> None:
    run = carry_out(up, REFUND.format(1006)).id
    set_fault(up, "cancel_refund", "transient", times=50)
    try:
        code, said = call(up, "undo", run, "--as", "ines")
    finally:
        query(up.project, "DELETE FROM faults")
    assert code == WAITING, said
    assert "undoing refund went wrong, and waits for a human" in said
    assert "undoing refund went wrong" in call(up, "gates", "show", run)[1]
    assert run in call(up, "list", "--status", "waiting")[1]
    code, said = call(up, "approve", run, "--repeat", "--as", "yuki")
    assert code == DONE, said
    code, said = call(up, "watch", run)
    assert code == DONE, said
    assert "settled, to be tried again by yuki" in said
    assert refunds(up, 1006) == ["cancelled"]


def test_a_worker_that_dies_after_it_has_compensated_compensates_once(up: Up) -> None:
    run = carry_out(up, REFUND.format(1007)).id
    before = query(up.project, "SELECT count(*) FROM ledger WHERE tool = 'cancel_refund'")[0][0]
    set_fault(up, "cancel_refund", "crash_after")
    code, said = call(up, "undo", run, "--as", "ines", "--step", "refund")
    assert code in (DONE, STAYS), said
    assert refunds(up, 1007) == ["cancelled"]
    assert query(up.project, "SELECT count(*) FROM ledger WHERE tool = 'cancel_refund'")[0][0] == before + 1


def test_what_cannot_be_undone_is_said(up: Up) -> None:
    code, said = call(up, "undo", "r0-00000000000000000000000000")
    assert code == 2, said
    run = carry_out(up, "refund order 1009 and tell the customer", dry_run=True).id
    code, said = call(up, "undo", run)
    assert code == FAILED
    assert "there is nothing to undo" in said
    run = carry_out(up, "note on customer 7: prefers the morning").id
    code, said = call(up, "undo", run, "--step", "noet")
    assert code == 2
    assert "did you mean 'note'" in said


def test_without_a_stack_the_command_brings_one_up(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    at = ("--project", str(project))
    assert handrail("run", "refund order 1001", *at).returncode == DONE
    listed = handrail("list", "--json", *at).stdout
    run = json.loads(listed.splitlines()[0])["id"]
    done = handrail("undo", run, *at)
    assert done.returncode == STAYS, done.stdout + done.stderr
    assert query(project, "SELECT status FROM refunds") == [("cancelled",)]
