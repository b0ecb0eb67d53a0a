"""Which files exist for a tool that is shut in."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail.sandbox import places
from handrail.sandbox.places import BadPlaces, Places


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    for name in (".handrail", ".git", "src", "state/data", "out/deep", "policy"):
        (directory / name).mkdir(parents=True)
    for name in (
        ".env",
        "handrail.toml",
        "desk.py",
        "src/lib.py",
        "state/note",
        "state/data/auth.json",
        "key.pem",
    ):
        (directory / name).write_text(name)
    (directory / "link").symlink_to(".handrail")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    return directory


def find(
    project: Path, *, read: tuple[str, ...] = (), write: tuple[str, ...] = (), hidden: tuple[str, ...] = ()
) -> Places:
    secret = [project / name for name in (".handrail", "handrail.toml", *hidden)]
    return places.find(project, read, write, secret, [project / "desk.py", project / "policy"])


def can_read(found: Places, path: Path) -> bool:
    return any(path.is_relative_to(one) for one in (*found.read, *found.write))


def test_the_project_is_there_without_what_is_hidden(project: Path) -> None:
    found = find(project, hidden=("key.pem", "state/data"))
    for name in ("desk.py", "src/lib.py", "state/note"):
        assert can_read(found, project / name), name
    for name in (".env", ".git", ".handrail", "handrail.toml", "key.pem", "state/data/auth.json"):
        assert not can_read(found, project / name), name
    assert project not in found.read
    assert not can_read(found, project.parent / "outside" / "file")
    assert found.write == ()


def test_a_link_is_a_link_and_not_what_it_leads_to(project: Path) -> None:
    found = find(project)
    assert project / "link" in found.read
    assert all(one.is_symlink() or not one.is_relative_to(project / ".handrail") for one in found.read)


def test_nothing_of_the_machine_is_there_but_its_programs(project: Path) -> None:
    found = find(project)
    for text in (
        "/etc/shadow",
        "/etc/passwd",
        "/etc/ssl/private/x.key",
        "/etc/pki/tls/private/x",
        "/home/x",
        "/var/x",
    ):
        assert not can_read(found, Path(text)), text
    assert can_read(found, Path("/usr/bin/env"))


def test_a_project_in_the_system_is_no_part_of_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where it often lies in /usr/src."""
    monkeypatch.setattr(places, "_SYSTEM", (str(project.parent),))
    found = find(project)
    assert can_read(found, project.parent / "outside" / "file")
    assert can_read(found, project / "src" / "lib.py")
    for name in (".env", ".handrail", "handrail.toml"):
        assert not can_read(found, project / name), name


def test_what_is_listed_is_there(project: Path) -> None:
    outside = project.parent / "outside"
    found = find(project, read=("../outside",), write=("out",))
    assert can_read(found, outside / "file")
    assert found.write == (project / "out",)
    assert project / "out" not in found.read
    assert find(project, write=("out", "../outside")).write == (project / "out", outside)


def test_what_is_hidden_stays_so_in_what_is_listed(project: Path) -> None:
    found = find(project, read=("..", "state", "link"), hidden=("state/data",))
    assert can_read(found, project / "state" / "note")
    for name in ("state/data/auth.json", ".handrail/x", "handrail.toml"):
        assert not can_read(found, project / name), name


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (".", "away|holds the project"),
        ("..", "away|holds the project"),
        ("/", "away|holds the project"),
        ("none", "there is no 'none'"),
        (".handrail", "away"),
        ("link", "away"),
        ("state", "away"),
        ("state/data", "away"),
        ("policy", "be changed"),
        ("desk.py", "be changed"),
        ("~nobody-at-all/x", "names no path"),
        ("a\0b", "names no path"),
    ],
)
def test_what_may_not_be_written_is_told(project: Path, write: str, says: str) -> None:
    with pytest.raises(BadPlaces, match=says):
        find(project, write=(write,), hidden=("state/data",))


def test_where_handrail_or_python_lies_is_not_written(project: Path) -> None:
    for path in (*places.import_path(), str(places.interpreter().parent)):
        with pytest.raises(BadPlaces, match=r"may\.write"):
            find(project, write=(path,))


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (("out/deep",), ("out",)),
        ((), ("out", "out/deep")),
        (("src/../out/deep",), ("out",)),
        (("through/deep",), ("out",)),
        (("out/deep/deeper",), ("out",)),
    ],
)
def test_a_path_that_a_tool_could_replace_by_a_link_is_told(
    project: Path, read: tuple[str, ...], write: tuple[str, ...]
) -> None:
    (project / "through").symlink_to("out")
    (project / "out" / "deep" / "deeper").mkdir()
    with pytest.raises(BadPlaces, match="can be written"):
        find(project, read=read, write=write)


def test_a_loop_of_links_is_told(project: Path) -> None:
    (project / "round").symlink_to("about")
    (project / "about").symlink_to("round")
    with pytest.raises(BadPlaces, match=r"may\.read"):
        find(project, read=("round",))


def test_entries_are_bounded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_ENTRIES", 3)
    with pytest.raises(BadPlaces, match="3 may be"):
        find(project)
