"""How a run ended: its exit code, its figures, why, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail.cli.exits import ExitCode
from handrail.cli.listing import run_line, status_number
from handrail.cli.pen import Pen
from handrail.cli.server import Target
from handrail.cli.summary import ending, exit_code
from handrail.cli.text import UNICODE
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2
from tests.unit.gate_samples import RUN, closed, gate

E = event_pb2
S = run_service_pb2
TARGET = Target("own", "", Path("shop"), Path("shop/.handrail"), "--project shop")
BASE_NS = 1_800_000_000_000_000_000


def run(status: int, *steps: run_service_pb2.StepState, failure: E.Failure | None = None) -> S.Run:
    made = S.Run(id="r0-01k9x3ab", status=status, failure=failure)
    made.steps.extend(steps)
    made.submitted.FromNanoseconds(BASE_NS)
    made.ended.FromNanoseconds(BASE_NS + 412_000_000)
    return made


def told(made: S.Run) -> list[str]:
    return [line.plain for line in ending(made, TARGET, Pen())]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (E.RUN_STATUS_DONE, ExitCode.DONE),
        (E.RUN_STATUS_FAILED, ExitCode.FAILED),
        (E.RUN_STATUS_CANCELLED, ExitCode.FAILED),
        (E.RUN_STATUS_UNREADABLE, ExitCode.FAILED),
        (E.RUN_STATUS_WAITING, ExitCode.WAITING),
        (E.RUN_STATUS_REFUSED, ExitCode.REFUSED),
        (E.RUN_STATUS_RUNNING, ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_of_a_run(status: int, code: ExitCode) -> None:
    assert exit_code(run(status)) is code


def test_a_done_run_is_one_line_of_figures() -> None:
    act = S.Attempt(id="a-a1", kind=E.ACTION_KIND_ACT)
    healed = E.Healed(step="a", attempt="a-a1", strategy="retry")
    made = run(E.RUN_STATUS_DONE, S.StepState(id="a", attempts=[act, act], heals=[healed]))
    assert told(made) == ["✓ done  1 step, 2 actions, 1 heal, 412 ms  r0-01k9x3ab"]


def test_a_failed_run_says_what_why_and_what_next() -> None:
    failure = E.Failure(code="refund_exceeds_paid", message="only 12.00 EUR were paid")
    step = S.StepState(id="refund", status=S.STEP_STATUS_FAILED, failure=failure)
    assert told(run(E.RUN_STATUS_FAILED, step, failure=failure))[1:] == [
        "  refund_exceeds_paid: only 12.00 EUR were paid",
        "  at step refund",
        "  `handrail log r0-01k9x3ab --project shop` shows every event",
    ]


def test_of_many_failed_steps_a_few_are_named() -> None:
    steps = [
        S.StepState(id=f"s{i}", status=S.STEP_STATUS_FAILED, failure=E.Failure(code="x", message=f"m{i}"))
        for i in range(7)
    ]
    lines = told(run(E.RUN_STATUS_FAILED, *steps, failure=E.Failure(code="x", message="m0")))
    assert "  step s4 failed: x: m4" in lines
    assert "  and 2 more steps" in lines


def test_a_refusal_shows_what_comes_nearest() -> None:
    message = "no playbook has a phrase like this; nearest: refund order {order} | move order {order}"
    lines = told(run(E.RUN_STATUS_REFUSED, failure=E.Failure(code="no_plan", message=message)))
    assert lines[1:4] == [
        "  no_plan: no playbook has a phrase like this",
        "    nearest: refund order {order}",
        "    nearest: move order {order}",
    ]
    assert "nothing was done" in lines[4]


def test_what_was_read_can_be_confirmed() -> None:
    failure = E.Failure(code="no_plan", message="it may read like get_order(order_id=7)")
    read = plan_pb2.Plan(steps=[plan_pb2.Step(id="look", tool="get_order")])
    refused = run(E.RUN_STATUS_REFUSED, failure=failure)
    refused.read_as.CopyFrom(read)
    lines = told(refused)
    assert lines[2] == (
        "  nothing was done; `handrail confirm r0-01k9x3ab --project shop` does it if that is what you want"
    )


def test_a_doubt_is_for_a_human() -> None:
    doubt = E.Failure(code="in_doubt", message="nobody knows")
    step = S.StepState(id="refund", status=S.STEP_STATUS_IN_DOUBT, failure=doubt)
    lines = told(run(E.RUN_STATUS_WAITING, step))
    assert lines[0].startswith("? waiting for a human")
    assert lines[1] == "  step refund in doubt: in_doubt: nobody knows"
    assert "an effect may have happened: look at the system itself" in lines[2]


def test_status_words() -> None:
    assert status_number("") == 0
    assert status_number("Done") == E.RUN_STATUS_DONE
    with pytest.raises(Exception, match="did you mean 'failed'"):
        status_number("faild")


def test_a_run_in_a_list_is_one_line_that_fits() -> None:
    summary = S.RunSummary(id="r0-01k9x3ab", goal="long \x1b[31m" * 50, status=E.RUN_STATUS_FAILED)
    summary.submitted.FromNanoseconds(BASE_NS)
    summary.ended.FromNanoseconds(BASE_NS + 5_000_000)
    line = run_line(summary, width=100, glyphs=UNICODE).plain
    assert line.startswith("✗ failed      r0-01k9x3ab  20")
    assert "5 ms" in line
    assert len(line) <= 100
    assert "\x1b" not in line


def test_a_run_at_a_gate_says_what_waits_and_how_to_decide() -> None:
    made = run(E.RUN_STATUS_WAITING, S.StepState(id="tell", status=S.STEP_STATUS_GATED))
    made.ClearField("ended")
    made.gates.append(gate())
    lines = told(made)
    assert lines[0].startswith("? waiting for a human")
    assert lines[1] == '  tell waits for a human: send_email(subject="Your refund", to="ada@example.com")'
    assert lines[2].startswith(f"    gate {RUN}-g1, until ")
    assert lines[3:] == [
        f"    handrail approve {RUN}-g1 --binding 673167316731 --project shop",
        f"    handrail deny {RUN}-g1 --reason 'why not' --project shop",
    ]


def test_of_many_open_gates_a_few_are_offered() -> None:
    made = run(E.RUN_STATUS_WAITING)
    made.ClearField("ended")
    made.gates.extend(gate(name=f"g{n}") for n in range(5))
    lines = told(made)
    assert len(lines) == 1 + 3 * 4 + 1
    assert lines[-1] == "  and 2 more gates; `handrail gates --project shop` shows them"


def test_a_gate_and_a_doubt_are_both_said() -> None:
    made = run(E.RUN_STATUS_WAITING, S.StepState(id="refund", status=S.STEP_STATUS_IN_DOUBT))
    made.ClearField("ended")
    made.gates.append(gate())
    lines = told(made)
    assert any("tell waits for a human" in line for line in lines)
    assert "an effect may have happened: look at the system itself" in lines[-1]


def test_what_became_of_each_gate_is_one_line() -> None:
    made = run(E.RUN_STATUS_FAILED)
    made.gates.append(closed(E.GATE_OUTCOME_VOID, reason="the policy has changed"))
    made.gates.append(closed(E.GATE_OUTCOME_DENIED, ["bob"], "not before Friday", name="g2"))
    made.gates.append(closed(E.GATE_OUTCOME_HAPPENED, ["ann"], name="g3"))
    lines = told(made)[1:4]
    for line, words in zip(
        lines,
        (
            f"  ⊘ gate {RUN}-g1 void: the policy has changed  tell: send_email(",
            f"  ✗ gate {RUN}-g2 denied by bob: not before Friday  tell: send_email(",
            f"  ✓ gate {RUN}-g3 settled as having happened by ann  tell: send_email(",
        ),
        strict=True,
    ):
        assert line.startswith(words)
        assert len(line) <= Pen().width
    made.gates.extend(closed(E.GATE_OUTCOME_VOID, name=f"h{n}") for n in range(20))
    assert "  and 3 more gates" in told(made)
