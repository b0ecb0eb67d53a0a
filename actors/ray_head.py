"""Ray's head on this machine, as one child process: loopback only, no fixed port, nothing left behind.

`RayHead` says how to start it and where it answers; it needs no ray. Run as a module this file is the keeper
between the supervisor and Ray: it ends when its parent ends or when any part of the head has died, and takes
every process of its session with it (Ray's agents would stay for a minute, its workers for seconds).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from core.errors import HandrailError

OBJECT_STORE_BYTES = 80_000_000
MAX_DIRECTORY_BYTES = 40
POLL_INTERVAL_S = 0.2
SWEEP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1
_TOKEN_FILE = "token"
_ADDRESS_FILE = "ray_current_cluster"
_VITAL = ("gcs_server", "raylet")


class HeadError(HandrailError):
    """Ray's head cannot be started here."""


@dataclass(frozen=True)
class RayHead:
    """The head whose files lie in `directory`: short (Ray puts sockets below it), private, disposable."""

    directory: Path

    @classmethod
    def of(cls, data_dir: Path) -> RayHead:
        """Return the head that belongs to a data directory."""
        digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:8]
        name = f"handrail-{os.getuid()}-{digest}"
        directory = Path(tempfile.gettempdir()) / name
        return cls(directory if len(os.fsencode(directory)) <= MAX_DIRECTORY_BYTES else Path("/tmp") / name)

    def command(self, generation: int) -> list[str]:
        """Return the command of the keeper, after clearing away what an earlier head left."""
        del generation
        self.clear()
        self.directory.mkdir(mode=0o700)
        (self.directory / _TOKEN_FILE).write_text(secrets.token_hex(32))
        # Nothing (-P) of what lies where it is started, which may be called as a package of ours is.
        return [sys.executable, "-P", "-m", "actors.ray_head", *ray_start_command(self.directory)]

    def env(self) -> dict[str, str]:
        """Return what the head and every client of it need in their environment before ray is imported."""
        return {
            # Listen on loopback, and connect there: without it Ray takes this machine's outer address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Whoever reaches a head may run code in it.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.directory / _TOKEN_FILE),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Under `uv run` Ray would pack the project and build an environment for it.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            # A lost head is replaced by another: do not wait a minute for this one.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            # Minds are no background work.
            "RAY_worker_niceness": "0",
            # It follows the processors that the head has, which are none: actors would start one by one.
            "RAY_worker_maximum_startup_concurrency": str(os.cpu_count() or 1),
            "RAY_START_HOOK": "actors.ray_head.trim",
        }

    def address(self) -> str | None:
        """Return where the head answers, or None while it does not."""
        try:
            return (self.directory / _ADDRESS_FILE).read_text().strip() or None
        except OSError:
            return None

    async def ready(self) -> bool:
        """Whether the head has started: Ray writes its address last of all."""
        return self.address() is not None

    def clear(self) -> None:
        """Remove every file of a head that has ended."""
        if self.directory.is_symlink() or (
            self.directory.exists() and self.directory.stat().st_uid != os.getuid()
        ):
            raise HeadError(f"{self.directory} belongs to somebody else: remove it, or set TMPDIR")
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise HeadError(f"{self.directory} cannot be removed: an earlier Ray head may still be running")


def ray_start_command(directory: Path) -> list[str]:
    """Return the command that starts a head which stays in the foreground."""
    return [
        sys.executable,
        "-P",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--port=0",
        "--node-ip-address=127.0.0.1",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--include-dashboard=false",
        "--include-log-monitor=false",
        "--no-monitor",
        "--disable-usage-stats",
        # Minds ask for no processors; with any, Ray would start idle workers for them.
        "--num-cpus=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={directory}",
    ]


def trim(ray_params: Any, head: bool) -> None:
    """Leave out what nobody asks for and every start would wait for; Ray calls this hook before it starts.

    That is its client server, a process on a fixed port, and its API server, which without a dashboard only
    counts usage, and that is turned off.
    """
    from ray._private.node import Node

    ray_params.ray_client_server_port = None
    if head:
        Node.start_api_server = _start_nothing  # type: ignore[method-assign, assignment]


def _start_nothing(_node: Any, **_options: Any) -> None:
    """Stand in for a part of the head that is left out."""


def main() -> int:
    """Keep the head: run the command given, end it when it is time, and sweep up."""
    _die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _leave)
    head = subprocess.Popen(sys.argv[1:], preexec_fn=_die_with_parent)
    try:
        vital: set[int] = set()
        while head.poll() is None:
            # Once all of them are there, these alone are looked at: there may be thousands of others.
            among = vital if len(vital) == len(_VITAL) else None
            alive = {pid for pid, parent, name in _session(among) if parent == head.pid and name in _VITAL}
            if vital - alive:
                print("handrail: a vital process of the Ray head died, ending the head", flush=True)
                return 1
            vital |= alive
            time.sleep(POLL_INTERVAL_S)
        return head.returncode or 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _sweep()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _die_with_parent(number: int = signal.SIGKILL) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _session(among: Iterable[int] | None = None) -> list[tuple[int, int, str]]:
    """Return (pid, parent, name) of every living process of this session but this one, or of those among."""
    found = []
    proc = Path("/proc")
    for entry in proc.glob("[0-9]*/stat") if among is None else [proc / f"{pid}/stat" for pid in among]:
        try:
            head, _, tail = entry.read_text().rpartition(")")
        except OSError:
            continue
        state, parent, _group, session = tail.split()[:4]
        pid, _, name = head.partition(" (")
        if int(session) == os.getsid(0) and int(pid) != os.getpid() and state not in "ZX":
            found.append((int(pid), int(parent), name))
    return found


def _sweep() -> None:
    if os.getsid(0) != os.getpid():
        return
    deadline = time.monotonic() + SWEEP_TIMEOUT_S
    while (left := _session()) and time.monotonic() < deadline:
        for pid, _, _ in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_INTERVAL_S / 10)


if __name__ == "__main__":
    sys.exit(main())
