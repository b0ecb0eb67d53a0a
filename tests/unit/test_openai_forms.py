"""Schemas as an endpoint takes them, and what becomes of the nulls that come back."""

from __future__ import annotations

from typing import Any

import pytest

from actors.models.openai.forms import REFERENCE, Form, without_nulls
from core.schemas import Node
from tests.openai_endpoint import _not_strict

NULL = {"type": "null"}
ITEM = {
    "type": "object",
    "properties": {"sku": {"type": "string", "maxLength": 9}, "note": {"type": "string", "default": ""}},
    "required": ["sku"],
}
DEFS = {"$defs": {"Item": ITEM, "Tree": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Tree"}}}}}


def of(part: Any, *, refers: bool = False) -> tuple[Any, bool]:
    form = Form()
    form.add("x", part, DEFS, refers=refers)
    if form.strict:
        assert not list(_not_strict("x", form.tool("t", "")["function"]["parameters"]))
    return form.properties["x"], form.strict


@pytest.mark.parametrize(
    ("part", "form"),
    [
        ({"type": "string", "pattern": "^a+$", "title": "X"}, {"type": ["string", "null"]}),
        ({"type": "integer", "minimum": 1, "default": 2}, {"type": ["integer", "null"], "minimum": 1}),
        ({"enum": ["a", "b"]}, {"anyOf": [{"enum": ["a", "b"]}, NULL]}),
        ({"const": "a", "type": "string"}, {"anyOf": [{"enum": ["a"], "type": "string"}, NULL]}),
        ({"anyOf": [{"type": "integer"}, NULL]}, {"anyOf": [{"type": "integer"}, NULL]}),
        ({"type": ["integer", "null"]}, {"anyOf": [{"type": ["integer", "null"]}, NULL]}),
    ],
)
def test_what_can_be_said_strictly_is(part: Any, form: Any) -> None:
    assert of(part) == (form, True)


def test_references_are_written_out_and_objects_are_closed() -> None:
    form, strict = of({"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 3})
    assert strict
    assert form["items"] == {
        "type": "object",
        "properties": {"sku": {"type": "string"}, "note": {"anyOf": [{"type": "string"}, NULL]}},
        "required": ["sku", "note"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "part",
    [
        True,
        {},
        {"type": "object"},
        {"allOf": [{"type": "string"}]},
        {"$ref": "#/$defs/Tree"},
        {"$ref": "#/$defs/No"},
        {"type": "object", "additionalProperties": {"type": "string"}, "properties": {"a": True}},
    ],
)
def test_what_cannot_is_not_said_to_be(part: Any) -> None:
    assert not of(part)[1]


@pytest.mark.parametrize("part", [{"type": "integer"}, {"type": "string", "format": "date"}, {"enum": ["a"]}])
def test_what_is_no_plain_text_may_be_a_reference_too(part: Any) -> None:
    assert REFERENCE in of(part, refers=True)[0]["anyOf"]
    assert of({"type": "string"}, refers=True) == ({"type": ["string", "null"]}, True)


@pytest.mark.parametrize(
    ("value", "part", "kept"),
    [
        ({"sku": "a", "note": None}, ITEM, {"sku": "a"}),
        ({"sku": None, "note": "x"}, ITEM, {"sku": None, "note": "x"}),
        ([{"sku": "a", "note": None}], {"type": "array", "items": {"$ref": "#/$defs/Item"}}, [{"sku": "a"}]),
        ({"sku": "a", "note": None}, {"anyOf": [{"$ref": "#/$defs/Item"}, NULL]}, {"sku": "a"}),
        ([None, 1], {"type": "array"}, [None, 1]),
        ({"more": {"x": None}}, True, {"more": {"x": None}}),
        ("text", ITEM, "text"),
    ],
)
def test_a_null_that_stands_for_nothing_is_left_out(value: Any, part: Any, kept: Any) -> None:
    assert without_nulls(value, (Node(part, DEFS),)) == kept
