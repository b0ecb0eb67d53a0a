"""Failure codes and classes: what can go wrong, in words that stay the same."""

from __future__ import annotations

from handrail.v1 import event_pb2
from handrail.v1.event_pb2 import (
    FAILURE_CLASS_IN_DOUBT,
    FAILURE_CLASS_PERMANENT,
    FAILURE_CLASS_TRANSIENT,
    Failure,
)

MAX_MESSAGE_CHARS = 2_000
MAX_CODE_CHARS = 64
_CLASSES = frozenset((FAILURE_CLASS_TRANSIENT, FAILURE_CLASS_PERMANENT, FAILURE_CLASS_IN_DOUBT))

TIMEOUT = "timeout"
"""The tool did not answer in time."""
TOOL_RAISED = "tool_raised"
"""The tool raised an exception that it did not classify."""
BAD_ARGUMENTS = "bad_arguments"
"""The resolved arguments do not fit the tool's schema."""
BAD_OUTPUT = "bad_output"
"""The tool returned what its contract does not allow."""
UNRESOLVED = "unresolved_reference"
"""A reference points to something that the output does not have."""
CONDITION = "condition_error"
"""A condition could not be evaluated."""
PRE_REFUTED = "pre_refuted"
"""The tool's precondition does not hold; nothing was done."""
POST_REFUTED = "post_refuted"
"""A postcondition does not hold after the action."""
UNVERIFIED = "unverified"
"""The verifier could not judge."""
PERMIT = "permit_refused"
"""The worker did not accept the permit; nothing was done."""
UNKNOWN_TOOL = "unknown_tool"
"""The worker's toolbox has no such tool; nothing was done."""
NO_SANDBOX = "no_sandbox"
"""The tool cannot be shut in as its toolbox says; nothing was done."""
STOPPED = "stopped"
"""The sandbox ended the tool before it had answered."""
POISONED = "poisoned"
"""The ask brought down whoever handled it, again and again."""
EACH = "bad_fan_out"
"""A fan-out met no list, or one that is too long."""
BUDGET = "budget_exhausted"
"""A budget of the run or the step is used up."""
LOOP = "loop"
"""The same action with the same arguments had the same outcome again."""
PROPOSAL = "proposal_refused"
"""An executor proposed what the plan does not allow."""
PROPOSER = "proposer_failed"
"""What proposes actions raised, took too long, could not be asked, or returned what is no proposal."""
NO_PROPOSAL = "no_proposal"
"""The executor has nothing to propose within what the step was granted."""
NO_RULE = "no_rule"
"""No row of the decision table holds."""
NO_PLAN = "no_plan"
"""No planner could make a plan of the goal."""
PLAN_REJECTED = "plan_rejected"
"""The plan does not conform."""
DEADLINE = "deadline_exceeded"
"""The run's deadline passed."""
CANCELLED = "cancelled"
"""Somebody cancelled the run."""
FORBIDDEN = "forbidden"
"""The policy does not allow the action."""
DENIED = "denied"
"""Somebody said no at a gate."""
GATE_EXPIRED = "gate_expired"
"""Nobody decided at a gate in time."""
IN_DOUBT = "in_doubt"
"""An effect may or may not have happened, and nothing sound can tell."""
SECRET_MISSING = "secret_missing"
"""A secret of the tool's toolbox cannot be had where the tool would be called; nothing was done."""
BEFORE_THE_CALL = frozenset(
    (BAD_ARGUMENTS, PRE_REFUTED, PERMIT, POISONED, UNKNOWN_TOOL, NO_SANDBOX, SECRET_MISSING)
)
"""What a worker says before it calls the tool: it tells nothing of an earlier call under the same key."""
SILENT = "silent_claim"
"""A worker claimed an action and did not answer."""
LEFT_BEHIND = "left_behind"
"""A read was not made, because one before it in its chain failed."""


def _bounded(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"


def permanent(code: str, message: str) -> event_pb2.Failure:
    """Trying the same again changes nothing."""
    return Failure(
        code=code[:MAX_CODE_CHARS], message=_bounded(message), **{"class": FAILURE_CLASS_PERMANENT}
    )


def transient(code: str, message: str) -> event_pb2.Failure:
    """Worth trying again; the effect, if any, did not happen."""
    return Failure(
        code=code[:MAX_CODE_CHARS], message=_bounded(message), **{"class": FAILURE_CLASS_TRANSIENT}
    )


def in_doubt(code: str, message: str) -> event_pb2.Failure:
    """The effect may or may not have happened."""
    return Failure(code=code[:MAX_CODE_CHARS], message=_bounded(message), **{"class": FAILURE_CLASS_IN_DOUBT})


def failure_class(failure: event_pb2.Failure) -> int:
    """Return the class; `class` is a keyword in Python. A failure of no known class is permanent."""
    value: int = getattr(failure, "class")
    return value if value in _CLASSES else FAILURE_CLASS_PERMANENT
