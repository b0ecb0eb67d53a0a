"""What a notary signs: messages of the log as leaves of a tree, and heads of trees.

An entry's bytes are what a leaf is the hash of, and what is kept as a copy. Whoever wants to check a proof
needs this file's two encodings, SHA-256 and Ed25519, and nothing else.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from core import merkle
from core.errors import HandrailError

NOTHING = bytes(merkle.HASH_BYTES)
"""What the first event of a run has before it."""
MAX_ENTRY_BYTES = 64 * 1024 * 1024
_FIXED = struct.Struct(">QQ32sHHI")
_SIZE = struct.Struct(">I")
_RUN_SUBJECT = re.compile(r"ev\.[0-9]+\.([^.]+\.[^.]+)\..+", re.DOTALL)


class BadEntry(HandrailError):
    """Bytes that are no entry."""


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
        return _FIXED.pack(self.sequence, self.time_ns, self.previous, *sizes) + subject + trace + self.data

    @staticmethod
    def parse(text: bytes) -> Entry:
        """Read what `dump` wrote; raises BadEntry."""
        try:
            sequence, time_ns, previous, subject, trace, data = _FIXED.unpack_from(text)
            if _FIXED.size + subject + trace + data != len(text):
                raise BadEntry("an entry has not the length that it says")
            rest = text[_FIXED.size :]
            parts = (rest[:subject].decode(), rest[subject : subject + trace].decode())
            return Entry(sequence, time_ns, *parts, rest[subject + trace :], previous)
        except (struct.error, UnicodeDecodeError) as error:
            raise BadEntry(f"an entry cannot be read: {error}") from None

    @property
    def leaf(self) -> bytes:
        """The hash that stands for it in the tree."""
        return merkle.leaf(self.dump())

    @property
    def run(self) -> str:
        """Tenant and run whose event it is; empty where it is none."""
        found = _RUN_SUBJECT.fullmatch(self.subject)
        return found.group(1) if found else ""


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


def pack(entries: Iterator[bytes] | list[bytes]) -> bytes:
    """Put dumped entries behind each other."""
    return b"".join(_SIZE.pack(len(one)) + one for one in entries)


def unpack(text: bytes) -> Iterator[Entry]:
    """Read what `pack` wrote; raises BadEntry."""
    at = 0
    while at < len(text):
        if at + _SIZE.size > len(text):
            raise BadEntry("the copy ends within an entry")
        (size,) = _SIZE.unpack_from(text, at)
        at += _SIZE.size
        if size > MAX_ENTRY_BYTES or at + size > len(text):
            raise BadEntry("the copy ends within an entry")
        yield Entry.parse(text[at : at + size])
        at += size
