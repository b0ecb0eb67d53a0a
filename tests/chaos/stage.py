"""One stack under treatment: its processes, the world, the way to the broker, and the hands that strike.

Everything lies below one directory of its own, which is kept where something went wrong. Only processes of
this stack are ever touched: children of the `up` that was started here, found by the directory.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import grpc

from actors.ray_head import RayHead
from handrail.channel import Channel
from handrail.client import Client
from handrail.tokens import TOKEN_FILE
from handrail.v1 import run_service_pb2_grpc
from tests.chaos.history import Stroke, Tap
from tests.chaos.plan import MINDS, HostKind
from tests.chaos.proxy import EVERYBODY, Proxy
from tests.chaos.world import World
from tests.processes import alive

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHARDS = 4
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.02
# Root may write where nobody may; a stack that is run by root must not be spared what others meet.
_RIGHTS = "-dac_override,-dac_read_search"
_BOUND = ("setpriv", "--bounding-set", _RIGHTS, "--inh-caps", _RIGHTS) if os.geteuid() == 0 else ()
CLIENT_TIMEOUT_S = 60.0
# Has the kernel end the stack with the campaign, however that ends. A process of its own, since this one has
# threads of gRPC's, and may not run anything between fork and exec.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Stage:
    """A running `handrail up`, with everything that the campaign needs around it."""

    def __init__(self, directory: Path, host: HostKind, *, disk_mb: int = 0, **environment: str) -> None:
        """With `disk_mb` the data directory is a disk of its own, which can be filled."""
        self.directory = directory
        self._disk_mb = disk_mb
        self.host = host
        self.project = directory / "project"
        self.data = directory / "data"
        self.hooks = directory / "hooks"
        self.world = World(directory)
        self.proxy = Proxy(self._broker_port)
        self.numbers = itertools.count(1)
        self._extra = environment
        self._process: asyncio.subprocess.Process | None = None
        self._client: Client | None = None
        self._channel: Channel | None = None
        self._tap: Tap | None = None

    @classmethod
    async def up(cls, directory: Path, host: HostKind, *, disk_mb: int = 0, **environment: str) -> Stage:
        """Make a project and a stack of it, and return when it is ready."""
        directory.mkdir(parents=True, exist_ok=True)
        stage = cls(directory, host, disk_mb=disk_mb, **environment)
        stage.data.mkdir()
        shutil.copytree(HERE / "project", stage.project, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("armed", "taken", "struck", "clock"):
            (stage.hooks / name).mkdir(parents=True)
        await stage.world.start()
        await stage.proxy.start()
        try:
            await stage.start()
        except BaseException:
            await stage.close()
            raise
        return stage

    @property
    def seen(self) -> Path:
        """The data directory, as it is seen from here."""
        if not self._disk_mb or self._process is None:
            return self.data
        return Path(f"/proc/{self._process.pid}/root{self.data}")

    @property
    def client(self) -> Client:
        """A client of the gateway, which looks for it over its restarts."""
        assert self._client is not None
        return self._client

    @property
    def runs(self) -> run_service_pb2_grpc.RunServiceStub:
        """The gateway's service, for what the client has no word for."""
        assert self._channel is not None
        return run_service_pb2_grpc.RunServiceStub(cast(grpc.aio.Channel, self._channel))

    @property
    def tap(self) -> Tap:
        """The log of every run."""
        assert self._tap is not None
        return self._tap

    async def start(self) -> None:
        """Start the stack, and what listens to it."""
        # On a disk of its own in a namespace of its own, which needs no rights.
        mount = f'mount -t tmpfs -o size={self._disk_mb}m none "$0" && exec "$@"'
        inside = ("unshare", "-Urm", "sh", "-c", mount, str(self.data)) if self._disk_mb else _BOUND
        with (self.directory / "up.stderr").open("a") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(*inside, sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())),
                *(sys.executable, "-m", "handrail.cli.main", "up", "--host", self.host, "--json"),
                *("--project", str(self.project), "--data", str(self.data)),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=self._environment(),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self._process.stdout.readline()
        if not line:
            said = (self.directory / "up.stderr").read_text()[-2000:]
            raise AssertionError(f"the stack did not start: {said}")
        address = str(json.loads(line)["gateway"])
        self._client = self.another_client(address, CLIENT_TIMEOUT_S)
        self._channel = Channel(address, (), token_file=self.seen / TOKEN_FILE)
        self._tap = Tap(self.proxy.address, self.seen, SHARDS)
        await self._tap.start()

    def another_client(self, address: str, timeout_s: float) -> Client:
        """Return a client with the token of whoever has put the stack up."""
        return Client(address, timeout_s=timeout_s, token_file=self.seen / TOKEN_FILE)

    async def close(self) -> None:
        """End the stack in order, and what is around it."""
        if self._client is not None:
            await self._client.close()
        if self._channel is not None:
            await self._channel.close()
        if self._tap is not None:
            await self._tap.stop()
        process = self._process
        if process is not None and process.returncode is None:
            for pid in self.children().values():
                _signal(pid, signal.SIGCONT)
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        await self.proxy.stop()
        await self.world.stop()

    def remove(self) -> None:
        """Remove everything that was written."""
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- processes -------------------------------------------------------------------------------------

    def children(self) -> dict[str, int]:
        """Return the processes of the stack by name; `supervisor` is the stack itself."""
        found: dict[str, int] = {}
        marks = (str(self.data), str(RayHead.of(self.data).directory))
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if not any(mark in part for mark in marks for part in command):
                continue
            if "_child" in command and "-c" not in command:
                found[command[command.index("_child") + 1]] = int(entry.name)
            elif command[0].endswith("nats-server"):
                found["broker"] = int(entry.name)
            elif command[0].endswith("gcs_server"):
                found["head"] = int(entry.name)
            elif "actors.ray_head" in command:
                found["keeper"] = int(entry.name)
            elif command[0].endswith("raylet"):
                found["raylet"] = int(entry.name)
        return found

    def pids(self, target: str) -> set[int]:
        """Return the processes that a target is at the moment: one, or none while it is away."""
        if target in MINDS:
            return {pid for pid in self.proxy.pids(target) if alive(pid)}
        name, _, slot = target.partition(":")
        wanted = {
            "worker": f"worker:errands:{slot or '0'}",
            "minds": f"minds:{self.host}",
        }.get(name, name)
        pid = self.children().get(wanted)
        return set() if pid is None or not alive(pid) else {pid}

    def minds(self) -> set[int]:
        """Return the processes in which minds are connected."""
        return {pid for role in MINDS for pid in self.proxy.pids(role) if alive(pid)}

    async def until(self, what: str, condition: Callable[[], Any], timeout_s: float) -> Any:
        """Wait until a condition holds, looking often."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout_s:g} s")
            await asyncio.sleep(POLL_S)
        return found

    # --- striking ----------------------------------------------------------------------------------------

    def arm(self, stroke: Stroke) -> str:
        """Arm a named point; whichever process of the role passes it first is struck."""
        name = f"{stroke.point}@{stroke.deed}@{stroke.number}"
        (self.hooks / "armed" / name).touch()
        return name

    def disarm(self, name: str) -> None:
        """Take back what nobody has passed."""
        (self.hooks / "armed" / name).unlink(missing_ok=True)

    def struck(self, name: str) -> dict[str, Any] | None:
        """Return what a struck process said last, or None while there is none."""
        in_tool = self.world.struck.get(name)
        if in_tool is not None:
            return {**in_tool.told, "pid": in_tool.pid, "time_ns": in_tool.time_ns}
        file = self.hooks / "struck" / name
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    def strike(self, stroke: Stroke, pid: int) -> None:
        """Do to a process what the stroke says."""
        if stroke.deed == "kill":
            _signal(pid, signal.SIGKILL)
        elif stroke.deed == "stop":
            _signal(pid, signal.SIGSTOP)
        elif stroke.deed == "cut":
            self.proxy.cut(EVERYBODY if stroke.target == "broker" else pid)
        else:
            self.proxy.hold(EVERYBODY if stroke.target == "broker" else pid)

    def free(self, stroke: Stroke) -> None:
        """Let a stopped process, or one on a dead way, go on."""
        if stroke.deed == "stop":
            _signal(stroke.pid, signal.SIGCONT)
        elif stroke.deed == "hold":
            self.proxy.release(EVERYBODY if stroke.target == "broker" else stroke.pid)

    def set_clock(self, child: str, offset_s: float) -> None:
        """Let the clock of a child jump."""
        (self.hooks / "clock" / child).write_text(str(offset_s))

    # --- inside --------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        # Without its bytecode a process starts in twice the time, and that is no user's.
        other = ("HANDRAIL_", "CHAOS_", "PYTHONDONTWRITEBYTECODE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(other)}
        own = {
            "PYTHONPATH": os.pathsep.join((str(HERE / "inject"), str(ROOT))),
            "CHAOS_DIR": str(self.hooks),
            "CHAOS_BROKER": self.proxy.address,
            "CHAOS_WORLD": str(self.world.socket),
            "NO_COLOR": "1",
        }
        return {**kept, **own, **self._extra}

    def _broker_port(self) -> int:
        return int((self.seen / "broker.port").read_text())


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
