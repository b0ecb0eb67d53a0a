"""Runs through the real gRPC client: plans of one's own, steering, deadlines, cursors, request ids."""

from __future__ import annotations

import itertools
import json
import threading
from functools import partial
from typing import Any

import pytest

from handrail import errors
from handrail.v1 import event_pb2, run_service_pb2
from tests.acceptance.conftest import Up, another_model, handrail, query, status_name, wait_for

SLOW = {"id": "note", "tool": "add_note", "with": {"customer_id": 5, "text": "slow"}}
READ = {"id": "order", "tool": "get_order", "with": {"order_id": 1001}}


def set_fault(up: Up, tool: str, kind: str, seconds: float = 3.0, times: int = 1) -> None:
    query(up.project, "REPLACE INTO faults VALUES (?, ?, ?, ?)", tool, kind, times, seconds)


def steps(run: run_service_pb2.Run) -> dict[str, str]:
    names = run_service_pb2.StepStatus
    return {s.id: names.Name(s.status).removeprefix("STEP_STATUS_").lower() for s in run.steps}


def test_a_plan_with_fan_out_and_conditions(up: Up) -> None:
    plan = {
        "steps": [
            {"id": "late", "tool": "list_late_orders"},
            {
                "id": "notes",
                "tool": "add_note",
                "each": "$late.orders",
                "with": {"customer_id": "$each.customer_id", "text": "late order"},
            },
            {
                "id": "never",
                "tool": "get_order",
                "with": {"order_id": 1001},
                "when": "size(late.orders) > 99",
            },
            {"id": "after", "tool": "get_customer", "with": {"customer_id": "$never.customer_id"}},
        ]
    }
    with up.client() as client:
        run = client.wait(client.submit("note late orders", plan=plan).run)
    assert status_name(run.status) == "done", run.failure
    late = query(up.project, "SELECT count(*) FROM notes WHERE text = 'late order'")[0][0]
    assert late == sum(1 for s in run.steps if s.id.startswith("notes-"))
    assert steps(run)["never"] == steps(run)["after"] == "skipped"


def test_cancel_lets_what_is_in_flight_finish_and_starts_nothing_new(up: Up) -> None:
    set_fault(up, "refund_order", "hang", 6.0)
    refund = {
        "id": "refund",
        "tool": "refund_order",
        "with": {"order_id": 1012, "amount": {"minor": 100, "currency": "EUR"}},
    }
    currency = query(up.project, "SELECT currency FROM orders WHERE id = 1012")[0][0]
    refund["with"]["amount"]["currency"] = currency  # type: ignore[index]
    plan = {"steps": [refund, {**SLOW, "after": ["refund"]}]}
    with up.client() as client:
        run = client.submit("refund slowly", plan=plan).run
        wait_for(
            "the claim", lambda: any(e.event.HasField("intent") for e in client.watch(run, until_now=True))
        )
        client.cancel(run, reason="enough")
        ended = client.wait(run)
        assert status_name(ended.status) == "cancelled"
        assert steps(ended) == {"refund": "done", "note": "cancelled"}
        client.cancel(run)
        with pytest.raises(errors.FailedPrecondition):
            client.pause(run)
    assert query(up.project, "SELECT count(*) FROM refunds WHERE order_id = 1012 AND amount_minor = 100") == [
        (1,)
    ]


def test_pause_starts_nothing_and_resume_goes_on(up: Up) -> None:
    set_fault(up, "get_order", "hang", 10.0)
    plan = {"steps": [READ, {**SLOW, "after": ["order"]}]}
    before = query(up.project, "SELECT count(*) FROM notes WHERE customer_id = 5")[0][0]
    with up.client() as client:
        run = client.submit("look, then note", plan=plan).run
        client.pause(run)
        wait_for("the pause", lambda: status_name(client.get(run).status) == "paused")
        wait_for("the read", lambda: steps(client.get(run)).get("order") in ("done", "pending"), 20)
        assert query(up.project, "SELECT count(*) FROM notes WHERE customer_id = 5")[0][0] == before
        client.resume(run)
        assert status_name(client.wait(run).status) == "done"
    assert query(up.project, "SELECT count(*) FROM notes WHERE customer_id = 5")[0][0] == before + 1


def test_a_deadline_reaches_the_tool(up: Up) -> None:
    set_fault(up, "get_order", "hang", 30.0, times=9)
    try:
        with up.client() as client:
            run = client.submit("look", plan={"steps": [READ]}, deadline=2.0).run
            ended = client.wait(run)
            times = [one.time.ToNanoseconds() for one in client.watch(run, until_now=True)]
            assert times[-1] - times[0] < 10_000_000_000
    finally:
        query(up.project, "DELETE FROM faults")
    assert status_name(ended.status) == "failed"
    assert ended.failure.code == "deadline_exceeded"


def test_a_watch_goes_on_from_its_cursor(up: Up) -> None:
    with up.client() as client:
        run = client.submit("look", plan={"steps": [READ]}).run
        client.wait(run)
        events = list(client.watch(run))
        middle = len(events) // 2
        rest = list(client.watch(run, after=events[middle].cursor))
    assert [e.cursor for e in rest] == [e.cursor for e in events[middle + 1 :]]
    assert events[-1].event.HasField("finished")


def test_two_clients_with_one_request_id_get_one_run(up: Up) -> None:
    found: list[str] = []

    def submit() -> None:
        with up.client() as client:
            found.append(client.submit("look", plan={"steps": [READ]}, request_id="the-same").run)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    with up.client() as client, pytest.raises(errors.AlreadyExists):
        client.submit("another goal", plan={"steps": [READ]}, request_id="the-same")


def test_a_lie_is_caught_and_healed(up: Up) -> None:
    set_fault(up, "send_email", "lie")
    mail = {"to": "someone@example.com", "subject": "a lie", "body": "hello"}
    with up.client() as client:
        run = client.wait(
            client.submit("mail", plan={"steps": [{"id": "mail", "tool": "send_email", "with": mail}]}).run
        )
    assert status_name(run.status) == "done", run.failure
    outcomes = [event_pb2.Outcome.Name(a.outcome) for a in run.steps[0].attempts]
    assert outcomes[0] == "OUTCOME_REFUTED"
    assert query(up.project, "SELECT count(*) FROM outbox WHERE subject = 'a lie'") == [(1,)]


def test_a_large_value_goes_by_digest(up: Up) -> None:
    text = "x" * 3_000
    plan = {
        "steps": [
            {
                "id": "notes",
                "tool": "add_note",
                "each": "$goal.items",
                "with": {"customer_id": 6, "text": "$each"},
                "each_limit": 40,
            },
            {"id": "all", "tool": "list_notes", "with": {"customer_id": 6}, "after": ["notes"]},
        ]
    }
    with up.client() as client:
        submitted = client.submit("many notes", plan=plan, context={"items": [text] * 30})
        run = client.wait(submitted.run)
    assert status_name(run.status) == "done", run.failure
    assert run.steps[-1].output.HasField("blob")
    assert run.steps[-1].output.blob.size_bytes > 64 * 1024


def test_the_command_line_tells_of_a_run(up: Up) -> None:
    submitted = handrail("submit", "refund order 1022", "--server", up.address, "--json")
    assert submitted.returncode == 0, submitted.stderr
    run = json.loads(submitted.stdout.splitlines()[-1])["run"]
    assert handrail("watch", run, "--server", up.address).returncode == 0
    for command in ("show", "log", "replay"):
        told = handrail(command, run, "--server", up.address)
        assert told.returncode == 0, (command, told.stderr)
        assert "refund" in told.stdout
        as_json = handrail(command, run, "--server", up.address, "--json")
        assert as_json.returncode == 0, (command, as_json.stderr)
        for line in as_json.stdout.splitlines():
            json.loads(line)
    first = json.loads(handrail("log", run, "--server", up.address, "--json").stdout.splitlines()[0])
    early = handrail("replay", run, "--at", str(first["cursor"]), "--server", up.address)
    assert early.returncode == 0, early.stderr
    listed = handrail("list", "--server", up.address, "--json")
    assert run in listed.stdout


def test_the_tools_are_listed_and_shown(up: Up) -> None:
    assert "refund_order" in handrail("tools", "list", "--server", up.address).stdout
    shown: Any = handrail("tools", "show", "refund_order", "--server", up.address)
    assert "keyed" in shown.stdout
    assert handrail("tools", "check", "--project", str(up.project)).returncode == 0


def test_any_grpc_client_finds_health_and_reflection(up: Up) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    bearer = (("authorization", f"Bearer {up.token.read_text()}"),)
    with grpc.insecure_channel(up.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([ask]), timeout=10, metadata=bearer
        )
        names = {service.name for service in next(answers).list_services_response.service}
    assert {"handrail.v1.RunService", "handrail.v1.ToolService"} <= names


def test_another_model_is_exchanged_while_goals_come_in(up: Up) -> None:
    shelf = up.project / "lam"
    first = (shelf / "champions").read_text().split()[-1]
    second = another_model(shelf, first)
    seen: list[tuple[str, str, str]] = []
    sent: list[str] = []
    stop = threading.Event()

    def ask(offset: int) -> None:
        with up.client() as client:
            for number in itertools.count(offset):
                if stop.is_set():
                    return
                goal = f"could you look up order {1001 + number % 20} for me"
                sent.append(goal)
                # Every other one is carried out, too.
                run = client.run(goal, dry_run=number % 2 == 0)
                (thought,) = (
                    one.event.plan_answer.thought
                    for one in client.watch(run.id)
                    if one.event.HasField("plan_answer")
                )
                seen.append((status_name(run.status), run.plan.origin, thought.model))

    def thought_by(digest: str, after: int) -> bool:
        return any(model == f"lam:{digest}" for _, _, model in seen[after:])

    asking = [threading.Thread(target=ask, args=(5 * one,)) for one in range(4)]
    for one in asking:
        one.start()
    try:
        for digest in (second, first, second):
            before = len(seen)
            promoted = handrail("lam", "promote", digest, "--force", "--project", str(up.project), "--json")
            assert promoted.returncode == 0, promoted.stdout + promoted.stderr
            wait_for(f"a thought of {digest}", partial(thought_by, digest, before))
    finally:
        stop.set()
        for one in asking:
            one.join()
    back = handrail("lam", "rollback", "--project", str(up.project), "--json")
    assert json.loads(back.stdout.splitlines()[-1]) == {"model": first}
    # No goal was lost, and each says which model it was.
    assert len(seen) == len(sent)
    assert {status for status, _, _ in seen} == {"done"}
    assert all(origin == model for _, origin, model in seen)
    assert {origin for _, origin, _ in seen} == {f"lam:{first}", f"lam:{second}"}
