"""Runs as the gateway's services name, read and steer them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from bus import subjects
from core.ports import Address, Log, Record, RunKey
from core.run import fold
from core.state import ENDED, RunState
from handrail.v1 import event_pb2
from handrail.v1.event_pb2 import RunStatus
from orchestrator.callers import caller, written
from orchestrator.rpc_errors import Refusal, invalid_field, not_found

MAX_FOLDED_INLINE = 500


class Runs:
    """The runs of whoever calls: those of their tenant, and to them there are no others."""

    def __init__(self, log: Log, *, writer: str, entropy: Callable[[int], bytes]) -> None:
        self.log = log
        self._writer = writer
        self._entropy = entropy

    @property
    def tenant(self) -> str:
        """Whose runs these are, for this call."""
        return caller().tenant

    def key(self, run: str, field: str = "run") -> RunKey:
        """Return where a run lives."""
        if subjects.RUN_ID.fullmatch(run) is None:
            message = f"{run[:80]!a} is not a run id; they look like r0-01k9x3..."
            raise invalid_field("BAD_RUN_ID", field, "bad_run_id", message)
        key = subjects.run_key(run, self.tenant)
        if key.shard not in self.log.shards:
            raise no_run(key)
        return key

    async def records(self, key: RunKey) -> list[Record]:
        """Read a run's log, with what says that it was forgotten where that happens just now."""
        records = await self.log.read(key)
        if any(record.forgotten for record in records) and not any(map(_says_forgotten, records)):
            # It was said before the key was deleted, without which this could not be read.
            records = await self.log.read(key)
        return records

    async def state(self, key: RunKey) -> RunState:
        """Fold a run's log."""
        records = await self.records(key)
        if len(records) > MAX_FOLDED_INLINE:
            state = await asyncio.to_thread(fold, key, records)
        else:
            state = fold(key, records)
        if state.submit is None and state.forgotten is None and not state.unreadable:
            raise no_run(key)
        return state

    async def command(self, state: RunState, event: event_pb2.Event) -> None:
        """Append a command to a run that has not ended; to one that has, to undo or to forget it."""
        arm = str(event.WhichOneof("body"))
        if state.status in ENDED and arm not in ("undo", "forget"):
            word = RunStatus.Name(state.status).removeprefix("RUN_STATUS_").lower()
            message = f"run {state.key.run} has ended ({word}), so it cannot be asked to {arm}"
            metadata = {"status": RunStatus.Name(state.status)}
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "RUN_ENDED", message, metadata=metadata)
        written(event, id=self._entropy(16).hex(), writer=self._writer)
        await self.log.append(Address(state.key, "cmd", (arm,)), event)


def no_run(key: RunKey) -> Refusal:
    """Say that there is no such run."""
    return not_found("RUN_NOT_FOUND", f"there is no run {key.run}")


def _says_forgotten(record: Record) -> bool:
    return record.event is not None and record.event.HasField("forgotten")
