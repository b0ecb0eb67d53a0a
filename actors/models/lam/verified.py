"""Whether what a run did is known to be right: the verifier looked, and nobody had to put it right."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from actors.models import Task
from core import failures, values
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, tool_pb2

LAM = "lam:"
Call = tuple[str, Mapping[str, Any]]
"""A tool, and its arguments."""

UNDONE = "it was undone"
NOT_DONE = "it did not end as done"
AMENDED = "somebody changed an argument of it"
UNVERIFIED = "not all of it was confirmed by the verifier"
UNSEEN = "an effect of it was confirmed without looking at anything"


def why_not(state: RunState, *, though_amended: bool = False) -> str:
    """Say why nothing of a run may train; nothing where it may."""
    undo = state.undo.before if state.undo is not None and state.undo.is_dry else state.undo
    if undo is not None:
        return UNDONE
    if state.status != event_pb2.RUN_STATUS_DONE:
        return NOT_DONE
    taken = [one for one in state.instances.values() if one.count is None]
    if not though_amended and any(one.amended for one in taken):
        return AMENDED
    found = (unverified(state, one) for one in taken if one.settled != "skipped")
    return next(filter(None, found), "")


def unverified(state: RunState, instance: Instance) -> str:
    """Say why nobody knows that what was done was right; nothing where it was verified."""
    verdict = verdict_of(instance.current)
    if instance.settled != "done" or verdict is None or verdict.outcome != event_pb2.OUTCOME_CONFIRMED:
        return UNVERIFIED
    acts = any(_effect(state, one) for one in instance.attempts)
    seen = _looked(state, instance, verdict) and all(one.held for one in verdict.evidence)
    return "" if seen or not acts else UNSEEN


def _looked(state: RunState, instance: Instance, verdict: event_pb2.Verdict) -> bool:
    """Whether the contract had the verifier look at something: what a plan asks for proves nothing."""
    contract = state.contracts.get(tool_of(instance), tool_pb2.ToolContract())
    own = {contract.post, f"{contract.readback} finds the action" if contract.readback else ""} - {""}
    return any(one.condition in own for one in verdict.evidence)


def _effect(state: RunState, attempt: Attempt) -> bool:
    if attempt.action is None or attempt.action.tool not in state.contracts:
        return False
    return state.contracts[attempt.action.tool].effect != tool_pb2.EFFECT_READ


def verdict_of(attempt: Attempt | None) -> event_pb2.Verdict | None:
    """Return what the verifier said of an attempt, if it did."""
    return attempt.verdict.message if attempt is not None and attempt.verdict is not None else None


def tool_of(instance: Instance) -> str:
    """Return the tool that carried an instance out, or was to."""
    actions = (one.action for one in reversed(instance.attempts) if one.is_act)
    return next((one.tool for one in actions if one is not None), "")


# --- steps that needed a mind ------------------------------------------------------------------------


def task_of(instance: Instance) -> Task | None:
    """Return what a mind was asked in a step with grants; None where nobody was, or it is not known."""
    asked = _asked(instance)
    if not asked:
        return None
    # That for which was proposed what counts; where nothing does, the last says what there was to do.
    counts = instance.proposal
    at = next((one for one in asked if counts is not None and one.proposal is counts), asked[-1])
    ask = at.proposal_ask
    assert ask is not None
    try:
        inputs = {name: values.load(value, {}) for name, value in ask.inputs.items()}
    except (values.BadValue, values.NotLoaded):
        return None
    day = datetime.datetime.fromtimestamp(at.asked_ns / 1e9, datetime.UTC).date()
    return Task(ask.title, tuple(ask.grants), inputs, day)


def _asked(instance: Instance) -> list[Attempt]:
    return [one for one in instance.attempts if one.proposal_ask is not None and one.proposal_ask.grants]


def wanted_of(state: RunState, instance: Instance) -> Call | None:
    """Return what was right in a step with grants, ("", {}) for nothing; None where nobody knows."""
    proposal = instance.proposal
    if proposal is None:
        last = _asked(instance)[-1].proposal or event_pb2.Proposal()
        others = last.model and not last.model.startswith(LAM)
        return ("", {}) if last.failure.code == failures.NO_PROPOSAL and others else None
    if any(heal.tool for heal in instance.heals):
        # Another tool stood in.
        return None
    gates = [gate for gate in state.gates.values() if instance.id in {one.step for one in gate.opened.items}]
    # Who gives up a doubt says nothing of whether it was right to act.
    gates = [gate for gate in gates if gate.opened.kind == event_pb2.GATE_KIND_ACTION]
    closed = {gate.closed.outcome: gate for gate in gates if gate.closed is not None}
    if (denied := closed.get(event_pb2.GATE_OUTCOME_DENIED)) is not None:
        # Of several actions nobody knows which was meant.
        return ("", {}) if len(denied.opened.items) == 1 else None
    if any(one.missing for gate in gates for one in gate.opened.items if one.step == instance.id):
        # Nobody could have read what somebody said.
        return None
    # Its own word about itself proves nothing, but that of whoever was asked does.
    if proposal.model.startswith(LAM) and not (instance.unsure and closed):
        return None
    undo = state.undo.before if state.undo is not None and state.undo.is_dry else state.undo
    if state.status != event_pb2.RUN_STATUS_DONE or undo is not None or unverified(state, instance):
        return None
    try:
        tool, arguments = said_by(proposal.call)
        amended = {name: values.load(one.value, {}) for name, one in instance.amended.items()}
    except (values.BadValue, values.NotLoaded):
        return None
    return tool, {**arguments, **amended}


def said_by(call: event_pb2.Call) -> Call:
    """Return the tool of a proposal and its arguments; raises BadValue and NotLoaded."""
    return call.tool, {name: values.load(value, {}) for name, value in call.arguments.items()}
