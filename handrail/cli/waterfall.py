"""A trace as a waterfall: a line for every span, with its name, its bar, how long it took, and what happened.

Pure: spans go in, lines come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from handrail.cli.pen import BAD, DIM
from handrail.cli.text import UNICODE, Glyphs, clean, cut, duration, pad
from observability import names
from observability.span import Span

MIN_WIDTH = 60
MIN_BAR_CELLS = 12
MAX_NAME_CELLS = 44
ROLE_CELLS = 9
WIDE = 110
WIDE_ROLE_CELLS = 18
DURATION_CELLS = 10
MAX_MARK_CELLS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLES = {
    names.EXECUTE_TOOL: "green",
    names.VERIFY: "blue",
    names.HEAL: "yellow",
    names.UNDO: "yellow",
    names.PLAN: "magenta",
    names.MAKE_PLAN: "magenta",
    names.CHOOSE: "magenta",
}


def draw(spans: Sequence[Span], *, width: int = 100, glyphs: Glyphs = UNICODE) -> Iterator[Text]:
    """Draw a trace, in order of time below each parent."""
    if not spans:
        return
    rows = list(_rows(spans))
    begin = min(span.start_ns for span in spans)
    whole = max(max(span.end_ns for span in spans) - begin, 1)
    label_cells = min(MAX_NAME_CELLS, max(2 * depth + cell_len(_label(span)) for depth, span in rows))
    mark_cells = min(MAX_MARK_CELLS, max(cell_len(_mark(span, glyphs).plain) for _, span in rows))
    most = WIDE_ROLE_CELLS if width >= WIDE else ROLE_CELLS
    role_cells = min(most, max(cell_len(span.role) for span in spans))
    spare = max(width, MIN_WIDTH) - role_cells - label_cells - DURATION_CELLS - mark_cells - 4
    bar_cells = max(spare, MIN_BAR_CELLS)
    for depth, span in rows:
        line = Text(pad(cut(clean(span.role), role_cells, glyphs), role_cells) + " ", style=DIM)
        label = cut("  " * depth + _label(span), label_cells, glyphs)
        line.append(pad(label, label_cells) + " ", style=BAD if span.error else "")
        start, end = (span.start_ns - begin) / whole, (span.end_ns - begin) / whole
        line.append(_bar(start, end, bar_cells, span, glyphs), style=_style(span))
        line.append(f" {_took(span):>{DURATION_CELLS}} ")
        line.append_text(_mark(span, glyphs))
        line.rstrip()
        yield line


def span_object(span: Span) -> dict[str, Any]:
    """Return a span as JSON."""
    return {**asdict(span), "status": span.status, "duration_ns": span.duration_ns}


def _rows(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Walk the tree, parents first, in order of time."""
    below: dict[str, list[Span]] = {}
    known = {span.span_id for span in spans}
    for span in spans:
        below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    pending = [(0, span) for span in reversed(below.get("", []))]
    while pending:
        depth, span = pending.pop()
        yield depth, span
        children = sorted(below.get(span.span_id, ()), key=lambda child: child.start_ns)
        pending += ((depth + 1, child) for child in reversed(children))


def _took(span: Span) -> str:
    return (
        f"{span.duration_ns / 1e6:.1f} ms" if span.duration_ns < 100_000_000 else duration(span.duration_ns)
    )


def _label(span: Span) -> str:
    """Name a span by what a reader of the log knows it by."""
    said = span.attributes
    if span.what == names.STEP:
        return f"{names.STEP} {clean(str(said[names.STEP_ID]))}"
    if span.what in (names.ATTEMPT, names.PLAN):
        return f"{span.what} {clean(str(said[names.ATTEMPT_ID]))}"
    if span.what == names.VERIFY and said.get(names.VERDICT_ROUND, 1) != 1:
        return f"{names.VERIFY} (round {said[names.VERDICT_ROUND]})"
    return clean(span.name.removeprefix("handrail.v1.RunService/"))


def _bar(start: float, end: float, cells: int, span: Span, glyphs: Glyphs) -> str:
    """Draw when a span was, within the time of the whole trace; at least a sliver."""
    first = min(int(start * cells), cells - 1)
    if glyphs is not UNICODE:
        length = max(1, round(end * cells) - first)
        return pad(" " * first + ("-" if span.lost else "=") * min(length, cells - first), cells)
    if span.lost:
        return pad(" " * first + "░" * max(1, round(end * cells) - first), cells)
    full, eighths = divmod(max(round((end * cells - first) * 8), 1), 8)
    return pad(" " * first + "█" * min(full, cells - first) + _EIGHTHS[eighths].strip(), cells)


def _style(span: Span) -> str:
    return BAD if span.error else _STYLES.get(span.what, "cyan")


def _mark(span: Span, glyphs: Glyphs) -> Text:
    """Say what happened, where it is not simply that it went well."""
    mark = Text()
    strategies = (link.attributes.get(names.HEAL_STRATEGY) for link in span.links)
    healed = next((str(strategy) for strategy in strategies if strategy), "")
    if healed and span.what == names.ATTEMPT:
        mark.append(f"{glyphs.healing} {clean(healed).replace('_', ' ')} ", style="yellow")
    if span.lost:
        mark.append(f"{glyphs.failed} lost: {clean(span.error)}", style=BAD)
    elif span.error:
        mark.append(f"{glyphs.failed} {clean(span.error)}", style=BAD)
    elif span.attributes.get(names.STEP_STATUS) == "skipped":
        mark.append(f"{glyphs.skipped} skipped", style=DIM)
    elif span.attributes.get(names.ATTEMPT_OUTCOME) == names.REVOKED:
        mark.append(f"{glyphs.cancelled} taken back", style=DIM)
    elif span.what == names.HEAL:
        mark.append(clean(str(span.attributes.get(names.HEAL_CAUSE, ""))), style="yellow")
    elif span.attributes.get(names.UNDO_OUTCOME) == names.STAYS:
        mark.append(f"{span.attributes[names.UNDO_STAYS]} cannot be undone", style="yellow")
    elif span.attributes.get(names.UNDO_OUTCOME) == names.DRY:
        mark.append("dry run", style=DIM)
    if span.open:
        mark.append(f"{' ' if mark.plain else ''}{glyphs.running} goes on", style="cyan")
    return mark
