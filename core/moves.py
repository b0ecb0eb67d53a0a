"""What `decide` says is missing: values that the decider carries out, in order."""

from __future__ import annotations

from dataclasses import dataclass

from handrail.v1 import event_pb2, plan_pb2

DecisionBody = (
    event_pb2.PlanAsk
    | event_pb2.ProposalAsk
    | event_pb2.Action
    | event_pb2.VerifyAsk
    | event_pb2.PlanAccepted
    | event_pb2.PlanRejected
    | event_pb2.Expanded
    | event_pb2.Skipped
    | event_pb2.StepFailed
    | event_pb2.Healed
    | event_pb2.InDoubt
    | event_pb2.ProposalRefused
    | event_pb2.GateOpened
    | event_pb2.GateClosed
    | event_pb2.UndoPlanned
    | event_pb2.UndoEnded
    | event_pb2.Finished
    | event_pb2.Forgotten
)


@dataclass(frozen=True, slots=True)
class Decide:
    """Append a decision, fenced against every other decision of the run, or against all that is said in it.

    The second where it could be overtaken (`core.ahead.can_be_overtaken`).
    """

    topic: tuple[str, ...]
    arm: str
    body: DecisionBody
    # Decisions that come just before it, in the same event.
    before: tuple[Decide, ...] = ()


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take an attempt back, fenced against its intent and nothing else."""

    pool: str
    body: event_pb2.Revoked


@dataclass(frozen=True, slots=True)
class Arm:
    """Have the run looked at again at the due time."""

    timer: str
    due_ns: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load a large value and decide again."""

    blob: plan_pb2.Blob


@dataclass(frozen=True, slots=True)
class Erase:
    """Delete the run's key, if that has not been done."""


Move = Decide | Revoke | Arm | Load | Erase


def note(arm: str, body: DecisionBody) -> Decide:
    """Record a decision."""
    return Decide(("note", arm), arm, body)


def ask(role: str, pool: str, arm: str, body: DecisionBody) -> Decide:
    """Ask a pool for something."""
    return Decide(("ask", role, pool), arm, body)
