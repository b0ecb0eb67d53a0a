"""The graph of a plan: references, dependencies, cycles, names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import plan, values
from core.plan import BadReference, Reference, Unresolved, parse_reference, resolve
from handrail.v1 import plan_pb2
from handrail.v1.plan_pb2 import Argument, Rule, Step


@pytest.mark.parametrize(
    ("text", "root", "path"),
    [
        ("$order", "order", ()),
        ("$order.total", "order", ("total",)),
        ("$a1_b.lines[0].sku", "a1_b", ("lines", 0, "sku")),
        ("$goal.x-y", "goal", ("x-y",)),
        ("$each", "each", ()),
        ("$each.id", "each", ("id",)),
        ("$input.x", "input", ("x",)),
        ("$list[12][3]", "list", (12, 3)),
    ],
)
def test_references_are_read(text: str, root: str, path: tuple[str | int, ...]) -> None:
    assert parse_reference(text) == Reference(root, path)
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "$",
            "order",
            "$Order",
            "$1a",
            "$.a",
            "$a.",
            "$a..b",
            "$a[",
            "$a[]",
            "$a[-1]",
            "$a[x]",
            "$a[01]",
        ),
        *(
            "$a b",
            "$a.b ",
            "$a\n",
            "$a.b\n",
            "$$a",
            "$a.é",
            "$é",
            "$a[1",
            "$a]",
            "$a.*",
            "$a>",
            "$a[9999999999]",
        ),
        *("$" + "a" * 64, "$a" + ".b" * 1000, "$a\u202e", "$a.\u200bb", "$a[１]"),
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(BadReference):
        parse_reference(text)


@given(st.text("$a.[]01-_ \n", max_size=20))
def test_a_reference_that_is_read_is_written_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BadReference:
        return
    assert str(reference) == text


SCOPE: dict[str, Any] = {"order": {"total": 5, "lines": [{"sku": "a"}], "none": None}, "each": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$order.total", 5),
        ("$order.lines[0].sku", "a"),
        ("$each", 7),
        ("$order.none", None),
    ],
)
def test_references_are_resolved(text: str, value: Any) -> None:
    assert resolve(parse_reference(text), SCOPE) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$other.x", "no value of 'other'"),
        ("$order.totl", "order has no 'totl'; it has total, lines, none"),
        ("$order.lines[1]", "order.lines has 1 items"),
        ("$order.lines.sku", "order.lines is a list"),
        ("$order.none.x", "order.none is null"),
        ("$order[0]", "order is an object"),
        ("$each.id", "each is a number"),
    ],
)
def test_what_is_missing_is_named(text: str, says: str) -> None:
    with pytest.raises(Unresolved, match=says.replace("[", r"\[")):
        resolve(parse_reference(text), SCOPE)


def ref(text: str) -> Argument:
    return Argument(reference=text)


def test_a_step_needs_its_data_its_condition_and_what_it_waits_for() -> None:
    step = Step(
        id="s",
        arguments={"a": ref("$a.x"), "c": Argument(constant=values.inline("$b")), "g": ref("$goal.y")},
        rules=[Rule(arguments={"r": ref("$r.x"), "i": ref("$input.a")})],
        each="$e.items",
        when='w.ok && goal.n > 0 && list.all(x, x.id != "z")',
        after=["f"],
    )
    assert plan.references(step) == {"a", "r", "e"}
    assert plan.dependencies(plan_pb2.Plan(steps=[step])) == {"s": {"a", "r", "e", "w", "list", "f"}}


def test_what_cannot_be_read_adds_no_edge() -> None:
    step = Step(id="s", arguments={"a": ref("nonsense"), "b": Argument()}, when="a &&", each="$")
    assert plan.dependencies(plan_pb2.Plan(steps=[step])) == {"s": frozenset()}


def test_cycles() -> None:
    assert plan.find_cycle({"a": ["b"], "b": ["c"], "c": []}) is None
    assert plan.find_cycle({"a": ["a"]}) == ["a"]
    assert plan.find_cycle({"a": ["missing"]}) is None
    assert plan.find_cycle({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c"]


def test_long_chains_and_wide_graphs_need_no_recursion() -> None:
    count = 10_000
    chain = {str(i): [str(i + 1)] for i in range(count)}
    assert plan.find_cycle(chain) is None
    assert len(plan.find_cycle({**chain, str(count): ["0"]}) or []) == count + 1
    steps = [Step(id=f"s{i}", after=[f"s{i - 1}"] if i else []) for i in range(count)]
    assert plan.find_cycle(plan.dependencies(plan_pb2.Plan(steps=steps))) is None


@given(st.dictionaries(st.integers(0, 8).map(str), st.lists(st.integers(0, 8).map(str))))
def test_a_found_cycle_is_one_and_none_is_missed(needs: dict[str, list[str]]) -> None:
    cycle = plan.find_cycle(needs)
    if cycle is not None:
        assert all(b in needs[a] for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        return
    left = {a: {b for b in bs if b in needs} for a, bs in needs.items()}
    while left:  # what has no cycle can be taken apart leaf by leaf
        leaves = {a for a, bs in left.items() if not bs & left.keys()}
        assert leaves
        left = {a: bs for a, bs in left.items() if a not in leaves}


def test_names() -> None:
    assert plan.instance("refund") == "refund"
    assert plan.instance("refund", 0) == "refund-0"
    assert plan.attempt_id("refund-3", 2) == "refund-3-a2"


def test_routes() -> None:
    assert plan.canonical_route(Step()) == plan_pb2.ROUTE_DIRECT
    assert plan.canonical_route(Step(rules=[Rule()])) == plan_pb2.ROUTE_CHOOSE
    assert plan.canonical_route(Step(route=plan_pb2.ROUTE_LLM)) == plan_pb2.ROUTE_LLM
