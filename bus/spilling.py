"""Moving large values out of what becomes one event, into the blob stream of its run."""

from __future__ import annotations

from collections.abc import Iterable

from core import values
from core.ports import Log, RunKey
from handrail.v1 import plan_pb2

MAX_EVENT_INLINE_BYTES = 4 * values.MAX_INLINE_BYTES


async def spill(log: Log, key: RunKey, found: Iterable[plan_pb2.Value]) -> None:
    """Leave the small ones inline, as many as an event has room for, and put the others into blobs."""
    inline_bytes = 0
    for value in sorted(found, key=lambda value: len(value.json)):
        content = value.json.encode()
        inline_bytes += len(content)
        if len(content) > values.MAX_INLINE_BYTES or inline_bytes > MAX_EVENT_INLINE_BYTES:
            value.blob.CopyFrom(await log.put_blob(key, content))
