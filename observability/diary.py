"""When each thing of a run happened, and who wrote it: what the run's state does not keep, read with it.

`core.run` says what counts. What it calls a stray is not written down here either, so a trace shows
exactly what the decider acted on, in any log whatever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core import run
from core.plan import is_compensation
from core.ports import Record, RunKey
from core.state import Instance, RunState
from handrail.v1 import event_pb2


@dataclass(slots=True)
class PlanTry:
    """A planner was asked."""

    ask: Record
    answer: Record | None = None


@dataclass(slots=True)
class Try:
    """What became of an attempt, and when."""

    id: str
    ask: Record
    # The undo that it is of, from 1; of the run itself 0.
    undo: int
    claim: Record | None = None
    orphans: list[Record] = field(default_factory=list)
    # A result, or the proposal of an attempt that asked for one.
    answer: Record | None = None
    refused: Record | None = None
    revoked: Record | None = None
    # Round to ask, from the second on: the first is made by the result.
    verify_asks: dict[int, Record] = field(default_factory=dict)
    verdicts: list[Record] = field(default_factory=list)
    # Where the decider went on without an answer.
    given_up: Record | None = None
    heal: Move | None = None
    """What made it necessary, if anything did."""


@dataclass(slots=True)
class Move:
    """A heal, and what carried it out (or made it needless)."""

    record: Record
    done: Record | None = None


@dataclass(slots=True)
class StepDiary:
    """What became of an instance, and when."""

    begun: Record
    settled: Record | None = None
    attempts: list[str] = field(default_factory=list)
    heals: list[Move] = field(default_factory=list)
    doubts: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class GateDiary:
    """What was said at a gate, and when."""

    opened: Record
    # The undo that it is of, from 1; of the run itself 0.
    undo: int
    decisions: list[Record] = field(default_factory=list)
    closed: Record | None = None


@dataclass(slots=True)
class UndoDiary:
    """What became of an undo, and when."""

    number: int
    # The command, or the plan of an undo that the goal asked for.
    begun: Record
    planned: Record | None = None
    ended: Record | None = None
    # Its compensations, as far as they were begun; each is an instance of the run.
    steps: dict[str, StepDiary] = field(default_factory=dict)
    # What it met: its plan, and commands.
    notes: list[Record] = field(default_factory=list)
    # How its compensations stood at its end; one that was given up may be begun again by another undo.
    left: Mapping[str, Instance] = field(default_factory=dict)


class Diary:
    """A run's records, told apart by what they are about."""

    def __init__(self, key: RunKey, records: Iterable[Record]) -> None:
        self.key = key
        self.state: RunState = run.initial(key)
        self.submit: Record | None = None
        self.accepted: Record | None = None
        self.finished: Record | None = None
        # What an undo changes afterwards is told of the undo.
        self.at_end: RunState | None = None
        self.first_decision: Record | None = None
        self.plans: list[PlanTry] = []
        self.steps: dict[str, StepDiary] = {}
        self.tries: dict[str, Try] = {}
        self.gates: dict[str, GateDiary] = {}
        self.undos: list[UndoDiary] = []
        # What the whole run met: commands, plans accepted and rejected.
        self.notes: list[Record] = []
        self.last_ns = 0
        for record in records:
            if record.address.key == key:
                self.last_ns = max(self.last_ns, record.time_ns)
                for part in run.unbundled(record):
                    self._read(part)

    def _read(self, part: Record) -> None:
        before = self.state
        after = self.state = run.apply_part(before, part)
        if part.event is None or not run.counted(before, after):
            return
        if part.address.channel == "dec" and self.first_decision is None:
            self.first_decision = part
        arm = str(part.event.WhichOneof("body"))
        _KEEPERS[arm](self, part, getattr(part.event, arm))
        self._look_for_end(before, part, arm)

    def _look_for_end(self, before: RunState, part: Record, arm: str) -> None:
        """Write down which instances this record has settled: the one that it is about, and its fan-out."""
        assert part.event is not None
        body = getattr(part.event, arm)
        step = getattr(body, "step", "") or self.state.attempts.get(getattr(body, "attempt", ""), "")
        instance = self.state.instances.get(step)
        if instance is None:
            return
        for one in {instance.id, instance.step}:
            was, found, told = before.instances.get(one), self.state.instances[one], self._told(one)
            if told is not None and found.settled and (was is None or was.settled != found.settled):
                told.settled = part

    @property
    def _undo(self) -> UndoDiary | None:
        """The undo that goes on."""
        last = self.undos[-1] if self.undos else None
        return last if last is not None and last.ended is None else None

    def _steps_of(self, step: str) -> dict[str, StepDiary]:
        """Return where an instance is told of: an undo has the compensations, the run all others."""
        return self.undos[-1].steps if is_compensation(step) and self.undos else self.steps

    def _told(self, step: str) -> StepDiary | None:
        return self._steps_of(step).get(step)

    def _tell(self, step: str, part: Record) -> StepDiary:
        return self._steps_of(step).setdefault(step, StepDiary(part))

    # --- what is kept of each kind -------------------------------------------------------------------

    def _submit(self, part: Record, body: Any) -> None:
        self.submit = part

    def _note(self, part: Record, body: Any) -> None:
        undo = self._undo
        (self.notes if undo is None else undo.notes).append(part)

    def _accept(self, part: Record, body: Any) -> None:
        self.accepted = part
        self.notes.append(part)

    def _finish(self, part: Record, body: Any) -> None:
        self.finished, self.at_end = part, self.state

    def _ask_undo(self, part: Record, body: Any) -> None:
        self.undos.append(UndoDiary(len(self.undos) + 1, part))

    def _plan_undo(self, part: Record, body: Any) -> None:
        if self._undo is None:
            self._ask_undo(part, body)
        self.undos[-1].planned = part
        self.undos[-1].notes.append(part)

    def _end_undo(self, part: Record, body: Any) -> None:
        undo = self._undo
        if undo is not None:
            undo.ended = part
            undo.left = {step: self.state.instances[step] for step in undo.steps}

    def _ask_plan(self, part: Record, body: Any) -> None:
        self.plans.append(PlanTry(part))

    def _answer_plan(self, part: Record, body: Any) -> None:
        self.plans[-1].answer = part

    def _step(self, part: Record, body: Any) -> None:
        """Something became of an instance without an attempt."""
        self._leave(self._tell(body.step, part), part)

    def _doubt(self, part: Record, body: Any) -> None:
        self._step(part, body)
        self._tell(body.step, part).doubts.append(part)

    def _heal(self, part: Record, body: Any) -> None:
        self._step(part, body)
        self._tell(body.step, part).heals.append(Move(part))

    def _ask(self, part: Record, body: Any) -> None:
        step = self._tell(body.step, part)
        self._leave(step, part)
        undo = len(self.undos) if is_compensation(body.step) else 0
        made = self.tries[body.attempt] = Try(body.attempt, part, undo)
        made.heal = step.heals[-1] if step.heals and step.heals[-1].done is part else None
        step.attempts.append(body.attempt)

    def _ask_verdict(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].verify_asks[body.round] = part
        self._carry_out(self._tell(self.state.attempts[body.attempt], part), part)

    def _claim(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].claim = part

    def _orphan(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].orphans.append(part)

    def _answer(self, part: Record, body: Any) -> None:
        found = self.tries[body.attempt]
        found.answer, found.given_up = part, None
        # A late result takes the place of the heal for its silence.
        self._carry_out(self._tell(self.state.attempts[body.attempt], part), part)

    def _refuse(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].refused = part

    def _revoke(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].revoked = part

    def _open_gate(self, part: Record, body: Any) -> None:
        undo = len(self.undos) if is_compensation(body.step) else 0
        self.gates[body.gate] = GateDiary(part, undo)
        if body.kind == event_pb2.GATE_KIND_DOUBT:
            # It may be all that becomes of a compensation which an earlier undo has tried.
            for item in body.items:
                self._tell(item.step, part)

    def _decide(self, part: Record, body: Any) -> None:
        if not self._is_left(self.gates[body.gate]):
            self.gates[body.gate].decisions.append(part)

    def _close_gate(self, part: Record, body: Any) -> None:
        gate = self.gates[body.gate]
        if self._is_left(gate):
            return
        gate.closed = part
        for item in gate.opened.event.gate_opened.items if gate.opened.event is not None else ():
            # Somebody's word that it happened settles a doubt.
            told = self._told(item.step)
            if told is not None and self.state.instances[item.step].settled == "done":
                told.settled = part

    def _is_left(self, gate: GateDiary) -> bool:
        """Whether an undo has ended and left a gate open: what becomes of that later is not told of it."""
        return gate.undo > 0 and self.undos[gate.undo - 1].ended is not None

    def _judge(self, part: Record, body: Any) -> None:
        self.tries[body.attempt].verdicts.append(part)

    def _leave(self, step: StepDiary, part: Record) -> None:
        """The decider goes on: whatever has no answer by now is given up, and a heal is carried out."""
        if step.attempts:
            last = self.tries[step.attempts[-1]]
            if last.answer is None and last.revoked is None and last.given_up is None:
                last.given_up = part
        self._carry_out(step, part)

    @staticmethod
    def _carry_out(step: StepDiary, part: Record) -> None:
        if step.heals and step.heals[-1].done is None:
            step.heals[-1].done = part


def parent_of(instance: Instance) -> str:
    """Name the fan-out that an instance is an item of, or ""."""
    return instance.step if instance.index is not None else ""


_KEEPERS: dict[str, Callable[[Diary, Record, Any], None]] = {
    "submit": Diary._submit,
    "cancel": Diary._note,
    "pause": Diary._note,
    "resume": Diary._note,
    "decide": Diary._decide,
    "undo": Diary._ask_undo,
    "forget": Diary._note,
    "plan_ask": Diary._ask_plan,
    "proposal_ask": Diary._ask,
    "action": Diary._ask,
    "verify_ask": Diary._ask_verdict,
    "plan_accepted": Diary._accept,
    "plan_rejected": Diary._note,
    "expanded": Diary._step,
    "skipped": Diary._step,
    "step_failed": Diary._step,
    "healed": Diary._heal,
    "in_doubt": Diary._doubt,
    "proposal_refused": Diary._refuse,
    "gate_opened": Diary._open_gate,
    "gate_closed": Diary._close_gate,
    "undo_planned": Diary._plan_undo,
    "undo_ended": Diary._end_undo,
    "finished": Diary._finish,
    "forgotten": Diary._note,
    "revoked": Diary._revoke,
    "plan_answer": Diary._answer_plan,
    "proposal": Diary._answer,
    "intent": Diary._claim,
    "result": Diary._answer,
    "orphan": Diary._orphan,
    "verdict": Diary._judge,
}
"""What is kept of each kind of event; a test asserts that no kind is missing."""
