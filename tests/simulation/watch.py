"""Folds every run as its events are stored, and has the invariants look at each event and each effect."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from core import run
from core.permits import Checker
from core.policy import Policy
from core.ports import Record, RunKey
from core.state import Attempt, RunState, evolve
from handrail.v1 import event_pb2, tool_pb2
from tests.simulation.world import Effect


def unbundled(record: Record) -> list[Record]:
    """Return what a record says, one event after another, each as if it stood alone."""
    parts = run.unbundled(record)
    if len(parts) == 1 or record.event is None:
        return [record]
    last = event_pb2.Event()
    last.CopyFrom(record.event)
    last.ClearField("before")
    return [*parts[:-1], replace(record, event=last)]


def attempt_of(state: RunState, attempt: str) -> Attempt | None:
    """Return an attempt by its id."""
    instance = state.instances.get(state.attempts.get(attempt, ""))
    return next((a for a in instance.attempts if a.id == attempt), None) if instance is not None else None


def reads(state: RunState, attempt: str) -> bool:
    """Whether an attempt has no effect."""
    found = attempt_of(state, attempt)
    contract = (
        state.contracts.get(found.action.tool) if found is not None and found.action is not None else None
    )
    return contract is not None and contract.effect == tool_pb2.EFFECT_READ


@dataclass(frozen=True, slots=True)
class Basis:
    """What a decider knew when it decided: which look of all that was, and up to where it had read."""

    number: int
    applied: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said at a gate, as it lies in the log."""

    sequence: int
    time_ns: int
    body: event_pb2.Decide


@dataclass(frozen=True, slots=True)
class Closing:
    """How a gate was closed, where that stands in the log, and by which policy."""

    sequence: int
    body: event_pb2.GateClosed
    policy: Policy


@dataclass(slots=True)
class GateWatch:
    """What is known of one gate."""

    sequence: int
    opened: event_pb2.GateOpened
    closings: list[Closing] = field(default_factory=list)


@dataclass(slots=True)
class UndoWatch:
    """One undo of a run: as it was asked for, planned, stopped and ended."""

    sequence: int
    # None where the goal asked for it.
    asked: event_pb2.Undo | None
    planned: event_pb2.UndoPlanned | None = None
    cancelled: bool = False
    ended: event_pb2.UndoEnded | None = None


@dataclass(slots=True)
class RunWatch:
    """What is known of one run, folded as its log grows."""

    key: RunKey
    # Every state so far, the last one included.
    states: list[RunState]
    # Who wrote the decisions so far: their looks at the run, and where they stand.
    decisions: list[tuple[int, int]] = field(default_factory=list)
    # Of each attempt: the kinds of events that lie on its own subjects.
    claims: dict[str, list[str]] = field(default_factory=dict)
    claimers: dict[str, str] = field(default_factory=dict)
    result_ids: dict[str, set[str]] = field(default_factory=dict)
    # Of each attempt: which result was judged, and how.
    verdicts: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    effects: dict[str, list[Effect]] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)
    # What somebody wants done again, not knowing whether it has happened.
    wanted_again: set[str] = field(default_factory=set)
    gates: dict[str, GateWatch] = field(default_factory=dict)
    # All that was ever said, whatever came of it.
    said: list[Said] = field(default_factory=list)
    # By which policy each attempt was authorised.
    policies: dict[str, Policy] = field(default_factory=dict)
    # Where the run stands since it has ended, and every undo of it that counted.
    ended: event_pb2.RunStatus.ValueType | None = None
    undos: list[UndoWatch] = field(default_factory=list)
    # Whether somebody has wanted it forgotten after its end, and the run as it was when it was.
    to_forget: bool = False
    forgotten: RunState | None = None

    @property
    def known(self) -> RunState:
        """The last state of which there is more than that it was forgotten."""
        return self.forgotten or self.state

    @property
    def undo(self) -> UndoWatch | None:
        """The undo that goes on, if one does."""
        return self.undos[-1] if self.undos and self.undos[-1].ended is None else None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, and is not being undone."""
        return self.ended is not None and self.undo is None

    @property
    def waiting(self) -> list[str]:
        """The gates at which something waits: what has ended has left its own behind."""
        if self.is_over:
            return []
        begun = self.undo.sequence if self.undo is not None else 0
        return [name for name, gate in self.gates.items() if gate.sequence >= begun and not gate.closings]

    def undone_by(self, step: str) -> UndoWatch | None:
        """Return the undo that wants a compensation: the last that planned it, and that acts."""
        for undo in reversed(self.undos):
            planned = undo.planned if undo.planned is not None else event_pb2.UndoPlanned(dry_run=True)
            if not planned.dry_run and any(one.step.id == step for one in planned.compensations):
                return undo
        return None

    @property
    def state(self) -> RunState:
        """The run as it is now."""
        return self.states[-1]

    def since(self, applied: int) -> list[RunState]:
        """Return the states from the one on that is applied up to a sequence."""
        return self.states[bisect_right(self.states, applied, key=lambda state: state.applied) - 1 :]


@dataclass(frozen=True, slots=True)
class Look:
    """One event that has just been stored, and what it changed."""

    record: Record
    before: RunState
    after: RunState
    run: RunWatch
    watch: Watch
    # Of a decision: what it was made on.
    basis: Basis | None = None
    # What was stored with it, before it.
    bundled: Sequence[Record] = ()

    @property
    def arm(self) -> str:
        """The kind of event."""
        event = self.record.event
        return (event.WhichOneof("body") or "") if event is not None else ""

    @property
    def event(self) -> event_pb2.Event:
        """The event."""
        assert self.record.event is not None
        return self.record.event

    @property
    def is_decision(self) -> bool:
        """Whether the decider wrote it."""
        return self.record.address.channel == "dec"

    @property
    def views(self) -> list[RunState]:
        """The states since the decision was made: facts may have overtaken it, but in one it was right."""
        return self.run.since(self.basis.applied) if self.basis is not None else [self.before]

    @property
    def imagined(self) -> list[RunState]:
        """The same states as whoever decided imagined them: with what was decided just before it."""
        found = []
        for view in self.views:
            if view.applied < self.record.sequence:
                for part in self.bundled:
                    view = run.apply(evolve(view, applied=self.record.sequence - 1), part)
                found.append(view)
        return found

    @property
    def counts(self) -> bool:
        """Whether it changed anything."""
        return run.counted(self.before, self.after)


Invariant = Callable[[Look], Iterator[str]]
EffectInvariant = Callable[[Effect, RunWatch | None, "Watch"], Iterator[str]]


class Watch:
    """Sees everything that is stored and done."""

    def __init__(
        self,
        *,
        invariants: dict[str, Invariant],
        effect_invariants: dict[str, EffectInvariant],
        is_dead: Callable[[str], bool],
        slack_ns: Callable[[str], int],
        checker: Checker,
        fail: Callable[[str, str], None],
    ) -> None:
        self._invariants, self._effect_invariants = invariants, effect_invariants
        self._fail = fail
        # Of a worker's name: whether it is dead, and by how much it may be late.
        self.is_dead, self.slack_ns = is_dead, slack_ns
        # Who knows the decider's signature.
        self.checker = checker
        self.runs: dict[str, RunWatch] = {}
        # By the ids of decisions that were sent.
        self.bases: dict[str, Basis] = {}
        self.counts: Counter[str] = Counter()

    def see(self, record: Record) -> None:
        """Look at an event that is being stored."""
        basis = self.bases.get(record.event.id) if record.event is not None else None
        parts = unbundled(record)
        self.counts["bundles"] += len(parts) > 1
        for index, part in enumerate(parts):
            self._see(part, basis, parts[:index])

    def _see(self, record: Record, basis: Basis | None, bundled: list[Record]) -> None:
        key = record.address.key
        watch = self.runs.get(key.run)
        if watch is None:
            watch = self.runs[key.run] = RunWatch(key, [run.initial(key)])
        before = watch.state
        # The parts of a bundle stand at one sequence.
        after = run.apply(evolve(before, applied=record.sequence - 1), record)
        look = Look(record, before, after, watch, self, basis, bundled)
        for name, invariant in self._invariants.items():
            for what in invariant(look):
                self._fail(name, f"{what} (run {key.run}, event {record.sequence})")
        self._note(look)
        watch.states.append(after)
        if look.is_decision:
            watch.decisions.append((basis.number if basis is not None else 0, record.sequence))

    def _note(self, look: Look) -> None:
        """Remember what the invariants compare with, apart from the fold."""
        arm, run_watch = look.arm, look.run
        topic = look.record.address.topic
        self.counts[f"event: {arm or 'unreadable'}"] += 1
        if not look.counts:
            self.counts["strays"] += 1
        if arm in ("intent", "revoked", "result"):
            run_watch.claims.setdefault(topic[-1], []).append(arm)
        if arm == "intent":
            run_watch.claimers[topic[-1]] = look.event.intent.claimer
        elif arm == "result":
            ids = run_watch.result_ids.setdefault(topic[-1], set())
            self.counts["second results"] += bool(ids) and look.event.id not in ids
            ids.add(look.event.id)
        elif arm == "verdict":
            said = look.event.verdict
            run_watch.verdicts.setdefault(topic[-1], set()).add((said.result_id, said.outcome))
        elif arm == "action":
            self.counts["chained reads"] += bool(look.event.action.follows)
            run_watch.keys.setdefault(look.event.action.step, look.event.action.key)
            if look.basis is not None:
                run_watch.policies[look.event.action.attempt] = look.basis.policy
        elif arm == "healed":
            self.counts[f"heal: {look.event.healed.strategy}"] += 1
        elif arm == "in_doubt":
            self.counts["doubts"] += 1
            run_watch.doubted.add(look.event.in_doubt.step)
        elif arm == "decide" or "gate" in arm:
            self._note_gate(look)
        elif arm in ("finished", "cancel") or "undo" in arm:
            self._note_undo(look)
        elif arm == "forget":
            run_watch.to_forget |= run_watch.is_over
        elif arm == "forgotten" and look.counts:
            run_watch.forgotten = look.before

    def _note_gate(self, look: Look) -> None:
        """Remember what was asked and said at gates; what was overtaken has not been asked."""
        event, gates, record = look.event, look.run.gates, look.record
        if look.arm == "decide":
            look.run.said.append(Said(record.sequence, record.time_ns, event.decide))
        elif look.arm == "gate_opened" and look.counts:
            gates[event.gate_opened.gate] = GateWatch(record.sequence, event.gate_opened)
            waiting = [look.before.instances[item.step] for item in event.gate_opened.items]
            kind = "doubt" if event.gate_opened.kind == event_pb2.GATE_KIND_DOUBT else "retry"
            self.counts[f"gate: of a {kind}"] += any(instance.current for instance in waiting)
        elif look.arm == "gate_closed" and look.counts and look.basis is not None:
            outcome = event_pb2.GateOutcome.Name(event.gate_closed.outcome)
            self.counts[f"gate: {outcome.removeprefix('GATE_OUTCOME_').lower()}"] += 1
            if event.gate_closed.outcome == event_pb2.GATE_OUTCOME_REPEAT:
                look.run.wanted_again |= {i.step for i in gates[event.gate_closed.gate].opened.items}
            closing = Closing(record.sequence, event.gate_closed, look.basis.policy)
            gates[event.gate_closed.gate].closings.append(closing)

    def _note_undo(self, look: Look) -> None:
        """Remember what was undone, and what has ended; what is a stray has not been."""
        event, seen, sequence = look.event, look.run, look.record.sequence
        if look.arm == "undo":
            self.counts["undo: asked" if look.counts else "undo: asked in vain"] += 1
        if not look.counts:
            return
        if look.arm == "finished":
            seen.ended = event.finished.status
        elif look.arm == "cancel" and seen.undo is not None:
            seen.undo.cancelled = True
            self.counts["undo: cancelled"] += 1
        elif look.arm == "undo":
            seen.undos.append(UndoWatch(sequence, event.undo))
        elif look.arm == "undo_planned":
            if seen.undo is None:
                seen.undos.append(UndoWatch(sequence, None))
                self.counts["undo: on failure"] += 1
            seen.undos[-1].planned = event.undo_planned
            # Who undoes again wants nothing that somebody wanted before.
            seen.wanted_again -= {one.step.id for one in event.undo_planned.compensations}
            self.counts["undo: dry" if event.undo_planned.dry_run else "undo: planned"] += 1
            self.counts["undo: compensations"] += len(event.undo_planned.compensations)
            self.counts["undo: stays"] += len(event.undo_planned.stays)
        elif look.arm == "undo_ended" and seen.undo is not None:
            self.counts["undo: given up"] += event.undo_ended.HasField("failure")
            seen.undo.ended = event.undo_ended
            if seen.ended is not None:
                seen.ended = event.undo_ended.status

    def see_effect(self, effect: Effect) -> None:
        """Look at something that is happening in the world."""
        watch = self.runs.get(effect.charge.run)
        for name, invariant in self._effect_invariants.items():
            for what in invariant(effect, watch, self):
                self._fail(name, f"{what} ({effect.charge}, by {effect.process})")
        self.counts["effects"] += 1
        if watch is not None:
            watch.effects.setdefault(effect.charge.step, []).append(effect)
