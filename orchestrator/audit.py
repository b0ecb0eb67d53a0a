"""What the gateway answers to those who look back: an account of a run, and the proof of what happened in it.

The account is told from the log; the export is read from the notary's copy, which lies beside the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

import grpc

from bus import subjects
from core import exported
from core.account import account
from core.errors import HandrailError
from core.ports import Record, RunForgotten, RunKey
from handrail.v1 import audit_service_pb2, audit_service_pb2_grpc
from observability import ids
from orchestrator.book import Shelf, parts_of
from orchestrator.key_copy import key_in
from orchestrator.rpc_errors import RETRY_S, Refusal
from orchestrator.runs import Runs, no_run

PART_CHARS = 256 * 1024
"""Of an account, in one message."""
MAX_EXPORTS = 2
"""That are read at a time: each reads all that its shard has of the copy."""
LINES_AT_ONCE = 100


class AuditService(audit_service_pb2_grpc.AuditServiceServicer):
    """Tells of runs, and proves it."""

    def __init__(self, runs: Runs, shelf: Shelf | None) -> None:
        """Without a shelf nothing can be proved."""
        self._runs = runs
        self._shelf = shelf
        self._exports = 0

    async def ShowRun(
        self, request: audit_service_pb2.ShowRunRequest, context: Any
    ) -> AsyncIterator[audit_service_pb2.ShowRunResponse]:
        """Send the account of a run, part by part."""
        key = self._runs.key(request.run)
        records = await self._runs.records(key)
        if not records:
            raise no_run(key)
        text = await asyncio.to_thread(_told, key, records)
        for begin in range(0, len(text), PART_CHARS):
            yield audit_service_pb2.ShowRunResponse(json=text[begin : begin + PART_CHARS])

    async def ExportRun(
        self, request: audit_service_pb2.ExportRunRequest, context: Any
    ) -> AsyncIterator[audit_service_pb2.ExportRunResponse]:
        """Send what the notary has signed for of a run, line by line."""
        key = self._runs.key(request.run)
        if await self._runs.log.last(key.shard, subjects.run_filter(key)) is None:
            raise no_run(key)
        if self._shelf is None or not self._shelf.place.is_dir():
            message = "this gateway has no notary's directory: export on the machine that has the notary's"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NO_NOTARY", message)
        with self._reading():
            lines = _lines(self._shelf, key, readable=await self._readable(key))
            while batch := await asyncio.to_thread(_next, lines):
                for line in batch:
                    yield audit_service_pb2.ExportRunResponse(line=line)

    async def _readable(self, key: RunKey) -> bool:
        """Whether a run was not forgotten, which the notary may have yet to read of."""
        try:
            await self._runs.log.key_of(key)
        except RunForgotten:
            return False
        return True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        if self._exports >= MAX_EXPORTS:
            message = (
                f"{MAX_EXPORTS} exports are being made, which is as many as there may be; try again later"
            )
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise Refusal(code, "TOO_MANY_EXPORTS", message, retry_s=RETRY_S)
        self._exports += 1
        try:
            yield
        finally:
            self._exports -= 1


def _told(key: RunKey, records: list[Record]) -> str:
    found = account(key, records, trace_id=lambda traceparent: ids.of_run(key, traceparent).trace_id)
    # In ASCII: a value may hold half a character, which no message can.
    return json.dumps(found, ensure_ascii=True, separators=(",", ":"))


def _lines(shelf: Shelf, key: RunKey, *, readable: bool) -> Iterator[str]:
    parts = list(parts_of(shelf.place, key, shelf.checker))
    if not parts:
        message = (
            f"the notary has signed for nothing of run {key.run} yet: it does within a second, ask again"
        )
        code = grpc.StatusCode.FAILED_PRECONDITION
        raise Refusal(code, "NOT_SIGNED", message, retry_s=RETRY_S)
    cipher_key = key_in(shelf.place / subjects.ev_stream(key.shard), key) if readable else b""
    yield from exported.lines(key.run, key.tenant, parts, shelf.public_key, cipher_key)


def _next(lines: Iterator[str]) -> list[str]:
    """Read the next lines, in a thread of their own."""
    try:
        return list(islice(lines, LINES_AT_ONCE))
    except Refusal:
        raise
    except (HandrailError, OSError) as error:
        message = f"the notary's copy cannot be read, `handrail audit verify --all` says why: {error}"
        raise Refusal(grpc.StatusCode.DATA_LOSS, "BAD_BOOK", message) from None
