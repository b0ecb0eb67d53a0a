"""`handrail up`: what it says when it is up, of its children, and to a second one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import bus.directory
import handrail.stack.cluster
from bus.directory import DirectoryOwned, Endpoint
from handrail.cli import up
from handrail.cli.exits import ExitCode
from handrail.cli.main import app
from handrail.cli.output import Output
from orchestrator.supervisor import ChildStatus

ENDPOINT = Endpoint("127.0.0.1:4000", "nats://127.0.0.1:4001", 77, 3, "/shop", "inline")


def child(name: str, state: Any, **fields: Any) -> ChildStatus:
    given = {"pid": 5, "generation": 1, "started_at": 0.0, "last_exit": None, "log": f"/logs/{name}.log"}
    return ChildStatus(name=name, state=state, **{**given, **fields})


CHILDREN = [
    child("gateway", "running"),
    child("worker-shed-0", "crash_loop", pid=None, generation=9, last_exit=-9),
]


class FakeCluster:
    endpoint = ENDPOINT

    def children(self) -> list[ChildStatus]:
        return CHILDREN


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(up, "log_to_file", lambda data, name: None)
    for name in ("HANDRAIL_PROJECT", "HANDRAIL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handrail.toml").write_text("")


def stack(monkeypatch: pytest.MonkeyPatch, *signals: int) -> None:
    """Let a stack come up, and these signals come when it is."""

    async def keep_up(
        project: Path, data: Path, *, host: str, on_ready: Callable[[Any], None], stop: Any
    ) -> None:
        on_ready(FakeCluster())
        for number in signals:
            os.kill(os.getpid(), number)
        await stop.wait()

    monkeypatch.setattr(handrail.stack.cluster, "up", keep_up)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_says_where_it_is_and_drains(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stack(monkeypatch, number)
    result = CliRunner().invoke(app, ["up", "--host", "inline"])
    assert result.exit_code == 0, result.output
    for text in ("127.0.0.1:4000", "nats://127.0.0.1:4001", "inline", "/shop", "/.handrail/logs", "Down."):
        assert text in result.stdout


def test_up_as_json_is_one_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stack(monkeypatch, signal.SIGINT)
    result = CliRunner().invoke(app, ["up", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["gateway"] == "127.0.0.1:4000"
    assert found["joined"] is False
    assert found["data"] == str(tmp_path / ".handrail")


def test_a_second_up_says_who_owns_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus.directory, "find_endpoint", lambda path: ENDPOINT)
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == 0
    assert "process 77 owns" in result.stdout
    assert "127.0.0.1:4000" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["up", "--json"]).stdout)["joined"] is True


def test_whoever_is_a_moment_late_joins_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, ENDPOINT, ENDPOINT])

    async def keep_up(project: Path, data: Path, **_: Any) -> None:
        raise DirectoryOwned(data, ENDPOINT)

    monkeypatch.setattr(bus.directory, "find_endpoint", lambda path: next(answers))
    monkeypatch.setattr(bus.directory, "is_owned", lambda path: True)
    monkeypatch.setattr(handrail.stack.cluster, "up", keep_up)
    assert CliRunner().invoke(app, ["up"]).exit_code == 0


def test_an_owner_without_an_endpoint_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep_up(project: Path, data: Path, **_: Any) -> None:
        raise DirectoryOwned(data, None)

    monkeypatch.setattr(handrail.stack.cluster, "up", keep_up)
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "is owned by" in result.stderr


def test_a_change_of_a_child_is_told_once() -> None:
    shown: dict[str, str] = {}
    assert list(up._changes(CHILDREN, shown)) == [
        "  gateway: running, process 5",
        "  worker-shed-0: crash loop, started 9 times, last ended with -9 (log: /logs/worker-shed-0.log)",
    ]
    assert list(up._changes(CHILDREN, shown)) == []
    again = [child("gateway", "running", pid=6, generation=2, last_exit=1), CHILDREN[1]]
    assert list(up._changes(again, shown)) == [
        "  gateway: running, process 6, started 2 times, last ended with 1"
    ]


def test_children_in_a_table() -> None:
    console = Console(record=True, width=100, color_system=None)
    with console.capture() as capture:
        console.print(up._table(Output(), CHILDREN))
    lines = capture.get().splitlines()
    assert "gateway        running, process 5" in lines[0]
    assert "log: /logs/worker-shed-0.log" in lines[1]


def test_a_child_runs_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    import handrail.stack.children
    from handrail.cli import child

    ran: list[object] = []

    async def run_child(name: str, project: Path, data: Path) -> None:
        ran.append((name, project, data))

    monkeypatch.setattr(handrail.stack.children, "child", run_child)
    monkeypatch.setattr(sys, "argv", ["child.py", "_child", "worker:shed:0", "/shop", "/data"])
    child.main()
    assert ran == [("worker:shed:0", Path("/shop"), Path("/data"))]


def test_what_is_wrong_with_a_child_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from handrail.cli import child

    monkeypatch.setattr(sys, "argv", ["child.py", "_child", "gardener", "/shop", "/data"])
    with pytest.raises(SystemExit) as ended:
        child.main()
    assert ended.value.code == ExitCode.UNAVAILABLE
    assert "there is no child 'gardener'" in capsys.readouterr().err
