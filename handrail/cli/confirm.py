"""The command `confirm`, and what `run` asks on a terminal: is that what you want? what is not said?

A goal that the action model was not sure enough of is submitted again with the plan that it read; whoever
confirms it answers for it, as for any plan of their own.
"""

from __future__ import annotations

import asyncio
import json as json_text
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.server import Connection, find

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

WHOLE = 1_000_000
"""Cells of a line: of what somebody agrees to nothing is cut, and the terminal breaks what is longer."""
QUESTION = "is that what you want? [y]es, [n]o: "


def confirm(
    run: options.RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: it is what was meant.")] = False,
    name: options.As = None,
    approve: options.Approve = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Carry out what a refused goal was read as.

    For a goal of which the action model was not sure enough. Verified, it teaches the model, as `teach` does.
    """
    from handrail.cli.output import Output
    from handrail.cli.runs import finish
    from handrail.cli.terminal import can_ask

    output = Output(as_json=json)
    target = find(server, project, data)
    who = target.speaker(name)
    if not yes and not can_ask(output):
        raise CommandError(
            f"Nobody can be asked here whether {run} was read as it was meant.",
            next=f"`{target.command('show', run)}` says how it was read; then say --yes.",
        )

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            connection = Connection(stack, target)
            with output.working("Starting a stack" if target.kind == "own" else "Connecting"):
                client = await connection.open(new=True)
            seen = await client.get(run)
            if not yes and seen.HasField("read_as") and not await is_meant(seen, output):
                output.note("nothing was done")
                return ExitCode.REFUSED
            return await carry_out(client, run, connection, output, name=who, approve=approve)

    finish(asyncio.run(work()))


async def is_meant(seen: run_service_pb2.Run, output: Output) -> bool:
    """Show what a refused goal was read as, and ask whoever is at the terminal whether that is meant."""
    from handrail.cli.pen import Pen
    from handrail.cli.terminal import on_terminal
    from handrail.cli.text import clean
    from handrail.cli.tree import draw_plan

    output.line(clean(seen.goal))
    output.lines(draw_plan(seen.read_as, Pen(WHOLE, output.glyphs, time.time_ns())))
    return (await on_terminal(output)(QUESTION) or "").strip().lower() in ("y", "yes")


async def ask_for(missing: Sequence[str], output: Output) -> dict[str, Any]:
    """Ask whoever is at the terminal for what a goal does not say; nothing unless all of it is said."""
    from handrail.cli.terminal import on_terminal
    from handrail.cli.text import clean

    found: dict[str, Any] = {}
    for name in missing:
        typed = (await on_terminal(output)(f"{clean(name)}? ") or "").strip()
        if not typed:
            return {}
        try:
            found[name] = json_text.loads(typed)
        except (ValueError, RecursionError):
            found[name] = typed
    return found


async def carry_out(
    client: Client, run: str, connection: Connection, output: Output, *, name: str, approve: bool
) -> ExitCode:
    """Confirm a run, and show what becomes of it to its end."""
    from handrail.cli.runs import see_through

    submitted = await client.confirm(run, submitter=name)
    if submitted.existed:
        output.note(f"it was confirmed before, as {submitted.run}")
    return await see_through(client, submitted.run, connection, output, name=name, approve=approve)
