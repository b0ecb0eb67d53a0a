"""What a client's calls raise: one class for each way in which the server or the connection says no."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from core.errors import HandrailError
from handrail.v1.plan_pb2 import Violation

_DETAILS_KEY = "grpc-status-details-bin"


class ClientError(HandrailError):
    """A call that did not do what was asked.

    `code` is the gRPC status code, `reason` a stable word for why, `metadata` what goes with it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidArgument(ClientError):
    """The request breaks rules, which `violations` lists; nothing was written."""

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        lines = [f"  {v.field + ': ' if v.field else ''}{v.message}" for v in violations]
        super().__init__(
            "\n".join([message, *lines]) if len(lines) > 1 else message,
            code=code,
            reason=reason,
            metadata=metadata,
        )
        self.violations = tuple(violations)


class NotFound(ClientError):
    """There is no such run, gate or tool."""


class AlreadyExists(ClientError):
    """The request id was used for another goal; `metadata["run"]` is its run."""


class FailedPrecondition(ClientError):
    """The run or the gate is in no state for this; `metadata` says in which."""


class Unauthenticated(ClientError):
    """The server does not know who asks: there is no token, or none that it believes."""


class PermissionDenied(ClientError):
    """The rules do not let whoever asks do this."""


class Unavailable(ClientError):
    """The server, or the broker behind it, cannot be reached."""


class ResourceExhausted(ClientError):
    """The server or its log has no room, or a message is too large."""


class DeadlineExceeded(ClientError):
    """There was no answer in time; whether the request was carried out is unknown."""


class Internal(ClientError):
    """The server failed in a way that it did not expect, or is no Handrail server."""


_CLASSES: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def invalid(field: str, code: str, message: str) -> InvalidArgument:
    """Refuse an argument before it is sent."""
    text = f"{field}: {message}"
    return InvalidArgument(
        text, violations=[Violation(field=field, code=code, message=message)], reason="BAD_CALL"
    )


def of_rpc(error: grpc.aio.AioRpcError, address: str) -> ClientError:
    """Return the typed error for what a call to a server raised."""
    code, message = error.code(), error.details() or ""
    info, violations = error_details_pb2.ErrorInfo(), list[Violation]()
    for detail in _details(error.trailing_metadata()):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations += [
                Violation(field=v.field, code=v.reason.lower(), message=v.description)
                for v in bad.field_violations
            ]
    if not info.domain:  # the answer is not from a gateway
        message = _explain(code, message, address)
    kind = _CLASSES.get(code, Internal)
    if kind is InvalidArgument:
        return InvalidArgument(message, violations=violations, reason=info.reason, metadata=info.metadata)
    return kind(message, code=code, reason=info.reason, metadata=info.metadata)


def _details(metadata: Iterable[Any] | None) -> Iterable[AnyMessage]:
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                yield from status_pb2.Status.FromString(value).details


def _explain(code: grpc.StatusCode, message: str, address: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no Handrail server can be reached at {address} ({message}); start one with `handrail up`"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{address} did not answer in time; it may have carried the request out"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"what listens at {address} is no Handrail server, or one of another version ({message})"
    return f"{address}: {message or code.name}"
