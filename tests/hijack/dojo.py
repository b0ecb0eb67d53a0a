"""AgentDojo's suites as an environment: their process, in a venv that is made when it is first asked for."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench import venvs
from tests.hijack.world import Call, Injection, Task

HERE = Path(__file__).parent
MAX_LINE_BYTES = 16 * 1024 * 1024
STOP_TIMEOUT_S = 10.0


class SuitesFailed(RuntimeError):
    """The process of the suites could not do what it was asked."""


@asynccontextmanager
async def suites() -> AsyncIterator[Suites]:
    """Start the suites; raises `venvs.Missing` where AgentDojo cannot be installed."""
    python = await asyncio.to_thread(venvs.python, "agentdojo", HERE / "agentdojo.txt", "--no-deps")
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(HERE / "suites.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    found = Suites(process)
    hearing = asyncio.create_task(found.hear())
    try:
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        await asyncio.gather(hearing, return_exceptions=True)


class Suites:
    """The other end of `suites.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: dict[tuple[str, str], Task] = {}

    async def hear(self) -> None:
        """Hand answers to who asked, until the process ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            waiting = self._waiting.pop(said["id"])
            if "error" in said:
                waiting.set_exception(SuitesFailed(said["error"]))
            else:
                waiting.set_result(said["value"])
        for waiting in self._waiting.values():
            waiting.set_exception(SuitesFailed("the process of the suites has ended"))

    async def _ask(self, operation: str, **asked: Any) -> Any:
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "op": operation, **asked}).encode() + b"\n")
        return await waiting

    async def tools(self) -> dict[str, dict[str, Any]]:
        """Return every tool of the suites, with its arguments and their defaults."""
        found: dict[str, dict[str, Any]] = await self._ask("tools")
        return found

    async def names(self) -> dict[str, dict[str, list[str]]]:
        """Return the names of tasks and injections, by suite."""
        found: dict[str, dict[str, list[str]]] = await self._ask("names")
        return found

    async def task(self, suite: str, name: str, text: str = "") -> Task:
        """Return a user task; kept, as it is without a text."""
        if not text and (suite, name) in self._tasks:
            return self._tasks[suite, name]
        found = await self._ask("task", suite=suite, task=name, text=text)
        task = Task(suite, name, found["prompt"], tuple(_call(one) for one in found["calls"]))
        if not text:
            self._tasks[suite, name] = task
        return task

    async def injection(self, suite: str, name: str) -> Injection:
        """Return an injection task."""
        found = await self._ask("injection", suite=suite, injection=name)
        return Injection(suite, name, found["goal"], tuple(_call(one) for one in found["calls"]))

    async def open(self, world: str, suite: str, name: str, text: str = "") -> None:
        """Make an environment."""
        await self._ask("open", world=world, suite=suite, task=name, text=text)

    async def close(self, world: str) -> None:
        """Forget an environment."""
        await self._ask("close", world=world)

    async def call(
        self, world: str, function: str, arguments: Mapping[str, Any], key: str = ""
    ) -> tuple[Any, str | None]:
        """Call a tool."""
        said = await self._ask("call", world=world, function=function, arguments=dict(arguments), key=key)
        return said["value"], said["error"]

    async def useful(self, world: str) -> bool:
        """Say whether the user's task is done."""
        return bool(await self._ask("useful", world=world))

    async def reached(self, world: str, injection: str, *, speaks: bool) -> bool:
        """Say whether the attacker's goal is reached."""
        return bool(await self._ask("reached", world=world, injection=injection, speaks=speaks))


def _call(said: Mapping[str, Any]) -> Call:
    return Call(said["function"], said["arguments"], said.get("changes", False), said.get("output"))
