"""The gRPC gateway: where goals come in, and where runs are seen and steered.

It serves `services`, health (whether the log can be read) and reflection, and feeds the listing. There is no
authentication yet, so it listens on the loopback interface only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from core.conformance import Limits
from core.errors import HandrailError
from core.policy import NoRules, Policy
from core.ports import Log, LogError
from handrail.v1 import gate_service_pb2_grpc, run_service_pb2_grpc, tool_pb2, tool_service_pb2_grpc
from orchestrator.gates import GateService
from orchestrator.projection import Projection
from orchestrator.rpc_errors import RETRY_S, Supervision
from orchestrator.runs import Runs
from orchestrator.services import RunService, ToolService
from orchestrator.submission import Submissions
from orchestrator.waits import Waits

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_CONCURRENT_RPCS = 1_000
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0
RUN_SERVICE = "handrail.v1.RunService"
GATE_SERVICE = "handrail.v1.GateService"
TOOL_SERVICE = "handrail.v1.ToolService"

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two gateways on one port would share its clients without a word
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for long
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_logger = structlog.get_logger(__name__)


class ListenError(HandrailError):
    """The gateway cannot listen there."""


class Gateway:
    """The server: the services, health, reflection, and the projection's feed."""

    def __init__(
        self,
        log: Log,
        *,
        contracts: Mapping[str, tool_pb2.ToolContract],
        limits: Limits,
        projection: Projection,
        policy: Policy | None = None,
        tenant: str = "default",
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._log = log
        self._projection = projection
        writer = f"gateway/{entropy(4).hex()}"
        submissions = Submissions(
            log,
            contracts=contracts,
            limits=limits,
            tenant=tenant,
            writer=writer,
            clock=clock,
            entropy=entropy,
        )
        self._waits = Waits()
        runs = Runs(log, tenant=tenant, writer=writer, entropy=entropy)
        self._runs = RunService(runs, submissions, projection, self._waits)
        self._gates = GateService(runs, projection, policy or NoRules(), clock=clock)
        self._tools = ToolService(contracts)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving: bool | None = None
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[NoReturn]] = []

    async def start(self, listen: str) -> str:
        """Listen on a loopback address ("127.0.0.1:0": any free port) and return the one that it became."""
        host = loopback_host(listen)
        server = grpc.aio.server(
            interceptors=[Supervision()], options=_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS
        )
        run_service_pb2_grpc.add_RunServiceServicer_to_server(self._runs, server)
        gate_service_pb2_grpc.add_GateServiceServicer_to_server(self._gates, server)
        tool_service_pb2_grpc.add_ToolServiceServicer_to_server(self._tools, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (RUN_SERVICE, GATE_SERVICE, TOOL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            text = f"cannot listen on {listen}: {error}; is the port in use? port 0 takes a free one"
            raise ListenError(text) from None
        await self._health.set(TOOL_SERVICE, _SERVING)
        await self._probe()
        await server.start()
        self._server = server
        self._tasks = [
            asyncio.create_task(_supervise("gateway.projection", self._feed)),
            asyncio.create_task(_supervise("gateway.probe", self._probe_regularly)),
        ]
        return f"{host}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Refuse what is new, end the watches, give the rest a grace, and let go of the projection."""
        await self._health.enter_graceful_shutdown()
        self._runs.stop_watches()
        if self._server is not None:
            await self._server.stop(grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._projection.close()

    async def _feed(self) -> NoReturn:
        await self._projection.feed(self._log, self._waits.hear)

    async def _probe_regularly(self) -> NoReturn:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            await self._probe()

    async def _probe(self) -> None:
        """Say whether the log can be read; what does not need it goes on serving."""
        serving, why = True, ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await asyncio.gather(*(self._log.get(shard, 1) for shard in self._log.shards))
        except (LogError, TimeoutError) as error:
            serving, why = False, str(error) or f"no answer in {PROBE_TIMEOUT_S} s"
        if serving != self._serving:
            _logger.info("gateway.health", serving=serving, why=why)
            self._serving = serving
            for name in ("", RUN_SERVICE, GATE_SERVICE):
                await self._health.set(name, _SERVING if serving else _NOT_SERVING)


def loopback_host(listen: str) -> str:
    """Return the host of an address, and raise unless it is of this machine only."""
    host, _, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65_535:
        raise ListenError(f"cannot listen on {listen!r}: give an address and a port, such as 127.0.0.1:0")
    if bare == "localhost":
        return host
    try:
        local = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ListenError(
            f"will not listen on {listen!r}: there is no authentication yet, so only this machine may "
            "connect; use 127.0.0.1 or [::1] and bring remote clients in through a tunnel"
        )
    return host


async def _supervise(name: str, work: Callable[[], Awaitable[NoReturn]]) -> NoReturn:
    """Do the gateway's background work for ever, whatever goes wrong with it."""
    while True:
        try:
            await work()
        except Exception:
            _logger.exception(name)
        await asyncio.sleep(RETRY_S)
