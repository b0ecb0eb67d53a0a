"""Those who decide at gates and undo runs, while everything else is killed.

They look at the log for when their turn comes, and say what they have to say over gRPC until it is answered.
What a doubt is about they look up in the world: what is there has happened, and what has a key may be done
again. What has none is left alone where it is not there: whoever claimed it may still wake up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from core.view import gate_id
from handrail.errors import ClientError, DeadlineExceeded, Unavailable
from handrail.v1 import event_pb2, run_service_pb2
from tests.chaos.history import Asked, Row
from tests.chaos.world import KEYED

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

TURN_TIMEOUT_S = 120.0
RPC_TIMEOUT_S = 10.0
RETRY_S = 0.1
AGAIN = (Unavailable, DeadlineExceeded)
ADA, BOB, INES = "ada", "bob", "ines"

_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class People:
    """Everybody who has a say in one run."""

    def __init__(self, stage: Stage, asked: Asked) -> None:
        self._stage, self._asked = stage, asked

    # --- what they do, by course -----------------------------------------------------------------------

    async def approve(self) -> None:
        """Let what waits pass."""
        await self._decide(await self._gate(1), ADA)

    async def deny(self) -> None:
        """Do not."""
        await self._decide(await self._gate(1), ADA, approve=False)

    async def approve_both(self) -> None:
        """Two decide at once."""
        gate = await self._gate(1)
        await asyncio.gather(self._decide(gate, ADA), self._decide(gate, BOB))

    async def approve_and_cancel(self) -> None:
        """One approves while the other cancels."""
        gate = await self._gate(1)
        await asyncio.gather(self._decide(gate, ADA), self._cancel())

    async def undo(self) -> None:
        """Undo the run when it has ended."""
        await self._said(1, "finished")
        await self._undo()
        await self._attend()

    async def undo_twice(self) -> None:
        """Two undo it at once."""
        await self._said(1, "finished")
        await asyncio.gather(self._undo(), self._undo())
        await self._attend()

    async def undo_and_cancel(self) -> None:
        """Stop the undo in the middle."""
        await self._said(1, "finished")
        await self._undo()
        await self._wait("a compensation", lambda: [r for r in self._rows("intent") if _is_undo(r.attempt)])
        await self._cancel()
        await self._attend()

    async def approve_and_undo(self) -> None:
        """Approve what is done, and then that it is undone, while somebody else stops that."""
        await self._decide(await self._gate(1), ADA)
        await self._said(1, "finished")
        await self._undo()
        gate = await self._gate(2)
        await asyncio.gather(self._decide(gate, BOB), self._cancel())
        await self._attend()

    async def look_on(self) -> None:
        """Only see to it that the undo which the goal wants ends."""
        await self._said(1, "finished")

    # --- how -------------------------------------------------------------------------------------------

    def _rows(self, *kinds: str) -> list[Row]:
        return self._stage.tap.of(self._asked.run, *kinds)

    async def _wait(self, what: str, found: Callable[[], list[Row]]) -> list[Row]:
        tap = self._stage.tap
        return list(await tap.wait_for(f"{what} of {self._asked.ref}", found, TURN_TIMEOUT_S))

    async def _said(self, count: int, kind: str) -> Row:
        """Wait until something was said so often, and return the last of it."""
        rows = await self._wait(kind, lambda: self._rows(kind) if len(self._rows(kind)) >= count else [])
        return rows[count - 1]

    async def _gate(self, count: int) -> str:
        return str((await self._said(count, "gate_opened")).body.gate)

    async def _attend(self) -> None:
        """See an undo through: settle its doubts, until it has ended."""
        seen: set[str] = set()

        def turn() -> list[Row]:
            doubts = [row for row in self._rows("gate_opened") if row.body.kind == event_pb2.GATE_KIND_DOUBT]
            return [row for row in doubts if row.body.gate not in seen] or self._ends()

        while (row := (await self._wait("the end of the undo", turn))[0]).kind == "gate_opened":
            seen.add(row.body.gate)
            await self._settle(row)

    def _ends(self) -> list[Row]:
        """Return the ends of undos, once there is none that goes on."""
        ends, asks = self._rows("undo_ended"), self._rows("undo_planned")
        return ends if len(ends) >= len(asks) > 0 else []

    async def _settle(self, row: Row) -> None:
        item, client = row.body.items[0], self._stage.client
        ref, gate = json.loads(item.arguments["ref"].json), gate_id(self._asked.run, row.body.gate)
        there = any(effect.tool == item.tool for effect in self._stage.world.effects_of(ref))
        if not there and item.tool not in KEYED:
            await self._persist(lambda: client.decide(gate, approve=False, approver=ADA))
            return
        output = {"ref": ref, "number": 1} if there else None
        await self._persist(lambda: client.settle(gate, happened=there, approver=ADA, output=output))

    async def _decide(self, gate: str, who: str, *, approve: bool = True) -> None:
        name = gate_id(self._asked.run, gate)
        await self._persist(lambda: self._stage.client.decide(name, approve=approve, approver=who))

    async def _cancel(self) -> None:
        await self._persist(lambda: self._stage.client.cancel(self._asked.run))

    @staticmethod
    async def _persist(call: Callable[[], Awaitable[object]]) -> None:
        """Say something until it is answered; what has been settled meanwhile needs no word."""
        while True:
            try:
                await call()
                return
            except AGAIN:
                continue
            except ClientError:
                return

    async def _undo(self) -> None:
        request = run_service_pb2.UndoRunRequest(run=self._asked.run, submitter=INES)
        await persist(lambda: self._stage.runs.UndoRun(request, timeout=RPC_TIMEOUT_S))


async def persist(call: Callable[[], Awaitable[object]]) -> object:
    """Call over gRPC until there is an answer."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in _LOST:
                raise
        await asyncio.sleep(RETRY_S)


def _is_undo(attempt: str) -> bool:
    return attempt.startswith("undo-")
