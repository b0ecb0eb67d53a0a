"""Text that is safe to show, and that fits: what every untrusted word passes before it reaches a terminal.

Pure. Nothing here is Rich markup: what is shown is built from `rich.text.Text`, which reads none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import IO, Any

from rich.cells import cell_len, chop_cells

from core.redaction import MASK, is_secret_name, masked_json
from handrail.v1 import plan_pb2

MAX_CLEAN_CHARS = 20_000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[@-Z\\-_])")
_SPACES = re.compile(r"\s+")
# Other than control and format characters: what breaks a line, or is half a character.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What is not seen, or is seen as something else: also spaces other than the space, and what has no glyph.
_UNSEEN_CATEGORIES = _UNSAFE_CATEGORIES | {"Zs", "Cn", "Co"}
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
MAX_MARKS = 2
"""Of one letter; more of them reach into the lines around it."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs of a terminal, in Unicode or, where the encoding cannot, in ASCII."""

    done: str = "✓"
    running: str = "●"
    verifying: str = "◐"
    healing: str = "↻"
    pending: str = "○"
    skipped: str = "–"
    failed: str = "✗"
    in_doubt: str = "?"
    gated: str = "◆"
    cancelled: str = "⊘"
    undone: str = "↶"
    warning: str = "!"
    output: str = "→"
    ellipsis: str = "…"
    times: str = "×"
    dot: str = "·"
    fork: str = "├─ "
    last: str = "└─ "
    line: str = "│  "
    space: str = "   "


UNICODE = Glyphs()
ASCII = Glyphs(
    done="+",
    running="*",
    verifying="%",
    healing="~",
    pending="o",
    skipped="-",
    failed="x",
    in_doubt="?",
    gated="#",
    cancelled="/",
    undone="<",
    output="->",
    ellipsis="...",
    times="x",
    dot="-",
    fork="|- ",
    last="`- ",
    line="|  ",
)


def glyphs_for(stream: IO[str]) -> Glyphs:
    """Return the signs that a stream's encoding can carry."""
    try:
        "✓●◐↻○✗⊘↶◆→…×·├└│".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def clean(text: str) -> str:
    """Return one line without escape sequences, control, format (bidi, zero-width) or line characters."""
    text = _ESCAPES.sub("", text[:MAX_CLEAN_CHARS])
    safe = (" " if c in "\t\r\n" else c for c in text)
    kept = "".join(c for c in safe if c == " " or unicodedata.category(c) not in _UNSAFE_CATEGORIES)
    return _SPACES.sub(" ", kept).strip()


def clean_lines(text: str) -> str:
    """Clean a text that may have several lines, and keep them."""
    return "\n".join(clean(line) for line in text.splitlines())


def exact(text: str) -> str:
    """Return one line that hides nothing: every character that would not be seen is written as JSON does.

    Where `clean` leaves such a character out, this shows that it is there; for what somebody must decide on.
    """
    marks = 0
    shown = []
    for c in text:
        category = unicodedata.category(c)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        unseen = c != " " and (category in _UNSEEN_CATEGORIES or _UNSEEN.match(c) or marks > MAX_MARKS)
        shown.append(_escape(c) if unseen else c)
    return "".join(shown)


def _escape(character: str) -> str:
    r"""Write a character as \uXXXX, or as the two halves of its pair."""
    code = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[i : i + 4]}" for i in range(0, len(code), 4))


def wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    """Break a text into lines of `width` cells; `rest` stands before those that go on."""
    lines = _chop(text, max(1, width - cell_len(first)))
    return [f"{rest if number else first}{line}" for number, line in enumerate(lines)]


def _chop(text: str, width: int) -> list[str]:
    """Break a text into parts of `width` cells. Rich's own drops what it takes for a part of a character."""
    parts, used = [""], 0
    for character in text:
        cells = cell_len(character)
        if used + cells > width and parts[-1]:
            parts.append("")
            used = 0
        parts[-1] += character
        used += cells
    return parts


def cut(text: str, width: int, glyphs: Glyphs = UNICODE) -> str:
    """Return a text that is no wider than `width` cells; what is missing is marked."""
    if cell_len(text) <= width:
        return text
    room = width - cell_len(glyphs.ellipsis)
    if room <= 0:
        return glyphs.ellipsis[: max(width, 0)]
    return chop_cells(text, room)[0].rstrip() + glyphs.ellipsis


def pad(text: str, width: int) -> str:
    """Fill a text up to `width` cells."""
    return text + " " * max(0, width - cell_len(text))


def duration(ns: int) -> str:
    """Say how long something took: milliseconds up to ten seconds, then seconds, then minutes."""
    ms = max(0, ns) // 1_000_000
    if ms < 10_000:
        return f"{ms:,} ms"
    seconds = ms / 1_000
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(size_bytes: int) -> str:
    """Say how large something is."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1_024:
            return f"{size_bytes:,.0f} {unit}"
        size_bytes //= 1_024
    return f"{size_bytes:,.0f} GiB"


def value(held: plan_pb2.Value) -> str:
    """Say what a value is, on one line; what stands in it under a secret's name is masked."""
    if held.WhichOneof("kind") == "blob":
        return f"{size(held.blob.size_bytes)} in the blob stream (sha256 {clean(held.blob.sha256[:12])})"
    return clean(relaxed(masked_json(held.json)))


def field(name: str, held: plan_pb2.Value) -> str:
    """Say what the value of an argument is, unless its name says that it is secret."""
    return MASK if is_secret_name(name) else value(held)


def enum_word(enum: Any, prefix: str, number: int) -> str:
    """Return an enum's value as people write it; of one that this version does not know, its number."""
    return str(enum.Name(number)).removeprefix(prefix).lower() if number in enum.values() else str(number)


def relaxed(text: str) -> str:
    """Give canonical JSON its spaces back, where it is JSON and not long."""
    if len(text) > MAX_CLEAN_CHARS:
        return text
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def plural(count: int, one: str, many: str = "") -> str:
    """Count something: "1 step", "2 steps"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
