"""The rail as it is, on the log in memory: decider, minds, workers, permits, policy, gates.

Every part has the log of its own user of the broker, which refuses what that user may not publish: the same
table (`bus.permissions`) from which the users of a real broker are made.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actors.agent import Agent
from actors.executor import Executor
from actors.host import AgentLoop
from actors.models import Chooser, Goal, Proposer
from actors.models.table import DecisionTable
from actors.planner import Planner
from actors.verifier import Verifier
from bus import consumers, permissions, subjects
from bus.memory import MemoryBroker, MemoryLog
from bus.memory_streams import matches
from core import run
from core.conformance import Limits
from core.course import MIND_POOL
from core.decide import Catalogue
from core.ports import Address, Fence, Log, LogForbidden, Record, RunKey
from core.state import RunState
from handrail.project import Project
from handrail.v1 import event_pb2, plan_pb2
from orchestrator.decider import Decider
from tests.hijack.world import WORLD, World
from tests.keys import CHECKER, SIGNER
from workers.host import Worker
from workers.instance import Instance

TENANT = "default"
TIMEOUT_S = 30.0
REST_S = 1.0
REST_LOOK_S = 0.01
GATE_LIFE_NS = 3_600 * 10**9
CONCURRENCY = 8
ROLES = ("planner", "executor", "verifier")


class UserLog(MemoryLog):
    """The log as one user of the broker has it."""

    def __init__(self, broker: MemoryBroker, user: permissions.User) -> None:
        super().__init__(broker, (0,))
        self.user = user

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Append, if the user may."""
        subject = subjects.build(address)
        tokens = subject.split(".")
        if not any(matches(allowed.split("."), tokens) for allowed in self.user.publish):
            raise LogForbidden(f"{self.user.name} may not publish to {subject}")
        return await super().append(address, event, fence=fence, trace=trace)


@dataclass
class OnePlan:
    """A planner that knows one plan; hijacked or not, it is asked once."""

    plan: plan_pb2.Plan

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return it."""
        return event_pb2.PlanAnswer(plan=self.plan)


class Stage:
    """One run of one plan, and everything that carries it."""

    def __init__(
        self,
        project: Project,
        plan: plan_pb2.Plan,
        world: World,
        *,
        policy: Any = None,
        tools: Collection[str] = (),
        chooser: Chooser | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        self.project, self.world = project, world
        self.timeout_s = TIMEOUT_S
        self.key = RunKey(0, TENANT, subjects.run_id(0, uuid.uuid4().hex[:12]))
        self.broker = MemoryBroker()
        toolboxes = tuple(project.settings.toolboxes)
        pools = {**dict.fromkeys(ROLES, (MIND_POOL,)), "worker": toolboxes}
        self.users = {user.name: user for user in permissions.users(pools)}
        self.reader = MemoryLog(self.broker, (0,))
        catalogue = Catalogue(
            contracts=project.protos,
            policy=policy or project.policy,
            gate_life_ns=GATE_LIFE_NS,
            limits=Limits(proposers=proposer is not None),
        )
        decider = Decider(self.log("decider"), catalogue, signer=SIGNER, instance="1")
        minds: tuple[Agent, ...] = (
            Planner(OnePlan(plan), pool=MIND_POOL, instance="1"),
            Executor(chooser or DecisionTable(), proposer, pool=MIND_POOL, instance="1"),
            Verifier(project.tools, project.protos, checker=CHECKER, pool=MIND_POOL, instance="1"),
        )
        self._serving: list[Callable[[], Coroutine[Any, Any, None]]] = [decider.serve]
        for mind in minds:
            log = self.log(permissions.user_name(mind.role, MIND_POOL))
            loop = AgentLoop(mind, log, pool=MIND_POOL, instance="1", concurrency=CONCURRENCY)
            self._serving.append(loop.run)
        used = {project.contracts[tool].toolbox for tool in {*_tools(plan), *tools}}
        for toolbox in sorted(used):
            self._serving.append(self._worker(toolbox).serve)
        self._tasks: list[asyncio.Task[None]] = []

    def _worker(self, toolbox: str) -> Worker:
        own = {n: t for n, t in self.project.tools.items() if t.contract.toolbox == toolbox}
        return Worker(
            self.log(permissions.user_name("worker", toolbox)),
            own,
            toolbox=toolbox,
            instance=Instance("here", 1, f"{toolbox}_0", 1),
            checker=CHECKER,
            concurrency=CONCURRENCY,
        )

    def log(self, user: str) -> UserLog:
        """Return the log as a user of the broker has it."""
        return UserLog(self.broker, self.users[user])

    async def live(
        self,
        goal: event_pb2.Goal,
        *others: Coroutine[Any, Any, None],
        after: Callable[[RunState], Coroutine[Any, Any, None]] | None = None,
    ) -> RunState:
        """See the run through to its end, with others beside it, and something that comes after."""
        WORLD.set(self.world)
        self._tasks = [asyncio.create_task(serve()) for serve in self._serving]
        beside = [asyncio.create_task(other) for other in others]
        try:
            await self._submit(goal)
            state = await self._finish(beside)
            if after is not None:
                await after(state)
                await rest(self.reader, self.project)
            return await self.settled()
        finally:
            for task in (*self._tasks, *beside):
                task.cancel()
            await asyncio.gather(*self._tasks, *beside, return_exceptions=True)

    async def _submit(self, goal: event_pb2.Goal) -> None:
        event = event_pb2.Event(id=uuid.uuid4().hex, version=run.VERSION, writer="gateway/1")
        event.submit.goal.CopyFrom(goal)
        address = Address(self.key, "cmd", ("submit",))
        await self.log("gateway").append(address, event, fence=subjects.first(address))

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

    async def decide(self, opened: event_pb2.GateOpened, approver: str, *, approve: bool) -> None:
        """Decide at a gate, as the gateway writes it."""
        choice = event_pb2.GATE_CHOICE_APPROVE if approve else event_pb2.GATE_CHOICE_DENY
        body = event_pb2.Decide(
            gate=opened.gate, choice=choice, binding=opened.binding, approver=approver, reason="as shown"
        )
        event = event_pb2.Event(id=uuid.uuid4().hex, version=run.VERSION, writer="gateway/1", decide=body)
        await self.log("gateway").append(Address(self.key, "cmd", ("decide",)), event)

    async def settled(self) -> RunState:
        """Return the run as everybody reads it now."""
        return run.fold(self.key, await self.reader.read(self.key))

    def now_ns(self) -> int:
        """Return the broker's time."""
        return self.broker.clock.now_ns()

    async def put(self, address: Address, event: event_pb2.Event) -> None:
        """Write as if the broker let everybody write everywhere."""
        subject = subjects.build(address)
        self.broker.put(subjects.ev_stream(address.key.shard), subject, event.SerializeToString())


async def rest(log: Log, project: Project) -> None:
    """Wait until the workers have answered what they were asked, as far as they do so soon."""
    heard = [consumers.worker(toolbox) for toolbox in project.settings.toolboxes]
    with suppress(TimeoutError):
        async with asyncio.timeout(REST_S):
            while any([await log.backlog(consumer) for consumer in heard]):
                await asyncio.sleep(REST_LOOK_S)


def _tools(plan: plan_pb2.Plan) -> set[str]:
    return {
        name
        for step in plan.steps
        for name in (step.tool, *(one.tool for one in (*step.rules, *step.grants)))
        if name
    }


def parts_of(record: Record) -> list[event_pb2.Event]:
    """Return the events that a record holds."""
    return [part.event for part in run.unbundled(record) if part.event is not None]
