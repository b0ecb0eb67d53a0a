"""A span as Handrail knows it: a frozen value, which `export` sends and the command line draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | bool | tuple[str, ...]
Kind = Literal["internal", "server", "producer", "consumer"]


@dataclass(frozen=True, slots=True)
class Link:
    """Another span of the trace that a span has to do with, and how."""

    span_id: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """A moment within a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work. `what` is the name without what it was about; ids are hexadecimal."""

    what: str
    name: str
    trace_id: str
    span_id: str
    # "" where the trace begins here; of a run's first span it is the client's.
    parent_id: str
    start_ns: int
    end_ns: int
    # Who did the work.
    role: str
    instance: str = ""
    kind: Kind = "internal"
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    events: tuple[SpanEvent, ...] = ()
    # What `error.type` says; "" where nothing went wrong.
    error: str = ""
    message: str = ""
    # Nobody answered; it ends when the decider gave it up.
    lost: bool = False
    # It goes on; its end is the last that is known.
    open: bool = False
    sampled: bool = True

    @property
    def status(self) -> Literal["unset", "error"]:
        """The status as OpenTelemetry has it, where success is left unset."""
        return "error" if self.error else "unset"

    @property
    def duration_ns(self) -> int:
        """How long it took."""
        return self.end_ns - self.start_ns


def by_service(spans: Iterable[Span]) -> dict[tuple[str, str], list[Span]]:
    """Group spans by the role and the instance that did the work."""
    found: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        found.setdefault((span.role, span.instance), []).append(span)
    return found
