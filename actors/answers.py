"""What every mind writes: answers on its own channel of the run's log, and reads of large values."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from actors.agent import Answer
from core import failures, run, values
from core.ports import Address, Log, Record, RunKey
from handrail.release import release
from handrail.v1 import event_pb2, plan_pb2


def answer(
    record: Record,
    topic: tuple[str, str, str, str],
    arm: str,
    body: event_pb2.PlanAnswer | event_pb2.Proposal | event_pb2.Verdict,
    instance: str,
) -> Answer:
    """Put an answer where its kind is written: role, pool, kind, attempt."""
    event = event_pb2.Event(
        id=uuid.uuid4().hex, version=run.VERSION, writer=f"{topic[0]}/{instance}", handrail=release()
    )
    getattr(event, arm).CopyFrom(body)
    return Answer(Address(record.address.key, "ans", topic), event)


def poisoned(record: Record) -> event_pb2.Failure:
    """Say that nobody could handle a record."""
    what = record.event.WhichOneof("body") if record.event is not None else "event"
    message = f"the {what} at sequence {record.sequence} could not be handled, again and again"
    return failures.permanent(failures.POISONED, message)


async def load(log: Log, key: RunKey, found: Iterable[plan_pb2.Value]) -> Mapping[str, str]:
    """Return the large ones among some values, by digest."""
    blobs = [value.blob for value in found if value.HasField("blob")]
    return {blob.sha256: (await log.get_blob(key, blob)).decode() for blob in blobs}


async def load_all(log: Log, key: RunKey, named: Mapping[str, plan_pb2.Value]) -> dict[str, Any]:
    """Return named values as Python objects."""
    contents = await load(log, key, named.values())
    return {name: values.load(value, contents) for name, value in named.items()}
