"""Metrics of runs, told from their spans: what happened, how often, how long it took; with exemplars.

A number that stands for something in a trace carries that span's context. Sent by OTLP over gRPC where a
collector is named; without one there are none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from observability import environment, names, tracing
from observability.ids import Context
from observability.span import Span, Value

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider

CLOSE_S = 2.0
"""How long a process that ends waits for a collector."""
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
STATUS = "handrail.status"
OUTCOME = "handrail.outcome"


class Metrics(Protocol):
    """Counts what happens."""

    # Whether anybody wants to know.
    wanted: bool

    def count(self, spans: Iterable[Span], tenant: str) -> None:
        """Count a tenant's run that has ended, or an undo of it, and all that it did."""
        ...

    def count_doubt(self, tenant: str) -> None:
        """Count an effect that may or may not have happened."""
        ...

    def set_backlog(self, consumer: str, number: int) -> None:
        """Say how much a consumer has yet to answer."""
        ...

    def set_lag(self, stream: str, messages: int, age_s: float, stopped: bool) -> None:
        """Say how far the notary is behind a stream, and whether it can sign for no more of it."""
        ...

    def close(self) -> None:
        """Send the last numbers, within a time."""
        ...


class NoMetrics:
    """Counts nothing."""

    wanted = False

    def count(self, spans: Iterable[Span], tenant: str) -> None:
        """Forget them."""

    def count_doubt(self, tenant: str) -> None:
        """Forget it."""

    def set_backlog(self, consumer: str, number: int) -> None:
        """Forget it."""

    def set_lag(self, stream: str, messages: int, age_s: float, stopped: bool) -> None:
        """Forget it."""

    def close(self) -> None:
        """Do nothing."""


class RunMetrics:
    """Counts with OpenTelemetry."""

    wanted = True

    def __init__(self, provider: MeterProvider) -> None:
        self._provider = provider
        self._backlogs: dict[str, int] = {}
        self._lags: dict[str, tuple[int, float, int]] = {}
        meter = provider.get_meter(names.SCOPE, schema_url=names.SCHEMA_URL)

        def seconds(name: str, about: str) -> Any:
            return meter.create_histogram(
                name, "s", about, explicit_bucket_boundaries_advisory=list(BUCKETS_S)
            )

        self._runs = meter.create_counter(names.RUNS, "{run}", "Runs that have ended.")
        self._steps = meter.create_counter(names.STEPS, "{step}", "Steps that were begun, by how they ended.")
        self._actions = meter.create_counter(names.ACTIONS, "{action}", "Actions that were authorised.")
        self._heals = meter.create_counter(names.HEALS, "{heal}", "Corrective moves.")
        self._doubts = meter.create_counter(
            names.DOUBTS, "{doubt}", "Effects that may or may not have happened."
        )
        self._undos = meter.create_counter(
            names.UNDOS, "{undo}", "Undos that have ended, by what came of them."
        )
        self._compensations = meter.create_counter(
            names.COMPENSATIONS, "{compensation}", "Compensations that were begun, by how they ended."
        )
        self._seconds = {
            names.INVOKE_WORKFLOW: seconds(names.RUN_DURATION, "From a goal's submission to the run's end."),
            names.STEP: seconds(names.STEP_DURATION, "From a step's first ask to its end."),
            names.EXECUTE_TOOL: seconds(names.ACTION_DURATION, "A worker's handling of an action."),
            names.VERIFY: seconds(names.VERIFY_DURATION, "The verifier's handling of a result."),
        }
        meter.create_observable_gauge(
            names.BACKLOG, [self._observe], "{message}", "What a consumer has yet to answer."
        )
        for place, name, unit, about in (
            (0, names.NOTARY_LAG, "{message}", "What the notary has not signed for."),
            (1, names.NOTARY_LAG_AGE, "s", "Since the oldest message that the notary has not signed for."),
            (2, names.NOTARY_STOPPED, "1", "Whether the log or the book keeps the notary from signing."),
        ):
            meter.create_observable_gauge(name, [partial(self._observe_lag, place)], unit, about)

    def count(self, spans: Iterable[Span], tenant: str) -> None:
        """Count a tenant's run that has ended, or an undo of it, and all that it did."""
        whose = {names.TENANT: tenant}
        for span in spans:
            said = span.attributes
            if span.what == names.INVOKE_WORKFLOW:
                status = {
                    **whose,
                    STATUS: said.get(names.RUN_STATUS, ""),
                    **_only(said, names.GENAI_WORKFLOW),
                }
                self._runs.add(1, status)
                self._time(span, status)
            elif span.what == names.UNDO:
                self._undos.add(1, {**whose, OUTCOME: said.get(names.UNDO_OUTCOME, "")})
            elif span.what == names.STEP and names.UNDOES in said:
                self._compensations.add(1, {**whose, OUTCOME: said.get(names.STEP_STATUS, "")})
            elif span.what == names.STEP:
                status = {**whose, STATUS: said.get(names.STEP_STATUS, "")}
                self._steps.add(1, status)
                self._time(span, status)
            elif span.what == names.ATTEMPT and names.GENAI_TOOL_NAME in said:
                outcome = {**whose, OUTCOME: said.get(names.ATTEMPT_OUTCOME, "")}
                self._actions.add(1, {**outcome, **_only(said, names.GENAI_TOOL_NAME, names.ERROR_TYPE)})
            elif span.what == names.HEAL:
                self._heals.add(1, {**whose, **_only(said, names.HEAL_STRATEGY, names.HEAL_CAUSE)})
            elif span.what == names.EXECUTE_TOOL:
                self._time(span, {**whose, **_only(said, names.GENAI_TOOL_NAME, names.ERROR_TYPE)})
            elif span.what == names.VERIFY:
                self._time(span, {**whose, OUTCOME: said.get(names.VERDICT_OUTCOME, "")})

    def count_doubt(self, tenant: str) -> None:
        """Count an effect that may or may not have happened."""
        self._doubts.add(1, {names.TENANT: tenant})

    def set_backlog(self, consumer: str, number: int) -> None:
        """Say how much a consumer has yet to answer."""
        self._backlogs[consumer] = number

    def set_lag(self, stream: str, messages: int, age_s: float, stopped: bool) -> None:
        """Say how far the notary is behind a stream, and whether it can sign for no more of it."""
        self._lags[stream] = (messages, age_s, int(stopped))

    def close(self) -> None:
        """Send the last numbers; a collector that does not answer in time does not get them."""
        closing = threading.Thread(target=self._provider.shutdown, name="close-metrics", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _time(self, span: Span, attributes: Mapping[str, Value]) -> None:
        """Record how long a span took, with the span as an exemplar."""
        from opentelemetry import trace

        place = tracing.span_context(Context(span.trace_id, span.span_id, span.sampled))
        context = trace.set_span_in_context(trace.NonRecordingSpan(place))
        self._seconds[span.what].record(span.duration_ns / 1e9, attributes, context=context)

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for consumer, number in list(self._backlogs.items()):
            yield Observation(number, {names.CONSUMER: consumer})

    def _observe_lag(self, place: int, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for stream, figures in list(self._lags.items()):
            yield Observation(figures[place], {names.STREAM: stream})


def _only(attributes: Mapping[str, Value], *wanted: str) -> dict[str, Value]:
    return {name: attributes[name] for name in wanted if name in attributes}


def metrics(instance: str, environ: Mapping[str, str] = os.environ) -> Metrics:
    """Return what counts, as the environment asks for."""
    if environment.way("metrics", environ) != "otlp":
        return NoMetrics()
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    environment.check_protocol("metrics", environ)
    options = environment.channel_options(environment.endpoint("metrics", environ))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(channel_options=options or None))  # type: ignore[arg-type]
    resource = Resource.create(dict(environment.resource("tracer", instance, environ)))
    return RunMetrics(MeterProvider([reader], resource=resource, shutdown_on_exit=False))
