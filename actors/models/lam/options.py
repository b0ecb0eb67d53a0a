"""The closed set of a decision: the tools and playbooks of a project, each as something that can be taken.

An option says what the model reads of it (words, parameters with their kinds, fields of its output) and has a
fingerprint: another one is another option, on which the model was not trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from core import schemas, told, values
from core.playbook import Playbook
from handrail.v1 import tool_pb2

Kind = Literal[
    "integer",
    "number",
    "boolean",
    "text",
    "word",
    "choice",
    "money",
    "date",
    "time",
    "email",
    "list",
    "other",
    "moment",
]
"""What a value is, as far as words of a goal can be read as one."""

PLAYBOOK = "playbook:"
_LIKE_WEEKS = ("2026-09", "W09", "2026-X09", "2026-W9", "2026-W099", "A026-W09", "2026-09-01")
_NO_WEEKS = (*_LIKE_WEEKS, "abcdefgh", "some words")
MAX_FIELD_DEPTH = 3
MAX_FIELDS = 64
MAX_PARAMETERS = 24
_MONEY = frozenset({"minor", "currency"})
_FORMATS: Mapping[str, Kind] = {"date": "date", "time": "time", "email": "email", "date-time-local": "moment"}
_SLOTS: Mapping[str, Kind] = {
    "integer": "integer",
    "text": "text",
    "word": "word",
    "money": "money",
    "date": "date",
    "time": "time",
    "email": "email",
    "choice": "choice",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What an option takes."""

    name: str
    kind: Kind
    required: bool
    text: str = ""
    choices: tuple[str, ...] = ()
    # The schemas of the tools that get it, and its name there.
    given_to: tuple[tuple[schemas.Schema, str], ...] = field(default=(), compare=False, repr=False)
    # Of texts its schemas take weeks of the calendar, and hardly anything else: 2026-W09.
    weeks: bool = False

    def takes(self, value: Any) -> bool:
        """Whether the tools that get it take such a value: of 8, no week."""
        return not any(schema.problems_of(name, value) for schema, name in self.given_to)


@dataclass(frozen=True, slots=True)
class OutputField:
    """What an option returns, at a path: "customer_id", "total.currency"."""

    path: str
    kind: Kind


@dataclass(frozen=True)
class Option:
    """A tool or a playbook."""

    # "refund_order", "playbook:refund"
    name: str
    text: str
    effect: tool_pb2.Effect.ValueType
    parameters: tuple[Parameter, ...]
    fields: tuple[OutputField, ...]
    fingerprint: str

    @property
    def is_playbook(self) -> bool:
        """Whether it is a plan of several steps, which somebody has mapped."""
        return self.name.startswith(PLAYBOOK)

    @cached_property
    def words(self) -> str:
        """Its name as words."""
        return self.name.removeprefix(PLAYBOOK).replace("_", " ").replace("-", " ")

    def parameter(self, name: str) -> Parameter | None:
        """Return one of its parameters."""
        return next((one for one in self.parameters if one.name == name), None)


def options_of(
    contracts: Mapping[str, tool_pb2.ToolContract], playbooks: Iterable[Playbook]
) -> tuple[Option, ...]:
    """Return what a project offers, tools before playbooks, each in the order of their names."""
    tools = [_of_tool(contracts[name]) for name in sorted(contracts)]
    found = (*tools, *(_of_playbook(one, contracts) for one in sorted(playbooks, key=lambda p: p.name)))
    # Of what takes more, nobody could be asked for all that is missing.
    return tuple(option for option in found if len(option.parameters) <= MAX_PARAMETERS)


def kind_of(schema: Mapping[str, Any], part: Any) -> Kind:
    """Return what a part of a schema describes; what may also be null counts as what it is otherwise."""
    nodes = [node for node in schemas.alternatives((schemas.Node(part, schema),)) if node is not None]
    parts = [node.part for node in nodes if isinstance(node.part, dict) and node.part.get("type") != "null"]
    kinds = {_kind(one) for one in parts}
    return kinds.pop() if len(kinds) == 1 else "choice" if kinds == {"choice"} else "other"


def _kind(part: Mapping[str, Any]) -> Kind:
    if "enum" in part or "const" in part:
        return "choice"
    said = part.get("type")
    listed = [one for one in said if one != "null"] if isinstance(said, list) else [said]
    match listed[0] if len(listed) == 1 else None:
        case "integer" | "number" | "boolean" as plain:
            return plain  # type: ignore[no-any-return]
        case "string":
            return _FORMATS.get(part.get("format", ""), "text")
        case "array":
            return "list"
        case "object" if set(part.get("properties", ())) == _MONEY:
            return "money"
    return "other"


def _of_tool(contract: tool_pb2.ToolContract) -> Option:
    schema = schemas.compile_schema(contract.input_schema)
    parameters = [
        Parameter(
            name,
            kind_of(schema.document, part),
            name in schema.required,
            _text(part),
            tuple(_choices(schema.document, part)),
            ((schema, name),),
            _weeks([(schema, name)]),
        )
        for name, part in schema.properties.items()
        if name != contract.key_parameter
    ]
    output = schemas.compile_schema(contract.output_schema).document
    return Option(
        contract.name,
        contract.description,
        contract.effect,
        tuple(parameters),
        tuple(islice(_fields(output, output, "", 0), MAX_FIELDS)),
        told.fingerprint(contract),
    )


def tools_of(playbook: Playbook) -> set[str]:
    """Return the names of the tools that a playbook may use."""
    steps = playbook.steps
    named = {step.tool for step in steps}
    named |= {rule.tool for step in steps for rule in step.choose}
    return named | {grant.tool for step in steps for grant in step.grants}


def _of_playbook(playbook: Playbook, contracts: Mapping[str, tool_pb2.ToolContract]) -> Option:
    taken = [contracts[name] for name in sorted(tools_of(playbook)) if name in contracts]
    effects = [contract.effect for contract in taken]
    # A playbook is what its tools are, too.
    said = values.encode([playbook.model_dump(mode="json"), *map(told.fingerprint, taken)])
    given = {name: tuple(_given(playbook, name, contracts)) for name in playbook.slots}
    parameters = (
        Parameter(
            name,
            _SLOTS[slot.type],
            slot.default is None,
            slot.description,
            slot.choices,
            given[name],
            _weeks(given[name]),
        )
        for name, slot in playbook.slots.items()
    )
    return Option(
        f"{PLAYBOOK}{playbook.name}",
        "; ".join((playbook.title, *playbook.phrases)),
        max(effects, default=tool_pb2.EFFECT_READ),
        tuple(parameters),
        (),
        hashlib.sha256(said.encode()).hexdigest(),
    )


def _given(
    playbook: Playbook, slot: str, contracts: Mapping[str, tool_pb2.ToolContract]
) -> Iterator[tuple[schemas.Schema, str]]:
    """Yield where a slot's value is given to a tool as it is."""
    for step in playbook.steps:
        for name, value in step.arguments.items():
            if value == f"{{{slot}}}" and step.tool in contracts:
                yield schemas.compile_schema(contracts[step.tool].input_schema), name


def _weeks(given_to: Sequence[tuple[schemas.Schema, str]]) -> bool:
    """Whether what is given takes weeks as ISO 8601 writes them, and nothing like them."""

    def takes(text: str) -> bool:
        return not any(schema.problems_of(name, text) for schema, name in given_to)

    return bool(given_to) and takes("2026-W09") and takes("2027-W31") and not any(map(takes, _NO_WEEKS))


def _text(part: Any) -> str:
    return str(part.get("description", "")) if isinstance(part, dict) else ""


def _choices(schema: Mapping[str, Any], part: Any) -> Iterator[str]:
    """Yield the words that a parameter can be, where it is one of some words."""
    for node in schemas.alternatives((schemas.Node(part, schema),)):
        held = node.part if node is not None and isinstance(node.part, dict) else {}
        listed: Sequence[Any] = held.get("enum", [held["const"]] if "const" in held else [])
        yield from (one for one in listed if isinstance(one, str) and one)


def _fields(whole: Mapping[str, Any], part: Any, path: str, depth: int) -> Iterator[OutputField]:
    """Yield what can be referred to: the leaves of objects; money and lists are leaves."""
    for node in schemas.alternatives((schemas.Node(part, whole),)):
        held = node.part if node is not None and isinstance(node.part, dict) else {}
        if held.get("type") == "null" or not held:
            continue
        kind = kind_of(whole, held)
        if path and kind != "other":
            yield OutputField(path, kind)
        elif depth < MAX_FIELD_DEPTH:
            for name, inner in held.get("properties", {}).items():
                yield from _fields(whole, inner, f"{path}.{name}" if path else name, depth + 1)
