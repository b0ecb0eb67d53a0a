"""What the broker answers, read: errors by their codes, statuses, and where a delivered message stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from core.ports import FenceLost, LogError, LogFull, LogUnavailable

MAX_JSON_BYTES = 4 * 1024 * 1024
TRACE_HEADER = "traceparent"
"""The header in which a trace context travels beside an event."""

STREAM_NOT_FOUND = 10059
MESSAGE_NOT_FOUND = 10037
CONSUMER_NOT_FOUND = 10014
SEQUENCE_NOT_FOUND = 10043
_FENCE_LOST = frozenset({10071, 10164})
_NO_ROOM = frozenset({10002, 10023, 10028, 10047, 10122})
_STORE_FAILED = 10077


class ApiError(LogError):
    """The broker refused an API request; `code` is its own error code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Position:
    """Where a delivered message stands, from its reply subject; `home` is its stream and consumer."""

    home: str
    sequence: int
    consumer_sequence: int
    deliveries: int
    time_ns: int


def position(reply: str) -> Position | None:
    """Read an ack subject, of the old layout or of the new one (with domain and account hash)."""
    parts = reply.split(".")
    if parts[:2] != ["$JS", "ACK"] or len(parts) < 9:
        return None
    at = 4 if len(parts) == 9 else 6
    try:
        deliveries, sequence, consumer_sequence, time_ns = (int(part) for part in parts[at : at + 4])
    except ValueError:
        return None
    return Position(".".join(parts[at - 2 : at]), sequence, consumer_sequence, deliveries, time_ns)


def status(message: Msg) -> str:
    """Return the status of a message from the broker itself, or ""."""
    return str(message.headers.get("Status", "")) if message.headers and not message.reply else ""


def trace_of(message: Msg) -> str:
    """Return the trace context beside a stored message, or ""."""
    return str(message.headers.get(TRACE_HEADER, "")) if message.headers else ""


def trace_in(headers: bytes) -> str:
    """Return the trace context in the headers of a stored message as they are on the wire, or ""."""
    return parse_headers(headers).get(TRACE_HEADER, "")


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return headers as they are on the wire, for everybody the same: of two with one name the last."""
    lines = (line.partition(":") for line in raw.decode("utf-8", "replace").split("\r\n"))
    return {name: value.strip() for name, found, value in lines if found}


def parse_answer(message: Msg, subject: str) -> dict[str, Any]:
    """Return the body of an API answer, or raise its error."""
    if len(message.data) > MAX_JSON_BYTES:
        raise LogError(f"the answer on {subject} is over {MAX_JSON_BYTES} bytes: is this your broker?")
    try:
        body = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise LogError(f"the answer on {subject} is not JSON: is this your broker?") from error
    if not isinstance(body, dict):
        raise LogError(f"the answer on {subject} is not an object: is this your broker?")
    if "error" in body:
        raise _error(body["error"], subject)
    return body


def _error(error: Any, subject: str) -> LogError:
    fields = error if isinstance(error, dict) else {}
    code = int(fields.get("err_code") or 0)
    said = f"{fields.get('description') or 'no description'} ({code})"
    if code in _FENCE_LOST:
        return FenceLost(f"another writer came first on {subject}: {said}; read it and decide again")
    no_room = code in _NO_ROOM or (code == _STORE_FAILED and "maximum" in said)
    if no_room and "message size" not in said:
        return LogFull(f"the broker has no room for {subject}: {said}; free disk or raise the stream's limit")
    if fields.get("code") == 503:
        return LogUnavailable(f"the broker cannot serve {subject} now: {said}; try again")
    return ApiError(f"the broker refused {subject}: {said}", code)
