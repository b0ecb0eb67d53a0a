"""Real processes for tests: a broker, a Ray head, and a process with a `RayHost` that takes orders.

The process that runs the tests never imports ray: a driver dies with its head, and keeps its first token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from actors.host import HostStatus
from actors.pool import AgentSpec
from actors.ray_head import RayHead
from bus import consumers, streams
from bus.broker import find_binary
from bus.link import Link
from tests.cluster import echo

WAIT_S = 90.0
"""Longer than a supervisor waits for a head."""
POLL_S = 0.02
LOST = 7
_T = TypeVar("_T")


async def eventually(probe: Callable[[], Awaitable[_T]], timeout_s: float = WAIT_S) -> _T:
    """Return the first answer that is true; a pause of this process costs one look, and not the rest."""
    for _ in range(int(timeout_s / POLL_S)):
        if answer := await probe():
            return answer
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"nothing of it is true after {timeout_s:g} s")


@contextmanager
def broker(directory: Path) -> Iterator[str]:
    """Run a broker without users and return its address."""
    (directory / "ports").mkdir(parents=True)
    config = directory / "broker.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}/ports"\n'
        f'jetstream {{ store_dir: "{directory}/store" }}\n'
    )
    process = subprocess.Popen([find_binary(), "-c", config], stderr=subprocess.DEVNULL)
    try:
        yield _ports(directory / "ports" / f"{find_binary().name}_{process.pid}.ports")
    finally:
        process.kill()
        process.wait()


async def furnish(broker_url: str) -> None:
    """Create the streams, and the consumer of the echoes."""
    link = await Link.connect(broker_url)
    mind = consumers.mind(echo.ROLE, echo.POOL)
    await streams.ensure(link, shards=(0,), consumers=[mind], max_bytes=1 << 24)
    await link.close()


@contextmanager
def ray_head(data_dir: Path) -> Iterator[tuple[RayHead, subprocess.Popen[bytes]]]:
    """Run a Ray head, and see to it that all of it ends."""
    head = RayHead.of(data_dir)
    process = subprocess.Popen(
        head.command(1),
        env={**os.environ, **head.env()},
        stdin=subprocess.DEVNULL,
        stdout=(data_dir / "ray_head.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while head.address() is None:
            assert process.poll() is None, (data_dir / "ray_head.log").read_text()
            assert time.monotonic() < deadline, (data_dir / "ray_head.log").read_text()
            time.sleep(POLL_S)
        yield head, process
    finally:
        process.terminate()
        process.wait(WAIT_S)
        for pid in session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.clear()


def session(number: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == number and fields[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


class RayProcess:
    """A process with a `RayHost` that watches its actors and does as it is told: the host of the tests."""

    def __init__(self, head: RayHead, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.stage", str(head.address())],
                env={**os.environ, **head.env()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    async def ensure(self, specs: Sequence[AgentSpec]) -> None:
        await self._order("ensure", [dataclasses.asdict(spec) for spec in specs])

    async def statuses(self) -> list[HostStatus]:
        return [HostStatus(**status) for status in await self._order("statuses", None)]

    async def stop(self, drain_s: float) -> None:
        await self._order("stop", drain_s)

    def kill(self) -> None:
        """Kill the process; its actors live on."""
        self._process.kill()
        self._process.communicate()

    async def wait(self) -> int:
        """Wait for it to end of its own, and return its exit status."""
        return await asyncio.to_thread(self._process.wait, WAIT_S)

    async def _order(self, verb: str, what: Any) -> Any:
        line = await asyncio.to_thread(self._ask, json.dumps([verb, what]).encode() + b"\n")
        assert line, f"the Ray process ended with {await self.wait()}"
        return json.loads(line)

    def _ask(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()


async def _obey(address: str) -> None:
    from actors.ray_host import HeadLost, RayHost

    # Ray prints what it likes.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    host = RayHost("tests.cluster.echo:build")
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)

    async def obey() -> None:
        while line := await reader.readline():
            verb, what = json.loads(line)
            answer = None
            if verb == "ensure":
                await host.ensure([AgentSpec(**spec) for spec in what])
            elif verb == "statuses":
                answer = [dataclasses.asdict(status) for status in await host.statuses()]
            else:
                await host.stop(what)
            print(json.dumps(answer), file=answers, flush=True)

    code = 0
    try:
        await host.connect(address)
        tasks = [asyncio.create_task(obey()), asyncio.create_task(host.watch())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    except HeadLost as lost:
        print(lost, file=sys.stderr, flush=True)
        code = LOST
    # Ray's own threads may hang in a head that is gone.
    os._exit(code)


def _ports(file: Path) -> str:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, LookupError):
            return str(json.loads(file.read_text())["nats"][0])
        time.sleep(POLL_S)
    raise TimeoutError(f"the broker has not written {file}")


if __name__ == "__main__":
    asyncio.run(_obey(sys.argv[1]))
