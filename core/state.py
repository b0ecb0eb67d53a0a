"""What is known of a run: frozen values that `core.run.apply` makes from its log, and nothing else.

A step of the plan has one instance, or with `each` one for every item; an instance has attempts; the last
one is the current one. Facts keep the broker's time, which is the only clock of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from core.failures import BEFORE_THE_CALL, LEFT_BEHIND, failure_class
from core.ports import RunKey
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

Settled = Literal["", "done", "skipped", "failed", "in_doubt"]

ENDED: frozenset[int] = frozenset(
    (
        event_pb2.RUN_STATUS_DONE,
        event_pb2.RUN_STATUS_FAILED,
        event_pb2.RUN_STATUS_REFUSED,
        event_pb2.RUN_STATUS_CANCELLED,
        event_pb2.RUN_STATUS_UNDONE,
    )
)

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The one empty mapping: most have nothing, and a dictionary each would be most of a run."""


def _nothing() -> Mapping[str, Any]:
    return NOTHING


MAX_UNSURE_CHARS = 500
_T = TypeVar("_T", bound="Attempt | Gate | Instance | RunState | Undo")


def evolve(value: _T, **changes: Any) -> _T:
    """Return a copy with changes, as `dataclasses.replace` does at ten times the cost.

    Folding is little else than this, and every part that shows a run folds it.
    """
    old = vars(value)
    if not changes.keys() <= old.keys():
        raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(changes.keys() - old.keys()))}")
    new = object.__new__(type(value))
    vars(new).update(old, **changes)
    return new


@dataclass(frozen=True, slots=True)
class ResultFact:
    """A worker's answer."""

    event_id: str
    sequence: int
    time_ns: int
    message: event_pb2.Result


@dataclass(frozen=True, slots=True)
class VerdictFact:
    """A verifier's judgement of the result."""

    time_ns: int
    message: event_pb2.Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody said at a gate."""

    time_ns: int
    message: event_pb2.Decide


@dataclass(frozen=True)
class Gate:
    """A point where a human must decide, bound to exact actions."""

    sequence: int
    opened_ns: int
    opened: event_pb2.GateOpened
    # The first of each approver, in the order of the log.
    decisions: tuple[Decision, ...] = ()
    closed: event_pb2.GateClosed | None = None


@dataclass(frozen=True)
class Attempt:
    """One try at an instance: a proposal asked of an executor, or an action asked of a worker."""

    id: str
    number: int
    pool: str
    sequence: int
    asked_ns: int
    action: event_pb2.Action | None = None
    proposal_ask: event_pb2.ProposalAsk | None = None
    # What its claimer read before it acted.
    before: Mapping[str, plan_pb2.Value] = field(default_factory=_nothing)
    proposal: event_pb2.Proposal | None = None
    refused: tuple[plan_pb2.Violation, ...] = ()
    claimer: str = ""
    claimed_ns: int = 0
    orphan_ns: int = 0
    seen_dead: bool = False
    revoked: bool = False
    ended_ns: int = 0
    result: ResultFact | None = None
    verdict: VerdictFact | None = None
    round_asked: int = 1
    refutations: int = 0

    @property
    def is_act(self) -> bool:
        """Whether it carries the action out (and not a proposal or a read-back)."""
        return self.action is not None and self.action.kind == event_pb2.ACTION_KIND_ACT

    @property
    def follows(self) -> str:
        """The attempt that comes just before it in a chain; empty where it is in none, or the first."""
        return self.action.follows if self.action is not None else ""

    @property
    def in_flight(self) -> bool:
        """Whether a mind or a worker still owes an answer, or the verifier a verdict."""
        if self.revoked:
            return False
        if self.action is None:
            return self.proposal is None
        if self.result is None:
            return True
        return self.can_be_judged and self.verdict is None

    @property
    def can_be_judged(self) -> bool:
        """Whether the result wants a verdict: a failure does not, nor a read-back that found nothing."""
        result = self.result.message if self.result is not None else None
        if result is None or not result.HasField("output"):
            return False
        return self.is_act or result.happened == event_pb2.HAPPENED_YES

    @property
    def called(self) -> bool:
        """Whether the failure is the tool's own, and not of a worker that never called it."""
        code = self.result.message.failure.code if self.result is not None else ""
        return bool(self.claimer) and code not in BEFORE_THE_CALL

    @property
    def was_left_behind(self) -> bool:
        """Whether its chain stopped before it, by its answer, or it was read with what does not count."""
        code = self.result.message.failure.code if self.result is not None else ""
        return bool(self.follows) and code == LEFT_BEHIND

    @property
    def can_be_taken_back(self) -> bool:
        """Whether a worker was asked and has neither claimed nor answered, as far as is known."""
        return self.action is not None and not (self.claimer or self.result or self.revoked)


@dataclass(frozen=True, slots=True)
class Heal:
    """A corrective move that was decided and not yet made."""

    strategy: str
    attempt: str
    not_before_ns: int
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """An argument that somebody has written at a gate, knowing which tool it was for."""

    value: plan_pb2.Value
    tool: str


@dataclass(frozen=True)
class Instance:
    """A step as it is taken: the whole step, or one item of a fan-out."""

    id: str
    step: str
    index: int | None = None
    settled: Settled = ""
    attempts: tuple[Attempt, ...] = ()
    heal: Heal | None = None
    heals: tuple[event_pb2.Healed, ...] = ()
    # The gate at which it waits, and the actions that were approved: where, by binding.
    gate: str = ""
    approved: Mapping[str, str] = field(default_factory=_nothing)
    # The arguments that somebody has changed at a gate: whatever does the step, does it with these.
    amended: Mapping[str, Written] = field(default_factory=_nothing)
    # The gate at which it was denied, or at which nobody decided in time.
    denied: str = ""
    output: plan_pb2.Value | None = None
    failure: event_pb2.Failure | None = None
    reason: str = ""
    # Of a fan-out's parent: how many items, and how many of them are not done.
    count: int | None = None
    left: int = 0

    @property
    def current(self) -> Attempt | None:
        """The attempt that counts."""
        return self.attempts[-1] if self.attempts else None

    @property
    def was_said_done(self) -> bool:
        """Whether a worker has said of any attempt that it was done, whatever was said of that since."""
        done = (
            a.result is not None and a.result.message.HasField("output") for a in self.attempts if a.is_act
        )
        return any(done)

    @property
    def proposal(self) -> event_pb2.Proposal | None:
        """What the executor proposed that counts: the last that was neither refused nor a failure."""
        proposals = (a.proposal for a in reversed(self.attempts) if a.proposal and not a.refused)
        return next((one for one in proposals if not one.HasField("failure")), None)

    @property
    def unsure(self) -> str:
        """Why the mind that proposed what is done is not sure of it; "" where it is, or nobody proposed."""
        said = self.proposal.call.unsure[:MAX_UNSURE_CHARS] if self.proposal is not None else ""
        return f"{said}, before somebody amended it" if said and self.amended else said

    @property
    def doubtful(self) -> Attempt | None:
        """The attempt that may have had an effect which nothing has confirmed or ruled out since.

        A claim without an answer is one, unless it is the current attempt's and nobody reported it silent.
        """
        found: Attempt | None = None
        for attempt in self.attempts:
            result = attempt.result.message if attempt.result is not None else None
            if result is None:
                silent = attempt is not self.current or attempt.orphan_ns
                found = attempt if attempt.is_act and attempt.claimer and silent else found
            elif not attempt.is_act:
                # A "no" rules out what a dead claimer did, and not what a living one may still do.
                no = result.HasField("output") and result.happened == event_pb2.HAPPENED_NO
                found = None if no and found is not None and found.seen_dead else found
            elif result.HasField("failure"):
                kind = failure_class(result.failure)
                if kind == event_pb2.FAILURE_CLASS_IN_DOUBT:
                    found = attempt
                elif kind == event_pb2.FAILURE_CLASS_PERMANENT and attempt.called:
                    # Asked again under the same key, the tool itself says that it did not happen.
                    found = None
        return found


@dataclass(frozen=True)
class Undo:
    """An undo of the run: asked for, planned, ended."""

    # None where the goal asked for it.
    asked: event_pb2.Undo | None = None
    planned: event_pb2.UndoPlanned | None = None
    # Of its plan in the log: what was tried before it was tried by an earlier undo.
    sequence: int = 0
    # The compensations that it makes; of an earlier undo there may be others.
    steps: frozenset[str] = frozenset()
    cancel: event_pb2.Cancel | None = None
    ended: event_pb2.UndoEnded | None = None
    # Of a dry one: the last that was not.
    before: Undo | None = None

    @property
    def is_dry(self) -> bool:
        """Whether it only says what it would do."""
        said = self.planned or self.asked
        return said is not None and said.dry_run


@dataclass(frozen=True)
class RunState:
    """A run as its log tells it up to `applied`."""

    key: RunKey
    applied: int = 0
    last_decision: int = 0
    strays: int = 0
    submit: event_pb2.Submit | None = None
    submitted_ns: int = 0
    plan_asks: int = 0
    plan_answer: event_pb2.PlanAnswer | None = None
    violations: tuple[plan_pb2.Violation, ...] = ()
    plan: plan_pb2.Plan | None = None
    contracts: Mapping[str, tool_pb2.ToolContract] = field(default_factory=dict)
    # Of a dry run.
    outlook: tuple[event_pb2.Outlook, ...] = ()
    instances: Mapping[str, Instance] = field(default_factory=dict)
    # The attempt ids of the run and the instances they belong to.
    attempts: Mapping[str, str] = field(default_factory=dict)
    # In chains: an attempt, and the one that comes next.
    followers: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, Gate] = field(default_factory=dict)
    # Instances that are not settled; settled ones need no second look.
    open: frozenset[str] = frozenset()
    failed: tuple[str, ...] = ()
    cancel: event_pb2.Cancel | None = None
    paused: bool = False
    actions: int = 0
    heals: int = 0
    finished: event_pb2.Finished | None = None
    ended_ns: int = 0
    # The last undo, and where the run has stood since it ended.
    undo: Undo | None = None
    standing: event_pb2.RunStatus.ValueType = event_pb2.RUN_STATUS_UNSPECIFIED
    unreadable: bool = False
    forget: event_pb2.Forget | None = None
    forgotten: event_pb2.Forgotten | None = None

    @property
    def goal(self) -> event_pb2.Goal:
        """The goal; an empty one before the submission is known."""
        return self.submit.goal if self.submit is not None else event_pb2.Goal()

    @property
    def deadline_ns(self) -> int:
        """The deadline, or 0 where there is none."""
        goal = self.goal
        return goal.deadline.ToNanoseconds() if goal.HasField("deadline") else 0

    def bound(self, name: Literal["max_steps", "max_actions", "max_heals"], default: int) -> int:
        """Return a bound of the run: the lowest that the goal, the plan and the default set."""
        plan = self.plan.budget if self.plan is not None else plan_pb2.Budget()
        asked = (getattr(self.goal.budget, name), getattr(plan, name))
        return min((one for one in asked if one), default=default)

    @property
    def status(self) -> event_pb2.RunStatus.ValueType:
        """The one word for where the run stands."""
        if self.unreadable:
            return event_pb2.RUN_STATUS_UNREADABLE
        if self.undoing and self.undo is not None and not self.undo.is_dry:
            if self.paused and self.undo.planned is not None:
                return event_pb2.RUN_STATUS_PAUSED
            return event_pb2.RUN_STATUS_WAITING if self._needs_human else event_pb2.RUN_STATUS_UNDOING
        if self.finished is not None:
            return self.standing
        if self.cancel is not None:
            return event_pb2.RUN_STATUS_CANCELLING
        if self.paused:
            return event_pb2.RUN_STATUS_PAUSED
        if self.plan is None:
            return event_pb2.RUN_STATUS_PLANNING
        return event_pb2.RUN_STATUS_WAITING if self._needs_human else event_pb2.RUN_STATUS_RUNNING

    @property
    def _needs_human(self) -> bool:
        opened = (self.instances[i] for i in self.open)
        return any(i.gate or i.settled == "in_doubt" for i in opened) and not self.in_flight

    @property
    def undoing(self) -> bool:
        """Whether an undo has been asked for and has not ended."""
        return self.undo is not None and self.undo.ended is None

    @property
    def over(self) -> bool:
        """Whether nothing more is done until somebody asks for it."""
        return self.finished is not None and not self.undoing

    @property
    def open_gates(self) -> tuple[Gate, ...]:
        """The gates at which somebody has yet to decide, in the order in which they were opened."""
        if self.over:
            return ()
        # Nothing waits any more at those that the run had left open before its undo.
        return tuple(
            gate
            for gate in self.gates.values()
            if gate.closed is None
            and (not self.undo or not self.undoing or gate.opened.step in self.undo.steps)
        )

    @property
    def in_flight(self) -> tuple[Attempt, ...]:
        """The attempts that somebody still owes an answer to."""
        current = (self.instances[i].current for i in self.open if not self.instances[i].settled)
        return tuple(
            a
            for a in current
            if a is not None and a.in_flight and not self.left_behind(a) and not self.is_past(a)
        )

    def is_past(self, attempt: Attempt) -> bool:
        """Whether an attempt is an earlier undo's: whoever was to answer then may never do it."""
        return self.undo is not None and self.undoing and attempt.sequence < self.undo.sequence

    def stands(self, attempt_id: str) -> bool:
        """Whether an attempt is what its step was done by."""
        instance = self.instances[self.attempts[attempt_id]]
        current = instance.current
        return instance.settled == "done" and current is not None and current.id == attempt_id

    def left_behind(self, attempt: Attempt) -> bool:
        """Whether an attempt of a chain rests on one that went wrong, or counts no more."""
        if attempt.revoked or not attempt.follows:
            return False
        before = self.instances[self.attempts[attempt.follows]]
        former = before.current
        if former is None or former.id != attempt.follows or former.revoked or before.settled == "failed":
            return True
        if former.result is not None and former.result.message.HasField("failure"):
            return True
        verdict = former.verdict.message if former.verdict is not None else None
        if verdict is not None and verdict.outcome != event_pb2.OUTCOME_CONFIRMED:
            return True
        return self.left_behind(former)
