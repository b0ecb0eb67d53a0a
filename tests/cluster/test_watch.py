"""Whom the watch over Ray's actors kills: the silent, and not those that Ray is starting again."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from actors.pool import AgentSpec, PoolSpec
from actors.ray_host import MAX_SILENT_PINGS, MAX_SILENT_PINGS_AT_START, RESTARTING, HeadLost, RayHost

ANSWER = "an answer"


class Watched(RayHost):
    """A host whose actor answers as a script has it, and whose kills are counted."""

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__("nowhere:nothing")
        self._specs = {spec.name: spec}
        self.spec = spec
        self.kills = 0

    async def pings(self, says: str, times: int) -> int:
        """Ping so often, and say how many kills that brought."""
        before, self.says = self.kills, says
        for _ in range(times):
            await self._tend(self.spec)
        return self.kills - before

    async def _reach(self, name: str, method: str, *arguments: object) -> Any:
        if self.says != ANSWER:
            raise ValueError(self.says)
        return ANSWER

    async def _kill(self, name: str, *, no_restart: bool) -> None:
        self.kills += 1

    async def _call(self, operation: Any) -> Any:
        operation.close()


def watched() -> Watched:
    (spec,) = PoolSpec("planner", "main").slots()
    return Watched(spec)


async def test_one_that_hangs_is_killed_after_a_few_pings() -> None:
    host = watched()
    await host.pings(ANSWER, 1)
    assert await host.pings("TimeoutError", MAX_SILENT_PINGS - 1) == 0
    assert await host.pings("TimeoutError", 1) == 1


async def test_one_that_ray_starts_again_is_given_the_time_of_a_start() -> None:
    host = watched()
    await host.pings(ANSWER, 1)
    assert await host.pings("TimeoutError", 1) == 0
    assert await host.pings(f"ActorUnavailableError: {RESTARTING}..", MAX_SILENT_PINGS_AT_START - 2) == 0
    assert await host.pings(f"ActorUnavailableError: {RESTARTING}..", 1) == 1


async def test_who_has_come_back_is_patient_no_longer() -> None:
    host = watched()
    await host.pings(f"ActorUnavailableError: {RESTARTING}..", 2)
    await host.pings(ANSWER, 1)
    assert await host.pings("TimeoutError", MAX_SILENT_PINGS) == 1


async def test_a_ping_that_fails_late_says_nothing_of_who_has_answered_since() -> None:
    host, reached, go_on = watched(), asyncio.Event(), asyncio.Event()
    host.says = ANSWER

    async def late(name: str, method: str, *arguments: object) -> Any:
        reached.set()
        await go_on.wait()
        raise ValueError(f"{RESTARTING}..")

    reach, host._reach = host._reach, late  # type: ignore[method-assign]
    ping = asyncio.create_task(host._tend(host.spec))
    await reached.wait()
    host._reach = reach  # type: ignore[method-assign]
    assert await host._ask(host.spec.name, "status") == ANSWER
    go_on.set()
    await ping
    assert await host.pings("TimeoutError", MAX_SILENT_PINGS) == 1


async def test_a_lost_head_is_noticed_while_a_call_to_an_actor_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    host, asked = watched(), asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(host, "_ask", hang)
    with socket.create_server(("127.0.0.1", 0)) as head:
        host._address = f"127.0.0.1:{head.getsockname()[1]}"
        watching = asyncio.create_task(host.watch())
        await asked.wait()
    with pytest.raises(HeadLost):
        await asyncio.wait_for(watching, 5.0)
