"""A collector for tests: a real OTLP gRPC receiver, which can refuse, hang, or be away.

It keeps the spans that it was sent, with the service that sent each, and knows when one id came with two
contents.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

THREADS = 4


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    service: str
    instance: str
    resource: dict[str, Any]
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, dict[str, Any]]]
    events: list[str]
    failed: bool
    content: bytes


class Receiver:
    """Listens from `start` to `stop`; starting again is on the same port."""

    def __init__(self) -> None:
        # Taken for good, so that nobody else gets it while the receiver is away; it does not listen itself.
        self._taken = socket.socket()
        self._taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._taken.bind(("127.0.0.1", 0))
        self.port = self._taken.getsockname()[1]
        self.refusing = False
        self.hanging = threading.Event()
        self.release = threading.Event()
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self.metrics: list[Any] = []
        self._spans: dict[tuple[str, str], Received] = {}
        self.contradictions: list[tuple[Received, Received]] = []
        self._server: grpc.Server | None = None
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Receiver:
        server = grpc.server(ThreadPoolExecutor(THREADS), options=(("grpc.so_reuseport", 1),))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self), server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), server)
        assert server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Be away."""
        self.release.set()
        if self._server is not None:
            self._server.stop(None).wait(5)
            self._server = None

    def spans(self, trace_id: str = "") -> list[Received]:
        with self._lock:
            return [span for span in self._spans.values() if trace_id in ("", span.trace_id)]

    def wait(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it did not come; there are {len(self.spans())} spans"
            time.sleep(0.02)
        return found

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        with self._lock:
            self.requests += 1
            self.headers.append(headers)
            for whole in request.resource_spans:
                resource = values(whole.resource.attributes)
                for scope in whole.scope_spans:
                    for span in scope.spans:
                        self._keep(_received(resource, span))

    def _keep(self, span: Received) -> None:
        known = self._spans.setdefault((span.trace_id, span.span_id), span)
        if known != span:
            self.contradictions.append((known, span))


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        receiver = self._receiver
        if receiver.hanging.is_set():
            receiver.requests += 1
            receiver.release.wait(30)
        if receiver.refusing:
            receiver.requests += 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        receiver.take(request, {key: str(value) for key, value in context.invocation_metadata()})
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._receiver.metrics.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    return getattr(value, str(value.WhichOneof("value")))


def _received(resource: dict[str, Any], span: OtlpSpan) -> Received:
    return Received(
        service=resource["service.name"],
        instance=resource.get("service.instance.id", ""),
        resource=resource,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=OtlpSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=values(span.attributes),
        links=[(link.span_id.hex(), values(link.attributes)) for link in span.links],
        events=[event.name for event in span.events],
        failed=span.status.code == 2,
        content=span.SerializeToString(deterministic=True),
    )
