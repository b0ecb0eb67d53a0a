"""Where a command's words go: the terminal, a pipe, or JSON; and how an error is told.

Text goes through `rich.text.Text`, so nothing in it is read as markup. On a pipe there are no colours and
lines are not wrapped. With `--json` every line on standard output is one JSON object, and so is an error on
standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from json import dumps
from typing import IO, TYPE_CHECKING, Any

from handrail.cli.exits import Trouble

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from handrail.cli.text import Glyphs


class Output:
    """What one command writes."""

    def __init__(self, *, as_json: bool = False) -> None:
        from handrail.cli.text import glyphs_for

        self.as_json = as_json
        self.glyphs: Glyphs = glyphs_for(sys.stdout)
        self.console = console_on(sys.stdout)

    @property
    def live(self) -> bool:
        """Whether lines can be drawn over again."""
        return not self.as_json and self.console.is_terminal and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """The terminal's width, or on a pipe one that cuts nothing of use."""
        return self.console.width if self.console.is_terminal else 160

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Write lines for people; nothing with `--json`."""
        if self.as_json:
            return
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def line(self, line: Text | str = "") -> None:
        """Write one line for people."""
        self.lines([line])

    def json(self, found: Mapping[str, Any]) -> None:
        """Write one JSON object, with `--json` only."""
        if self.as_json:
            sys.stdout.write(dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    def working(self, text: str) -> AbstractContextManager[object]:
        """Say on a terminal that something goes on, until the context ends."""
        return self.console.status(text, spinner="line") if self.live else nullcontext()

    def note(self, text: str) -> None:
        """Say something beside the result, on standard error; nothing with `--json`."""
        if not self.as_json:
            console_on(sys.stderr).print(_safe(text), style="dim", soft_wrap=True)


def console_on(stream: IO[str]) -> Console:
    """Return a console that reads no markup and finds no numbers to colour."""
    from rich.console import Console

    with suppress(AttributeError, ValueError):
        # A name that the encoding cannot carry is shown with "?", rather than as a crash.
        stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        markup=False,
        emoji=False,
        highlight=False,
    )


def tell(trouble: Trouble, *, as_json: bool) -> None:
    """Write an error on standard error: what happened, why, and what to do."""
    if as_json:
        sys.stderr.write(dumps(trouble.as_dict(), ensure_ascii=True) + "\n")
        return
    from rich.text import Text

    from handrail.cli.text import clean, glyphs_for

    console, glyphs = console_on(sys.stderr), glyphs_for(sys.stderr)
    first, *rest = trouble.what.splitlines() or [""]
    console.print(Text(f"{glyphs.failed} ", style="red").append(clean(first), style="bold"), soft_wrap=True)
    for line in rest:
        console.print(Text(f"  {_safe(line)}"), soft_wrap=True)
    for line in trouble.why.splitlines():
        console.print(Text(f"  {_safe(line)}"), soft_wrap=True)
    for field, code, message in trouble.violations:
        bullet = Text(f"  {glyphs.dot} ").append(clean(field), style="bold")
        bullet.append(f"{': ' if field else ''}{clean(message)}")
        console.print(bullet.append(f" [{clean(code)}]", style="dim") if field else bullet, soft_wrap=True)
    if trouble.next:
        console.print(Text(f"  {glyphs.output} {_safe(trouble.next)}", style="cyan"), soft_wrap=True)


def _safe(text: str) -> str:
    from handrail.cli.text import clean_lines

    return clean_lines(text)
