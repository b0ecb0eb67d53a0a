"""The gRPC gateway: where goals come in, and where runs are seen and steered.

It serves `services`, health (whether the log can be read) and reflection, and feeds the listing. Where other
machines can reach it, it listens with TLS only, and to those only whose tokens it can check.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from core.conformance import Limits
from core.errors import HandrailError
from core.policy import NoRules, Policy
from core.ports import Log, LogError
from handrail.v1 import (
    audit_service_pb2_grpc,
    auth_service_pb2_grpc,
    gate_service_pb2_grpc,
    run_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2_grpc,
)
from orchestrator.audit import AuditService
from orchestrator.auth import AuthService
from orchestrator.book import Shelf
from orchestrator.callers import Callers
from orchestrator.gates import GateService
from orchestrator.projection import Projection
from orchestrator.rpc_errors import RETRY_S
from orchestrator.runs import Runs
from orchestrator.services import RunService, ToolService
from orchestrator.submission import Submissions
from orchestrator.supervision import Supervision
from orchestrator.waits import Waits

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_CONCURRENT_RPCS = 1_000
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0
RUN_SERVICE = "handrail.v1.RunService"
GATE_SERVICE = "handrail.v1.GateService"
TOOL_SERVICE = "handrail.v1.ToolService"
AUTH_SERVICE = "handrail.v1.AuthService"
AUDIT_SERVICE = "handrail.v1.AuditService"

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


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server proves itself with, in PEM; `clients` is the authority that clients must come from."""

    certificate: bytes
    key: bytes
    clients: bytes = b""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a gateway listens: for this machine, and for others ("" where it does not)."""

    local: str
    public: str = ""


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
        callers: Callers | None = None,
        tenants: Sequence[str] = (),
        shelf: Shelf | None = None,
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
            writer=writer,
            clock=clock,
            entropy=entropy,
        )
        self._waits = Waits()
        self._callers, self._tenants = callers, tenants
        runs = Runs(log, writer=writer, entropy=entropy)
        self._runs = RunService(runs, submissions, projection, self._waits)
        self._gates = GateService(runs, projection, policy or NoRules(), clock=clock)
        self._tools = ToolService(contracts)
        self._audit = AuditService(runs, shelf)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving: bool | None = None
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[NoReturn]] = []

    async def start(self, listen: str, *, tls: Tls | None = None, local: str = "127.0.0.1:0") -> Addresses:
        """Listen on an address ("127.0.0.1:0": any free port) and return which it became.

        With TLS, which it needs where other machines can connect, it listens on a `local` one without too.
        """
        public, local = ("", listen) if tls is None and is_loopback(listen) else (listen, local)
        if public and (tls is None or self._callers is None):
            raise ListenError(
                f"will not listen on {listen!r} without TLS, since other machines can connect: give it a "
                "[tls] certificate and key, or listen on 127.0.0.1 or [::1]"
            )
        server = grpc.aio.server(
            interceptors=[Supervision(self._callers, self._tenants)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        )
        run_service_pb2_grpc.add_RunServiceServicer_to_server(self._runs, server)
        gate_service_pb2_grpc.add_GateServiceServicer_to_server(self._gates, server)
        tool_service_pb2_grpc.add_ToolServiceServicer_to_server(self._tools, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(), server)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(self._audit, server)
        names = (
            RUN_SERVICE,
            GATE_SERVICE,
            TOOL_SERVICE,
            AUTH_SERVICE,
            AUDIT_SERVICE,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, server)
        addresses = Addresses(_bind(server, local, None), _bind(server, public, tls) if public else "")
        await self._health.set(TOOL_SERVICE, _SERVING)
        await self._probe()
        await server.start()
        self._server = server
        self._tasks = [
            asyncio.create_task(_supervise("gateway.projection", self._feed)),
            asyncio.create_task(_supervise("gateway.probe", self._probe_regularly)),
        ]
        return addresses

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
                # What nobody has written: it is asked of each leader, and takes no run's key.
                await asyncio.gather(*(self._log.last(shard, f"ev.{shard}") for shard in self._log.shards))
        except (LogError, TimeoutError) as error:
            serving, why = False, str(error) or f"no answer in {PROBE_TIMEOUT_S} s"
        if serving != self._serving:
            _logger.info("gateway.health", serving=serving, why=why)
            self._serving = serving
            for name in ("", RUN_SERVICE, GATE_SERVICE, AUDIT_SERVICE):
                await self._health.set(name, _SERVING if serving else _NOT_SERVING)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach an address; raises ListenError where it is none."""
    host, _, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not port.isdecimal() or int(port) > 65_535:
        raise ListenError(f"cannot listen on {listen!r}: give an address and a port, such as 127.0.0.1:0")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _bind(server: grpc.aio.Server, listen: str, tls: Tls | None) -> str:
    """Listen on an address and return which it became."""
    try:
        if tls is None:
            port = server.add_insecure_port(listen)
        else:
            credentials = grpc.ssl_server_credentials(
                [(tls.key, tls.certificate)], tls.clients or None, require_client_auth=bool(tls.clients)
            )
            port = server.add_secure_port(listen, credentials)
    except (RuntimeError, ValueError) as error:
        text = f"cannot listen on {listen}: {error}; is the port in use? port 0 takes a free one"
        text += "; are the [tls] files PEM, and the key the certificate's?" if tls is not None else ""
        raise ListenError(text) from None
    return f"{listen.rpartition(':')[0]}:{port}"


async def _supervise(name: str, work: Callable[[], Awaitable[NoReturn]]) -> NoReturn:
    """Do the gateway's background work for ever, whatever goes wrong with it."""
    while True:
        try:
            await work()
        except Exception:
            _logger.exception(name)
        await asyncio.sleep(RETRY_S)
