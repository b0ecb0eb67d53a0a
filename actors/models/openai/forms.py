"""Schemas as an endpoint takes them: strict, for decoding to be guided by them, and each value may be null.

Strict is the form that OpenAI asks for and that guided decoding knows: objects that are closed, every
property required, no references. What it cannot say (the length of a text, a pattern, a default) is left out,
since the rail asks for it afterwards; what it cannot say at all is not strict. A value that may be left out
may be null instead, and so may one that must not: who has to say something makes something up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import schemas
from core.schemas import Node

MAX_DEPTH = 8
_KEPT = ("type", "enum", "description", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEPT_OF_LISTS = ("minItems", "maxItems")
_FORMATS = frozenset({"date", "time", "date-time", "email", "uuid"})
_UNSAYABLE = ("allOf", "if", "not", "patternProperties", "dependentSchemas", "prefixItems", "$dynamicRef")

REFERENCE: Mapping[str, Any] = {
    "type": "string",
    "pattern": r"^\$[a-z0-9_]+(\.[A-Za-z0-9_]+|\[[0-9]+\])+$",
}
"""What stands for a field of what an earlier call returns, or for something that was given with the goal."""


class Form:
    """The parameters of one tool as an endpoint is told them."""

    def __init__(self) -> None:
        self.properties: dict[str, Any] = {}
        # Whether the form says all of it strictly.
        self.strict = True

    def add(
        self, name: str, part: Any, whole: Mapping[str, Any], note: str = "", *, refers: bool = False
    ) -> None:
        """Add a parameter by its schema, with a note; with `refers` it may be a reference instead."""
        form = self._form(part, whole, 0)
        note = "; ".join(text for text in (form.pop("description", ""), note) if text)
        may_refer = refers and (form.get("type") != "string" or "enum" in form or "format" in form)
        plain = isinstance(form.get("type"), str) and "enum" not in form and "anyOf" not in form
        if form and plain and not may_refer:
            form["type"] = [form["type"], "null"] if form["type"] != "null" else "null"
        elif form:
            null = {"type": "null"}
            own = [one for one in form.get("anyOf", [form]) if one != null]
            form = {"anyOf": [*own, *([dict(REFERENCE)] if may_refer else []), null]}
        self.properties[name] = {**form, "description": note} if note else form

    def tool(self, name: str, description: str) -> dict[str, Any]:
        """Return it as a tool of the protocol."""
        parameters = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.properties),
            "additionalProperties": False,
        }
        function = {"name": name, "description": description, "parameters": parameters}
        return {"type": "function", "function": {**function, "strict": True} if self.strict else function}

    def _form(self, part: Any, whole: Mapping[str, Any], depth: int) -> dict[str, Any]:
        if isinstance(part, dict) and "$ref" in part:
            target = schemas.look_up(whole, part["$ref"])
            said = {"description": part["description"]} if "description" in part else {}
            return {**self._form(target, whole, depth + 1), **said}
        unsayable = (
            not isinstance(part, dict) or depth > MAX_DEPTH or any(word in part for word in _UNSAYABLE)
        )
        if unsayable or not any(word in part for word in ("type", "enum", "const", "anyOf", "oneOf")):
            self.strict = False
            text = part.get("description") if isinstance(part, dict) else None
            return {"description": text} if text else {}
        form = {name: part[name] for name in _KEPT if name in part}
        if "const" in part:
            form["enum"] = [part["const"]]
        if part.get("format") in _FORMATS:
            form["format"] = part["format"]
        inner = part.get("anyOf") or part.get("oneOf")
        if inner:
            form["anyOf"] = [self._form(one, whole, depth + 1) for one in inner]
        kinds = part.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "array" in kinds:
            form |= {name: part[name] for name in _KEPT_OF_LISTS if name in part}
            form["items"] = self._form(part.get("items", True), whole, depth + 1)
        if "object" in kinds:
            form |= self._object(part, whole, depth)
        return form

    def _object(self, part: Mapping[str, Any], whole: Mapping[str, Any], depth: int) -> dict[str, Any]:
        held = part.get("properties", {})
        if not held or part.get("additionalProperties"):
            self.strict = False
            return {}
        found = {}
        for name, one in held.items():
            form = self._form(one, whole, depth + 1)
            optional = name not in part.get("required", ())
            found[name] = {"anyOf": [form, {"type": "null"}]} if optional and form else form
        return {"properties": found, "required": list(found), "additionalProperties": False}


def without_nulls(value: Any, nodes: tuple[Node, ...], depth: int = 0) -> Any:
    """Return a value without the nulls that stand for what may be left out of the objects in it."""
    if depth > MAX_DEPTH or not isinstance(value, dict | list):
        return value
    held = [node for node in schemas.alternatives(nodes) if node is not None and isinstance(node.part, dict)]
    if isinstance(value, list):
        items = tuple(Node(node.part["items"], node.whole) for node in held if "items" in node.part)
        return [without_nulls(one, items, depth + 1) for one in value]
    required = {name for node in held for name in node.part.get("required", ())}
    found = {}
    for name, one in value.items():
        inner = tuple(
            Node(node.part["properties"][name], node.whole)
            for node in held
            if name in node.part.get("properties", {})
        )
        if one is not None or not inner or name in required:
            found[name] = without_nulls(one, inner, depth + 1)
    return found
