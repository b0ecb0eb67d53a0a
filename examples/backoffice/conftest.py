"""Every test has an office of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the database of this test; it is made when it is first used."""
    file = tmp_path / "office.db"
    monkeypatch.setenv("BACKOFFICE_DB", str(file))
    return file
