"""The files in which the broker keeps a stream, as somebody edits them who knows their checksums.

A record is its length, sequence, time, subject, headers (where the length's highest bit says so), data, and a
HighwayHash of all but the length, whose key is the hash of the stream's name and the file's number.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_MASK = (1 << 64) - 1
_HAS_HEADERS = 1 << 31
_FIXED = struct.Struct("<IQQH")
_HASH_BYTES = 8


@dataclass(frozen=True)
class Stored:
    """A record."""

    sequence: int
    time_ns: int
    subject: bytes
    # With their length before them; empty where there are none.
    headers: bytes
    data: bytes

    def dump(self, key: bytes) -> bytes:
        numbers = struct.pack("<QQ", self.sequence, self.time_ns)
        hashed = numbers + self.subject + self.headers[4:] + self.data
        body = numbers + struct.pack("<H", len(self.subject)) + self.subject + self.headers + self.data
        size = 4 + len(body) + _HASH_BYTES
        mark = _HAS_HEADERS if self.headers else 0
        return struct.pack("<I", size | mark) + body + struct.pack("<Q", highway_hash(hashed, key))


def block_key(stream: str, path: Path) -> bytes:
    return hashlib.sha256(f"{stream}-{path.stem}".encode()).digest()


def read_block(path: Path) -> list[Stored]:
    return list(_records(path.read_bytes()))


def write_block(path: Path, stream: str, records: list[Stored]) -> None:
    key = block_key(stream, path)
    path.write_bytes(b"".join(record.dump(key) for record in records))


def edit(path: Path, stream: str, sequence: int, data: bytes) -> None:
    """Put other data of the same length in the place of a message's."""
    records = read_block(path)
    assert len(data) == len(records[sequence - 1].data)
    records[sequence - 1] = replace(records[sequence - 1], data=data)
    write_block(path, stream, records)


def swap(path: Path, stream: str, sequence: int) -> None:
    """Have a message and the next one change places."""
    records = read_block(path)
    one, two = records[sequence - 1], records[sequence]
    records[sequence - 1] = replace(two, sequence=one.sequence, time_ns=one.time_ns)
    records[sequence] = replace(one, sequence=two.sequence, time_ns=two.time_ns)
    write_block(path, stream, records)


def _records(text: bytes) -> Iterator[Stored]:
    at = 0
    while at < len(text):
        marked, sequence, time_ns, size = _FIXED.unpack_from(text, at)
        end = at + (marked & ~_HAS_HEADERS)
        rest = text[at + _FIXED.size : end - _HASH_BYTES]
        subject, rest = rest[:size], rest[size:]
        headers = 4 + int.from_bytes(rest[:4], "little") if marked & _HAS_HEADERS else 0
        yield Stored(sequence, time_ns, subject, rest[:headers], rest[headers:])
        at = end


class _State:
    def __init__(self, key: bytes) -> None:
        lanes = struct.unpack("<4Q", key)
        self.mul0 = [0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3]
        self.mul1 = [0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377]
        self.v0 = [mul ^ lane for mul, lane in zip(self.mul0, lanes, strict=True)]
        self.v1 = [mul ^ _turned(lane) for mul, lane in zip(self.mul1, lanes, strict=True)]

    def update(self, packet: bytes) -> None:
        self.update_lanes(list(struct.unpack("<4Q", packet)))

    def update_lanes(self, lanes: list[int]) -> None:
        v0, v1 = self.v0, self.v1
        for i in range(4):
            v1[i] = (v1[i] + self.mul0[i] + lanes[i]) & _MASK
            self.mul0[i] ^= (v1[i] & 0xFFFFFFFF) * (v0[i] >> 32)
            v0[i] = (v0[i] + self.mul1[i]) & _MASK
            self.mul1[i] ^= (v0[i] & 0xFFFFFFFF) * (v1[i] >> 32)
        for source, sink in ((v1, v0), (v0, v1)):
            for i in (0, 2):
                low, high = _zipped(source[i], source[i + 1])
                sink[i], sink[i + 1] = (sink[i] + low) & _MASK, (sink[i + 1] + high) & _MASK

    def remainder(self, rest: bytes) -> None:
        size, whole = len(rest), len(rest) & ~3
        packet = bytearray(32)
        packet[:whole] = rest[:whole]
        if size & 16:
            packet[28:32] = rest[size - 4 :]
        elif size & 3:
            tail = rest[whole:]
            packet[16:19] = bytes((tail[0], tail[(size & 3) >> 1], tail[(size & 3) - 1]))
        for i in range(4):
            self.v0[i] = (self.v0[i] + (size << 32) + size) & _MASK
            low, high = self.v1[i] & 0xFFFFFFFF, self.v1[i] >> 32
            self.v1[i] = _rotated(high, size) << 32 | _rotated(low, size)
        self.update(bytes(packet))

    def finish(self) -> int:
        for _ in range(4):
            self.update_lanes([_turned(self.v0[i]) for i in (2, 3, 0, 1)])
        return (self.v0[0] + self.v1[0] + self.mul0[0] + self.mul1[0]) & _MASK


def highway_hash(data: bytes, key: bytes) -> int:
    state = _State(key)
    whole = len(data) & ~31
    for at in range(0, whole, 32):
        state.update(data[at : at + 32])
    if whole < len(data):
        state.remainder(data[whole:])
    return state.finish()


def _turned(lane: int) -> int:
    return lane >> 32 | (lane & 0xFFFFFFFF) << 32


def _rotated(half: int, by: int) -> int:
    return (half << by | half >> 32 - by) & 0xFFFFFFFF


def _zipped(v0: int, v1: int) -> tuple[int, int]:
    low = (
        ((v0 & 0xFF000000) | (v1 & 0xFF00000000)) >> 24
        | ((v0 & 0xFF0000000000) | (v1 & 0xFF000000000000)) >> 16
        | (v0 & 0xFF0000)
        | (v0 & 0xFF00) << 32
        | (v1 & 0xFF00000000000000) >> 8
        | (v0 << 56 & _MASK)
    )
    high = (
        ((v1 & 0xFF000000) | (v0 & 0xFF00000000)) >> 24
        | (v1 & 0xFF0000)
        | (v1 & 0xFF0000000000) >> 16
        | (v1 & 0xFF00) << 24
        | (v0 & 0xFF000000000000) >> 8
        | (v1 & 0xFF) << 48
        | (v0 & 0xFF00000000000000)
    )
    return low, high
