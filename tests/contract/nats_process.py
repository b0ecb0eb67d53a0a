"""A plain nats-server for tests, on a free port, which can be killed and started again where it was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

READY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


class NatsProcess:
    """One server on one store directory; `config` is added to its configuration."""

    def __init__(self, directory: Path, config: str = "") -> None:
        self._directory = directory
        self._config = directory / "nats.conf"
        self._config.write_text(config)
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        binary = Path(sys.executable).parent / "nats-server"
        address = ["-a", "127.0.0.1", "-p", str(self._port), "--ports_file_dir", str(self._directory)]
        store = ["-js", "-sd", str(self._directory / "store"), "-l", str(self._directory / "log")]
        self._process = subprocess.Popen([binary, "-c", self._config, *address, *store])
        ports = self._directory / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ports.exists() or not ports.read_text():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline, "nats-server did not start"
            time.sleep(0.01)
        self._port = int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
