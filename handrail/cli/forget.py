"""The command `forget`: what the log holds of a run becomes unreadable, for good."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.runs import finish
from handrail.cli.server import Connection, find

if TYPE_CHECKING:
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

QUESTION = "forget this, for good? [y]es, [n]o: "
NOTE = (
    "its key is deleted, and the notary's copy of it as soon as the notary has read of it; "
    "exports, traces and backups that were made before are not in reach"
)


def forget(
    run: options.RunId,
    reason: options.Reason = "",
    name: options.As = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: it cannot be taken back.")] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Delete an ended run's key: nobody can read it any more.

    The proofs stay whole. Left is how it ended and how often each tool had an effect.
    """
    from handrail.cli.events import forgotten, message_object
    from handrail.cli.output import Output
    from handrail.cli.terminal import can_ask, on_terminal
    from handrail.cli.text import clean

    output = Output(as_json=json)
    target = find(server, project, data)
    if not yes and not can_ask(output):
        raise CommandError(
            f"Nobody can be asked here whether {run} is to be forgotten, and it cannot be taken back.",
            next="Say --yes.",
        )

    async def work() -> run_service_pb2.ForgetRunResponse | None:
        async with AsyncExitStack() as stack:
            with output.working("Starting a stack" if target.kind == "own" else "Connecting"):
                client: Client = await Connection(stack, target).open()
            if not yes:
                output.line(clean((await client.get(run)).goal))
                if (await on_terminal(output)(QUESTION) or "").strip().lower() not in ("y", "yes"):
                    return None
            return await client.forget(run, reason=reason, submitter=target.speaker(name))

    done = asyncio.run(work())
    if done is None:
        output.note("nothing was forgotten")
        finish(ExitCode.FAILED)
        return
    output.json({"run": run, **message_object(done)})
    before = " (it was before)" if done.existed else ""
    output.line(f"{output.glyphs.done} {run}: {forgotten(done.forgotten)}{before}")
    output.note(NOTE)
