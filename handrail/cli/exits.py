"""Exit codes, and the one place where an error becomes a code and words.

Every expected error is a `HandrailError` or one of the few named here; anything else is a defect and keeps
its traceback.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from core.errors import HandrailError

DEBUG_VARIABLE = "HANDRAIL_DEBUG"


class ExitCode(IntEnum):
    """What the command line's exit status means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WAITING = 3
    REFUSED = 4
    UNAVAILABLE = 5
    STAYS = 6
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done: the command, or the run, did what was asked",
    ExitCode.FAILED: "failed, or cancelled",
    ExitCode.USAGE: "usage: bad arguments, a bad project, or no such run, tool or gate",
    ExitCode.WAITING: "waiting for a human",
    ExitCode.REFUSED: "refused: no plan could be made of the goal, or the plan does not conform",
    ExitCode.UNAVAILABLE: "unavailable: the server or the broker cannot be reached or used",
    ExitCode.STAYS: "in part: something stays that was to be undone",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; a run on a server goes on",
}

EPILOG = (
    "\b\nExit codes:\n"
    + "\n".join(f"  {code.value:<4} {meaning}" for code, meaning in MEANINGS.items())
    + f"\n\n\b\nErrors are short; {DEBUG_VARIABLE}=1 shows the traceback."
)


class CommandError(HandrailError):
    """A command cannot do what it was told: what happened, why, and what to do."""

    def __init__(self, what: str, *, why: str = "", next: str = "", code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(" ".join(part for part in (what, why, next) if part))
        self.what = what
        self.why = why
        self.next = next
        self.code = code


def was_forgotten(run: str, show: str) -> CommandError:
    """Return the error of who asks what a run did that was forgotten; `show` tells what is left."""
    return CommandError(
        f"Run {run} was forgotten: nobody can read any more what was decided and done in it.",
        next=f"`{show}` says what is left of it.",
    )


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error in words."""

    code: ExitCode
    what: str
    why: str = ""
    next: str = ""
    violations: tuple[tuple[str, str, str], ...] = ()
    """Field, stable code, message."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for `--json`."""
        fields: dict[str, Any] = {
            "exit_code": int(self.code),
            "code": self.code.name.lower(),
            "what": self.what,
        }
        if self.why:
            fields["why"] = self.why
        if self.next:
            fields["next"] = self.next
        if self.violations:
            fields["violations"] = [
                {"field": field, "code": code, "message": message} for field, code, message in self.violations
            ]
        return {"error": fields}


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def explain(error: BaseException) -> Trouble | None:
    """Put an expected error into words; None for a defect."""
    if isinstance(error, CommandError):
        return Trouble(error.code, error.what, error.why, error.next)
    if isinstance(error, HandrailError):
        return _explain_own(error)
    if isinstance(error, KeyboardInterrupt):
        return Trouble(ExitCode.INTERRUPTED, "Stopped by Ctrl-C.")
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f": {error.filename}" if error.filename else ""
        return Trouble(ExitCode.UNAVAILABLE, f"{error.strerror or error}{where}.", next=_DOCTOR)
    from bus.subjects import BadSubject

    return Trouble(ExitCode.USAGE, f"{error}.") if isinstance(error, BadSubject) else None


_DOCTOR = "`handrail doctor` says what is missing, unreachable or not writable."
_AUTH = (
    "HANDRAIL_TOKEN_FILE names a file with a token; on the server's machine `handrail auth token` makes one."
)
_ROLES = "`handrail auth whoami` says who you are taken for; docs/security.md has what each role may call."
_NOT_THEIRS = frozenset({"ROLE_NEEDED", "NOT_YOU", "NOT_YOURS"})
_NOT_PROVED = frozenset({"NO_NOTARY", "NOT_SIGNED"})
_LIST = (
    "`handrail list` shows the runs there are, `handrail gates` the open gates, "
    "`handrail tools list` the tools."
)


def _explain_own(error: HandrailError) -> Trouble:
    from bus.directory import DirectoryOwned, DirectoryUnusable
    from core.caller import BadToken
    from core.notarised import NotAsSigned
    from core.ports import LogError
    from handrail import errors
    from handrail.settings import ProjectError

    text = str(error)
    if isinstance(error, ProjectError):
        what = f"The project in {error.directory} cannot be used."
        violations = tuple(("", "bad_project", problem) for problem in error.problems)
        return Trouble(ExitCode.USAGE, what, violations=violations)
    if isinstance(error, errors.InvalidArgument):
        violations = tuple((v.field, v.code, v.message) for v in error.violations)
        what = "The request is not valid; nothing was written." if violations else text
        return Trouble(ExitCode.USAGE, what, violations=violations)
    advice: list[tuple[type[HandrailError], ExitCode, str]] = [
        (errors.NotFound, ExitCode.USAGE, _LIST),
        (errors.AlreadyExists, ExitCode.USAGE, "Use another --request-id for another goal."),
        (errors.Unauthenticated, ExitCode.USAGE, _AUTH),
        (BadToken, ExitCode.USAGE, "Name a file that holds one token, and nothing else."),
        (
            errors.PermissionDenied,
            ExitCode.FAILED,
            _ROLES
            if getattr(error, "reason", "") in _NOT_THEIRS
            else "The rules are in the project's policy/; somebody else may have to.",
        ),
        (
            errors.FailedPrecondition,
            ExitCode.FAILED,
            ""
            if getattr(error, "reason", "") in _NOT_PROVED
            else "`handrail show RUN` says where the run stands.",
        ),
        (errors.Unavailable, ExitCode.UNAVAILABLE, _DOCTOR),
        (errors.DeadlineExceeded, ExitCode.UNAVAILABLE, _DOCTOR),
        (errors.ResourceExhausted, ExitCode.UNAVAILABLE, ""),
        (errors.Internal, ExitCode.UNAVAILABLE, _DOCTOR),
        (DirectoryOwned, ExitCode.UNAVAILABLE, ""),
        (DirectoryUnusable, ExitCode.UNAVAILABLE, ""),
        (LogError, ExitCode.UNAVAILABLE, _DOCTOR),
        (
            NotAsSigned,
            ExitCode.UNAVAILABLE,
            "`handrail audit verify --all` checks what the notary itself keeps.",
        ),
    ]
    for kind, code, next_move in advice:
        if isinstance(error, kind):
            return Trouble(code, text, next=next_move)
    return Trouble(ExitCode.UNAVAILABLE, text, next=_DOCTOR)
