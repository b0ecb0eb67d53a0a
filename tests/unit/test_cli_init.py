"""`handrail init`: a project that loads as it is, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail.cli.exits import CommandError
from handrail.cli.init import GOAL, create
from handrail.project import load


def test_the_template_is_a_sound_project(tmp_path: Path) -> None:
    made = create(tmp_path / "shed")
    assert Path(".gitignore") in made
    assert not any("__pycache__" in path.parts for path in made)
    assert Path("policy/rules.cedar") in made
    project = load(tmp_path / "shed", rules=True)
    assert not project.policy_files.built_in
    assert set(project.tools) == {"get_item", "loan_by_key", "lend_item", "return_item"}
    assert [playbook.name for playbook in project.playbooks] == ["lend", "swap"]


def test_the_goal_that_it_suggests_matches_a_playbook(tmp_path: Path) -> None:
    from core.playbook import Match, match

    create(tmp_path)
    found = match(GOAL, load(tmp_path).playbooks, {})
    assert isinstance(found, Match)
    assert found.slots == {"item": "drill", "borrower": "Ada"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("mine")
    with pytest.raises(CommandError, match=r"has tools\.py already; nothing was written"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tools.py"]
    assert (tmp_path / "tools.py").read_text() == "mine"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="is not a directory"):
        create(tmp_path / "file")
