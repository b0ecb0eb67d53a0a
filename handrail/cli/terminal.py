"""Asking whoever sits at the terminal, a line at a time, while the event loop goes on.

Nobody is asked where standard input is not a terminal.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rich.text import Text

from handrail.cli.output import Output

MAX_LINE_BYTES = 4_096

Ask = Callable[[str], Awaitable[str | None]]
"""Asks a question and returns the line that was typed after it; None where nobody can answer any more."""


def can_ask(output: Output) -> bool:
    """Whether somebody sits there who sees what is shown and can answer."""
    try:
        typing = sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        typing = False
    return typing and output.console.is_terminal and not output.as_json


def on_terminal(output: Output) -> Ask:
    """Return how to ask on the terminal: a line at a time, and the event loop goes on."""

    async def ask(question: str) -> str | None:
        # What was typed before is no answer to this.
        with suppress(termios.error):
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        output.console.print(Text(question, style="bold"), end="")
        answered = False
        try:
            typed = await _typed(sys.stdin.fileno())
            answered = typed.endswith(b"\n")
        finally:
            if not answered:
                output.line()
        return typed.decode(errors="replace").strip() if typed else None

    return ask


async def _typed(descriptor: int) -> bytes:
    """Return the next line of a terminal; nothing at its end."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        if found.done():
            return
        try:
            found.set_result(os.read(descriptor, MAX_LINE_BYTES))
        except OSError:  # how a terminal says that its other end is closed
            found.set_result(b"")

    loop.add_reader(descriptor, read)
    try:
        return await found
    finally:
        loop.remove_reader(descriptor)
