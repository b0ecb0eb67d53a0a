"""Conformance: every broken rule is found, where it is, with what to do."""

from __future__ import annotations

import time
from typing import Annotated, Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from core import conformance, values
from core.conformance import Limits, check_arguments, check_plan, tools_of
from core.contracts import to_proto
from core.violations import MAX_VIOLATIONS
from handrail.tool import Money, call, tool
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from handrail.v1.plan_pb2 import Argument, Plan, Rule, Step, Violation


class Order(BaseModel):
    id: int
    status: str
    total: Money
    lines: list[dict[str, int]] = []
    note: str | None = None


Amount = Annotated[int, Field(gt=0, le=1_000)]


@tool(effect="read")
def get_order(order_id: int) -> Order:
    """Look up."""
    raise NotImplementedError


@tool(effect="read")
def list_orders(customer: str = "") -> list[Order]:
    """List."""
    raise NotImplementedError


@tool(effect="read")
def find_refund(key: str) -> bool:
    """Whether it happened."""
    raise NotImplementedError


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="find_refund",
    reads={"order": call("get_order", order_id="args.order_id")},
    capability="refund",
)
def refund_order(order_id: int, amount: Money, count: Amount = 1, *, key: str) -> dict[str, Any]:
    """Refund."""
    raise NotImplementedError


@tool(effect="write", idempotency="natural", capability="refund")
def refund_by_hand(order_id: int, amount: Money, count: int = 1) -> dict[str, Any]:
    """Refund otherwise."""
    raise NotImplementedError


@tool(effect="write", idempotency="natural", capability="refund")
def refund_all(order_id: int) -> dict[str, Any]:
    """Takes other arguments: no stand-in."""
    raise NotImplementedError


@tool(effect="write", idempotency="natural", capability="refund", permission="admin")
def refund_as_admin(order_id: int, amount: Money, count: int = 1) -> dict[str, Any]:
    """Needs more permission: no stand-in."""
    raise NotImplementedError


@tool(effect="irreversible", idempotency="natural", permission="delete")
def delete_order(order_id: int) -> None:
    """Delete."""


CONTRACTS = {
    function.__name__: to_proto(function.__handrail_tool__.contract)  # type: ignore[attr-defined]
    for function in (
        *(get_order, list_orders, find_refund, refund_order),
        *(refund_by_hand, refund_all, refund_as_admin, delete_order),
    )
}


def arguments(given: dict[str, Any]) -> dict[str, Argument]:
    """Constants, and references where a text begins with '$'."""
    return {
        name: Argument(reference=value)
        if isinstance(value, str) and value.startswith("$")
        else Argument(constant=values.inline(value))
        for name, value in given.items()
    }


def step(id: str, tool: str = "get_order", /, with_: dict[str, Any] | None = None, **fields: Any) -> Step:
    given = {"order_id": 1} if with_ is None and tool == "get_order" else with_ or {}
    return Step(id=id, tool=tool, arguments=arguments(given), **fields)


def check(*steps: Step, goal: event_pb2.Goal | None = None, **fields: Any) -> list[Violation]:
    return check_plan(Plan(steps=steps, **fields), CONTRACTS, goal=goal or event_pb2.Goal(), limits=Limits())


def one(found: list[Violation]) -> tuple[str, str, str]:
    assert len(found) == 1, found
    return found[0].field, found[0].code, found[0].message


EUR = {"minor": 5, "currency": "EUR"}
REFUND = {"order_id": 1, "amount": EUR}


def test_a_sound_plan_passes() -> None:
    choose = Step(
        id="triage",
        arguments=arguments({"status": "$order.status", "id": "$order.id"}),
        rules=[
            Rule(
                when='input.status == "new"', tool="get_order", arguments=arguments({"order_id": "$input.id"})
            ),
            Rule(tool="delete_order", arguments=arguments({"order_id": "$order.id"})),
        ],
    )
    found = check(
        step("order"),
        step(
            "refund",
            "refund_order",
            {"order_id": "$order.id", "amount": "$order.total"},
            when='order.status == "paid" && goal.wanted',
            post="output.ok && reads.order.id == args.order_id",
            after=["order"],
        ),
        step("orders", "list_orders", {"customer": "$goal.customer.id"}),
        step("each_one", "get_order", {"order_id": "$each.id"}, each="$orders", each_limit=5),
        step("first", "get_order", {"order_id": "$each_one[0].id"}, when="size(each_one) > 0"),
        step("again", "get_order", {"order_id": "$each.lines[0].n"}, each="$each_one"),
        choose,
        step("last", "get_order", {"order_id": "$triage.id"}),
        goal=event_pb2.Goal(
            context=values.inline({"wanted": True, "customer": {"id": "c"}}),
            ceiling=tool_pb2.PERMISSION_ADMIN,
        ),
        title="Refund",
        origin="client",
    )
    assert found == []


def test_an_empty_plan() -> None:
    assert one(check())[:2] == ("steps", "empty_plan")


def test_too_many_steps_and_a_budget_of_fewer() -> None:
    steps = [step(f"s{i}") for i in range(1_001)]
    started = time.monotonic()
    assert one(check(*steps))[:2] == ("steps", "too_many_steps")
    assert check(*steps[:1_000]) == []
    assert time.monotonic() - started < 5
    goal = event_pb2.Goal(budget=plan_pb2.Budget(max_steps=3))
    assert "at most 3 steps, not 4" in one(check(*steps[:4], goal=goal))[2]
    ten_thousand = [Step(id=f"s{i}") for i in range(10_000)]
    assert one(check(*ten_thousand))[1] == "too_many_steps"


def test_a_plan_that_is_too_large() -> None:
    assert one(check(step("a", "list_orders", {"customer": "x" * 2_000_000})))[1] == "plan_too_large"


@pytest.mark.parametrize(
    "bad",
    [
        *("", "A", "1a", "a.b", "a*", "a>", "a b", "a\n", "a\r\nb", "a-b", "é", "a" * 64),
        "a\u202eb",
        "a\u200b",
    ],
)
def test_bad_ids(bad: str) -> None:
    field, code, message = one(check(step(bad)))
    assert (field, code) == ("steps[0].id", "bad_id")
    assert message.isprintable()


def test_reserved_and_duplicate_ids() -> None:
    found = check(step("each"), step("goal"), step("input"), step("a"), step("a"))
    assert [(v.field, v.code) for v in found] == [
        ("steps[0].id", "reserved_id"),
        ("steps[1].id", "reserved_id"),
        ("steps[2].id", "reserved_id"),
        ("steps[4].id", "duplicate_id"),
    ]


@pytest.mark.parametrize(
    ("broken", "field", "code", "says"),
    [
        (step("s", "get_ordr"), "tool", "unknown_tool", "did you mean 'get_order'?"),
        (step("s", ""), "tool", "unknown_tool", "name a tool"),
        (
            step("s", "get_order", {}),
            "arguments.order_id",
            "missing_argument",
            "needs the argument 'order_id'",
        ),
        (
            step("s", "get_order", {"order_id": 1, "ordr": 2}),
            "arguments.ordr",
            "unknown_argument",
            "did you mean 'order_id'?",
        ),
        (
            step("s", "refund_order", {**REFUND, "key": "mine"}),
            "arguments.key",
            "unknown_argument",
            "no argument 'key'",
        ),
        (step("s", "get_order", {"order_id": "1"}), "arguments.order_id", "mistyped_argument", "an integer"),
        (step("s", "get_order", {"order_id": 1.0}), "arguments.order_id", "mistyped_argument", "an integer"),
        (step("s", "get_order", {"order_id": True}), "arguments.order_id", "mistyped_argument", "an integer"),
        (step("s", "get_order", {"order_id": None}), "arguments.order_id", "mistyped_argument", "not null"),
        (
            step("s", "refund_order", {**REFUND, "count": -5}),
            "arguments.count",
            "bad_argument",
            "-5 is less than",
        ),
        (
            step("s", "refund_order", {**REFUND, "count": 10**30}),
            "arguments.count",
            "bad_argument",
            "greater than the maximum",
        ),
        (
            step("s", "refund_order", {"order_id": 1, "amount": {"minor": 1, "currency": "euro"}}),
            "arguments.amount.currency",
            "bad_argument",
            "does not match",
        ),
        (
            step("s", "refund_order", {"order_id": 1, "amount": {"minor": 1.5, "currency": "EUR"}}),
            "arguments.amount.minor",
            "mistyped_argument",
            "an integer",
        ),
        (step("s", "get_order", {"order_id": "$"}), "arguments.order_id", "bad_reference", "not a reference"),
        (step("s", "get_order", {"order_id": "$s.id"}), "arguments.order_id", "self_reference", "itself"),
        (
            step("s", "get_order", {"order_id": "$othr.id"}),
            "arguments.order_id",
            "unknown_step",
            "did you mean 'other'?",
        ),
        (
            step("s", "get_order", {"order_id": "$other.idd"}),
            "arguments.order_id",
            "unknown_path",
            "did you mean 'id'?",
        ),
        (
            step("s", "get_order", {"order_id": "$other.total.minr"}),
            "arguments.order_id",
            "unknown_path",
            "did you mean 'minor'?",
        ),
        (step("s", "get_order", {"order_id": "$other[0]"}), "arguments.order_id", "unknown_path", "no [0]"),
        (step("s", "get_order", {"order_id": "$other.id.x"}), "arguments.order_id", "unknown_path", "no 'x'"),
        (step("s", "get_order", {"order_id": "$all.id"}), "arguments.order_id", "unknown_path", "is a list"),
        (step("s", "get_order", {"order_id": "$all[0].idd"}), "arguments.order_id", "unknown_path", "'id'"),
        (step("s", "get_order", {"order_id": "$each.id"}), "arguments.order_id", "each_outside", "'each'"),
        (step("s", "get_order", {"order_id": "$input.id"}), "arguments.order_id", "input_outside", "rules"),
        (
            step("s", "get_order", {"order_id": "$goal.x"}),
            "arguments.order_id",
            "unknown_context",
            "goal has no 'x'",
        ),
        (step("s", each="other.lines"), "each", "bad_each", "is a reference"),
        (step("s", each="$each"), "each", "bad_each", "not to $each"),
        (step("s", each="$other.id"), "each", "bad_each", "not a list"),
        (step("s", each="$other"), "each", "bad_each", "not a list"),
        (step("s", each="$othr.lines"), "each", "unknown_step", "did you mean 'other'?"),
        (
            step("s", "get_order", {"order_id": "$each.idd"}, each="$orders"),
            "arguments.order_id",
            "unknown_path",
            "'id'",
        ),
        (step("s", each_limit=5), "each_limit", "bad_each", "'each'"),
        (step("s", each="$orders", each_limit=5_000), "each_limit", "bad_each", "at most 1000"),
        (step("s", when="other.status =="), "when", "bad_condition", "parse"),
        (step("s", when="othr.status == 1"), "when", "bad_condition", "did you mean 'other'?"),
        (step("s", when="s.status == 1"), "when", "bad_condition", "'s' is unknown"),
        (step("s", when="other.staus == 1"), "when", "bad_condition", "did you mean 'status'?"),
        (step("s", post="output.idd == 1"), "post", "bad_condition", "did you mean 'id'?"),
        (step("s", post="args.ordr == 1"), "post", "bad_condition", "did you mean 'order_id'?"),
        (step("s", post="reads.x == 1"), "post", "bad_condition", "no read 'x'"),
        (step("s", post="other.id == 1"), "post", "bad_condition", "'other' is unknown"),
        (step("s", after=["othr"]), "after[0]", "unknown_step", "did you mean 'other'?"),
        (step("s", after=["s"]), "after[0]", "self_reference", "itself"),
        (step("s", after=["other"] * 101), "after", "too_long", "at most 100"),
        (step("s", "delete_order", {"order_id": 1}), "tool", "permission_above_ceiling", "'delete'"),
        (step("s", route=plan_pb2.ROUTE_LLM), "route", "route_unavailable", "'llm' is not available yet"),
        (
            step("s", route=plan_pb2.ROUTE_LAM),
            "route",
            "route_unavailable",
            "no executor here proposes actions",
        ),
        (step("s", route=plan_pb2.ROUTE_HUMAN), "route", "route_unavailable", "'human'"),
        (step("s", route=99), "route", "route_unavailable", "99"),
        (step("s", title="a\u202eb"), "title", "hidden_characters", "U+202E"),
        (step("s", title="a\u200bb"), "title", "hidden_characters", "U+200B"),
        (step("s", title="a\nb"), "title", "hidden_characters", "U+000A"),
        (step("s", title="x" * 201), "title", "too_long", "200"),
        (step("s", timeout={"seconds": -1}), "timeout", "bad_timeout", "above 0"),
        (step("s", timeout={"seconds": 0}), "timeout", "bad_timeout", "above 0"),
        (step("s", timeout={"seconds": 3_601}), "timeout", "bad_timeout", "3600"),
        (step("s", max_attempts=21), "max_attempts", "bad_attempts", "at most 20"),
        (
            step("s", "list_orders", {f"a{i}": 1 for i in range(65)}),
            "arguments",
            "too_many_arguments",
            "at most 64",
        ),
        (
            Step(id="s", tool="get_order", arguments={"order_id": Argument()}),
            "arguments.order_id",
            "empty_argument",
            "constant or a reference",
        ),
        (
            Step(
                id="s",
                tool="get_order",
                arguments={"order_id": Argument(constant=plan_pb2.Value(json="NaN"))},
            ),
            "arguments.order_id",
            "bad_value",
            "NaN",
        ),
        (
            Step(id="s", tool="get_order", arguments={"order_id": Argument(constant=plan_pb2.Value())}),
            "arguments.order_id",
            "bad_value",
            "empty",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_one_broken_rule_is_one_violation_where_it_is(broken: Step, field: str, code: str, says: str) -> None:
    orders = step("orders", "list_orders", {})
    every = step("all", "get_order", {"order_id": "$each.id"}, each="$orders")
    found = one(check(step("other"), orders, every, broken))
    assert found[:2] == (f"steps[3].{field}", code)
    assert says in found[2]


def choose(*rules: Rule, **fields: Any) -> Step:
    return Step(id="s", arguments=arguments({"n": 1}), rules=rules, **fields)


def rule(when: str = "", tool: str = "get_order", **with_: Any) -> Rule:
    return Rule(when=when, tool=tool, arguments=arguments(with_ or {"order_id": 1}))


@pytest.mark.parametrize(
    ("broken", "field", "code"),
    [
        (choose(route=plan_pb2.ROUTE_CHOOSE), "rules", "no_rules"),
        (choose(rule(), tool="get_order"), "tool", "route_mismatch"),
        (choose(rule(), rule("input.n > 1")), "rules[0].when", "otherwise_not_last"),
        (choose(rule("input.n >"), rule()), "rules[0].when", "bad_condition"),
        (choose(rule("other.id > 1")), "rules[0].when", "bad_condition"),
        (choose(rule("input.m > 1")), "rules[0].when", "unknown_input"),
        (choose(rule(order_id="$input.m")), "rules[0].arguments.order_id", "unknown_input"),
        (choose(rule(tool="get_ordr")), "rules[0].tool", "unknown_tool"),
        (choose(rule(other=1, order_id=1)), "rules[0].arguments.other", "unknown_argument"),
        (choose(rule(order_id="x")), "rules[0].arguments.order_id", "mistyped_argument"),
        (choose(rule(order_id="$other.idd")), "rules[0].arguments.order_id", "unknown_path"),
        (choose(*[rule("input.n > 1")] * 65), "rules", "too_many_rules"),
        (choose(rule(tool="delete_order")), "rules[0].tool", "permission_above_ceiling"),
        (choose(rule(), route=plan_pb2.ROUTE_DIRECT, tool="list_orders"), "rules", "route_mismatch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_decision_tables(broken: Step, field: str, code: str) -> None:
    found = check(step("other"), broken)
    assert (f"steps[1].{field}", code) in [(v.field, v.code) for v in found]


def test_what_a_choose_step_gives_is_known_only_where_all_its_tools_agree() -> None:
    mixed = choose(rule("input.n > 1", tool="refund_all"), rule())
    assert check(mixed, step("b", "get_order", {"order_id": "$s.anything"})) == []
    alike = choose(rule("input.n > 1"), rule())
    found = check(alike, step("b", "get_order", {"order_id": "$s.anything"}))
    assert one(found)[1] == "unknown_path"


def test_cycles() -> None:
    found = check(
        step("x"),
        step("a", "get_order", {"order_id": "$b.id"}),
        step("b", when='c.status == ""'),
        step("c", after=["a"]),
    )
    field, code, message = one(found)
    assert (field, code) == ("steps[1]", "cycle")
    assert message.endswith("'a' needs 'b' needs 'c' needs 'a'")


def test_the_ceiling() -> None:
    for ceiling, allowed in ((tool_pb2.PERMISSION_READ, False), (tool_pb2.PERMISSION_EXECUTE, True)):
        found = check(step("s", "refund_order", REFUND), goal=event_pb2.Goal(ceiling=ceiling))
        assert (found == []) is allowed


def test_a_large_context_is_not_judged_before_it_is_loaded() -> None:
    goal = event_pb2.Goal(context=plan_pb2.Value(blob=plan_pb2.Blob(sha256="x")))
    assert check(step("s", "get_order", {"order_id": "$goal.x"}), goal=goal) == []
    constant = {"order_id": Argument(constant=goal.context)}
    assert check(Step(id="s", tool="get_order", arguments=constant)) == []


def test_all_violations_are_told_at_once_and_their_number_is_bounded() -> None:
    found = check(
        step("Bad", "get_ordr"), step("b", "get_order", {"x": 1}, when="("), title="\u202e", origin="\u200b"
    )
    assert {v.code for v in found} == {
        *("hidden_characters", "bad_id", "unknown_tool", "missing_argument", "unknown_argument"),
        "bad_condition",
    }
    hostile = [step(f"S{i}", "x" * 60, {f"$a{j}": f"$nothing{j}" for j in range(60)}) for i in range(200)]
    started = time.monotonic()
    found = check(*hostile)
    assert time.monotonic() - started < 5
    assert len(found) == MAX_VIOLATIONS
    assert found[-1].code == "more"


def test_check_arguments() -> None:
    contract = CONTRACTS["refund_order"]
    assert check_arguments(contract, REFUND) == []
    found = check_arguments(contract, {"amount": {"minor": "x" * 10_000, "currency": "EUR"}, "cuont": 1})
    assert [(v.field, v.code) for v in found] == [
        ("arguments.order_id", "missing_argument"),
        ("arguments.cuont", "unknown_argument"),
        ("arguments.amount.minor", "mistyped_argument"),
    ]
    assert all(len(v.message) < 500 for v in found)
    assert check_arguments(tool_pb2.ToolContract(name="open"), {"anything": 1}) == []


def test_tools_of_a_plan() -> None:
    plan = Plan(steps=[step("a", "refund_order", REFUND), choose(rule(tool="list_orders"))])
    assert set(tools_of(plan, CONTRACTS)) == {
        *("refund_order", "refund_by_hand", "find_refund", "get_order", "list_orders"),
    }
    assert tools_of(Plan(steps=[step("a", "nothing")]), CONTRACTS) == {}


def test_hidden_words_in_what_is_shown() -> None:
    found = check(step("a", "get\u202eorder", {"or\u200bder": 1}), step("b\u202e", after=["\u202ea"]))
    assert found
    assert all(v.message.isprintable() and v.field.isprintable() for v in found)


@given(st.binary(max_size=400))
def test_any_plan_that_can_be_decoded_can_be_judged(content: bytes) -> None:
    try:
        plan = Plan.FromString(content)
    except DecodeError:
        return
    check_plan(plan, CONTRACTS, goal=event_pb2.Goal(), limits=Limits())


TEXT = st.sampled_from(
    ["", "a", "b", "$a", "$a.id", "$b[0].id", "$each", "$each.id", "$goal.x", "$input.n", "a.id == 1"]
)
TOOLS = st.sampled_from([*CONTRACTS, "unknown", ""])
ARGUMENTS = st.dictionaries(
    st.sampled_from(["order_id", "amount", "n"]),
    st.one_of(
        TEXT.map(lambda text: Argument(reference=text)),
        st.sampled_from([1, "x", EUR, None, [1]]).map(lambda value: Argument(constant=values.inline(value))),
    ),
    max_size=3,
)
STEPS = st.builds(
    Step,
    id=st.sampled_from(["a", "b", "c", "each"]),
    tool=TOOLS,
    arguments=ARGUMENTS,
    after=st.lists(TEXT, max_size=2),
    when=TEXT,
    each=TEXT,
    post=TEXT,
    each_limit=st.integers(0, 2000),
    rules=st.lists(st.builds(Rule, when=TEXT, tool=TOOLS, arguments=ARGUMENTS), max_size=2),
    route=st.integers(0, 6),
)


@given(st.lists(STEPS, max_size=4))
def test_any_combination_is_judged_the_same_after_a_journey(steps: list[Step]) -> None:
    plan = Plan(steps=steps)
    found = check(*steps)
    there_and_back = json_format.Parse(json_format.MessageToJson(plan), Plan())
    again = check_plan(there_and_back, CONTRACTS, goal=event_pb2.Goal(), limits=Limits())
    assert sorted(map(str, again)) == sorted(map(str, found))
    assert all(v.code == "more" or v.field for v in found)
    assert conformance.tools_of(plan, CONTRACTS).keys() <= CONTRACTS.keys()
