"""The tools as plain functions, and the project as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail.modules import import_modules
from handrail.project import load

HERE = Path(__file__).parent


def test_the_project_has_no_contradictions() -> None:
    assert set(load(HERE).tools) == {"run_python", "read_page", "write_page", "remove_page"}


def test_a_page_is_written_read_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = import_modules(HERE, ["file_tools"])["file_tools"]
    monkeypatch.setattr(files, "DESK", tmp_path)
    assert files.read_page("a.txt") is None
    assert files.write_page("a.txt", "hello") == files.read_page("a.txt")
    assert files.remove_page("a.txt")
    assert files.read_page("a.txt") is None


def test_a_program_says_what_it_printed() -> None:
    code = import_modules(HERE, ["code_tools"])["code_tools"]
    assert code.run_python("print(6 * 7)").printed == "42\n"
    assert code.run_python("raise SystemExit(3)").status == 3
