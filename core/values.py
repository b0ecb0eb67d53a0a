"""JSON values: one canonical text for each, bounded, and its digest.

What `encode` accepts `decode` gives back equal, and the same value always has the same text. Neither lets
anything through that is not JSON (NaN, lone surrogates, duplicate keys) or that is too deep or too large.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from core.errors import HandrailError
from handrail.v1 import plan_pb2

MAX_INLINE_BYTES = 64 * 1024
MAX_VALUE_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64


class BadValue(HandrailError):
    """A value that is not JSON, or is deeper or larger than values may be."""


class NotLoaded(HandrailError):
    """A value lies in the blob stream and has not been loaded."""

    def __init__(self, sha256: str, blob: plan_pb2.Blob) -> None:
        super().__init__(f"the value {sha256[:12]}... ({blob.size_bytes} bytes) has not been loaded")
        self.sha256 = sha256
        self.blob = blob


def encode(value: Any) -> str:
    """Return the canonical text: sorted keys, no spaces, no escapes that are not needed."""
    _check(value)
    try:
        text = json.dumps(
            value,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
            check_circular=False,
        )
    except ValueError as error:  # an integer of more digits than Python turns into text
        raise BadValue(f"the value cannot be written as JSON: {error}") from None
    _check_size(text)
    return text


def decode(text: str) -> Any:
    """Return the value of a JSON text, canonical or not."""
    _check_size(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_reject_constant, parse_float=_finite
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise BadValue(f"the text is not JSON: {error}") from None
    _check(value)
    return value


def inline(value: Any) -> plan_pb2.Value:
    """Return the value as a message; who appends it puts what is over `MAX_INLINE_BYTES` into a blob."""
    return plan_pb2.Value(json=encode(value))


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def arguments_digest(arguments: Mapping[str, Any]) -> str:
    """Return what binds a permit to its arguments: the digest of their canonical text."""
    return digest(encode(dict(arguments)))


def load(value: plan_pb2.Value, contents: Mapping[str, str]) -> Any:
    """Return what a message means; `contents` holds the texts of blobs by digest.

    The same value is looked at again and again while a run goes on, so what is returned is shared: it must
    not be changed.
    """
    kind = value.WhichOneof("kind")
    if kind == "json":
        return _decode_inline(value.json)
    if kind == "blob":
        text = contents.get(value.blob.sha256)
        if text is None:
            raise NotLoaded(value.blob.sha256, value.blob)
        return _decode_large(text)
    raise BadValue("the value is empty: it is neither inline nor a blob")


@functools.lru_cache(maxsize=256)
def _decode_inline(text: str) -> Any:
    return decode(text)


@functools.lru_cache(maxsize=4)
def _decode_large(text: str) -> Any:
    return decode(text)


def _check(value: Any) -> None:
    """Walk the value without recursion; a value that contains itself is too deep."""
    budget = MAX_VALUE_BYTES  # every node takes at least one byte of text, every character too
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        node, depth = pending.pop()
        budget -= 1
        if isinstance(node, str):
            budget -= len(node)
            _check_text(node)
        elif isinstance(node, dict):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            for key, item in node.items():
                if not isinstance(key, str):
                    raise BadValue(f"an object's keys are text, and one is {type(key).__name__}")
                budget -= len(key)
                _check_text(key)
                pending.append((item, depth + 1))
        elif isinstance(node, list):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            pending.extend((item, depth + 1) for item in node)
        elif isinstance(node, float):
            if not math.isfinite(node):
                raise BadValue(f"{node} is not a JSON number; use null for a missing one")
        elif node is not None and not isinstance(node, int):
            raise BadValue(
                f"{type(node).__name__} is not a JSON type: use null, booleans, numbers, text, lists, objects"
            )
        if budget < len(pending):
            raise _too_large("more than that")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValue("the text holds half of a surrogate pair, which is not Unicode") from None


def _check_size(text: str) -> None:
    _check_text(text)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_VALUE_BYTES:
        raise _too_large(f"{size} bytes")


def _too_deep() -> BadValue:
    return BadValue(f"the value is nested deeper than {MAX_DEPTH} levels, or contains itself")


def _too_large(size: str) -> BadValue:
    return BadValue(f"a value may have {MAX_VALUE_BYTES} bytes; this one has {size}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadValue(f"the key {twice!r:.100} occurs twice in one object")
    return found


def _reject_constant(name: str) -> NoReturn:
    raise BadValue(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadValue(f"the number {text:.50} is too large for a double")
    return number
