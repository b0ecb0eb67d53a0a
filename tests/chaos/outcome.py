"""What a campaign has shown: every run judged, every stroke measured."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from handrail.errors import ClientError
from handrail.v1 import run_service_pb2
from tests.chaos import oracle, recovery
from tests.chaos.history import Asked, Row, Stroke, status_name
from tests.chaos.oracle import Finding, Ledger, Told
from tests.chaos.stage import Stage

SETTLE_TIMEOUT_S = 120.0
TRACE_TIMEOUT_S = 45.0
TRACE_INTERVAL_S = 0.2
MAX_ENDS_AT_ONCE = 8
ROOT_SPAN = "invoke_workflow"

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
    # The logs of the runs that something was found about.
    logs: dict[str, list[str]] = field(default_factory=dict)
    # Actions in flight at kills, each (run, attempt), and what became of them.
    in_flight: set[tuple[str, str]] = field(default_factory=set)
    in_flight_all: set[tuple[str, str]] = field(default_factory=set)
    doubts: int = 0
    elapsed_s: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong, a line each."""
        return [*(str(f) for f in self.findings), *(f"{s}: {s.failure}" for s in self.strokes if s.failure)]


async def settle(stage: Stage, outcome: Outcome, begun: Mapping[str, asyncio.Task[None]]) -> None:
    """Wait until every goal has ended, or waits for a human."""
    await asyncio.wait(begun.values(), timeout=SETTLE_TIMEOUT_S)
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    for asked in outcome.asked:
        left_s = max(0.0, deadline - time.monotonic())
        ended = functools.partial(_is_at_rest, stage, asked)
        with suppress(AssertionError):
            await stage.tap.wait_for(asked.ref, ended, left_s)
    runs = {asked.ref: asked.run for asked in outcome.asked}
    for ref, task in begun.items():
        if not task.done():
            task.cancel()
        elif task.exception() is not None:
            outcome.findings.append(Finding("lost", runs[ref], ref, repr(task.exception())))


def _is_at_rest(stage: Stage, asked: Asked) -> bool:
    said = stage.tap.of(asked.run, "finished", "in_doubt")
    return bool(said) and not oracle.undoing(stage.tap.of(asked.run))


async def judge(stage: Stage, outcome: Outcome) -> None:
    """Let the oracle look at everything."""
    told = await _told(stage, outcome.asked)
    outcome.findings += [Finding("lost", "", "the log", text) for text in await stage.tap.missing()]
    ledger = Ledger(stage.world.calls, stage.world.effects)
    for asked in outcome.asked:
        rows = stage.tap.runs.get(asked.run, [])
        outcome.findings += oracle.check(asked, rows, ledger, told.get(asked.run))
        outcome.doubts += len(oracle.doubts(rows))
    outcome.findings += await _untraced(stage, outcome.asked)
    for run in {finding.run for finding in outcome.findings if finding.run}:
        outcome.logs[run] = [_line(row) for row in stage.tap.of(run)]
    for stroke in outcome.strokes:
        if stroke.struck_ns:
            _measure(stage, outcome, stroke)


async def _told(stage: Stage, asked: Sequence[Asked]) -> dict[str, Told]:
    """Ask for every run what a client is told of it; one that may still go on is waited for."""
    found: dict[str, Told] = {}
    gate = asyncio.Semaphore(MAX_ENDS_AT_ONCE)

    async def ask(run: str) -> None:
        async with gate:
            with suppress(ClientError):
                seen = await stage.client.wait(run, timeout_s=SETTLE_TIMEOUT_S)
                found[run] = Told(
                    status_name(seen.status),
                    frozenset(step.id for step in seen.steps if step.status == _DONE),
                    frozenset(step.id for step in seen.steps if step.status == _DOUBT),
                )

    await asyncio.gather(*(ask(one.run) for one in asked if one.run))
    return found


async def _untraced(stage: Stage, asked: Sequence[Asked]) -> list[Finding]:
    """Return the runs that have ended and have no trace, when the tracer has had its time."""
    ended = {one.run: one.ref for one in asked if one.run and stage.tap.of(one.run, "finished")}
    deadline = time.monotonic() + TRACE_TIMEOUT_S
    while True:
        spans = await asyncio.to_thread(_roots, stage.data)
        missing = [run for run in ended if not any(run in span for span in spans)]
        if not missing or time.monotonic() > deadline:
            return [Finding("untraced", run, ended[run], "it has ended and has no trace") for run in missing]
        await asyncio.sleep(TRACE_INTERVAL_S)


def _roots(data: Path) -> list[str]:
    """Return the root spans that were written, as text."""
    found = []
    for file in data.glob("traces.jsonl*"):
        # The last line may be half written yet.
        for line in file.read_text().split("\n")[:-1]:
            if ROOT_SPAN not in line:
                continue
            scopes = [scope for one in json.loads(line)["resourceSpans"] for scope in one["scopeSpans"]]
            spans = [span for scope in scopes for span in scope["spans"]]
            found += [json.dumps(span) for span in spans if span["name"].startswith(ROOT_SPAN)]
    return found


def _measure(stage: Stage, outcome: Outcome, stroke: Stroke) -> None:
    """Say what was in flight at a stroke, and when it went on."""
    before = near(stage.tap.rows, stroke.struck_ns)
    flying = oracle.in_flight(before, stroke.struck_ns)
    outcome.in_flight_all |= flying
    if stroke.deed == "kill":
        outcome.in_flight |= flying
    stroke.in_hand = recovery.in_hand(stroke.target, before, stroke.struck_ns)
    for work in stroke.in_hand:
        went_on = recovery.went_on(work, stage.tap.runs[work[0]], stroke.since_ns)
        if went_on:
            stroke.resumed_ns.append(went_on)


def near(rows: Sequence[Row], moment_ns: int) -> list[Row]:
    """Return what was said before a moment, but not long before."""
    oldest_ns = moment_ns - int(SETTLE_TIMEOUT_S * 1e9)
    return [row for row in rows if oldest_ns <= row.time_ns <= moment_ns]


def _line(row: Row) -> str:
    at_s = row.time_ns / 1e9 % 1000
    return f"{row.sequence:6} {at_s:8.3f} {row.writer:34} {row.kind:14} {row.attempt}"
