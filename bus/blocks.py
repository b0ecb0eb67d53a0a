"""The files in which nats-server keeps a stream: how a log is put back with the sequences and times it had.

No request can give a message a time. A record is its length, sequence, time, subject, headers (where the
length's highest bit says so), data, and a HighwayHash of all but the length, whose key is the hash of the
stream's name and the file's number. What was written is compared with what was signed for, before it is used.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bus.answers import TRACE_HEADER, trace_in
from bus.highway import highway_hash
from bus.store import Stored

_HAS_HEADERS = 1 << 31
_FIXED = struct.Struct("<IQQH")
_HASH_BYTES = 8
_NUMBERS = struct.Struct("<QQ")
_HEADERS = "NATS/1.0\r\n{name}: {value}\r\n\r\n"
MAX_BLOCK_BYTES = 4 * 1024 * 1024
"""Of one file; one record is written whole."""
INDEX_FILE = "index.db"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A record."""

    sequence: int
    time_ns: int
    subject: bytes
    # With their length before them; empty where there are none.
    headers: bytes
    data: bytes

    def dump(self, key: bytes) -> bytes:
        """Return its bytes, in a file with this key."""
        body = b"".join(
            (
                _NUMBERS.pack(self.sequence, self.time_ns),
                struct.pack("<H", len(self.subject)),
                self.subject,
                self.headers,
                self.data,
            )
        )
        mark = _HAS_HEADERS if self.headers else 0
        size = struct.pack("<I", (4 + len(body) + _HASH_BYTES) | mark)
        return size + body + struct.pack("<Q", self.hash(key))

    def hash(self, key: bytes) -> int:
        """Return the hash that is to follow it."""
        numbers = _NUMBERS.pack(self.sequence, self.time_ns)
        return highway_hash(numbers + self.subject + self.headers[4:] + self.data, key)


_DELETED = 1 << 62
"""The sequences of what was deleted have one of the two bits above this."""


def block_key(stream: str, path: Path) -> bytes:
    """Return the key of the hashes in one of a stream's files."""
    return hashlib.sha256(f"{stream}-{path.stem}".encode()).digest()


def read_block(path: Path) -> list[FileRecord]:
    """Read a whole file."""
    return [record for record, _ in _records(path.read_bytes())]


def write_block(path: Path, stream: str, records: Iterable[FileRecord]) -> None:
    """Write a whole file."""
    key = block_key(stream, path)
    path.write_bytes(b"".join(record.dump(key) for record in records))


def write_stream(place: Path, stream: str, messages: Iterable[Stored]) -> int:
    """Put messages into the empty files of a stream, in order, and return how many they were."""
    folder = place / "msgs"
    for path in folder.iterdir():
        path.unlink()
    number, count, written, size = 1, 0, list[FileRecord](), 0
    for stored in messages:
        record = _record(stored)
        written.append(record)
        count, size = count + 1, size + len(record.data) + len(record.headers) + len(record.subject)
        if size >= MAX_BLOCK_BYTES:
            write_block(folder / f"{number}.blk", stream, written)
            number, written, size = number + 1, [], 0
    if written:
        write_block(folder / f"{number}.blk", stream, written)
    return count


def salvage(place: Path, stream: str, after: int) -> Iterator[Stored]:
    """Yield the messages behind a sequence that a stream's files still hold whole and without a gap."""
    expected = after + 1
    for path in sorted((place / "msgs").glob("*.blk"), key=lambda path: int(path.stem)):
        key = block_key(stream, path)
        for record, said in _records(path.read_bytes()):
            if record.sequence < expected:
                continue
            if record.sequence != expected or record.hash(key) != said:
                return
            yield Stored(
                record.sequence,
                record.time_ns,
                record.subject.decode(),
                record.data,
                trace_in(record.headers[4:]),
            )
            expected += 1


def whole(place: Path, stream: str) -> Iterator[Stored]:
    """Yield what a stream's files still hold whole, gaps or not, but for what was deleted."""
    for path in sorted((place / "msgs").glob("*.blk"), key=lambda path: int(path.stem)):
        key = block_key(stream, path)
        for record, said in _records(path.read_bytes()):
            if record.sequence < _DELETED and record.hash(key) == said:
                yield Stored(record.sequence, record.time_ns, record.subject.decode(), record.data)


def _record(stored: Stored) -> FileRecord:
    headers = _HEADERS.format(name=TRACE_HEADER, value=stored.trace).encode() if stored.trace else b""
    with_size = struct.pack("<I", len(headers)) + headers if headers else b""
    return FileRecord(stored.sequence, stored.time_ns, stored.subject.encode(), with_size, stored.data)


def _records(text: bytes) -> Iterator[tuple[FileRecord, int]]:
    """Yield the records of a file with their hashes, as far as it can be read."""
    at = 0
    while at + _FIXED.size + _HASH_BYTES <= len(text):
        marked, sequence, time_ns, size = _FIXED.unpack_from(text, at)
        end = at + (marked & ~_HAS_HEADERS)
        if not at + _FIXED.size + size + _HASH_BYTES <= end <= len(text):
            return
        rest = text[at + _FIXED.size : end - _HASH_BYTES]
        subject, rest = rest[:size], rest[size:]
        headers = 4 + int.from_bytes(rest[:4], "little") if marked & _HAS_HEADERS else 0
        (said,) = struct.unpack_from("<Q", text, end - _HASH_BYTES)
        yield FileRecord(sequence, time_ns, subject, rest[:headers], rest[headers:]), said
        at = end
