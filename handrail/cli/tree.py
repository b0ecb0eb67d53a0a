"""A run as a tree of lines: plan, steps, attempts, verdicts with their evidence, heals, times.

`draw` is pure: a `Run` in, one `Text` a line out, none wider than the width. Every word of the run is
untrusted and is cleaned on its way in. What does not fit is folded away, the finished
first, and a line says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.cells import cell_len
from rich.text import Text

from core.plan import canonical_route, is_compensation
from handrail.cli.details import planned, taken, took_ns
from handrail.cli.events import forgotten
from handrail.cli.outlook import foreseen
from handrail.cli.pen import DIM, RUN_STYLES, STEP_STYLES, Detail, Node, Pen, hang
from handrail.cli.text import clean, cut, duration, enum_word, pad, plural
from handrail.cli.undo_text import heading
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

MAX_ITEMS_SHOWN = 5
MAX_LABEL_CELLS = 44
MAX_TOOL_CELLS = 30
MIN_WIDTH = 40
TIME_CELLS = 10

_S = run_service_pb2

# What of a fan-out is shown first: what went wrong, then what moves.
_URGENCY = {
    status: rank
    for rank, status in enumerate(
        (
            _S.STEP_STATUS_FAILED,
            _S.STEP_STATUS_IN_DOUBT,
            _S.STEP_STATUS_GATED,
            _S.STEP_STATUS_HEALING,
            _S.STEP_STATUS_VERIFYING,
            _S.STEP_STATUS_RUNNING,
        )
    )
}
_QUIET = (_S.STEP_STATUS_DONE, _S.STEP_STATUS_SKIPPED, _S.STEP_STATUS_UNDONE)
# What the sign says, or the line below.
_WORDLESS = (_S.STEP_STATUS_DONE, _S.STEP_STATUS_PENDING, _S.STEP_STATUS_GATED)
_FOLDABLE = (*_QUIET, _S.STEP_STATUS_PENDING, _S.STEP_STATUS_CANCELLED)


def draw(run: run_service_pb2.Run, pen: Pen, *, height: int = 0) -> list[Text]:
    """Return the lines of a run; with a height, as much as fits into it."""
    lines = list(_lines(run, pen))
    for detail in (Detail.BRIEF, Detail.FOLDED):
        if not height or len(lines) <= height:
            return lines
        lines = list(_lines(run, replace(pen, detail=detail)))
    if len(lines) <= height:
        return lines
    shown = max(1, height - 1)
    more = f"{pen.glyphs.ellipsis} {plural(len(lines) - shown, 'more line')}"
    return [*lines[:shown], Text(more, style=DIM)]


def draw_plan(plan: plan_pb2.Plan, pen: Pen) -> list[Text]:
    """Return the lines of a plan that nobody has begun, with the arguments of its steps."""
    pending = _S.STEP_STATUS_PENDING
    steps = [
        _S.StepState(
            id=step.id, title=step.title, route=canonical_route(step), tool=step.tool, status=pending
        )
        for step in plan.steps
    ]
    nodes = _step_nodes(run_service_pb2.Run(plan=plan, steps=steps, dry_run=True), pen)
    return list(hang(nodes, Text(""), pen))


def _lines(run: run_service_pb2.Run, pen: Pen) -> Iterator[Text]:
    # An undo goes on when its run has ended.
    undoing = pen
    if run.HasField("ended"):
        pen = replace(pen, now_ns=run.ended.ToNanoseconds())
    if run.HasField("forgotten"):
        yield Text(cut(forgotten(run.forgotten), pen.width, pen.glyphs), style="bold")
    else:
        yield Text(cut(clean(run.goal) or "(no text)", pen.width, pen.glyphs), style="bold")
    yield status_line(run, pen)
    nodes = _step_nodes(run, pen)
    if nodes:
        yield Text("")
    yield from hang(nodes, Text(""), pen)
    if run.HasField("undo"):
        yield Text("")
        yield from undo_lines(run.undo, undoing)


def status_line(run: run_service_pb2.Run, pen: Pen) -> Text:
    """Return where a run stands: status, where the plan came from, progress, time, id."""
    name, words, style = RUN_STYLES.get(run.status, RUN_STYLES[0])
    line = pen.sign(name, style).append(f" {words}", style=style)
    parts = ["dry run"] if run.dry_run else []
    if run.undo_on_failure:
        parts.append("undoes itself if it fails")
    if run.plan.origin:
        parts.append(clean(run.plan.origin))
    steps = [step for step in run.steps if "-" not in step.id]
    if steps:
        ended = sum(step.status in _QUIET for step in steps)
        parts.append(
            plural(len(steps), "step") if run.dry_run else f"{ended} of {plural(len(steps), 'step')}"
        )
    spent_ns = elapsed_ns(run, pen.now_ns)
    if spent_ns:
        parts.append(duration(spent_ns))
    parts.append(clean(run.id))
    rest = "".join(f" {pen.glyphs.dot} {part}" for part in parts if part)
    return line.append(cut(rest, max(0, pen.width - cell_len(line.plain)), pen.glyphs), style=DIM)


def elapsed_ns(run: run_service_pb2.Run, now_ns: int = 0) -> int:
    """Return how long a run took, or has been going on; 0 where that is not known."""
    if not run.HasField("submitted"):
        return 0
    end_ns = run.ended.ToNanoseconds() if run.HasField("ended") else now_ns
    return max(0, end_ns - run.submitted.ToNanoseconds()) if end_ns else 0


def counts(run: run_service_pb2.Run) -> tuple[int, int, int]:
    """Return how many steps (items of fan-outs included), actions and heals a run has."""
    expanded = {step.id.partition("-")[0] for step in run.steps if "-" in step.id}
    steps = sum(step.id not in expanded for step in run.steps)
    acts = (a for s in run.steps for a in s.attempts if a.kind == event_pb2.ACTION_KIND_ACT and not a.revoked)
    return steps, sum(1 for _ in acts), sum(len(step.heals) for step in run.steps)


# --- the undo -------------------------------------------------------------------------------------------


def undo_lines(undo: run_service_pb2.UndoState, pen: Pen) -> Iterator[Text]:
    """Return the lines of an undo: who wants it, and every compensation."""
    calls = {one.step.id: one.step for one in undo.compensations}
    columns = Columns.fit(undo.steps, pen)
    nodes: list[Node] = []
    for step in undo.steps:
        below: list[Node] = []
        if step.id in calls and (undo.dry_run or pen.detail == Detail.FULL):
            below += planned(calls[step.id], pen)
        below += foreseen(step, pen, lasting=False)
        if pen.detail >= Detail.NORMAL or step.status not in _QUIET:
            below += taken(step, pen)
        nodes.append(Node(columns.line(step, pen), below))
    yield heading(undo, pen)
    yield from hang(nodes, Text(""), pen)


# --- steps -------------------------------------------------------------------------------------------


def _step_nodes(run: run_service_pb2.Run, pen: Pen) -> list[Node]:
    plan = {step.id: step for step in run.plan.steps}
    items: dict[str, list[run_service_pb2.StepState]] = {}
    for step in run.steps:
        parent, _, index = step.id.partition("-")
        items.setdefault(parent, [])
        if index:
            items[parent].append(step)
    tops = [step for step in run.steps if "-" not in step.id]
    columns = Columns.fit(tops, pen)
    nodes: list[Node] = []
    for status, group in groupby(tops, key=lambda step: step.status):
        row = list(group)
        if pen.detail == Detail.FOLDED and status in _FOLDABLE and len(row) > 1:
            name, words, style = STEP_STYLES[status]
            nodes.append(
                Node(pen.sign(name, style).append(f" {plural(len(row), 'step')} {words}", style=DIM))
            )
            continue
        for step in row:
            below = list(_below(step, items[step.id], plan.get(step.id), run.dry_run, pen))
            nodes.append(Node(columns.line(step, pen, items[step.id]), below))
    return nodes


def _below(
    step: run_service_pb2.StepState,
    items: Sequence[run_service_pb2.StepState],
    plan: plan_pb2.Step | None,
    dry_run: bool,
    pen: Pen,
) -> Iterator[Node]:
    if plan is not None and (dry_run or pen.detail == Detail.FULL):
        yield from planned(plan, pen)
    yield from foreseen(step, pen)
    if items:
        yield from _items(items, pen)
    elif pen.detail >= Detail.NORMAL or step.status not in _QUIET:
        yield from taken(step, pen)


@dataclass(frozen=True)
class Columns:
    """The widths that the lines of sibling steps share."""

    label: int
    tool: int

    @classmethod
    def fit(cls, steps: Sequence[run_service_pb2.StepState], pen: Pen, depth: int = 1) -> Columns:
        """Find widths that fit the steps into the pen's width."""
        # Guides, a sign and two gaps; the time.
        room = max(pen.width, MIN_WIDTH) - 3 * depth - 2 - 4 - TIME_CELLS
        tool = max((cell_len(_tool(step, pen)) for step in steps), default=0)
        tool = min(tool, MAX_TOOL_CELLS, room * 2 // 5) if room >= 30 else 0
        label = max((cell_len(_label(step)) for step in steps), default=0)
        return cls(min(label, MAX_LABEL_CELLS, max(8, room - tool)), tool)

    def line(
        self, step: run_service_pb2.StepState, pen: Pen, items: Sequence[run_service_pb2.StepState] = ()
    ) -> Text:
        """Return the one line of a step."""
        name, words, style = STEP_STYLES.get(step.status, STEP_STYLES[0])
        quiet = step.status in (_S.STEP_STATUS_PENDING, _S.STEP_STATUS_SKIPPED, _S.STEP_STATUS_CANCELLED)
        line = pen.sign(name, style).append(" ")
        line.append(pad(cut(_label(step), self.label, pen.glyphs), self.label), style=DIM if quiet else "")
        if self.tool:
            line.append("  " + pad(cut(_tool(step, pen), self.tool, pen.glyphs), self.tool), style=DIM)
        spent_ns = took_ns((a for each in items or (step,) for a in each.attempts), pen.now_ns)
        line.append("  " + (duration(spent_ns) if spent_ns else "").rjust(TIME_CELLS), style=DIM)
        if step.status == _S.STEP_STATUS_IN_DOUBT and is_compensation(step.id):
            words = "went wrong"
        notes = [] if step.status in _WORDLESS else [words]
        if items:
            notes = [_tally(items)]
        if step.skip_reason:
            notes.append(clean(step.skip_reason))
        if len(step.attempts) > 1:
            notes.append(plural(len(step.attempts), "attempt"))
        note = f"  {', '.join(notes)}" if notes else ""
        room = max(0, pen.width - 3 - cell_len(line.plain))
        return line.append(cut(note, room, pen.glyphs), style=style)


def _label(step: run_service_pb2.StepState) -> str:
    step_id, title = clean(step.id), clean(step.title)
    if "-" in step.id or not title:
        return step_id
    return f"{step_id}  {title}"


def _tool(step: run_service_pb2.StepState, pen: Pen) -> str:
    tool = clean(step.tool)
    if step.route in (plan_pb2.ROUTE_UNSPECIFIED, plan_pb2.ROUTE_DIRECT):
        return tool
    route = clean(enum_word(plan_pb2.Route, "ROUTE_", step.route))
    return f"{route} {pen.glyphs.output} {tool}" if tool else route


def _tally(items: Sequence[run_service_pb2.StepState]) -> str:
    counted: dict[str, int] = {}
    for item in sorted(items, key=lambda item: _URGENCY.get(item.status, len(_URGENCY))):
        words = STEP_STYLES.get(item.status, STEP_STYLES[0])[1]
        counted[words] = counted.get(words, 0) + 1
    return f"{plural(len(items), 'item')}: " + ", ".join(f"{n} {words}" for words, n in counted.items())


def _items(items: Sequence[run_service_pb2.StepState], pen: Pen) -> list[Node]:
    """Show the items of a fan-out: all of a few, else those that went wrong or move."""
    shown = list(items)
    if len(items) > MAX_ITEMS_SHOWN and pen.detail != Detail.FULL:
        urgent = [item for item in items if item.status in _URGENCY]
        urgent.sort(key=lambda item: _URGENCY[item.status])
        shown = urgent[:MAX_ITEMS_SHOWN]
    columns = Columns.fit(shown, pen, depth=2)
    nodes = []
    for item in shown:
        node = Node(columns.line(item, pen))
        if pen.detail == Detail.FULL or item.status in _URGENCY:
            node.below.extend(taken(item, pen))
        nodes.append(node)
    ids = {item.id for item in shown}
    hidden = [item for item in items if item.id not in ids]
    if hidden:
        left = _tally(hidden).partition(": ")[2]
        text = f"{pen.glyphs.ellipsis} {'more' if shown else 'of which'}: {left}"
        nodes.append(Node(Text(text, style=DIM)))
    return nodes
