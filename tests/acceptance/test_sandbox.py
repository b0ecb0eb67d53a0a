"""A project with a toolbox that is shut in, under the real command line."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from handrail.sandbox import confine
from handrail.sandbox.mechanism import found
from tests.acceptance.conftest import HANDRAIL, OPEN_POLICY, Up, handrail, start, status_name, wait_for

SETTINGS = """
[toolboxes.desk]
modules = ["desk"]

[toolboxes.desk.may]
write = ["out"]
memory_mb = 256

[toolboxes.desk.env]
DESK_NAME = "desk 1"
"""
MODULE = """
import os
from pathlib import Path

from handrail.tool import call, tool

HERE = Path(__file__).parent
for place in (HERE / "imported", HERE / "out" / "imported"):
    try:
        place.write_text("x")
    except OSError:
        pass


@tool(effect="read")
def read_note(name: str) -> str | None:
    path = HERE / "out" / name
    return path.read_text() if path.exists() else None


@tool(
    effect="write",
    idempotency="natural",
    reads={"note": call("read_note", name="args.name")},
    post="reads.note == args.text",
)
def write_note(name: str, text: str) -> str:
    (HERE / "out" / name).write_text(text)
    return os.environ["DESK_NAME"]


@tool(effect="write", doubt=True)
def take_memory() -> str:
    kept = [bytearray(100 << 20) for _ in range(100)]
    return str(len(kept))


@tool(effect="write", doubt=True)
def die(code: int) -> str:
    os._exit(code)


@tool(effect="read")
def read_key(path: str) -> str:
    return Path(path).read_text()
"""
HAS_ANY = found().name != "none"


def write_project(directory: Path, settings: str = SETTINGS) -> Path:
    (directory / "out").mkdir(parents=True)
    (directory / "handrail.toml").write_text(settings)
    (directory / "desk.py").write_text(MODULE)
    (directory / "policy").mkdir()
    (directory / "policy" / "open.cedar").write_text(OPEN_POLICY)
    return directory


@pytest.fixture(scope="module", params=["inline", "ray"])
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = start(write_project(tmp_path_factory.mktemp("desk") / "project"), request.param)
    yield up
    assert up.stop() == 0
    wait_for("the end of every child", lambda: not up.children(), 15)


def steps(*named: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"steps": [{"id": f"s{n}", "tool": tool, "with": said} for n, (tool, said) in enumerate(named)]}


def run(up: Up, plan: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Have a plan carried out; return how that ended, and the log."""
    with up.client() as client:
        submitted = client.submit("desk work", plan=plan)
        ended = client.wait(submitted.run, timeout_s=60)
    told = handrail("log", submitted.run, "--server", up.address, "--json")
    return status_name(ended.status), [json.loads(line) for line in told.stdout.splitlines()]


def test_an_effect_goes_through_and_is_verified_in_its_sandbox(desk: Up) -> None:
    status, events = run(desk, steps(("write_note", {"name": "a.txt", "text": "hello"})))
    assert status == "done", events
    assert (desk.project / "out" / "a.txt").read_text() == "hello"
    assert "desk 1" in json.dumps(events)
    assert "reads.note == args.text" in json.dumps(events)
    code = b64encode(sha256((desk.project / "desk.py").read_bytes()).digest()).decode()
    assert code in json.dumps(events)
    # Nobody has imported the module where it could write beside itself.
    assert not (desk.project / "imported").exists()
    assert (desk.project / "out" / "imported").exists()


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "says"),
    [
        ("take_memory", {}, "tool_raised", "MemoryError"),
        ("die", {"code": 7}, "stopped", "its process ended: exit status 7"),
    ],
)
def test_what_a_hostile_tool_does_stands_in_the_log(
    desk: Up, tool: str, arguments: dict[str, Any], code: str, says: str
) -> None:
    workers = {name: pid for name, pid in desk.children().items() if name.startswith("worker")}
    with desk.client() as client:
        submitted = client.submit("desk work", plan=steps((tool, arguments)))
        wait_for("its failure", lambda: code in logged(desk, submitted.run))
    told = logged(desk, submitted.run)
    assert says in told
    status, _ = run(desk, steps(("write_note", {"name": "b.txt", "text": tool})))
    assert status == "done"
    assert {name: pid for name, pid in desk.children().items() if name.startswith("worker")} == workers


def logged(up: Up, run_id: str) -> str:
    return handrail("log", run_id, "--server", up.address, "--json").stdout


def test_the_stacks_keys_are_out_of_reach(desk: Up) -> None:
    for path in (desk.data / "permits.key", desk.token, desk.project / "handrail.toml"):
        assert path.exists()
        status, events = run(desk, steps(("read_key", {"path": str(path)})))
        assert status == "failed", events
        assert "FileNotFoundError" in json.dumps(events) or "PermissionError" in json.dumps(events)


def test_one_run_on_the_embedded_stack(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(steps(("write_note", {"name": "a.txt", "text": "hello"}))))
    done = handrail("run", "note it", "--plan", str(plan), "--project", str(project), "--json")
    assert done.returncode == 0, done.stderr
    assert (project / "out" / "a.txt").read_text() == "hello"
    assert not (project / "imported").exists()
    assert "Warning" not in done.stderr


@pytest.fixture
def without_bubblewrap(tmp_path: Path) -> str:
    """A path on which there is everything but bubblewrap."""
    kept = [entry for entry in os.environ["PATH"].split(os.pathsep) if not (Path(entry) / "bwrap").exists()]
    if shutil.which("bwrap", path=os.pathsep.join(kept)):
        pytest.skip("bubblewrap cannot be hidden")
    return os.pathsep.join([str(HANDRAIL.parent), *kept])


def test_without_what_is_needed_nothing_starts(tmp_path: Path, without_bubblewrap: str) -> None:
    project = write_project(tmp_path / "project", SETTINGS + '[sandbox]\nweakest = "bubblewrap"\n')
    for words in (["run", "x"], ["up", "--host", "inline"]):
        done = handrail(*words, "--project", str(project), PATH=without_bubblewrap)
        assert done.returncode != 0
        assert "the toolbox desk cannot be shut in" in done.stderr
        assert "Install bubblewrap" in done.stderr
        assert "Traceback" not in done.stderr
    doctor = handrail("doctor", "--project", str(project), "--json", PATH=without_bubblewrap).stdout
    findings = [json.loads(line) for line in doctor.splitlines()]
    assert [one["status"] for one in findings if one["check"] == "sandbox"] == ["fail"]


def test_what_runs_open_is_loud(tmp_path: Path, without_bubblewrap: str) -> None:
    settings = SETTINGS.replace('write = ["out"]', 'write = ["out"]\nhosts = ["api.example.com:443"]')
    project = write_project(tmp_path / "project", settings + '[sandbox]\nweakest = "none"\n')
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(steps(("write_note", {"name": "a.txt", "text": "hello"}))))
    words = ("run", "note it", "--plan", str(plan), "--project", str(project), "--json")
    done = handrail(*words, PATH=without_bubblewrap)
    assert done.returncode == 0, done.stderr
    assert "Warning: not shut in, as [sandbox] weakest says: desk" in done.stderr
    assert "tools run open" in (project / ".handrail" / "logs" / "run.log").read_text()
    shown = handrail("tools", "show", "write_note", "--project", str(project), PATH=without_bubblewrap)
    assert "NO: the settings let it run open" in shown.stdout


@pytest.mark.skipif(not HAS_ANY, reason=f"nothing here shuts tools in; Landlock {confine.landlock_abi()}")
def test_what_a_tool_may_touch_is_said_back(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    shown = handrail("tools", "show", "write_note", "--project", str(project))
    assert shown.returncode == 0, shown.stderr
    for text in (f"by {found().name}", "may write", "out", "DESK_NAME", "256 MB of memory"):
        assert text in shown.stdout
    told = json.loads(handrail("tools", "show", "write_note", "--project", str(project), "--json").stdout)
    assert told["may"]["shut_in"] is True
    assert told["may"]["by"] == found().name
    assert told["may"]["write"] == ["out"]
    assert not (project / "imported").exists()
