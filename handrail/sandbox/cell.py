"""One process of a sandbox: started by exec, spoken with in lines of JSON, bounded from outside, and ended.

It has no descriptor and no variable but what is named here, and nothing that it says is believed but that it
says so.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from core import values
from handrail.calling import Stopped, ToolThreads
from handrail.sandbox import bubblewrap
from handrail.sandbox.child import DONE, READY
from handrail.sandbox.mechanism import Mechanism
from handrail.sandbox.places import Places, import_path, interpreter
from handrail.sandbox.profile import Profile
from handrail.sandbox.watch import held, used

WATCH_EVERY_S = 0.1
END_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 2 * values.MAX_VALUE_BYTES
MAX_PRINTED_BYTES = 16 * 1024 * 1024
MAX_SHOWN_BYTES = 4 * 1024
_CHUNK_BYTES = 64 * 1024
# Its own interpreter has a few threads and processes beside those of the tool.
_OWN_PROCESSES = 4


@cache
def _starter(pid: int) -> ToolThreads:
    """Return the thread that starts processes: they end with it, and so it lasts as long as this process."""
    return ToolThreads(1)


def _start(command: list[str], directory: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # In the caller's session: a supervisor that waits for its end waits for this one too.
        process_group=0,
    )


class Cell:
    """A process that carries one call out."""

    def __init__(self, profile: Profile, mechanism: Mechanism, where: Places, egress: Path | None) -> None:
        self._profile = profile
        self._begun = self._watched = time.monotonic()
        self._unsent, self._heard, self._printed = bytearray(), bytearray(), bytearray()
        self._printed_bytes = 0
        self._told: dict[str, Any] | None = None
        self._scratch: str | None = None
        # -P: before it is shut in it imports nothing of the project's.
        command = [str(interpreter()), "-P", "-m", "handrail.sandbox.child"]
        if mechanism.name == "bubblewrap":
            command = bubblewrap.command_line(
                mechanism.detail,
                command,
                places=where,
                directory=profile.directory,
                scratch_bytes=profile.memory_bytes,
                egress=egress,
            )
        else:
            self._scratch = tempfile.mkdtemp(prefix="handrail-")
            # However this process ends, unless it is killed.
            self._removal = weakref.finalize(self, remove, self._scratch)
        environment = _environment(profile, self._scratch or "/tmp")
        self._process = _starter(os.getpid()).submit(_start, command, profile.directory, environment).result()
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (pipe for pipe in pipes if pipe is not None)
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
        self._say(_setup(profile, mechanism, where, self._scratch, egress))

    @property
    def age_s(self) -> float:
        """For how long it has been there."""
        return time.monotonic() - self._begun

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ready(self, deadline: float) -> dict[str, Any]:
        """Wait until it has imported its tools, and return what it says of them."""
        if self._told is None:
            self._told = self._hear(READY, deadline)
        return self._told

    def ask(self, call: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Have it carry a call out, and return what it says came of it."""
        self._say(call)
        return self._hear(DONE, deadline)

    def printed(self) -> str:
        """Return the end of what its tools have printed."""
        text = self._printed.decode(errors="replace").strip()
        dropped = self._printed_bytes - len(self._printed)
        return f"[{dropped} bytes before]\n{text}" if dropped > 0 else text

    def end(self) -> None:
        """End it and everything that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        for pipe in (self._in, self._out, self._err):
            with suppress(OSError):
                pipe.close()
        if self._scratch is not None:
            self._removal()

    def _say(self, message: dict[str, Any]) -> None:
        self._unsent += json.dumps(message).encode() + b"\n"
        # Now, as far as the pipe takes it: a process that is to be ready needs its set-up.
        with suppress(BlockingIOError, BrokenPipeError):
            del self._unsent[: os.write(self._in.fileno(), self._unsent[:_CHUNK_BYTES])]

    def _hear(self, kind: str, deadline: float) -> dict[str, Any]:
        """Wait for its next line, which must be of a kind; raises Stopped or TimeoutError."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._err, selectors.EVENT_READ)
            if self._unsent:
                selector.register(self._in, selectors.EVENT_WRITE)
            while b"\n" not in self._heard:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError("it did not answer in time and was ended")
                for key, _ in selector.select(min(left_s, WATCH_EVERY_S)):
                    self._move(selector, key.fileobj)
                self._watch()
        line, _, rest = self._heard.partition(b"\n")
        self._heard = bytearray(rest)
        try:
            said = json.loads(line, parse_constant=_no_constant)
            found = said[kind]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise Stopped(f"its process said what cannot be read: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise Stopped("its process said what cannot be read")
        return found

    def _move(self, selector: selectors.BaseSelector, pipe: Any) -> None:
        """Move what can be moved through one of the pipes."""
        try:
            if pipe is self._in:
                del self._unsent[: os.write(pipe.fileno(), self._unsent[:_CHUNK_BYTES])]
                if not self._unsent:
                    selector.unregister(pipe)
                return
            chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:
            selector.unregister(pipe)
            return
        if pipe is self._err:
            self._printed_bytes += len(chunk)
            self._printed = (self._printed + chunk)[-MAX_SHOWN_BYTES:]
            if self._printed_bytes > MAX_PRINTED_BYTES:
                raise Stopped(f"it printed more than {MAX_PRINTED_BYTES} bytes and was ended")
            if not chunk:
                selector.unregister(pipe)
            return
        self._heard += chunk
        if len(self._heard) > MAX_ANSWER_BYTES:
            raise Stopped(f"it returned more than {MAX_ANSWER_BYTES} bytes and was ended")
        if not chunk and b"\n" not in self._heard:
            raise Stopped(f"its process ended: {self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(WATCH_EVERY_S)
        except subprocess.TimeoutExpired:
            return "it closed the way for its answer"
        # bubblewrap says so of the process within it by adding 128.
        number = -status if status < 0 else status - 128
        names = {int(one): one.name for one in signal.Signals}
        if number == signal.SIGXCPU:
            return f"it used more than {self._profile.may.cpu_s} s of CPU"
        return names.get(number, f"exit status {status}")

    def _watch(self) -> None:
        """End it if all of its processes together use more than they may."""
        now = time.monotonic()
        if now - self._watched < WATCH_EVERY_S:
            return
        self._watched = now
        may = self._profile.may
        most = may.processes + _OWN_PROCESSES
        use = used(self._process.pid, at_most=most)
        if use.processes > most:
            raise Stopped(f"it started more than {may.processes} processes and was ended")
        if self._scratch is not None and held(self._scratch) > self._profile.memory_bytes:
            raise Stopped(
                f"it has more than {may.memory_mb} MB, or too many files, in its /tmp and was ended"
            )
        if use.memory_bytes > self._profile.memory_bytes:
            raise Stopped(f"it took more than {may.memory_mb} MB of memory and was ended")
        if use.cpu_s > may.cpu_s:
            raise Stopped(f"it used more than {may.cpu_s} s of CPU and was ended")


def remove(directory: str) -> None:
    """Remove a directory that others have filled; nobody waits until it is gone."""
    # Not shutil: its recursion has an end, and a tool can make more directories in each other.
    with suppress(OSError):
        removing = subprocess.Popen(["rm", "-rf", "--", directory])
        threading.Thread(target=removing.wait, daemon=True).start()


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _environment(profile: Profile, scratch: str) -> dict[str, str]:
    """Return all of the variables that it has."""
    fixed = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(import_path()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # What is set outside wins, as in a worker.
    return {**fixed, **{name: os.environ.get(name, value) for name, value in profile.env.items()}}


def _setup(
    profile: Profile, mechanism: Mechanism, where: Places, scratch: str | None, egress: Path | None
) -> dict[str, Any]:
    landlock = None
    if mechanism.name == "landlock":
        write = [*where.write, *([Path(scratch)] if scratch else [])]
        lists = {"read": where.read, "listed": where.listed, "write": write}
        landlock = {what: [str(path) for path in paths] for what, paths in lists.items()}
    return {
        "mechanism": mechanism.name,
        "landlock": landlock,
        "scratch": scratch,
        "bounds": {
            "memory_bytes": profile.memory_bytes,
            "cpu_s": profile.may.cpu_s,
            "processes": profile.may.processes + _OWN_PROCESSES if mechanism.name == "bubblewrap" else None,
        },
        "directory": str(profile.directory),
        "modules": profile.modules,
        "listed": profile.listed,
        "egress": str(bubblewrap.EGRESS_PATH) if egress is not None else None,
        "path": import_path()[1:],
    }
