"""A log that is not what was signed for: no command starts on it, and each says so in so many words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.blocks import read_block
from tests.acceptance.conftest import handrail
from tests.integration import damage

GOAL = "lend the drill to Ada"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one run."""
    project = tmp_path_factory.mktemp("original") / "shed"
    for command in (("init", str(project)), ("run", GOAL, "--project", str(project))):
        done = handrail(*command)
        assert done.returncode == 0, done.stderr
    return project


def _stream(project: Path) -> str:
    (leaves,) = project.glob(".handrail/notary/*/leaves")
    return leaves.parent.name


def _block(project: Path) -> Path:
    (found,) = project.glob(f".handrail/broker/**/{_stream(project)}/msgs/*.blk")
    return found


def edit(project: Path) -> None:
    path, stream = _block(project), _stream(project)
    damage.edit(path, stream, 3, bytes(len(read_block(path)[2].data)))


def cut(project: Path) -> None:
    _block(project).write_bytes(_block(project).read_bytes()[:-1])
    for index in project.glob(".handrail/broker/**/index.db"):
        index.unlink()


def delete_broker(project: Path) -> None:
    shutil.rmtree(project / ".handrail/broker")


def delete_book(project: Path) -> None:
    shutil.rmtree(project / ".handrail/notary" / _stream(project))


def delete_copy(project: Path) -> None:
    (path,) = project.glob(".handrail/notary/*/*.z")
    path.unlink()


def delete_notarys(name: str) -> Damage:
    return lambda project: (project / ".handrail/notary" / name).unlink()


def take_anothers(project: Path) -> None:
    shutil.rmtree(project / ".handrail/notary/REQ")
    shutil.copytree(project / ".handrail/notary" / _stream(project), project / ".handrail/notary/REQ")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "edited": (edit, "Its first wrong message is 3: it was altered"),
    "cut": (cut, "Its first wrong message is {last}: the stream ends before it"),
    "without a log": (delete_broker, "Its first wrong message is 1"),
    "without a book": (delete_book, "is gone"),
    "without a copy": (delete_copy, "the copy of"),
    "without the key": (delete_notarys("key"), "key gone"),
    "without the public key": (delete_notarys("key.pub"), "key.pub gone"),
    "without the origin": (delete_notarys("origin"), "origin gone"),
    "another's book": (take_anothers, "is the head of another stream"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_it_is_refused(original: Path, tmp_path: Path, damage: Damage, says: str) -> None:
    project = tmp_path / "shed"
    shutil.copytree(original, project)
    # A mind that stood still for a moment has answered twice.
    says = says.format(last=len(read_block(_block(project))))
    damage(project)
    kept = {path: path.read_bytes() for path in (project / ".handrail/notary").rglob("*") if path.is_file()}
    world = (project / "shed.db").read_bytes()
    for command in (["run", GOAL], ["up", "--host", "inline"]):
        done = handrail(*command, "--project", str(project), "--json")
        assert (done.returncode, done.stdout) == (5, ""), done.stderr
        error = json.loads(done.stderr)["error"]
        assert says in error["what"]
        assert "Nothing goes on from there. " in error["what"]
        assert "handrail audit verify" in error["next"]
    assert kept == {path: path.read_bytes() for path in kept}
    assert (project / "shed.db").read_bytes() == world


def test_an_older_copy_of_the_whole_directory_is_refused_where_the_notary_is_elsewhere(
    tmp_path: Path,
) -> None:
    shed = tmp_path / "shed"
    assert handrail("init", str(shed)).returncode == 0
    with (shed / "handrail.toml").open("a") as file:
        file.write(f'\n[notary]\npath = "{tmp_path / "vault"}"\n')
    where = ("--project", str(shed))
    assert handrail("run", "lend the drill to Ada", *where).returncode == 0
    older = tmp_path / "older"
    shutil.copytree(shed / ".handrail", older, ignore=shutil.ignore_patterns("*.sock"))
    assert not (older / "notary").exists()
    assert handrail("run", "pass the drill on to Grace", *where).returncode == 0
    assert handrail("audit", "verify", "--all", *where).returncode == 0
    shutil.rmtree(shed / ".handrail")
    older.rename(shed / ".handrail")
    refused = handrail("run", "lend the saw to Ada", *where)
    assert refused.returncode == 5
    assert "is not what the notary has signed for" in refused.stderr
    assert handrail("restore", *where).returncode == 0
    assert handrail("run", "lend the saw to Ada", *where).returncode == 0
