"""The stack that stays up: a small supervisor, whose children are the processes of the stack.

The broker, Ray's head, gateway, decider and workers are each restarted with backoff; all of them die with
the supervisor, and all but Ray (whose minds have no effects) hold the data directory's lock, so that whoever
takes the directory next knows that they are gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from actors.ray_head import RayHead
from bus.directory import DataDirectory, Endpoint
from core.course import MIND_POOL
from handrail.project import Settings, load
from handrail.stack import parts
from handrail.stack.children import ADDRESS_FILE, EPOCH_ENV, MINDS_FILE, addresses_in
from handrail.stack.inline import keep_token
from handrail.stack.keeping import background, kept
from orchestrator.supervisor import ChildSpec, ChildStatus, Supervisor

HostKind = Literal["inline", "ray"]


class Cluster:
    """A running stack of processes."""

    def __init__(self, endpoint: Endpoint, supervisor: Supervisor, broker: parts.Broker) -> None:
        self.endpoint = endpoint
        self._supervisor = supervisor
        self._broker = broker

    @property
    def broker_pid(self) -> int | None:
        """The broker's process id, while it runs."""
        return self._broker.pid

    def children(self) -> list[ChildStatus]:
        """Return what has become of each child."""
        return self._supervisor.children()


async def up(
    project_dir: Path,
    data_dir: Path,
    *,
    host: HostKind,
    on_ready: Callable[[Cluster], None],
    stop: asyncio.Event,
) -> None:
    """Keep a stack up until `stop` is set, then drain it."""
    async with running(project_dir, data_dir, host=host) as cluster:
        on_ready(cluster)
        await stop.wait()


@asynccontextmanager
async def running(project_dir: Path, data_dir: Path, *, host: HostKind) -> AsyncIterator[Cluster]:
    """Run a stack of processes for as long as the context lasts."""
    project_dir = project_dir.resolve()
    parts.forget_callers_token()
    directory = await asyncio.to_thread(DataDirectory.acquire, data_dir)
    try:
        # Loaded here once, so that a broken project is told at once and not by a crash loop.
        settings = load(project_dir, rules=True, data=directory.path).settings
        keys = parts.keys_of(settings, directory, project_dir)
        parts.own_tokens(directory.path)
        broker = parts.broker_of(settings, directory, project_dir)
        place = parts.notary_place(settings, project_dir, directory.path)
        async with (
            kept(broker, settings, place),
            _served(directory, broker, settings, project_dir, host, keys) as cluster,
        ):
            yield cluster
    finally:
        directory.release()


@asynccontextmanager
async def _served(
    directory: DataDirectory,
    broker: parts.Broker,
    settings: Settings,
    project_dir: Path,
    host: HostKind,
    keys: parts.Keys,
) -> AsyncIterator[Cluster]:
    children = _children(directory, broker, settings, project_dir, host, keys)
    supervisor = Supervisor(children, directory.path)
    async with background(keep_token(directory.path)):
        await supervisor.start()
        try:
            local, public = addresses_in(directory.path) or ("", "")
            endpoint = Endpoint(
                gateway=local,
                public=public,
                broker_url=broker.url,
                pid=os.getpid(),
                epoch=directory.epoch,
                project=str(project_dir),
                host=host,
            )
            directory.publish_endpoint(endpoint)
            yield Cluster(endpoint, supervisor, broker)
        finally:
            await supervisor.stop()


def _children(
    directory: DataDirectory,
    broker: parts.Broker,
    settings: Settings,
    project_dir: Path,
    host: HostKind,
    keys: parts.Keys,
) -> list[ChildSpec]:
    """Return the children in the order in which they start."""
    data = directory.path
    for stale in (ADDRESS_FILE, MINDS_FILE):
        (data / stale).unlink(missing_ok=True)
    head = RayHead.of(data)
    # Only where tools are called, in the workers of a toolbox and beside the verifier's; and the key of an
    # endpoint with the minds that ask it.
    secret = parts.secret_variables(settings)

    def spec(
        name: str,
        argument: str,
        ways: dict[str, parts.Way],
        ready: Path | None = None,
        env: Mapping[str, str] | None = None,
        without: frozenset[str] = secret,
    ) -> ChildSpec:
        # The supervisor's own path, not what lies where it was started (-P): all of them run the same code.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        common = {
            parts.CREDENTIALS_ENV: parts.dump_ways(ways),
            EPOCH_ENV: str(directory.epoch),
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-P", "-m", "handrail.cli.child", "_child", argument]
        command += [str(project_dir), str(data)]
        return ChildSpec(
            name=name,
            command=command,
            env={**common, **(env or {})},
            without=without,
            ready=_exists(ready) if ready is not None else None,
            pass_fds=(directory.lock_fd,) if name != "minds" else (),
        )

    minds = {role: parts.way(broker, settings, role, MIND_POOL) for role in parts.MIND_ROLES}
    # The decider alone is given what it signs with.
    signing = {parts.PERMIT_KEY_ENV: keys.signer.dump()}
    checking = {parts.TRUSTED_KEYS_ENV: keys.checker.dump()}
    children = [
        spec("decider", "decider", {"decider": parts.way(broker, settings, "decider")}, env=signing),
        *(
            spec(
                f"worker-{toolbox}-{slot}",
                f"worker:{toolbox}:{slot}",
                {"worker": parts.way(broker, settings, "worker", toolbox)},
                env={**_unset(settings.toolboxes[toolbox].env), **checking},
                without=parts.secret_variables(settings, but=toolbox),
            )
            for toolbox in settings.toolboxes
            for slot in range(settings.toolboxes[toolbox].workers)
        ),
        spec("gateway", "gateway", {"gateway": parts.way(broker, settings, "gateway")}, data / ADDRESS_FILE),
    ]
    children.insert(0, spec("notary", "notary", {"notary": parts.way(broker, settings, "notary")}))
    way = parts.way(broker, settings, "tracer")
    tracers = [spec("tracer", "tracer", {"tracer": way})] if parts.wants_tracer() else []
    if host == "ray":
        ray = ChildSpec(
            "ray-head",
            head.command,
            {**head.env(), "PYTHONPATH": os.pathsep.join(sys.path)},
            ready=head.ready,
        )
        # Its minds are children of the head; each of these keeps the variables that are its own.
        minds_child = spec("minds", "minds:ray", minds, data / MINDS_FILE, {**head.env(), **checking})
        return [ray, *children, minds_child, *tracers]
    inline = spec("minds", "minds:inline", minds, data / MINDS_FILE, checking, without=frozenset())
    return [*children, inline, *tracers]


def _unset(env: Mapping[str, str]) -> dict[str, str]:
    """Return what is not set outside: that wins."""
    return {name: value for name, value in env.items() if name not in os.environ}


def _exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return path.exists()

    return ready
