"""Running Python: of any effect in itself, and of none where it is shut in with nothing to touch."""

from __future__ import annotations

import subprocess
import sys

from pydantic import BaseModel

from handrail.tool import ToolError, remaining_s, tool

MAX_SHOWN_CHARS = 4_000


class Ran(BaseModel):
    """What a program printed, and the status with which it ended."""

    printed: str
    status: int


@tool(effect="read", timeout_s=20)
def run_python(code: str) -> Ran:
    """Run a Python program and return what it printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=remaining_s(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError("the program did not end in time", code="too_slow") from error
    return Ran(printed=done.stdout[-MAX_SHOWN_CHARS:], status=done.returncode)
