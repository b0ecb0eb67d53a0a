"""The notary's copy of the keys: one line each, overwritten where it stands, whole after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus import subjects
from core.ports import RunKey
from handrail.cipher import new_key
from orchestrator.book import BadBook
from orchestrator.key_copy import KEYS_FILE, KeyCopy, key_in

ONE, TWO, THREE = (RunKey(0, "acme", f"r0-{number:010}") for number in range(3))


def test_keys_are_kept_once_and_found_again(tmp_path: Path) -> None:
    one, two = new_key(), new_key()
    copy = KeyCopy(tmp_path)
    assert (list(copy.kept()), key_in(tmp_path, ONE)) == ([], b"")
    copy.add({ONE: one})
    copy.add({ONE: new_key(), TWO: two})
    copy.add({})
    for found in (copy, KeyCopy(tmp_path)):
        assert dict(found.kept()) == {ONE: one, TWO: two}
        assert (ONE in found, THREE in found) == (True, False)
    assert key_in(tmp_path, TWO) == two
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600


def test_what_is_erased_is_overwritten_and_stays_so(tmp_path: Path) -> None:
    one, two = new_key(), new_key()
    copy = KeyCopy(tmp_path)
    copy.add({ONE: one, TWO: two})
    size = (tmp_path / KEYS_FILE).stat().st_size
    copy.erase([ONE, THREE])
    copy.erase([ONE])
    copy.add({ONE: one})
    text = (tmp_path / KEYS_FILE).read_bytes()
    assert len(text) == size
    assert one.hex().encode() not in text
    assert dict(KeyCopy(tmp_path).kept()) == {ONE: b"", TWO: two}
    # One that was deleted before it was heard of.
    copy.add({THREE: b""})
    assert dict(KeyCopy(tmp_path).kept())[THREE] == b""


@pytest.mark.parametrize("cut", [1, 10, 70])
def test_a_line_that_was_half_written_is_written_anew(tmp_path: Path, cut: int) -> None:
    one, two = new_key(), new_key()
    KeyCopy(tmp_path).add({ONE: one, TWO: two})
    path = tmp_path / KEYS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    copy = KeyCopy(tmp_path)
    assert dict(copy.kept()) == {ONE: one}
    copy.add({TWO: two, THREE: one})
    assert dict(KeyCopy(tmp_path).kept()) == {ONE: one, TWO: two, THREE: one}


@pytest.mark.parametrize(
    "text", [b"nonsense\n", b"00 0 acme r0-0000000000\n", b"\xff" * 64 + b" 0 a r\n", b"0" * 64 + b" x a r\n"]
)
def test_another_file_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / KEYS_FILE).write_bytes(text)
    with pytest.raises(BadBook, match="keys cannot be read at byte 0"):
        KeyCopy(tmp_path)


def test_a_subject_names_its_run() -> None:
    run = "r0-0000000000"
    for subject in (f"key.0.acme.{run}", f"ev.0.acme.{run}.cmd.submit", f"blob.0.acme.{run}.aa.0"):
        assert subjects.run_at(subject) == ONE
    for subject in (
        "req.x",
        f"key.1.acme.{run}",
        "key.0.acme.odd",
        "key.0",
        f"key.0.a.b.{run}",
        "key.\u00b2.a.b",
    ):
        assert subjects.run_at(subject) is None
