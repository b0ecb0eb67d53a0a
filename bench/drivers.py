"""The bench's end of a driver process: orders out, answers in, one at a time, within a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ANSWER_GRACE_S = 90.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


class DriverFailed(Exception):
    """A driver ended, or did not answer in time; the text has the last of what it wrote to stderr."""


class Driver:
    """A running driver."""

    def __init__(
        self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, stderr: Path
    ) -> None:
        self._stderr = stderr
        with stderr.open("a") as errors:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(env),
                cwd=cwd,
            )
        self._buffer = b""
        try:
            self.settings = self._answer(READY_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The driver's process id."""
        return self._process.pid

    def send(self, **order: Any) -> None:
        """Give an order; `answer` waits for what comes of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failed("it has ended") from None

    def answer(self, seconds: float = 0.0) -> dict[str, Any]:
        """Return the answer to the last order, which takes `seconds`."""
        return self._answer(seconds + ANSWER_GRACE_S)

    def order(self, **order: Any) -> dict[str, Any]:
        """Give an order and return its answer."""
        self.send(**order)
        return self.answer(float(order.get("seconds", 0)))

    def close(self) -> None:
        """Let it end, and see to it that it does."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """Kill it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([out], [], [], timeout_s)[0]:
                raise self._failed(f"no answer within {timeout_s:g} s")
            chunk = os.read(out, 1 << 20)
            if not chunk:
                raise self._failed("it has ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self, why: str) -> DriverFailed:
        said = self._stderr.read_text(errors="replace")[-800:] if self._stderr.exists() else ""
        return DriverFailed(f"{why}: {said.strip()}")
