"""The parts of the stack as they are, each in a process of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import orchestrator.decider
from actors.agent import Agent
from actors.executor import Executor
from actors.host import AgentLoop
from actors.models.table import DecisionTable
from actors.planner import Planner
from actors.verifier import Verifier
from core.conformance import Limits
from core.decide import Catalogue
from core.moves import Move
from core.policy import NoRules, Policy
from core.ports import Address, Record, RunKey
from core.state import RunState
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from orchestrator.gates import GateService
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
from tests.simulation.plans import Draft, DrawnPlans
from tests.simulation.policies import Regime, Rollout
from tests.simulation.processes import Process, Supervisor
from tests.simulation.watch import Basis
from tests.simulation.weather import Weather
from tests.simulation.world import SimWorker
from workers.instance import Instance

TENANT = "default"
SITE, ELSEWHERE = "here", "elsewhere"
RESTART_S = 0.2


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
        regime: Regime | None,
        bases: dict[str, Basis],
        late: Callable[[str], None],
        decided: Callable[[Process, RunKey, event_pb2.Event], None],
        key: SeedKey,
    ) -> None:
        self._loop, self._broker, self._weather, self._supervisor = loop, broker, weather, supervisor
        self._shards = shards
        self._plans = DrawnPlans(drafts)
        self._random = random.Random(f"{seed}/parts")
        self._bases, self._late, self._decided = bases, late, decided
        self.key = key
        self._bases_of: dict[tuple[Process, RunKey], Basis] = {}
        self._looks = 0
        self.links: dict[Process, Link] = {}
        self.deciders: dict[Process, Decider] = {}
        self.services: dict[Process, RunService] = {}
        self.gates: dict[Process, GateService] = {}
        self._rollout = (
            Rollout(loop, regime, restart=self._restart, swap=self._swap) if regime is not None else None
        )
        # Workers of another site: nothing is known of their lives.
        self._elsewhere = self._random.random() < 0.35
        self._concurrency = self._random.choice((1, 2, 4))

    def begin(self) -> None:
        """Start everything."""
        if self._rollout is not None:
            self._rollout.begin()
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
            self._decided(process, address.key, event)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Know on what each decision is made."""

        def decide(state: RunState, now_ns: int, catalogue: Catalogue, *rest: Any) -> list[Move]:
            process = PROCESS.get()
            if isinstance(process, Process):
                self._looks += 1
                self._bases_of[process, state.key] = Basis(self._looks, state.applied, catalogue.policy)
            return real(state, now_ns, catalogue, *rest)

        real = orchestrator.decider.decide_ahead
        with patch.object(orchestrator.decider, "decide_ahead", decide):
            yield

    def has_key(self, run: RunKey) -> bool:
        """Whether a run can still be read."""
        return self._broker.has_key(run)

    def hear(self, record: Record) -> None:
        """Hear of what was stored."""
        if self._rollout is not None:
            self._rollout.hear(record)

    def catalogue(self, place: str) -> Catalogue:
        """Return what a decider at a place goes by now."""
        if self._rollout is None:
            return tools.CATALOGUE
        return replace(tools.CATALOGUE, policy=self._policy(place), gate_life_ns=self._rollout.gate_life_ns)

    def _policy(self, place: str) -> Policy:
        return self._rollout.now[place] if self._rollout is not None else NoRules()

    def _restart(self, place: str) -> None:
        """Have a place live on with what holds now."""
        process = self._supervisor.places[place].process
        if process is not None:
            self._supervisor.kill(process, RESTART_S)

    def _swap(self, place: str) -> None:
        """Let what lives at a place go by what holds now, between two looks."""
        process = self._supervisor.places[place].process
        if process in self.deciders:
            self.deciders[process]._catalogue = self.catalogue(place)
        elif process in self.gates:
            self.gates[process]._policy = self._policy(place)

    async def _decider(self, process: Process) -> None:
        catalogue = self.catalogue(process.place)
        decider = self.deciders[process] = Decider(
            self._log(process), catalogue, signer=self.key, instance=str(process)
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

        def clock() -> int:
            return self._loop.now_ns() + process.skew_ns

        submissions = Submissions(
            log,
            contracts=tools.CONTRACTS,
            limits=Limits(),
            writer=str(process),
            clock=clock,
            entropy=self._random.randbytes,
        )
        runs = Runs(log, writer=str(process), entropy=self._random.randbytes)
        listing: Any = _NoListing()
        self.services[process] = RunService(runs, submissions, listing, Waits())
        self.gates[process] = GateService(runs, listing, self._policy(process.place), clock=clock)
        await asyncio.Event().wait()


class _NoListing:
    """Stands where the listing's database is: it decides nothing, and gates are heard of from the log."""

    ready = False

    def insert(self, key: RunKey, goal: event_pb2.Goal, submitted_ns: int) -> None:
        """Forget it."""
