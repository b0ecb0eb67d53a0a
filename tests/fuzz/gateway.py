"""gRPC: whatever comes with a call, the answer is a status that says why, and the gateway lives."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from handrail.issuer import Tokens
from handrail.tokens import LocalKeys
from handrail.v1 import (
    auth_service_pb2,
    event_pb2,
    gate_service_pb2,
    plan_pb2,
    run_service_pb2,
    tool_service_pb2,
)
from tests.fuzz.campaign import Campaign, Trial
from tests.fuzz.mutate import TEXTS, Mutator, decoded
from tests.integration.gateway_stage import Stage, staged

ANSWER_S = 5.0
"""Within which every call is answered that does not ask to wait."""
STREAM_S = 0.15
LOOK_EVERY = 50
_FILES = (run_service_pb2, gate_service_pb2, tool_service_pb2, auth_service_pb2)
METHODS = tuple(
    method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
DEFECTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED)


class Call(NamedTuple):
    """A call as it goes out."""

    method: int
    data: bytes
    metadata: tuple[tuple[str, Any], ...]


def _requests(run: str, gate: str) -> dict[str, Message]:
    """Return a good request for each kind that has fields."""
    step = plan_pb2.Step(
        id="look", tool="get_order", arguments={"order_id": plan_pb2.Argument(reference="$goal.id")}
    )
    goal = event_pb2.Goal(
        text="look at it", context=plan_pb2.Value(json='{"id": 7}'), plan=plan_pb2.Plan(steps=[step])
    )
    goal.deadline.FromSeconds(4_000_000_000)
    made: tuple[Message, ...] = (
        run_service_pb2.SubmitGoalRequest(goal=goal, request_id="one"),
        run_service_pb2.GetRunRequest(run=run),
        run_service_pb2.ListRunsRequest(page_size=3),
        run_service_pb2.WatchRunRequest(run=run, after="1", until_now=True),
        run_service_pb2.CancelRunRequest(run=run, reason="enough"),
        run_service_pb2.PauseRunRequest(run=run, reason="wait"),
        run_service_pb2.ResumeRunRequest(run=run),
        run_service_pb2.UndoRunRequest(run=run, step="look", reason="no"),
        gate_service_pb2.ListGatesRequest(page_size=2),
        gate_service_pb2.GetGateRequest(gate=gate),
        gate_service_pb2.GetGateValueRequest(gate=gate),
        gate_service_pb2.DecideGateRequest(gate=gate, reason="as I see it", binding="ab"),
        tool_service_pb2.ListToolsRequest(page_size=2),
        tool_service_pb2.GetToolRequest(name="get_order"),
    )
    return {one.DESCRIPTOR.full_name: one for one in made}


class _Caller:
    """Speaks to a gateway, and looks now and then whether it is well."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stage: Stage, token: str) -> None:
        self.loop = loop
        self.stage = stage
        self.token = token
        self.calls = 0
        goal = event_pb2.Goal(text="look at it")
        self.run = self.do(
            self.good("RunService/SubmitGoal", run_service_pb2.SubmitGoalRequest(goal=goal))
        ).run
        self.requests = _requests(self.run, f"{self.run}/g1")

    def do(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    async def good(self, method: str, request: Message) -> Any:
        call = self.stage.channel.unary_unary(
            f"/handrail.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=run_service_pb2.SubmitGoalResponse.FromString,
        )
        return await call(request, timeout=ANSWER_S, metadata=(("authorization", f"Bearer {self.token}"),))

    def make(self, m: Mutator) -> Call:
        at = m.chance.randrange(len(METHODS))
        kind = METHODS[at].input_type
        request = self.requests.get(kind.full_name) or GetMessageClass(kind)()
        data = m.encoded(request) if m.maybe(0.9) else m.chance.randbytes(m.of((0, 3, 300)))
        return Call(at, data, self._metadata(m))

    def _metadata(self, m: Mutator) -> tuple[tuple[str, Any], ...]:
        found: list[tuple[str, Any]] = []
        if m.maybe(0.85):
            found.append(("authorization", f"Bearer {self.token}"))
        else:
            said = m.of((m.text(f"Bearer {self.token}"), m.text("Bearer x"), "x" * m.of((10, 3_000))))
            found += [("authorization", _ascii(said))] * m.of((1, 1, 2))
        if m.maybe(0.2):
            found.append(
                ("traceparent", _ascii(m.text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")))
            )
        if m.maybe(0.1):
            found.append(("x-bin", m.chance.randbytes(m.of((0, 9, 900)))))
            found.append(("x-any", _ascii(m.of(TEXTS))))
        return tuple(found)

    def check(self, call: Call) -> None:
        self.do(self._check(call))

    async def _check(self, call: Call) -> None:
        method = METHODS[call.method]
        path = f"/{method.containing_service.full_name}/{method.name}"
        waits = method.server_streaming or _asks_to_wait(method.input_type, call.data)
        try:
            if method.server_streaming:
                stream = self.stage.channel.unary_stream(path)(
                    call.data, timeout=STREAM_S, metadata=call.metadata
                )
                async for _ in stream:
                    pass
            else:
                timeout_s = STREAM_S if waits else ANSWER_S
                await self.stage.channel.unary_unary(path)(
                    call.data, timeout=timeout_s, metadata=call.metadata
                )
        except grpc.aio.AioRpcError as error:
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and not waits
            if late or error.code() in DEFECTS:
                raise
        self.calls += 1
        if self.calls % LOOK_EVERY == 0:
            await self._look()

    async def _look(self) -> None:
        """See that it is well and takes a goal."""
        asked = self.stage.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await asked(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        goal = event_pb2.Goal(text="look at it")
        submitted = await self.good("RunService/SubmitGoal", run_service_pb2.SubmitGoalRequest(goal=goal))
        assert submitted.run


def _ascii(text: str) -> str:
    # The client refuses anything else, before it goes out.
    return "".join(one for one in text if " " <= one <= "~").strip()


def _asks_to_wait(kind: Any, data: bytes) -> bool:
    request = decoded(GetMessageClass(kind), data)
    return request is not None and "wait" in kind.fields_by_name and request.HasField("wait")  # type: ignore[arg-type]


@contextmanager
def rpcs() -> Iterator[Trial]:
    """Every RPC, with wrong bytes, wrong fields, and wrong tokens."""
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        keys = LocalKeys(Path(name))
        keys.ensure()
        stage = staged(callers=Tokens(keys))
        held = loop.run_until_complete(stage.__aenter__())
        try:
            caller = _Caller(loop, held, keys.sign("ines", ["admin"]))
            yield Trial(caller.make, caller.check)
            caller.do(caller._look())
        finally:
            loop.run_until_complete(stage.__aexit__(None, None, None))
            loop.close()


CAMPAIGNS = (Campaign("rpcs", 2.0, rpcs),)
