"""Our spans in OTLP's two forms: both say the same, and the SDK's own encoding agrees."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from observability import environment, otlp
from observability.export import ExportFailed, FileExporter, NoExporter, OtlpExporter, exporter
from observability.spans import spans_of
from tests.otlp_receiver import values
from tests.scenarios import histories
from tests.scenarios.test_histories import NAMES


def resource(role: str, instance: str) -> dict[str, str]:
    return environment.resource(role, instance, {})


@pytest.mark.parametrize("name", NAMES)
def test_the_message_and_the_text_say_the_same(name: str) -> None:
    records = histories.load(name)
    spans = spans_of(records[0].address.key, records, with_content=True)
    message = otlp.message(spans, resource)
    text = otlp.text(spans, resource)
    assert "\n" not in text
    said = json.loads(text)
    for whole in said["resourceSpans"]:
        for span in whole["scopeSpans"][0]["spans"]:
            # Where OTLP/JSON differs from the JSON of protobuf: ids are hexadecimal.
            for part in (span, *span["links"]):
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in part:
                        part[key] = base64.b64encode(bytes.fromhex(part[key])).decode()
    assert json_format.ParseDict(said, ExportTraceServiceRequest()) == message
    services = {values(whole.resource.attributes)["service.name"] for whole in message.resource_spans}
    assert {"handrail-gateway", "handrail-decider"} <= services
    assert sum(len(whole.scope_spans[0].spans) for whole in message.resource_spans) == len(spans)


async def test_a_file_takes_traces_and_is_bounded(tmp_path: Path) -> None:
    records = histories.load("refund")
    spans = spans_of(records[0].address.key, records)
    line = len(otlp.text(spans, environment.resource)) + 1
    file = FileExporter(tmp_path / "data" / "traces.jsonl", max_bytes=2 * line + 10)
    for _ in range(5):
        await file.export(spans)
    await file.export([])
    kept = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "data").iterdir()}
    assert kept == {"traces.jsonl": 1, "traces.jsonl.1": 2}
    assert (tmp_path / "data" / "traces.jsonl").stat().st_mode & 0o077 == 0


async def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    records = histories.load("refused")
    (tmp_path / "traces.jsonl").mkdir()
    file = FileExporter(tmp_path / "traces.jsonl")
    with pytest.raises(ExportFailed, match="cannot be written"):
        await file.export(spans_of(records[0].address.key, records))


def test_where_traces_go(tmp_path: Path) -> None:
    assert isinstance(exporter(tmp_path, {}), FileExporter)
    assert exporter(tmp_path, {}).where == str(tmp_path / "traces.jsonl")
    assert isinstance(exporter(tmp_path, {"OTEL_TRACES_EXPORTER": "none"}), NoExporter)
    sent = exporter(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://there:4317"})
    assert isinstance(sent, OtlpExporter)
    assert sent.where == "http://there:4317"
    assert exporter(tmp_path, {"OTEL_TRACES_EXPORTER": "otlp"}).where == environment.DEFAULT_ENDPOINT
