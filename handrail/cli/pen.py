"""What the tree is drawn with: signs and styles of each state, the room there is, nodes that become lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from rich.cells import cell_len
from rich.text import Text

from handrail.cli.text import UNICODE, Glyphs, cut
from handrail.v1 import event_pb2, run_service_pb2

DIM = "dim"
BAD = "red"

_S = run_service_pb2

STEP_STYLES: dict[int, tuple[str, str, str]] = {
    _S.STEP_STATUS_UNSPECIFIED: ("pending", "pending", "dim"),
    _S.STEP_STATUS_PENDING: ("pending", "pending", "dim"),
    _S.STEP_STATUS_RUNNING: ("running", "running", "cyan"),
    _S.STEP_STATUS_VERIFYING: ("verifying", "verifying", "blue"),
    _S.STEP_STATUS_HEALING: ("healing", "healing", "yellow"),
    _S.STEP_STATUS_DONE: ("done", "done", "green"),
    _S.STEP_STATUS_SKIPPED: ("skipped", "skipped", "dim"),
    _S.STEP_STATUS_FAILED: ("failed", "failed", "red"),
    _S.STEP_STATUS_IN_DOUBT: ("in_doubt", "in doubt", "magenta"),
    _S.STEP_STATUS_CANCELLED: ("cancelled", "cancelled", "dim"),
    _S.STEP_STATUS_GATED: ("gated", "waiting for you", "magenta"),
    _S.STEP_STATUS_UNDONE: ("undone", "undone", "yellow"),
}
"""Of each state of a step: the name of its sign, its words, its style."""

RUN_STYLES: dict[int, tuple[str, str, str]] = {
    event_pb2.RUN_STATUS_UNSPECIFIED: ("pending", "submitted", "dim"),
    event_pb2.RUN_STATUS_PLANNING: ("running", "planning", "cyan"),
    event_pb2.RUN_STATUS_RUNNING: ("running", "running", "cyan"),
    event_pb2.RUN_STATUS_PAUSED: ("pending", "paused", "yellow"),
    event_pb2.RUN_STATUS_WAITING: ("in_doubt", "waiting for a human", "magenta"),
    event_pb2.RUN_STATUS_CANCELLING: ("cancelled", "cancelling", "yellow"),
    event_pb2.RUN_STATUS_DONE: ("done", "done", "green"),
    event_pb2.RUN_STATUS_FAILED: ("failed", "failed", "red"),
    event_pb2.RUN_STATUS_REFUSED: ("failed", "refused", "yellow"),
    event_pb2.RUN_STATUS_CANCELLED: ("cancelled", "cancelled", "yellow"),
    event_pb2.RUN_STATUS_UNREADABLE: ("warning", "unreadable", "red"),
    event_pb2.RUN_STATUS_UNDOING: ("running", "undoing", "cyan"),
    event_pb2.RUN_STATUS_UNDONE: ("undone", "undone", "yellow"),
}
"""The same of each state of a run."""


class Detail(IntEnum):
    """How much is shown."""

    # Steps in a row that ended well, or have not begun, are one line.
    FOLDED = 0
    # Steps that ended well have no details.
    BRIEF = 1
    NORMAL = 2
    # Every item, every piece of evidence, the plan's arguments.
    FULL = 3


@dataclass(frozen=True)
class Node:
    """A line and what hangs below it."""

    label: Text
    below: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Pen:
    """How to draw: the room there is, the signs, the present, and how much detail."""

    width: int = 100
    glyphs: Glyphs = UNICODE
    now_ns: int = 0
    detail: Detail = Detail.NORMAL

    def sign(self, name: str, style: str) -> Text:
        """Return a sign in its colour."""
        return Text().append(getattr(self.glyphs, name), style=style)


def hang(nodes: Sequence[Node], indent: Text, pen: Pen) -> Iterator[Text]:
    """Turn nodes into lines with guides, each cut to the width."""
    for node in nodes:
        last = node is nodes[-1]
        guide = Text(pen.glyphs.last if last else pen.glyphs.fork, style=DIM)
        yield _fitted(Text.assemble(indent, guide, node.label), pen)
        below = Text(pen.glyphs.space if last else pen.glyphs.line, style=DIM)
        yield from hang(node.below, Text.assemble(indent, below), pen)


def _fitted(line: Text, pen: Pen) -> Text:
    line.rstrip()
    if cell_len(line.plain) <= pen.width:
        return line
    fitted = cut(line.plain, pen.width, pen.glyphs)
    short = line[: len(fitted) - len(pen.glyphs.ellipsis)]
    return short.append(pen.glyphs.ellipsis, style=DIM)
