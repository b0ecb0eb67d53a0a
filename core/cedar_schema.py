"""What rules can see of a request: the Cedar schema of a project's tools, and values put into its types.

Cedar has text, whole numbers of 64 bits, booleans, sets and records. What an argument holds beyond that
(fractions, maps, alternatives) is left out, and whoever writes a rule is told. A default that a contract
states is filled in, because the tool will act with it: what a rule does not see must not happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, get_args

from core import schemas
from core.errors import HandrailError
from handrail.tool import EffectName, IdempotencyName, PermissionName
from handrail.v1 import tool_pb2

LEVELS: Final[tuple[str, ...]] = get_args(PermissionName)
AT_MOST = "at_most_"
DECIDE = "decide"
GROUPS: Final = frozenset({DECIDE, *LEVELS, *(AT_MOST + level for level in LEVELS)})
# The words that an attribute of a tool is one of.
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "effect": get_args(EffectName),
    "permission": LEVELS,
    "idempotency": get_args(IdempotencyName),
}
MAX_SHAPE_DEPTH = 8
MIN_LONG, MAX_LONG = -(2**63), 2**63 - 1

_STRING, _LONG, _BOOLEAN = {"type": "String"}, {"type": "Long"}, {"type": "Boolean"}
_NAMES = {"type": "Set", "element": _STRING}
_USER = {"type": "Entity", "name": "User"}
_SCALARS = {"string": "String", "integer": "Long", "boolean": "Boolean"}
_PYTHON = {"String": str, "Long": int, "Boolean": bool}
_TOOL: dict[str, Any] = {
    **dict.fromkeys(("effect", "permission", "idempotency", "capability"), _STRING),
    **dict.fromkeys(("undoable", "doubt"), _BOOLEAN),
    "critical": _NAMES,
}
_ABOUT_RUN: dict[str, Any] = {
    "untrusted": _NAMES,
    "actions": _LONG,
    "spent": _LONG,
    "now": {"type": "Extension", "name": "datetime"},
    "leaks": _NAMES,
    "plan": _NAMES,
    "undoing": _BOOLEAN,
}


class Unholdable(HandrailError):
    """A value that the type of its argument cannot hold."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text, a whole number, or true and false."""

    kind: str

    def cedar(self) -> dict[str, Any]:
        """Return the type as a schema writes it."""
        return {"type": self.kind}

    def hold(self, value: Any) -> Any:
        """Return the value, if it is of this type."""
        if type(value) is not _PYTHON[self.kind]:
            raise Unholdable(f"is no {self.kind}")
        if isinstance(value, int) and not MIN_LONG <= value <= MAX_LONG:
            raise Unholdable("is a number of more than 64 bits")
        return value


@dataclass(frozen=True, slots=True)
class SetOf:
    """A list of scalars; neither order nor repetition can be seen."""

    element: Scalar

    def cedar(self) -> dict[str, Any]:
        """Return the type as a schema writes it."""
        return {"type": "Set", "element": self.element.cedar()}

    def hold(self, value: Any) -> Any:
        """Return the values, if each of them is of the type."""
        if not isinstance(value, list):
            raise Unholdable("is no list")
        return [self.element.hold(item) for item in value]


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a record. One that is optional may be absent, or null, which is the same to a rule."""

    shape: Shape
    optional: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class Record:
    """An object with named members; others that it may have cannot be seen."""

    fields: Mapping[str, Field]

    def cedar(self) -> dict[str, Any]:
        """Return the type as a schema writes it."""
        members = {name: {**f.shape.cedar(), "required": not f.optional} for name, f in self.fields.items()}
        return {"type": "Record", "attributes": members}

    def hold(self, value: Any) -> Any:
        """Return the members that rules can see."""
        if not isinstance(value, Mapping):
            raise Unholdable("is no object")
        held = {}
        for name, field in self.fields.items():
            member = hold(field, value, name)
            if member is not None:
                held[name] = member
        return held


Shape = Scalar | SetOf | Record


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a tool as rules see them, and why they do not see the others."""

    record: Record
    left_out: Mapping[str, str]
    # Those that are an amount of money.
    money: frozenset[str]
    # Those that hold amounts somewhere within, with their defaults: no rule sees these, but they are spent.
    within: Mapping[str, Any]


def hold(field: Field, values: Mapping[str, Any], name: str) -> Any:
    """Return a member's value in its type, its default where it is absent, and None where it has none."""
    value = values.get(name, field.default)
    if value is None:
        if not field.optional:
            raise Unholdable("is missing")
        return None
    return field.shape.hold(value)


@lru_cache(maxsize=schemas.CACHED_SCHEMAS)
def arguments_of(input_schema: str) -> Arguments:
    """Return what rules can see of the arguments that a contract's schema describes."""
    schema = schemas.compile_schema(input_schema)
    fields: dict[str, Field] = {}
    left_out: dict[str, str] = {}
    for name, part in schema.properties.items():
        try:
            fields[name] = _field(name, part, schema.document, name in schema.required, 0)
        except Unholdable as error:
            left_out[name] = str(error)
    money = frozenset(name for name, field in fields.items() if _is_money(field.shape))
    within = {
        name: part.get("default")
        for name, part in schema.properties.items()
        if name not in money and _holds_money(part, schema.document)
    }
    return Arguments(
        Record(MappingProxyType(fields)), MappingProxyType(left_out), money, MappingProxyType(within)
    )


def arguments_of_all(contracts: Iterable[tool_pb2.ToolContract]) -> Arguments:
    """Return what can be seen of arguments where the tool is not known: all of them, each optional."""
    fields: dict[str, Field] = {}
    left_out: dict[str, str] = {}
    money: set[str] = set()
    within: dict[str, Any] = {}
    for contract in contracts:
        found = arguments_of(contract.input_schema)
        left_out |= found.left_out
        money |= found.money
        within |= found.within
        for name, field in found.record.fields.items():
            known = fields.setdefault(name, Field(field.shape, optional=True))
            if known.shape != field.shape:
                left_out[name] = "is of another type in another tool"
    for name in left_out:
        fields.pop(name, None)
    return Arguments(Record(fields), left_out, frozenset(money), within)


def amounts_within(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the amounts of money that a value holds, however deep."""
    return (one for one in objects_within(value) if isinstance(one.get("minor"), int))


def objects_within(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that a value holds, itself included, however deep."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from objects_within(inner)


def schema_of(contracts: Iterable[tool_pb2.ToolContract], *, complete: bool = False) -> dict[str, Any]:
    """Return the schema of requests about these tools, in Cedar's JSON form.

    With `complete`, a level that no tool has gets an action too, so that a rule about it can be judged.
    """
    known = list(contracts)
    anything = arguments_of_all(known)
    actions: dict[str, Any] = {group: {} for group in sorted(GROUPS)}
    for contract in known:
        arguments = arguments_of(contract.input_schema).record
        actions[contract.name] = _action(level_of(contract), arguments)
    if complete:
        for level in set(LEVELS).difference(level_of(contract) for contract in known):
            actions[f"no tool of level {level}"] = _action(level, anything.record)
    context = {"arguments": anything.record.cedar(), **_ABOUT_RUN, "requester": _USER, "self": _BOOLEAN}
    actions[DECIDE] = {"appliesTo": _applies(context)}
    entities = {
        "User": {"memberOfTypes": ["Role", "Tenant"]},
        "Role": {},
        "Tenant": {},
        "Tool": {"memberOfTypes": ["Toolbox"], "shape": {"type": "Record", "attributes": _TOOL}},
        "Toolbox": {},
    }
    return {"": {"entityTypes": entities, "actions": actions}}


def groups_of(level: str) -> list[str]:
    """Return the groups of a tool's action: its level, and `at_most_` this level and each above it."""
    return [level, *(AT_MOST + above for above in LEVELS[LEVELS.index(level) :])]


def level_of(contract: tool_pb2.ToolContract) -> str:
    """Return a tool's permission level; one that is not known is the highest."""
    return LEVELS[contract.permission - 1] if 0 < contract.permission <= len(LEVELS) else LEVELS[-1]


def attributes_of(contract: tool_pb2.ToolContract) -> dict[str, Any]:
    """Return what rules can see of a tool."""
    return {
        "effect": _word(tool_pb2.Effect, contract.effect),
        "permission": level_of(contract),
        "idempotency": _word(tool_pb2.Idempotency, contract.idempotency),
        "capability": contract.capability,
        "undoable": bool(contract.undo),
        "doubt": contract.doubt,
        "critical": list(contract.critical),
    }


def _action(level: str, arguments: Record) -> dict[str, Any]:
    context = {"arguments": arguments.cedar(), **_ABOUT_RUN, "approvals": _LONG}
    return {"memberOf": [{"id": group} for group in groups_of(level)], "appliesTo": _applies(context)}


def _applies(context: Mapping[str, Any]) -> dict[str, Any]:
    record = {"type": "Record", "attributes": dict(context)}
    return {"principalTypes": ["User"], "resourceTypes": ["Tool"], "context": record}


def _field(name: str, part: Any, whole: Mapping[str, Any], required: bool, depth: int) -> Field:
    if name.startswith("__"):  # means something of its own where Cedar reads values
        raise Unholdable("has a name that begins with two underscores")
    shape, nullable = _shape(part, whole, depth)
    default = part.get("default") if isinstance(part, dict) else None
    if default is not None:
        shape.hold(default)
    return Field(shape, optional=nullable or (not required and default is None), default=default)


def _shape(part: Any, whole: Mapping[str, Any], depth: int) -> tuple[Shape, bool]:
    """Return the type of a part of a schema, and whether null is among its values."""
    if depth > MAX_SHAPE_DEPTH:
        raise Unholdable("is nested too deep, or without end")
    nodes = schemas.alternatives((schemas.Node(part, whole),))
    found: list[Shape] = []
    nullable = False
    for node in nodes:
        if node is None or not isinstance(node.part, dict):
            raise Unholdable("can be anything")
        kinds = _kinds(node.part)
        nullable = nullable or "null" in kinds
        found += [_of_kind(kind, node.part, whole, depth) for kind in kinds if kind != "null"]
    if not found:
        raise Unholdable("is never anything but null")
    if any(other != found[0] for other in found):
        raise Unholdable("can be of more than one type")
    return found[0], nullable


def _of_kind(kind: str, part: Mapping[str, Any], whole: Mapping[str, Any], depth: int) -> Shape:
    if kind in _SCALARS:
        return Scalar(_SCALARS[kind])
    if kind == "array" and "prefixItems" not in part:
        element, nullable = _shape(part.get("items", True), whole, depth + 1)
        if not isinstance(element, Scalar) or nullable:
            raise Unholdable("is a list of more than text, whole numbers or booleans")
        return SetOf(element)
    if kind == "object" and part.get("properties"):
        required = part.get("required", ())
        fields = {
            name: _field(name, inner, whole, name in required, depth + 1)
            for name, inner in part["properties"].items()
        }
        return Record(MappingProxyType(fields))
    names = {"number": "a number with a fraction", "object": "an object without fixed members"}
    raise Unholdable(f"is {names.get(kind, 'of a kind that rules do not have')}")


def _kinds(part: Mapping[str, Any]) -> list[str]:
    """Return the JSON types that a part of a schema names, or that its listed values have."""
    kinds = part.get("type")
    if kinds is not None:
        return [kinds] if isinstance(kinds, str) else list(kinds)
    listed = [part["const"]] if "const" in part else part.get("enum", ())
    of = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
    found = list(dict.fromkeys(of.get(type(value), "number") for value in listed))
    if not found:
        raise Unholdable("can be anything")
    return found


def _is_money(shape: Shape) -> bool:
    if not isinstance(shape, Record):
        return False
    kinds = {name: field.shape for name, field in shape.fields.items() if not field.optional}
    return kinds.get("minor") == Scalar("Long") and kinds.get("currency") == Scalar("String")


def _holds_money(part: Any, whole: Mapping[str, Any]) -> bool:
    """Whether an amount of money is, or may be, within what a part of a schema describes.

    Under whatever keyword it is described: one that is missed here would be spent and never counted.
    """
    pending, followed = [part], set[str]()
    while pending:
        held = pending.pop()
        if isinstance(held, list):
            pending.extend(held)
        if not isinstance(held, dict):
            continue
        members, target = held.get("properties"), held.get("$ref")
        if isinstance(members, dict) and {"minor", "currency"} <= members.keys():
            return True
        if isinstance(target, str) and target not in followed:
            followed.add(target)
            pending.append(schemas.look_up(whole, target))
        pending.extend(held.values())
    return False


def _word(enum: Any, number: int) -> str:
    return str(enum.Name(number)).partition("_")[2].lower() if number in enum.values() else ""
