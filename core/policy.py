"""What a policy is asked, and what it answers: the port between whoever decides and the engine of rules.

A policy is asked about one action with its values. It asks no model, looks at nothing but the request, and
answers the same to the same. What needs a human is said in the same rules, through `approvals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from handrail.v1 import tool_pb2

MAX_QUORUM = 5

Outcome = Literal["allow", "gate", "refuse"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A rule that decided, and what it says of itself."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody's run wants an action."""

    user: str
    tenant: str
    contract: tool_pb2.ToolContract
    arguments: Mapping[str, Any]
    # Arguments whose values are not known yet; a rule that looks at one cannot be judged.
    unknown: frozenset[str] = frozenset()
    # Arguments that nobody who is trusted has written; of those without a value too.
    untrusted: frozenset[str] = frozenset()
    # Actions that the run has had.
    actions: int = 0
    # What the run's effects have come to, in minor units by currency.
    spent: Mapping[str, int] = field(default_factory=dict)
    now_ns: int = 0
    # Arguments that would be shown to somebody who may not read what they rest on.
    leaks: frozenset[str] = frozenset()
    # The tools that the run's plan names, and those that can stand in for them.
    plan: frozenset[str] = frozenset()
    # It takes an effect of the run back.
    undoing: bool = False


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say. A gate has a quorum, and the reasons for which it is needed."""

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    quorum: int = 0
    # It rests on an argument that is not known yet: ask again when it is.
    open: bool = False
    # The ids of the rules that allow it; at a gate, once so many have approved. What is ruled is the same by
    # whichever of them.
    rules: tuple[str, ...] = field(default=(), compare=False)


ALLOWED = Ruling("allow")


class Policy(Protocol):
    """Rules over actions."""

    @property
    def version(self) -> str:
        """The digest of everything that the answers rest on."""
        ...

    def rule(self, request: Request) -> Ruling:
        """Say whether an action may be done, and whether a human must approve it first."""
        ...

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Say whether somebody may approve or deny an action; never a gate."""
        ...


class NoRules:
    """A policy that allows everything to everybody."""

    version = "none"

    def rule(self, request: Request) -> Ruling:
        """Allow."""
        return ALLOWED

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Allow."""
        return ALLOWED
