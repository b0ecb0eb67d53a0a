"""The goals of a campaign: they go on without pause, so that whatever is struck has work in hand."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from handrail import goals
from handrail.errors import ClientError
from handrail.v1 import run_service_pb2
from tests.chaos.courses import COURSES, LOAD, Goal
from tests.chaos.history import Asked
from tests.chaos.people import AGAIN, RPC_TIMEOUT_S, People, persist
from tests.chaos.stage import Stage

MAX_LOAD = 6
"""Goals that go on at once, beside those of the strokes."""
LOAD_INTERVAL_S = 0.25
CLAIM_TIMEOUT_S = 120.0
RESUME_AFTER_S = 0.3


class Load:
    """Submits goals, repeats what is not acknowledged, and knows which of them go on."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._seed = seed
        self._rng = random.Random(seed)
        self._names = 0
        self._open: dict[str, Asked] = {}
        self._over = asyncio.Event()
        self.asked: list[Asked] = []
        # By ref: done when the goal is acknowledged and its commands are given.
        self.begun: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep goals going on until it is over."""
        while not self._over.is_set():
            self._forget_ended()
            if len(self._open) < MAX_LOAD:
                self.begin(self._rng.choice(LOAD))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), LOAD_INTERVAL_S)

    def end(self) -> None:
        """Begin no more."""
        self._over.set()

    def begin(self, course: str, strike: str = "") -> Asked:
        """Submit a goal on a course, and see to what it wants done on the way."""
        self._names += 1
        goal = COURSES[course](f"g{self._seed}-{self._names}", strike)
        asked = goal.asked
        for ref, faults in goal.faults.items():
            self._stage.world.script(ref, *faults)
        self.asked.append(asked)
        self._open[asked.ref] = asked
        self.begun[asked.ref] = asyncio.create_task(self._submit(goal))
        return asked

    async def _submit(self, goal: Goal) -> None:
        asked = goal.asked
        asked.asked_ns = time.time_ns()
        while not asked.run:
            with suppress(*AGAIN):
                asked.run = await self._send(goal)
        asked.acknowledged_ns = time.time_ns()
        if goal.people:
            await getattr(People(self._stage, asked), goal.people)()
        if not goal.then:
            return
        await self._stage.tap.wait_for(
            "the first claim", lambda: self._stage.tap.of(asked.run, "intent"), CLAIM_TIMEOUT_S
        )
        await self._command(goal.then, asked.run)
        if goal.then == "pause":
            await asyncio.sleep(RESUME_AFTER_S)
            await self._command("resume", asked.run)

    async def _send(self, goal: Goal) -> str:
        """Submit a goal once, and return its run when it is acknowledged."""
        name = goal.asked.ref
        if not goal.undo_on_failure:
            client = self._stage.client
            return (await client.submit(goal.text, plan=goal.plan, context=goal.context, request_id=name)).run
        made = goals.goal(goal.text, plan=goal.plan, context=goal.context)
        made.undo_on_failure = True
        request = run_service_pb2.SubmitGoalRequest(goal=made, request_id=name)
        response = await persist(lambda: self._stage.runs.SubmitGoal(request, timeout=RPC_TIMEOUT_S))
        assert isinstance(response, run_service_pb2.SubmitGoalResponse)
        return response.run

    async def _command(self, command: str, run: str) -> None:
        """Give a command; a run that has ended meanwhile takes none."""
        while True:
            try:
                await getattr(self._stage.client, command)(run)
                return
            except AGAIN:
                continue
            except ClientError:
                return

    def _forget_ended(self) -> None:
        for ref, asked in list(self._open.items()):
            rows = self._stage.tap.runs.get(asked.run, []) if asked.run else []
            if any(row.kind in ("finished", "in_doubt") for row in rows):
                del self._open[ref]
