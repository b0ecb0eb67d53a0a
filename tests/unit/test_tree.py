"""The tree of a run: what each state looks like, that it fits, and that untrusted text cannot harm."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from handrail.cli.pen import Detail, Pen
from handrail.cli.text import ASCII
from handrail.cli.tree import counts, draw
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

S = run_service_pb2
E = event_pb2
BASE_NS = 1_800_000_000_000_000_000
MS = 1_000_000


def at(message: Any, field: str, ms: int) -> None:
    getattr(message, field).FromNanoseconds(BASE_NS + ms * MS)


def failure(code: str, message: str) -> event_pb2.Failure:
    return E.Failure(code=code, message=message)


def attempt(attempt_id: str, tool: str, start: int, end: int = 0, **fields: Any) -> run_service_pb2.Attempt:
    made = S.Attempt(id=attempt_id, tool=tool, kind=E.ACTION_KIND_ACT, **fields)
    at(made, "asked", start)
    if end:
        at(made, "ended", end)
    return made


def step(
    step_id: str, status: int, tool: str = "get_order", title: str = "", **fields: Any
) -> run_service_pb2.StepState:
    return S.StepState(
        id=step_id, title=title, tool=tool, status=status, route=plan_pb2.ROUTE_DIRECT, **fields
    )


def done(step_id: str, tool: str, start: int, end: int, **fields: Any) -> run_service_pb2.StepState:
    evidence = [
        E.Evidence(condition="output.id == args.order_id", held=True, observed='{"order":{"id":1001}}')
    ]
    tried = attempt(f"{step_id}-a1", tool, start, end, outcome=E.OUTCOME_CONFIRMED, evidence=evidence)
    output = plan_pb2.Value(json='{"id":1001,"status":"paid"}')
    return step(step_id, S.STEP_STATUS_DONE, tool, attempts=[tried], output=output, **fields)


def run(status: int, *steps: run_service_pb2.StepState, ended: int = 0, **fields: Any) -> run_service_pb2.Run:
    made = S.Run(id="r0-01k9x3abcd", goal="refund order 1001 and tell the customer", status=status, **fields)
    made.steps.extend(steps)
    at(made, "submitted", 0)
    if ended:
        at(made, "ended", ended)
    if steps and not made.HasField("plan"):
        made.plan.origin = "playbook:refund_and_tell"
        made.plan.steps.extend(plan_pb2.Step(id=s.id) for s in steps if "-" not in s.id)
    return made


def text(made: run_service_pb2.Run, *, height: int = 0, **pen: Any) -> str:
    pen.setdefault("now_ns", BASE_NS + 500 * MS)
    lines = draw(made, Pen(**pen), height=height)
    console = Console(record=True, width=pen.get("width", 100), file=io.StringIO(), color_system=None)
    for line in lines:
        console.print(line, no_wrap=True)
    return console.export_text()


def test_planning_shows_goal_status_and_id() -> None:
    shown = text(run(E.RUN_STATUS_PLANNING))
    assert shown.splitlines() == [
        "refund order 1001 and tell the customer",
        "● planning · 500 ms · r0-01k9x3abcd",
    ]


def test_running_aligns_steps_and_shows_evidence_output_and_times() -> None:
    shown = text(
        run(
            E.RUN_STATUS_RUNNING,
            done("lookup", "get_order", 10, 22, title="Find the order"),
            step("refund", S.STEP_STATUS_RUNNING, "refund_order", attempts=[attempt("refund-a1", "", 30)]),
            step("tell", S.STEP_STATUS_PENDING, "send_email"),
        )
    )
    assert shown.splitlines() == [
        "refund order 1001 and tell the customer",
        "● running · playbook:refund_and_tell · 1 of 3 steps · 500 ms · r0-01k9x3abcd",
        "",
        "├─ ✓ lookup  Find the order  get_order          12 ms",
        "│  ├─ ✓ verified output.id == args.order_id",
        '│  └─ → {"id": 1001, "status": "paid"}',
        "├─ ● refund                  refund_order      470 ms  running",
        "└─ ○ tell                    send_email",
    ]


def healed_run() -> run_service_pb2.Run:
    cause = failure("timeout", "refund_order did not answer within 2 s")
    retry = E.Healed(step="refund", attempt="refund-a1", strategy="retry_same_key", cause=cause)
    held = E.Evidence(condition="reads.order.refunded == 100", held=True)
    tried = [
        attempt("refund-a1", "refund_order", 0, 2_000, failure=cause),
        attempt("refund-a2", "refund_order", 2_250, 2_300, outcome=E.OUTCOME_CONFIRMED, evidence=[held]),
    ]
    healed = step("refund", S.STEP_STATUS_DONE, "refund_order", attempts=tried, heals=[retry])
    return run(E.RUN_STATUS_DONE, healed, ended=2_310)


def test_healed_shows_every_attempt_and_why_the_heal() -> None:
    shown = text(healed_run())
    assert "● " not in shown
    assert "✓ done · playbook:refund_and_tell · 1 of 1 step · 2,310 ms" in shown
    assert "├─ attempt 1 refund_order  timeout: refund_order did not answer within 2 s  2,000 ms" in shown
    assert "├─ ↻ retry same key because timeout: refund_order did not answer within 2 s" in shown
    assert "└─ attempt 2 refund_order  confirmed  50 ms" in shown
    assert "└─ ✓ verified reads.order.refunded == 100" in shown
    assert counts(healed_run()) == (1, 2, 1)


def test_failed_shows_what_was_seen() -> None:
    seen = '{"order":{"refunded":0}}'
    evidence = [
        E.Evidence(condition="output.ok", held=True, observed="{}"),
        E.Evidence(condition="reads.order.refunded == 100", held=False, observed=seen),
    ]
    cause = failure("post_refuted", "reads.order.refunded == 100 does not hold")
    tried = attempt("refund-a1", "refund_order", 0, 10, evidence=evidence, failure=cause)
    failed = step("refund", S.STEP_STATUS_FAILED, "refund_order", attempts=[tried], failure=cause)
    shown = text(run(E.RUN_STATUS_FAILED, failed, ended=20, failure=cause))
    assert "✗ failed" in shown
    lines = shown.splitlines()
    refuted = next(i for i, line in enumerate(lines) if "✗ does not hold: reads.order.refunded" in line)
    assert "saw " + seen in lines[refuted + 1]
    assert "✓ verified output.ok" in lines[refuted + 2]
    assert shown.count("post_refuted") == 1


def test_in_doubt_says_why() -> None:
    doubted = step(
        "refund",
        S.STEP_STATUS_IN_DOUBT,
        "refund_order",
        attempts=[attempt("refund-a1", "refund_order", 0)],
        failure=failure("in_doubt", "the claimer was not seen dead"),
    )
    shown = text(run(E.RUN_STATUS_WAITING, doubted))
    assert "? waiting for a human" in shown
    assert "in doubt" in shown
    assert "in_doubt: the claimer was not seen dead" in shown


def test_dry_run_shows_the_plan_with_arguments_and_references() -> None:
    plan = plan_pb2.Plan(
        origin="client",
        steps=[
            plan_pb2.Step(
                id="refund",
                tool="refund_order",
                when="lookup.total > 0",
                arguments={
                    "amount": plan_pb2.Argument(reference="$lookup.total"),
                    "order_id": plan_pb2.Argument(constant=plan_pb2.Value(json="1001")),
                },
            ),
            plan_pb2.Step(
                id="triage",
                rules=[plan_pb2.Rule(when="input.open", tool="reply"), plan_pb2.Rule(tool="close")],
            ),
        ],
    )
    choose = step("triage", S.STEP_STATUS_PENDING, "")
    choose.route = plan_pb2.ROUTE_CHOOSE
    shown = text(
        run(
            E.RUN_STATUS_DONE,
            step("refund", S.STEP_STATUS_PENDING, "refund_order"),
            choose,
            ended=30,
            dry_run=True,
            plan=plan,
        )
    )
    assert "dry run · client · 2 steps" in shown
    assert re.search(r"when +lookup.total > 0", shown)
    assert re.search(r"amount +\$lookup.total", shown)
    assert re.search(r"order_id +1001", shown)
    assert re.search(r"otherwise +→ close", shown)
    assert "choose" in shown


def fan_out(count: int) -> run_service_pb2.Run:
    items = [done(f"notify-{i}", "send_email", i, i + 5) for i in range(count)]
    items[7] = step(
        "notify-7", S.STEP_STATUS_FAILED, "send_email", failure=failure("bounced", "no such address")
    )
    items[8] = step("notify-8", S.STEP_STATUS_RUNNING, "send_email", attempts=[attempt("notify-8-a1", "", 9)])
    items[9] = step("notify-9", S.STEP_STATUS_PENDING, "send_email")
    parent = step("notify", S.STEP_STATUS_RUNNING, "send_email", title="Tell everybody")
    return run(E.RUN_STATUS_RUNNING, parent, *items)


def test_a_large_fan_out_is_collapsed_to_what_matters() -> None:
    shown = text(fan_out(50), width=120)
    assert "50 items: 1 failed, 1 running, 47 done, 1 pending" in shown
    assert "notify-7" in shown
    assert "bounced: no such address" in shown
    assert "notify-8" in shown
    assert "notify-20" not in shown
    assert "… more: 47 done, 1 pending" in shown
    assert len(shown.splitlines()) < 10
    assert "0 of 1 step" in shown
    assert counts(fan_out(50))[0] == 50


def test_full_detail_shows_every_item() -> None:
    shown = text(fan_out(50), detail=Detail.FULL)
    assert all(f"notify-{i} " in shown for i in range(50))
    assert "more:" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("glyphs", ["unicode", "ascii"])
def test_no_line_is_wider_than_the_terminal(width: int, glyphs: str) -> None:
    long = "A title that goes on and on, 表表表表表表表表表表表表表表表表, and does not end " * 3
    made = run(
        E.RUN_STATUS_RUNNING,
        done("a", "a_tool_with_quite_a_long_name_indeed_yes", 0, 1, title=long),
        step("b", S.STEP_STATUS_SKIPPED, skip_reason=long),
        step("c", S.STEP_STATUS_FAILED, failure=failure("x", long)),
    )
    made.goal = long
    pen = Pen(width=width, now_ns=BASE_NS, **({"glyphs": ASCII} if glyphs == "ascii" else {}))
    for line in draw(made, pen):
        assert cell_len(line.plain) <= width, line.plain


def test_ascii_glyphs_need_nothing_but_ascii() -> None:
    text(healed_run(), glyphs=ASCII).encode("ascii")
    text(fan_out(50), glyphs=ASCII).encode("ascii")


@pytest.mark.parametrize("height", [4, 6, 10, 20])
def test_a_low_terminal_folds_what_has_ended(height: int) -> None:
    steps = [done(f"s{i}", "get_order", i, i + 1) for i in range(30)]
    steps.append(step("busy", S.STEP_STATUS_RUNNING, "refund_order"))
    steps.extend(step(f"p{i}", S.STEP_STATUS_PENDING) for i in range(30))
    shown = text(run(E.RUN_STATUS_RUNNING, *steps), height=height)
    assert len(shown.splitlines()) <= height
    if height >= 6:
        assert "✓ 30 steps done" in shown
        assert "busy" in shown
        assert "○ 30 steps pending" in shown


def test_untrusted_text_cannot_reach_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[bold red]hi[/]\u202egnp.exe\u200b\r\nnext\x9b31m"
    made = run(
        E.RUN_STATUS_FAILED,
        step(
            "a",
            S.STEP_STATUS_FAILED,
            evil,
            title=evil,
            failure=failure("code", evil),
            attempts=[attempt("a-a1", evil, 0, 1, evidence=[E.Evidence(condition=evil, observed=evil)])],
        ),
    )
    made.goal = evil
    made.plan.origin = evil
    shown = text(made, width=200)
    assert "[bold red]hi[/]gnp.exe next" in shown
    for bad in ("\x1b", "\u202e", "\u200b", "\r", "\x9b", "\x07"):
        assert bad not in shown
    assert len(shown.splitlines()) == len(draw(made, Pen(width=200)))


def test_a_gated_step_says_where_it_waits() -> None:
    shown = text(
        run(
            E.RUN_STATUS_WAITING,
            done("lookup", "get_order", 10, 22),
            step("tell", S.STEP_STATUS_GATED, "send_email", gate="r0-01k9x3abcd-g1"),
        )
    )
    assert shown.splitlines()[-2:] == [
        "└─ ◆ tell    send_email",
        "   └─ waits for you at r0-01k9x3abcd-g1",
    ]


def test_gated_items_are_counted_and_shown() -> None:
    items = [
        step(f"tell-{n}", S.STEP_STATUS_GATED if n < 2 else S.STEP_STATUS_PENDING, "send_email", gate="g")
        for n in range(20)
    ]
    shown = text(run(E.RUN_STATUS_RUNNING, step("tell", S.STEP_STATUS_RUNNING, "send_email"), *items))
    assert "20 items: 2 waiting for you, 18 pending" in shown
    assert shown.count("waits for you at g") == 2
