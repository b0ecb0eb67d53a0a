"""What is known while something is handled: to logs, to what is written, and to tools that make spans."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import sampling as sdk

from core.ports import Address, Record, RunKey
from handrail.v1 import event_pb2
from observability import environment, ids, logs, names, sampling, tracing

KEY = RunKey(0, "default", "r0-scenario01")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    file = io.StringIO()
    logs.configure(file)
    yield file
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def ask(traceparent: str = f"00-{TRACE}-{SPAN}-01") -> Record:
    event = event_pb2.Event(action=event_pb2.Action(attempt="send-a1", step="send"))
    return Record(7, 1, Address(KEY, "dec", ("ask", "worker", "box")), event, traceparent)


def test_what_is_handled_is_known_within_and_not_after(written: io.StringIO) -> None:
    record = ask()
    with tracing.handling(KEY, record):
        assert tracing.carried() == record.trace
        current = trace.get_current_span().get_span_context()
        assert f"{current.trace_id:032x}" == TRACE
        assert f"{current.span_id:016x}" == ids.span_id(KEY, names.EXECUTE_TOOL, "send-a1")
        structlog.get_logger().warning("ours")
        logging.getLogger("a.tool").warning("theirs: %s", 3)
    assert tracing.carried() == ""
    assert not trace.get_current_span().get_span_context().is_valid
    structlog.get_logger().warning("after")
    ours, theirs, after = (json.loads(line) for line in written.getvalue().splitlines())
    known = {"trace_id": TRACE, "run": KEY.run, "step": "send", "attempt": "send-a1"}
    assert known.items() <= ours.items()
    assert known.items() <= theirs.items()
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("theirs: 3", "a.tool", "warning")
    assert not known.keys() & after.keys()


def test_an_ask_without_a_context_is_in_the_trace_of_its_run(written: io.StringIO) -> None:
    with tracing.handling(KEY, ask("")):
        assert tracing.carried() == ""
        found = trace.get_current_span().get_span_context()
    assert f"{found.trace_id:032x}" == ids.of_run(KEY, "").trace_id


def test_a_tick_has_a_run_and_no_more(written: io.StringIO) -> None:
    with tracing.handling(KEY, None):
        structlog.get_logger().warning("a tick")
    assert json.loads(written.getvalue())["run"] == KEY.run


# --- what the environment says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, "file", "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4317"}, "otlp", "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://there:4317"}, "otlp", "none"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://there:4317"}, "file", "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp", "none"),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4317"},
            "none",
            "otlp",
        ),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4317"}, "none", "none"),
    ],
)
def test_the_standard_variables_say_where_signals_go(
    environ: dict[str, str], traces: str, metrics: str
) -> None:
    assert environment.way("traces", environ) == traces
    assert environment.way("metrics", environ) == metrics


def test_a_service_for_each_role() -> None:
    found = environment.resource("worker-shop", "a-1-shop_0-1", {})
    assert found["service.name"] == "handrail-worker-shop"
    assert found["service.namespace"] == "handrail"
    assert found["service.instance.id"] == "a-1-shop_0-1"
    assert found["service.version"]
    said = {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test%20one,service.namespace=shop,broken",
        "OTEL_SERVICE_NAME": "agents",
    }
    found = environment.resource("gateway", "", said)
    assert found["service.name"] == "agents-gateway"
    assert found["service.namespace"] == "shop"
    assert found["deployment.environment.name"] == "test one"
    assert "service.instance.id" not in found


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("", ""),
        ("always_on", ""),
        ("always_off", ""),
        ("parentbased_always_on", ""),
        ("parentbased_always_off", ""),
        ("traceidratio", "0.5"),
        ("parentbased_traceidratio", "0.3"),
        ("parentbased_traceidratio", "nonsense"),
        ("nonsense", ""),
    ],
)
def test_sampling_decides_as_the_sdk_does(name: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sampling.SAMPLER, name) if name else monkeypatch.delenv(
        sampling.SAMPLER, raising=False
    )
    monkeypatch.setenv(sampling.ARGUMENT, argument)
    theirs, ours = sdk._get_from_env_or_default(), sampling.sampler()
    for number in range(200):
        own = ids.of_run(RunKey(0, "default", f"r0-{number:010d}"), "")
        for context in (own, own.at(SPAN), ids.Context(own.trace_id, SPAN, False)):
            parent = None
            if context.span_id:
                span = trace.NonRecordingSpan(tracing.span_context(context))
                parent = trace.set_span_in_context(span)
            decided = theirs.should_sample(parent, int(context.trace_id, 16), "run").decision.is_sampled()
            assert ours(context) == decided
