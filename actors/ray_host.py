"""Minds as detached, named Ray actors: Ray places and restarts them, and carries no message of theirs.

An actor's name is its slot's, so any later `RayHost` finds it. Every Ray error means "unknown: read the log".
A process that has lost its head cannot reach another: `HeadLost` asks it to end (by `os._exit`, since Ray's
own threads may hang) and its supervisor to start it anew.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import ray
import ray.util
import structlog
from ray.exceptions import RayError

from actors.agent import Agent
from actors.host import AgentFactory, HostStatus, Slot
from actors.pool import AgentSpec
from core.errors import HandrailError
from core.ports import Log
from observability import tracing

NAMESPACE = "handrail"
CONNECT_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 5.0
PROBE_INTERVAL_S = 0.25
PING_INTERVAL_S = 1.0
PING_TIMEOUT_S = 2.0
MAX_SILENT_PINGS = 3
MAX_SILENT_PINGS_AT_START = 20
RESTARTING = "The actor is restarting"
"""What Ray says of an actor that it is starting again."""
MAX_LOST_PROBES = 3
REPLACE_TIMEOUT_S = 10.0
REPLACE_INTERVAL_S = 0.1
MAX_CONTROL_CALLS = 8

# Ray raises errors of its own, and these builtins for the same.
_RAY_ERRORS = (RayError, ConnectionError, RuntimeError)
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class HeadLost(HandrailError):
    """Ray's head is gone, or was never there: this process must end and be started anew."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What an actor is made from: its slot, and its factory's import path ("package.module:function")."""

    spec: AgentSpec
    factory: str


class Mind:
    """The one Ray actor class: a slot in a process of its own. Ray runs the constructor at every restart."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._slot = Slot(placement.spec, _factory_at(placement.factory))
        self._running = asyncio.get_running_loop().create_task(self._slot.run())

    async def placement(self) -> Placement:
        """Return what it was made from."""
        return self._placement

    async def status(self) -> HostStatus:
        """Return what the slot says of itself."""
        return self._slot.status()

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in flight, within a time, and do no more."""
        await self._slot.drain(timeout_s)
        # What follows is a kill, and that loses what was not sent.
        await asyncio.to_thread(tracing.flush)


class RayHost:
    """Keeps the Ray actors of a set of slots. `factory` is an import path, see `Placement`."""

    def __init__(self, factory: str, *, python_path: Iterable[str] = (), namespace: str = NAMESPACE) -> None:
        self._factory = factory
        self._python_path = tuple(python_path)
        self._namespace = namespace
        self._address = ""
        self._specs: dict[str, AgentSpec] = {}
        # Pings without an answer, in a row; and who has not answered yet since it was started.
        self._silent: dict[str, int] = {}
        self._starting: set[str] = set()
        self._answered_s: dict[str, float] = {}
        self._silence: dict[str, str] = {}
        self._lost_probes = 0

    async def connect(self, address: str) -> None:
        """Connect to a head; its environment (`RayHead.env`) must be set before ray is imported."""
        self._address = address
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.to_thread(self._connect)
        except (TimeoutError, *_RAY_ERRORS) as error:
            raise self._lost(f"connecting failed: {error or 'no answer in time'}") from error

    async def ensure(self, specs: Sequence[AgentSpec]) -> None:
        """Have exactly these slots: create what is missing, replace what has changed, end what is surplus."""
        self._specs = {spec.name: spec for spec in specs}
        self._starting = set(self._specs)
        found = await self._call(asyncio.to_thread(self._list))
        await asyncio.gather(*(self._end(name, CALL_TIMEOUT_S) for name in set(found) - self._specs.keys()))
        await asyncio.gather(*(self._place(spec) for spec in specs))

    async def statuses(self) -> list[HostStatus]:
        """Return what every slot that answers in time says of itself."""
        answers = await asyncio.gather(*(self._ask(name, "status") for name in self._specs))
        return [answer for answer in answers if answer is not None]

    async def watch(self) -> None:
        """Ping every actor, recreate the dead and restart the silent; ends only by raising `HeadLost`."""
        # Apart: a call to an actor of a lost head may take many seconds to fail.
        tasks = [asyncio.create_task(work) for work in (self._probe(), self._tend_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, drain_s: float) -> None:
        """Drain every actor and end it; Ray goes on. Cancel the watch first: it would recreate them."""
        names, self._specs = list(self._specs), {}
        await asyncio.gather(*(self._end(name, drain_s) for name in names))

    def _connect(self) -> None:
        host = self._address.rpartition(":")[0]
        ray.init(
            address=self._address,
            namespace=self._namespace,
            _node_ip_address=host,
            log_to_driver=False,
            configure_logging=False,
        )

    def _list(self) -> list[str]:
        return cast("list[str]", ray.util.list_named_actors())

    def _get(self, name: str) -> Any:
        return ray.get_actor(name, namespace=self._namespace)

    def _create(self, spec: AgentSpec) -> Any:
        path = (spec.project_dir, *self._python_path, *os.environ.get("PYTHONPATH", "").split(os.pathsep))
        options = ray.remote(Mind).options(
            name=spec.name,
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=MAX_CONTROL_CALLS,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(part for part in path if part)}},
        )
        return options.remote(Placement(spec, self._factory))

    async def _place(self, spec: AgentSpec) -> None:
        """Create an actor, or find the one that is there and replace it where it was made otherwise."""
        deadline = asyncio.get_running_loop().time() + REPLACE_TIMEOUT_S
        while True:
            await self._call(asyncio.to_thread(self._create, spec))
            there = await self._ask(spec.name, "placement")
            if there == Placement(spec, self._factory):
                return
            if there is not None:
                await self._end(spec.name, CALL_TIMEOUT_S)
            # A name is free only when its last bearer is gone; and a slow start is the watch's to follow.
            if asyncio.get_running_loop().time() > deadline:
                _log.warning("mind_slow", name=spec.name, why=self._silence.get(spec.name, ""))
                return
            await asyncio.sleep(REPLACE_INTERVAL_S)

    async def _probe(self) -> None:
        while True:
            await self._probe_head()
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _tend_all(self) -> None:
        while True:
            await asyncio.gather(*(self._tend(spec) for spec in list(self._specs.values())))
            await asyncio.sleep(PING_INTERVAL_S)

    async def _tend(self, spec: AgentSpec) -> None:
        begun_s = time.monotonic()
        if await self._ask(spec.name, "status", timeout_s=PING_TIMEOUT_S) is not None:
            return
        if self._answered_s.get(spec.name, 0.0) >= begun_s:
            # It has answered somebody else meanwhile, who asked later.
            return
        why = self._silence[spec.name]
        if RESTARTING in why:
            # Ray is at it already: a kill would only begin the start anew.
            self._starting.add(spec.name)
        self._silent[spec.name] = self._silent.get(spec.name, 0) + 1
        most = MAX_SILENT_PINGS_AT_START if spec.name in self._starting else MAX_SILENT_PINGS
        left = most - self._silent[spec.name]
        _log.warning("mind_silent", name=spec.name, pings_left=left, why=why)
        if left <= 0:
            await self._kill(spec.name, no_restart=False)
            self._silent[spec.name] = 0
            self._starting.add(spec.name)
        # Finds it where Ray is restarting it, and creates it where it is gone.
        if spec.name in self._specs:
            await self._call(asyncio.to_thread(self._create, spec))

    async def _ask(
        self, name: str, method: str, *arguments: object, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """Call an actor; None where it does not answer, for whatever reason."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._reach(name, method, *arguments)
        except (TimeoutError, ValueError, *_RAY_ERRORS) as error:
            self._silence[name] = f"{type(error).__name__}: {error}"
            return None
        self._silent[name], self._answered_s[name] = 0, time.monotonic()
        self._starting.discard(name)
        return answer

    async def _reach(self, name: str, method: str, *arguments: object) -> Any:
        actor = await asyncio.to_thread(self._get, name)
        return await getattr(actor, method).remote(*arguments)

    async def _end(self, name: str, drain_s: float) -> None:
        await self._ask(name, "drain", drain_s, timeout_s=drain_s + CALL_TIMEOUT_S)
        await self._kill(name, no_restart=True)

    async def _kill(self, name: str, *, no_restart: bool) -> None:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                actor = await asyncio.to_thread(self._get, name)
                await asyncio.to_thread(ray.kill, actor, no_restart=no_restart)
        except (TimeoutError, ValueError, *_RAY_ERRORS) as error:
            _log.warning("mind_not_killed", name=name, error=str(error))

    async def _call(self, operation: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await operation
        except (TimeoutError, *_RAY_ERRORS) as error:
            raise self._lost(str(error) or "no answer in time") from error

    async def _probe_head(self) -> None:
        """Knock at the head's port: a refusal is the one answer of Ray's that cannot be misread."""
        host, _, port = self._address.rpartition(":")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:  # TimeoutError is one
            self._lost_probes += 1
            if isinstance(error, ConnectionRefusedError) or self._lost_probes >= MAX_LOST_PROBES:
                raise self._lost(str(error) or "no answer in time") from error
            return
        self._lost_probes = 0
        writer.close()

    def _lost(self, why: str) -> HeadLost:
        return HeadLost(f"Ray's head at {self._address} is gone ({why}); end this process and start it anew")


def _factory_at(path: str) -> AgentFactory:
    """Return a factory that is imported when it is used: if that fails, its slot reports it and retries."""
    module, _, name = path.partition(":")

    async def build(spec: AgentSpec) -> tuple[Agent, Log]:
        factory = cast(AgentFactory, getattr(importlib.import_module(module), name))
        return await factory(spec)

    return build
