"""Playbooks: goals read against phrases, slots filled, plans made."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.models import Goal
from actors.models.playbooks import PlaybookPlans
from core import playbook, values
from core.contracts import to_proto
from core.playbook import Match, NoMatch, Playbook, instantiate, match
from core.slots import BadSlot, Slot, read_money, read_time
from handrail.tool import Money, tool
from handrail.v1 import plan_pb2

REFUND: dict[str, Any] = {
    "name": "refund",
    "title": "Refund order {order}",
    "phrases": ["refund order {order} and tell the customer", "refund {amount} of order {order}"],
    "slots": {
        "order": {"type": "integer"},
        "amount": {"type": "money", "default": "1.00 EUR"},
    },
    "limits": {"max_actions": 50},
    "steps": [
        {"id": "order", "tool": "get_order", "with": {"order_id": "{order}"}},
        {
            "id": "refund",
            "tool": "refund_order",
            "with": {"order_id": "$order.id", "amount": "{amount}"},
            "when": 'order.status == "paid"',
            "post": 'output.status == "refunded"',
            "timeout_s": 2.5,
            "max_attempts": 3,
        },
        {
            "id": "triage",
            "with": {"age": "$order.age"},
            "choose": [
                {
                    "when": "input.age > 30",
                    "tool": "close",
                    "with": {"id": "$input.age", "why": "{order} is old"},
                },
                {"tool": "get_order", "with": {"order_id": "{order}"}},
            ],
        },
        {
            "id": "notify",
            "each": "$order.people",
            "each_limit": 20,
            "after": ["refund"],
            "tool": "send",
            "title": "Write to them",
            "with": {"to": "$each", "text": "Order {order}: {amount} {{back}}", "tags": ["$$5", "n{order}"]},
        },
    ],
}


def make(**changes: Any) -> Playbook:
    return Playbook.model_validate({**REFUND, **changes})


def simple(name: str, /, *phrases: str, **slots: Any) -> Playbook:
    steps = [{"id": "a", "tool": "t", "with": {slot: f"{{{slot}}}" for slot in slots}}]
    return Playbook.model_validate({"name": name, "phrases": phrases, "slots": slots, "steps": steps})


def slots_of(goal: str, *playbooks: Playbook, **context: Any) -> dict[str, Any]:
    found = match(goal, playbooks, context)
    assert isinstance(found, Match), found
    return dict(found.slots)


def refused(goal: str, *playbooks: Playbook, **context: Any) -> NoMatch:
    found = match(goal, playbooks, context)
    assert isinstance(found, NoMatch), found
    return found


@pytest.mark.parametrize(
    "goal",
    [
        "refund order 1001 and tell the customer",
        "  Refund   ORDER #1001,\nand tell the customer!  ",
        'Refund order "1001" – and tell the "customer".',
        "ＲＥＦＵＮＤ order 1001 and tell the customer",
    ],
)
def test_case_space_and_punctuation_do_not_matter(goal: str) -> None:
    assert slots_of(goal, make()) == {"order": 1001, "amount": {"minor": 100, "currency": "EUR"}}


@pytest.mark.parametrize(
    "goal",
    [
        *(
            "refund order 1001",
            "please refund order 1001 and tell the customer",
            "refund order x and tell the customer",
        ),
        *(
            "refund order 1001 and tell the customer now",
            "refund order 1001 and\u200b tell the customer",
            "refund",
        ),
        *("refund order 10.5 and tell the customer", "refund order １００ and tell the customer"),
        *(
            "refund 5 of order 1",
            "refund order 1 2 and tell the customer",
            "refundorder 1 and tell the customer",
        ),
    ],
)
def test_the_whole_goal_must_read_as_the_phrase(goal: str) -> None:
    found = refused(goal, make())
    assert found.nearest
    assert set(found.nearest) <= set(REFUND["phrases"])


async def test_a_plan_names_the_file_that_its_playbook_was_in() -> None:
    books = simple("find", "find it"), simple("lose", "lose it")
    plans = PlaybookPlans(books, {"find": "a" * 64, "lose": "b" * 64})
    day = datetime.date(2026, 3, 2)
    made = [(await plans.make(Goal(text, {}, day))).plan for text in ("find it", "lose it")]
    assert [(one.origin, one.origin_sha256) for one in made] == [
        ("playbook:find", "a" * 64),
        ("playbook:lose", "b" * 64),
    ]
    assert (await plans.make(Goal("burn it", {}, day))).HasField("no_plan")


def test_no_words_and_no_playbooks() -> None:
    assert "no words" in refused(" - ?! ", make()).reason
    assert refused("hello") == NoMatch("no playbook has a phrase like this", ())


@pytest.mark.parametrize(
    ("text", "minor", "currency"),
    [
        *(
            ("12.50 EUR", 1250, "EUR"),
            ("€12.50", 1250, "EUR"),
            ("EUR 12.50", 1250, "EUR"),
            ("12.50€", 1250, "EUR"),
        ),
        *(
            ("€ 12", 1200, "EUR"),
            ("12.5 eur", 1250, "EUR"),
            ("$0.01", 1, "USD"),
            ("1,234,567.89 USD", 123456789, "USD"),
        ),
        *(
            ("¥500", 500, "JPY"),
            ("1.234 KWD", 1234, "KWD"),
            ("0.29 EUR", 29, "EUR"),
            ("4.35 GBP", 435, "GBP"),
        ),
        ("999999999999999.99 EUR", 99999999999999999, "EUR"),
    ],
)
def test_money_is_exact(text: str, minor: int, currency: str) -> None:
    assert read_money(text) == {"minor": minor, "currency": currency}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "12.50",
            "EUR",
            "",
            "-5 EUR",
            "12,50 EUR",
            "1.234 EUR",
            "1.5 JPY",
            "€5 EUR",
            "5 and",
            "5 try",
            "5 XXX",
        ),
        *(
            "１２ EUR",
            "1e3 EUR",
            "5 EU R",
            "NaN EUR",
            "1 2 EUR",
            "5 €€",
            "0x5 EUR",
            "1,23 EUR",
            "5." + "0" * 50 + " EUR",
        ),
    ],
)
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(BadSlot):
        read_money(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("15:30", "15:30"),
        ("9:05", "09:05"),
        (" 00:00 ", "00:00"),
        ("3pm", "15:00"),
        ("3 PM", "15:00"),
        ("12am", "00:00"),
        ("12 p.m.", "12:00"),
        ("3:30 pm", "15:30"),
        ("11.45am", "11:45"),
    ],
)
def test_times(text: str, time: str) -> None:
    assert read_time(text) == time
    assert Slot(type="time").accept(text) == time


@pytest.mark.parametrize(
    "text",
    ["", "3", "15.30", "24:00", "12:60", "0pm", "13pm", "3:5", "pm", "15:30:00", "٣:٣٠", "noon", "3 xm"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadSlot):
        read_time(text)


@given(st.integers(0, 10**15 - 1), st.integers(0, 99))
def test_money_survives_being_shown(whole: int, cents: int) -> None:
    slot = Slot(type="money")
    value = read_money(f"{whole}.{cents:02d} EUR")
    assert value == {"minor": whole * 100 + cents, "currency": "EUR"}
    assert slot.read(slot.show(value)) == value


def test_slots_of_every_type() -> None:
    book = simple(
        "all",
        "on {day} tell {who} ({mail}) that {what} is {state} for {price} in room {room} at {hour} {count} times",  # noqa: E501
        day={"type": "date"},
        who={"type": "word"},
        mail={"type": "email"},
        what={"type": "text"},
        state={"type": "choice", "choices": ["Done", "not done yet"]},
        price={"type": "money"},
        room={"type": "word"},
        hour={"type": "time"},
        count={"type": "integer"},
    )
    goal = (
        "On 2026-02-28 tell Ann (ann@example.com) that the big thing, it is, is NOT done  yet for EUR 5 "
        "in room B-12 at 3:30 pm -3 times."
    )
    assert slots_of(goal, book) == {
        "day": "2026-02-28",
        "who": "Ann",
        "mail": "ann@example.com",
        "what": "the big thing, it is,",
        "state": "not done yet",
        "price": {"minor": 500, "currency": "EUR"},
        "room": "B-12",
        "hour": "15:30",
        "count": -3,
    }
    for bad in (
        goal.replace("02-28", "02-30"),
        goal.replace("ann@example.com", "ann@example"),
        goal.replace("NOT done", "half done"),
        goal.replace("EUR 5", "EUR five"),
        goal.replace("3:30 pm", "13:30 pm"),
        goal.replace("-3 times", "3.0 times"),
    ):
        refused(bad, book)


def test_a_text_takes_as_few_words_as_it_can_and_keeps_its_own_form() -> None:
    book = simple("say", "tell {who} that {what}", who={"type": "text"}, what={"type": "text"})
    assert slots_of("tell Bob  Smith that that is that!", book) == {
        "who": "Bob  Smith",
        "what": "that is that!",
    }
    assert slots_of('tell bob that "Yes, really."', book)["what"] == "Yes, really."
    assert slots_of("tell bob that line one\n\n line two", book)["what"] == "line one\n\n line two"


def test_the_more_specific_phrase_wins_and_a_tie_is_said() -> None:
    general = simple("general", "close {what}", what={"type": "text"})
    special = simple("special", "close ticket {id}", id={"type": "integer"})
    found = match("close ticket 5", [general, special], {})
    assert isinstance(found, Match)
    assert found.playbook.name == "special"
    assert slots_of("close the door", general, special) == {"what": "the door"}
    other = simple("other", "close ticket {name}", name={"type": "word"})
    tie = refused("close ticket 5", general, special, other)
    assert "any of other, special" in tie.reason
    assert set(tie.nearest) == {"close ticket {id}", "close ticket {name}"}


def test_what_a_phrase_leaves_open_comes_from_the_context_then_from_the_default() -> None:
    goal = "refund order 7 and tell the customer"
    assert slots_of(goal, make(), amount="2.00 EUR")["amount"] == {"minor": 200, "currency": "EUR"}
    assert slots_of(goal, make(), amount={"minor": 3, "currency": "EUR"})["amount"]["minor"] == 3
    assert slots_of(goal, make(), order=99)["order"] == 7  # the goal's own words win
    for bad in ({"minor": 3.0, "currency": "EUR"}, {"minor": 3}, 5, None, "much", [1]):
        assert "does not fit" in refused(goal, make(), amount=bad).reason
    needs = make(slots={**REFUND["slots"], "amount": {"type": "money"}})
    found = refused(goal, needs)
    assert "'amount' (money) is missing" in found.reason


def test_nearest_is_the_nearest() -> None:
    books = [make(), simple("stock", "reserve {n} of {sku}", n={"type": "integer"}, sku={"type": "word"})]
    assert refused("refnd order 1001 and tell the custmer", *books).nearest[0] == REFUND["phrases"][0]
    assert refused("reserve some of it", *books).nearest[0] == "reserve {n} of {sku}"
    assert len(refused("anything", *books).nearest) == playbook.MAX_NEAREST


HOSTILE = simple("texts", "{a} and {b} and {c} and {d} end", **{n: {"type": "text"} for n in "abcd"})
PRICES = simple("prices", "pay {a} {b} {c}", **{n: {"type": "money"} for n in "abc"})


@pytest.mark.parametrize(
    "goal",
    [
        "and " * 4_000,
        "a and " * 2_600,
        "x" * 16_000,
        " " * 16_000,
        "." * 16_000,
        "pay " + "1" * 16_000,
        "pay " + "1 EUR " * 2_500,
        "1," * 8_000,
        "{a} and " * 2_000,
        "\u202e\u200b" * 8_000,
        "ﷺ" * 16_000,
        "a@" * 8_000,
        "and end " * 2_000,
    ],
    ids=lambda goal: goal[:8],
)
def test_hostile_goals_take_no_time(goal: str) -> None:
    started = time.monotonic()
    match(goal, [HOSTILE, PRICES, make()], {})
    assert time.monotonic() - started < 3


def test_goals_beyond_the_bound_are_refused() -> None:
    assert "16384" in refused("x" * 16_385, make()).reason


def test_a_plan_comes_out() -> None:
    slots = {"order": 1001, "amount": {"minor": 1250, "currency": "EUR"}}
    plan = instantiate(make(), slots)
    order, refund, triage, notify = plan.steps
    assert (plan.title, plan.origin) == ("Refund order 1001", "playbook:refund")
    assert order.arguments["order_id"].constant.json == "1001"
    assert refund.arguments["order_id"].reference == "$order.id"
    assert values.load(refund.arguments["amount"].constant, {}) == slots["amount"]
    assert (refund.when, refund.post) == ('order.status == "paid"', 'output.status == "refunded"')
    assert (refund.timeout.ToMilliseconds(), refund.max_attempts, refund.route) == (
        2500,
        3,
        plan_pb2.ROUTE_DIRECT,
    )
    assert (triage.route, triage.tool, [rule.when for rule in triage.rules]) == (
        plan_pb2.ROUTE_CHOOSE,
        "",
        ["input.age > 30", ""],
    )
    assert triage.rules[0].arguments["id"].reference == "$input.age"
    assert triage.rules[0].arguments["why"].constant.json == '"1001 is old"'
    assert (notify.each, notify.each_limit, list(notify.after)) == ("$order.people", 20, ["refund"])
    assert values.load(notify.arguments["text"].constant, {}) == "Order 1001: 12.50 EUR {back}"
    assert values.load(notify.arguments["tags"].constant, {}) == ["$5", "n1001"]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_a_slot_value_is_never_a_reference_or_code(text: str) -> None:
    book = Playbook.model_validate(
        {
            "name": "say",
            "phrases": ["say {what}"],
            "slots": {"what": {"type": "text"}},
            "title": "{what}",
            "steps": [
                {
                    "id": "a",
                    "tool": "t",
                    "with": {"alone": "{what}", "inside": "<{what}>", "list": ["{what}"]},
                }
            ],
        }
    )
    plan = instantiate(book, {"what": text})
    found = {name: values.load(a.constant, {}) for name, a in plan.steps[0].arguments.items()}
    assert found == {"alone": text, "inside": f"<{text}>", "list": [text]}
    assert plan.title.isprintable()


def test_hostile_slot_values_through_a_goal() -> None:
    book = simple("say", "say {what}", what={"type": "text"})
    for text in ("$order.id", "$$x", "{what}", "{{what}}", "true || 1", "${goal.x}"):
        found = match(f"say {text}", [book], {})
        assert isinstance(found, Match)
        argument = instantiate(found.playbook, found.slots).steps[0].arguments["what"]
        assert values.load(argument.constant, {}) == text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "Extra inputs"),
        ({"name": "Refund!"}, "pattern"),
        ({"phrases": []}, "at least 1"),
        ({"phrases": ["{order}"]}, "at least one word"),
        ({"phrases": ["refund {ordr}"]}, "not among the slots"),
        ({"phrases": ["refund {order} or {order}"]}, "once"),
        ({"phrases": ["refund {Order}"]}, "written {name}"),
        ({"phrases": ["refund {order"]}, "written {name}"),
        ({"phrases": ["word " * 65]}, "at most 64"),
        ({"slots": {"order": {"type": "number"}}}, "Input should be"),
        ({"slots": {**REFUND["slots"], "c": {"type": "choice"}}}, "at least one"),
        ({"slots": {**REFUND["slots"], "c": {"type": "word", "choices": ["a"]}}}, "choices are for"),
        ({"slots": {**REFUND["slots"], "c": {"type": "integer", "default": "x"}}}, "default does not fit"),
        ({"steps": []}, "at least 1"),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": "{ordr}"}}]}, "a.with.x has a slot {ordr}"),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": "$a b"}}]}, "not a reference"),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": ["$a.b"]}}]}, "whole argument"),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": "a } b"}}]}, "lone '}'"),
        ({"steps": [{"id": "a", "tool": "t", "with": {"x": float("nan")}}]}, "nan"),
        ({"steps": [{"id": "a", "tool": "t", "arguments": {}}]}, "Extra inputs"),
        ({"steps": [{"id": "a", "tool": "t", "timeout_s": -1}]}, "greater than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_playbooks_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        make(**changes)
    assert says in str(wrong.value)


@tool(effect="read")
def get_order(order_id: int) -> dict[str, Any]:
    """Look up."""
    return {}


@tool(effect="write", idempotency="natural")
def refund_order(order_id: int, amount: Money) -> dict[str, Any]:
    """Refund."""
    return {}


@tool(effect="write", idempotency="natural", permission="admin")
def close(id: int, why: str) -> dict[str, Any]:
    """Close."""
    return {}


@tool(effect="write", idempotency="natural")
def send(to: str, text: str, tags: list[str]) -> None:
    """Send."""


CONTRACTS = {
    function.__name__: to_proto(function.__handrail_tool__.contract)  # type: ignore[attr-defined]
    for function in (get_order, refund_order, close, send)
}


def test_check_passes_a_sound_playbook() -> None:
    assert playbook.check(make(), CONTRACTS) == []


def test_check_finds_what_the_contracts_do_not_allow() -> None:
    wrong = make(
        slots={**REFUND["slots"], "order": {"type": "word"}},
        steps=[
            {"id": "a", "tool": "get_ordr", "with": {"order_id": "{order}"}},
            {"id": "b", "tool": "get_order", "with": {"order_id": "{order}"}},
            {"id": "c", "tool": "get_order", "with": {"order_id": "$goal.later", "more": 1}, "when": "d.x"},
        ],
    )
    found = [(v.field, v.code) for v in playbook.check(wrong, CONTRACTS)]
    assert found == [
        ("steps[0].tool", "unknown_tool"),
        ("steps[1].arguments.order_id", "mistyped_argument"),
        ("steps[2].when", "bad_condition"),
        ("steps[2].arguments.more", "unknown_argument"),
    ]


def test_a_sample_out_of_range_is_no_fault_of_the_playbook() -> None:
    order_id = {"type": "integer", "minimum": 1000}
    schema = {"type": "object", "properties": {"order_id": order_id}, "required": ["order_id"]}
    contracts = {**CONTRACTS, "get_order": to_proto(get_order.__handrail_tool__.contract)}  # type: ignore[attr-defined]
    contracts["get_order"].input_schema = values.encode(schema)
    assert playbook.check(make(), contracts) == []
    fixed = make(steps=[{"id": "a", "tool": "get_order", "with": {"order_id": 5}}])
    assert [v.code for v in playbook.check(fixed, contracts)] == ["bad_argument"]
