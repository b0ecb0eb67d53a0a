"""What a notary signs: messages of the log as leaves of a tree, and heads of trees.

An entry's bytes are what a leaf is the hash of, and what is kept as a copy. Whoever wants to check a proof
needs this file's two encodings, SHA-256 and Ed25519, and nothing else.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core import merkle
from core.errors import HandrailError
from core.permits import Checker

NOTHING = bytes(merkle.HASH_BYTES)
"""What the first event of a run has before it."""
MAX_ENTRY_BYTES = 64 * 1024 * 1024
_FIXED = struct.Struct(">QQ32sHII")
_SIZE = struct.Struct(">I")
_RUN_SUBJECT = re.compile(r"ev\.[0-9]+\.([^.]+\.[^.]+)\..+", re.DOTALL)


class NotAsSigned(HandrailError):
    """The log, or what the notary keeps of it, is not what was signed for."""


class BadText(HandrailError):
    """What is no entry, or no head that somebody who is believed has signed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of a stream, and the hash of the one before it in its run."""

    sequence: int
    time_ns: int
    subject: str
    trace: str
    data: bytes
    previous: bytes = NOTHING

    def dump(self) -> bytes:
        """Return its bytes."""
        subject, trace = self.subject.encode(), self.trace.encode()
        sizes = (len(subject), len(trace), len(self.data))
        try:
            fixed = _FIXED.pack(self.sequence, self.time_ns, self.previous, *sizes)
        except struct.error as error:
            raise BadText(f"there is no such message: {error}") from None
        return fixed + subject + trace + self.data

    @staticmethod
    def parse(text: bytes) -> Entry:
        """Read what `dump` wrote; raises BadText."""
        try:
            sequence, time_ns, previous, subject, trace, data = _FIXED.unpack_from(text)
            if _FIXED.size + subject + trace + data != len(text):
                raise BadText("an entry has not the length that it says")
            rest = text[_FIXED.size :]
            parts = (rest[:subject].decode(), rest[subject : subject + trace].decode())
            return Entry(sequence, time_ns, *parts, rest[subject + trace :], previous)
        except (struct.error, UnicodeDecodeError) as error:
            raise BadText(f"an entry cannot be read: {error}") from None

    @property
    def leaf(self) -> bytes:
        """The hash that stands for it in the tree."""
        return merkle.leaf(self.dump())

    @property
    def run(self) -> str:
        """Tenant and run whose event it is; empty where it is none."""
        return run_of(self.subject)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a stream was, and the root of its tree, at a time."""

    origin: str
    stream: str
    size: int
    root: bytes
    time_ns: int

    def text(self) -> bytes:
        """Return what is signed."""
        lines = ("handrail head 1", self.origin, self.stream, self.size, self.root.hex(), self.time_ns)
        return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, whose key has signed it, and how long the last file of the copy was then."""

    head: Head
    key_id: str
    signature: bytes
    segment: str = ""
    segment_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as it stands in files."""
        return {
            "origin": self.head.origin,
            "stream": self.head.stream,
            "size": self.head.size,
            "root": self.head.root.hex(),
            "time_ns": self.head.time_ns,
            "key": self.key_id,
            "signature": base64.b64encode(self.signature).decode(),
        }

    @staticmethod
    def read(said: Any) -> SignedHead:
        """Read what `as_dict` wrote; raises BadText."""
        try:
            origin, stream, key_id = (text_of(said[name]) for name in ("origin", "stream", "key"))
            size, time_ns = (whole(said[name]) for name in ("size", "time_ns"))
            root = bytes.fromhex(said["root"])
            signature = base64.b64decode(said["signature"], validate=True)
            if said["root"] != root.hex():
                raise BadText("a head's root is not written as it was signed")
            head = Head(origin, stream, size, root, time_ns)
            head.text()  # whose names can be written, or nobody can have signed it
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise BadText(f"a head cannot be read: {error!r}") from None
        return SignedHead(head, key_id, signature)

    def check(self, checker: Checker) -> None:
        """Raise BadText unless somebody who is believed has signed it."""
        if not checker.check(self.key_id, self.head.text(), self.signature):
            raise BadText(f"the head of {self.head.stream} is not signed by a key that is believed")


def run_of(subject: str) -> str:
    """Return tenant and run of an event's subject; empty where it is none."""
    found = _RUN_SUBJECT.fullmatch(subject)
    return found.group(1) if found else ""


def whole(value: Any) -> int:
    """Return a whole number as it is; raises BadText for anything that only looks like one."""
    if type(value) is not int:
        raise BadText(f"{value!r:.100} is no whole number")
    return value


def text_of(value: Any) -> str:
    """Return a text as it is; raises BadText for anything else, and for what has no bytes."""
    if not isinstance(value, str):
        raise BadText(f"{value!r:.100} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadText(f"{value!r:.100} is no text that has bytes") from None
    return value


def pack(entries: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Put dumped entries behind each other: what can be made smaller, and what they hold, which cannot."""
    outer: list[bytes] = []
    inner: list[bytes] = []
    for one in entries:
        end = len(one) - int.from_bytes(one[_FIXED.size - _SIZE.size : _FIXED.size])
        outer += (_SIZE.pack(len(one)), one[:end])
        inner.append(one[end:])
    return b"".join(outer), b"".join(inner)


def unpack(outer: bytes, inner: bytes) -> Iterator[Entry]:
    """Read what `pack` wrote; raises BadText. Without a second, all is in the first, as it was before."""
    at = taken = 0
    while at < len(outer):
        try:
            (size,) = _SIZE.unpack_from(outer, at)
            held = _FIXED.unpack_from(outer, at + _SIZE.size)[-1] if inner else 0
        except struct.error:
            raise BadText("the copy ends within an entry") from None
        at, end = at + _SIZE.size, at + _SIZE.size + size - held
        if size > MAX_ENTRY_BYTES or not at <= end <= len(outer) or taken + held > len(inner):
            raise BadText("the copy ends within an entry")
        yield Entry.parse(outer[at:end] + inner[taken : taken + held])
        at, taken = end, taken + held
    if taken != len(inner):
        raise BadText("the copy has more than its entries")
