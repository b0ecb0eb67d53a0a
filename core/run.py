"""Fold a run's log into its state: `apply(state, record)`, which is total and pure.

What cannot be read, comes twice, comes late or is not expected is counted as a stray and changes nothing
else. An event counts only on the channel where its kind of writer writes. The one exception to "a stray
changes nothing": a decider event that this version cannot read makes the run unreadable, since to go on
without it would be to guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from core.answers import ANSWERS, on_intent
from core.commands import COMMANDS
from core.decisions import DECISIONS
from core.instances import Handler
from core.ports import Address, Record, RunKey
from core.state import RunState, evolve
from handrail.v1 import event_pb2

VERSION = 5
"""The version of the vocabulary that this code writes, and the newest that it reads.

2 brought bundles, 3 gates, 4 undo, 5 forgetting.
"""

UNREADABLE = "unreadable"
"""Who claimed in words that this version cannot read."""

BUNDLED: frozenset[str] = frozenset(
    (
        "plan_accepted",
        "plan_rejected",
        "expanded",
        "skipped",
        "step_failed",
        "healed",
        "proposal_refused",
        "gate_closed",
        "undo_planned",
        "undo_ended",
        "action",
        "result",
        "verdict",
    )
)
"""What an event may carry: no claims, which are fenced by their subject, and nothing that somebody waits for
on a subject of its own."""


def initial(key: RunKey) -> RunState:
    """Return the state of a run of which nothing is known."""
    return RunState(key=key)


def fold(key: RunKey, records: Iterable[Record]) -> RunState:
    """Apply records in order to nothing."""
    state = initial(key)
    for record in records:
        state = apply(state, record)
    return state


def apply(state: RunState, record: Record) -> RunState:
    """Return the state after one more record; a record that was applied before changes nothing."""
    if record.sequence <= state.applied or record.address.key != state.key:
        return state
    decision = record.address.channel == "dec"
    state = evolve(
        state,
        applied=record.sequence,
        last_decision=record.sequence if decision else state.last_decision,
    )
    for part in unbundled(record):
        state = apply_part(state, part)
    return state


def unbundled(record: Record) -> tuple[Record, ...]:
    """Return an event and those that it carries, in order, each where it would stand on its own.

    What may not be bundled is there without an event, as what cannot be read is.
    """
    event = record.event
    if event is None or not event.before:
        return (record,)
    return (*(_part(record, part) for part in event.before), record)


def _part(record: Record, event: event_pb2.Event) -> Record:
    """Place an event that another carries: the same writer's, so on the same channel, of the same pool."""
    arm = event.WhichOneof("body")
    if arm not in BUNDLED or event.before:
        return _without_event(record)
    channel, *topic = HANDLERS[arm][0]
    own = record.address.topic
    for i, token in enumerate(topic):
        if token == "*":
            if tuple(topic[:i]) != own[:i]:
                return _without_event(record)
            is_attempt = channel == "ans" and i == len(topic) - 1
            if not is_attempt and i >= len(own):
                return _without_event(record)
            topic[i] = getattr(event, arm).attempt if is_attempt else own[i]
            own = (*own[:i], topic[i], *own[i + 1 :])
    if channel != record.address.channel:
        return _without_event(record)
    address = Address(record.address.key, record.address.channel, tuple(topic))
    # Not by `replace`, which costs as much as all the rest.
    return Record(record.sequence, record.time_ns, address, event, record.trace)


def _without_event(record: Record) -> Record:
    return replace(record, event=None)


def apply_part(state: RunState, record: Record) -> RunState:
    """Return the state after one of the events that a record holds; `apply` does it for all of them."""
    event = record.event
    arm = event.WhichOneof("body") if event is not None else None
    # Whoever died before the empty message stood in a key's place has left a run that cannot be read.
    if record.forgotten or state.forgotten is not None or (state.unreadable and arm != "forgotten"):
        return state
    if event is None or arm is None or event.version > VERSION:
        if record.address.channel == "dec":
            return evolve(state, unreadable=True)
        return _stray(_on_unreadable(state, record))
    topic, handler = HANDLERS[arm]
    body = getattr(event, arm)
    if not _fits(topic, record) or not _counts(state, arm, body):
        return _stray(state)
    changed = handler(state, record, body)
    return _stray(state) if changed is None else changed


def counted(before: RunState, after: RunState) -> bool:
    """Whether an event changed anything: it could be read, was no stray, and not after all was forgotten."""
    return before.forgotten is None and after.strays <= before.strays and not after.unreadable


def _stray(state: RunState) -> RunState:
    return evolve(state, strays=state.strays + 1)


def _counts(state: RunState, arm: str, body: Any) -> bool:
    """Whether an event counts now: after the end an undo does, and from its plan on only what it makes."""
    if state.over:
        return arm in ("undo", "forget", "forgotten")
    if not state.undoing or state.undo is None:
        return True
    if state.undo.planned is None:
        return arm in ("undo_planned", "cancel")
    if arm in ("cancel", "pause", "resume", "undo_ended"):
        return True
    if arm == "undo":
        # Not even one that names a compensation: while one undo goes on, no other is begun.
        return False
    steps = state.undo.steps
    if arm == "gate_opened":
        return all(item.step in steps for item in body.items)
    if arm in ("gate_closed", "decide"):
        return body.gate in state.gates and state.gates[body.gate].opened.step in steps
    return (getattr(body, "step", "") or state.attempts.get(getattr(body, "attempt", ""), "")) in steps


def _fits(topic: tuple[str, ...], record: Record) -> bool:
    """Whether the record lies where its kind is written ("*" matches one token)."""
    actual = (record.address.channel, *record.address.topic)
    return len(actual) == len(topic) and all(t in ("*", a) for t, a in zip(topic, actual, strict=True))


def _on_unreadable(state: RunState, record: Record) -> RunState:
    """A claim that cannot be read is a claim all the same: nobody else can have the attempt."""
    if not _fits(("ans", "worker", "*", "intent", "*"), record):
        return state
    claim = event_pb2.Intent(attempt=record.address.topic[-1], claimer=UNREADABLE)
    if not _counts(state, "intent", claim):
        return state
    claimed = on_intent(state, record, claim)
    return state if claimed is None else claimed


HANDLERS: Mapping[str, tuple[tuple[str, ...], Handler]] = {**COMMANDS, **DECISIONS, **ANSWERS}
"""Where each kind of event is written, and what it does. A test asserts that no kind is missing."""
