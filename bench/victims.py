"""What the crash benchmark kills, and our own stack as such; the peers are in `bench.rival_victims`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from bench import rivals, stack
from bench.ledger import Ledger
from handrail.errors import ClientError
from handrail.sync_client import SyncClient
from handrail.v1 import event_pb2

AT_A_TIME = 10
EFFECT_S = 0.5
SUBMIT_TIMEOUT_S = 40.0
DEATH_TIMEOUT_S = 20.0
POLL_S = 0.02


class Victim(Protocol):
    """What is killed."""

    name: str
    killed: str

    def begin(self, items: Sequence[str]) -> None:
        """Begin a run for each item, and wait for none."""
        ...

    def kill(self, *, everything: bool) -> None:
        """Kill what is to be killed and have it started again."""
        ...

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items for which the product has been called."""
        ...

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs have come to an end."""
        ...

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """Return the items that were surfaced for a human."""
        ...

    def acknowledged(self, items: Sequence[str]) -> set[str] | None:
        """Return the items whose submission was acknowledged; None where nothing ever is."""
        ...


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Return when a condition holds, or when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)


class Ours:
    """A stack, of which the worker or everything is killed."""

    def __init__(self, project: Path, tool: str, kill_all: bool, name: str, ledger: Ledger) -> None:
        self.name = name
        self.killed = "supervisor, and everything with it" if kill_all else "worker"
        self._project = project
        self._tool = tool
        self._kill_all = kill_all
        self._ledger = ledger
        self._environment = {"BENCH_LEDGER": str(ledger.path), "BENCH_EFFECT_S": str(EFFECT_S)}
        self._stack = self._start()
        self._client = SyncClient(self._stack.address, timeout_s=30, token_file=self._stack.token)
        self._threads = ThreadPoolExecutor(2 * AT_A_TIME)
        self._runs: dict[str, str] = {}
        self._settled: dict[str, int] = {}

    def _start(self) -> stack.Stack:
        return stack.start(self._project, extra=self._environment)

    def begin(self, items: Sequence[str]) -> None:
        """Submit a run for each item, again under the same request id until it is acknowledged."""
        for item in items:
            self._threads.submit(self._submit, item)

    def _submit(self, item: str) -> None:
        form = {"steps": [{"id": "s1", "tool": self._tool, "with": {"item": item}}]}
        deadline = time.monotonic() + SUBMIT_TIMEOUT_S
        while item not in self._runs and time.monotonic() < deadline:
            with suppress(ClientError):
                self._runs[item] = self._client.submit("charge", plan=form, request_id=item).run

    def kill(self, *, everything: bool) -> None:
        """Kill the worker, or everything, which is then started again."""
        if not (everything or self._kill_all):
            workers = [pid for name, pid in self._stack.processes().items() if name.startswith("worker")]
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            self._ledger.note("kill")
            return
        left = list(self._stack.processes().values())
        self._stack.kill()
        self._ledger.note("kill")
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), DEATH_TIMEOUT_S)
        self._stack = self._start()

    def begun(self, items: Sequence[str]) -> set[str]:
        """Return the items that the client has tried to submit."""
        return set(items)

    def ended(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs are done."""
        return {item for item in items if self._status(item) == event_pb2.RUN_STATUS_DONE}

    def doubtful(self, items: Sequence[str]) -> set[str]:
        """Return the items whose runs wait for a human."""
        return {item for item in items if self._status(item) == event_pb2.RUN_STATUS_WAITING}

    def acknowledged(self, items: Sequence[str]) -> set[str]:
        """Return the items whose submission was answered."""
        return {item for item in items if item in self._runs}

    def _status(self, item: str) -> int:
        run = self._runs.get(item)
        if run is None:
            return 0
        if item not in self._settled:
            try:
                status = int(self._client.get(run).status)
            except ClientError:
                return 0
            if status not in (event_pb2.RUN_STATUS_DONE, event_pb2.RUN_STATUS_WAITING):
                return status
            self._settled[item] = status
        return self._settled[item]

    def stop(self) -> None:
        """Take everything down."""
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stack.kill()


@contextmanager
def ours(place: Path, tool: str, what: str, kill_all: bool, ledger: Ledger) -> Iterator[Victim]:
    """Run a stack whose tool has one kind of effect; its worker is killed, or everything."""
    project = stack.copy_project(place / f"crash-{tool}-{'all' if kill_all else 'worker'}", "always")
    with (project / "handrail.toml").open("a") as settings:
        # Where clients find it again after everything was killed.
        settings.write(f'\n[gateway]\nlisten = "127.0.0.1:{rivals.free_ports(1)[0]}"\n')
    victim = Ours(project, tool, kill_all, f"Handrail, {what}", ledger)
    try:
        yield victim
    finally:
        victim.stop()
