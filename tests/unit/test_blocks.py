"""The broker's files: hashes as published, and messages that come back as they were."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bus import blocks
from bus.highway import highway_hash
from bus.store import Stored

KEY = bytes(range(32))
MESSAGES = [
    Stored(n, 1_000 + n, f"ev.0.t.r0-{n}.x", bytes([n]) * 40, "00-ab" if n % 2 else "") for n in range(1, 10)
]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 0x907A56DE22C26E53), (1, 0x7EAB43AAC7CDDD78), (2, 0xB8D0569AB0B53D62), (3, 0x5C6BEFAB8A463D80)],
)
def test_the_published_hashes(size: int, expected: int) -> None:
    assert highway_hash(bytes(range(size)), KEY) == expected


def written(place: Path) -> Path:
    (place / "msgs").mkdir()
    (place / "msgs" / "index.db").write_text("of before")
    assert blocks.write_stream(place, "EV_0", MESSAGES) == len(MESSAGES)
    assert [path.name for path in (place / "msgs").iterdir()] == ["1.blk"]
    return place / "msgs" / "1.blk"


def test_messages_come_back_as_they_were(tmp_path: Path) -> None:
    written(tmp_path)
    assert list(blocks.salvage(tmp_path, "EV_0", 0)) == MESSAGES
    assert list(blocks.salvage(tmp_path, "EV_0", 6)) == MESSAGES[6:]
    assert list(blocks.salvage(tmp_path, "EV_0", 9)) == []


def test_many_messages_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 150)
    (tmp_path / "msgs").mkdir()
    blocks.write_stream(tmp_path, "EV_0", MESSAGES)
    assert len(list((tmp_path / "msgs").iterdir())) > 2
    assert list(blocks.salvage(tmp_path, "EV_0", 0)) == MESSAGES


def flip(text: bytearray) -> None:
    text[len(text) // 2] ^= 1


def cut(text: bytearray) -> None:
    del text[len(text) // 2 :]


def overlong(text: bytearray) -> None:
    text[: struct.calcsize("<I")] = struct.pack("<I", 1 << 30)


@pytest.mark.parametrize("damage", [flip, cut, overlong])
def test_what_is_damaged_and_what_follows_is_left(
    tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    path = written(tmp_path)
    text = bytearray(path.read_bytes())
    damage(text)
    path.write_bytes(text)
    saved = list(blocks.salvage(tmp_path, "EV_0", 0))
    assert len(saved) < len(MESSAGES)
    assert saved == MESSAGES[: len(saved)]


def test_another_streams_files_are_not_taken(tmp_path: Path) -> None:
    written(tmp_path)
    assert list(blocks.salvage(tmp_path, "EV_1", 0)) == []
