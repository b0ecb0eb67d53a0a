"""The commands that decide at a gate: approve, deny, amend, delegate.

A decision is for what was shown: every command fetches the gate, says what it is for, and sends its binding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from json import loads
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.gates import resolve
from handrail.cli.runs import finish, see_through
from handrail.cli.server import Connection, Target, find

if TYPE_CHECKING:
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1 import run_service_pb2

MIN_BINDING_CHARS = 12
HEARD_WITHIN_S = 5.0
"""How long a decision may take to count before it is said that it did not."""
LOOK_INTERVAL_S = 0.1

Binding = Annotated[
    str, typer.Option("--binding", metavar="SHA", help="Only what was shown under this binding.")
]


def approve(
    gate: options.GateId,
    binding: Binding = "",
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
    _decide(find(server, project, data), gate, name, said, binding, json)


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
    _decide(find(server, project, data), gate, name, Said("deny", reason), "", json)


def amend(
    gate: options.GateId,
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=JSON", help="What an argument is to be; what is no JSON is text."
        ),
    ],
    reason: options.Reason = "",
    binding: Binding = "",
    name: options.As = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Change arguments of what waits, and approve the result.

    Where more than one must approve, a new gate opens for the action as it is then.
    """
    said = Said("amend", reason, arguments=options.read_changes(changes))
    _decide(find(server, project, data), gate, name, said, binding, json)


def delegate(
    gate: options.GateId,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Who is to decide in your stead.")],
    reason: options.Reason = "",
    binding: Binding = "",
    name: options.As = None,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Hand your decision at a gate to somebody else, for this once."""
    if not to.strip():
        raise CommandError("--to names nobody.", next="Write who is to decide.")
    said = Said("delegate", reason, to=to.strip())
    _decide(find(server, project, data), gate, name, said, binding, json)


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says at a gate: approve, deny, amend, delegate, and of a doubt happened or repeat."""

    word: str
    reason: str = ""
    output: Any = None
    # Of an amendment: what is to be another.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    # Of a delegation: who is to decide.
    to: str = ""

    @property
    def state(self) -> str:
        """What the gate comes to if it counts."""
        return _STATES[self.word]


_STATES = {
    "approve": "approved",
    "deny": "denied",
    "amend": "amended",
    "delegate": "open",
    "happened": "happened",
    "repeat": "repeat",
}
_VERBS = {
    "approve": "approving",
    "deny": "denying",
    "amend": "amending",
    "delegate": "delegating to {to}",
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


# --- deciding ------------------------------------------------------------------------------------------


def _decide(target: Target, text: str, by: str | None, said: Said, binding: str, as_json: bool) -> None:
    from core.plan import is_compensation
    from handrail.cli.output import Output
    from handrail.cli.summary import exit_code, undo_code

    output, name = Output(as_json=as_json), target.speaker(by)

    async def work() -> ExitCode:
        async with AsyncExitStack() as stack:
            connection = Connection(stack, target)
            with output.working("Starting a stack" if target.kind == "own" else "Connecting"):
                client = await connection.open()
                gate = await resolve(client, text, target)
            _check(gate, said, name, binding, target)
            existed = await _send(client, gate, said, name, output, target)
            if said.word == "delegate":
                return _hand_over(gate, said, name, existed, target, output)
            if await _is_held(client, gate):
                return _tell_held(gate, said, name, existed, target, output)
            if connection.target.kind == "own":
                # This stack ends with this command, and the run goes on with a stack only.
                output.json(_told(gate, said, name, existed))
                ended = undo_code if is_compensation(gate.what.step) else exit_code

                def code(seen: run_service_pb2.Run) -> ExitCode:
                    return ExitCode.FAILED if _came_otherwise(seen, gate.id, said, output) else ended(seen)

                return await see_through(client, gate.run, connection, output, name=name, code=code)
            seen, after = await _heard(client, gate, name)
            return _tell(seen, after, said, name, existed, target, output)

    finish(asyncio.run(work()))


def _check(gate: run_service_pb2.Gate, said: Said, name: str, binding: str, target: Target) -> None:
    """Refuse to decide at a gate that was closed otherwise, and on something else than what was meant."""
    from handrail.cli.gate_text import BINDING_CHARS, outcome, state_of

    # Whoever says again what has closed the gate is told so.
    again = state_of(gate) == said.state and name in gate.closed.approvers
    if gate.HasField("closed") and not again:
        raise CommandError(f"Gate {gate.id} is closed: {outcome(gate)}.", code=ExitCode.FAILED)
    _check_is_asked(gate, said, target)
    if said.word == "amend":
        _check_can_amend(gate, said)
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


def _check_is_asked(gate: run_service_pb2.Gate, said: Said, target: Target) -> None:
    """Refuse what is no answer to what a gate asks."""
    from core.gates import missing
    from handrail.cli.gate_text import is_doubt

    if is_doubt(gate) and said.word in ("approve", "amend"):
        raise CommandError(
            f"Gate {gate.id} asks what became of an action, and not whether it may be done.",
            next="Approve it with --happened, or with --repeat to have it done again; "
            "`handrail deny` gives it up.",
        )
    if said.word == "approve" and (lacking := missing(gate.what)):
        told = " ".join(f"--set {name}=..." for name in lacking)
        raise CommandError(
            f"Gate {gate.id} lacks {' and '.join(lacking)}.",
            why=f"{gate.what.items[0].tool} needs that, and nobody has said it.",
            next=f"Say it, which approves it: `{target.command('amend', gate.id)} {told}`; or deny it.",
            code=ExitCode.FAILED,
        )
    if not is_doubt(gate) and said.word in ("happened", "repeat"):
        raise CommandError(
            f"Gate {gate.id} asks whether something may be done; nothing of it has been.",
            next=f"Approve it without --{said.word}, or deny it.",
        )


def _check_can_amend(gate: run_service_pb2.Gate, said: Said) -> None:
    """Refuse to amend a gate for several actions, or a part of an argument."""
    from handrail.cli.gate_text import is_one_action
    from handrail.cli.text import exact

    if not is_one_action(gate):
        raise CommandError(
            f"Gate {gate.id} is for {len(gate.what.items):,} actions, and is decided as a whole.",
            next="Approve it, or deny it and submit a goal for what should be done.",
        )
    there = gate.what.items[0].arguments
    for name in said.arguments:
        whole = name.partition(".")[0]
        if name not in there and whole in there:
            raise CommandError(
                f"--set {name!r:.80} is a part of an argument; arguments are set as a whole.",
                next=f"Now it is {whole}={exact(there[whole].json[:200])}: write it so, as it should be.",
            )


async def _send(
    client: Client, gate: run_service_pb2.Gate, said: Said, name: str, output: Output, target: Target
) -> bool:
    """Say what is decided on, and decide."""
    from handrail.cli.gate_text import call, changes, undoes
    from handrail.cli.text import clean
    from handrail.goals import value

    verbs = {**_VERBS, "happened": f"settling, {undoes(gate)} is undone"} if undoes(gate) else _VERBS
    output.line(f"{verbs[said.word].format(to=clean(said.to))}: {call(gate)}")
    named = {"approver": name, "binding": gate.what.binding, "reason": said.reason}
    if said.word == "amend":
        made = {name: value(f"--set {name}", held) for name, held in said.arguments.items()}
        output.lines(changes(gate, made))
        return await _amend(client, gate, said, named, target)
    if said.word == "delegate":
        return await client.delegate(gate.id, to=said.to, **named)
    if said.word in ("happened", "repeat"):
        return await client.settle(gate.id, happened=said.word == "happened", output=said.output, **named)
    return await client.decide(gate.id, approve=said.word == "approve", **named)


async def _amend(
    client: Client, gate: run_service_pb2.Gate, said: Said, named: dict[str, str], target: Target
) -> bool:
    from handrail.errors import PermissionDenied

    try:
        return await client.amend(gate.id, arguments=said.arguments, **named)
    except PermissionDenied as error:
        raise CommandError(
            f"Gate {gate.id} was not amended, and is open as it was.",
            why=f"{error}.",
            next=f"`{target.command('gates show', gate.id)}` shows what waits.",
            code=ExitCode.FAILED,
        ) from None


async def _heard(
    client: Client, gate: run_service_pb2.Gate, name: str
) -> tuple[run_service_pb2.Gate, run_service_pb2.Gate | None]:
    """Return the gate, as its run has it, when the decision has counted, or has had time to.

    And the gate that has opened instead, where it was amended and that was not the approval.
    """
    deadline, step = time.monotonic() + HEARD_WITHIN_S, gate.what.items[0].step if gate.what.items else ""

    async def look(found: Callable[[run_service_pb2.Gate], bool]) -> run_service_pb2.Gate | None:
        while True:
            seen = next((each for each in (await client.get(gate.run)).gates if found(each)), None)
            if seen is not None or time.monotonic() >= deadline:
                return seen
            await asyncio.sleep(LOOK_INTERVAL_S)

    seen = await look(lambda each: each.id == gate.id and _has_counted(each, name))
    if seen is None:
        return await client.gate(gate.id), None
    if not seen.closed.arguments or seen.closed.binding:
        return seen, None
    return seen, await look(lambda each: not each.HasField("closed") and each.what.items[0].step == step)


def _came_otherwise(run: run_service_pb2.Run, name: str, said: Said, output: Output) -> bool:
    """Say of a gate that was closed by something else than what was said there, and whether it was."""
    from handrail.cli.gate_text import outcome, state_of

    gate = next((one for one in run.gates if one.id == name and one.HasField("closed")), None)
    if gate is None or state_of(gate) == said.state:
        return False
    output.line(f"{gate.id} was closed otherwise: {outcome(gate)}")
    return True


async def _is_held(client: Client, gate: run_service_pb2.Gate) -> bool:
    """Whether the run is paused, so that what was said at the gate counts only when it goes on."""
    from handrail.v1 import event_pb2

    run = await client.get(gate.run)
    is_open = any(one.id == gate.id and not one.HasField("closed") for one in run.gates)
    return is_open and run.status == event_pb2.RUN_STATUS_PAUSED


def _has_counted(gate: run_service_pb2.Gate, name: str) -> bool:
    return gate.HasField("closed") or _is_missing_others(gate, name)


def _is_missing_others(gate: run_service_pb2.Gate, name: str) -> bool:
    """Whether this approval is there, and more are needed."""
    return name in gate.approved_by and len(gate.approved_by) < gate.what.quorum


# --- telling -------------------------------------------------------------------------------------------


def _tell(
    gate: run_service_pb2.Gate,
    after: run_service_pb2.Gate | None,
    said: Said,
    name: str,
    existed: bool,
    target: Target,
    output: Output,
) -> ExitCode:
    """Say what a decision has come to."""
    from handrail.cli.gate_text import BINDING_CHARS, outcome, state_of

    told = _told(gate, said, name, existed)
    output.json({**told, "after": after.id} if after is not None else told)
    again = "; you had said so before" if existed else ""
    if state_of(gate) == said.state:
        output.line(f"{gate.id} {outcome(gate)}{again}")
        if after is not None:
            output.line(f"{after.id} has opened: as it is now it needs {after.what.quorum} approvals")
            bound = ("--binding", after.what.binding[:BINDING_CHARS])
            output.note(f"`{target.command('approve', after.id, *bound)}` approves it as it is now")
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


def _tell_held(
    gate: run_service_pb2.Gate, said: Said, name: str, existed: bool, target: Target, output: Output
) -> ExitCode:
    """Say that a decision is in the log of a paused run."""
    from handrail.cli.text import clean

    output.json(_told(gate, said, name, existed))
    again = "; you had said so before" if existed else ""
    output.line(
        f"{gate.id} stays open while its run is paused: what {clean(name)} said counts when it goes on{again}"
    )
    output.note(f"`{target.command('resume', gate.run)}` lets it go on")
    return ExitCode.DONE


def _hand_over(
    gate: run_service_pb2.Gate, said: Said, name: str, existed: bool, target: Target, output: Output
) -> ExitCode:
    """Say who may decide now."""
    from handrail.cli.text import clean

    output.json(_told(gate, said, name, existed))
    again = "; you had said so before" if existed else ""
    to, by = clean(said.to), clean(name)
    output.line(f"{gate.id} stays open: {to} may decide in {by}'s stead, and {by} no more{again}")
    output.note(f"`{target.command('gates show', gate.id)}` shows {to} what waits")
    return ExitCode.DONE


def _told(gate: run_service_pb2.Gate, said: Said, name: str, existed: bool) -> dict[str, Any]:
    """Return a decision for `--json`."""
    from handrail.cli.gate_text import state_of

    more: dict[str, Any] = {"arguments": dict(said.arguments)} if said.word == "amend" else {}
    return {
        "gate": gate.id,
        "run": gate.run,
        "decision": said.word,
        "approver": name,
        "binding": gate.what.binding,
        "existed": existed,
        "state": state_of(gate),
        **({"to": said.to} if said.word == "delegate" else more),
    }
