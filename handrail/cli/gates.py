"""The commands that show gates, the inbox and `gates show`, and which gate somebody means."""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import aclosing
from dataclasses import replace
from json import dumps as encode
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.server import Target, connect, find, with_client

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.cli.pen import Pen
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

MAX_LISTED = 1_000
_RUN = re.compile(r"r\d{1,4}-[a-z0-9]{8,40}")
_GATE = re.compile(rf"{_RUN.pattern}-g\d{{1,9}}")

app = typer.Typer(
    help="Show what waits for a human, or one gate in full.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def inbox(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with each that opens or closes.")] = False,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show what waits for a human, or one gate in full."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from handrail.cli.output import Output

    output = Output(as_json=json)
    if watch:
        asyncio.run(watch_inbox(find(server, project, data), output))
        return

    async def work(client: Client) -> None:
        shown = 0
        async with aclosing(client.gates()) as found:
            async for gate in found:
                if shown == MAX_LISTED:
                    output.note(f"there are more than these {MAX_LISTED:,}")
                    break
                shown += 1
                _write(gate, output)
        if not shown:
            output.note("no gates: nothing waits for a human")

    with_client(find(server, project, data), work)


@app.command("show")
def show(
    gate: options.GateId,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    value: Annotated[
        str, typer.Option("--value", metavar="ARGUMENT", help="Print this argument, whole, as JSON.")
    ] = "",
    step: Annotated[str, typer.Option("--step", help="With --value, at a gate for several: whose.")] = "",
    json: options.Json = False,
) -> None:
    """Show all that whoever decides at a gate must know."""
    from handrail.cli.events import exact_object
    from handrail.cli.gate_text import gate_lines
    from handrail.cli.output import Output
    from handrail.cli.text import exact

    output = Output(as_json=json)
    target = find(server, project, data)

    async def work(client: Client) -> tuple[run_service_pb2.Gate, Any]:
        found = await resolve(client, gate, target)
        return found, await client.gate_value(found.id, value, step=step) if value else None

    found, held = with_client(target, work)
    if value:
        output.json({"gate": found.id, "argument": value, "value": held})
        output.line(exact(encode(held, ensure_ascii=False)))
        return
    output.json({"gate": exact_object(found)})
    output.lines(gate_lines(found, target, _pen(output)))


async def watch_inbox(target: Target, output: Output) -> None:
    """Show what is open, then each that opens or closes; a stack that comes back is found anew."""
    from bus.directory import find_endpoint
    from handrail.cli.watching import LOOK_AGAIN_AFTER_S, OUTAGE_S
    from handrail.errors import Unavailable

    outage_s = LOOK_AGAIN_AFTER_S if target.kind == "running" else OUTAGE_S
    lost_at = math.inf
    while True:
        began_at = time.monotonic()
        try:
            async with connect(target) as client, aclosing(client.watch_gates(outage_s=outage_s)) as seen:
                async for gate in seen:
                    lost_at = math.inf
                    _write(gate, output)
            return
        except Unavailable:
            now = time.monotonic()
            # Whoever was heard for so long had been there, though no gate opened or closed.
            lost_at = now if now - began_at > OUTAGE_S else min(lost_at, now)
            if target.kind != "running" or now - lost_at > OUTAGE_S:
                raise
            endpoint = find_endpoint(target.data)
            if endpoint is not None and endpoint.gateway != target.address:
                target = replace(target, address=endpoint.gateway)
                output.note(f"the stack is up again, at {target.address}; this waits there:")


async def resolve(client: Client, text: str, target: Target) -> run_service_pb2.Gate:
    """Return the gate that somebody means: by its id, or by that of a run with exactly one open gate."""
    from handrail.cli.gate_text import call, outcome

    if _GATE.fullmatch(text):
        return await client.gate(text)
    if not _RUN.fullmatch(text):
        raise CommandError(
            f"{text!r:.80} is the id of no gate and of no run.",
            next=f"`{target.command('gates')}` shows the open gates; they look like r0-01k9x3...-g1.",
        )
    gates = (await client.get(text)).gates
    found = [gate for gate in gates if not gate.HasField("closed")]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(
            f"{text} has {len(found)} open gates: name one.",
            why="\n".join(f"{gate.id} {call(gate)}" for gate in found),
        )
    if gates:
        raise CommandError(
            f"{text} has no open gate.",
            why="\n".join(f"{gate.id} is {outcome(gate)}" for gate in gates),
            code=ExitCode.FAILED,
        )
    raise CommandError(f"{text} has no gate.", next=f"`{target.command('show', text)}` says where it stands.")


def _write(gate: run_service_pb2.Gate, output: Output) -> None:
    from handrail.cli.events import exact_object
    from handrail.cli.gate_text import inbox_line

    output.json(exact_object(gate))
    output.line(inbox_line(gate, _pen(output)))


def _pen(output: Output) -> Pen:
    from handrail.cli.pen import Pen

    return Pen(output.width, output.glyphs, time.time_ns())


def _refuse_options(context: typer.Context) -> None:
    """Options of the inbox stand for nothing before a subcommand, and are not dropped in silence."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise CommandError(
                f"--{name} stands before `{context.invoked_subcommand}`.",
                next=f"Write it after: handrail gates {context.invoked_subcommand} GATE --{name}.",
            )
