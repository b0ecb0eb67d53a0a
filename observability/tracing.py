"""The trace of what is being handled: carried on by what is written, named by logs, entered by tools.

Our own spans are made of the log (`spans`), so nothing is recorded here. But the work of an ask is done
within its span: a span that a tool makes with OpenTelemetry hangs there, and is sent by the provider that
`configure` sets up where a collector is named.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from core.ports import Record, RunKey
from handrail.v1 import event_pb2
from observability import environment, ids, logs, sampling

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext

FLUSH_S = 2.0
"""How long a process that ends waits for a collector."""

_carried: ContextVar[str] = ContextVar("handrail_trace", default="")
_provider: TracerProvider | None = None


def carried() -> str:
    """Return the trace context of what is being handled, for what is written about it; or ""."""
    return _carried.get()


@contextmanager
def handling(key: RunKey, record: Record | None) -> Iterator[None]:
    """Handle an ask or a result: within this context its trace, run, step and attempt are known."""
    event, trace = (record.event, record.trace) if record is not None else (None, "")
    context = ids.parse(trace) or ids.of_run(key, "")
    token = _carried.set(trace)
    try:
        with (
            logs.bound(key.run, trace=context.trace_id, **_about(event)),
            _at(context.at(ids.of_answer(key, event) if event is not None else "")),
        ):
            yield
    finally:
        _carried.reset(token)


@contextmanager
def within(key: RunKey, what: str, attempt: str, *about: str, step: str = "") -> Iterator[None]:
    """Do one of several pieces of work that were asked for together, each within a span of its own."""
    context = ids.parse(_carried.get()) or ids.of_run(key, "")
    with (
        logs.bound(key.run, step=step, attempt=attempt),
        _at(context.at(ids.span_id(key, what, attempt, *about))),
    ):
        yield


def of_ask(key: RunKey, traceparent: str, event: event_pb2.Event) -> str:
    """Return the trace context that travels with what the decider writes: with asks, and nothing else."""
    return ids.of_ask(key, traceparent, event, sampled=_sampler())


def _about(event: event_pb2.Event | None) -> dict[str, str]:
    """Return the step and the attempt that an event names."""
    body = getattr(event, str(event.WhichOneof("body")), None) if event is not None else None
    return {"step": getattr(body, "step", ""), "attempt": getattr(body, "attempt", "")}


@functools.cache
def _sampler() -> sampling.Sampler:
    return sampling.sampler()


@contextmanager
def _at(context: ids.Context) -> Iterator[None]:
    """Make a span of ours the current one, for whoever makes spans with OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules or not context.span_id:
        # Nobody in this process does.
        yield
        return
    from opentelemetry import context as current
    from opentelemetry import trace

    token = current.attach(trace.set_span_in_context(trace.NonRecordingSpan(span_context(context))))
    try:
        yield
    finally:
        current.detach(token)


def span_context(context: ids.Context) -> SpanContext:
    """Return a place in a trace as OpenTelemetry has it."""
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)


def configure(role: str, instance: str) -> None:
    """Have spans that tools make in this process sent, where a collector is named and nobody else did."""
    global _provider
    if _provider is not None or environment.way("traces") != "otlp":
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from observability.tool_spans import CleanSpans

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    resource = Resource.create(dict(environment.resource(role, instance)))
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    options = environment.channel_options(environment.endpoint("traces"))
    exporter = OTLPSpanExporter(channel_options=options or None)  # type: ignore[arg-type]
    _provider.add_span_processor(BatchSpanProcessor(CleanSpans(exporter)))
    trace.set_tracer_provider(_provider)


def flush(timeout_s: float = FLUSH_S) -> None:
    """Send what tools' spans there are; a collector that does not answer in time does not get them."""
    provider = _provider
    if provider is None:
        return
    # The SDK knows no timeout here.
    sending = threading.Thread(target=provider.force_flush, name="flush-traces", daemon=True)
    sending.start()
    sending.join(timeout_s)
