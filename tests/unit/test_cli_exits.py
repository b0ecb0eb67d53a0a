"""Exit codes and errors: one table, one mapping, and what a user reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from bus.directory import DirectoryOwned, DirectoryUnusable
from bus.subjects import BadSubject
from core.errors import HandrailError
from core.ports import LogUnavailable
from handrail import errors
from handrail.cli.exits import EPILOG, MEANINGS, CommandError, ExitCode, Trouble, explain
from handrail.cli.output import tell
from handrail.settings import ProjectError
from handrail.v1.plan_pb2 import Violation

VIOLATION = Violation(field="plan.steps[0].tool", code="unknown_tool", message="there is no tool 'x'")


def client_error(kind: type[errors.ClientError]) -> errors.ClientError:
    return kind("what the server said", code=grpc.StatusCode.UNKNOWN)


def test_the_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "WAITING": 3,
        "REFUSED": 4,
        "UNAVAILABLE": 5,
        "STAYS": 6,
        "INTERRUPTED": 130,
    }
    assert set(MEANINGS) == set(ExitCode)
    reference = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for code, meaning in MEANINGS.items():
        assert f"{code.value:<4} {meaning}" in EPILOG
        assert f"| {code.value} | {meaning} |" in reference


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("bad", violations=[VIOLATION]), ExitCode.USAGE),
        (client_error(errors.NotFound), ExitCode.USAGE),
        (client_error(errors.AlreadyExists), ExitCode.USAGE),
        (client_error(errors.FailedPrecondition), ExitCode.FAILED),
        (client_error(errors.Unavailable), ExitCode.UNAVAILABLE),
        (client_error(errors.DeadlineExceeded), ExitCode.UNAVAILABLE),
        (client_error(errors.ResourceExhausted), ExitCode.UNAVAILABLE),
        (client_error(errors.Internal), ExitCode.UNAVAILABLE),
        (ProjectError(Path("p"), ["handrail.toml: 'toolbox' is not a key"]), ExitCode.USAGE),
        (DirectoryOwned(Path("d"), None), ExitCode.UNAVAILABLE),
        (DirectoryUnusable("full"), ExitCode.UNAVAILABLE),
        (LogUnavailable("gone"), ExitCode.UNAVAILABLE),
        (HandrailError("something of ours"), ExitCode.UNAVAILABLE),
        (BadSubject("not a run id"), ExitCode.USAGE),
        (PermissionError(13, "Permission denied", "/x"), ExitCode.UNAVAILABLE),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (CommandError("no", code=ExitCode.WAITING), ExitCode.WAITING),
    ],
)
def test_every_expected_error_has_a_code_and_words(error: BaseException, code: ExitCode) -> None:
    trouble = explain(error)
    assert trouble is not None
    assert trouble.code is code
    assert trouble.what


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), RuntimeError(), BrokenPipeError(), GeneratorExit()]
)
def test_a_defect_keeps_its_traceback(error: BaseException) -> None:
    assert explain(error) is None


def test_violations_are_told_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    trouble = explain(errors.InvalidArgument("bad", violations=[VIOLATION, VIOLATION]))
    assert trouble is not None
    tell(trouble, as_json=False)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0].endswith("The request is not valid; nothing was written.")
    assert told.err.count("plan.steps[0].tool: there is no tool 'x' [unknown_tool]") == 2


def test_a_project_is_told_problem_by_problem(capsys: pytest.CaptureFixture[str]) -> None:
    trouble = explain(ProjectError(Path("shop"), ["handrail.toml: a", "tools.py: b"]))
    assert trouble is not None
    tell(trouble, as_json=False)
    err = capsys.readouterr().err
    assert "The project in shop cannot be used." in err
    assert [line[4:] for line in err.splitlines()[1:3]] == ["handrail.toml: a", "tools.py: b"]


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Trouble(ExitCode.USAGE, "what", "why", "next", (("f", "c", "m\x1b"),)), as_json=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err) == {
        "error": {
            "exit_code": 2,
            "code": "usage",
            "what": "what",
            "why": "why",
            "next": "next",
            "violations": [{"field": "f", "code": "c", "message": "m\x1b"}],
        }
    }
    assert "\x1b" not in told.err


def test_untrusted_errors_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J[bold]x[/]\u202e"
    tell(Trouble(ExitCode.USAGE, evil, evil, evil, ((evil, evil, evil),)), as_json=False)
    err = capsys.readouterr().err
    assert "[bold]x[/]" in err
    assert "\x1b" not in err
    assert "\u202e" not in err
