"""Those who ask things of the stack, and ask again until there is an answer."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import Any, TypeVar

from core.ports import LogError, RunForgotten, RunKey
from core.ulids import ulid
from handrail.v1 import event_pb2, gate_service_pb2, run_service_pb2
from orchestrator.callers import ANYBODY, answering
from orchestrator.gates import GateService
from orchestrator.rpc_errors import Refusal
from orchestrator.services import RunService
from tests.simulation.loop import SimLoop
from tests.simulation.parts import Parts
from tests.simulation.plans import Command, Draft
from tests.simulation.processes import Process, Supervisor

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RPC_TIMEOUT_S = 5.0
RETRY_S = 0.3
MAX_TRIES = 200
_T = TypeVar("_T")
_S = TypeVar("_S", RunService, GateService)


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
        # The runs that were said to be forgotten, and whether they were.
        self.forgotten: list[tuple[str, bool]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def begin(self, draft: Draft) -> None:
        """Submit a goal when its time has come, and steer its run."""
        self._spawn(self._follow(draft))

    def order(self, run: str, command: Command) -> None:
        """Send one command."""
        self._spawn(self._command(run, command))

    def decide(self, gate: str, approver: str, choice: event_pb2.GateChoice.ValueType) -> None:
        """Look at a gate and decide there."""
        self._spawn(self._decide(gate, approver, choice))

    def undo(self, run: str, wanted: event_pb2.Undo) -> None:
        """Ask for an undo."""
        self._spawn(self._undo(run, wanted))

    def forget(self, key: RunKey) -> None:
        """Have a run forgotten."""
        self._spawn(self._forget(key))

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

        response = await self._persist(submit, self._parts.services)
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
            await self._persist(lambda service: service.PauseRun(pause, _CALL), self._parts.services)
        elif command == "resume":
            resume = run_service_pb2.ResumeRunRequest(run=run)
            await self._persist(lambda service: service.ResumeRun(resume, _CALL), self._parts.services)
        else:
            cancel = run_service_pb2.CancelRunRequest(run=run)
            await self._persist(lambda service: service.CancelRun(cancel, _CALL), self._parts.services)

    async def _undo(self, run: str, wanted: event_pb2.Undo) -> None:
        self._note(f"{wanted.submitter or 'somebody'} wants {run} undone: {wanted.step or 'everything'}")
        request = run_service_pb2.UndoRunRequest(
            run=run, step=wanted.step, submitter=wanted.submitter, dry_run=wanted.dry_run
        )
        await self._persist(lambda service: service.UndoRun(request, _CALL), self._parts.services)

    async def _forget(self, key: RunKey) -> None:
        self._note(f"somebody wants {key.run} forgotten")
        request = run_service_pb2.ForgetRunRequest(run=key.run, reason="asked for", submitter="ines")
        if await self._persist(lambda service: service.ForgetRun(request, _CALL), self._parts.services):
            self.forgotten.append((key.run, not self._parts.has_key(key)))

    async def _decide(self, gate: str, approver: str, choice: event_pb2.GateChoice.ValueType) -> None:
        self._note(f"{approver} looks at {gate}, to {event_pb2.GateChoice.Name(choice)[12:].lower()}")
        look = gate_service_pb2.GetGateRequest(gate=gate)
        shown = await self._persist(lambda service: service.GetGate(look, _CALL), self._parts.gates)
        if shown is None:
            return
        request = gate_service_pb2.DecideGateRequest(
            gate=gate, choice=choice, binding=shown.gate.what.binding, approver=approver
        )
        await self._persist(lambda service: service.DecideGate(request, _CALL), self._parts.gates)

    async def _persist(self, rpc: Callable[[_S], Awaitable[_T]], services: Mapping[Process, _S]) -> _T | None:
        """Ask until there is an answer; None where it is a refusal."""
        for _ in range(MAX_TRIES):
            try:
                return await self._ask(rpc, services)
            except Refusal as refusal:
                if refusal.reason == "NOT_FORGOTTEN_YET":
                    continue
                self.refused.append(refusal.reason)
                return None
            except RunForgotten:
                self.refused.append("RUN_FORGOTTEN")
                return None
            except (LogError, TimeoutError):
                await asyncio.sleep(RETRY_S)
        raise AssertionError("the gateway never answers")

    async def _ask(self, rpc: Callable[[_S], Awaitable[_T]], services: Mapping[Process, _S]) -> _T:
        process = self._supervisor.places["gateway"].process
        service = services.get(process) if process is not None else None
        if process is None or service is None:
            raise TimeoutError("the gateway is away")
        answer: asyncio.Future[_T] = self._loop.create_future()

        async def serve() -> None:
            try:
                with answering(ANYBODY):
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
