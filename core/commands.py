"""What the gateway has written: commands, and what they change in a run's state."""

from __future__ import annotations

from collections.abc import Mapping

from core.gates import CHOICES
from core.instances import Handler
from core.ports import Record
from core.state import Decision, RunState, Undo, evolve
from handrail.v1 import event_pb2

MAX_DECISIONS = 64
"""Of one gate; whoever may not decide must not fill a run's memory."""


def _on_submit(state: RunState, record: Record, body: event_pb2.Submit) -> RunState | None:
    if state.submit is not None:
        return None
    return evolve(state, submit=body, submitted_ns=record.time_ns)


def _on_cancel(state: RunState, record: Record, body: event_pb2.Cancel) -> RunState | None:
    if state.undo is not None and state.undoing:
        stopped = state.undo.cancel is None
        return evolve(state, undo=evolve(state.undo, cancel=body)) if stopped else None
    return None if state.cancel is not None else evolve(state, cancel=body)


def _on_pause(state: RunState, record: Record, body: event_pb2.Pause) -> RunState | None:
    return None if state.paused else evolve(state, paused=True)


def _on_resume(state: RunState, record: Record, body: event_pb2.Resume) -> RunState | None:
    return evolve(state, paused=False) if state.paused else None


def _on_decide(state: RunState, record: Record, body: event_pb2.Decide) -> RunState | None:
    gate = state.gates.get(body.gate)
    if gate is None or gate.closed is not None or body.binding != gate.opened.binding:
        return None
    if body.choice not in CHOICES.get(gate.opened.kind, ()):
        return None
    if not body.approver or len(gate.decisions) >= MAX_DECISIONS:
        return None
    if any(body.approver == decision.message.approver for decision in gate.decisions):
        # Nobody decides twice.
        return None
    decided = evolve(gate, decisions=(*gate.decisions, Decision(record.time_ns, body)))
    return evolve(state, gates={**state.gates, body.gate: decided})


def _on_undo(state: RunState, record: Record, body: event_pb2.Undo) -> RunState | None:
    if state.finished is None or state.plan is None:
        return None
    before = state.undo.before if state.undo is not None and state.undo.is_dry else state.undo
    return evolve(state, undo=Undo(asked=body, before=before if body.dry_run else None))


def _on_forget(state: RunState, record: Record, body: event_pb2.Forget) -> RunState | None:
    # Of a run that was forgotten nothing else is known.
    counts = (state.over or state.submit is None) and state.forget is None
    return evolve(state, forget=body) if counts else None


COMMANDS: Mapping[str, tuple[tuple[str, ...], Handler]] = {
    "submit": (("cmd", "submit"), _on_submit),
    "cancel": (("cmd", "cancel"), _on_cancel),
    "pause": (("cmd", "pause"), _on_pause),
    "resume": (("cmd", "resume"), _on_resume),
    "undo": (("cmd", "undo"), _on_undo),
    "decide": (("cmd", "decide"), _on_decide),
    "forget": (("cmd", "forget"), _on_forget),
}
