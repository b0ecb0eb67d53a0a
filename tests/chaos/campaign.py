"""A campaign on one stack: the strokes of a plan, one lane for each role, while goals go on without pause.

A stroke is over when its target is back and has said something. Runs are judged at the end, when everything
that was stopped has had its say.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any

from handrail.errors import ClientError
from tests.chaos import recovery
from tests.chaos.history import Stroke
from tests.chaos.load import Load
from tests.chaos.outcome import Outcome, judge, near, settle
from tests.chaos.plan import HEAD
from tests.chaos.report import Say
from tests.chaos.stage import Stage

POINT_TIMEOUT_S = 20.0
POINT_ROUNDS = 5
ALIVE_TIMEOUT_S = 60.0
BACK_TIMEOUT_S = 90.0
IN_HAND_TIMEOUT_S = 40.0
PROBE_TIMEOUT_S = 0.5
PROBE_INTERVAL_S = 0.01


class Campaign:
    """Carries strokes out on a stage."""

    def __init__(self, stage: Stage, strokes: Sequence[Stroke], seed: int, say: Say) -> None:
        self._stage = stage
        self._say = say
        self._striking = 0
        self.load = Load(stage, seed)
        self.outcome = Outcome(stage.host, seed, list(strokes), self.load.asked)

    async def run(self, quiet: Awaitable[object] | None = None) -> Outcome:
        """Carry the plan out, let everything settle, and judge.

        What `quiet` waits for is over before the strokes at random, whose times say something.
        """
        begun = time.monotonic()
        loading = asyncio.create_task(self.load.run())
        try:
            lanes: defaultdict[str, list[Stroke]] = defaultdict(list)
            for stroke in self.outcome.strokes:
                if stroke.point:
                    lanes[stroke.target].append(stroke)
            await asyncio.gather(*(self._lane(strokes) for strokes in lanes.values()))
            if quiet is not None:
                await asyncio.wait([asyncio.ensure_future(quiet)])
            # One after the other, for the same reason.
            await self._lane([stroke for stroke in self.outcome.strokes if not stroke.point])
        finally:
            self.load.end()
            await loading
        self._say.phase("waiting for the last goals to end")
        await settle(self._stage, self.outcome, self.load.begun)
        self._say.phase(f"judging {len(self.outcome.asked)} runs")
        await judge(self._stage, self.outcome)
        self.outcome.elapsed_s = time.monotonic() - begun
        return self.outcome

    async def _lane(self, strokes: Sequence[Stroke]) -> None:
        for stroke in strokes:
            if self._striking:
                stroke.crowded = True
            self._striking += 1
            try:
                await (self._at_point(stroke) if stroke.point else self._at_random(stroke))
                await self._back(stroke)
                if stroke.deed == "kill" and not stroke.point:
                    await self._goes_on(stroke)
            except AssertionError as error:
                stroke.failure = str(error)
            finally:
                self._striking -= 1
                if self._striking:
                    stroke.crowded = True
            self._say.stroke(stroke, self.outcome)

    async def _at_point(self, stroke: Stroke) -> None:
        """Arm a point, send a goal that passes it, and wait until somebody was struck there."""
        stage, name = self._stage, f"{stroke.point}@{stroke.deed}@{stroke.number}"
        kind, moment = stroke.point.split("@")
        strike = ""
        if kind.startswith("tool-"):
            strike = f"{stroke.deed}@{moment}@{name}"
        else:
            stage.arm(stroke)
            if kind == "orphan":
                # Nobody reports one where nobody has left one.
                strike = f"kill@after@orphan-{stroke.number}"
        told: dict[str, Any] | None = None
        try:
            # A goal may miss its point: its cancel comes late, say, where the gateway is away just then.
            for _ in range(POINT_ROUNDS):
                self.load.begin(stroke.course, strike)
                with suppress(AssertionError):
                    told = await stage.until(str(stroke), lambda: stage.struck(name), POINT_TIMEOUT_S)
                    break
        finally:
            stage.disarm(name)
        if told is None:
            raise AssertionError(f"nobody passed it in {POINT_ROUNDS} times {POINT_TIMEOUT_S:g} s")
        stroke.pid, stroke.struck_ns = int(told["pid"]), int(told["time_ns"])
        stroke.target = _target(str(told["child"])) or stroke.target
        await self._linger(stroke)

    async def _at_random(self, stroke: Stroke) -> None:
        """Wait a moment, and strike whatever the target is then."""
        stage = self._stage
        self.load.begin("errand")
        self.load.begin("sends")
        await asyncio.sleep(stroke.after_s)
        found = await stage.until(
            f"{stroke.target} is there", lambda: stage.pids(stroke.target), ALIVE_TIMEOUT_S
        )
        stroke.pid, stroke.minds = min(found), stage.minds()
        stage.strike(stroke, stroke.pid)
        stroke.struck_ns = time.time_ns()
        await self._linger(stroke)

    async def _linger(self, stroke: Stroke) -> None:
        """Leave a stopped or held process for as long as the stroke says."""
        if stroke.deed in ("stop", "hold"):
            await asyncio.sleep(stroke.pause_s)
            self._stage.free(stroke)
            stroke.freed_ns = time.time_ns()

    async def _back(self, stroke: Stroke) -> None:
        """Wait until the target lives again, and has said something."""
        stage, tap = self._stage, self._stage.tap
        if stroke.deed == "kill":
            await stage.until(f"{stroke.target} lives again", lambda: self._lives(stroke), ALIVE_TIMEOUT_S)
        stroke.alive_ns = time.time_ns()
        if stroke.target == "gateway":
            await self._probe(stroke)
            return
        if stroke.target == "tracer":
            # It writes no events; that it has done its work is looked at in the end.
            await stage.until("the tracer is connected", self._tracer_is_connected, BACK_TIMEOUT_S)
            stroke.back_ns = time.time_ns()
            return
        start = len(tap.rows) - 1
        while start > 0 and tap.rows[start].time_ns > stroke.since_ns:
            start -= 1
        stroke.back_ns = await tap.wait_for(
            f"a sign of {stroke.target}",
            lambda: recovery.first_back(stroke, tap.rows[max(start, 0) :]),
            BACK_TIMEOUT_S,
        )

    def _tracer_is_connected(self) -> bool:
        return bool(self._stage.pids("tracer") & self._stage.proxy.pids("tracer"))

    def _lives(self, stroke: Stroke) -> bool:
        """Whether the successor of a killed process is there, and with Ray's head the minds placed anew."""
        there = bool(self._stage.pids(stroke.target) - {stroke.pid})
        return there and (stroke.target not in HEAD or bool(self._stage.minds() - stroke.minds))

    async def _goes_on(self, stroke: Stroke) -> None:
        """Give what the target had in hand the time to go on before something else is struck."""
        tap = self._stage.tap
        works = recovery.in_hand(stroke.target, near(tap.rows, stroke.struck_ns), stroke.struck_ns)

        def all_went_on() -> bool:
            return all(recovery.went_on(work, tap.runs[work[0]], stroke.since_ns) for work in works)

        # Whether it ends at all is judged in the end.
        with suppress(AssertionError):
            await tap.wait_for("what was in hand", all_went_on, IN_HAND_TIMEOUT_S)

    async def _probe(self, stroke: Stroke) -> None:
        """Ask the gateway until it answers."""
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while time.monotonic() < deadline:
            run = next((asked.run for asked in self.load.asked if asked.run), "")
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    # By its log, where there is one.
                    await (self._stage.client.get(run) if run else self._stage.client.list_page(page_size=1))
                stroke.back_ns = time.time_ns()
                return
            await asyncio.sleep(PROBE_INTERVAL_S)
        raise AssertionError(f"the gateway does not answer within {BACK_TIMEOUT_S:g} s")


def _target(child: str) -> str:
    """Return the target that a child of the stack is; "" for none, as an actor of Ray is."""
    kind, *rest = child.split(":")
    return f"worker:{rest[-1]}" if kind == "worker" else kind
