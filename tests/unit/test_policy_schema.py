"""What rules can see of a tool: types of arguments, values put into them, the schema of requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cedarpy import Schema
from hypothesis import given
from hypothesis import strategies as st

from core import cedar_fit, cedar_schema, values
from core.cedar_schema import Unholdable, arguments_of, hold, schema_of
from handrail.v1 import tool_pb2
from tests.unit.policies import TOOLS

MONEY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"minor": {"type": "integer"}, "currency": {"type": "string"}},
    "required": ["minor", "currency"],
}
MONEY_TYPE = {"minor": "Long", "currency": "String"}
NULL = {"type": "null"}


def seen(properties: dict[str, Any], *required: str, **more: Any) -> cedar_schema.Arguments:
    schema = {"type": "object", "properties": properties, "required": list(required), **more}
    return arguments_of(values.encode(schema))


def short(shape: cedar_schema.Shape) -> Any:
    if isinstance(shape, cedar_schema.Record):
        return {name + "?" * field.optional: short(field.shape) for name, field in shape.fields.items()}
    return shape.kind if isinstance(shape, cedar_schema.Scalar) else [short(shape.element)]


@pytest.mark.parametrize(
    ("part", "required", "shape"),
    [
        ({"type": "string", "maxLength": 3}, True, {"x": "String"}),
        ({"type": "integer"}, True, {"x": "Long"}),
        ({"type": "boolean"}, False, {"x?": "Boolean"}),
        ({"type": "boolean", "default": False}, False, {"x": "Boolean"}),
        ({"type": "boolean", "default": None}, False, {"x?": "Boolean"}),
        ({"enum": ["a", "b"]}, True, {"x": "String"}),
        ({"const": 3}, True, {"x": "Long"}),
        ({"enum": ["a", None]}, True, {"x?": "String"}),
        ({"type": ["integer", "null"]}, True, {"x?": "Long"}),
        ({"anyOf": [{"type": "integer"}, NULL], "default": 5}, False, {"x?": "Long"}),
        ({"anyOf": [{"enum": ["a"]}, {"type": "string"}]}, True, {"x": "String"}),
        ({"type": "array", "items": {"type": "string"}}, True, {"x": ["String"]}),
        ({"$ref": "#/$defs/Money"}, True, {"x": MONEY_TYPE}),
        ({"anyOf": [{"$ref": "#/$defs/Money"}, NULL], "default": None}, False, {"x?": MONEY_TYPE}),
        ({"type": "object", "properties": {"a": MONEY, "b": NULL}}, True, "is never anything but null"),
        ({"type": "object", "properties": {"a": MONEY}, "required": ["a"]}, True, {"x": {"a": MONEY_TYPE}}),
        ({"type": "number"}, True, "is a number with a fraction"),
        ({"const": 1.5}, True, "is a number with a fraction"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, True, "without fixed members"),
        ({"type": "array", "items": MONEY}, True, "is a list of more than"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, True, "is a list of more than"),
        ({"type": "array"}, True, "can be anything"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, True, "of a kind that rules do not have"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, True, "can be of more than one type"),
        ({}, True, "can be anything"),
        (True, True, "can be anything"),
        ({"$ref": "#/$defs/Tree"}, True, "is nested too deep, or without end"),
    ],
)
def test_types_of_arguments(part: Any, required: bool, shape: Any) -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Tree"}}}
    found = seen({"x": part}, *(["x"] if required else []), **{"$defs": {"Money": MONEY, "Tree": tree}})
    if isinstance(shape, str):
        assert not found.record.fields
        assert shape in found.left_out["x"]
    else:
        assert short(found.record) == shape
        Schema.from_json_str(json.dumps(schema_of([tool_pb2.ToolContract(name="t", permission=1)])))


def test_a_name_that_means_something_to_the_engine_is_left_out() -> None:
    found = seen({"__entity": {"type": "string"}, "in": {"type": "string"}, "a b": {"type": "string"}})
    assert set(found.record.fields) == {"in", "a b"}


def test_money_is_known_by_its_members() -> None:
    loose = {**MONEY, "required": ["minor"]}
    found = seen({"a": MONEY, "b": loose, "c": {"anyOf": [MONEY, NULL]}, "d": {"type": "integer"}})
    assert found.money == {"a", "c"}


@pytest.mark.parametrize(
    ("part", "value", "held"),
    [
        ({"type": "integer"}, 2**63 - 1, 2**63 - 1),
        ({"type": "integer"}, 2**63, "more than 64 bits"),
        ({"type": "integer"}, -(2**63) - 1, "more than 64 bits"),
        ({"type": "integer"}, True, "is no Long"),
        ({"type": "integer"}, 1.0, "is no Long"),
        ({"type": "boolean"}, 1, "is no Boolean"),
        ({"type": "string"}, {"__entity": {"type": "User", "id": "root"}}, "is no String"),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2**63], "more than 64 bits"),
        ({"type": "array", "items": {"type": "integer"}}, "12", "is no list"),
        (MONEY, {"minor": 1, "currency": "EUR", "__extn": 3}, {"minor": 1, "currency": "EUR"}),
        (MONEY, {"minor": 1}, "is missing"),
        (MONEY, [1], "is no object"),
        (MONEY, None, "is missing"),
    ],
)
def test_values_are_put_into_their_types(part: Any, value: Any, held: Any) -> None:
    field = seen({"x": part}, "x").record.fields["x"]
    if isinstance(held, str):
        with pytest.raises(Unholdable, match=held):
            hold(field, {"x": value}, "x")
    else:
        assert hold(field, {"x": value}, "x") == held


def test_defaults_are_filled_in_and_null_is_absence() -> None:
    nested = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}
    five = {"anyOf": [{"type": "integer"}, NULL], "default": 5}
    fields = seen({"a": five, "b": nested, "c": {"type": "string"}}, "b").record.fields
    assert hold(fields["a"], {}, "a") == 5
    assert hold(fields["a"], {"a": None}, "a") is None
    assert hold(fields["b"], {"b": {}}, "b") == {"n": 3}
    assert hold(fields["c"], {}, "c") is None


def test_where_no_tool_is_named_arguments_are_of_all_tools_and_optional() -> None:
    found = cedar_schema.arguments_of_all(TOOLS.values())
    assert all(field.optional for field in found.record.fields.values())
    assert {"order_id", "amount", "to", "invoice_id"} <= set(found.record.fields)
    other = tool_pb2.ToolContract(name="other")
    other.input_schema = values.encode({"properties": {"order_id": {"type": "string"}}})
    found = cedar_schema.arguments_of_all([*TOOLS.values(), other])
    assert found.left_out["order_id"] == "is of another type in another tool"
    assert "order_id" not in found.record.fields


def test_the_schema_has_every_tool_in_its_groups() -> None:
    text = str(cedar_fit.compile_schema(list(TOOLS.values())))
    groups = '["execute", "at_most_execute", "at_most_approve", "at_most_delete", "at_most_admin"]'
    named = ", ".join(f'Action::"{group}"' for group in json.loads(groups))
    assert f'action "refund" in [{named}] appliesTo' in text
    assert "no tool of level" not in text
    assert 'action "no tool of level admin"' in str(
        cedar_fit.compile_schema(list(TOOLS.values()), complete=True)
    )


def test_levels_and_attributes() -> None:
    assert cedar_schema.LEVELS[tool_pb2.PERMISSION_EXECUTE - 1] == "execute"
    assert cedar_schema.level_of(tool_pb2.ToolContract()) == "admin"
    assert cedar_schema.attributes_of(TOOLS["send"]) == {
        "effect": "irreversible",
        "permission": "execute",
        "idempotency": "natural",
        "capability": "mail",
        "undoable": False,
        "doubt": False,
        "critical": ["to"],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["minor", "currency", "__entity", "__extn", "type"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(TOOLS)), data=st.data())
def test_whatever_is_held_is_of_its_type(name: str, data: st.DataObject) -> None:
    for argument, field in arguments_of(TOOLS[name].input_schema).record.fields.items():
        try:
            held = hold(field, {argument: data.draw(JSON)}, argument)
        except Unholdable:
            continue
        assert held is None or fits(field.shape, held)


def fits(shape: cedar_schema.Shape, held: Any) -> bool:
    if isinstance(shape, cedar_schema.Record):
        return set(held) <= set(shape.fields) and all(
            fits(shape.fields[name].shape, value) for name, value in held.items()
        )
    if isinstance(shape, cedar_schema.SetOf):
        return all(fits(shape.element, item) for item in held)
    return type(held) is {"String": str, "Long": int, "Boolean": bool}[shape.kind]
