"""A gateway over the log's twin, with tools that no one carries out, and hands to write what others would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
from google.rpc import error_details_pb2, status_pb2
from pydantic import Field

from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from core.conformance import Limits
from core.contracts import to_proto
from core.policy import Policy
from core.ports import Address, RunKey
from core.run import VERSION
from handrail import tool as tools
from handrail.v1 import event_pb2, run_service_pb2_grpc, tool_service_pb2_grpc
from orchestrator.book import Shelf
from orchestrator.callers import Callers
from orchestrator.gateway import Gateway
from orchestrator.projection import Projection

TENANT = "default"
POLL_S = 0.01
ARRIVES_S = 2.0
"""The deadline of a call that is to run out: long enough for what it asks to have begun by then."""


@tools.tool(effect="read")
def get_order(order_id: Annotated[int, Field(ge=1)]) -> dict[str, int]:
    """Look an order up."""
    return {"id": order_id, "total": 100}


@tools.tool(effect="write", idempotency="keyed", key="key")
def refund_order(order_id: int, amount: Annotated[int, Field(ge=1)], key: str) -> dict[str, int]:
    """Pay money back."""
    return {"refund": amount}


@tools.tool(effect="write", idempotency="keyed", key="key")
def refund_letter(to: str, text: str, key: str) -> bool:
    """Write to somebody whose money was paid back."""
    return True


CONTRACTS = {
    tool.contract.name: to_proto(tool.contract.model_copy(update={"toolbox": "shop"}))
    for tool in (
        get_order.__handrail_tool__,  # type: ignore[attr-defined]
        refund_order.__handrail_tool__,  # type: ignore[attr-defined]
        refund_letter.__handrail_tool__,  # type: ignore[attr-defined]
    )
}


@dataclass
class Stage:
    """What a test holds: the gateway's address and stubs, and the log beneath."""

    address: str
    channel: grpc.aio.Channel
    runs: run_service_pb2_grpc.RunServiceStub
    tools: tool_service_pb2_grpc.ToolServiceStub
    log: MemoryLog
    broker: MemoryBroker
    gateway: Gateway

    def events(self) -> int:
        """How many events all runs have together."""
        return sum(len(self.broker.stream(f"EV_{shard}").messages) for shard in self.log.shards)

    def cells(self) -> int:
        """How many request cells are written."""
        return len(self.broker.stream("REQ").messages)

    def key(self, run: str) -> RunKey:
        """Where a run lives."""
        return subjects.run_key(run, TENANT)

    async def note(self, run: str, kind: str, body: object) -> int:
        """Write a note as the decider would."""
        event = event_pb2.Event(id=f"{kind}-{self.events()}", version=VERSION, writer="decider/test")
        getattr(event, kind).CopyFrom(body)
        return await self.log.append(Address(self.key(run), "dec", ("note", kind)), event)

    async def finish(self, run: str, status: int = event_pb2.RUN_STATUS_DONE) -> int:
        """End a run."""
        return await self.note(run, "finished", event_pb2.Finished(status=status))  # type: ignore[arg-type]


@asynccontextmanager
async def staged(
    broker: MemoryBroker | None = None,
    *,
    log: MemoryLog | None = None,
    path: Path | str = ":memory:",
    listen: str = "127.0.0.1:0",
    shards: tuple[int, ...] = (0, 1),
    policy: Policy | None = None,
    callers: Callers | None = None,
    shelf: Shelf | None = None,
) -> AsyncIterator[Stage]:
    """Start a gateway and connect to it."""
    broker = broker or MemoryBroker()
    log = log or MemoryLog(broker, shards)
    gateway = Gateway(
        log,
        contracts=CONTRACTS,
        limits=Limits(proposers=True),
        projection=Projection(path),
        policy=policy,
        callers=callers,
        shelf=shelf,
    )
    address = (await gateway.start(listen)).local
    channel = grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    runs = run_service_pb2_grpc.RunServiceStub(channel)
    stubs = tool_service_pb2_grpc.ToolServiceStub(channel)
    try:
        yield Stage(address, channel, runs, stubs, log, broker, gateway)
    finally:
        await channel.close(None)
        await gateway.stop(0.2)


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, dict[str, str]]:
    """Return the ErrorInfo, and the violations as field to (first) reason."""
    info, fields = error_details_pb2.ErrorInfo(), dict[str, str]()
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            for violation in bad.field_violations:
                fields.setdefault(violation.field, violation.reason)
    return info, fields


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until something holds; a pause of this process costs one look, and not the rest of them."""
    for _ in range(int(timeout_s / POLL_S)):
        if condition():
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"it does not hold after {timeout_s:g} s")
