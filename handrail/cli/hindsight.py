"""Looking back on what the rules decided in a run: `policy explain`, and `replay --policy`.

The questions are those in the run's log; the answers are asked for again. Nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from core import failures
from core.hindsight import Asked, asked
from core.policy import Ruling
from core.ports import Record
from core.redaction import masked_json
from core.rules import with_doubt
from core.run import fold
from core.state import Instance, RunState
from handrail.cli.exits import CommandError, ExitCode, was_forgotten
from handrail.cli.gate_text import amended, asked_for
from handrail.cli.output import Output
from handrail.cli.server import Target, with_client
from handrail.cli.text import clean, cut, enum_word, pad
from handrail.policy import load_policy, read_folder
from handrail.policy_cases import told
from handrail.project import load
from handrail.settings import ProjectError
from handrail.v1 import event_pb2

if TYPE_CHECKING:
    from core.cedar import CedarPolicy
    from handrail.client import Client

STEP_CELLS = 20
BECAME_CELLS = 22


def explain(run: str, step: str, target: Target, project: Path | None, output: Output) -> None:
    """Say of each time that the rules were asked about a step what they said, and what became of it."""
    policy = load(project or Path()).policy
    state, found = _recall(run, target, policy)
    about = [one for one in found if step in (one.step, state.instances[one.step].step)]
    # What a compensation was refused for is in a doubt: a human says what becomes of it.
    refused = [
        one
        for one in state.instances.values()
        if step in (one.id, one.step) and (one.failure is not None or one.settled == "in_doubt")
    ]
    if not about and not refused:
        raise CommandError(
            f"The rules were not asked about {step!r:.80} in {run}.",
            why="A step that never started was never asked about.",
            next=f"`{target.command('show', run)}` names the steps.",
        )
    for one in about:
        ruling = with_doubt(policy.rule(one.request), one.unsure)
        output.json(
            {**_object(one, state), **_ruling_object(ruling), "rules": sorted(policy.matching(one.request))}
        )
        output.lines(_explained(one, state, ruling, policy))
    for instance in refused:
        failure = instance.failure or event_pb2.Failure(code=failures.IN_DOUBT, message=instance.reason)
        message = masked_json(failure.message)
        output.json({"step": instance.id, "failed": {"code": failure.code, "message": message}})
        output.line(f"{clean(instance.id)} failed: {clean(failure.code)}: {clean(message)}")
    if decided_by(state) - {policy.version}:
        output.note("the rules or people have changed since: these are the answers of now")


def hold_to(run: str, folder: Path, target: Target, project: Path | None, output: Output) -> None:
    """Say what the rules in a folder would have decided about every action of a run."""
    loaded = load(project or Path())
    problems: list[str] = []
    files = read_folder(folder, problems)
    if problems:
        raise ProjectError(folder, problems)
    policy = load_policy(folder, files, loaded.protos.values())
    state, found = _recall(run, target, policy)
    if not found:
        raise CommandError(f"Nothing was authorised in {run}, and nothing waited.", code=ExitCode.USAGE)
    others = 0
    last = _last_of_each(found, state)
    for one in last:
        ruling = with_doubt(policy.rule(one.request), one.unsure)
        other = is_other(_gate(one, state), ruling, amended=_was_amended(one, state))
        others += other
        output.json({**_object(one, state), **_ruling_object(ruling), "other": other})
        output.line(_held(one, state, ruling, other, output))
    output.line("")
    count = len(last)
    output.line(
        f"{others} of {count} actions would have been decided otherwise"
        if others
        else f"{count} actions, and all of them would have been decided alike"
    )


def decided_by(state: RunState) -> set[str]:
    """Return the versions of the rules that have decided in a run; none is that of no rules."""
    actions = (attempt.action for one in state.instances.values() for attempt in one.attempts)
    allowed = {action.permit.policy for action in actions if action is not None}
    return (allowed | {gate.opened.policy for gate in state.gates.values()}) - {""}


def _recall(run: str, target: Target, policy: CedarPolicy) -> tuple[RunState, list[Asked]]:
    """Read a run's log, and the questions in it."""
    from handrail.cli.watching import record_of

    async def work(client: Client) -> list[Record]:
        async with aclosing(client.watch(run, until_now=True)) as events:
            found = [record_of(response) async for response in events]
        return [record for record in found if record is not None]

    records = with_client(target, work)
    if not records:
        raise CommandError(f"The log of {run} is empty.")
    key = records[0].address.key
    state = fold(key, records)
    if state.forgotten is not None:
        raise was_forgotten(run, target.command("show", run))
    return state, asked(key, records, policy)


def _last_of_each(found: Sequence[Asked], state: RunState) -> list[Asked]:
    """Return the last question about each instance: that of a retry, or of what had waited.

    What was amended is another action than what was asked for, and both are told of.
    """
    return list({(one.step, one.became == "gate" and _is_amended(one, state)): one for one in found}.values())


def _is_amended(one: Asked, state: RunState) -> bool:
    """Whether somebody had it done with other arguments at its gate."""
    closed = state.gates[one.gate].closed if one.gate else None
    return closed is not None and closed.outcome == event_pb2.GATE_OUTCOME_AMENDED


def _was_amended(one: Asked, state: RunState) -> bool:
    """Whether it is the action as somebody wanted it at a gate that let it pass."""
    return one.became == "authorised" and _is_amended(one, state)


def _gate(one: Asked, state: RunState) -> event_pb2.GateOpened | None:
    """Return the gate of an action, whatever was said there, or None where it was allowed."""
    return state.gates[one.gate].opened if one.gate else None


def is_other(gate: event_pb2.GateOpened | None, ruling: Ruling, *, amended: bool = False) -> bool:
    """Whether rules say something else of an action than what it came to; how many must approve counts."""
    if amended:
        # The gate was for another action; whoever amended it has approved this one, and nobody else had to.
        return ruling.outcome == "refuse" or ruling.quorum > 1
    if gate is None or ruling.outcome != "gate":
        return ruling.outcome != ("allow" if gate is None else "gate")
    # The quorum of a gate is that of the strictest of its actions; of one among several it is not known.
    return ruling.quorum > gate.quorum or (ruling.quorum < gate.quorum and len(gate.items) == 1)


def _explained(one: Asked, state: RunState, ruling: Ruling, policy: CedarPolicy) -> Iterator[Text]:
    request = one.request
    line = Text(f"{clean(one.step)}: {clean(request.contract.name)}", style="bold")
    line.append(
        f", asked for by {clean(request.user) or 'nobody with a name'}, event {one.sequence}: ", style=""
    )
    yield line.append(_became(one, state))
    yield Text(f"  the rules say: {told(ruling)}" + (", as far as is known" if ruling.open else ""))
    for reason in ruling.reasons:
        yield Text(f"    because {clean(reason.text)}" + (f" ({clean(reason.rule)})" if reason.rule else ""))
    by_id = {rule.id: rule for rule in policy.rules}
    for name in sorted(policy.matching(request)):
        rule = by_id[name]
        yield Text(
            f"  {clean(str(rule.node.effect)):<7} {clean(name)}: {clean(rule.reason)}  ", style=""
        ).append(f"{clean(rule.where)}", style="dim")
    for mark, names in (("untrusted", request.untrusted), ("leaks", request.leaks)):
        if names:
            yield Text(f"  {mark}: {', '.join(sorted(map(clean, names)))}")
    if one.amended:
        yield Text(f"  amended: {', '.join(sorted(map(clean, one.amended)))}")


def _became(one: Asked, state: RunState) -> str:
    if one.became == "gate":
        gate = state.gates[one.gate]
        if gate.closed is None:
            return f"it waits at gate {one.gate}"
        by = ", ".join(map(clean, gate.closed.approvers))
        word = enum_word(event_pb2.GateOutcome, "GATE_OUTCOME_", gate.closed.outcome)
        to = f" to {', '.join(amended(gate.closed))}" if gate.closed.arguments else ""
        to += asked_for(gate.opened, gate.closed)
        return f"it waited at gate {one.gate}: {word}" + (f" by {by}" if by else "") + to
    word = "amended" if _is_amended(one, state) else "approved"
    return f"authorised, {word} at gate {one.gate}" if one.gate else "authorised"


def _held(one: Asked, state: RunState, ruling: Ruling, other: bool, output: Output) -> Text:
    sign = output.glyphs.warning if other else output.glyphs.done
    step = pad(cut(clean(one.step), STEP_CELLS, output.glyphs), STEP_CELLS)
    line = Text(f"{sign} ", style="yellow" if other else "green").append(
        f"{step} {clean(one.request.contract.name)}  "
    )
    gate = _gate(one, state)
    was = "allow" if gate is None else "amended" if _was_amended(one, state) else f"gate {gate.quorum}"
    line.append(f"was {was}, would be {told(ruling)}", style="bold" if other else "dim")
    if ruling.open:
        line.append(", as far as is known", style="dim")
    why = "; ".join(clean(reason.text) for reason in ruling.reasons)
    return line.append(f": {why}" if why else "")


def _object(one: Asked, state: RunState) -> dict[str, Any]:
    instance: Instance = state.instances[one.step]
    return {
        "step": one.step,
        "of": instance.step,
        "tool": one.request.contract.name,
        "sequence": one.sequence,
        "became": one.became,
        "gate": one.gate,
        "untrusted": sorted(one.request.untrusted),
        "leaks": sorted(one.request.leaks),
    }


def _ruling_object(ruling: Ruling) -> dict[str, Any]:
    return {
        "ruling": ruling.outcome,
        "quorum": ruling.quorum,
        "open": ruling.open,
        "reasons": [{"rule": reason.rule, "text": reason.text} for reason in ruling.reasons],
    }
