"""The planner: makes a plan of a goal. It touches nothing; the decider checks what it proposes."""

from __future__ import annotations

import datetime

from actors.agent import Answer
from actors.answers import answer, load_all, poisoned
from actors.models import Goal, PlanMaker
from bus import consumers
from core.ports import Consumer, Log, Record
from handrail.v1 import event_pb2


class Planner:
    """Answers plan asks with what its plan maker makes."""

    role = "planner"

    def __init__(self, maker: PlanMaker, *, pool: str, instance: str) -> None:
        self._maker = maker
        self._pool = pool
        self._instance = instance

    def consumer(self, pool: str) -> Consumer:
        """Return what a planner hears."""
        return consumers.mind(self.role, pool)

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        """Make a plan."""
        if record.event is None or not record.event.HasField("plan_ask"):
            return []
        ask = record.event.plan_ask
        context = {}
        if ask.context.WhichOneof("kind"):
            context = (await load_all(log, record.address.key, {"context": ask.context}))["context"]
        # Today is when it was asked, by the broker's clock: whoever reads the log later reads the same.
        day = datetime.datetime.fromtimestamp(record.time_ns / 1e9, datetime.UTC).date()
        return [self._answer(record, await self._maker.make(Goal(ask.text, context, day)))]

    def give_up(self, record: Record) -> list[Answer]:
        """Say that no plan could be made."""
        if record.event is None or not record.event.HasField("plan_ask"):
            return []
        return [self._answer(record, event_pb2.PlanAnswer(failure=poisoned(record)))]

    def _answer(self, record: Record, body: event_pb2.PlanAnswer) -> Answer:
        assert record.event is not None
        body.attempt = record.event.plan_ask.attempt
        topic = (self.role, self._pool, "plan", body.attempt)
        return answer(record, topic, "plan_answer", body, self._instance)
