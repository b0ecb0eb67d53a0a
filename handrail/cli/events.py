"""Events in words: one line for each event of a run's log, and one JSON object.

A line is time, sequence, writer, where in the log it lies, and what it says. Everything in it is untrusted
and is cleaned. `DESCRIPTIONS` has an entry for every kind of event; a test asserts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from core.plan import is_compensation
from core.redaction import MASK, is_secret_name, masked_json
from handrail.cli.details import failure
from handrail.cli.pen import DIM
from handrail.cli.text import clean, cut, duration, enum_word, field, pad, value
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2
from handrail.v1.trajectory_pb2 import FilledArgument

MAX_DESCRIPTION_CHARS = 400
MAX_VALUE_CHARS = 120
WRITER_CELLS = 16
KIND_CELLS = 19

_QUOTING = frozenset({"observed", "message"})
"""Fields of messages that quote what was read."""
_SOURCES = frozenset(one.name for one in FilledArgument.DESCRIPTOR.oneofs_by_name["source"].fields)
_TIMES = frozenset({"google.protobuf.Duration", "google.protobuf.Timestamp"})
_CHANNEL_STYLES = {"cmd": "magenta", "dec": "cyan", "ans": "green"}
_BAD_KINDS = frozenset({"step_failed", "plan_rejected", "proposal_refused", "in_doubt", "orphan"})
_HEAL_KINDS = frozenset({"healed", "revoked", "verify_ask", "gate_opened"})


def event_line(response: run_service_pb2.WatchRunResponse) -> Text:
    """Return an event as one line."""
    event = response.event
    kind = event.WhichOneof("body") or ("erased" if response.forgotten else "unreadable")
    channel = response.subject.split(".")[4] if response.subject.count(".") >= 5 else ""
    line = Text(clock(response.time), style=DIM)
    line.append(f" {clean(response.cursor):>6} ", style=DIM)
    line.append(pad(cut(clean(event.writer) or "?", WRITER_CELLS), WRITER_CELLS) + " ", style=DIM)
    where = f"{clean(channel)}.{kind}" if channel else kind
    line.append(pad(where, KIND_CELLS) + " ", style=_CHANNEL_STYLES.get(channel, ""))
    style = "red" if kind in _BAD_KINDS else "yellow" if kind in _HEAL_KINDS else ""
    if response.forgotten:
        return line.append("nobody can read it any more", style=DIM)
    return line.append(describe(event), style=style)


def event_object(response: run_service_pb2.WatchRunResponse) -> dict[str, Any]:
    """Return an event as JSON: what the API says, with the names of the protos."""
    return message_object(response)


def message_object(message: Any) -> dict[str, Any]:
    """Return a message as JSON with the names of the protos; values are masked as they are for people."""
    return {name: _masked(name, held) for name, held in exact_object(message).items()}


def exact_object(message: Any) -> dict[str, Any]:
    """Return a message as JSON, and hide nothing: for whoever is to approve what it says."""
    try:
        found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    except SerializeToJsonError:
        # Somebody has written a time that is none, and must not keep the rest from being read.
        sound = type(message)()
        sound.CopyFrom(message)
        _drop_bad_times(sound)
        found = MessageToDict(sound, preserving_proto_field_name=True)
    return found


def _drop_bad_times(message: Any) -> None:
    """Clear the times in a message that JSON has no word for."""
    for one, held in message.ListFields():
        inner = one.message_type
        if inner is None:
            continue
        if inner.full_name in _TIMES and not one.is_repeated:
            try:
                held.ToJsonString()
            except ValueError:
                message.ClearField(one.name)
        elif not inner.GetOptions().map_entry:
            for item in held if one.is_repeated else (held,):
                _drop_bad_times(item)
        elif inner.fields_by_name["value"].message_type is not None:
            for item in held.values():
                _drop_bad_times(item)


def _masked(name: str, held: Any) -> Any:
    """Mask in a message what a field of this name holds: a value, or an argument of a plan."""
    if isinstance(held, list):
        return [_masked(name, item) for item in held]
    if not isinstance(held, dict):
        return masked_json(held) if name in _QUOTING else held
    if isinstance(held.get("json"), str):
        return {"json": json.dumps(MASK) if is_secret_name(name) else masked_json(held["json"])}
    # The constant of an argument has the argument's name, and so has what a model filled in.
    named = {"constant", "value"} if held.keys() & _SOURCES else {"constant"}
    return {inner: _masked(name if inner in named else inner, value) for inner, value in held.items()}


def clock(time: Timestamp) -> str:
    """Return a local time of day with milliseconds."""
    try:
        local = datetime.fromtimestamp(time.seconds)
    except (ValueError, OverflowError, OSError):
        return "??:??:??.???"
    return f"{local:%H:%M:%S}.{time.nanos // 1_000_000:03d}"


def describe(event: event_pb2.Event) -> str:
    """Say in one line what an event tells."""
    kind = event.WhichOneof("body")
    if kind is None:
        return f"an event of version {event.version} that this version cannot read"
    return cut(DESCRIPTIONS[kind](getattr(event, kind)), MAX_DESCRIPTION_CHARS)


# --- one function a kind -------------------------------------------------------------------------------


def _submit(body: event_pb2.Submit) -> str:
    goal = body.goal
    notes = [
        name
        for name, given in (
            ("dry run", goal.dry_run),
            ("with a plan", goal.HasField("plan")),
            ("undone if it fails", goal.undo_on_failure),
            ("to teach", goal.teaches),
            ("as it was read", goal.HasField("confirms")),
        )
        if given
    ]
    if goal.HasField("deadline"):
        notes.append(f"until {clock(goal.deadline)}")
    return f"goal: {clean(goal.text)}" + (f" ({', '.join(notes)})" if notes else "")


def _reason(verb: str) -> Callable[[Any], str]:
    return lambda body: f"{verb}: {clean(body.reason)}" if body.reason else verb


def _plan_ask(body: event_pb2.PlanAsk) -> str:
    return f"asks a planner ({clean(body.attempt)})"


def _proposal_ask(body: event_pb2.ProposalAsk) -> str:
    named = [rule.tool for rule in body.rules] + [grant.tool for grant in body.grants]
    tools = ", ".join(dict.fromkeys(map(clean, named)))
    return f"{clean(body.step)}: asks an executor to choose among {tools} ({clean(body.attempt)})"


def _action(body: event_pb2.Action) -> str:
    call = f"{clean(body.tool)}({_values(body.arguments)})"
    verb = "reads back by" if body.kind == event_pb2.ACTION_KIND_READ_BACK else "authorises"
    return f"{clean(body.step)}: {verb} {call} ({clean(body.attempt)})"


def _verify_ask(body: event_pb2.VerifyAsk) -> str:
    return f"asks the verifier to look again, round {body.round} ({clean(body.attempt)})"


def _plan_accepted(body: event_pb2.PlanAccepted) -> str:
    return f"plan accepted: {_plan(body.plan)}"


def _plan(plan: plan_pb2.Plan) -> str:
    steps = ", ".join(clean(step.id) for step in plan.steps)
    return f"{clean(plan.origin) or 'a plan'}: {len(plan.steps)} steps: {steps}"


def _violations(body: Any) -> str:
    return "; ".join(f"{clean(v.field)}: {clean(v.message)} [{clean(v.code)}]" for v in body.violations)


def _healed(body: event_pb2.Healed) -> str:
    tool = f" {clean(body.tool)}" if body.tool else ""
    return f"{clean(body.step)}: {clean(body.strategy).replace('_', ' ')}{tool} because {failure(body.cause)}"


def _finished(body: event_pb2.Finished) -> str:
    status = enum_word(event_pb2.RunStatus, "RUN_STATUS_", body.status)
    return f"{status}: {failure(body.failure)}" if body.HasField("failure") else status


def _plan_answer(body: event_pb2.PlanAnswer) -> str:
    answer = body.WhichOneof("answer")
    if answer == "plan":
        # One behind an endpoint does not say how sure it is.
        sure = f", {body.thought.sure:.0%} sure" if body.thought.sure or body.thought.needed else ""
        return f"plan: {_plan(body.plan)}{sure}"
    if answer == "no_plan":
        nearest = "; nearest: " + " | ".join(map(clean, body.no_plan.nearest)) if body.no_plan.nearest else ""
        return f"no plan: {clean(body.no_plan.reason)}{nearest}"
    return f"the planner failed: {failure(body.failure)}"


def _proposal(body: event_pb2.Proposal) -> str:
    if body.WhichOneof("answer") == "choice":
        return f"rule {body.choice.rule}: {clean(body.choice.tool)} ({clean(body.choice.reason)})"
    if body.WhichOneof("answer") == "call":
        said = body.call
        why = f"; unsure: {clean(said.unsure)}" if said.unsure else ""
        return f"proposes {clean(said.tool)}({_values(said.arguments)}) ({clean(said.reason)}){why}"
    return f"the executor failed: {failure(body.failure)}"


def _result(body: event_pb2.Result) -> str:
    took = f" in {duration(body.took.ToNanoseconds())}" if body.HasField("took") else ""
    if body.WhichOneof("answer") == "output":
        return f"{clean(body.attempt)}: returned {cut(value(body.output), MAX_DESCRIPTION_CHARS // 2)}{took}"
    return f"{clean(body.attempt)}: {failure(body.failure)}{_happened(body.happened)}{took}"


def _happened(happened: int) -> str:
    words: dict[int, str] = {
        event_pb2.HAPPENED_YES: ", the effect happened",
        event_pb2.HAPPENED_NO: ", the effect did not happen",
        event_pb2.HAPPENED_UNKNOWN: ", the effect may have happened",
    }
    return words.get(happened, "")


def _orphan(body: event_pb2.Orphan) -> str:
    seen = "is dead" if body.seen_dead else "is silent"
    return f"{clean(body.attempt)}: claimed by {clean(body.claimer)}, which {seen}"


def _verdict(body: event_pb2.Verdict) -> str:
    outcome = enum_word(event_pb2.Outcome, "OUTCOME_", body.outcome)
    evidence = "; ".join(
        f"{'holds' if e.held else 'does not hold'}: {clean(e.condition)}" for e in body.evidence
    )
    failed = f" ({failure(body.failure)})" if body.HasField("failure") else ""
    return f"{clean(body.attempt)}: {outcome}{failed}" + (f"; {evidence}" if evidence else "")


_SAID: Mapping[int, str] = {
    event_pb2.GATE_CHOICE_APPROVE: "approves",
    event_pb2.GATE_CHOICE_DENY: "denies",
    event_pb2.GATE_CHOICE_HAPPENED: "says that it happened",
    event_pb2.GATE_CHOICE_REPEAT: "wants it done again",
    event_pb2.GATE_CHOICE_AMEND: "amends",
    event_pb2.GATE_CHOICE_DELEGATE: "delegates",
}


def _decide(body: event_pb2.Decide) -> str:
    verb = _SAID.get(body.choice, "decides")
    if body.choice == event_pb2.GATE_CHOICE_AMEND:
        verb = f"{verb} to {_values(body.arguments)}"
    elif body.choice == event_pb2.GATE_CHOICE_DELEGATE:
        verb = f"{verb} to {clean(body.delegate)}"
    why = f": {clean(body.reason)}" if body.reason else ""
    return f"{clean(body.approver)} {verb} at gate {clean(body.gate)}{why}"


def _gate_opened(body: event_pb2.GateOpened) -> str:
    first = body.items[0] if body.items else event_pb2.GateItem()
    call = f"{clean(first.tool)}({_values(first.arguments)})"
    more = f" and {len(body.items) - 1} more" if len(body.items) > 1 else ""
    who = "a human" if body.quorum <= 1 else f"{body.quorum} humans"
    why = "; ".join(clean(reason.text) for reason in body.reasons)
    what = "may have happened, which is" if body.kind == event_pb2.GATE_KIND_DOUBT else "waits"
    if body.kind == event_pb2.GATE_KIND_DOUBT and is_compensation(body.step):
        what = "went wrong, which is"
    return f"{clean(body.step)}: gate {clean(body.gate)}: {call}{more} {what} for {who}: {why}"


def _gate_closed(body: event_pb2.GateClosed) -> str:
    outcome = enum_word(event_pb2.GateOutcome, "GATE_OUTCOME_", body.outcome)
    by = f" by {', '.join(map(clean, body.approvers))}" if body.approvers else ""
    to = f" to {_values(body.arguments)}" if body.arguments else ""
    why = f": {clean(body.reason)}" if body.reason else ""
    return f"gate {clean(body.gate)}: {outcome}{by}{to}{why}"


def _in_doubt(body: event_pb2.InDoubt) -> str:
    what = "went wrong" if is_compensation(body.step) else "in doubt"
    return f"{clean(body.step)}: {what}, {clean(body.why)}"


def _undo(body: event_pb2.Undo) -> str:
    what = clean(body.step) or "everything"
    dry = ", only to see what would be done" if body.dry_run else ""
    why = f": {clean(body.reason)}" if body.reason else ""
    return f"{clean(body.submitter) or 'somebody'} wants {what} undone{dry}{why}"


def _forget(body: event_pb2.Forget) -> str:
    why = f": {clean(body.reason)}" if body.reason else ""
    return f"{clean(body.submitter) or 'somebody'} wants it forgotten{why}"


def forgotten(body: event_pb2.Forgotten) -> str:
    """Say what is left of a run that was forgotten."""
    status = enum_word(event_pb2.RunStatus, "RUN_STATUS_", body.status)
    why = f" ({clean(body.failure)})" if body.failure else ""
    effects = ", ".join(f"{clean(tool)} {count}" for tool, count in sorted(body.effects.items()))
    return f"forgotten; it was {status}{why}, with {effects or 'no effects'}"


def _undo_planned(body: event_pb2.UndoPlanned) -> str:
    calls = ", ".join(f"{clean(one.undoes)} by {clean(one.step.tool)}" for one in body.compensations)
    stays = "; ".join(f"{clean(one.step)} stays: {clean(one.why)}" for one in body.stays)
    return f"undo {calls or 'nothing'}" + (f"; {stays}" if stays else "")


def _undo_ended(body: event_pb2.UndoEnded) -> str:
    return f"undo ended: {failure(body.failure)}" if body.HasField("failure") else "undo ended"


def _values(arguments: Mapping[str, plan_pb2.Value]) -> str:
    shown: Iterable[str] = (
        f"{clean(name)}={cut(field(name, held), MAX_VALUE_CHARS)}" for name, held in sorted(arguments.items())
    )
    return ", ".join(shown)


DESCRIPTIONS: Mapping[str, Callable[[Any], str]] = {
    "submit": _submit,
    "cancel": _reason("cancel"),
    "pause": _reason("pause"),
    "resume": lambda body: "resume",
    "decide": _decide,
    "undo": _undo,
    "forget": _forget,
    "plan_ask": _plan_ask,
    "proposal_ask": _proposal_ask,
    "action": _action,
    "verify_ask": _verify_ask,
    "plan_accepted": _plan_accepted,
    "plan_rejected": lambda body: f"plan rejected: {_violations(body)}",
    "expanded": lambda body: f"{clean(body.step)}: {body.count} items",
    "skipped": lambda body: f"{clean(body.step)}: skipped, {clean(body.reason)}",
    "step_failed": lambda body: f"{clean(body.step)}: failed, {failure(body.failure)}",
    "healed": _healed,
    "in_doubt": _in_doubt,
    "proposal_refused": lambda body: f"{clean(body.attempt)}: refused: {_violations(body)}",
    "gate_opened": _gate_opened,
    "gate_closed": _gate_closed,
    "undo_planned": _undo_planned,
    "undo_ended": _undo_ended,
    "finished": _finished,
    "forgotten": forgotten,
    "revoked": lambda body: f"{clean(body.attempt)}: taken back: {clean(body.reason)}",
    "plan_answer": _plan_answer,
    "proposal": _proposal,
    "intent": lambda body: f"{clean(body.attempt)}: claimed by {clean(body.claimer)}",
    "result": _result,
    "orphan": _orphan,
    "verdict": _verdict,
}


def dump(found: Mapping[str, Any]) -> str:
    """Return one line of JSON in ASCII, which no terminal can misread."""
    return json.dumps(found, ensure_ascii=True, separators=(",", ":"))
