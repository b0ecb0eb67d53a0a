"""Messages as plain JSON, as somebody reads them who knows no protobuf; what names itself a secret is masked.

A value stands as it is (a large one by its digest and size), a time as a text in UTC, a duration in seconds
under a name that says so, a choice as a lower-case word. What was not set is left out.
"""

from __future__ import annotations

import hashlib
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from core import values
from core.redaction import MASK, is_secret_name, masked_field, masked_json
from handrail.v1 import plan_pb2, tool_pb2
from handrail.v1.trajectory_pb2 import FilledArgument

QUOTING = frozenset({"observed", "message"})
"""Fields of messages that quote what was read."""


def fields(message: Message, name: str = "") -> dict[str, Any]:
    """Return what a message says, by the names of its fields; `name` is that of the value it may hold."""
    found: dict[str, Any] = {}
    for field, held in message.ListFields():
        key = f"{field.name}_s" if _is(field, "Duration") else field.name
        # The constant of an argument has the argument's name, and so has what a model filled in.
        named = field.name == "constant" or (field.name == "value" and isinstance(message, FilledArgument))
        found[key] = _field(field, held, name if named else field.name)
    return found


def value(held: plan_pb2.Value, name: str = "") -> Any:
    """Return what a value is, unless the name of what holds it says that it is secret."""
    if held.WhichOneof("kind") == "blob":
        blob = {"sha256": held.blob.sha256, "size_bytes": held.blob.size_bytes}
        return MASK if is_secret_name(name) else {"blob": blob}
    try:
        return masked_field(name, values.load(held, {}))
    except values.BadValue:
        return MASK if is_secret_name(name) else masked_json(held.json)


def fingerprint(contract: tool_pb2.ToolContract) -> str:
    """Return the SHA-256 of a contract's canonical JSON: another one is another version of the tool."""
    said = MessageToDict(contract, preserving_proto_field_name=True)
    return hashlib.sha256(values.encode(said).encode()).hexdigest()


def word(enum: EnumDescriptor, number: int) -> str:
    """Return a choice as a word: GATE_OUTCOME_APPROVED is "approved"."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(prefix).lower() if known is not None else str(number)


def _field(field: FieldDescriptor, held: Any, name: str) -> Any:
    if _is_map(field):
        assert field.message_type is not None
        inner = field.message_type.fields_by_name["value"]
        return {key: _one(inner, held[key], key) for key in sorted(held)}
    if field.is_repeated:
        return [_one(field, item, name) for item in held]
    return _one(field, held, name)


def _one(field: FieldDescriptor, held: Any, name: str) -> Any:
    if isinstance(held, plan_pb2.Value):
        return value(held, name)
    if _is(field, "Duration"):
        return held.ToNanoseconds() / 1e9
    if _is(field, "Timestamp"):
        return _moment(held)
    if isinstance(held, Message):
        return fields(held, name)
    if field.enum_type is not None:
        return word(field.enum_type, held)
    if isinstance(held, bytes):
        return held.hex()
    return masked_json(held) if name in QUOTING and isinstance(held, str) else held


def _moment(held: Timestamp) -> str:
    try:
        return held.ToJsonString()
    except ValueError:
        # What a stranger wrote may lie beyond all calendars.
        return f"{held.seconds} s"


def _is(field: FieldDescriptor, name: str) -> bool:
    return field.message_type is not None and field.message_type.full_name == f"google.protobuf.{name}"


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
