"""Telling at a glance that a schema is one, as those are that types are turned into.

The meta-schema of JSON Schema, applied to itself by references, takes milliseconds for each tool, at the
start of every process that loads a project. What is written with the words below, each as it should be, it
would let through too; whatever is not goes to it, and it says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_REFERENCE = re.compile(r"#(?:/[A-Za-z0-9_$.-]+)*")


def is_plain(schema: Any) -> bool:
    """Whether a schema consists of words that are known here, and each of what it takes."""
    if isinstance(schema, bool):
        return True
    return isinstance(schema, dict) and all(
        word in _WORDS and _WORDS[word](value) for word, value in schema.items()
    )


def _anything(_: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in _TYPES
    return _are_names(value) and bool(value) and _TYPES.issuperset(value)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _are_plain(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_plain, value))


def _are_named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_plain, value.values()))


_WORDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("title", "description", "format"), _is_text),
    **dict.fromkeys(("const", "default"), _anything),
    **dict.fromkeys(("enum", "examples"), _is_list),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _is_flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count
    ),
    **dict.fromkeys(("additionalProperties", "items"), is_plain),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _are_plain),
    **dict.fromkeys(("properties", "$defs"), _are_named),
    "type": _is_type,
    "required": _are_names,
    "pattern": _is_pattern,
    "$ref": _is_reference,
}
