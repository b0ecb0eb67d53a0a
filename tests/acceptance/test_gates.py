"""Gates through the whole stack, with the sample's own policy: waiting, deciding, and dying in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from handrail.v1 import event_pb2, run_service_pb2
from tests.acceptance.conftest import Up, copy_sample, handrail, query, start, wait_for

GOAL = "refund order {} and tell the customer"
WAITING, DONE = event_pb2.RUN_STATUS_WAITING, event_pb2.RUN_STATUS_DONE


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = start(copy_sample(tmp_path_factory.mktemp("gates") / "backoffice", gates=True), "inline")
    yield running
    running.stop()


def waiting(up: Up, order: int) -> run_service_pb2.Gate:
    """Submit a refund as somebody of support, and return the gate at which its e-mail waits."""
    with up.client() as client:
        run = client.run(GOAL.format(order), submitter="maren", timeout_s=60)
    assert run.status == WAITING
    (gate,) = run.gates
    return gate


def _ended(run: run_service_pb2.Run) -> run_service_pb2.Run | None:
    return run if run.status != WAITING else None


def outbox(up: Up) -> int:
    return int(query(up.project, "SELECT count(*) FROM mail_primary")[0][0])


def decide(up: Up, gate: str, verb: str, name: str, *more: str) -> tuple[int, str]:
    done = handrail(verb, gate, "--as", name, *more, "--server", up.address)
    return done.returncode, done.stdout + done.stderr


def test_an_email_waits_for_somebody_else_and_goes_out_once(up: Up) -> None:
    gate, before = waiting(up, 1006), outbox(up)
    assert [reason.rule for reason in gate.what.reasons] == ["irreversible", "untrusted_critical"]
    code, said = decide(up, gate.id, "approve", "maren")
    assert (code, "nobody decides on what they asked for themselves" in said) == (1, True)
    assert outbox(up) == before
    assert decide(up, gate.id, "approve", "yuki")[0] == 0
    with up.client() as client:
        run = wait_for("the end", lambda: _ended(client.wait(gate.run, timeout_s=60)))
    assert run.status == DONE
    assert outbox(up) == before + 1
    assert decide(up, gate.id, "approve", "clara")[0] == 1
    assert outbox(up) == before + 1


def amounts(up: Up, order: int) -> list[int]:
    return [row[0] for row in query(up.project, "SELECT amount_minor FROM refunds WHERE order_id = ?", order)]


def test_a_refund_is_made_with_the_amount_that_somebody_else_has_put_in(up: Up) -> None:
    with up.client() as client:
        goal = "refund 600.00 EUR of order 1009 and tell the customer"
        run = client.run(goal, submitter="maren", timeout_s=60)
    (gate,) = run.gates
    assert [reason.rule for reason in gate.what.reasons] == ["large_refund"]
    lower = ("--set", 'amount={"minor": 2500, "currency": "EUR"}', "--reason", "only the postage")
    code, said = decide(up, gate.id, "amend", "tomas", *lower)
    assert (code, "a refund that waits is decided by finance" in said) == (1, True), said
    code, said = decide(up, gate.id, "amend", "yuki", "--set", "amount=much")
    assert (code, "expected an object, not 'much'" in said) == (2, True), said
    assert decide(up, gate.id, "delegate", "yuki", "--to", "tomas")[0] == 0
    assert amounts(up, 1009) == []
    code, said = decide(up, gate.id, "amend", "tomas", *lower)
    assert code == 0, said
    assert 'now {"currency": "EUR", "minor": 2500}' in said
    assert "amended by tomas to amount=" in said
    with up.client() as client:
        run = wait_for("the e-mail's gate", lambda: _second_gate(client.wait(gate.run, timeout_s=60)))
        assert amounts(up, 1009) == [2500]
        assert "25.00 EUR" in run.gates[1].what.items[0].arguments["body"].json
        client.decide(run.gates[1].id, approve=True, approver="clara")
        run = wait_for("the end", lambda: _ended(client.wait(run.id, timeout_s=60)))
    assert (run.status, amounts(up, 1009)) == (DONE, [2500])
    told = handrail("show", run.id, "--server", up.address).stdout
    assert f"gate {gate.id} amended by tomas to amount=" in told
    why = handrail(
        "policy", "explain", run.id, "refund", "--project", str(up.project), "--server", up.address
    )
    assert "it waited at gate g1: amended by tomas to amount=" in why.stdout
    # So little needs nobody: the rules let it pass as it is now.
    assert "authorised\n  the rules say: allow\n" in why.stdout
    assert "amended: amount" in why.stdout


def _second_gate(run: run_service_pb2.Run) -> run_service_pb2.Run | None:
    return run if len(run.gates) == 2 else None


def test_what_colleagues_noted_waits_before_a_customer_reads_it(up: Up, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "steps:\n"
        "  - {id: note, tool: add_note, with: {customer_id: 7, text: often late with payments}}\n"
        "  - {id: notes, tool: list_notes, with: {customer_id: 7}, after: [note]}\n"
        "  - {id: reply, tool: reply_to_ticket, with: {ticket_id: 501, body: '$notes.notes[0].text'}}\n"
    )
    given = ("run", "answer ticket 501", "--plan", str(plan), "--as", "maren", "--server", up.address)
    ahead = handrail(*given, "--dry-run")
    assert "body leaks: not all who would see it may read what comes from notes" in ahead.stdout
    waits = handrail(*given)
    assert waits.returncode == 3, waits.stdout + waits.stderr
    with up.client() as client:
        (gate,) = [gate for gate in client.gates() if gate.goal == "answer ticket 501"]
        shown = handrail("gates", "show", gate.id, "--server", up.address).stdout
        assert "  leaks     somebody would get to read it who may not" in shown
        # What somebody writes instead does not leak, and is sent.
        answer = ("--set", "body=We look into it.")
        assert decide(up, gate.id, "amend", "yuki", *answer)[0] == 0
        run = wait_for("the end", lambda: _ended(client.wait(gate.run, timeout_s=60)))
    assert run.status == DONE
    assert query(up.project, "SELECT body FROM replies WHERE ticket_id = 501") == [("We look into it.",)]


def test_a_denied_email_is_not_sent(up: Up) -> None:
    gate, before = waiting(up, 1007), outbox(up)
    assert decide(up, gate.id, "deny", "tomas", "--reason", "they called")[0] == 0
    with up.client() as client:
        run = client.wait(gate.run, timeout_s=60)
    assert run.status == event_pb2.RUN_STATUS_FAILED
    assert (run.failure.code, "they called" in run.failure.message) == ("denied", True)
    assert outbox(up) == before


@pytest.mark.parametrize("name", ["decider", "gateway", "broker"])
def test_a_gate_waits_through_the_death_of_any_part(up: Up, name: str) -> None:
    order = {"decider": 1008, "gateway": 1010, "broker": 1011}[name]
    gate, before = waiting(up, order), outbox(up)
    pid = up.children()[name]
    os.kill(pid, signal.SIGKILL)
    wait_for(f"another {name}", lambda: up.children().get(name) not in (None, pid))
    with up.client() as client:
        client.decide(gate.id, approve=True, approver="yuki")
        # It waits until the decider is back and has heard of the decision.
        run = wait_for("the end", lambda: _ended(client.wait(gate.run, timeout_s=60)))
    assert run.status == DONE
    assert outbox(up) == before + 1


def test_the_rules_can_be_asked_again_what_they_were_asked(up: Up, tmp_path: Path) -> None:
    gate = waiting(up, 1012)
    decide(up, gate.id, "approve", "yuki")
    with up.client() as client:
        wait_for("the end", lambda: _ended(client.wait(gate.run, timeout_s=60)))
    asked = ("--project", str(up.project), "--server", up.address)
    told = handrail("policy", "explain", gate.run, "notify", *asked)
    assert told.returncode == 0, told.stderr
    assert "it waited at gate g1: approved by yuki" in told.stdout
    assert "because it cannot be undone (irreversible)" in told.stdout
    never = handrail("policy", "explain", gate.run, "earlier", *asked)
    assert (never.returncode, "was never asked about" in never.stderr) == (2, True)
    strict = tmp_path / "strict"
    strict.mkdir()
    (strict / "rules.cedar").write_text(
        '@id("reads") @reason("only reading") permit (principal, action in Action::"read", resource);'
    )
    held = handrail("replay", gate.run, "--policy", str(strict), *asked)
    assert held.returncode == 0, held.stderr
    assert "was allow, would be refuse: no rule permits it" in held.stdout
    assert "3 of 4 actions would have been decided otherwise" in held.stdout


def test_a_fan_out_is_one_gate(up: Up) -> None:
    before = outbox(up)
    with up.client() as client:
        run = client.run("apologise to all customers with late orders", submitter="maren", timeout_s=60)
        (gate,) = run.gates
        assert len(gate.what.items) > 1
        client.decide(gate.id, approve=True, approver="yuki")
        run = wait_for("the end", lambda: _ended(client.wait(run.id, timeout_s=60)))
    assert run.status == DONE
    assert outbox(up) == before + len(gate.what.items)


def test_a_gate_waits_while_nothing_is_up(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice", gates=True)
    up = start(project, "inline")
    try:
        gate = waiting(up, 1006)
    finally:
        up.stop()
    # Without a stack: this command brings one up, decides, and sees the run through.
    done = handrail("approve", gate.id, "--as", "yuki", "--project", str(project))
    assert done.returncode == 0, done.stdout + done.stderr
    assert outbox(up) == 1


def test_nobodys_answer_is_a_no(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice", gates=True)
    with (project / "handrail.toml").open("a") as settings:
        settings.write("\n[gates]\nlife_s = 2\n")
    up = start(project, "inline")
    try:
        with up.client() as client:
            # The gate may be closed again before anybody has seen that the run waits.
            run = client.submit(GOAL.format(1006), submitter="maren").run
            ended = wait_for("the end", lambda: _ended(client.wait(run, timeout_s=60)))
        (gate,) = ended.gates
        assert gate.HasField("closed")
        assert ended.failure.code == "gate_expired"
    finally:
        up.stop()
    assert outbox(up) == 0


def test_a_dry_run_says_what_would_wait(up: Up) -> None:
    before = outbox(up)
    done = handrail("run", GOAL.format(1013), "--dry-run", "--server", up.address, "--json")
    assert done.returncode == 0, done.stderr
    assert "RULING_OUTCOME_GATE" in done.stdout
    assert outbox(up) == before
