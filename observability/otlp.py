"""Spans in OTLP's two forms: the protobuf message that a collector takes, and the JSON of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring
from typing import Any

from observability import names
from observability.span import Kind, Link, Span, SpanEvent, Value, by_service

ResourceOf = Callable[[str, str], Mapping[str, str]]
"""Says who does the work of a role and an instance: the attributes of a resource."""

_KINDS: dict[Kind, int] = {"internal": 1, "server": 2, "producer": 4, "consumer": 5}
_STATUS = {"unset": 0, "error": 2}
_SAMPLED = 0x01
# As `json.dumps` without `ensure_ascii` writes a text.
_quote = encode_basestring


def message(spans: Iterable[Span], resource_of: ResourceOf) -> Any:
    """Return an ExportTraceServiceRequest."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1 import trace_pb2

    request = ExportTraceServiceRequest()
    for (role, instance), group in by_service(spans).items():
        whole = request.resource_spans.add(schema_url=names.SCHEMA_URL)
        _fill(whole.resource.attributes, resource_of(role, instance))
        scope = whole.scope_spans.add(schema_url=names.SCHEMA_URL)
        scope.scope.name = names.SCOPE
        for span in group:
            made = scope.spans.add(
                trace_id=bytes.fromhex(span.trace_id),
                span_id=bytes.fromhex(span.span_id),
                parent_span_id=bytes.fromhex(span.parent_id),
                flags=_SAMPLED,
                name=span.name,
                kind=_KINDS[span.kind],
                start_time_unix_nano=span.start_ns,
                end_time_unix_nano=span.end_ns,
                status=trace_pb2.Status(code=_STATUS[span.status], message=span.message),  # type: ignore[arg-type]
            )
            _fill(made.attributes, span.attributes)
            for event in span.events:
                _fill(
                    made.events.add(name=event.name, time_unix_nano=event.time_ns).attributes,
                    event.attributes,
                )
            for link in span.links:
                trace_id = bytes.fromhex(span.trace_id)
                linked = made.links.add(
                    trace_id=trace_id, span_id=bytes.fromhex(link.span_id), flags=_SAMPLED
                )
                _fill(linked.attributes, link.attributes)
    return request


def _fill(target: Any, attributes: Mapping[str, Value]) -> None:
    for name, value in attributes.items():
        held = target.add(key=name).value
        if isinstance(value, bool):
            held.bool_value = value
        elif isinstance(value, int):
            held.int_value = value
        elif isinstance(value, float):
            held.double_value = value
        elif isinstance(value, str):
            held.string_value = value
        else:
            held.array_value.values.extend(type(held)(string_value=each) for each in value)


def text(spans: Iterable[Span], resource_of: ResourceOf) -> str:
    """Return an ExportTraceServiceRequest as one line of OTLP/JSON.

    It is written straight: to build a tree of it for `json.dumps` takes three times as long.
    """
    resources = [
        f'{{"resource":{{"attributes":{_pairs(resource_of(role, instance))}}},'
        f'"scopeSpans":[{{"scope":{{"name":{_quote(names.SCOPE)}}},"spans":{_list(map(_span, group))},'
        f'"schemaUrl":{_quote(names.SCHEMA_URL)}}}],"schemaUrl":{_quote(names.SCHEMA_URL)}}}'
        for (role, instance), group in by_service(spans).items()
    ]
    return f'{{"resourceSpans":{_list(resources)}}}'


def _span(span: Span) -> str:
    return (
        f'{{"traceId":"{span.trace_id}","spanId":"{span.span_id}","parentSpanId":"{span.parent_id}",'
        f'"flags":{_SAMPLED},"name":{_quote(span.name)},"kind":{_KINDS[span.kind]},'
        f'"startTimeUnixNano":"{span.start_ns}","endTimeUnixNano":"{span.end_ns}",'
        f'"attributes":{_pairs(span.attributes)},"events":{_list(map(_event, span.events))},'
        f'"links":{_list([_link(span, link) for link in span.links])},'
        f'"status":{{"code":{_STATUS[span.status]},"message":{_quote(span.message)}}}}}'
    )


def _event(event: SpanEvent) -> str:
    return (
        f'{{"timeUnixNano":"{event.time_ns}","name":{_quote(event.name)},'
        f'"attributes":{_pairs(event.attributes)}}}'
    )


def _link(span: Span, link: Link) -> str:
    return (
        f'{{"traceId":"{span.trace_id}","spanId":"{link.span_id}",'
        f'"attributes":{_pairs(link.attributes)},"flags":{_SAMPLED}}}'
    )


def _pairs(attributes: Mapping[str, Value]) -> str:
    return _list([f'{{"key":{_quote(name)},"value":{_value(value)}}}' for name, value in attributes.items()])


def _value(value: Value) -> str:
    if isinstance(value, str):
        return f'{{"stringValue":{_quote(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, tuple):
        return f'{{"arrayValue":{{"values":{_list(map(_value, value))}}}}}'
    return f'{{"intValue":"{value}"}}' if isinstance(value, int) else f'{{"doubleValue":{json.dumps(value)}}}'


def _list(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"
