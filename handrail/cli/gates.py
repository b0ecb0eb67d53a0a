"""The commands about gates: the inbox, `gates show`, approve, deny.

A decision is for what was shown: every command fetches the gate, says what it is for, and sends its binding.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from json import loads
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.runs import finish, see_through
from handrail.cli.server import Connection, Target, find, with_client

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.cli.pen import Pen
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

MAX_LISTED = 1_000
MIN_BINDING_CHARS = 12
HEARD_WITHIN_S = 5.0
"""How long a decision may take to count before it is said that it did not."""
LOOK_INTERVAL_S = 0.1
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

    async def work(client: Client) -> None:
        if watch:
            async for gate in client.watch_gates():
                _write(gate, output)
            return
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
    json: options.Json = False,
) -> None:
    """Show all that whoever decides at a gate must know."""
    from handrail.cli.events import message_object
    from handrail.cli.gate_text import gate_lines
    from handrail.cli.output import Output

    output = Output(as_json=json)
    target = find(server, project, data)
    found = with_client(target, lambda client: resolve(client, gate, target))
    output.json({"gate": message_object(found)})
    output.lines(gate_lines(found, target, _pen(output)))


def approve(
    gate: options.GateId,
    binding: Annotated[
        str, typer.Option("--binding", metavar="SHA", help="Only what was shown under this binding.")
    ] = "",
    happened: Annotated[
        bool, typer.Option("--happened", help="Of a doubt: it did happen; of an undo: it is undone.")
    ] = False,
    returned: Annotated[
        str, typer.Option("--output", metavar="JSON", help="With --happened: what the tool returned.")
    ] = "",
    repeat: Annotated[bool, typer.Option("--repeat", help="Of a doubt or an undo: do it again.")] = False,
    name: options.As = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Approve exactly what waits at a gate, or settle a doubt."""
    if happened and repeat:
        raise CommandError("--happened and --repeat say opposite things.", next="Write one of them.")
    if returned and not happened:
        raise CommandError("--output goes with --happened.", next="Write both, or neither.")
    said = Said("happened" if happened else "repeat" if repeat else "approve", output=_read_json(returned))
    _decide(find(server, project, data), gate, options.read_name(name), said, binding, json)


def deny(
    gate: options.GateId,
    reason: options.Reason = "",
    name: options.As = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Deny what waits at a gate, or give a doubt up; its step fails.

    Where an undo has gone wrong, that is left as it is, and the undo ends.
    """
    _decide(find(server, project, data), gate, options.read_name(name), Said("deny", reason), "", json)


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


# --- deciding ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says at a gate: approve, deny, and of a doubt happened, repeat or deny."""

    word: str
    reason: str = ""
    output: Any = None

    @property
    def state(self) -> str:
        """What the gate comes to if it counts."""
        return _STATES[self.word]


_STATES = {
    "approve": "approved",
    "deny": "denied",
    "happened": "happened",
    "repeat": "repeat",
}
_VERBS = {
    "approve": "approving",
    "deny": "denying",
    "happened": "settling, it happened",
    "repeat": "settling, to be done again",
}


def _read_json(text: str) -> Any:
    try:
        return None if not text else loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"--output is not JSON: {error}.", next="Quote it: --output '{\"id\": 7}'."
        ) from None


def _decide(target: Target, text: str, name: str, said: Said, binding: str, as_json: bool) -> None:
    from core.plan import is_compensation
    from handrail.cli.output import Output
    from handrail.cli.summary import exit_code, undo_code

    output = Output(as_json=as_json)

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            connection = Connection(stack, target)
            with output.working("Starting a stack" if target.kind == "own" else "Connecting"):
                client = await connection.open()
                gate = await resolve(client, text, target)
            _check(gate, said, name, binding, target)
            existed = await _send(client, gate, said, name, output)
            if connection.target.kind == "own":
                # This stack ends with this command, and the run goes on with a stack only.
                output.json(_told(gate, said, name, existed))
                code = undo_code if is_compensation(gate.what.step) else exit_code
                return await see_through(client, gate.run, connection, output, name=name, code=code)
            return _tell(await _heard(client, gate, name), said, name, existed, target, output)

    finish(asyncio.run(work()))


def _check(gate: run_service_pb2.Gate, said: Said, name: str, binding: str, target: Target) -> None:
    """Refuse to decide at a gate that was closed otherwise, and on something else than what was meant."""
    from handrail.cli.gate_text import BINDING_CHARS, is_doubt, outcome, state_of

    # Whoever says again what has closed the gate is told so.
    again = state_of(gate) == said.state and name in gate.closed.approvers
    if gate.HasField("closed") and not again:
        raise CommandError(f"Gate {gate.id} is closed: {outcome(gate)}.", code=ExitCode.FAILED)
    if is_doubt(gate) and said.word == "approve":
        raise CommandError(
            f"Gate {gate.id} asks what became of an action, and not whether it may be done.",
            next="Write --happened, or --repeat to have it done again; `handrail deny` gives it up.",
        )
    if not is_doubt(gate) and said.word in ("happened", "repeat"):
        raise CommandError(
            f"Gate {gate.id} asks whether something may be done; nothing of it has been.",
            next=f"Approve it without --{said.word}, or deny it.",
        )
    if not binding:
        return
    if len(binding) < MIN_BINDING_CHARS:
        raise CommandError(
            f"--binding {binding!r:.80} is too short.",
            next=f"Write {MIN_BINDING_CHARS} characters of it or more; `gates show` has them.",
        )
    if not gate.what.binding.startswith(binding.lower()):
        raise CommandError(
            f"Gate {gate.id} is not bound to {binding:.64}.",
            why=f"It is bound to {gate.what.binding[:BINDING_CHARS]}: to other actions, arguments or rules.",
            next=f"`{target.command('gates show', gate.id)}` shows what it is for now.",
            code=ExitCode.FAILED,
        )


async def _send(client: Client, gate: run_service_pb2.Gate, said: Said, name: str, output: Output) -> bool:
    """Say what is decided on, and decide."""
    from handrail.cli.gate_text import call, undoes

    verbs = {**_VERBS, "happened": f"settling, {undoes(gate)} is undone"} if undoes(gate) else _VERBS
    output.line(f"{verbs[said.word]}: {call(gate)}")
    binding = gate.what.binding
    if said.word in ("happened", "repeat"):
        happened = said.word == "happened"
        return await client.settle(
            gate.id, happened=happened, output=said.output, approver=name, binding=binding
        )
    approve = said.word == "approve"
    return await client.decide(gate.id, approve=approve, approver=name, binding=binding, reason=said.reason)


async def _heard(client: Client, gate: run_service_pb2.Gate, name: str) -> run_service_pb2.Gate:
    """Return the gate, as its run has it, when the decision has counted, or has had time to."""
    deadline = time.monotonic() + HEARD_WITHIN_S
    while True:
        gates = (await client.get(gate.run)).gates
        seen = next((each for each in gates if each.id == gate.id), gate)
        if seen.HasField("closed") or _is_missing_others(seen, name) or time.monotonic() >= deadline:
            return seen
        await asyncio.sleep(LOOK_INTERVAL_S)


def _is_missing_others(gate: run_service_pb2.Gate, name: str) -> bool:
    """Whether this approval is there, and more are needed."""
    return name in gate.approved_by and len(gate.approved_by) < gate.what.quorum


def _tell(
    gate: run_service_pb2.Gate, said: Said, name: str, existed: bool, target: Target, output: Output
) -> ExitCode:
    """Say what a decision has come to."""
    from handrail.cli.gate_text import outcome, state_of

    output.json(_told(gate, said, name, existed))
    again = "; you had said so before" if existed else ""
    if state_of(gate) == said.state:
        output.line(f"{gate.id} {outcome(gate)}{again}")
        output.note(f"`{target.command('watch', gate.run)}` shows what becomes of it")
        return ExitCode.DONE
    if said.word == "approve" and _is_missing_others(gate, name):
        count = f"{len(gate.approved_by)} of {gate.what.quorum}"
        output.line(f"{gate.id} stays open: {count} have approved{again}")
        return ExitCode.DONE
    if gate.HasField("closed"):
        output.line(f"{gate.id} was closed otherwise: {outcome(gate)}")
        return ExitCode.FAILED
    output.line(f"{gate.id} is still open: what {name} said has not counted")
    output.note(
        f"the rules may not let {name} decide here, or the decider is slow; "
        f"`{target.command('gates show', gate.id)}` says how it stands"
    )
    return ExitCode.FAILED


def _told(gate: run_service_pb2.Gate, said: Said, name: str, existed: bool) -> dict[str, Any]:
    """Return a decision for `--json`."""
    from handrail.cli.gate_text import state_of

    return {
        "gate": gate.id,
        "run": gate.run,
        "decision": said.word,
        "approver": name,
        "binding": gate.what.binding,
        "existed": existed,
        "state": state_of(gate),
    }


# --- the inbox -----------------------------------------------------------------------------------------


def _write(gate: run_service_pb2.Gate, output: Output) -> None:
    from handrail.cli.events import message_object
    from handrail.cli.gate_text import inbox_line

    output.json(message_object(gate))
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
