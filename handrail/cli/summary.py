"""How a run ended, in words: the one line of figures, and for what went wrong why and what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.text import Text

from handrail.cli.details import failure
from handrail.cli.events import message_object
from handrail.cli.exits import ExitCode
from handrail.cli.gate_text import closed_line, open_lines
from handrail.cli.outlook import needs
from handrail.cli.output import Output
from handrail.cli.pen import DIM, RUN_STYLES, STEP_STYLES, Detail, Pen
from handrail.cli.server import Target
from handrail.cli.text import clean, duration, plural
from handrail.cli.tree import counts, draw, elapsed_ns
from handrail.cli.undo_text import outcome
from handrail.v1 import event_pb2, run_service_pb2

MAX_STEPS_NAMED = 5
MAX_GATES_NAMED = 20
MAX_GATES_OFFERED = 3
_NEAREST = "; nearest: "

_E = event_pb2
_EXIT_CODES: dict[int, ExitCode] = {
    _E.RUN_STATUS_DONE: ExitCode.DONE,
    _E.RUN_STATUS_FAILED: ExitCode.FAILED,
    _E.RUN_STATUS_CANCELLED: ExitCode.FAILED,
    _E.RUN_STATUS_UNREADABLE: ExitCode.FAILED,
    _E.RUN_STATUS_WAITING: ExitCode.WAITING,
    _E.RUN_STATUS_REFUSED: ExitCode.REFUSED,
    _E.RUN_STATUS_UNDONE: ExitCode.DONE,
}
_TROUBLED = (run_service_pb2.STEP_STATUS_FAILED, run_service_pb2.STEP_STATUS_IN_DOUBT)


def exit_code(run: run_service_pb2.Run) -> ExitCode:
    """Return what the end of a run means for the command that watched it."""
    return _EXIT_CODES.get(run.status, ExitCode.INTERRUPTED)


def undo_code(run: run_service_pb2.Run) -> ExitCode:
    """Return what the end of an undo means for the command that watched it."""
    if run.status in (_E.RUN_STATUS_WAITING, _E.RUN_STATUS_UNREADABLE):
        return exit_code(run)
    if not run.undo.ended:
        return ExitCode.INTERRUPTED
    return ExitCode.STAYS if run.undo.stays or run.undo.HasField("failure") else ExitCode.DONE


def ending(run: run_service_pb2.Run, target: Target, pen: Pen) -> Iterator[Text]:
    """Say how a run stands: figures, what happened, and what to do next."""
    name, words, style = RUN_STYLES.get(run.status, RUN_STYLES[0])
    steps, actions, heals = counts(run)
    figures = [plural(steps, "step"), plural(actions, "action"), plural(heals, "heal")]
    if run.HasField("forgotten"):
        figures = []
    took_ns = elapsed_ns(run, pen.now_ns)
    if took_ns:
        figures.append(duration(took_ns))
    line = pen.sign(name, style).append(f" {words}", style=f"bold {style}")
    yield line.append(f"  {', '.join(figures)}  {clean(run.id)}", style=DIM)
    undone = outcome(run, target, pen)
    for text in (*_happened(run), *needs(run), *_decided(run, pen), *undone, *_next(run, target, pen)):
        yield Text("  ").append_text(text)


def draw_run(
    seen: run_service_pb2.Run,
    target: Target,
    output: Output,
    *,
    tree: bool = True,
    full: bool = False,
    now_ns: int = 0,
) -> None:
    """Draw a run as it stands, with how it ended."""
    output.json({"run": message_object(seen)})
    detail = Detail.FULL if full else Detail.NORMAL
    pen = Pen(output.width, output.glyphs, now_ns or time.time_ns(), detail)
    output.lines([*draw(seen, pen), ""] if tree else [])
    output.lines(ending(seen, target, pen))


def _happened(run: run_service_pb2.Run) -> Iterator[Text]:
    if run.HasField("failure"):
        # A refusal ends with the phrases that come nearest: one a line.
        why, _, nearest = failure(run.failure).partition(_NEAREST)
        yield Text(why)
        yield from (Text(f"  nearest: {phrase}", style=DIM) for phrase in nearest.split(" | ") if phrase)
    told = run.failure.message
    troubled = [step for step in run.steps if step.status in _TROUBLED]
    for step in troubled[:MAX_STEPS_NAMED]:
        if step.HasField("failure") and step.failure.message in told and len(troubled) == 1:
            yield Text(f"at step {clean(step.id)}", style=DIM)
            continue
        _, words, style = STEP_STYLES[step.status]
        line = Text(f"step {clean(step.id)} {words}", style=style)
        yield line.append(f": {failure(step.failure)}" if step.HasField("failure") else "")
    if len(troubled) > MAX_STEPS_NAMED:
        yield Text(f"and {plural(len(troubled) - MAX_STEPS_NAMED, 'more step')}", style=DIM)


def _decided(run: run_service_pb2.Run, pen: Pen) -> Iterator[Text]:
    """Say what became of the gates."""
    over = [gate for gate in run.gates if gate.HasField("closed")]
    for gate in over[:MAX_GATES_NAMED]:
        yield closed_line(gate, pen)
    if len(over) > MAX_GATES_NAMED:
        yield Text(f"and {plural(len(over) - MAX_GATES_NAMED, 'more gate')}", style=DIM)


def _waiting(run: run_service_pb2.Run, target: Target, pen: Pen) -> Iterator[Text]:
    """Say at which gates a run waits, and how to decide."""
    found = [gate for gate in run.gates if not gate.HasField("closed")]
    for gate in found[:MAX_GATES_OFFERED]:
        yield from open_lines(gate, target, pen)
    if len(found) > MAX_GATES_OFFERED:
        more = plural(len(found) - MAX_GATES_OFFERED, "more gate")
        yield Text(f"and {more}; `{target.command('gates')}` shows them", style="cyan")


def _next(run: run_service_pb2.Run, target: Target, pen: Pen) -> Iterator[Text]:
    yield from _waiting(run, target, pen)
    log = f"`{target.command('log', clean(run.id))}`"
    advice = {
        _E.RUN_STATUS_FAILED: f"{log} shows every event",
        _E.RUN_STATUS_CANCELLED: _taking_back(run, target),
        _E.RUN_STATUS_REFUSED: "nothing was done; say it as a playbook does, or submit a plan with --plan",
        _E.RUN_STATUS_WAITING: f"an effect may have happened: look at the system itself; {log} says more",
        _E.RUN_STATUS_UNREADABLE: "a newer Handrail wrote this run: upgrade this one to go on",
        _E.RUN_STATUS_PAUSED: f"`{target.command('resume', clean(run.id))}` lets it go on",
    }
    text = advice.get(run.status, "")
    if run.HasField("read_as"):
        text = (
            f"nothing was done; `{target.command('confirm', clean(run.id))}` does it if that is what you want"
        )
    in_doubt = any(step.status == run_service_pb2.STEP_STATUS_IN_DOUBT for step in run.steps)
    if text and (run.status != _E.RUN_STATUS_WAITING or in_doubt):
        yield Text(text, style="cyan")


def _taking_back(run: run_service_pb2.Run, target: Target) -> str:
    """Say how to see what a cancelled run had done, and how to take it back."""
    show, undo = (target.command(name, clean(run.id)) for name in ("show", "undo"))
    told = f"`{show}` shows what had been done"
    return told if run.HasField("undo") else f"{told}; `{undo}` takes it back"
