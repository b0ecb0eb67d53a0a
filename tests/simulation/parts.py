"""The parts of the stack as they are, each in a process of its own, and a client that asks things of them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar
from unittest.mock import patch

import orchestrator.decider
from actors.agent import Agent
from actors.executor import Executor
from actors.host import AgentLoop
from actors.models.table import DecisionTable
from actors.planner import Planner
from actors.verifier import Verifier
from core.conformance import Limits
from core.moves import Move
from core.ports import Address, LogError, RunKey
from core.state import RunState
from core.ulids import ulid
from handrail.v1 import event_pb2, run_service_pb2
from orchestrator.decider import Decider
from orchestrator.rpc_errors import Refusal
from orchestrator.runs import Runs
from orchestrator.services import RunService
from orchestrator.submission import Submissions
from orchestrator.waits import Waits
from tests.simulation import tools
from tests.simulation.broker import SimBroker
from tests.simulation.keys import SeedKey
from tests.simulation.log import SimLog
from tests.simulation.loop import PROCESS, SimLoop
from tests.simulation.network import Link
from tests.simulation.plans import Command, Draft, DrawnPlans
from tests.simulation.processes import Process, Supervisor
from tests.simulation.watch import Basis
from tests.simulation.weather import Weather
from tests.simulation.world import SimWorker
from workers.instance import Instance

TENANT = "default"
SITE, ELSEWHERE = "here", "elsewhere"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RPC_TIMEOUT_S = 5.0
RETRY_S = 0.3
MAX_TRIES = 200
_T = TypeVar("_T")


class Parts:
    """Puts processes of every role on one broker."""

    def __init__(
        self,
        loop: SimLoop,
        broker: SimBroker,
        weather: Weather,
        supervisor: Supervisor,
        *,
        seed: int | str,
        shards: tuple[int, ...],
        drafts: list[Draft],
        bases: dict[str, Basis],
        late: Callable[[str], None],
        key: SeedKey,
    ) -> None:
        self._loop, self._broker, self._weather, self._supervisor = loop, broker, weather, supervisor
        self._shards = shards
        self._plans = DrawnPlans(drafts)
        self._random = random.Random(f"{seed}/parts")
        self._bases, self._late = bases, late
        self.key = key
        self._bases_of: dict[tuple[Process, RunKey], Basis] = {}
        self._looks = 0
        self.links: dict[Process, Link] = {}
        self.deciders: dict[Process, Decider] = {}
        self.services: dict[Process, RunService] = {}
        # Workers of another site: nothing is known of their lives.
        self._elsewhere = self._random.random() < 0.35
        self._concurrency = self._random.choice((1, 2, 4))

    def begin(self) -> None:
        """Start everything."""
        add = self._supervisor.add
        add("decider-1", self._decider)
        add("decider-2", self._decider)
        add("gateway", self._gateway)
        for role in ("planner", "executor", "verifier"):
            add(f"{role}-1", self._mind)
        if self._random.random() < 0.4:
            add("verifier-2", self._mind)
        for slot in ("box_0", "box_1", "lab_0"):
            add(slot, self._worker)
        # Of a machine that is gone for good nobody ever says that its worker is dead.
        self._supervisor.places["box_1"].mortal = self._elsewhere and self._random.random() < 0.5

    def _log(self, process: Process) -> SimLog:
        link = self.links[process] = Link(self._broker, self._loop, process, self._weather)
        return SimLog(link, self._shards, lambda address, event: self._sending(process, address, event))

    def _sending(self, process: Process, address: Address, event: event_pb2.Event) -> None:
        basis = self._bases_of.get((process, address.key))
        if address.channel == "dec" and basis is not None:
            self._bases[event.id] = basis

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Know on what each decision is made."""

        def decide(state: RunState, *rest: Any, **named: Any) -> list[Move]:
            process = PROCESS.get()
            if isinstance(process, Process):
                self._looks += 1
                self._bases_of[process, state.key] = Basis(self._looks, state.applied)
            return real(state, *rest, **named)

        real = orchestrator.decider.decide_ahead
        with patch.object(orchestrator.decider, "decide_ahead", decide):
            yield

    async def _decider(self, process: Process) -> None:
        decider = self.deciders[process] = Decider(
            self._log(process), tools.CATALOGUE, signer=self.key, instance=str(process)
        )
        await decider.serve()

    async def _mind(self, process: Process) -> None:
        role, name = process.place.split("-")[0], str(process)
        agent: Agent
        if role == "planner":
            agent = Planner(self._plans, pool="main", instance=name)
        elif role == "executor":
            agent = Executor(DecisionTable(), pool="main", instance=name)
        else:
            agent = Verifier(tools.TOOLS, tools.CONTRACTS, checker=self.key, pool="main", instance=name)
        loop = AgentLoop(agent, self._log(process), pool="main", instance=name, concurrency=self._concurrency)
        await loop.run()

    async def _worker(self, process: Process) -> None:
        toolbox = process.place.split("_")[0]
        worker = SimWorker(
            self._log(process),
            tools.toolbox(toolbox),
            toolbox=toolbox,
            instance=self.instance(process),
            checker=self.key,
            concurrency=self._concurrency,
            ended=self._ended,
            now_ns=lambda: self._loop.now_ns() + process.skew_ns,
            late=self._late,
        )
        await worker.serve()

    def _ended(self, slot: str) -> int:
        """Know what a supervisor writes down: which generation was the last to end, of its own slots."""
        place = self._supervisor.places.get(slot)
        if place is None or place.process is None or (self._elsewhere and slot == "box_1"):
            return 0
        return place.generation - (not place.process.is_dead())

    def instance(self, process: Process) -> Instance:
        """Name a worker as its supervisor would."""
        site = ELSEWHERE if self._elsewhere and process.place == "box_1" else SITE
        return Instance(site, process.epoch, process.place, process.generation)

    async def _gateway(self, process: Process) -> None:
        log = self._log(process)
        submissions = Submissions(
            log,
            contracts=tools.CONTRACTS,
            limits=Limits(),
            tenant=TENANT,
            writer=str(process),
            clock=lambda: self._loop.now_ns() + process.skew_ns,
            entropy=self._random.randbytes,
        )
        runs = Runs(log, tenant=TENANT, writer=str(process), entropy=self._random.randbytes)
        listing: Any = _NoListing()
        self.services[process] = RunService(runs, submissions, listing, Waits())
        await asyncio.Event().wait()


class _NoListing:
    """Stands where the listing's database is: it decides nothing."""

    ready = False

    def insert(self, key: RunKey, goal: event_pb2.Goal, submitted_ns: int) -> None:
        """Forget it."""


class _Call:
    """What an RPC is told of its call: a trace context, which decides nothing."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of the call."""
        return (("traceparent", TRACEPARENT),)


_CALL = _Call()


class Client:
    """Somebody who submits goals and steers runs, and asks again until there is an answer."""

    def __init__(
        self, loop: SimLoop, supervisor: Supervisor, parts: Parts, note: Callable[[str], None]
    ) -> None:
        self._loop, self._supervisor, self._parts, self._note = loop, supervisor, parts, note
        # The runs of acknowledged goals, by label.
        self.runs: dict[str, str] = {}
        # The goals that were not taken, and the reasons of all refusals.
        self.declined: set[str] = set()
        self.refused: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def begin(self, draft: Draft) -> None:
        """Submit a goal when its time has come, and steer its run."""
        self._spawn(self._follow(draft))

    def order(self, run: str, command: Command) -> None:
        """Send one command."""
        self._spawn(self._command(run, command))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work, context=Context())
        task.add_done_callback(self._loop.note_failure)
        self.tasks.append(task)

    async def _follow(self, draft: Draft) -> None:
        await asyncio.sleep(draft.submit_s)
        request = run_service_pb2.SubmitGoalRequest(goal=draft.goal, request_id=self._request_id(draft))
        if draft.deadline_s:
            request.goal.deadline.FromNanoseconds(self._loop.now_ns() + int(draft.deadline_s * 1e9))
        tries = itertools.count()

        def submit(service: RunService) -> Awaitable[run_service_pb2.SubmitGoalResponse]:
            one = run_service_pb2.SubmitGoalRequest()
            one.CopyFrom(request)
            one.first = next(tries) == 0
            return service.SubmitGoal(one, _CALL)

        response = await self._persist(submit)
        if response is None:
            self.declined.add(draft.label)
            return
        self.runs[draft.label] = response.run
        self._note(f"{draft.label} is {response.run}")
        begun_s = self._loop.time()
        for at_s, command in draft.commands:
            await asyncio.sleep(max(0.0, begun_s + at_s - self._loop.time()))
            await self._command(response.run, command)

    def _request_id(self, draft: Draft) -> str:
        """Return a ULID for every other goal: the others have a request cell."""
        drawn = hashlib.sha256(draft.goal.SerializeToString(deterministic=True)).digest()
        return ulid(self._loop.now_ns(), drawn) if drawn[-1] % 2 else draft.label

    async def _command(self, run: str, command: Command) -> None:
        self._note(f"{command} {run}")
        if command == "pause":
            pause = run_service_pb2.PauseRunRequest(run=run)
            await self._persist(lambda service: service.PauseRun(pause, _CALL))
        elif command == "resume":
            resume = run_service_pb2.ResumeRunRequest(run=run)
            await self._persist(lambda service: service.ResumeRun(resume, _CALL))
        else:
            cancel = run_service_pb2.CancelRunRequest(run=run)
            await self._persist(lambda service: service.CancelRun(cancel, _CALL))

    async def _persist(self, rpc: Callable[[RunService], Awaitable[_T]]) -> _T | None:
        """Ask until there is an answer; None where it is a refusal."""
        for _ in range(MAX_TRIES):
            try:
                return await self._ask(rpc)
            except Refusal as refusal:
                self.refused.append(refusal.reason)
                return None
            except (LogError, TimeoutError):
                await asyncio.sleep(RETRY_S)
        raise AssertionError("the gateway never answers")

    async def _ask(self, rpc: Callable[[RunService], Awaitable[_T]]) -> _T:
        process = self._supervisor.places["gateway"].process
        service = self._parts.services.get(process) if process is not None else None
        if process is None or service is None:
            raise TimeoutError("the gateway is away")
        answer: asyncio.Future[_T] = self._loop.create_future()

        async def serve() -> None:
            try:
                response = await rpc(service)
            except (Refusal, LogError) as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(response)

        process.serve(serve())
        async with asyncio.timeout(RPC_TIMEOUT_S):
            return await answer
