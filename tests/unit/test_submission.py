"""A goal is checked by a pure function: the same goal has the same form, whatever its spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.conformance import Limits
from core.plan_form import plan_from_form
from handrail.v1 import event_pb2
from handrail.v1.run_service_pb2 import SubmitGoalRequest
from orchestrator.submission import (
    MAX_DEADLINE_S,
    MAX_TEXT_BYTES,
    Checked,
    check,
    check_name,
    check_text,
)

NOW_NS = 1_700_000_000_000_000_000


def checked(goal: event_pb2.Goal, request_id: str = "") -> Checked:
    return check(SubmitGoalRequest(goal=goal, request_id=request_id), {}, Limits(), NOW_NS)


def goal(context: str = "", **fields: object) -> event_pb2.Goal:
    made = event_pb2.Goal(text="refund it", **fields)  # type: ignore[arg-type]
    if context:
        made.context.json = context
    return made


@pytest.mark.parametrize(
    "text", ["refund order 1001", "erstatte 5 €\n\tund grüße", "退款 1001", "x" * MAX_TEXT_BYTES]
)
def test_ordinary_text_passes(text: str) -> None:
    assert not list(check_text("goal.text", text, MAX_TEXT_BYTES, required=True))


@given(st.text(max_size=50))
def test_no_text_breaks_the_check(text: str) -> None:
    codes = {violation.code for violation in check_text("f", text, 60, required=True)}
    assert codes <= {"empty", "too_long", "unseen_character"}


@pytest.mark.parametrize("name", ["", "bob", "Ada Lovelace", "yuki@example.com", "Jos\u00e9", "李雷"])
def test_names_that_can_be_told_apart_pass(name: str) -> None:
    assert not list(check_name("approver", name))


@pytest.mark.parametrize(
    "name",
    [
        " bob",
        "bob ",
        "bob\n",
        "b\nob",
        "a  b",
        " ",
        "bob\u00a0",
        "\uff42ob",
        "Jose\u0301",
        "bob\u3164",
        "\ufb01",
    ],
    ids=ascii,
)
def test_names_that_can_be_taken_for_another_do_not(name: str) -> None:
    (found,) = check_name("approver", name)
    assert (found.field, found.code) == ("approver", "ambiguous_name")


def test_a_goal_is_in_no_ambiguous_name() -> None:
    assert [v.field for v in checked(goal(submitter="ines ")).violations] == ["goal.submitter"]


@given(st.text(max_size=200))
def test_no_context_breaks_the_check(context: str) -> None:
    assert {v.code for v in checked(goal(context)).violations} <= {"bad_json"}


def test_the_form_is_of_the_meaning_and_not_of_the_spelling() -> None:
    one = checked(goal('{"a": 1, "b": [2, 3]}')).goal
    assert checked(goal('{"b":[2,3],"a":1}')).goal == one
    assert checked(goal('{"b":[3,2],"a":1}')).goal != one
    assert checked(goal('{"a":1,"b":[2,3]}', dry_run=True)).goal != one


def test_the_form_does_not_depend_on_the_order_of_arguments() -> None:
    forms = []
    for names in (("a", "b", "c"), ("c", "b", "a")):
        made = goal()
        made.plan.CopyFrom(
            plan_from_form({"steps": [{"id": "s", "tool": "t", "with": dict.fromkeys(names, 1)}]})
        )
        forms.append(checked(made).goal)
    assert forms[0] == forms[1]


def test_a_large_context_is_taken_out() -> None:
    small, large = '{"a":"' + "x" * 60_000 + '"}', '{"a":"' + "x" * 70_000 + '"}'
    assert checked(goal(small)).goal.context.json == small
    found = checked(goal(large))
    assert (found.large_context, found.goal.context.json, found.violations) == (large, "", [])


def test_fields_that_nobody_knows_do_not_reach_the_log() -> None:
    made = event_pb2.Goal.FromString(goal().SerializeToString() + b"\xfa\x3f\x03abc")
    assert checked(made).goal.SerializeToString() == goal().SerializeToString()


@pytest.mark.parametrize(
    ("seconds", "nanos", "code"),
    [
        (NOW_NS // 10**9 + 60, 0, None),
        (NOW_NS // 10**9 + MAX_DEADLINE_S, 0, None),
        (NOW_NS // 10**9, 0, "past"),
        (0, 0, "past"),
        (-(2**62), 0, "past"),
        (2**62, 0, "too_far"),
        (NOW_NS // 10**9 + 60, -1, "bad_time"),
        (NOW_NS // 10**9 + 60, 10**9, "bad_time"),
    ],
)
def test_deadlines(seconds: int, nanos: int, code: str | None) -> None:
    made = goal()
    made.deadline.seconds, made.deadline.nanos = seconds, nanos
    assert [v.code for v in checked(made).violations] == ([code] if code else [])


def test_a_plan_carries_no_large_constants_and_no_blobs() -> None:
    made = goal()
    step = {"id": "s", "tool": "t", "with": {"a": "x" * 70_000, "b": 1}}
    made.plan.CopyFrom(plan_from_form({"steps": [step]}))
    made.plan.steps[0].arguments["b"].constant.blob.sha256 = "0" * 64
    codes = {v.field: v.code for v in checked(made).violations}
    assert codes["goal.plan.steps[0].arguments.a"] == "too_large"
    assert codes["goal.plan.steps[0].arguments.b"] == "blob"


def test_who_teaches_shows_a_plan() -> None:
    (violation,) = checked(goal(teaches=True)).violations
    assert (violation.field, violation.code) == ("goal.plan", "required")
    made = goal()
    made.confirms.sure = 0.7
    (violation,) = checked(made).violations
    assert (violation.field, violation.code) == ("goal.plan", "required")


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_somebody_confirms_is_as_sure_as_something_can_be(share: float) -> None:
    made = goal()
    made.plan.CopyFrom(plan_from_form({"steps": [{"id": "s", "tool": "t"}]}))
    fine = {v.field for v in checked(made).violations}
    made.confirms.sure, made.confirms.needed = 0.7, share
    assert {v.field for v in checked(made).violations} - fine == {"goal.confirms.needed"}
    made.confirms.sure, made.confirms.needed = share, 1.0
    assert {v.field for v in checked(made).violations} - fine == {"goal.confirms.sure"}
