"""What goes wrong in an RPC, as a gRPC status with google.rpc details; and the one place that says it.

The services raise: a `Refusal`, or an error of the log; `of_any` makes a refusal of every exception.
A status travels in HTTP/2 trailers, of which a client takes 8 KiB in all: so details are bounded here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from core.errors import HandrailError
from core.ports import FenceLost, LogError, LogForbidden, LogFull, LogUnavailable, RunForgotten
from handrail.v1.plan_pb2 import Violation

DOMAIN = "handrail.dev"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_BYTES = 400
MAX_DESCRIPTION_BYTES = 400
MAX_VIOLATIONS_BYTES = 3_600
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


class Refusal(HandrailError):
    """An RPC that is not carried out, and why."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_s = retry_s


def invalid(reason: str, violations: Sequence[Violation]) -> Refusal:
    """Refuse a request that breaks rules; nothing has been written."""
    count = len(violations)
    message = violations[0].message
    if violations[0].field:
        message = f"{violations[0].field}: {message}"
    if count > 1:
        message = f"the request breaks {count} rules; the first: {message}"
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, message, violations=violations)


def invalid_field(reason: str, field: str, code: str, message: str) -> Refusal:
    """Refuse a request for one field."""
    return invalid(reason, [Violation(field=field, code=code, message=message)])


def not_found(reason: str, message: str) -> Refusal:
    """Refuse a request about something that is not there."""
    return Refusal(grpc.StatusCode.NOT_FOUND, reason, message)


def of_log(error: LogError) -> Refusal:
    """Say what an error of the log means to a caller."""
    if isinstance(error, LogFull):
        message = f"the log is full, nothing was written: {error}"
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "LOG_FULL", message)
    if isinstance(error, LogForbidden):
        message = f"the gateway's broker user may not do this, check the broker's permissions: {error}"
        return Refusal(grpc.StatusCode.INTERNAL, "LOG_FORBIDDEN", message)
    if isinstance(error, LogUnavailable):
        message = f"the log cannot be reached, whether anything was written is unknown: {error}"
        return Refusal(grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE", message, retry_s=RETRY_S)
    if isinstance(error, FenceLost):
        message = f"another writer came first, ask again: {error}"
        return Refusal(grpc.StatusCode.ABORTED, "FENCE_LOST", message)
    if isinstance(error, RunForgotten):
        return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "RUN_FORGOTTEN", str(error))
    return Refusal(grpc.StatusCode.INTERNAL, "LOG_ERROR", f"the log did not do what was asked: {error}")


def status(refusal: Refusal) -> status_pb2.Status:
    """Return a refusal as a google.rpc.Status with ErrorInfo, BadRequest and RetryInfo."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=refusal.metadata)
    ]
    if refusal.violations:
        details.append(_bad_request(refusal.violations))
    if refusal.retry_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(refusal.retry_s * 1_000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    number: int = refusal.code.value[0]
    return status_pb2.Status(code=number, message=_bounded(str(refusal), MAX_MESSAGE_BYTES), details=packed)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """List the violations, as many as fit, and say how many more there are."""
    found = error_details_pb2.BadRequest()
    for count, violation in enumerate(violations):
        found.field_violations.add(
            field=_bounded(violation.field, MAX_DESCRIPTION_BYTES),
            reason=violation.code.upper(),
            description=_bounded(violation.message, MAX_DESCRIPTION_BYTES),
        )
        if found.ByteSize() > MAX_VIOLATIONS_BYTES:
            del found.field_violations[-1]
            left = len(violations) - count
            found.field_violations.add(reason="MORE", description=f"and {left} more that do not fit here")
            break
    return found


def _bounded(text: str, limit_bytes: int) -> str:
    raw = text.encode(errors="replace")
    return text if len(raw) <= limit_bytes else raw[: limit_bytes - 3].decode(errors="ignore") + "..."


def of_any(error: Exception, method: str) -> Refusal:
    """Say what an exception means to a caller; what nobody expected is logged with a reference."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, LogError):
        refusal = of_log(error)
        _log.warning("rpc.log_error", method=method, reason=refusal.reason, error=str(error))
        return refusal
    reference = secrets.token_hex(8)
    _log.error("rpc.failed", method=method, reference=reference, exc_info=error)
    message = f"something unexpected went wrong; the gateway's log has it under reference {reference}"
    return Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", message, metadata={"reference": reference})
