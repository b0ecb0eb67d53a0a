"""Tool contracts: both forms say the same, and contradictions are found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import contracts
from core.contracts import BadContract, check, check_tools, from_proto, to_proto
from handrail.tool import Contract, Money, ReadCall, Tool, call, collect, tool
from handrail.v1 import tool_pb2

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCHEMA = st.dictionaries(TEXT, TEXT | st.integers() | st.lists(TEXT, max_size=3), max_size=4)
CONTRACTS = st.builds(
    Contract,
    name=st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True),
    toolbox=TEXT,
    description=TEXT,
    input_schema=SCHEMA,
    output_schema=SCHEMA,
    effect=st.sampled_from(["read", "draft", "write", "irreversible"]),
    permission=st.sampled_from(["read", "draft", "recommend", "execute", "approve", "delete", "admin"]),
    idempotency=st.sampled_from(["natural", "keyed", "none"]),
    key_parameter=TEXT,
    readback=TEXT,
    settle_s=st.floats(0, 3600),
    undo=TEXT,
    undo_arguments=st.dictionaries(TEXT, TEXT, max_size=2),
    reads=st.lists(
        st.builds(ReadCall, name=TEXT, tool=TEXT, arguments=st.dictionaries(TEXT, TEXT, max_size=2)),
        max_size=2,
    ).map(tuple),
    pre=TEXT,
    post=TEXT,
    critical=st.lists(TEXT, max_size=3).map(tuple),
    timeout_s=st.floats(0, 3600, exclude_min=True),
    retry=st.sampled_from(["transient", "permanent"]),
    capability=TEXT,
    doubt=st.booleans(),
)


@given(CONTRACTS)
def test_every_field_crosses_both_ways(contract: Contract) -> None:
    message = to_proto(contract)
    assert from_proto(message) == contract
    assert tool_pb2.ToolContract.FromString(message.SerializeToString()) == message


def test_both_forms_have_the_same_fields() -> None:
    assert {field.name for field in tool_pb2.ToolContract.DESCRIPTOR.fields} == set(Contract.model_fields)
    assert {field.name for field in tool_pb2.ReadCall.DESCRIPTOR.fields} == set(ReadCall.model_fields)


@pytest.mark.parametrize(
    "change",
    [
        {"input_schema": "{"},
        {"output_schema": "[]"},
        {"effect": 0},
        {"effect": 99},
        {"permission": 0},
        {"retry": "often"},
        {"timeout_s": -1.0},
        {"settle_s": float("nan")},
        {"name": "No"},
    ],
    ids=str,
)
def test_a_message_that_is_no_contract_is_refused(change: dict[str, Any]) -> None:
    message = to_proto(contract_of(get_order))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(BadContract, match="cannot be read"):
        from_proto(message)


@tool(effect="read")
def get_order(order_id: int) -> dict[str, Any]:
    """Look an order up."""
    return {}


@tool(effect="read")
def find_refund(key: str) -> bool | None:
    """Say whether a refund happened."""
    return None


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="find_refund",
    settle_s=1.0,
    undo=call("cancel_refund", order_id="args.order_id"),
    reads={"order": call("get_order", order_id="args.order_id")},
    pre="reads.order.total > args.amount.minor",
    post="output.refunded && reads.order.id == args.order_id",
    critical=["order_id", "amount"],
)
def refund_order(order_id: int, amount: Money, key: str) -> dict[str, Any]:
    """Refund."""
    return {}


@tool(effect="write", idempotency="natural")
def cancel_refund(order_id: int) -> None:
    """Take a refund back."""


SOUND = [get_order, find_refund, refund_order, cancel_refund]


def tool_of(function: Any) -> Tool:
    found: Tool = function.__handrail_tool__
    return found


def contract_of(function: Any) -> Contract:
    return tool_of(function).contract


def codes(**changes: Any) -> set[tuple[str, str]]:
    """Check the sound tools with one of them changed."""
    name = changes.pop("of", "refund_order")
    known = {f.__name__: contract_of(f) for f in SOUND}
    known[name] = known[name].model_copy(update=changes)
    return {(v.field, v.code) for v in check(list(known.values()))}


def test_sound_contracts_pass() -> None:
    assert check([contract_of(f) for f in SOUND]) == []
    assert check_tools([tool_of(f) for f in SOUND]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"key_parameter": ""}, ("refund_order.key", "key_missing")),
        (
            {"idempotency": "natural", "readback": "", "settle_s": 0},
            ("refund_order.key", "key_unused"),
        ),
        ({"key_parameter": "order_id"}, ("refund_order.key", "key_exposed")),
        ({"undo": "cancel_refnd"}, ("refund_order.undo", "unknown_tool")),
        ({"undo": "get_order"}, ("refund_order.undo", "bad_undo")),
        ({"undo_arguments": {}}, ("refund_order.undo", "bad_undo")),
        ({"undo_arguments": {"order": "args.order_id"}}, ("refund_order.undo", "bad_undo")),
        ({"undo_arguments": {"order_id": "args.ordr"}}, ("refund_order.undo.order_id", "bad_condition")),
        ({"undo_arguments": {"order_id": "reads.ordr.id"}}, ("refund_order.undo.order_id", "bad_condition")),
        ({"effect": "irreversible"}, ("refund_order.undo", "bad_undo")),
        ({"readback": "nothing"}, ("refund_order.readback", "unknown_tool")),
        ({"readback": "get_order"}, ("refund_order.readback", "bad_readback")),
        ({"readback": "cancel_refund"}, ("refund_order.readback", "bad_readback")),
        ({"readback": ""}, ("refund_order.settle_s", "settle_unused")),
        ({"pre": "reads.order.total >"}, ("refund_order.pre", "bad_condition")),
        ({"pre": "output.ok"}, ("refund_order.pre", "bad_condition")),
        ({"pre": "args.amonut.minor > 0"}, ("refund_order.pre", "bad_condition")),
        ({"post": "reads.oder.id == 1"}, ("refund_order.post", "bad_condition")),
        ({"post": "result.ok"}, ("refund_order.post", "bad_condition")),
        ({"post": "now() > 1"}, ("refund_order.post", "bad_condition")),
        ({"critical": ("amuont",)}, ("refund_order.critical", "unknown_critical")),
        (
            {"idempotency": "none", "key_parameter": "", "readback": "", "settle_s": 0},
            ("refund_order.idempotency", "unsafe_repeat"),
        ),
        ({"permission": "recommend"}, ("refund_order.permission", "permission_too_low")),
        ({"effect": "read"}, ("refund_order.undo", "bad_effect")),
        ({"effect": "read"}, ("refund_order.readback", "bad_effect")),
        ({"effect": "read"}, ("refund_order.key", "bad_effect")),
        ({"effect": "read"}, ("refund_order.idempotency", "bad_effect")),
        ({"timeout_s": 0.0}, ("refund_order.timeout_s", "bad_timeout")),
        ({"timeout_s": float("nan")}, ("refund_order.timeout_s", "bad_timeout")),
        ({"settle_s": -1.0}, ("refund_order.settle_s", "bad_timeout")),
        ({"input_schema": {"type": 5}}, ("refund_order.input_schema", "bad_schema")),
        ({"output_schema": {"$ref": "#/$defs/Gone"}}, ("refund_order.output_schema", "bad_schema")),
        ({"output_schema": {"$ref": "https://example.com/x"}}, ("refund_order.output_schema", "bad_schema")),
    ],
    ids=str,
)
def test_contradictions_are_found(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert expected in codes(**changes)


@pytest.mark.parametrize(
    ("read", "field", "code"),
    [
        (ReadCall(name="order", tool="get_ordr", arguments={}), "reads.order", "unknown_tool"),
        (
            ReadCall(name="order", tool="cancel_refund", arguments={"order_id": "1"}),
            "reads.order",
            "bad_read",
        ),
        (ReadCall(name="order", tool="get_order", arguments={}), "reads.order", "bad_read"),
        (
            ReadCall(name="order", tool="get_order", arguments={"id": "1", "order_id": "1"}),
            "reads.order",
            "bad_read",
        ),
        (
            ReadCall(name="order", tool="get_order", arguments={"order_id": "args."}),
            "reads.order.order_id",
            "bad_condition",
        ),
        (
            ReadCall(name="order", tool="get_order", arguments={"order_id": "reads.x"}),
            "reads.order.order_id",
            "bad_condition",
        ),
        (ReadCall(name="Order!", tool="get_order", arguments={"order_id": "1"}), "reads.Order!", "bad_read"),
    ],
    ids=str,
)
def test_read_calls_are_checked(read: ReadCall, field: str, code: str) -> None:
    assert (f"refund_order.{field}", code) in codes(reads=(read,))


def test_what_a_tool_reads_needs_no_more_than_the_tool() -> None:
    def found(permission: str) -> set[tuple[str, str]]:
        secret = [
            contract_of(f).model_copy(update={"permission": permission}) for f in (get_order, find_refund)
        ]
        return {(v.field, v.code) for v in check([*secret, *map(contract_of, (refund_order, cancel_refund))])}

    assert found("execute") == set()
    assert found("approve") == {
        ("refund_order.reads.order", "bad_read"),
        ("refund_order.readback", "bad_readback"),
    }


def test_what_undo_reads_can_be_read_before_the_action() -> None:
    def found(argument: str, toolbox: str = "") -> set[tuple[str, str]]:
        read = ReadCall(name="order", tool="get_order", arguments={"order_id": argument})
        known = [contract_of(f) for f in SOUND if f is not refund_order]
        changed = {"pre": "", "reads": (read,), "undo_arguments": {"order_id": "reads.order.id"}}
        acting = contract_of(refund_order).model_copy(update={**changed, "toolbox": toolbox})
        return {(v.field, v.code) for v in check([*known, acting])}

    assert found("args.order_id") == set()
    assert found("output.id") == {("refund_order.undo", "bad_undo")}
    assert found("args.order_id", toolbox="far") == {("refund_order.undo", "bad_undo")}


def test_a_tool_can_be_its_own_undo() -> None:
    as_it_was = {
        "undo": "refund_order",
        "undo_arguments": {"order_id": "args.order_id", "amount": "args.amount"},
    }
    assert codes(**as_it_was) == set()


def test_a_doubt_may_be_declared_instead() -> None:
    bare = {"idempotency": "none", "key_parameter": "", "readback": "", "settle_s": 0.0}
    assert codes(**bare, doubt=True) == set()


def test_a_name_given_twice_is_found() -> None:
    found = check([contract_of(get_order), contract_of(get_order)])
    assert [(v.field, v.code) for v in found] == [("get_order.name", "duplicate_tool")]


def test_a_key_that_is_no_parameter_is_found_with_the_nearest() -> None:
    @tool(effect="write", idempotency="keyed", key="kee")
    def act(key: str) -> None:
        """Act."""

    found = [v for v in check_tools([tool_of(act)]) if v.code == "key_unknown"]
    assert [v.field for v in found] == ["act.key"]
    assert "did you mean 'key'?" in found[0].message


def test_the_number_of_violations_is_bounded() -> None:
    broken = contract_of(refund_order).model_copy(update={"permission": "read", "undo": "x", "post": "x"})
    assert len(check([broken] * 200)) == contracts.MAX_CONTRACT_VIOLATIONS


def test_collect_finds_what_a_module_defines() -> None:
    import sys

    names = [found.contract.name for found in collect(sys.modules[__name__])]
    assert names == ["get_order", "find_refund", "refund_order", "cancel_refund"]


def test_what_pre_reads_is_in_the_same_toolbox() -> None:
    def named(name: str, toolbox: str, **fields: Any) -> Contract:
        base = {
            "input_schema": {"type": "object"},
            "output_schema": {},
            "effect": "read",
            "permission": "read",
        }
        return Contract(name=name, toolbox=toolbox, **{**base, "idempotency": "natural", **fields})

    reads = (ReadCall(name="x", tool="look"),)
    act = named("act", "a", effect="write", permission="execute", reads=reads, pre="reads.x == 1")
    assert [v.code for v in check([act, named("look", "b")])] == ["bad_read"]
    assert check([act, named("look", "a")]) == []
