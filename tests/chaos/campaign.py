"""A campaign on one stack: the strokes of a plan, one lane for each role, while goals go on without pause.

A stroke is over when its target is back and has said something. Runs are judged as they end, and all of them
once more at the end, when everything that was stopped has had its say.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from handrail.errors import ClientError, DeadlineExceeded, Unavailable
from handrail.v1 import run_service_pb2
from tests.chaos import oracle, recovery
from tests.chaos.courses import COURSES, LOAD, Goal
from tests.chaos.history import Asked, Row, Stroke, status_name
from tests.chaos.oracle import Finding, Ledger, Told
from tests.chaos.report import Say
from tests.chaos.stage import Stage

MAX_LOAD = 6
"""Goals that go on at once, beside those of the strokes."""
LOAD_INTERVAL_S = 0.25
POINT_TIMEOUT_S = 40.0
ALIVE_TIMEOUT_S = 60.0
BACK_TIMEOUT_S = 90.0
SETTLE_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 0.5
PROBE_INTERVAL_S = 0.01
RESUME_AFTER_S = 0.3
MAX_ENDS_AT_ONCE = 8

_AGAIN = (Unavailable, DeadlineExceeded)
_DONE = run_service_pb2.STEP_STATUS_DONE
_DOUBT = run_service_pb2.STEP_STATUS_IN_DOUBT


@dataclass(slots=True)
class Outcome:
    """What a campaign has shown."""

    host: str
    seed: int
    strokes: list[Stroke]
    asked: list[Asked] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    # Actions in flight at kills, each (run, attempt), and what became of them.
    in_flight: set[tuple[str, str]] = field(default_factory=set)
    in_flight_all: set[tuple[str, str]] = field(default_factory=set)
    doubts: int = 0
    elapsed_s: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong, a line each."""
        return [*(str(f) for f in self.findings), *(f"{s}: {s.failure}" for s in self.strokes if s.failure)]


class Campaign:
    """Carries strokes out on a stage."""

    def __init__(self, stage: Stage, strokes: Sequence[Stroke], seed: int, say: Say) -> None:
        self._stage = stage
        self._rng = random.Random(seed)
        self._say = say
        self._names = 0
        self._open: dict[str, Asked] = {}
        self._begun: dict[str, asyncio.Task[None]] = {}
        self._striking = 0
        self._over = asyncio.Event()
        self.outcome = Outcome(stage.host, seed, list(strokes))

    async def run(self) -> Outcome:
        """Carry the plan out, let everything settle, and judge."""
        begun = time.monotonic()
        loading = asyncio.create_task(self._load())
        try:
            named = [stroke for stroke in self.outcome.strokes if stroke.point]
            lanes: defaultdict[str, list[Stroke]] = defaultdict(list)
            for stroke in named:
                lanes[stroke.target].append(stroke)
            await asyncio.gather(*(self._lane(strokes) for strokes in lanes.values()))
            # One after the other, so that their times say something.
            await self._lane([stroke for stroke in self.outcome.strokes if not stroke.point])
        finally:
            self._over.set()
            await loading
        await self._settle()
        await self._judge()
        self.outcome.elapsed_s = time.monotonic() - begun
        return self.outcome

    # --- goals ----------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Keep goals going on, so that whatever is struck has work waiting."""
        while not self._over.is_set():
            self._forget_ended()
            if len(self._open) < MAX_LOAD:
                self.begin(self._rng.choice(LOAD))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), LOAD_INTERVAL_S)

    def begin(self, course: str, strike: str = "") -> Asked:
        """Submit a goal on a course, and see to what it wants done on the way."""
        self._names += 1
        goal = COURSES[course](f"g{self.outcome.seed}-{self._names}", strike)
        asked = goal.asked
        for ref, faults in goal.faults.items():
            self._stage.world.script(ref, *faults)
        self.outcome.asked.append(asked)
        self._open[asked.ref] = asked
        self._begun[asked.ref] = asyncio.create_task(self._submit(goal))
        return asked

    async def _submit(self, goal: Goal) -> None:
        asked, client = goal.asked, self._stage.client
        asked.asked_ns = time.time_ns()
        while not asked.run:
            with suppress(*_AGAIN):
                submitted = await client.submit(
                    goal.text, plan=goal.plan, context=goal.context, request_id=asked.ref
                )
                asked.run = submitted.run
        asked.acknowledged_ns = time.time_ns()
        if not goal.then:
            return
        await self._stage.tap.wait_for(
            "the first claim", lambda: self._stage.tap.of(asked.run, "intent"), SETTLE_TIMEOUT_S
        )
        await self._command(goal.then, asked.run)
        if goal.then == "pause":
            await asyncio.sleep(RESUME_AFTER_S)
            await self._command("resume", asked.run)

    async def _command(self, command: str, run: str) -> None:
        """Give a command; a run that has ended meanwhile takes none."""
        while True:
            try:
                await getattr(self._stage.client, command)(run)
                return
            except _AGAIN:
                continue
            except ClientError:
                return

    def _forget_ended(self) -> None:
        for ref, asked in list(self._open.items()):
            rows = self._stage.tap.runs.get(asked.run, []) if asked.run else []
            if any(row.kind in ("finished", "in_doubt") for row in rows):
                del self._open[ref]

    # --- strokes --------------------------------------------------------------------------------------

    async def _lane(self, strokes: Sequence[Stroke]) -> None:
        for stroke in strokes:
            if self._striking:
                stroke.crowded = True
            self._striking += 1
            try:
                await (self._at_point(stroke) if stroke.point else self._at_random(stroke))
                await self._back(stroke)
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
        if kind.startswith("tool-"):
            self.begin(stroke.course, f"{stroke.deed}@{moment}@{name}")
        else:
            stage.arm(stroke)
            # Nobody reports an orphan where nobody has left one.
            strike = f"kill@after@orphan-{stroke.number}" if kind == "orphan" else ""
            self.begin(stroke.course, strike)
        try:
            told = await stage.until(f"{stroke} was reached", lambda: stage.struck(name), POINT_TIMEOUT_S)
        finally:
            stage.disarm(name)
        stroke.pid, stroke.struck_ns = int(told["pid"]), int(told["time_ns"])
        stroke.target = _target(str(told["child"])) or stroke.target
        await self._linger(stroke)

    async def _at_random(self, stroke: Stroke) -> None:
        """Wait a moment, and strike whatever the target is then."""
        stage = self._stage
        self.begin("errand")
        self.begin("sends")
        await asyncio.sleep(stroke.after_s)
        found = await stage.until(
            f"{stroke.target} is there", lambda: stage.pids(stroke.target), ALIVE_TIMEOUT_S
        )
        stroke.pid = min(found)
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
            await stage.until(
                f"{stroke.target} lives again",
                lambda: stage.pids(stroke.target) - {stroke.pid},
                ALIVE_TIMEOUT_S,
            )
        stroke.alive_ns = time.time_ns()
        if stroke.target == "gateway":
            await self._probe(stroke)
            return
        start = len(tap.rows) - 1
        while start > 0 and tap.rows[start].time_ns > stroke.since_ns:
            start -= 1
        stroke.back_ns = await tap.wait_for(
            f"a sign of {stroke.target}",
            lambda: recovery.first_back(stroke, tap.rows[max(start, 0) :]),
            BACK_TIMEOUT_S,
        )

    async def _probe(self, stroke: Stroke) -> None:
        """Ask the gateway until it answers."""
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while time.monotonic() < deadline:
            run = next((asked.run for asked in self.outcome.asked if asked.run), "")
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    # By its log, where there is one.
                    await (self._stage.client.get(run) if run else self._stage.client.list_page(page_size=1))
                stroke.back_ns = time.time_ns()
                return
            await asyncio.sleep(PROBE_INTERVAL_S)
        raise AssertionError(f"the gateway does not answer within {BACK_TIMEOUT_S:g} s")

    # --- the end --------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until every goal has ended, or waits for a human."""
        self._say.phase(f"waiting for {len(self._open)} goals to end")
        await asyncio.wait(self._begun.values(), timeout=SETTLE_TIMEOUT_S)
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        for asked in self.outcome.asked:
            left_s = max(0.0, deadline - time.monotonic())
            ended = functools.partial(self._stage.tap.of, asked.run, "finished", "in_doubt")
            with suppress(AssertionError):
                await self._stage.tap.wait_for(asked.ref, ended, left_s)
        for ref, task in self._begun.items():
            if not task.done():
                task.cancel()
            elif task.exception() is not None:
                run = next(asked.run for asked in self.outcome.asked if asked.ref == ref)
                self.outcome.findings.append(Finding("lost", run, ref, repr(task.exception())))

    async def _judge(self) -> None:
        """Let the oracle look at everything."""
        stage, outcome = self._stage, self.outcome
        self._say.phase(f"judging {len(outcome.asked)} runs")
        told = await self._told()
        gone = await stage.tap.missing()
        outcome.findings += [Finding("lost", "", "the log", text) for text in gone]
        ledger = Ledger(stage.world.calls, stage.world.effects)
        for asked in outcome.asked:
            rows = stage.tap.runs.get(asked.run, [])
            outcome.findings += oracle.check(asked, rows, ledger, told.get(asked.run))
            outcome.doubts += len(oracle.doubts(rows))
        self._measure()

    async def _told(self) -> dict[str, Told]:
        """Ask for every run what a client is told of it; one that may still go on is waited for."""
        found: dict[str, Told] = {}
        gate = asyncio.Semaphore(MAX_ENDS_AT_ONCE)

        async def ask(run: str) -> None:
            async with gate:
                with suppress(ClientError):
                    seen = await self._stage.client.wait(run, timeout_s=SETTLE_TIMEOUT_S)
                    found[run] = Told(
                        status_name(seen.status),
                        frozenset(step.id for step in seen.steps if step.status == _DONE),
                        frozenset(step.id for step in seen.steps if step.status == _DOUBT),
                    )

        await asyncio.gather(*(ask(asked.run) for asked in self.outcome.asked if asked.run))
        return found

    def _measure(self) -> None:
        """Say what was in flight at each stroke, and when it went on."""
        tap, outcome = self._stage.tap, self.outcome
        for stroke in outcome.strokes:
            if not stroke.struck_ns:
                continue
            flying = oracle.in_flight(_near(tap.rows, stroke.struck_ns), stroke.struck_ns)
            outcome.in_flight_all |= flying
            if stroke.deed == "kill":
                outcome.in_flight |= flying
            before = _near(tap.rows, stroke.struck_ns)
            stroke.in_hand = recovery.in_hand(stroke.target, before, stroke.struck_ns)
            for work in stroke.in_hand:
                went_on = recovery.went_on(work, tap.runs[work[0]], stroke.since_ns)
                if went_on:
                    stroke.resumed_ns.append(went_on)


def _target(child: str) -> str:
    """Return the target that a child of the stack is; "" for none, as an actor of Ray is."""
    kind, *rest = child.split(":")
    return f"worker:{rest[-1]}" if kind == "worker" else kind


def _near(rows: Sequence[Row], moment_ns: int) -> list[Row]:
    """Return what was said before a moment, but not long before."""
    oldest_ns = moment_ns - int(SETTLE_TIMEOUT_S * 1e9)
    return [row for row in rows if oldest_ns <= row.time_ns <= moment_ns]
