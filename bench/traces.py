"""Whether traces are whole: the spans that a stack wrote, beside those that the logs of its runs call for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from bench import broker
from bench.stack import Stack
from observability.export import FILE, KEPT_FILES
from observability.spans import spans_of

CATCH_UP_S = 120.0

SpanId = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Completeness:
    """What arrived of what should have. A run is whole when all of its spans are there, in its one trace."""

    runs: int
    whole: int
    expected: int
    arrived: int
    unexpected: int


def completeness(running: Stack) -> Completeness:
    """Let the tracer catch up, and compare its files with the fold of every log."""
    broker.drain_tracer(running.access, CATCH_UP_S)
    expected = [
        # A log without a submission would have no spans; such a run counts as not whole.
        {(span.trace_id, span.span_id) for span in spans_of(key, records)}
        for key, records in asyncio.run(broker.logs(running.access)).items()
    ]
    written = _written(running.data)
    wanted = set().union(*expected)
    return Completeness(
        runs=len(expected),
        whole=sum(bool(run) and run <= written and len({trace for trace, _ in run}) == 1 for run in expected),
        expected=len(wanted),
        arrived=len(wanted & written),
        unexpected=len(written - wanted),
    )


def _written(data: Path) -> set[SpanId]:
    """Return the trace and the id of every span in the files."""
    found: set[SpanId] = set()
    for name in (FILE, *(f"{FILE}.{number}" for number in range(1, KEPT_FILES + 1))):
        path = data / name
        for line in path.read_text().splitlines() if path.exists() else ():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    found |= {(span["traceId"], span["spanId"]) for span in scope["spans"]}
    return found
