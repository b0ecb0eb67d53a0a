"""What minds think with, behind three ports: plans are made, rows chosen, actions proposed."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from handrail.v1 import event_pb2, plan_pb2


@dataclass(frozen=True, slots=True)
class Model:
    """What proposes, as the log names it, and the SHA-256 of the file that it is in, if it is in one."""

    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """What somebody wants, what they gave with it, and the day on which they said so."""

    text: str
    context: Mapping[str, Any]
    day: datetime.date


@dataclass(frozen=True, slots=True)
class Task:
    """A step that needs a mind: what it is for, what it may do, what it was given, and the day."""

    title: str
    grants: Sequence[plan_pb2.Grant]
    inputs: Mapping[str, Any]
    day: datetime.date


class PlanMaker(Protocol):
    """Makes a plan of a goal, or says why not and what comes nearest."""

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return a plan or the reason for none; what it proposes is checked before anything runs."""
        ...


class Chooser(Protocol):
    """Chooses the next action of a step within a closed set."""

    @property
    def model(self) -> Model:
        """What it is."""
        ...

    async def choose(
        self, rules: Sequence[plan_pb2.Rule], inputs: Mapping[str, Any]
    ) -> event_pb2.Choice | None:
        """Return the choice, or None where nothing fits."""
        ...


class Proposer(Protocol):
    """Proposes an action within what a step was granted."""

    async def propose(self, task: Task) -> event_pb2.Proposal:
        """Return what it would do, or why nothing, and what it is; raises CannotPropose."""
        ...


class CannotPropose(Exception):
    """A proposer that did not answer, or answered what is no proposal."""

    def __init__(self, message: str, model: Model) -> None:
        super().__init__(message)
        self.model = model
