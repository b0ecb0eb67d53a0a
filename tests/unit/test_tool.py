"""`@tool`: what a typed function becomes."""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from handrail.tool import Money, Tool, call, remaining_s, set_deadline, source_digest, tool


class Line(BaseModel):
    sku: str
    count: Annotated[int, Field(gt=0)]


class Colour(enum.Enum):
    RED = "red"


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    reads={"order": call("get_order", order_id="args.order_id")},
    critical=["amount"],
    timeout_s=5,
)
async def refund(
    order_id: int,
    amount: Money,
    key: str,
    reason: Literal["broken", "late"] = "late",
    lines: list[Line] | None = None,
    colour: Colour = Colour.RED,
) -> dict[str, Money]:
    """Refund an order."""
    return {"refunded": amount}


def of(function: Any) -> Tool:
    found: Tool = function.__handrail_tool__
    return found


def test_the_function_stays_as_it_is() -> None:
    coroutine = refund(1, Money(minor=1, currency="EUR"), "k")
    with pytest.raises(StopIteration) as returned:
        coroutine.send(None)
    assert returned.value.value == {"refunded": Money(minor=1, currency="EUR")}


def test_the_contract_comes_from_the_signature() -> None:
    contract = of(refund).contract
    assert (contract.name, contract.description) == ("refund", "Refund an order.")
    assert (contract.permission, contract.timeout_s, contract.retry) == ("execute", 5.0, "permanent")
    assert contract.reads[0].arguments == {"order_id": "args.order_id"}
    schema = contract.input_schema
    assert schema["required"] == ["order_id", "amount"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == ["order_id", "amount", "reason", "lines", "colour"]
    assert contract.output_schema["additionalProperties"] == {"$ref": "#/$defs/Money"}


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"order_id": "1"}, "order_id"),
        ({"order_id": 1.5}, "order_id"),
        ({"order_id": True}, "order_id"),
        ({"amount": {"minor": 1.0, "currency": "EUR"}}, "amount"),
        ({"amount": {"minor": 1, "currency": "eur"}}, "amount"),
        ({"amount": {"minor": 1, "currency": "EUR", "more": 1}}, "amount"),
        ({"reason": "other"}, "reason"),
        ({"lines": [{"sku": "a", "count": 0}]}, "lines"),
        ({"key": "mine"}, "key"),
    ],
    ids=str,
)
def test_arguments_are_strict(arguments: dict[str, Any], where: str) -> None:
    right = {"order_id": 1, "amount": {"minor": 1, "currency": "EUR"}}
    of(refund).arguments.model_validate({**right})
    with pytest.raises(ValidationError) as wrong:
        of(refund).arguments.model_validate({**right, **arguments})
    assert wrong.value.errors()[0]["loc"][0] == where


def test_defaults_by_effect() -> None:
    @tool(effect="read")
    def look() -> int:
        return 1

    @tool(effect="draft", doubt=True)
    def draft() -> int:
        return 1

    assert (of(look).contract.permission, of(look).contract.idempotency) == ("read", "natural")
    assert (of(draft).contract.permission, of(draft).contract.idempotency) == ("draft", "none")
    assert not of(look).contract.has_effect
    assert of(draft).contract.has_effect


def test_signatures_that_no_plan_can_fill_are_refused() -> None:
    def star(*args: int) -> None: ...
    def stars(**more: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def untyped(a) -> None: ...  # type: ignore[no-untyped-def]

    for function in (star, stars, positional, untyped):
        with pytest.raises(TypeError, match="parameter"):
            tool(effect="read")(function)


def test_parameters_may_be_called_like_methods_of_a_model() -> None:
    @tool(effect="read")
    def odd(copy: int, json: int, schema: int, model_id: int) -> int:
        return copy

    assert list(of(odd).contract.input_schema["properties"]) == ["copy", "json", "schema", "model_id"]
    assert of(odd).arguments.model_validate({"copy": 1, "json": 2, "schema": 3, "model_id": 4})


def test_a_tool_knows_the_file_that_it_was_imported_from(tmp_path: Path) -> None:
    assert of(refund).source_sha256 == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    text = "from handrail.tool import tool\n@tool(effect='read')\ndef look(a: int) -> int:\n    return a\n"
    file = tmp_path / "looks.py"

    def imported() -> str:
        spec = importlib.util.spec_from_file_location("looks", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return of(module.look).source_sha256

    found = []
    for written in (text, text + "# other\n"):
        file.write_text(written)
        found.append((imported(), hashlib.sha256(written.encode()).hexdigest()))
    assert all(one == other for one, other in found)
    assert found[0] != found[1]


def test_what_is_in_no_file_has_no_digest() -> None:
    scope: dict[str, Any] = {}
    exec("def look(a: int) -> int: return a", scope)
    assert source_digest(scope["look"]) == ""
    assert of(tool(effect="read")(scope["look"])).source_sha256 == ""
    assert source_digest(len) == source_digest(functools.partial(print)) == ""
    # Of what wraps it as it should the file is that of what is wrapped.
    wrapped = functools.wraps(refund)(scope["look"])
    assert source_digest(wrapped) == of(refund).source_sha256


def test_a_toolbox_is_joined_by_a_copy() -> None:
    joined = of(refund).with_toolbox("shop")
    assert joined.source_sha256 == of(refund).source_sha256
    assert (joined.contract.toolbox, of(refund).contract.toolbox) == ("shop", "")
    assert joined.function is refund


def test_the_deadline_is_what_was_set() -> None:
    import contextvars

    def look() -> float | None:
        set_deadline(5.0)
        return remaining_s()

    left = contextvars.copy_context().run(look)
    assert left is not None
    assert 0 < left <= 5.0
    assert remaining_s() is None
