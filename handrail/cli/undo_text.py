"""An undo in words: its part of a run's tree, and what came of it: what is undone, what stays, what is next.

Pure. Every word of it is untrusted and is cleaned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from core import failures
from core.plan import undone_by
from handrail.cli.details import failure
from handrail.cli.pen import DIM, Pen
from handrail.cli.server import Target
from handrail.cli.text import clean, plural
from handrail.v1 import event_pb2, run_service_pb2

MAX_NAMED = 20
_S = run_service_pb2
_UNFINISHED = (_S.STEP_STATUS_PENDING, _S.STEP_STATUS_CANCELLED)


def heading(undo: run_service_pb2.UndoState, pen: Pen) -> Text:
    """Say who wants what undone, and why."""
    verb = "what would be undone" if undo.dry_run else "undo"
    step = f" of {clean(undo.step)} and what rests on it" if undo.step else ""
    line = pen.sign("undone", "yellow").append(f" {verb}{step}", style="bold")
    by = f" for {clean(undo.submitter)}" if undo.submitter else ""
    return line.append(by + (f": {clean(undo.reason)}" if undo.reason else ""), style=DIM)


def outcome(run: run_service_pb2.Run, target: Target, pen: Pen) -> Iterator[Text]:
    """Say of the last undo of a run who wanted it and what came of it; nothing where there is none."""
    if run.HasField("undo"):
        yield heading(run.undo, pen)
        yield from (Text("  ").append_text(text) for text in _results(run, target, pen))


def foreseen(undo: run_service_pb2.UndoState, pen: Pen) -> Iterator[Text]:
    """Say what would come of an undo."""
    yield from _foreseen(undo)
    yield from _staying(undo, pen)


def _results(run: run_service_pb2.Run, target: Target, pen: Pen) -> Iterator[Text]:
    """Say what came of an undo, and what to do next."""
    undo = run.undo
    yield from _done(undo, pen)
    yield from _staying(undo, pen)
    if undo.ended and undo.HasField("failure"):
        step = ("--step", clean(undo.step)) if undo.step else ()
        again = target.command("undo", clean(run.id), *step)
        yield Text(f"`{again}` goes on with what is left", style="cyan")


def _staying(undo: run_service_pb2.UndoState, pen: Pen) -> Iterator[Text]:
    """Say of each effect that cannot be undone why."""
    verb = "would stay" if undo.dry_run else "stays"
    for one in undo.stays[:MAX_NAMED]:
        told = f" {clean(one.step)} ({clean(one.tool)}) {verb}"
        yield pen.sign("warning", "yellow").append(told, style="yellow").append(f": {clean(one.why)}")
    if len(undo.stays) > MAX_NAMED:
        more = plural(len(undo.stays) - MAX_NAMED, "more effect")
        yield Text(f"{pen.glyphs.warning} and {more} that cannot be undone", style="yellow")


def _foreseen(undo: run_service_pb2.UndoState) -> Iterator[Text]:
    """Say of a dry run what would be done and where it would wait."""
    if not undo.steps and not undo.stays:
        yield Text("there is nothing to undo")
    refused = [step for step in undo.steps if _is_ruled(step, event_pb2.RULING_OUTCOME_REFUSE)]
    taken = [step for step in undo.steps if step not in refused]
    if taken:
        yield Text(f"{plural(len(taken), 'effect')} would be taken back: {_undoes(taken)}")
    if refused:
        told = f"the rules would refuse to undo {_undoes(refused)}: somebody would be asked"
        yield Text(told, style="red")
    allow = event_pb2.RULING_OUTCOME_ALLOW
    waiting = [step for step in taken if any(one.ruling != allow for one in step.outlook)]
    if waiting:
        yield Text(f"it would wait for a human to undo {_undoes(waiting)}", style="magenta")


def _is_ruled(step: run_service_pb2.StepState, ruling: event_pb2.RulingOutcome.ValueType) -> bool:
    return any(one.ruling == ruling for one in step.outlook)


def _done(undo: run_service_pb2.UndoState, pen: Pen) -> Iterator[Text]:
    """Say what is undone, and of the rest why not."""
    own = {one.step.id for one in undo.compensations}
    done = [step for step in undo.steps if step.status == _S.STEP_STATUS_DONE]
    # It is not for whoever asks again that an earlier undo has undone something.
    for words, is_own in (("undone", True), ("undone before", False)):
        if some := [step for step in done if (step.id in own) is is_own]:
            yield pen.sign("done", "green").append(f" {words}: {_undoes(some)}")
    if undo.ended and not undo.compensations and not undo.stays:
        yield Text("nothing was left to undo" if done else "there was nothing to undo")
    # Of one that has ended, nobody is asked any more about what went wrong.
    wrong = (_S.STEP_STATUS_FAILED, *((_S.STEP_STATUS_IN_DOUBT,) if undo.ended else ()))
    left = [step for step in undo.steps if step.status in wrong]
    for step in left[:MAX_NAMED]:
        line = pen.sign("failed", "red").append(f" {clean(undone_by(step.id))} is not undone", style="red")
        yield line.append(f": {failure(step.failure)}")
    unfinished = [step for step in undo.steps if step.status in _UNFINISHED]
    if unfinished:
        words = "nothing was done about it" if undo.ended else "not yet undone"
        yield pen.sign("pending", DIM).append(f" {words}: {_undoes(unfinished)}")
    if undo.failure.code == failures.CANCELLED:
        yield Text(f"the undo was stopped: {clean(undo.failure.message)}", style="yellow")


def _undoes(steps: Sequence[run_service_pb2.StepState]) -> str:
    """Name what compensations take back."""
    more = f" and {len(steps) - MAX_NAMED} more" if len(steps) > MAX_NAMED else ""
    named = (
        f"{clean(undone_by(step.id))}" + (f" by {clean(step.tool)}" if step.tool else "")
        for step in steps[:MAX_NAMED]
    )
    return ", ".join(named) + more
