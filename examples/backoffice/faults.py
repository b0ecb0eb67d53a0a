"""A testing aid: failures on demand. Nothing here does anything until somebody sets a fault.

    python faults.py set TOOL KIND [TIMES]    have the next calls of a tool fail (TIMES is 1 by default)
    python faults.py clear                    forget all of them

Kinds: `transient` (an error worth trying again, nothing done), `hang` and `hang_after` (slow before or
after acting), `crash` and `crash_after` (the process dies as by kill -9), `wrong_output` (acts, and reports
other numbers), `lie` (reports success and does nothing). Where it is not needed it costs one look at an
empty table.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import database
from pydantic import BaseModel

from handrail.tool import ToolError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def injectable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a tool fail on demand."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        fault = _take(function.__name__)
        if fault is None:
            return function(*args, **kwargs)
        kind, wait_s = fault
        _before(kind, wait_s, function.__name__)
        token = database.lying.set(kind == "lie")
        try:
            output = function(*args, **kwargs)
        finally:
            database.lying.reset(token)
        return _after(kind, wait_s, output)

    return call


def set_fault(tool: str, kind: str, times: int = 1, seconds: float = 5.0) -> None:
    """Have the next calls of a tool fail; `seconds` is how long it hangs."""
    with database.writing() as db:
        db.execute("REPLACE INTO faults VALUES (?, ?, ?, ?)", (tool, kind, times, seconds))


def clear_faults() -> None:
    """Forget all faults."""
    with database.writing() as db:
        db.execute("DELETE FROM faults")


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit code."""
    try:
        match arguments:
            case ["set", tool, kind]:
                set_fault(tool, kind)
            case ["set", tool, kind, times] if times.isdecimal():
                set_fault(tool, kind, int(times))
            case ["clear"]:
                clear_faults()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ToolError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _take(tool: str) -> tuple[str, float] | None:
    looked = "SELECT kind, seconds FROM faults WHERE tool = ? AND times_left > 0 ORDER BY rowid LIMIT 1"
    if database.connection().execute(looked, (tool,)).fetchone() is None:
        return None
    # Counted down before it strikes, so that a crash is not met again by whoever takes over.
    with database.writing() as db:
        row = db.execute(looked, (tool,)).fetchone()
        if row is None:
            return None
        spent = "UPDATE faults SET times_left = times_left - 1 WHERE tool = ? AND kind = ?"
        db.execute(spent, (tool, row["kind"]))
        return row["kind"], row["seconds"]


def _before(kind: str, wait_s: float, tool: str) -> None:
    if kind == "transient":
        raise ToolError(f"{tool}: a rehearsed fault; try again", code="rehearsed_fault", transient=True)
    if kind == "hang":
        threading.Event().wait(wait_s)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)


def _after(kind: str, wait_s: float, output: _R) -> _R:
    if kind == "hang_after":
        threading.Event().wait(wait_s)
    if kind == "crash_after":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "wrong_output" and isinstance(output, BaseModel):
        numbers = {name: value for name, value in output if type(value) is int}
        return output.model_copy(update={name: value + 1 for name, value in numbers.items()})
    return output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
