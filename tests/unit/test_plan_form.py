"""Plans as people write them become messages, or are refused with the path of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.plan_form import BadPlanForm, plan_from_form
from core.values import decode


def step(**fields: Any) -> dict[str, Any]:
    return {"id": "s", "tool": "t", **fields}


def test_every_field_finds_its_place() -> None:
    plan = plan_from_form(
        {
            "title": "Refund",
            "steps": [
                {
                    "id": "refund",
                    "title": "pay back",
                    "tool": "refund_order",
                    "with": {
                        "order": "$lookup.order.id",
                        "note": "$$5",
                        "money": {"list": [5, "$$"]},
                    },
                    "after": ["a", "b"],
                    "when": "lookup.paid",
                    "each": "$lookup.items",
                    "each_limit": 7,
                    "post": "output.ok",
                    "timeout_s": 1.5,
                    "max_attempts": 2,
                },
                {
                    "id": "triage",
                    "after": "refund",
                    "with": {"age": "$lookup.age"},
                    "choose": [
                        {"when": "input.age > 3", "tool": "close", "with": {"x": "$input.age"}},
                        {"tool": "no"},
                    ],
                },
            ],
        }
    )
    refund, triage = plan.steps
    assert (plan.title, refund.title, refund.tool, refund.when) == (
        "Refund",
        "pay back",
        "refund_order",
        "lookup.paid",
    )
    assert (list(refund.after), refund.each, refund.each_limit, refund.post) == (
        ["a", "b"],
        "$lookup.items",
        7,
        "output.ok",
    )
    assert (refund.timeout.ToMilliseconds(), refund.max_attempts) == (1_500, 2)
    assert refund.arguments["order"].reference == "$lookup.order.id"
    assert refund.arguments["note"].constant.json == '"$5"'
    assert decode(refund.arguments["money"].constant.json) == {"list": [5, "$"]}
    assert list(triage.after) == ["refund"]
    assert [(rule.when, rule.tool) for rule in triage.rules] == [("input.age > 3", "close"), ("", "no")]
    assert triage.rules[0].arguments["x"].reference == "$input.age"


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ([], "plan"),
        ({"stepz": []}, "stepz"),
        ({"steps": "s"}, "steps"),
        ({"steps": [1]}, "steps[0]"),
        ({"steps": [{}]}, "steps[0]"),
        ({"steps": [{"id": 1}]}, "steps[0].id"),
        ({"steps": [step(wiht={})]}, "steps[0].wiht"),
        ({"steps": [step(**{"with": []})]}, "steps[0].with"),
        ({"steps": [step(**{"with": {1: 2}})]}, "steps[0].with (a name)"),
        ({"steps": [step(**{"with": {"x": float("nan")}})]}, "steps[0].with.x"),
        ({"steps": [step(**{"with": {"x": {"y": ["$a.b"]}}})]}, "steps[0].with.x.y[0]"),
        ({"steps": [step(**{"with": {"x": DEEP}})]}, None),
        ({"steps": [step(**{"with": {"x": object()}})]}, "steps[0].with.x"),
        ({"steps": [step(**{"with": {"x": "$\ud800"}})]}, "steps[0].with.x"),
        ({"steps": [step(after=[1])]}, "steps[0].after[0]"),
        ({"steps": [step(each_limit=-1)]}, "steps[0].each_limit"),
        ({"steps": [step(each_limit=True)]}, "steps[0].each_limit"),
        ({"steps": [step(timeout_s=float("inf"))]}, "steps[0].timeout_s"),
        ({"steps": [step(timeout_s="1")]}, "steps[0].timeout_s"),
        ({"steps": [step(choose=[{"tool": "t", "id": "x"}])]}, "steps[0].choose[0].id"),
        ({"steps": [step()] * 10_001}, "steps"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(form: Any, field: str | None) -> None:
    with pytest.raises(BadPlanForm) as caught:
        plan_from_form(form)
    assert caught.value.message
    if field is not None:
        assert caught.value.field == field
    else:
        assert caught.value.field.startswith("steps[0].with.x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def escaped(value: Any) -> Any:
    if isinstance(value, str):
        return f"${value}" if value.startswith("$") else value
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return {key: escaped(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(JSON.filter(lambda value: not (isinstance(value, str) and not value.isprintable())))
def test_every_constant_can_be_written(value: Any) -> None:
    plan = plan_from_form({"steps": [step(**{"with": {"x": escaped(value)}})]})
    assert decode(plan.steps[0].arguments["x"].constant.json) == value
