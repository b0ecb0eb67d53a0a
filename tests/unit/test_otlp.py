"""Our spans in OTLP's two forms: both say the same, and the SDK's own encoding agrees."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from observability import environment, names, otlp
from observability.export import ExportFailed, FileExporter, NoExporter, OtlpExporter, exporter
from observability.span import Kind, Link, Span, SpanEvent, Value
from observability.spans import spans_of
from tests.otlp_receiver import values
from tests.scenarios import histories
from tests.scenarios.play import KEY
from tests.scenarios.test_histories import NAMES
from tests.unit.test_run import CHOICES, random_play


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


def mapped(message: Any) -> Any:
    """What OTLP/JSON makes of a message: the JSON of protobuf, but for ids, which are hexadecimal."""
    return _hexadecimal(json_format.MessageToDict(message, use_integers_for_enums=True))


_IDS = {"traceId", "spanId", "parentSpanId"}


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, list):
        return [_hexadecimal(one) for one in value]
    if not isinstance(value, dict):
        return value
    ids = {key: base64.b64decode(value[key]).hex() for key in value.keys() & _IDS}
    return {key: _hexadecimal(one) for key, one in value.items()} | ids


def stripped(value: Any) -> Any:
    """What a text says, without the fields that are as they are where nothing is said."""
    if isinstance(value, list):
        return [stripped(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: stripped(one) for key, one in value.items()}
    return {key: one for key, one in kept.items() if key.endswith("Value") or one not in ("", 0, [], {})}


def check(spans: list[Span]) -> Any:
    """The text is what the mapping makes of the message, and as plain as JSON can be; return what it says."""
    text = otlp.text(spans, resource)
    said = json.loads(text)
    assert stripped(said) == stripped(mapped(otlp.message(spans, resource)))
    assert text == json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return said


EVERY_CHARACTER = "".join(map(chr, range(0x80))) + "\x80\x9féß漢\u2028\u2029\ufeff\uffff🙂\U0010ffff"


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_text_says_what_the_message_says_whatever_is_in_a_span(kind: Kind) -> None:
    awkward: dict[str, Value] = {
        EVERY_CHARACTER: EVERY_CHARACTER,
        '"},{"key":"': '"}}],"events":[{"',
        "a.backslash\\": "\\u0041 \\n \\",
        "empty": "",
        "yes": True,
        "no": False,
        "none": 0,
        "one": 1,
        "large": 2**63 - 1,
        "small": -(2**63),
        "part": 0.1,
        "tiny": 5e-324,
        "whole": 1.0,
    }
    full = Span(
        what="what",
        name=EVERY_CHARACTER,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        parent_id="00f067aa0ba902b7",
        start_ns=1,
        end_ns=2**63 + 1,
        role='a "role"',
        instance="\\an\ninstance",
        kind=kind,
        attributes=awkward,
        links=(Link("00f067aa0ba902b7", awkward), Link("00f067aa0ba902b8")),
        events=(SpanEvent(EVERY_CHARACTER, 2**63, awkward), SpanEvent("", 1)),
        error="timeout",
        message=EVERY_CHARACTER,
    )
    said = check([full, replace(full, parent_id="", error="", attributes={}, links=(), events=())])
    first, second = said["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert first["name"] == first["status"]["message"] == EVERY_CHARACTER
    assert [pair["key"] for pair in first["attributes"]] == list(awkward)
    assert (second["parentSpanId"], second["links"], second["status"]["code"]) == ("", [], 0)
    assert check([]) == {"resourceSpans": []}


def test_the_text_says_what_the_message_says_of_every_kind_of_span() -> None:
    told: set[str] = set()
    for name in NAMES:
        records = histories.load(name)
        for end in (len(records) // 2, len(records)):
            spans = spans_of(records[0].address.key, records[:end], with_content=end == len(records))
            check(spans)
            told |= {span.what for span in spans} | {event.name for span in spans for event in span.events}
            told |= {f"link of {span.what}" for span in spans if span.links}
            told |= {mark for span in spans for mark in ("lost", "open", "error") if getattr(span, mark)}
    assert told >= {
        *(names.SUBMIT, names.INVOKE_WORKFLOW, names.PLAN, names.MAKE_PLAN, names.STEP, names.ATTEMPT),
        *(names.CHOOSE, names.EXECUTE_TOOL, names.VERIFY, names.HEAL, names.GATE, names.DECIDED, names.UNDO),
        *(names.CLAIMED, names.ORPHANED, names.IN_DOUBT, "plan_accepted", "cancel"),
        *("link of attempt", "link of heal", "lost", "open", "error"),
    }


@settings(max_examples=60)
@given(choices=CHOICES)
def test_the_text_says_what_the_message_says_whatever_happens(choices: list[int]) -> None:
    check(spans_of(KEY, random_play(choices).records, with_content=True))


async def test_what_is_no_text_is_a_question_mark_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bytes of the environment that are no UTF-8 come as lone surrogates, which neither JSON nor a file takes.
    monkeypatch.setenv(environment.RESOURCE_ATTRIBUTES, os.fsdecode(b"team=r\xff\xedil"))
    records = histories.load("refused")
    await FileExporter(tmp_path / "traces.jsonl").export(spans_of(records[0].address.key, records))
    said = json.loads((tmp_path / "traces.jsonl").read_text(encoding="utf-8"))
    pairs = said["resourceSpans"][0]["resource"]["attributes"]
    assert {"key": "team", "value": {"stringValue": "r??il"}} in pairs


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
