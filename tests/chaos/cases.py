"""Cases that have a name of their own: each is one story, told to its end.

Some share a stack; those that need another one have it.

A case fails with an AssertionError. What a machine cannot do is named and skipped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from handrail.goals import Deadline
from tests.chaos import oracle
from tests.chaos.courses import COURSES, Goal
from tests.chaos.history import Asked, Row, Stroke, status_name
from tests.chaos.oracle import Finding, Ledger, Told
from tests.chaos.report import Say
from tests.chaos.stage import Stage
from tests.chaos.world import Call

END_TIMEOUT_S = 60.0


class Skipped(Exception):
    """This machine cannot do what the case needs."""


@dataclass(slots=True)
class Scene:
    """What a case plays on: a stack, goals, and points to strike at."""

    stage: Stage
    name: str
    goals: int = 0
    asked: list[Asked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def goal(self, course: str) -> Goal:
        """Make a goal on a course, with what befalls it, and submit nothing yet."""
        self.goals += 1
        goal = COURSES[course](f"{self.name}-{self.goals}", "")
        for ref, faults in goal.faults.items():
            self.stage.world.script(ref, *faults)
        return goal

    async def submit(self, course: str, deadline: Deadline | None = None) -> Asked:
        """Submit a goal on a course."""
        return await self.send(self.goal(course), deadline)

    async def send(self, goal: Goal, deadline: Deadline | None = None) -> Asked:
        """Submit a goal that was made."""
        submitted = await self.stage.client.submit(
            goal.text, plan=goal.plan, context=goal.context, request_id=goal.asked.ref, deadline=deadline
        )
        goal.asked.run = submitted.run
        self.asked.append(goal.asked)
        return goal.asked

    def arm(self, point: str, deed: str = "stop") -> tuple[Stroke, str]:
        """Arm a named point."""
        # A number of its own on this stage: what was struck there before must not be taken for it.
        stroke = Stroke(next(self.stage.numbers), "", deed, point=point)  # type: ignore[arg-type]
        return stroke, self.stage.arm(stroke)

    async def struck(self, stroke: Stroke, name: str) -> dict[str, object]:
        """Wait until somebody was struck there."""
        told = await self.stage.until(f"{name} was reached", lambda: self.stage.struck(name), END_TIMEOUT_S)
        stroke.pid, stroke.struck_ns = told["pid"], told["time_ns"]
        return dict(told)

    def of(self, asked: Asked, *kinds: str) -> list[Row]:
        """Return what was said in a run."""
        return self.stage.tap.of(asked.run, *kinds)

    async def said(self, asked: Asked, *kinds: str, count: int = 1) -> list[Row]:
        """Wait until something was said in a run so often."""
        return list(
            await self.stage.tap.wait_for(
                f"{count} {kinds} of {asked.ref}",
                lambda: found if len(found := self.of(asked, *kinds)) >= count else None,
                END_TIMEOUT_S,
            )
        )

    def calls(self, tool: str, ref: str) -> list[Call]:
        """Return the calls of a tool about a thing."""
        return [call for call in self.stage.world.calls if (call.tool, call.ref) == (tool, ref)]

    async def judge(self) -> None:
        """Let the oracle look at every goal of the case; each must have ended."""
        ledger = Ledger(self.stage.world.calls, self.stage.world.effects)
        findings: list[Finding] = []
        for asked in self.asked:
            seen = await self.stage.client.wait(asked.run, timeout_s=END_TIMEOUT_S)
            await self.said(asked, "finished", "in_doubt")
            told = Told(status_name(seen.status))
            findings += oracle.check(asked, self.of(asked), ledger, told)
        gone = await self.stage.tap.missing()
        assert not findings, "; ".join(map(str, findings))
        assert not gone, "; ".join(gone)


Work = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """A story, and the stack that it needs: a shared one, or one of its own."""

    name: str
    work: Work
    disk_mb: int = 0
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def shares(self) -> bool:
        """Whether it can be told on a stack that others have used."""
        return not self.disk_mb and not self.environment


CASES: list[Case] = []


def case(*, disk_mb: int = 0, **environment: str) -> Callable[[Work], Work]:
    """Make a function a case."""

    def add(work: Work) -> Work:
        CASES.append(Case(work.__name__, work, disk_mb, tuple(environment.items())))
        return work

    return add


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went; a failed one with the logs of its runs."""

    name: str
    result: Literal["held", "failed", "skipped"]
    text: str = ""
    logs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"case {self.name}: {self.result}" + (f": {self.text}" if self.text else "")


async def run_all(say: Say, *, only: str = "") -> list[CaseResult]:
    """Tell every case whose name contains `only`, and return how each went."""
    from tests.chaos import cases_clock, cases_disk, cases_late  # they add themselves

    del cases_clock, cases_disk, cases_late
    wanted = [one for one in CASES if only in one.name]
    shared = [one for one in wanted if one.shares]
    results = await _on_one_stack(shared, say) if shared else []
    for one in wanted:
        if not one.shares:
            results += await _on_one_stack([one], say)
    return results


async def _on_one_stack(cases: list[Case], say: Say) -> list[CaseResult]:
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        stage = await Stage.up(directory, "inline", disk_mb=cases[0].disk_mb, **dict(cases[0].environment))
    except AssertionError as error:
        if not cases[0].disk_mb:
            raise
        result = CaseResult(cases[0].name, "skipped", f"no disk of one's own can be made here: {error}"[:200])
        say.phase(str(result))
        return [result]
    results = []
    try:
        for one in cases:
            results.append(await _tell(one, Scene(stage, one.name)))
            say.phase(str(results[-1]))
    finally:
        await stage.close()
    if any(result.result == "failed" for result in results):
        say.phase(f"  data, logs and ledger are kept in {directory}")
    else:
        stage.remove()
    return results


async def _tell(case: Case, scene: Scene) -> CaseResult:
    try:
        await case.work(scene)
    except Skipped as why:
        return CaseResult(case.name, "skipped", str(why))
    except AssertionError as error:
        logs = [
            f"{asked.ref} {asked.run}: "
            + " ".join(f"{row.kind}:{row.attempt}" if row.attempt else row.kind for row in scene.of(asked))
            for asked in scene.asked
        ]
        return CaseResult(case.name, "failed", str(error), tuple(logs))
    return CaseResult(case.name, "held", "; ".join(scene.notes))
