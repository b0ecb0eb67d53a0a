"""What the gateway answers: runs are submitted, shown and steered, tools are shown.

Nothing is kept here: runs are read from the log, and the listing from a projection of it. What is wrong is
raised, and `supervision.Supervision` makes a status of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, cast

import grpc

from bus import subjects
from core import spelling
from core.caller import STEERERS
from core.plan import is_compensation
from core.ports import Address, Channel, Record, RunForgotten, RunKey
from core.state import RunState
from core.view import view
from handrail.v1 import (
    event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2,
    tool_service_pb2_grpc,
)
from handrail.v1.event_pb2 import RunStatus
from observability import ids
from orchestrator import pages
from orchestrator.callers import caller, in_the_name_of
from orchestrator.projection import Projection
from orchestrator.rpc_errors import RETRY_S, Refusal, invalid, invalid_field, not_found
from orchestrator.runs import Runs, no_run
from orchestrator.submission import Submissions, check_name, check_text
from orchestrator.waits import Waits, settled

MAX_WATCHERS = 500
MAX_REASON_BYTES = 1_024
MAX_CURSOR_CHARS = 19
MAX_WAIT_S = 60.0
FORGET_TIMEOUT_S = 10.0
FORGET_POLL_S = 0.02


class RunService(run_service_pb2_grpc.RunServiceServicer):
    """Submits, shows and steers runs."""

    def __init__(
        self,
        runs: Runs,
        submissions: Submissions,
        projection: Projection,
        waits: Waits,
    ) -> None:
        self._log = runs.log
        self._runs = runs
        self._submissions = submissions
        self._projection = projection
        self._waits = waits
        self._watchers: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def SubmitGoal(
        self, request: run_service_pb2.SubmitGoalRequest, context: Any
    ) -> run_service_pb2.SubmitGoalResponse:
        """Answer when the goal is durable, or when nothing more goes on of it without a human."""
        request.goal.submitter = in_the_name_of(request.goal.submitter)
        submitted = await self._submissions.submit(
            request, traceparent=_traceparent(context), expect=self._expect
        )
        key = submitted.key
        self._projection.insert(key, request.goal, submitted.time_ns)
        response = run_service_pb2.SubmitGoalResponse(run=key.run, existed=submitted.existed)
        if submitted.existed:
            # Its beginning was not heard.
            self._waits.forget(key)
        wait_s = request.wait.ToNanoseconds() / 1e9
        if wait_s > 0 and len(self._watchers) < MAX_WATCHERS:
            response.state.CopyFrom(await self._wait(key, wait_s))
        return response

    def _expect(self, key: RunKey) -> None:
        if self._projection.ready:
            self._waits.expect(key)

    async def GetRun(
        self, request: run_service_pb2.GetRunRequest, context: Any
    ) -> run_service_pb2.GetRunResponse:
        """Fold the run's log, at once or when nothing goes on without a human."""
        key, wait_s = self._runs.key(request.run), request.wait.ToNanoseconds() / 1e9
        if wait_s <= 0:
            return run_service_pb2.GetRunResponse(run=view(await self._runs.state(key)))
        return run_service_pb2.GetRunResponse(run=await self._wait(key, wait_s))

    async def _wait(self, key: RunKey, wait_s: float) -> run_service_pb2.Run:
        if not self._projection.ready:
            # The feed reads old events anew, and may be long in coming to this run.
            self._waits.forget(key)
        with self._watching():
            state = await settled(self._log, self._waits, key, min(wait_s, MAX_WAIT_S))
        if state.submit is None and not state.unreadable:
            state = await self._runs.state(key)
        return view(state)

    async def ListRuns(
        self, request: run_service_pb2.ListRunsRequest, context: Any
    ) -> run_service_pb2.ListRunsResponse:
        """Answer from the projection."""
        size = pages.size(request.page_size)
        if request.status not in RunStatus.values():
            known = ", ".join(RunStatus.keys())
            message = f"{int(request.status)} is no RunStatus; there are {known}"
            raise invalid_field("BAD_FILTER", "status", "unknown_enum", message)
        scope = f"runs/{self._runs.tenant}/{int(request.status)}"
        below = pages.position(scope, request.page_token)
        rows = await self._projection.page(
            self._runs.tenant, status=int(request.status), limit=size + 1, below=below
        )
        response = run_service_pb2.ListRunsResponse()
        for row in rows[:size]:
            summary = response.runs.add(
                id=row.run,
                goal=row.goal,
                status=cast(RunStatus.ValueType, row.status),
                forgotten=not row.goal,
            )
            summary.submitted.FromNanoseconds(row.submitted_ns)
            if row.ended_ns:
                summary.ended.FromNanoseconds(row.ended_ns)
        if len(rows) > size:
            response.next_page_token = pages.token(scope, rows[size - 1].rank)
        return response

    async def WatchRun(
        self, request: run_service_pb2.WatchRunRequest, context: Any
    ) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
        """Send what there is after the cursor, then what comes, until the run has ended."""
        key, after = self._runs.key(request.run), _cursor(request.after)
        with self._watching():
            last = await self._log.last(key.shard, subjects.run_filter(key))
            if last is None:
                raise no_run(key)
            if after > last.sequence:
                message = (
                    f"{after} is ahead of this run's log, which ends at {last.sequence}; begin without one"
                )
                raise invalid_field("BAD_CURSOR", "after", "ahead", message)
            if request.until_now or await self._is_over(key):
                for record in await self._log.read(key, after=after):
                    yield _shown(record)
                return
            follow = cast(AsyncGenerator[Record, None], self._log.follow(key, after=after))
            async with contextlib.aclosing(follow) as records:
                async for record in records:
                    yield _shown(record)
                    if record.sequence > last.sequence and _is_end(record):
                        return

    async def _is_over(self, key: RunKey) -> bool:
        """Whether a run has ended, and is not being undone."""
        ended = await self._last(key, "dec", "note", "finished")
        if not ended:
            return False
        asked = await self._last(key, "cmd", "undo")
        return asked < max(ended, await self._last(key, "dec", "note", "undo_ended"))

    async def _last(self, key: RunKey, channel: Channel, *topic: str) -> int:
        """Return where the last event of a kind stands in its shard; 0 where there is none."""
        found = await self._log.last(key.shard, subjects.build(Address(key, channel, topic)))
        return found.sequence if found is not None else 0

    async def CancelRun(
        self, request: run_service_pb2.CancelRunRequest, context: Any
    ) -> run_service_pb2.CancelRunResponse:
        """Ask for the run to end; a run that is being or has been cancelled stays so."""
        _check_reason(request.reason)
        cancelled = (event_pb2.RUN_STATUS_CANCELLING, event_pb2.RUN_STATUS_CANCELLED)
        event = event_pb2.Event(cancel=event_pb2.Cancel(reason=request.reason))

        def satisfied(state: RunState) -> bool:
            _check_is_theirs(state)
            return state.status in cancelled

        await self._command(request.run, event, satisfied=satisfied)
        return run_service_pb2.CancelRunResponse()

    async def PauseRun(
        self, request: run_service_pb2.PauseRunRequest, context: Any
    ) -> run_service_pb2.PauseRunResponse:
        """Let the run start nothing new; a paused run stays so."""
        _check_reason(request.reason)
        event = event_pb2.Event(pause=event_pb2.Pause(reason=request.reason))
        await self._command(request.run, event, satisfied=lambda state: state.paused and not state.over)
        return run_service_pb2.PauseRunResponse()

    async def ResumeRun(
        self, request: run_service_pb2.ResumeRunRequest, context: Any
    ) -> run_service_pb2.ResumeRunResponse:
        """Let a paused run go on; one that is not paused goes on anyway."""
        event = event_pb2.Event(resume=event_pb2.Resume())
        await self._command(request.run, event, satisfied=lambda state: not state.paused and not state.over)
        return run_service_pb2.ResumeRunResponse()

    async def UndoRun(
        self, request: run_service_pb2.UndoRunRequest, context: Any
    ) -> run_service_pb2.UndoRunResponse:
        """Ask for what a run has done to be taken back, unless the same is being done."""
        _check_reason(request.reason)
        _check_submitter(request.submitter)
        submitter = in_the_name_of(request.submitter)
        key, wait_s = self._runs.key(request.run), request.wait.ToNanoseconds() / 1e9
        state = await self._runs.state(key)
        _check_can_be_undone(state, request)
        response = run_service_pb2.UndoRunResponse(existed=state.undoing)
        if not state.undoing:
            body = event_pb2.Undo(
                step=request.step,
                reason=request.reason,
                submitter=submitter or state.goal.submitter,
                dry_run=request.dry_run,
            )
            self._waits.forget(key)
            await self._runs.command(state, event_pb2.Event(undo=body))
        if wait_s > 0 and len(self._watchers) < MAX_WATCHERS:
            response.state.CopyFrom(await self._wait(key, wait_s))
        return response

    async def ForgetRun(
        self, request: run_service_pb2.ForgetRunRequest, context: Any
    ) -> run_service_pb2.ForgetRunResponse:
        """Have the key of an ended run deleted, and answer when it is."""
        _check_reason(request.reason)
        _check_submitter(request.submitter)
        submitter = in_the_name_of(request.submitter) or caller().name
        key = self._runs.key(request.run)
        state = await self._runs.state(key)
        if state.forgotten is None:
            _check_has_ended(state)
            if not await self._has_key(key):
                # Who forgets says so before the key is gone.
                state = await self._runs.state(key)
                _check_was_encrypted(state)
        existed = state.forgotten is not None
        if not existed:
            body = event_pb2.Forget(reason=request.reason, submitter=submitter)
            await self._runs.command(state, event_pb2.Event(forget=body))
        try:
            async with asyncio.timeout(FORGET_TIMEOUT_S):
                state = await self._gone(key)
        except TimeoutError:
            message = f"run {key.run} is to be forgotten, and no decider has done it yet; ask again"
            code = grpc.StatusCode.UNAVAILABLE
            raise Refusal(code, "NOT_FORGOTTEN_YET", message, retry_s=RETRY_S) from None
        return run_service_pb2.ForgetRunResponse(existed=existed, forgotten=state.forgotten)

    async def _has_key(self, key: RunKey) -> bool:
        try:
            return await self._runs.log.key_of(key) is not None
        except RunForgotten:
            return False

    async def _gone(self, key: RunKey) -> RunState:
        """Return a run that has been forgotten, once its key is deleted."""
        while (state := await self._runs.state(key)).forgotten is None:
            await asyncio.sleep(FORGET_POLL_S)
        while True:
            try:
                await self._runs.log.key_of(key)
            except RunForgotten:
                return state
            # Where there is none, the empty message is still to come.
            await asyncio.sleep(FORGET_POLL_S)

    def stop_watches(self) -> None:
        """End every stream; the watchers are told to come back with their cursors."""
        self._stopping = True
        for task in self._watchers:
            task.cancel()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        task = asyncio.current_task()
        if len(self._watchers) >= MAX_WATCHERS or task is None:
            message = f"{MAX_WATCHERS} watches are open, which is as many as there may be; try again later"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise Refusal(code, "TOO_MANY_WATCHERS", message, retry_s=RETRY_S)
        self._watchers.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            message = "the gateway is stopping; watch again from your cursor"
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "GATEWAY_STOPPING", message, retry_s=RETRY_S) from None
        finally:
            self._watchers.discard(task)

    async def _command(
        self, run: str, event: event_pb2.Event, *, satisfied: Callable[[RunState], bool]
    ) -> None:
        """Append a command, unless the run is already where it leads (`satisfied`) or has ended."""
        state = await self._runs.state(self._runs.key(run))
        if not satisfied(state):
            await self._runs.command(state, event)


class ToolService(tool_service_pb2_grpc.ToolServiceServicer):
    """Shows the contracts of the tools that there are."""

    def __init__(self, contracts: Mapping[str, tool_pb2.ToolContract]) -> None:
        self._contracts = contracts

    async def ListTools(
        self, request: tool_service_pb2.ListToolsRequest, context: Any
    ) -> tool_service_pb2.ListToolsResponse:
        """List the contracts by name."""
        size, above = pages.size(request.page_size), pages.position("tools", request.page_token)
        names = sorted(name for name in self._contracts if name > above)
        response = tool_service_pb2.ListToolsResponse(tools=[self._contracts[name] for name in names[:size]])
        if len(names) > size:
            response.next_page_token = pages.token("tools", names[size - 1])
        return response

    async def GetTool(
        self, request: tool_service_pb2.GetToolRequest, context: Any
    ) -> tool_service_pb2.GetToolResponse:
        """Show one contract."""
        contract = self._contracts.get(request.name)
        if contract is None:
            hint = spelling.hint(request.name, self._contracts)
            raise not_found("TOOL_NOT_FOUND", f"there is no tool {request.name[:80]!a}{hint}")
        return tool_service_pb2.GetToolResponse(tool=contract)


def _traceparent(context: Any) -> str:
    """Return the trace context that the client sent; what cannot be read is none."""
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent" and (given := ids.parse(str(value))) is not None:
            return ids.render(given)
    return ""


def _check_is_theirs(state: RunState) -> None:
    """Check that who only submits steers nobody else's run."""
    who = caller()
    if who.roles.isdisjoint(STEERERS) and state.goal.submitter != who.name:
        message = f"run {state.key.run} is {state.goal.submitter or 'nobody'}'s, and you are {who.name}"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_YOURS", message)


def _cursor(text: str) -> int:
    if not text:
        return 0
    if len(text) > MAX_CURSOR_CHARS or not (text.isascii() and text.isdecimal()):
        message = f"{text[:40]!a} is not a cursor; give one that a response carried, or none"
        raise invalid_field("BAD_CURSOR", "after", "bad_cursor", message)
    return int(text)


def _check_reason(reason: str) -> None:
    found = list(check_text("reason", reason, MAX_REASON_BYTES))
    if found:
        raise invalid("BAD_REASON", found)


def _check_submitter(submitter: str) -> None:
    found = list(check_name("submitter", submitter))
    if found:
        raise invalid("BAD_SUBMITTER", found)


def _check_can_be_undone(state: RunState, request: run_service_pb2.UndoRunRequest) -> None:
    """Check that a run has done something that could be undone, and that nothing else goes on."""
    run, step = state.key.run, request.step
    asked = state.undo.asked if state.undo is not None and state.undoing else None
    word = RunStatus.Name(state.status).removeprefix("RUN_STATUS_").lower()
    reason, message = "", ""
    if state.unreadable:
        reason, message = "RUN_UNREADABLE", f"run {run} was written by a newer version, which can undo it"
    elif state.forgotten is not None:
        reason, message = "RUN_FORGOTTEN", f"run {run} was forgotten: nobody knows any more what it did"
    elif state.finished is None:
        reason, message = "RUN_NOT_ENDED", f"run {run} has not ended ({word}); cancel it first, then undo it"
    elif state.plan is None or state.goal.dry_run:
        reason, message = "NOTHING_DONE", f"run {run} has done nothing ({word}), so there is nothing to undo"
    elif asked is not None and (asked.step, asked.dry_run) != (step, request.dry_run):
        message = f"another undo of run {run} is going on; ask again when it has ended, or cancel it"
        reason = "ANOTHER_UNDO"
    if reason:
        metadata = {"status": RunStatus.Name(state.status)}
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, message, metadata=metadata)
    known = [name for name in state.instances if not is_compensation(name)]
    if step and step not in known:
        message = f"run {run} has no step {step[:80]!a}{spelling.hint(step, known)}"
        raise invalid_field("BAD_STEP", "step", "unknown_step", message)


def _check_has_ended(state: RunState) -> None:
    """Check that nothing goes on in a run that is to be forgotten."""
    run = state.key.run
    word = RunStatus.Name(state.status).removeprefix("RUN_STATUS_").lower()
    if state.unreadable:
        raise _unforgettable(
            state, "RUN_UNREADABLE", f"run {run} was written by a newer version, which can forget it"
        )
    if state.undoing or state.finished is None:
        message = f"run {run} has not ended ({word}); cancel it, then forget it"
        raise _unforgettable(state, "RUN_NOT_ENDED", message)


def _check_was_encrypted(state: RunState) -> None:
    """Check that a run without a key is one that was forgotten."""
    if state.forgotten is None:
        run = state.key.run
        message = f"run {run} was written by a version that encrypted nothing: no key could be deleted"
        raise _unforgettable(state, "NOT_ENCRYPTED", message)


def _unforgettable(state: RunState, reason: str, message: str) -> Refusal:
    metadata = {"status": RunStatus.Name(state.status)}
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, message, metadata=metadata)


def _shown(record: Record) -> run_service_pb2.WatchRunResponse:
    response = run_service_pb2.WatchRunResponse(
        cursor=str(record.sequence),
        subject=subjects.build(record.address),
        event=record.event,
        forgotten=record.forgotten,
    )
    response.time.FromNanoseconds(record.time_ns)
    return response


def _is_end(record: Record) -> bool:
    if record.address.channel != "dec" or record.event is None:
        return False
    # The undo of a run that failed ends before the run does, and says nothing of where the run stands.
    said = record.event
    return said.HasField("finished") or said.HasField("forgotten") or bool(said.undo_ended.status)
