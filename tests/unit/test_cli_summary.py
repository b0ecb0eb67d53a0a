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
from handrail.v1 import event_pb2, run_service_pb2

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
