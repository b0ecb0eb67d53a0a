"""Ids of traces and spans, made of what the log says: the same wherever and whenever they are asked for.

A run's trace is the one that its client was in, or else one named by the run. A span's id is a hash of the
run and of what the span is about, so that any part can name the span of another, and a repeated export
repeats no span. Contexts travel as W3C `traceparent` texts; one that cannot be read is none.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from core.ports import RunKey
from handrail.v1 import event_pb2
from observability import names

MAX_TRACEPARENT_CHARS = 256
MAX_KNOWN_RUNS = 4_096
"""Whose traces are not worked out again for every message."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class Context:
    """A place in a trace. `span_id` is "" where the trace begins with what comes next."""

    trace_id: str
    span_id: str = ""
    sampled: bool = True

    def at(self, span_id: str) -> Context:
        """Return another place in the same trace."""
        return Context(self.trace_id, span_id, self.sampled)


def parse(traceparent: str) -> Context | None:
    """Read a W3C trace context; None where it is none (or of a version that cannot be read)."""
    if not traceparent or len(traceparent) > MAX_TRACEPARENT_CHARS:
        return None
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Context(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def render(context: Context) -> str:
    """Write a W3C trace context."""
    return f"00-{context.trace_id}-{context.span_id or _NO_SPAN}-{int(context.sampled):02x}"


@functools.lru_cache(MAX_KNOWN_RUNS)
def of_run(key: RunKey, traceparent: str) -> Context:
    """Return where a run's trace goes on: the client's span, or nothing above the first of ours."""
    given = parse(traceparent)
    if given is not None:
        return given
    return Context(_hash(f"trace/{key.tenant}/{key.run}", 32))


def span_id(key: RunKey, *parts: str) -> str:
    """Name the span of a run that is about something."""
    return _hash("/".join((key.tenant, key.run, *parts)), 16)


def of_answer(key: RunKey, event: event_pb2.Event) -> str:
    """Name the span of whoever handles an event: the planner's, executor's, worker's or verifier's."""
    arm = event.WhichOneof("body")
    if arm == "plan_ask":
        return span_id(key, names.MAKE_PLAN, event.plan_ask.attempt)
    if arm == "proposal_ask":
        return span_id(key, names.CHOOSE, event.proposal_ask.attempt)
    if arm == "action":
        return span_id(key, names.EXECUTE_TOOL, event.action.attempt)
    if arm == "result":
        return span_id(key, names.VERIFY, event.result.attempt, "1")
    if arm == "verify_ask":
        return span_id(key, names.VERIFY, event.verify_ask.attempt, str(event.verify_ask.round))
    return span_id(key, names.INVOKE_WORKFLOW)


def of_ask(
    key: RunKey,
    traceparent: str,
    event: event_pb2.Event,
    sampled: Callable[[Context], bool] = lambda context: context.sampled,
) -> str:
    """Return the trace context that travels with an ask: the span that waits for the answer; else ""."""
    arm = event.WhichOneof("body")
    if arm == "plan_ask":
        asking = span_id(key, names.PLAN, event.plan_ask.attempt)
    elif arm in ("proposal_ask", "action", "verify_ask"):
        asking = span_id(key, names.ATTEMPT, getattr(event, arm).attempt)
    else:
        return ""
    above = of_run(key, traceparent)
    return render(Context(above.trace_id, asking, sampled(above)))


def _hash(text: str, digits: int) -> str:
    """Return a hexadecimal hash that is not zero, which would be no id."""
    found = hashlib.sha256(text.encode()).hexdigest()[:digits]
    return found if found.strip("0") else "1".rjust(digits, "0")
