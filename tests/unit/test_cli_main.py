"""The command line itself: arguments, help, exit codes, errors; nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from handrail.cli import history
from handrail.cli.exits import MEANINGS, CommandError, ExitCode
from handrail.cli.init import create
from handrail.cli.main import app

COMMANDS = [
    *("run", "up", "submit", "watch", "list", "show", "log", "replay", "cancel", "pause", "resume", "tools"),
    *("trace", "gates", "approve", "deny", "policy", "doctor", "init", "version"),
]
HEAVY = (
    "cedarpy",
    "grpc",
    "google.protobuf",
    "pydantic",
    "rich",
    "yaml",
    "nats",
    "ray",
    "structlog",
    "handrail.stack",
)
runner = CliRunner()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HANDRAIL_SERVER", "HANDRAIL_PROJECT", "HANDRAIL_DATA", "HANDRAIL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# What the parts of a stack need is imported by those that need it.
NOT_FOR_ALL = (
    "cedarpy",
    "cel",
    "cryptography",
    "grpc",
    "jsonschema",
    "jwt",
    "numpy",
    "opentelemetry",
    "ray",
    "yaml",
)
NOT_TO_ASK = ("core.run", "core.conformance", "pydantic", "handrail.tool", "nats", "yaml")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("handrail.cli.main", HEAVY), ("handrail.stack", NOT_FOR_ALL), ("handrail.client", NOT_TO_ASK)],
)
def test_it_starts_without_anything_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = (
        f"import sys, {module}\n"
        f"print([n for n in {heavy!r} if any(m == n or m.startswith(n + '.') for m in sys.modules)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.output
    for code, meaning in MEANINGS.items():
        assert f"{code.value:<4} {meaning}" in result.output
    assert "_child" not in result.output
    assert "..." not in result.output.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    if command not in ("tools", "policy"):
        assert "--json" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run"],
        ["run", "goal", "--frobnicate"],
        ["run", "goal", "--host", "moon"],
        ["replay", "r0-x", "--at", "none"],
        ["replay", "r0-x", "--at", "0"],
        ["replay", "r0-x", "--at", "3", "--policy", "strict"],
        ["list", "--limit", "0"],
        ["list", "--status", "finished"],
        ["run", "goal", "--deadline", "soon"],
        ["run", "goal", "--context", "[]"],
        ["run", "goal", "--plan", "nowhere.yaml"],
        ["run", "goal", "--server", "nowhere"],
        ["tools", "check", "--project", "nowhere"],
        ["tools", "frobnicate"],
    ],
)
def test_what_is_not_understood_ends_with_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--json"],
        ["lst", "--json"],
        ["run", "goal", "--host", "moon", "--json"],
        ["run", "goal", "--deadline", "soon", "--json"],
        ["tools", "check", "--project", "nowhere", "--json"],
        ["tools", "frobnicate", "--json"],
    ],
)
def test_with_json_an_error_is_an_object_on_standard_error(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    found = json.loads(result.stderr)["error"]
    assert found["exit_code"] == 2
    assert found["what"]


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "r0-x"], ["watch", "r0-x"], ["log", "r0-x"], ["cancel", "r0-x"], ["submit", "goal"]],
)
def test_without_server_and_runs_it_is_unavailable(arguments: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "handrail up" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDRAIL_DEBUG", "1")
    result = runner.invoke(app, ["list"])
    assert isinstance(result.exception, CommandError)


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(history, "find", broken)
    assert isinstance(runner.invoke(app, ["list"]).exception, ZeroDivisionError)


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "find", interrupted)
    result = runner.invoke(app, ["list"])
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "Ctrl-C" in result.stderr


def test_version() -> None:
    assert runner.invoke(app, ["version"]).stdout.startswith("handrail ")
    assert set(json.loads(runner.invoke(app, ["version", "--json"]).stdout)) == {"handrail", "python"}


def test_init_says_what_to_do_next(tmp_path: Path) -> None:
    result = runner.invoke(app, ["init", "shop"])
    assert result.exit_code == 0
    assert 'handrail run "lend the drill to Ada" --project shop' in result.stdout
    assert (tmp_path / "shop" / "handrail.toml").exists()
    again = runner.invoke(app, ["init", "shop", "--json"])
    assert again.exit_code == ExitCode.USAGE
    assert "nothing was written" in json.loads(again.stderr)["error"]["what"]


def test_tools_of_a_project(tmp_path: Path) -> None:
    create(tmp_path)
    listed = runner.invoke(app, ["tools", "list"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "get_item",
        "lend_item",
        "loan_by_key",
        "return_item",
    ]
    shown = runner.invoke(app, ["tools", "show", "lend_item"])
    assert "keyed (the key is key)" in shown.stdout
    assert "read-back    loan_by_key" in shown.stdout
    told = json.loads(runner.invoke(app, ["tools", "show", "lend_item", "--json"]).stdout)
    assert told["undo"] == "return_item"
    assert f"fingerprint  {told['fingerprint']}" in shown.stdout
    missing = runner.invoke(app, ["tools", "show", "lend_itm"])
    assert missing.exit_code == ExitCode.USAGE
    assert "did you mean 'lend_item'?" in missing.stderr
    checked = runner.invoke(app, ["tools", "check", "--json"])
    assert json.loads(checked.stdout) == {"ok": True, "tools": 4, "playbooks": 2, "rules": 8}


def test_tools_check_names_every_contradiction(tmp_path: Path) -> None:
    create(tmp_path)
    tools = tmp_path / "tools.py"
    tools.write_text(
        tools.read_text().replace('call("return_item"', 'call("return_itm"').replace('    key="key",\n', "")
    )
    result = runner.invoke(app, ["tools", "check"])
    assert result.exit_code == ExitCode.USAGE
    assert "did you mean 'return_item'?" in result.stderr
    assert "key" in result.stderr
