"""The command `undo`: what a run has done is taken back, live, and what stays is named before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.runs import finish, see_through
from handrail.cli.server import Connection, Target, find

if TYPE_CHECKING:
    from rich.text import Text

    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

QUESTION = "undo the rest? [y]es, [n]o: "
NOTE = "stopping the undo: what is in flight finishes first; Ctrl-C again leaves at once"


def undo(
    run: options.RunId,
    step: options.Step = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what stays; nothing is done.")
    ] = False,
    reason: options.Reason = "",
    name: options.As = None,
    approve: options.Approve = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask beforehand where something stays.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return as soon as the undo is durable; for a server.")
    ] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Take back what a run has done, the last first.

    Each effect as its tool's contract says. What has no way back stays.
    """
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    asked: dict[str, Any] = {"step": step, "reason": reason, "submitter": target.speaker(name)}
    if detach:
        _check_can_detach(target, dry_run)
    if approve:
        output.note(f"--approve: {asked['submitter']} approves every gate of this undo, unasked")

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            with output.working("Starting a stack" if target.kind == "own" else "Connecting"):
                connection = Connection(stack, target)
                client = await connection.open()
            if dry_run:
                return await _look_ahead(client, run, asked, target, output)
            if detach:
                return await _begin(client, run, asked, target, output)
            if not yes and not await _is_wanted(client, run, asked, target, output):
                output.note("nothing was undone")
                return ExitCode.FAILED
            before = await client.get(run)
            await client.begin_undo(run, **asked)
            return await see_through(
                client,
                run,
                connection,
                output,
                name=asked["submitter"],
                approve=approve,
                after=int(before.cursor),
                note=NOTE,
                code=lambda seen: _code(seen, step, target),
            )

    finish(asyncio.run(work()))


def _check_can_detach(target: Target, dry_run: bool) -> None:
    if dry_run:
        raise CommandError("--detach and --dry-run do not go together.", next="Write one of them.")
    if target.kind == "own":
        raise CommandError(
            "There is no server to leave the undo to.",
            why=f"No server was named, and no stack is up on {target.data}.",
            next="Start one with `handrail up`, name one with --server, or leave --detach out.",
            code=ExitCode.UNAVAILABLE,
        )


async def _look_ahead(
    client: Client, run: str, asked: dict[str, Any], target: Target, output: Output
) -> ExitCode:
    """Show what an undo would do."""
    from handrail.cli.events import message_object

    seen = await client.undo(run, dry_run=True, **asked)
    if not seen.HasField("undo_outlook"):
        raise _other(seen, target)
    output.json({"run": message_object(seen)})
    output.lines(_foreseen(seen.undo_outlook, output))
    return ExitCode.STAYS if seen.undo_outlook.stays else ExitCode.DONE


def _foreseen(undo: run_service_pb2.UndoState, output: Output) -> Iterator[Text | str]:
    """Return what an undo would do, as lines."""
    from handrail.cli.pen import Pen
    from handrail.cli.tree import undo_lines
    from handrail.cli.undo_text import foreseen

    pen = Pen(output.width, output.glyphs, time.time_ns())
    yield from undo_lines(undo, pen)
    yield ""
    yield from foreseen(undo, pen)


async def _begin(client: Client, run: str, asked: dict[str, Any], target: Target, output: Output) -> ExitCode:
    """Ask for an undo, and leave it to the server."""
    existed = await client.begin_undo(run, **asked)
    output.json({"run": run, "asked": "undo", "existed": existed})
    output.line(f"{run} is being undone already" if existed else f"asked {run} to undo what it did")
    output.note(f"`{target.command('watch', run)}` shows what becomes of it")
    return ExitCode.DONE


async def _is_wanted(client: Client, run: str, asked: dict[str, Any], target: Target, output: Output) -> bool:
    """Say on a terminal what will stay, before anything is done, and ask whether to go on."""
    from handrail.cli.terminal import can_ask, on_terminal

    if not can_ask(output):
        return True
    seen = await client.undo(run, dry_run=True, **asked)
    ahead = seen.undo_outlook
    if not (ahead.stays and ahead.compensations):
        return True
    output.lines(_foreseen(ahead, output))
    typed = await on_terminal(output)(QUESTION)
    return (typed or "").strip().lower() in ("y", "yes")


def _code(seen: run_service_pb2.Run, step: str, target: Target) -> ExitCode:
    """Return what came of the undo, if it is the one that was asked for."""
    from handrail.cli.summary import undo_code

    if seen.undo.step != step:
        raise _other(seen, target)
    return undo_code(seen)


def _other(seen: run_service_pb2.Run, target: Target) -> CommandError:
    return CommandError(
        f"Somebody else asked for another undo of {seen.id} at the same moment.",
        next=f"`{target.command('undo', seen.id)}` asks again.",
        code=ExitCode.FAILED,
    )
