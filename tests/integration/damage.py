"""Somebody edits the broker's files who knows their checksums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bus.blocks import read_block, write_block


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


def flip(path: Path, share: float) -> None:
    """Turn a bit, so far into a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut the last tenth of a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])


def drop(path: Path, stream: str, count: int) -> None:
    """Leave a stream's last messages out."""
    write_block(path, stream, read_block(path)[:-count])
