"""The executor: proposes the next action of a step that needs a mind.

It holds no secrets and calls no tool with an effect; the decider checks its proposal and authorises it, or
refuses.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from actors.agent import Answer
from actors.answers import answer, load_all, poisoned
from actors.models import CannotPropose, Chooser, Proposer, Task
from bus import consumers
from core import failures
from core.conditions import ConditionError
from core.ports import Consumer, Log, Record
from handrail.v1 import event_pb2


class Executor:
    """Answers proposal asks with what its chooser chooses."""

    role = "executor"

    def __init__(
        self, chooser: Chooser, proposer: Proposer | None = None, *, pool: str, instance: str
    ) -> None:
        self._chooser = chooser
        self._proposer = proposer
        self._pool = pool
        self._instance = instance

    def consumer(self, pool: str) -> Consumer:
        """Return what an executor hears."""
        return consumers.mind(self.role, pool)

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        """Propose an action."""
        if record.event is None or not record.event.HasField("proposal_ask"):
            return []
        ask = record.event.proposal_ask
        inputs = await load_all(log, record.address.key, ask.inputs)
        if not ask.grants:
            return [self._answer(record, await self._choose(ask, inputs))]
        # Today is when it was asked, by the broker's clock: whoever reads the log later reads the same.
        day = datetime.datetime.fromtimestamp(record.time_ns / 1e9, datetime.UTC).date()
        return [self._answer(record, await self._propose(Task(ask.title, ask.grants, inputs, day)))]

    async def _choose(self, ask: event_pb2.ProposalAsk, inputs: Mapping[str, Any]) -> event_pb2.Proposal:
        model = self._chooser.model
        found = event_pb2.Proposal(model=model.name, model_sha256=model.sha256)
        try:
            choice = await self._chooser.choose(ask.rules, inputs)
        except ConditionError as error:
            found.failure.CopyFrom(failures.permanent(failures.CONDITION, str(error)))
            return found
        if choice is None:
            message = "no row of the step's decision table holds"
            found.failure.CopyFrom(failures.permanent(failures.NO_RULE, message))
        else:
            found.choice.CopyFrom(choice)
        return found

    async def _propose(self, task: Task) -> event_pb2.Proposal:
        if self._proposer is None:
            failure = failures.permanent(failures.NO_PROPOSAL, "this executor has nothing that proposes")
            return event_pb2.Proposal(failure=failure)
        try:
            return await self._proposer.propose(task)
        except CannotPropose as error:
            return event_pb2.Proposal(
                failure=failures.transient(failures.PROPOSER, str(error)),
                model=error.model.name,
                model_sha256=error.model.sha256,
            )

    def give_up(self, record: Record) -> list[Answer]:
        """Say that nothing could be proposed."""
        if record.event is None or not record.event.HasField("proposal_ask"):
            return []
        return [self._answer(record, event_pb2.Proposal(failure=poisoned(record)))]

    def _answer(self, record: Record, body: event_pb2.Proposal) -> Answer:
        assert record.event is not None
        body.attempt = record.event.proposal_ask.attempt
        topic = (self.role, self._pool, "proposal", body.attempt)
        return answer(record, topic, "proposal", body, self._instance)
