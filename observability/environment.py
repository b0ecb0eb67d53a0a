"""What the standard `OTEL_*` variables ask for: where traces and metrics go, as whom, with what content."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlparse

from handrail.release import release
from observability import names

DISABLED = "OTEL_SDK_DISABLED"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
DEFAULT_ENDPOINT = "http://localhost:4317"
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
SERVICE_NAME = "OTEL_SERVICE_NAME"
CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

Signal = Literal["traces", "metrics"]
Way = Literal["none", "otlp", "file"]

_CAPTURING = frozenset(("true", "1", "span_only", "span_and_event"))
_logger = logging.getLogger("handrail.traces")


def way(signal: Signal, environ: Mapping[str, str] = os.environ) -> Way:
    """Say how a signal leaves: to a collector where one is named; else traces to a file, metrics nowhere."""
    if _said(environ, DISABLED) == "true":
        return "none"
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    asked = [one.strip() for one in _said(environ, variable).split(",") if one.strip()]
    if "otlp" in asked:
        return "otlp"
    if "none" in asked:
        return "none"
    if asked:
        _logger.warning("%s=%s is not known here: write otlp or none", variable, ",".join(asked))
    if environ.get(ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"):
        return "otlp"
    return "file" if signal == "traces" else "none"


def endpoint(signal: Signal, environ: Mapping[str, str] = os.environ) -> str:
    """Return the collector's address."""
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return own or environ.get(ENDPOINT) or DEFAULT_ENDPOINT


def channel_options(address: str) -> tuple[tuple[str, int], ...]:
    """Return how to connect: to a collector on this machine never through a proxy."""
    host = urlparse(address if "//" in address else f"//{address}").hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    return (("grpc.enable_http_proxy", 0),) if local else ()


def check_protocol(signal: Signal, environ: Mapping[str, str] = os.environ) -> None:
    """Say so where another protocol than gRPC is asked for."""
    own = _said(environ, f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    asked = own or _said(environ, PROTOCOL) or "grpc"
    if asked != "grpc":
        _logger.warning(
            "the %s protocol is not spoken here: %s go by gRPC, usually to port 4317", asked, signal
        )


def with_content(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether arguments, results and messages may be in spans."""
    return _said(environ, CAPTURE_CONTENT) in _CAPTURING


def resource(role: str, instance: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return who does the work of a role: one service for each role, one instance for each process or actor.

    `OTEL_SERVICE_NAME` stands in for "handrail" in the names of the services.
    """
    found = {names.SERVICE_NAMESPACE: "handrail", **_attributes(environ.get(RESOURCE_ATTRIBUTES, ""))}
    found[names.SERVICE_NAME] = names.service(role, environ.get(SERVICE_NAME) or "handrail")
    found[names.SERVICE_VERSION] = release()
    if instance:
        found[names.SERVICE_INSTANCE] = instance
    return found


def _attributes(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(","))
    return {key.strip(): unquote(value.strip()) for key, found, value in pairs if found and key.strip()}


def _said(environ: Mapping[str, str], variable: str) -> str:
    return environ.get(variable, "").strip().lower()
