"""The peers as targets: each in its own venv and processes, in the mode that its documentation calls for.

Where a library leaves a choice, the faster one was taken (measured once, see docs/performance.md): LangGraph
asynchronous on SQLite and with threads on PostgreSQL, DBOS with threads and SQLite's write-ahead log, Restate
with 4 partitions instead of 24. Peers on PostgreSQL get two driver processes, for both cores.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import stack, venvs
from bench.drivers import Driver
from bench.postgres import Postgres
from bench.targets import Target

HERE = Path(__file__).parent
RESTATE_PARTITIONS = 4
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

Maker = Callable[[Path, str, Postgres | None], AbstractContextManager[Target]]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a peer's process: it can import `bench.drive`, and phones nobody."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    quiet = {"DO_NOT_TRACK": "1", "RESTATE_DISABLE_TELEMETRY": "true", "LANGSMITH_TRACING": "false"}
    return {**kept, **quiet, "PYTHONPATH": str(stack.ROOT), "NODE_ENV": "production", **extra}


@contextmanager
def langgraph(place: Path, durability: str, postgres: Postgres | None) -> Iterator[Target]:
    """LangGraph, on PostgreSQL where there is one, else on SQLite; `none` is its memory."""
    store = "memory" if durability == "none" else "postgres" if postgres else "sqlite"
    style = "threads" if store == "postgres" else "async"
    with _library("langgraph", "LangGraph", place, durability, store, postgres, style) as target:
        yield target


@contextmanager
def dbos(place: Path, durability: str, postgres: Postgres | None) -> Iterator[Target]:
    """DBOS, on PostgreSQL where there is one, else on SQLite."""
    store = "postgres" if postgres else "sqlite"
    with _library("dbos", "DBOS", place, durability, store, postgres, "threads") as target:
        yield target


@contextmanager
def autogen(place: Path, durability: str, postgres: Postgres | None) -> Iterator[Target]:
    """AutoGen's gRPC runtime: a host, a worker with five agents, and a client; nothing is kept."""
    with _library("autogen", "AutoGen gRPC", place, durability, "memory", None, "async") as target:
        yield target


@contextmanager
def _library(
    kind: str, name: str, place: Path, durability: str, store: str, postgres: Postgres | None, style: str
) -> Iterator[Target]:
    python = venvs.python(kind)
    place = place / f"{kind}-{store}-{durability}"
    place.mkdir()
    command: list[str | Path] = [python, HERE / "peers" / f"{kind}_peer.py", "--store", store]
    command += ["--place", place]
    if kind != "autogen":
        command += ["--durability", "relaxed" if durability == "relaxed" else "always", "--style", style]
    if postgres:
        database = f"{kind}_{durability}"
        postgres.create(database)
        command += ["--url", postgres.url(database)]
    count = 2 if postgres else 1
    drivers: list[Driver] = []
    try:
        for i in range(count):
            one = [*command, *(["--number", str(i)] if kind == "dbos" else [])]
            drivers.append(Driver(one, env=environment(), cwd=place, stderr=place / "stderr"))
        yield Target(
            name=f"{name}, {_STORES[store]}" if store != "memory" or kind == "langgraph" else name,
            durability=durability,
            settings=_settings(store, durability, postgres, style, count),
            drivers=drivers,
            parts=lambda: {"postgres": postgres.pid} if postgres else {},
        )
    finally:
        for driver in drivers:
            driver.close()


_STORES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "memory": "memory"}


def _settings(store: str, durability: str, postgres: Postgres | None, style: str, count: int) -> str:
    said = [f"{style}, {count} process{'es' if count > 1 else ''}"]
    if store == "sqlite":
        said.append(f"WAL, synchronous={'FULL' if durability == 'always' else 'NORMAL'}")
    elif postgres:
        said.append(postgres.settings)
    return ", ".join(said)


@contextmanager
def restate(place: Path, durability: str, postgres: Postgres | None) -> Iterator[Target]:
    """Restate: its server, a service in node, and a client in node."""
    place = place / f"restate-{durability}"
    place.mkdir()
    with restate_server(place, durability) as server, restate_service(place, server):
        driver = Driver(
            ["node", server.script, "load", server.ingress],
            env=environment(),
            cwd=place,
            stderr=place / "stderr",
        )
        try:
            yield Target(
                name="Restate",
                durability=durability,
                settings=f"log-server rocksdb-disable-wal-fsync = {str(durability != 'always').lower()}, "
                f"{RESTATE_PARTITIONS} partitions, node {_node_version()}",
                drivers=[driver],
                parts=lambda: {"server": server.pid, "service": server.service_pid},
                client_apart=True,
            )
        finally:
            driver.close()


class RestateServer:
    """A running server: where it listens, and the service that is registered with it."""

    def __init__(self, process: subprocess.Popen[bytes], script: Path, ports: Mapping[str, int]) -> None:
        self.pid = process.pid
        self.script = script
        self.ingress = f"http://127.0.0.1:{ports['ingress']}"
        self.admin = f"http://127.0.0.1:{ports['admin']}"
        self.service_port = ports["service"]
        self.service_pid = 0

    def register(self) -> None:
        """Tell the server of the service, once it answers."""
        body = json.dumps({"uri": f"http://127.0.0.1:{self.service_port}"}).encode()
        headers = {"content-type": "application/json"}
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                request = urllib.request.Request(f"{self.admin}/deployments", data=body, headers=headers)
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > deadline:
                    raise venvs.Missing(f"restate-server did not take the service: {error}") from None
                time.sleep(0.1)


@contextmanager
def restate_server(place: Path, durability: str) -> Iterator[RestateServer]:
    """Run the server for as long as the context lasts."""
    modules = venvs.node_modules("restate")
    # Node looks for packages beside the script.
    script = Path(shutil.copy(HERE / "peers" / "restate_peer.mjs", modules))
    ports = dict(zip(("ingress", "admin", "node", "service"), free_ports(4), strict=True))
    settings = environment(
        RESTATE_INGRESS__BIND_PORT=str(ports["ingress"]),
        RESTATE_ADMIN__BIND_PORT=str(ports["admin"]),
        RESTATE_BIND_PORT=str(ports["node"]),
        RESTATE_BIND_IP="127.0.0.1",
        RESTATE_LISTEN_MODE="tcp",
        RESTATE_LOG_FILTER="warn",
        RESTATE_DEFAULT_NUM_PARTITIONS=str(RESTATE_PARTITIONS),
        RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC=str(durability != "always").lower(),
    )
    binary = modules / "node_modules" / ".bin" / "restate-server"
    with (place / "server.log").open("a") as log:
        process = subprocess.Popen(
            [binary, "--base-dir", place / "data", "--node-name", "bench", "--no-logo"],
            env=settings,
            stdout=log,
            stderr=log,
            cwd=place,
        )
    try:
        yield RestateServer(process, script, ports)
    finally:
        end(process)


@contextmanager
def restate_service(place: Path, server: RestateServer, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service, known to the server, for as long as the context lasts."""
    process = start_restate_service(place, server, **extra)
    try:
        server.register()
        yield process
    finally:
        end(process)


def start_restate_service(place: Path, server: RestateServer, **extra: str) -> subprocess.Popen[bytes]:
    """Start the service and wait until it listens."""
    with (place / "service.log").open("a") as log:
        process = subprocess.Popen(
            ["node", server.script, "service", str(server.service_port)],
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=place,
        )
    assert process.stdout is not None
    if not process.stdout.readline():
        end(process)
        raise venvs.Missing(
            f"the Restate service did not start: {(place / 'service.log').read_text()[-500:]}"
        )
    server.service_pid = process.pid
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, and by force if it takes long."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _node_version() -> str:
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def free_ports(count: int) -> list[int]:
    """Return ports that are free now; the server takes no port 0."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
