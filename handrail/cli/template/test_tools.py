"""Tests of the tools, called as the plain functions that they are, and of the project as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import tools

from handrail.project import load
from handrail.tool import ToolError


@pytest.fixture(autouse=True)
def own_shed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a shed of its own."""
    monkeypatch.setenv("SHED_DB", str(tmp_path / "shed.db"))


def test_the_project_has_no_contradictions() -> None:
    """Settings, contracts and playbooks fit together (`handrail tools check`)."""
    assert set(load(Path(__file__).parent).tools) == {"get_item", "loan_by_key", "lend_item", "return_item"}


def test_lending_the_same_key_twice_lends_once() -> None:
    """A repeated key returns the first outcome."""
    first = tools.lend_item("drill", "Ada", key="k1")
    assert tools.lend_item("drill", "Ada", key="k1") == first
    assert tools.loan_by_key("k1") == first
    assert tools.get_item("drill").borrower == "Ada"


def test_what_is_out_cannot_be_lent() -> None:
    """The second borrower is refused, and nothing changes."""
    tools.lend_item("saw", "Ada", key="k1")
    with pytest.raises(ToolError, match="not in the shed"):
        tools.lend_item("saw", "Grace", key="k2")
    assert tools.return_item("saw").borrower is None
