"""The same run on a real stack: an embedded NATS broker with its users, gRPC, permits of its own key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus import subjects
from bus.link import Link
from bus.log import NatsLog
from bus.permissions import inbox_prefix, user_name
from core import run
from core.course import MIND_POOL
from core.ports import Address, RunKey
from core.state import RunState
from handrail.client import Client
from handrail.project import Project
from handrail.stack.inline import embedded
from handrail.tokens import TOKEN_FILE
from handrail.v1 import event_pb2, plan_pb2
from tests.hijack.stage import TENANT, TIMEOUT_S, rest
from tests.hijack.world import WORLD, World

CREDENTIALS_FILE = "credentials.json"
MINDS = (user_name("executor", MIND_POOL), user_name("planner", MIND_POOL))


class Switch(World):
    """Whichever world it is at the moment: a stack lives longer than a run."""

    def __init__(self) -> None:
        self.current: World | None = None

    async def call(self, function: str, arguments: Mapping[str, Any], key: str) -> Any:
        """Call a tool in the world of the moment."""
        assert self.current is not None
        return await self.current.call(function, arguments, key)


@dataclass(frozen=True)
class Named:
    """A user of the broker, by name."""

    name: str


class MindLog:
    """The log as a mind's user of the broker has it."""

    def __init__(self, log: NatsLog, name: str) -> None:
        self._log = log
        self.user = Named(name)

    async def append(self, address: Address, event: event_pb2.Event) -> int:
        """Append; the broker refuses what the user may not publish."""
        return await self._log.append(address, event)


class RealStack:
    """A stack that is up, on which one run after another lives."""

    def __init__(self, client: Client, logs: Mapping[str, NatsLog], switch: Switch) -> None:
        self.client, self.logs, self.switch = client, logs, switch

    def stage(self, project: Project, plan: plan_pb2.Plan, world: World, **_: Any) -> RealStage:
        """Return a stage for one run."""
        return RealStage(self, project, plan, world)


class RealStage:
    """What `Stage` is, on a stack that others use too."""

    def __init__(self, stack: RealStack, project: Project, plan: plan_pb2.Plan, world: World) -> None:
        self.project, self.world = project, world
        self.timeout_s = TIMEOUT_S
        self.reader = stack.logs["admin"]
        self.key = RunKey(0, TENANT, "")
        self._stack, self._plan = stack, plan

    def log(self, user: str) -> MindLog:
        """Return the log as a user of the broker has it."""
        return MindLog(self._stack.logs[user], user)

    def now_ns(self) -> int:
        """Return a time that is near the broker's: both are this machine's."""
        return time.time_ns()

    async def put(self, address: Address, event: event_pb2.Event) -> None:
        """Write as the broker's administrator, who may everything."""
        await self.reader.append(address, event)

    async def live(
        self,
        goal: event_pb2.Goal,
        *others: Coroutine[Any, Any, None],
        after: Callable[[RunState], Coroutine[Any, Any, None]] | None = None,
    ) -> RunState:
        """See the run through to its end."""
        self._stack.switch.current = self.world
        submitted = await self._stack.client.submit(
            goal.text, plan=self._plan, submitter=goal.submitter, ceiling=goal.ceiling
        )
        self.key = subjects.run_key(submitted.run, TENANT)
        beside = [asyncio.create_task(other) for other in others]
        try:
            state = await self._finish(beside)
            if after is not None:
                await after(state)
                await rest(self.reader, self.project)
            return await self.settled()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _finish(self, beside: list[asyncio.Task[None]]) -> RunState:
        state = run.initial(self.key)
        async with asyncio.timeout(self.timeout_s):
            async for record in self.reader.follow(self.key):
                state = run.apply(state, record)
                for task in beside:
                    if task.done():
                        task.result()
                if state.finished is not None:
                    return state
        raise AssertionError("unreachable")

    async def settled(self) -> RunState:
        """Return the run as everybody reads it now."""
        return run.fold(self.key, await self.reader.read(self.key))

    async def decide(self, opened: event_pb2.GateOpened, approver: str, *, approve: bool) -> None:
        """Decide at a gate, over gRPC."""
        gate = f"{self.key.run}-{opened.gate}"
        await self._stack.client.decide(gate, approve=approve, approver=approver, binding=opened.binding)


@asynccontextmanager
async def real_stack(project_dir: Path, data_dir: Path) -> AsyncIterator[RealStack]:
    """Start a stack in this process, and connect as the minds do whom the attacker has."""
    switch = Switch()
    WORLD.set(switch)
    async with AsyncExitStack() as closing:
        stack = await closing.enter_async_context(embedded(project_dir, data_dir))
        passwords = json.loads((data_dir / CREDENTIALS_FILE).read_text())
        logs = {}
        for name in ("admin", *MINDS):
            link = await Link.connect(
                stack.endpoint.broker_url,
                user=name,
                password=passwords[name],
                name=f"hijacked {name}",
                inbox_prefix=inbox_prefix(name),
            )
            logs[name] = NatsLog(link, shards=(0, 1, 2, 3))
            closing.push_async_callback(logs[name].close)
        client = await closing.enter_async_context(Client(stack.address, token_file=data_dir / TOKEN_FILE))
        yield RealStack(client, logs, switch)
