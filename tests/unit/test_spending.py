"""Spending: what an action comes to is what the tool acts with, and nothing of it is missed."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, StringConstraints

from core import conformance
from core.spending import MAX_AMOUNT_BYTES, amounts_in, uncountable
from handrail.tool import Money, tool
from handrail.v1 import tool_pb2
from tests.unit.policies import contract_of

FIVE = {"minor": 500, "currency": "EUR"}
MONEY = {"type": "object", "properties": {"minor": {"type": "integer"}, "currency": {"type": "string"}}}


@tool(effect="write", idempotency="natural")
def tip(to: str, amount: Money = Money(minor=500, currency="EUR"), fee: Money | None = None) -> int:
    return 1


class Payment(BaseModel):
    to: str
    amount: Money
    parts: list[Payment] = []


@tool(effect="write", idempotency="natural")
def pay_all(payments: list[Payment], fees: dict[str, Money] | None = None) -> int:
    return 1


TIP = contract_of(tip)
PAY_ALL = contract_of(pay_all)


def contract(**properties: Any) -> tool_pb2.ToolContract:
    schema = {"type": "object", "properties": properties}
    return tool_pb2.ToolContract(name="pay", effect=tool_pb2.EFFECT_WRITE, input_schema=json.dumps(schema))


@pytest.mark.parametrize(
    ("arguments", "minor"),
    [
        ({"to": "ada"}, 500),
        ({"to": "ada", "amount": {"minor": 700, "currency": "EUR"}}, 700),
        ({"to": "ada", "fee": FIVE}, 1_000),
        ({"to": "ada", "fee": None}, 500),
    ],
)
def test_a_default_is_spent_like_any_other_amount(arguments: dict[str, Any], minor: int) -> None:
    assert not conformance.check_arguments(TIP, arguments)
    assert amounts_in(TIP, arguments) == Counter(EUR=minor)


@pytest.mark.parametrize(
    ("arguments", "minor"),
    [
        ({"payments": [{"to": "ada", "amount": FIVE}] * 3}, 1_500),
        ({"payments": [], "fees": {"a": FIVE, "b": FIVE}}, 1_000),
        ({"payments": [{"to": "ada", "amount": FIVE, "parts": [{"to": "bo", "amount": FIVE}]}]}, 1_000),
        ({"payments": [{"to": "ada", "amount": {"minor": -7, "currency": "EUR"}}]}, 0),
    ],
)
def test_amounts_within_lists_and_objects_are_spent(arguments: dict[str, Any], minor: int) -> None:
    assert not conformance.check_arguments(PAY_ALL, arguments)
    assert amounts_in(PAY_ALL, arguments) == (Counter(EUR=minor) if minor else Counter())
    assert not uncountable(PAY_ALL, arguments)


def test_amounts_that_would_not_be_counted_are_refused() -> None:
    many = [{"to": "x" * 100, "amount": FIVE}] * 400
    assert "would go uncounted: it has" in uncountable(PAY_ALL, {"payments": many})
    nameless = {"payments": [{"to": "ada", "amount": {"minor": 5}}]}
    assert "names no currency" in uncountable(PAY_ALL, nameless)


def test_a_default_within_an_amount_is_spent_too() -> None:
    money = {
        "type": "object",
        "properties": {
            "minor": {"type": "integer", "default": 900},
            "currency": {"type": "string", "default": "EUR"},
        },
    }
    pay = contract(amount=money)
    assert amounts_in(pay, {"amount": {}}) == Counter(EUR=900)
    assert amounts_in(pay, {"amount": {"minor": 7}}) == Counter(EUR=7)
    assert amounts_in(pay, {"amount": {"minor": 2**70, "currency": "EUR"}}) == Counter(EUR=2**70)


def test_an_amount_that_the_log_would_not_hold_is_not_counted() -> None:
    amount = {"type": "object", "properties": {"minor": {"type": "integer"}, "currency": {"type": "string"}}}
    amount["required"] = ["minor", "currency"]
    pay, padded = contract(amount=amount), {**FIVE, "pad": "x" * MAX_AMOUNT_BYTES}
    assert not conformance.check_arguments(pay, {"amount": padded})
    assert uncountable(pay, {"amount": padded}).startswith("what 'amount' comes to would go uncounted")
    assert uncountable(pay, {"amount": FIVE, "note": "x" * MAX_AMOUNT_BYTES}) == ""


@tool(effect="write", idempotency="natural")
def pay_each(payments: dict[Annotated[str, StringConstraints(pattern="^[a-z]+$")], Money]) -> int:
    return 1


@pytest.mark.parametrize(
    ("payments", "value"),
    [
        ({"type": "object", "patternProperties": {"^[a-z]+$": MONEY}}, {"ada": FIVE}),
        ({"type": "array", "items": {"allOf": [MONEY]}}, [FIVE]),
        ({"type": "array", "contains": MONEY}, [FIVE]),
        ({"type": "object", "if": {"minProperties": 2}, "then": MONEY}, FIVE),
        ({"anyOf": [{"type": "object"}], "properties": {"one": MONEY}}, {"one": FIVE}),
    ],
    ids=["patternProperties", "allOf", "contains", "then", "beside anyOf"],
)
def test_an_amount_is_found_wherever_a_schema_may_state_it(payments: dict[str, Any], value: Any) -> None:
    pay = contract(payments=payments)
    assert not conformance.check_arguments(pay, {"payments": value})
    assert amounts_in(pay, {"payments": value}) == Counter(EUR=500)


def test_amounts_by_a_name_of_a_pattern_are_spent() -> None:
    assert amounts_in(contract_of(pay_each), {"payments": {"ada": FIVE, "bo": FIVE}}) == Counter(EUR=1_000)


@pytest.mark.parametrize("minor", [700.0, 700.5, "700"])
def test_an_amount_that_is_no_whole_number_is_refused_rather_than_forgotten(minor: Any) -> None:
    loose = {"type": "object", "properties": {"minor": {"type": ["number", "string"]}, "currency": {}}}
    pay = contract(payments={"type": "array", "items": loose}, amount=loose)
    arguments = {"payments": [FIVE, {"minor": minor, "currency": "EUR"}]}
    assert not conformance.check_arguments(pay, arguments)
    assert "no whole number" in uncountable(pay, arguments)
    assert "no whole number" in uncountable(pay, {"amount": {"minor": minor, "currency": "EUR"}})
    assert not uncountable(pay, {"amount": FIVE, "payments": [FIVE, {"minor": None, "currency": "EUR"}]})
