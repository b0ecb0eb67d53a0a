"""Mutations of what is valid: of bytes, text, JSON values and messages; every choice is the generator's.

What comes out is often nearly right, which gets further than noise does.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

MAX_ROUNDS = 6
MAX_DEEP = 20_000
MAX_LONG = 70_000

_EDGE = re.compile(r"[\s:=,(){}\[\]\"']+")
_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 7, 64, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")),
)
TEXTS: tuple[str, ...] = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "\r\n",
        "\t",
        "\x1b[2J",
        "\u202e",
        "\ufeff",
        "\ud800",
        "é",
        "²",
        "١",
        "\U0001f600",
    ),
    *(
        "$",
        "$$",
        "$x",
        "$a.b[0]",
        "${",
        "{",
        "}",
        "{}",
        "{x}",
        "{{",
        "%s",
        "%",
        "..",
        "../..",
        "/",
        "/dev/null",
    ),
    *(
        "null",
        "true",
        "0",
        "-1",
        "1e999",
        "NaN",
        "Infinity",
        "[]",
        "{}",
        '"',
        "'",
        "\\",
        "\\u0000",
        '"\\ud800"',
    ),
    *("ev.0.default.r0-x.dec.note.x", "r0-01k9x3", "default", "main", "a.b.c.d.e.f", "*", ">", "a-a1", "g1"),
    *("env:X", "file:/x", "https://x", "http://127.0.0.1", "Bearer x", "a:b", "[::1]:0", "999999:99999"),
    *("2026-02-30", "9999-12-31", "0001-01-01T00:00:00Z", "12.50 EUR", "1:59:59", "0x", "0b", "1_0"),
    *(
        "!!bool x",
        "!!int ''",
        "!!timestamp x",
        "!!binary x",
        "&a [*a]",
        "<<",
        "? x",
        "- -",
        "|",
        "---",
        "...",
    ),
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    *NUMBERS,
    *TEXTS,
    [],
    {},
    [[]],
    {"": {}},
    {"$ref": "#"},
    [1, "a"],
)


class Mutator:
    """Makes wrong inputs of right ones."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def of(self, choices: Sequence[_T]) -> _T:
        """Take one."""
        return self.chance.choice(choices)

    def maybe(self, likelihood: float) -> bool:
        """Whether something so likely happens."""
        return self.chance.random() < likelihood

    def rounds(self) -> range:
        """How often to change something: mostly once or twice."""
        return range(min(MAX_ROUNDS, 1 + int(self.chance.expovariate(0.8))))

    # --- bytes and text --------------------------------------------------------------------------------

    def data(self, data: bytes) -> bytes:
        """Flip, cut, double, move and put in bytes."""
        found = bytearray(data)
        for _ in self.rounds():
            at, end = sorted(self.chance.randrange(len(found) + 1) for _ in range(2))
            end = min(end, at + self.of((1, 4, 64, 4_096)))
            match self.chance.randrange(7):
                case 0 if found:
                    found[at % len(found)] ^= 1 << self.chance.randrange(8)
                case 1:
                    del found[at:end]
                case 2:
                    found[at:at] = found[at:end] * self.of((1, 2, 50))
                case 3:
                    found[at:at] = self.chance.randbytes(self.of((1, 4, 40)))
                case 4:
                    found[at:end] = self.of((b"\0", b"\xff", b"\x80", b"\xff" * 10, b"\xed\xa0\x80"))
                case 5:
                    del found[at:]
                case _:
                    found[at:at] = self.of(TEXTS).encode(errors="replace")
        return bytes(found[: len(data) * 4 + MAX_LONG])

    def text(self, text: str, words: Sequence[str] = TEXTS) -> str:
        """Cut, double, move and put in characters, and words that mean something."""
        for _ in self.rounds():
            at, end = sorted(self.chance.randrange(len(text) + 1) for _ in range(2))
            end = min(end, at + self.of((1, 8, 200)))
            if self.maybe(0.5):
                # A whole word, or a value: what stands between two of these.
                edges = [found.end() for found in _EDGE.finditer(text, at, at + 400)][:2]
                at, end = edges if len(edges) == 2 else (at, end)
            before, piece, after = text[:at], text[at:end], text[end:]
            match self.chance.randrange(8):
                case 0:
                    text = before + after
                case 1:
                    text = before + piece * self.of((2, 3, 40)) + after
                case 2:
                    text = before + self.of(words) + after
                case 3:
                    text = before + self.of(words) + piece + after
                case 4:
                    text = before
                case 5:
                    other = self.chance.randrange(len(text) + 1)
                    text = before + text[other : other + 40] + after
                case 6 if self.maybe(0.4):
                    text = before + self._much() + after
                case _:
                    text = (
                        before + chr(self.chance.choice((self.chance.randrange(128), 0x2028, 0xE9))) + after
                    )
        return text[:MAX_LONG]

    def _much(self) -> str:
        opener, closer = self.of(
            (("[", "]"), ("{", "}"), ("(", ")"), ('{"a":', "}"), ("a.", ""), ("- ", ""), ("9", ""))
        )
        count = self.of((70, 1_500, MAX_DEEP))
        return opener * count + (closer * count if self.maybe(0.5) else "")

    # --- JSON values -----------------------------------------------------------------------------------

    def value(self, value: Any, words: Sequence[Any] = VALUES) -> Any:
        """Change something somewhere in a JSON value; the one that is given stays as it is."""
        found = copy.deepcopy(value)
        for _ in self.rounds():
            found = self._inside(found, words)
        return found

    def _inside(self, value: Any, words: Sequence[Any]) -> Any:
        if isinstance(value, dict | list) and value and self.maybe(0.85):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            key = self.of(keys)
            match self.chance.randrange(9):
                case 0:
                    del value[key]
                case 1:
                    value[key] = self.wild(words)
                case 2 if isinstance(value, list):
                    value.insert(key, copy.deepcopy(self.of(value)))
                case 2:
                    value[self.text(str(key))] = value.pop(key)
                case 3 if isinstance(value, dict):
                    value[self.of(TEXTS)] = self.wild(words)
                case 4:
                    value[key] = copy.deepcopy(value[self.of(keys)])
                case _:
                    value[key] = self._inside(value[key], words)
            return value
        if isinstance(value, str) and self.maybe(0.6):
            return self.text(value)
        return self.wild(words)

    def wild(self, words: Sequence[Any] = VALUES) -> Any:
        """Take a value that is mostly unexpected, now and then a long or a deep one."""
        if self.maybe(0.95):
            return copy.deepcopy(self.of(words))
        match self.chance.randrange(4):
            case 0:
                return "x" * self.of((300, 5_000, MAX_LONG))
            case 1:
                return [self.wild(words)] * self.of((100, 2_000))
            case 2:
                return {f"k{n}": n for n in range(self.of((100, 2_000)))}
            case _:
                found: Any = {}
                for _ in range(self.of((40, 70, 300))):
                    found = {"a": found} if self.maybe(0.5) else [found]
                return found

    # --- messages --------------------------------------------------------------------------------------

    def message(self, message: _M) -> _M:
        """Change fields somewhere in a message; the one that is given stays as it is."""
        found = type(message)()
        found.CopyFrom(message)
        for _ in self.rounds():
            self._field(found)
        return found

    def encoded(self, message: Message) -> bytes:
        """Return a message's bytes, with fields changed, or bytes, or fields that nobody knows."""
        data = self.message(message).SerializeToString() if self.maybe(0.7) else message.SerializeToString()
        if self.maybe(0.3):
            data = self.data(data)
        if self.maybe(0.1):
            data += self.of((b"\xfa\x7f\x01x", b"\xf8\x7f\x01", b"\x0a\x00" * 50, b"\xff" * 11))
        return data

    def _field(self, message: Message) -> None:
        held = [field for field, _ in message.ListFields()]
        field = self.of(held) if held and self.maybe(0.75) else self.of(message.DESCRIPTOR.fields or [None])
        if field is None:
            return
        name = field.name
        if self.maybe(0.1):
            message.ClearField(name)
        elif field.is_repeated:
            self._repeated(message, field)
        elif field.message_type is not None:
            inner = getattr(message, name)
            inner.SetInParent()
            if self.maybe(0.9):
                self._field(inner)
        else:
            self._set(message, field)

    def _repeated(self, message: Message, field: FieldDescriptor) -> None:
        items = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            key = self.of(list(items)) if items and self.maybe(0.7) else None
            if key is None:
                wild = self._scalar(field.message_type.fields_by_name["key"])
                if value.message_type is not None and wild is not None:
                    items[wild].SetInParent()
            elif self.maybe(0.2):
                del items[key]
            elif value.message_type is not None:
                self._field(items[key])
            elif (scalar := self._scalar(value, items[key])) is not None:
                items[key] = scalar
            return
        if items and self.maybe(0.15):
            del items[self.chance.randrange(len(items))]
        elif field.message_type is not None:
            if not items or self.maybe(0.2):
                added = items.add()
                if len(items) > 1:
                    added.CopyFrom(self.of(list(items)))
            self._field(self.of(list(items)))
        elif (scalar := self._scalar(field, items[0] if items else None)) is not None:
            items.append(scalar)

    def _set(self, message: Message, field: FieldDescriptor) -> None:
        scalar = self._scalar(field, getattr(message, field.name))
        if scalar is not None:
            setattr(message, field.name, scalar)

    def _scalar(self, field: FieldDescriptor, before: Any = None) -> Any:
        """Return a value that a field can hold, None where the one drawn does not fit."""
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_BYTES:
            return self.data(before or b"")
        if kind == FieldDescriptor.CPPTYPE_STRING:
            text = self._json(before) if before and before[:1] in '{["' else self.text(before or "")
            return text.encode(errors="ignore").decode()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.maybe(0.5)
        number = self.of(NUMBERS)
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return float(number)
        if kind == FieldDescriptor.CPPTYPE_ENUM and self.maybe(0.8):
            return self.of(field.enum_type.values).number
        low, high = _RANGES.get(kind, (0, 2**31 - 1))
        return number if isinstance(number, int) and low <= number <= high else None

    def _json(self, text: str) -> str:
        """Change JSON in a field: as JSON, or as text."""
        try:
            return json.dumps(self.value(json.loads(text))) if self.maybe(0.7) else self.text(text)
        except (ValueError, RecursionError):
            return self.text(text)


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def toml(document: Any) -> str:
    """Write a document as TOML, each key of the top on a line; what TOML has no word for is left to fail."""
    if not isinstance(document, dict):
        return f"all = {_inline(document)}\n"
    return "".join(f"{_word(key)} = {_inline(value)}\n" for key, value in document.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_word(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value) if type(value).__name__ == "datetime" else json.dumps(value)


def _word(key: Any) -> str:
    return json.dumps(str(key))


def decoded(kind: type[_M], data: bytes) -> _M | None:
    """Read a message; None where it is none."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None
