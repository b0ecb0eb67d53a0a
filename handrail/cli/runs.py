"""The commands about runs: run, submit, watch, list, show, log, replay, cancel, pause, resume."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.options import HostKind
from handrail.cli.server import Target, connect, find

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

MAX_LISTED = 1_000
CANCEL_WAIT_S = 60.0

_T = TypeVar("_T")


def run(
    goal: options.Goal,
    project: options.Project = None,
    host: options.Host = HostKind.INLINE,
    dry_run: options.DryRun = False,
    context: options.Context = None,
    plan: options.Plan = None,
    deadline: options.Deadline = None,
    request_id: options.RequestId = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Carry a goal out and show it live.

    On a server if one is named, on the stack that is up in the data directory, else on one of its own.
    """
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    given = _given(context, plan, deadline, request_id, dry_run)

    if host is HostKind.RAY and target.kind != "own":
        output.note("a stack is up already; its minds live where it says, whatever --host says")

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            with output.working(f"Starting a stack ({host.value})" if target.kind == "own" else "Connecting"):
                client = await stack.enter_async_context(connect(target, host=host, new=True))
                submitted = await client.submit(goal, **given)
            return await _watch(client, submitted.run, target, output, goal=goal)

    _finish(asyncio.run(work()))


def submit(
    goal: options.Goal,
    dry_run: options.DryRun = False,
    context: options.Context = None,
    plan: options.Plan = None,
    deadline: options.Deadline = None,
    request_id: options.RequestId = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Submit a goal and return as soon as it is durable."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    if target.kind == "own":
        raise CommandError(
            "There is no server to submit to.",
            why=f"No server was named, and no stack is up on {target.data}.",
            next="Start one with `handrail up`, name one with --server, or use `handrail run`.",
            code=ExitCode.UNAVAILABLE,
        )
    given = _given(context, plan, deadline, request_id, dry_run)

    async def work() -> None:
        async with connect(target) as client:
            submitted = await client.submit(goal, **given)
        output.json({"run": submitted.run, "existed": submitted.existed})
        output.line(submitted.run)
        existed = "it had been submitted before; " if submitted.existed else ""
        output.note(f"{existed}`{target.command('watch', submitted.run)}` shows it")

    asyncio.run(work())


def watch(
    run: options.RunId,
    after: Annotated[
        int, typer.Option("--after", metavar="SEQ", min=0, help="Show only events after this sequence.")
    ] = 0,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show a run live until it has ended."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)

    async def work() -> ExitCode:
        async with connect(target) as client:
            return await _watch(client, run, target, output, after=after)

    _finish(asyncio.run(work()))


def list_runs(
    status: Annotated[
        str, typer.Option("--status", metavar="STATUS", help="Only these: running, done, failed, waiting ...")
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

    if not _with_client(find(server, project, data), work):
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

    output = Output(as_json=json)
    target = find(server, project, data)
    _draw(_with_client(target, lambda client: client.get(run)), target, output, full=full)


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

    _with_client(find(server, project, data), work)


def replay(
    run: options.RunId,
    at: Annotated[
        int | None, typer.Option("--at", metavar="SEQ", min=1, help="Fold up to this sequence; else all.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every item, all evidence, the plan's arguments.")
    ] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Fold the log of a run and show its state at any point."""
    from handrail.cli.output import Output
    from handrail.cli.watching import fold_log

    output = Output(as_json=json)
    target = find(server, project, data)
    watched = _with_client(target, lambda client: fold_log(client, run, upto=at))
    if watched.state is None:
        raise CommandError(
            f"The log of {run} has no events up to {at}.",
            next=f"`{target.command('log', run)}` shows their sequences.",
        )
    state = watched.state
    if state.applied != at:
        output.note(f"the state after event {state.applied}")
    _draw(watched.run, target, output, full=full, now_ns=watched.time_ns)


def cancel(
    run: options.RunId,
    reason: options.Reason = "",
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Cancel a run: what is in flight finishes or is resolved."""
    target = find(server, project, data)

    async def work(client: Client) -> None:
        await client.cancel(run, reason=reason)
        if target.kind == "own":
            # This stack ends with this command, and the run ends with a stack only.
            await client.wait(run, timeout_s=CANCEL_WAIT_S)

    _steer(target, work, run, "cancel", json)


def pause(
    run: options.RunId,
    reason: options.Reason = "",
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Pause a run: nothing new starts until it is resumed."""
    _steer(find(server, project, data), lambda client: client.pause(run, reason=reason), run, "pause", json)


def resume(
    run: options.RunId,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Let a paused run go on."""
    _steer(find(server, project, data), lambda client: client.resume(run), run, "resume", json)


def _steer(
    target: Target, work: Callable[[Client], Awaitable[None]], run: str, verb: str, as_json: bool
) -> None:
    from handrail.cli.output import Output

    output = Output(as_json=as_json)
    _with_client(target, work)
    output.json({"run": run, "asked": verb})
    output.line(f"asked {run} to {verb}")
    output.note(f"`{target.command('watch', run)}` shows what becomes of it")


def _given(
    context: str | None, plan: Path | None, deadline: str | None, request_id: str | None, dry_run: bool
) -> dict[str, Any]:
    """Return what goes with a goal, as `Client.submit` takes it."""
    return {
        "context": options.read_context(context),
        "plan": options.read_plan(plan),
        "deadline": options.read_deadline(deadline),
        "request_id": request_id,
        "dry_run": dry_run,
    }


def _with_client(target: Target, work: Callable[[Client], Awaitable[_T]]) -> _T:
    async def connected() -> _T:
        async with connect(target) as client:
            return await work(client)

    return asyncio.run(connected())


async def _watch(
    client: Client, run: str, target: Target, output: Output, *, after: int = 0, goal: str = ""
) -> ExitCode:
    """Watch a run to its end, show how it ended, and return what that means."""
    from handrail.cli.summary import exit_code
    from handrail.cli.watching import Watch

    note = "cancelling: what is in flight finishes first; Ctrl-C again leaves at once"
    watching = Watch(client, run, output, polite=target.kind == "own", note=note, goal=goal)
    seen = await watching.follow(after=after)
    # On a pipe the events have told it all, but for the plan that a dry run is for.
    _draw(seen, target, output, tree=output.live or seen.dry_run)
    if watching.left:
        again = target.command("watch", run)
        output.note(
            f"`{again}` goes on with it" if target.kind == "own" else f"it goes on; `{again}` shows it"
        )
    return ExitCode.INTERRUPTED if watching.left else exit_code(seen)


def _draw(
    seen: run_service_pb2.Run,
    target: Target,
    output: Output,
    *,
    tree: bool = True,
    full: bool = False,
    now_ns: int = 0,
) -> None:
    """Draw a run as it stands, with how it ended."""
    from handrail.cli.events import message_object
    from handrail.cli.pen import Detail, Pen
    from handrail.cli.summary import ending
    from handrail.cli.tree import draw

    output.json({"run": message_object(seen)})
    detail = Detail.FULL if full else Detail.NORMAL
    pen = Pen(output.width, output.glyphs, now_ns or time.time_ns(), detail)
    output.lines([*draw(seen, pen), ""] if tree else [])
    output.lines(ending(seen, target, pen))


def _finish(code: ExitCode) -> None:
    if code is not ExitCode.DONE:
        raise typer.Exit(code)
