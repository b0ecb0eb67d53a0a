"""The stack's processes: started in order, restarted with backoff for ever, ended in reverse order.

Each child has a session of its own, so that a Ctrl-C in the terminal does not reach it, and dies with this
process. A child is started again only when no process of its last session is left: whoever runs as
generation n may rely on the death of generation n-1. That a generation has ended is written down for the
other children (`last_ended`). Start a `Supervisor` in the main thread: the kernel
ends the children when the thread that started them ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import structlog

from core.errors import HandrailError

FIRST_RESTART_S = 0.05
MAX_RESTART_S = 5.0
HEALTHY_AFTER_S = 10.0
READY_TIMEOUT_S = 60.0
READY_INTERVAL_S = 0.05
SWEEP_INTERVAL_S = 0.01
SWEEP_REPORT_S = 5.0
CRASH_LOOP_AFTER = 5
MAX_LOG_BYTES = 8_000_000
KEPT_LOGS = 2
TAIL_BYTES = 2_000
ENDED_DIR = "generations"
GENERATION = "HANDRAIL_GENERATION"

State = Literal["starting", "running", "waiting", "crash_loop", "stopped"]

_log = structlog.get_logger(__name__)

# Asks the kernel to kill this process with its parent, makes sure that the parent had not died before, and
# becomes the command.
_LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]} cannot be started: {error.strerror}")
"""


class ChildNotReady(HandrailError):
    """A child did not come up in time."""


@dataclass(frozen=True)
class ChildSpec:
    """One process of the stack. A command that is a function is called with the generation at every start."""

    name: str
    command: Sequence[str] | Callable[[int], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    # Variables of the supervisor's own that the child does not get, unless `env` says them.
    without: frozenset[str] = frozenset()
    stop_timeout_s: float = 10.0
    ready: Callable[[], Awaitable[bool]] | None = None
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """What has become of a child."""

    name: str
    state: State
    pid: int | None
    generation: int
    started_at: float
    last_exit: int | None
    log: str
    tail: str = ""


class Supervisor:
    """Keeps the children of a stack running."""

    def __init__(self, children: Iterable[ChildSpec], data_dir: Path) -> None:
        logs, self._ended = data_dir / "logs", data_dir / ENDED_DIR
        self._children = [_Child(spec, logs / f"{spec.name}.log", self._ended) for spec in children]

    async def start(self) -> None:
        """Start the children in order, each when the one before is ready; stops all where one is not."""
        # The generations of an earlier supervisor are others.
        shutil.rmtree(self._ended, ignore_errors=True)
        self._ended.mkdir(parents=True)
        try:
            for child in self._children:
                await child.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the children in reverse order: SIGTERM, and SIGKILL for what is left of the session."""
        for child in reversed(self._children):
            await child.stop()

    def children(self) -> list[ChildStatus]:
        """Return what has become of each child, in order."""
        return [child.status() for child in self._children]


class _Child:
    """One child, over all its generations."""

    def __init__(self, spec: ChildSpec, log: Path, ended: Path) -> None:
        self._spec = spec
        self._log = log
        self._ended = ended / spec.name
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._state: State = "stopped"
        self._generation = 0
        self._crashes = 0
        self._started_at = 0.0
        self._last_exit: int | None = None

    def status(self) -> ChildStatus:
        crashing = self._state == "crash_loop"
        return ChildStatus(
            name=self._spec.name,
            state=self._state,
            pid=self._process.pid if self._process else None,
            generation=self._generation,
            started_at=self._started_at,
            last_exit=self._last_exit,
            log=str(self._log),
            tail=_tail(self._log) if crashing else "",
        )

    async def start(self) -> None:
        """Begin keeping the child, and return when it is ready."""
        _rotate(self._log)
        self._keeping = asyncio.create_task(self._keep(), name=self._spec.name)
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_TIMEOUT_S):
                while self._state != "crash_loop":
                    if await self._is_ready():
                        return
                    await asyncio.sleep(READY_INTERVAL_S)
        raise ChildNotReady(
            f"{self._spec.name} does not come up (started {self._generation} times,"
            f" last exit {self._last_exit}); its log is {self._log} and ends with:\n{_tail(self._log)}"
        )

    async def stop(self) -> None:
        """End the child and its session."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._spec.stop_timeout_s)
            await _end_session(process, self._spec.name)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        self._state = "stopped"

    async def _is_ready(self) -> bool:
        if self._state != "running":
            return False
        return self._spec.ready is None or await self._spec.ready()

    async def _keep(self) -> None:
        delay_s = FIRST_RESTART_S
        while True:
            begun = time.monotonic()
            await self._run_once()
            if self._keeping is None:
                return
            if time.monotonic() - begun > HEALTHY_AFTER_S:
                delay_s, self._crashes = FIRST_RESTART_S, 0
            self._crashes += 1
            self._report()
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, MAX_RESTART_S)

    async def _run_once(self) -> None:
        """Run one generation to its end, and to the end of its session."""
        self._generation += 1
        self._state = "starting"
        try:
            process = self._process = await self._spawn()
        except Exception as error:  # noqa: BLE001
            # The supervision point of processes: whatever keeps a child from starting, it is tried again.
            self._last_exit = None
            with suppress(OSError):
                _write(self._log, f"cannot be started: {error}")
            return
        self._started_at = time.time()
        self._state = "running"
        self._last_exit = await process.wait()
        await _end_session(process, self._spec.name)
        self._process = None
        scratch = self._ended.with_name(f"{self._ended.name}.new")
        with suppress(OSError):
            scratch.write_text(str(self._generation))
            scratch.replace(self._ended)

    async def _spawn(self) -> asyncio.subprocess.Process:
        command = self._spec.command
        argv = command(self._generation) if callable(command) else command
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            _rotate(self._log)
        _write(self._log, f"generation {self._generation} starts")
        kept = {name: value for name, value in os.environ.items() if name not in self._spec.without}
        with _open(self._log) as output:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**kept, **self._spec.env, GENERATION: str(self._generation)},
                pass_fds=self._spec.pass_fds,
                start_new_session=True,
            )

    def _report(self) -> None:
        report = {"child": self._spec.name, "exit": self._last_exit, "generation": self._generation}
        if self._crashes < CRASH_LOOP_AFTER:
            self._state = "waiting"
            _log.warning("child_exited", **report)
            return
        self._state = "crash_loop"
        _log.error("child_crash_loop", **report, log=str(self._log), tail=_tail(self._log))


def last_ended(data_dir: Path, name: str) -> int:
    """Return the last generation of a child of which no process is left; 0 where none has ended yet."""
    try:
        return int((data_dir / ENDED_DIR / name).read_text())
    except (OSError, ValueError):
        return 0


async def _end_session(process: asyncio.subprocess.Process, name: str) -> None:
    """Kill whatever is left of a child's session, and return when nothing is."""
    reported = time.monotonic()
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        left = _session(process.pid)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left and process.returncode is not None:
            return
        if time.monotonic() - reported > SWEEP_REPORT_S:
            reported = time.monotonic()
            _log.error("child_does_not_die", child=name, pids=left)
        await asyncio.sleep(SWEEP_INTERVAL_S)


def _session(session: int) -> list[int]:
    """Return the living processes of a session (where there is a /proc to read)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # state, parent, group, session; a zombie is dead and its reaper's business.
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(entry.parent.name))
    return found


def _open(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")


def _write(log: Path, text: str) -> None:
    with _open(log) as output:
        output.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n".encode())


def _rotate(log: Path) -> None:
    for number in range(KEPT_LOGS, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        with suppress(FileNotFoundError):
            newer.replace(older)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError as error:
        return f"({log} cannot be read: {error.strerror})"
