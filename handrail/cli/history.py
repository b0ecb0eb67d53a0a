"""The commands that read runs: list, show, log, replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, was_forgotten
from handrail.cli.server import find, with_client

if TYPE_CHECKING:
    from handrail.client import Client

MAX_LISTED = 1_000


def list_runs(
    status: Annotated[
        str, typer.Option("--status", metavar="STATUS", help="Only these: running, done, failed, undone ...")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=MAX_LISTED, help="At most so many.")] = 20,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """List runs, newest first."""
    from contextlib import aclosing

    from handrail.cli.events import message_object
    from handrail.cli.listing import run_line, status_number
    from handrail.cli.output import Output

    output = Output(as_json=json)
    number = status_number(status)

    async def work(client: Client) -> int:
        shown = 0
        async with aclosing(client.list(status=number)) as runs:
            async for summary in runs:
                if shown == limit:
                    output.note(f"there are more; --limit {limit * 2} shows them")
                    break
                shown += 1
                output.json(message_object(summary))
                output.line(run_line(summary, width=output.width, glyphs=output.glyphs))
        return shown

    if not with_client(find(server, project, data), work):
        output.note("no runs" + (f" that are {status}" if status else ""))


def show(
    run: options.RunId,
    full: Annotated[
        bool, typer.Option("--full", help="Every item, all evidence, the plan's arguments.")
    ] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show what has become of a run."""
    from handrail.cli.output import Output
    from handrail.cli.summary import draw_run

    output = Output(as_json=json)
    target = find(server, project, data)
    draw_run(with_client(target, lambda client: client.get(run)), target, output, full=full)


def log(
    run: options.RunId,
    after: Annotated[
        int, typer.Option("--after", metavar="SEQ", min=0, help="Only events after this sequence.")
    ] = 0,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Print the events of a run, one a line.

    Each with its time, sequence, writer, kind, and what it says.
    """
    from handrail.cli.output import Output
    from handrail.cli.watching import Lines

    output = Output(as_json=json)

    async def work(client: Client) -> None:
        cursor = str(after) if after else ""
        async for response in client.watch(run, after=cursor, until_now=True):
            Lines(output).show(response)

    with_client(find(server, project, data), work)


def replay(
    run: options.RunId,
    at: Annotated[
        int | None, typer.Option("--at", metavar="SEQ", min=1, help="Fold up to this sequence; else all.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every item, all evidence, the plan's arguments.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="DIR", help="Say what the rules in DIR would decide.")
    ] = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Fold the log of a run and show its state at any point.

    With --policy it says instead what other rules would have decided about each action.
    """
    from handrail.cli.output import Output
    from handrail.cli.summary import draw_run
    from handrail.cli.watching import fold_log

    output = Output(as_json=json)
    target = find(server, project, data)
    if policy is not None:
        from handrail.cli.hindsight import hold_to

        if at is not None or full:
            option = "--full" if at is None else "--at"
            raise CommandError(
                f"{option} says nothing about --policy, which tells of every action of the run.",
                next="Leave one of them away.",
            )
        hold_to(run, policy, target, project, output)
        return
    watched = with_client(target, lambda client: fold_log(client, run, upto=at))
    if watched.state is None:
        raise CommandError(
            f"The log of {run} has no events up to {at}.",
            next=f"`{target.command('log', run)}` shows their sequences.",
        )
    state = watched.state
    if watched.erased and state.forgotten is None:
        raise was_forgotten(run, target.command("show", run))
    if state.applied != at:
        output.note(f"the state after event {state.applied}")
    draw_run(watched.run, target, output, full=full, now_ns=watched.time_ns)
