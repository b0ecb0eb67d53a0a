"""Collecting violations: as many as are worth reading, in words that are safe to show."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from core import schemas, spelling
from handrail.v1 import plan_pb2

MAX_VIOLATIONS = 100

_SHOWN_CHARS = 60
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Enough(Exception):
    """There are more violations than are worth reading; whoever collects them stops here."""


class Found:
    """The violations found so far."""

    def __init__(self) -> None:
        self.violations: list[plan_pb2.Violation] = []

    def add(self, where: str, code: str, message: str) -> None:
        """Note a violation; raises Enough where it is one too many."""
        if len(self.violations) == MAX_VIOLATIONS - 1:
            where, code, message = "", "more", "there are more violations; mend these first"
        self.violations.append(plan_pb2.Violation(field=where, code=code, message=message))
        if code == "more":
            raise Enough


def check_text(found: Found, where: str, text: str, max_chars: int) -> None:
    """Note text that is too long, or holds characters that nobody can see."""
    if len(text) > max_chars:
        found.add(where, "too_long", f"it has {len(text)} characters; {max_chars} fit")
    hidden = next((char for char in text if unicodedata.category(char) in _HIDDEN), None)
    if hidden is not None:
        message = f"it holds the invisible character U+{ord(hidden):04X}; write it without"
        found.add(where, "hidden_characters", message)


def check_names(
    found: Found,
    schema: schemas.Schema,
    tool: str,
    arguments: Mapping[str, Any],
    where: str,
    missing: Collection[str] = (),
) -> None:
    """Note arguments that are not there and may not be missing, and those that the tool does not have."""
    for name in schema.required:
        if name not in arguments and name not in missing:
            found.add(f"{where}.{name}", "missing_argument", f"{tool} needs the argument '{name}'")
    for name in sorted(arguments):
        if schema.closed and name not in schema.properties:
            message = f"{tool} has no argument {show(name)}{spelling.hint(name, schema.properties)}"
            found.add(f"{where}.{plain(name)}", "unknown_argument", message)


def check_value(found: Found, schema: schemas.Schema, name: str, value: Any, where: str) -> None:
    """Note in what way the value of one argument does not fit."""
    for problem in schema.problems_of(name, value):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{plain(part)}" for part in problem.path)
        found.add(f"{where}{path}", problem.code, problem.message)


def plain(name: str) -> str:
    """Return a name as it can stand in a field path."""
    return name if _PLAIN_NAME.fullmatch(name) else f"[{show(name)}]"


def show(text: str) -> str:
    """Return foreign text for a message: quoted, short, nothing invisible."""
    return ascii(text[:_SHOWN_CHARS]) if not text.isprintable() else repr(text[:_SHOWN_CHARS])
