"""The Python client of a Handrail server, for asyncio; `handrail.sync_client` is for everybody else.

    async with Client("127.0.0.1:7433") as client:
        run = await client.run("refund order 1001 and tell the customer")

What comes back are the messages of `handrail.v1`. What goes wrong is a `handrail.errors.ClientError`. While
a server is restarting calls are repeated until their time is over, and a watch goes on from its cursor; a
submission is repeated under one request id, so it never becomes two runs.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc

from core.state import ENDED
from core.ulids import Ulids
from core.values import MAX_VALUE_BYTES
from handrail import errors, goals
from handrail.channel import Channel
from handrail.goals import sendable
from handrail.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    auth_service_pb2,
    auth_service_pb2_grpc,
    event_pb2,
    gate_service_pb2,
    gate_service_pb2_grpc,
    plan_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2,
    tool_service_pb2_grpc,
)
from handrail.v1.event_pb2 import RunStatus

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_OUTAGE_S = 60.0
MAX_MESSAGE_BYTES = 8 * MAX_VALUE_BYTES
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
WAIT_S = 30.0
GRACE_S = 10.0
PAGE_SIZE = 100

_T = TypeVar("_T")
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for long
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_SETTLED = ENDED | {event_pb2.RUN_STATUS_WAITING, event_pb2.RUN_STATUS_UNREADABLE}


@dataclass(frozen=True, slots=True)
class Submitted:
    """A goal that is durable: the run's id, and whether the same request had been made before."""

    run: str
    existed: bool


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of the listing; `next_token` asks for the next, and is "" on the last."""

    runs: tuple[run_service_pb2.RunSummary, ...]
    next_token: str


class Client:
    """A connection to a server. Every call is bounded by `timeout_s`, its repetitions included."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connect when it is first called; `handrail.channel` says how, and where the token comes from."""
        self.address = address
        self.timeout_s = timeout_s
        self._channel = Channel(address, _OPTIONS, token=token, token_file=token_file)
        channel = cast(grpc.aio.Channel, self._channel)
        self._runs = run_service_pb2_grpc.RunServiceStub(channel)
        self._gates = gate_service_pb2_grpc.GateServiceStub(channel)
        self._tools = tool_service_pb2_grpc.ToolServiceStub(channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._audits = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._ids = Ulids(time.time_ns, os.urandom)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect; open watches end."""
        await self._channel.close()

    async def submit(
        self, goal: str, *, request_id: str | None = None, **options: Unpack[goals.Options]
    ) -> Submitted:
        """Submit a goal and return when it is durable; see `goals.Options`.

        Submitting twice under one request id is submitting once.
        """
        request = self._submission(goal, request_id, options)
        patience = _Patience(self.timeout_s, None)
        response = await self._submit(request, patience, patience.left_s)
        # Under an id made here, a run that existed is one that a repetition of this call made.
        return Submitted(response.run, bool(response.existed and request_id))

    async def run(
        self,
        goal: str,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[goals.Options],
    ) -> run_service_pb2.Run:
        """Submit a goal and return its run as `wait` does: `submit` and `wait` in one call to the server."""
        request = self._submission(goal, request_id, options)
        patience = _Patience(timeout_s, DEFAULT_OUTAGE_S)
        response = await self._submit(request, patience, lambda: patience.wait_s(request))
        if is_settled(response.state):
            return response.state
        return await self.wait(response.run, timeout_s=patience.left_s())

    async def confirm(self, run: str, *, submitter: str = "") -> Submitted:
        """Submit the goal of a refused run again with the plan that it was read as: somebody means that.

        It teaches the action model. Confirming twice is confirming once. Raises FailedPrecondition where
        nothing was read.
        """
        if not (seen := await self.get(run)).HasField("read_as"):
            raise errors.FailedPrecondition(
                f"there is nothing to confirm of {run}: it was not refused for want of being sure",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                reason="NOTHING_READ",
            )
        goal = event_pb2.Goal()
        async with aclosing(self.watch(run, until_now=True)) as events:
            async for one in events:
                if one.event.HasField("submit"):
                    goal.MergeFrom(one.event.submit.goal)
                if one.event.plan_answer.no_plan.plan == seen.read_as:
                    goal.confirms.CopyFrom(one.event.plan_answer.thought)
        if goal.context.HasField("blob"):
            message = "it is too large to be read back: submit the goal with it and with --plan"
            raise errors.invalid("context", "too_large", message)
        goal.plan.CopyFrom(seen.read_as)
        goal.teaches = True
        # It is to be done, and from now on: by the first deadline it may be too late.
        goal.dry_run = False
        goal.ClearField("deadline")
        goal.submitter = sendable("submitter", submitter)
        request = run_service_pb2.SubmitGoalRequest(goal=goal, request_id=f"confirm-{run}")
        patience = _Patience(self.timeout_s, None)
        try:
            response = await self._submit(request, patience, patience.left_s)
        except errors.AlreadyExists as error:
            other = error.metadata.get("run", "another run")
            message = f"somebody else has confirmed {run}, or taken the request id for that: see {other}"
            raise errors.AlreadyExists(message, code=error.code, reason="CONFIRMED") from None
        return Submitted(response.run, response.existed)

    def _submission(
        self, goal: str, request_id: str | None, options: goals.Options
    ) -> run_service_pb2.SubmitGoalRequest:
        """Make a request; under an id of our own it is known to be the first of its kind."""
        named = sendable("request_id", request_id or self._ids.next())
        return run_service_pb2.SubmitGoalRequest(
            goal=goals.goal(goal, **options), request_id=named, first=not request_id
        )

    async def _submit(
        self,
        request: run_service_pb2.SubmitGoalRequest,
        patience: _Patience,
        limit_s: Callable[[], float | None],
    ) -> run_service_pb2.SubmitGoalResponse:
        while True:
            timeout_s = limit_s()
            try:
                return await self._runs.SubmitGoal(request, timeout=timeout_s, metadata=_trace())
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            # It may have become a run all the same.
            request.first = False
            await patience.pause()

    async def get(self, run: str) -> run_service_pb2.Run:
        """Return what has become of a run so far."""
        request = run_service_pb2.GetRunRequest(run=sendable("run", run))
        response = await self._call(self._runs.GetRun, request)
        return response.run

    async def list(
        self, *, status: RunStatus.ValueType | int = 0
    ) -> AsyncGenerator[run_service_pb2.RunSummary, None]:
        """Yield runs, newest first, page by page; only those in a state, if one is given."""
        token = ""
        while True:
            page = await self.list_page(status=status, page_size=PAGE_SIZE, page_token=token)
            for run in page.runs:
                yield run
            token = page.next_token
            if not token:
                return

    async def list_page(
        self, *, status: RunStatus.ValueType | int = 0, page_size: int = 0, page_token: str = ""
    ) -> RunPage:
        """Return one page of runs, newest first."""
        request = run_service_pb2.ListRunsRequest(
            page_size=page_size,
            page_token=sendable("page_token", page_token),
            status=cast(RunStatus.ValueType, status),
        )
        response = await self._call(self._runs.ListRuns, request)
        return RunPage(tuple(response.runs), response.next_page_token)

    async def watch(
        self,
        run: str,
        *,
        after: str = "",
        until_now: bool = False,
        timeout_s: float | None = None,
        outage_s: float | None = DEFAULT_OUTAGE_S,
    ) -> AsyncGenerator[run_service_pb2.WatchRunResponse, None]:
        """Yield the run's events after a cursor, then new ones until the run has ended.

        A lost server is looked for again, and the watch goes on where it was, until there has been none for
        `outage_s` (None: for ever). `timeout_s` bounds the whole watch.
        """
        request = run_service_pb2.WatchRunRequest(
            run=sendable("run", run), after=sendable("after", after), until_now=until_now
        )
        patience = _Patience(timeout_s, outage_s)
        while True:
            call = self._runs.WatchRun(request, timeout=patience.left_s())
            try:
                async for response in call:
                    request.after = response.cursor
                    patience.renew()
                    yield response
                return
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            finally:
                call.cancel()
            await patience.pause()

    async def wait(self, run: str, *, timeout_s: float | None = None) -> run_service_pb2.Run:
        """Return the run when it has ended, or when nothing goes on without a human (RUN_STATUS_WAITING).

        A run that is being undone is waited for until that has ended.
        """
        request = run_service_pb2.GetRunRequest(run=sendable("run", run))
        patience = _Patience(timeout_s, DEFAULT_OUTAGE_S)
        while True:
            timeout_s = patience.wait_s(request)
            try:
                response = await self._runs.GetRun(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            else:
                if is_settled(response.run):
                    return response.run
                patience.renew()
            await patience.pause()

    async def undo(
        self,
        run: str,
        *,
        step: str = "",
        reason: str = "",
        submitter: str = "",
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> run_service_pb2.Run:
        """Take back what an ended run has done; return it as `wait` does: its `undo` says what came of it.

        With a step, or one of its instances, only that and what rests on it. With `dry_run` nothing is done:
        `undo_outlook` has the compensations with what the rules say of them, and what stays. To ask twice for
        the same is to ask once.
        """
        request = _undo_request(run, step, reason, submitter, dry_run)
        patience = _Patience(timeout_s, DEFAULT_OUTAGE_S)
        while True:
            limit_s = patience.wait_s(request)
            try:
                response = await self._runs.UndoRun(request, timeout=limit_s)
                break
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            await patience.pause()
        if is_settled(response.state):
            return response.state
        return await self.wait(run, timeout_s=patience.left_s())

    async def begin_undo(
        self, run: str, *, step: str = "", reason: str = "", submitter: str = "", dry_run: bool = False
    ) -> bool:
        """Ask for an undo and return when that is durable: whether the same was going on already."""
        request = _undo_request(run, step, reason, submitter, dry_run)
        response = await self._call(self._runs.UndoRun, request)
        return response.existed

    async def forget(
        self, run: str, *, reason: str = "", submitter: str = ""
    ) -> run_service_pb2.ForgetRunResponse:
        """Delete the key of an ended run, for good: nobody can read any more what the log holds of it.

        What is returned says what is left. To forget twice is to forget once.
        """
        request = run_service_pb2.ForgetRunRequest(
            run=sendable("run", run),
            reason=sendable("reason", reason),
            submitter=sendable("submitter", submitter),
        )
        return await self._call(self._runs.ForgetRun, request)

    async def cancel(self, run: str, *, reason: str = "") -> None:
        """Ask for a run, or its undo, to end; what is in flight finishes or is resolved."""
        request = run_service_pb2.CancelRunRequest(
            run=sendable("run", run), reason=sendable("reason", reason)
        )
        await self._call(self._runs.CancelRun, request)

    async def pause(self, run: str, *, reason: str = "") -> None:
        """Let a run start nothing new."""
        request = run_service_pb2.PauseRunRequest(run=sendable("run", run), reason=sendable("reason", reason))
        await self._call(self._runs.PauseRun, request)

    async def resume(self, run: str) -> None:
        """Let a paused run go on."""
        await self._call(self._runs.ResumeRun, run_service_pb2.ResumeRunRequest(run=sendable("run", run)))

    async def gate(self, gate: str) -> run_service_pb2.Gate:
        """Return a gate: what waits, why, and what has been said."""
        request = gate_service_pb2.GetGateRequest(gate=sendable("gate", gate))
        response = await self._call(self._gates.GetGate, request)
        return response.gate

    async def gate_value(self, gate: str, argument: str, *, step: str = "") -> Any:
        """Return an argument of what waits, whole: a gate has large ones by size and digest only.

        `step` says which action is meant, at a gate for several.
        """
        request = gate_service_pb2.GetGateValueRequest(
            gate=sendable("gate", gate), argument=sendable("argument", argument), step=sendable("step", step)
        )

        async def whole(request: Any, *, timeout: float | None) -> str:
            parts = self._gates.GetGateValue(request, timeout=timeout)
            return "".join([part.json async for part in parts])

        return json.loads(await self._call(whole, request))

    async def gates(self) -> AsyncGenerator[run_service_pb2.Gate, None]:
        """Yield the gates that are open, the oldest first."""
        request = gate_service_pb2.ListGatesRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._call(self._gates.ListGates, request)
            for gate in page.gates:
                yield gate
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def watch_gates(
        self, *, outage_s: float | None = DEFAULT_OUTAGE_S
    ) -> AsyncGenerator[run_service_pb2.Gate, None]:
        """Yield every open gate, then each that opens or closes, without end.

        A lost server is looked for again, until there has been none for `outage_s`; what is open comes anew.
        """
        patience = _Patience(None, outage_s)
        while True:
            call = self._gates.WatchGates(gate_service_pb2.WatchGatesRequest())
            try:
                async for response in call:
                    patience.renew()
                    yield response.gate
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            finally:
                call.cancel()
            await patience.pause()

    async def decide(
        self, gate: str, *, approve: bool, approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        """Approve or deny what waits at a gate; return whether the same had been decided before.

        `binding` is that of the gate as it was shown; without one, whatever the gate is for now is decided.
        """
        choice = event_pb2.GATE_CHOICE_APPROVE if approve else event_pb2.GATE_CHOICE_DENY
        return await self._decide(gate, choice, approver, binding, reason)

    async def settle(
        self,
        gate: str,
        *,
        happened: bool,
        approver: str,
        output: Any = None,
        binding: str = "",
        reason: str = "",
    ) -> bool:
        """Settle a doubt: the effect happened (and returned `output`), or it is to be done again.

        To give it up, deny it. Returns whether the same had been decided before.
        """
        choice = event_pb2.GATE_CHOICE_HAPPENED if happened else event_pb2.GATE_CHOICE_REPEAT
        value = None if output is None else goals.value("output", output)
        return await self._decide(gate, choice, approver, binding, reason, output=value)

    async def amend(
        self, gate: str, *, arguments: Mapping[str, Any], approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        """Change arguments of the one action that waits at a gate; where one approval is enough, that is it.

        Where more are needed, a new gate opens for the action as it is then. Returns whether the same had
        been decided before.
        """
        made = {
            sendable("arguments", name): goals.value(f"arguments.{name}", held)
            for name, held in arguments.items()
        }
        choice = event_pb2.GATE_CHOICE_AMEND
        return await self._decide(gate, choice, approver, binding, reason, arguments=made)

    async def delegate(
        self, gate: str, *, to: str, approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        """Hand one's own decision at a gate to somebody else, once.

        Returns whether it had been handed to them before.
        """
        choice = event_pb2.GATE_CHOICE_DELEGATE
        return await self._decide(gate, choice, approver, binding, reason, delegate=sendable("to", to))

    async def _decide(
        self,
        gate: str,
        choice: event_pb2.GateChoice.ValueType,
        approver: str,
        binding: str,
        reason: str,
        *,
        output: plan_pb2.Value | None = None,
        arguments: Mapping[str, plan_pb2.Value] | None = None,
        delegate: str = "",
    ) -> bool:
        request = gate_service_pb2.DecideGateRequest(
            gate=sendable("gate", gate),
            choice=choice,
            binding=sendable("binding", binding) or (await self.gate(gate)).what.binding,
            approver=sendable("approver", approver),
            reason=sendable("reason", reason),
            output=output,
            arguments=arguments,
            delegate=delegate,
        )
        response = await self._call(self._gates.DecideGate, request)
        return response.existed

    async def audit(self, run: str) -> dict[str, Any]:
        """Return the account of a run, for somebody who was not there; docs/audit.md has its shape."""
        request = audit_service_pb2.ShowRunRequest(run=sendable("run", run))

        async def whole(request: Any, *, timeout: float | None) -> str:
            parts = self._audits.ShowRun(request, timeout=timeout)
            return "".join([part.json async for part in parts])

        found: dict[str, Any] = json.loads(await self._call(whole, request))
        return found

    async def export(self, run: str) -> AsyncGenerator[str, None]:
        """Yield the lines of what the notary has signed for of a run, each with its proof."""
        request = audit_service_pb2.ExportRunRequest(run=sendable("run", run))
        call = self._audits.ExportRun(request)
        try:
            async for response in call:
                yield response.line
        except grpc.aio.AioRpcError as error:
            raise errors.of_rpc(error, self.address) from None
        finally:
            call.cancel()

    async def tools(self) -> tuple[tool_pb2.ToolContract, ...]:
        """Return the contracts of all tools, by name."""
        found: list[tool_pb2.ToolContract] = []
        request = tool_service_pb2.ListToolsRequest(page_size=PAGE_SIZE)
        while True:
            response = await self._call(self._tools.ListTools, request)
            found += response.tools
            if not response.next_page_token:
                return tuple(found)
            request.page_token = response.next_page_token

    async def tool(self, name: str) -> tool_pb2.ToolContract:
        """Return one tool's contract."""
        request = tool_service_pb2.GetToolRequest(name=sendable("name", name))
        response = await self._call(self._tools.GetTool, request)
        return response.tool

    async def whoami(self) -> auth_service_pb2.WhoAmIResponse:
        """Return who the server says this client is, by its token."""
        return await self._call(self._auth.WhoAmI, auth_service_pb2.WhoAmIRequest())

    async def _call(self, method: Callable[..., Awaitable[_T]], request: Any, **options: Any) -> _T:
        """Call, again while the server cannot be reached; every call of ours may be repeated."""
        patience = _Patience(self.timeout_s, None)
        while True:
            try:
                return await method(request, timeout=patience.left_s(), **options)
            except grpc.aio.AioRpcError as error:
                if not patience.covers(error):
                    raise errors.of_rpc(patience.cause(error), self.address) from None
            await patience.pause()


class _Patience:
    """How long a call is repeated while the server cannot be reached, and how soon again."""

    def __init__(self, timeout_s: float | None, outage_s: float | None) -> None:
        self._end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._outage_s = math.inf if outage_s is None else outage_s
        self.renew()

    def renew(self) -> None:
        """Begin anew: the server has answered."""
        self._since = math.inf
        self._lost: grpc.aio.AioRpcError | None = None
        self._backoff_s = FIRST_BACKOFF_S

    def left_s(self) -> float | None:
        """Return what is left of the whole time, for the next call."""
        return None if self._end == math.inf else max(self._end - time.monotonic(), 0.001)

    def wait_s(self, request: Any) -> float:
        """Have a request wait as long as there is time; return the timeout of its call."""
        left_s = self.left_s()
        request.wait.FromNanoseconds(int(min(WAIT_S, left_s or WAIT_S) * 1e9))
        return min(WAIT_S + GRACE_S, left_s or math.inf)

    def covers(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether to call again after this error."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        now = time.monotonic()
        self._since, self._lost = min(self._since, now), error
        return now + self._backoff_s < self._end and now - self._since < self._outage_s

    def cause(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return why there was no answer, where the last word is only that time ran out."""
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return self._lost if late and self._lost is not None else error

    async def pause(self) -> None:
        """Wait before the next call, a little longer each time."""
        await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)


def is_settled(run: run_service_pb2.Run) -> bool:
    """Whether nothing goes on of a run without a human; looking ahead to an undo is something that does."""
    looking_ahead = run.HasField("undo_outlook") and not run.undo_outlook.ended
    return run.status in _SETTLED and not looking_ahead


def _undo_request(
    run: str, step: str, reason: str, submitter: str, dry_run: bool
) -> run_service_pb2.UndoRunRequest:
    return run_service_pb2.UndoRunRequest(
        run=sendable("run", run),
        step=sendable("step", step),
        reason=sendable("reason", reason),
        submitter=sendable("submitter", submitter),
        dry_run=dry_run,
    )


def _trace() -> tuple[tuple[str, str], ...]:
    """Return the trace context of a caller that uses OpenTelemetry: the run's trace goes on there."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
