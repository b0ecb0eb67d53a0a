"""JSON schemas of tools: judging values, and knowing which paths an output cannot have.

A schema's text is compiled once. Nothing is fetched: a schema refers to its own definitions only. An integer
is an integer: 1.0 is not one, as for the tools themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

from core.errors import HandrailError
from core.plain_schema import is_plain

CACHED_SCHEMAS = 1_024
MAX_PROBLEMS = 20
MAX_ALTERNATIVES = 100
MAX_CLOSED_DEPTH = 16
_CLOSED_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
# Anchored, and of a length that the pattern itself bounds, with nothing that stands for any character.
_CLOSED_PATTERN = re.compile(
    r"\^(?:[^.*+^$\\|()\[\]{}?]|\\[dw]|\[[^\^\]\\]+\]|\{[0-9]{1,2}(?:,[0-9]{1,2})?\}|\?)+\$"
)
_SHOWN_CHARS = 60
_MESSAGE_CHARS = 300
_KINDS = {"string": "text", "object": "an object", "array": "a list", "integer": "an integer"}
_KINDS |= {"number": "a number", "boolean": "true or false", "null": "null"}


class BadSchema(HandrailError):
    """A schema that is none, or that refers outside itself."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a value does not fit: where, a stable code, and what is wrong."""

    path: tuple[str | int, ...]
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a schema, with the whole, in which its references are looked up."""

    part: Any
    whole: Mapping[str, Any]


class Schema:
    """The compiled schema of an object of arguments, or of an output."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.properties: Mapping[str, Any] = document.get("properties", {})
        self.required: tuple[str, ...] = tuple(document.get("required", ()))
        self.closed = document.get("additionalProperties") is False
        self._validators: dict[str, Any] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Where a path into the value begins."""
        return (Node(self.document, self.document),)

    @cached_property
    def _whole(self) -> Any:
        return _validator(self.document)

    def problems(self, value: Any) -> list[Problem]:
        """Return what is wrong with a value."""
        return _problems(self._whole, value)

    def problems_of(self, name: str, value: Any) -> list[Problem]:
        """Return what is wrong with the value of one property."""
        if name not in self._validators:
            # What it refers to is looked up in the whole.
            self._validators[name] = self._whole.evolve(schema=self.properties.get(name, True))
        return _problems(self._validators[name], value)


@lru_cache(maxsize=CACHED_SCHEMAS)
def compile_schema(text: str) -> Schema:
    """Read a schema's text; an empty one says nothing, and lets everything through."""
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise BadSchema(f"the schema is not JSON: {error}") from None
    return Schema(document if isinstance(document, dict) else {"allOf": [document]})


def check_schema(document: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a schema, or None."""
    try:
        wrong = None if is_plain(document) else _ask_the_meta_schema(document)
    except RecursionError:
        return "it is nested too deep"
    if wrong is not None:
        return f"it is not a JSON schema: {wrong[:_MESSAGE_CHARS]}"
    for target in _references(document):
        if look_up(document, target) is None:
            return f"it refers to {target!r:.100}, which is not in it"
    return None


def _ask_the_meta_schema(document: Mapping[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(document)
    except SchemaError as error:
        return str(error.message)
    return None


def descend(nodes: tuple[Node, ...], part: str | int) -> tuple[Node, ...] | None:
    """Follow one part of a path: none left means that no value has it, None that nobody can know.

    An object with properties and no word on further ones has no further ones: so pydantic writes them.
    """
    found: list[Node] = []
    for node in alternatives(nodes):
        child = _child(node.part, part) if node is not None else True
        if child is True:
            return None
        if child is not False:
            found.append(Node(child, node.whole if node is not None else {}))
    return tuple(found)


def names(nodes: tuple[Node, ...]) -> set[str]:
    """Return the names of the properties that a value can have, as far as the schema says."""
    found = (
        node.part.get("properties", {})
        for node in alternatives(nodes)
        if node and isinstance(node.part, dict)
    )
    return {name for properties in found for name in properties}


def is_closed(nodes: tuple[Node, ...], depth: int = MAX_CLOSED_DEPTH) -> bool:
    """Whether no value of a schema can carry free text: integers, booleans, enumerations, closed patterns."""
    return depth > 0 and all(node is not None and _is_closed(node, depth) for node in alternatives(nodes))


def _is_closed(node: Node, depth: int) -> bool:
    part = node.part
    if not isinstance(part, dict):
        return False
    if "const" in part or "enum" in part:
        return True
    kinds = part.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return all(_is_closed_kind(kind, node, depth) for kind in kinds)


def _is_closed_kind(kind: Any, node: Node, depth: int) -> bool:
    part: dict[str, Any] = node.part
    if kind in ("integer", "boolean", "null"):
        return True
    if kind == "number":
        return "minimum" in part and "maximum" in part
    if kind == "string":
        return (
            part.get("format") in _CLOSED_FORMATS
            or _CLOSED_PATTERN.fullmatch(part.get("pattern", "")) is not None
        )
    if kind == "array":
        return is_closed((Node(part.get("items", True), node.whole),), depth - 1)
    if kind == "object":
        held = part.get("properties", {})
        extra = part.get("additionalProperties", False)
        return (
            bool(held)
            and not extra
            and all(is_closed((Node(one, node.whole),), depth - 1) for one in held.values())
        )
    return False


def alternatives(nodes: tuple[Node, ...]) -> Iterator[Node | None]:
    """Yield what the nodes can stand for, references followed; None where that cannot be told."""
    pending = list(nodes)
    for _ in range(MAX_ALTERNATIVES):
        if not pending:
            return
        node = pending.pop()
        part = node.part
        if not isinstance(part, dict):
            yield node
            continue
        if "$ref" in part:
            target = look_up(node.whole, part["$ref"])
            pending.append(Node(True if target is None else target, node.whole))
        elif "anyOf" in part or "oneOf" in part:
            pending.extend(Node(inner, node.whole) for inner in part.get("anyOf") or part["oneOf"])
        else:
            yield node
    yield None


def show(value: Any) -> str:
    """Return a value as short JSON text, for messages."""
    text = json.dumps(value, default=repr) if not isinstance(value, str) else repr(value[:_SHOWN_CHARS])
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def _validator(document: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    strict = validators.extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]
    return strict(document, registry=Registry())


def _problems(validator: Any, value: Any) -> list[Problem]:
    from referencing.exceptions import Unresolvable

    try:
        return [_problem(error) for error in islice(validator.iter_errors(value), MAX_PROBLEMS)]
    except Unresolvable as error:
        raise BadSchema(f"the schema refers to {error}, which is not in it") from None
    except RecursionError:
        return [Problem((), "bad_argument", "it is nested too deep to be judged")]


def _problem(error: Any) -> Problem:
    path = tuple(error.absolute_path)
    wanted = _types(error)
    if wanted:
        expected = " or ".join(_KINDS.get(kind, kind) for kind in wanted)
        return Problem(path, "mistyped_argument", f"expected {expected}, not {show(error.instance)}")
    if error.validator in ("anyOf", "oneOf") and error.context:
        from jsonschema.exceptions import best_match

        deepest = best_match([error])
        if deepest is not error:
            return _problem(deepest)
    text, instance = str(error.message), error.instance
    if len(text) > _MESSAGE_CHARS and isinstance(instance, str | list | dict):
        text = text.replace(repr(instance), show(instance))
    return Problem(path, "bad_argument", text[:_MESSAGE_CHARS])


def _types(error: Any) -> list[str]:
    """Return the types of which the value should have been one, if that alone is the problem."""
    if error.validator == "type":
        return (
            [error.validator_value] if isinstance(error.validator_value, str) else list(error.validator_value)
        )
    if error.validator in ("anyOf", "oneOf") and error.context:
        if any(inner.validator != "type" or inner.relative_path for inner in error.context):
            return []
        return [kind for inner in error.context for kind in _types(inner)]
    return []


def _child(schema: Any, part: str | int) -> Any:
    """Return the schema of a member; False where there can be none, True where it can be anything."""
    if not isinstance(schema, dict):
        return bool(schema)
    if any(word in schema for word in ("allOf", "if", "patternProperties", "dependentSchemas", "not")):
        return True
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds is not None and ("object" if isinstance(part, str) else "array") not in kinds:
        return False
    if isinstance(part, str):
        properties = schema.get("properties", {})
        return properties.get(part, schema.get("additionalProperties", not properties))
    prefix = schema.get("prefixItems", [])
    return prefix[part] if part < len(prefix) else schema.get("items", True)


def _references(document: Any) -> Iterator[str]:
    pending = [document]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def look_up(document: Any, target: Any) -> Any:
    """Return what a reference within a schema refers to; None where there is nothing."""
    if not isinstance(target, str) or not target.startswith("#"):
        return None
    part = document
    for name in target[1:].split("/")[1:]:
        part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    return part
