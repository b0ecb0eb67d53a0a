"""The commands that carry runs on: run, submit, watch, cancel, pause, resume.

`see_through` is what all of them do that show a run until it ends or waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import confirm, options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.options import HostKind
from handrail.cli.server import Connection, Target, connect, find, with_client

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

CANCEL_WAIT_S = 60.0


def run(
    goal: options.Goal,
    project: options.Project = None,
    host: options.Host = HostKind.INLINE,
    dry_run: options.DryRun = False,
    context: options.Context = None,
    plan: options.Plan = None,
    deadline: options.Deadline = None,
    ceiling: options.Ceiling = None,
    budget: options.Budget = None,
    request_id: options.RequestId = None,
    name: options.As = None,
    approve: options.Approve = False,
    undo_on_failure: options.UndoOnFailure = False,
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
    who = target.speaker(name)
    given = _given(context, plan, deadline, request_id, dry_run, who, undo_on_failure, ceiling, budget)
    _carry_out(goal, given, target, output, host=host, approve=approve)


def teach(
    goal: options.Goal,
    plan: Annotated[
        Path, typer.Option("--plan", metavar="FILE", help="How it is carried out (YAML or JSON).")
    ],
    context: options.Context = None,
    name: options.As = None,
    approve: options.Approve = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show how a goal is carried out, by a plan.

    It is a run like any other; what was verified of it teaches the action model: `handrail lam collect`.
    """
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    given = _given(context, plan, None, None, False, target.speaker(name), False, None, None)
    _carry_out(goal, {**given, "teaches": True}, target, output, approve=approve)


def _carry_out(
    goal: str,
    given: dict[str, Any],
    target: Target,
    output: Output,
    *,
    host: HostKind = HostKind.INLINE,
    approve: bool = False,
) -> None:
    """Submit a goal and show it to its end; on a terminal, what it lacks or might mean is asked."""
    if approve:
        output.note(f"--approve: {given['submitter']} approves every gate of this run, unasked")

    if host is HostKind.RAY and target.kind != "own":
        output.note("a stack is up already; its minds live where it says, whatever --host says")

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            with output.working(f"Starting a stack ({host.value})" if target.kind == "own" else "Connecting"):
                connection = Connection(stack, target, host=host)
                client = await connection.open(new=True)
            return await _submit_and_ask(client, goal, given, connection, output, approve=approve)

    finish(asyncio.run(work()))


async def _submit_and_ask(
    client: Client, goal: str, given: dict[str, Any], connection: Connection, output: Output, *, approve: bool
) -> ExitCode:
    """Submit a goal, again with what it lacks, or as it was read, if whoever is at the terminal says so."""
    from handrail.cli.terminal import can_ask

    who = given["submitter"]
    while True:
        submitted = await client.submit(goal, **given)
        code = await see_through(
            client, submitted.run, connection, output, goal=goal, name=who, approve=approve
        )
        if code is not ExitCode.REFUSED or not can_ask(output):
            return code
        seen = await client.get(submitted.run)
        said = await confirm.ask_for(seen.missing, output)
        if said:
            given = {**given, "context": {**(given["context"] or {}), **said}, "request_id": None}
            continue
        if given["dry_run"] or not seen.HasField("read_as") or not await confirm.is_meant(seen, output):
            return code
        return await confirm.carry_out(client, submitted.run, connection, output, name=who, approve=approve)


def submit(
    goal: options.Goal,
    dry_run: options.DryRun = False,
    context: options.Context = None,
    plan: options.Plan = None,
    deadline: options.Deadline = None,
    ceiling: options.Ceiling = None,
    budget: options.Budget = None,
    request_id: options.RequestId = None,
    name: options.As = None,
    undo_on_failure: options.UndoOnFailure = False,
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
    who = target.speaker(name)
    given = _given(context, plan, deadline, request_id, dry_run, who, undo_on_failure, ceiling, budget)

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
    name: options.As = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show a run live until it has ended.

    On a terminal you are asked at its gates.
    """
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    decider = target.speaker(name)

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            connection = Connection(stack, target)
            client = await connection.open()
            return await see_through(client, run, connection, output, name=decider, after=after)

    finish(asyncio.run(work()))


def cancel(
    run: options.RunId,
    reason: options.Reason = "",
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Cancel a run: what is in flight finishes or is resolved.

    Of a run that is being undone it is the undo that ends.
    """
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
    with_client(target, work)
    output.json({"run": run, "asked": verb})
    output.line(f"asked {run} to {verb}")
    output.note(f"`{target.command('watch', run)}` shows what becomes of it")


def _given(
    context: str | None,
    plan: Path | None,
    deadline: str | None,
    request_id: str | None,
    dry_run: bool,
    submitter: str,
    undo_on_failure: bool,
    ceiling: str | None,
    budget: list[str] | None,
) -> dict[str, Any]:
    """Return what goes with a goal, as `Client.submit` takes it."""
    return {
        "context": options.read_context(context),
        "plan": options.read_plan(plan),
        "deadline": options.read_deadline(deadline),
        "request_id": request_id,
        "dry_run": dry_run,
        "submitter": submitter,
        "undo_on_failure": undo_on_failure,
        "ceiling": options.read_ceiling(ceiling),
        "budget": options.read_budget(budget),
    }


async def see_through(
    client: Client,
    run: str,
    connection: Connection,
    output: Output,
    *,
    name: str,
    approve: bool = False,
    after: int = 0,
    goal: str = "",
    note: str = "cancelling: what is in flight finishes first; Ctrl-C again leaves at once",
    code: Callable[[run_service_pb2.Run], ExitCode] | None = None,
) -> ExitCode:
    """Watch a run to its end, show how it ended, and return what that means (by `code`, if there is one).

    At a gate `name` is asked on a terminal, or approves unasked. Ctrl-C is answered with `note`.
    """
    from handrail.cli.gatekeeper import Gatekeeper
    from handrail.cli.summary import draw_run, exit_code
    from handrail.cli.terminal import can_ask, on_terminal
    from handrail.cli.watching import Watch

    polite = connection.target.kind == "own"
    again = None if connection.target.kind == "server" else connection.again
    keeper = None
    ask = on_terminal(output) if can_ask(output) else None
    if approve or ask is not None:
        keeper = Gatekeeper(output, name, lambda: connection.target, approve=approve, ask=ask)
    watching = Watch(client, run, output, polite=polite, note=note, goal=goal, again=again, gatekeeper=keeper)
    seen = await watching.follow(after=after)
    target = connection.target
    # On a pipe the events have told it all, but for the plan that a dry run is for.
    draw_run(seen, target, output, tree=output.live or seen.dry_run)
    if watching.left:
        command = target.command("watch", run)
        output.note(
            f"`{command}` goes on with it" if target.kind == "own" else f"it goes on; `{command}` shows it"
        )
    return ExitCode.INTERRUPTED if watching.left else (code or exit_code)(seen)


def finish(code: ExitCode) -> None:
    """End the command with a code."""
    if code is not ExitCode.DONE:
        raise typer.Exit(code)
