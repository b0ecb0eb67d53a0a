"""Tables, as Markdown and for a terminal."""

from __future__ import annotations

import re

Table = list[list[str]]
NONE = "-"


def markdown(table: Table) -> str:
    """Return a table, its first line being its head."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in table
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def plain(text: str) -> str:
    """Return Markdown without what only Markdown needs."""
    kept = [line for line in text.splitlines() if not re.fullmatch(r"[|-]+", line)]
    return "\n".join(re.sub(r"^\| | \|$", "", line).replace(" | ", "   ").replace("**", "") for line in kept)


def ms(value: float | None) -> str:
    """Return milliseconds with as many digits as mean something."""
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number, or that there is none."""
    return NONE if value is None else f"{value:.{digits}f}"
