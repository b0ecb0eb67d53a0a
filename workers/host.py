"""A worker: checks the permit, makes the claim, acts, appends the result. The only thing that acts.

`intent` is durable before the effect and `result` after it. Being handed an action whose claim is taken is
a lost claim and nothing more: the worker says so, and the decider orders what follows.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from bus import consumers, subjects
from core import conditions, failures, judgement, run, values
from core.contracts import to_proto
from core.ports import (
    Address,
    Delivery,
    Fence,
    FenceLost,
    Log,
    LogError,
    LogFull,
    LogUnavailable,
    Record,
    RunKey,
)
from handrail.calling import InvalidArguments, InvalidOutput, ToolThreads, invoke
from handrail.tool import Tool, ToolError
from handrail.v1 import event_pb2
from observability import tracing
from workers.instance import Instance

PROGRESS_INTERVAL_S = 1.0
PRE_TIMEOUT_S = 10.0
# Far above what bad luck makes: the broker also counts what a busy agent put back.
MAX_DELIVERIES = 30
MAX_LOST_CLAIM_DELAY_S = 30.0
APPEND_RETRY_DELAY_S = 0.2

_logger = structlog.get_logger("worker")


class Worker:
    """The host of one toolbox's tools."""

    def __init__(
        self,
        log: Log,
        tools: Mapping[str, Tool],
        *,
        toolbox: str,
        instance: Instance,
        concurrency: int,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._tools = tools
        self._contracts = {name: to_proto(tool.contract) for name, tool in tools.items()}
        self._toolbox = toolbox
        self._instance = instance
        self._concurrency = concurrency
        self._now_ns = now_ns
        self._running: set[tuple[RunKey, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Twice as many threads as actions: one that outlived its timeout must not starve the others.
        self._threads = ToolThreads(2 * concurrency)

    async def serve(self) -> None:
        """Act until cancelled; what is in flight is then finished first."""
        async for delivery in self._log.consume(consumers.worker(self._toolbox), limit=self._concurrency):
            task = asyncio.create_task(self._take(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is in flight."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self._threads.shutdown(wait=False)

    async def _take(self, delivery: Delivery) -> None:
        with tracing.handling(delivery.key, delivery.record):
            await self._handle(delivery)

    async def _handle(self, delivery: Delivery) -> None:
        """Carry one delivery out. The one supervision point of the worker."""
        beat = asyncio.create_task(self._beat(delivery))
        try:
            await self._act(delivery)
        except LogError as error:
            _logger.warning("action postponed", run=delivery.key.run, reason=str(error))
            await delivery.nak(1.0)
        except Exception:
            _logger.exception("action failed in the worker itself", run=delivery.key.run)
            await delivery.nak(min(2.0**delivery.deliveries, MAX_LOST_CLAIM_DELAY_S))
        finally:
            beat.cancel()

    async def _beat(self, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            await delivery.progress()

    async def _act(self, delivery: Delivery) -> None:
        record = delivery.record
        if record is None or record.event is None or record.event.WhichOneof("body") != "action":
            await delivery.ack()
            return
        action = record.event.action
        running = (delivery.key, action.attempt)
        if running in self._running:
            # Delivered again while it is still being carried out here.
            await delivery.nak(PROGRESS_INTERVAL_S)
            return
        self._running.add(running)
        try:
            if await self._carry_out(delivery, record, action):
                await delivery.ack()
        finally:
            self._running.discard(running)

    async def _carry_out(self, delivery: Delivery, record: Record, action: event_pb2.Action) -> bool:
        """Return whether the delivery is done with."""
        key = delivery.key
        started = time.monotonic()
        try:
            arguments = await self._load(key, action)
            refusal = self._refusal(key, action, arguments) or await self._unmet(action, arguments)
        except LogUnavailable:
            raise
        except (values.BadValue, UnicodeDecodeError, LogError) as error:
            refusal = failures.permanent(failures.BAD_ARGUMENTS, str(error))
        if refusal is None and delivery.deliveries > MAX_DELIVERIES:
            refusal = failures.permanent(
                failures.POISONED, f"handed out {delivery.deliveries} times without an answer"
            )
        if refusal is not None:
            result = event_pb2.Result(failure=refusal, happened=event_pb2.HAPPENED_NO)
        else:
            if self._has_effect(action) and not await self._claim(key, action.attempt):
                return await self._report_lost_claim(delivery, action.attempt)
            result = await self._call(action, arguments)
            await self._spill(key, result)
        result.attempt, result.action_sequence = action.attempt, record.sequence
        result.took.FromNanoseconds(int((time.monotonic() - started) * 1e9))
        if refusal is None:
            await self._append_result(key, result)
        elif not await self._append_refusal(key, result):
            return await self._report_lost_claim(delivery, action.attempt)
        return True

    # --- before ------------------------------------------------------------------------------------

    async def _load(self, key: RunKey, action: event_pb2.Action) -> dict[str, Any]:
        contents: dict[str, str] = {}
        for value in action.arguments.values():
            if value.HasField("blob"):
                contents[value.blob.sha256] = (await self._log.get_blob(key, value.blob)).decode()
        return {name: values.load(value, contents) for name, value in action.arguments.items()}

    def _refusal(
        self, key: RunKey, action: event_pb2.Action, arguments: Mapping[str, Any]
    ) -> event_pb2.Failure | None:
        """Check the permit: it must be for exactly this action, here and now."""
        permit = action.permit
        named = (permit.run, permit.step, permit.attempt, permit.tool)
        if named != (key.run, action.step, action.attempt, action.tool):
            return failures.permanent(failures.PERMIT, "the permit is for another action")
        if permit.arguments_sha256 != values.arguments_digest(arguments):
            return failures.permanent(failures.PERMIT, "the arguments are not those that were permitted")
        if permit.expires.ToNanoseconds() <= self._now_ns():
            return failures.transient(failures.PERMIT, "the permit has expired")
        if action.tool not in self._tools:
            return failures.permanent(failures.PERMIT, f"toolbox {self._toolbox} has no tool {action.tool}")
        return None

    async def _unmet(
        self, action: event_pb2.Action, arguments: Mapping[str, Any]
    ) -> event_pb2.Failure | None:
        """Check the tool's precondition against the world."""
        contract = self._contracts[action.tool]
        if not contract.pre or action.resolves or action.kind != event_pb2.ACTION_KIND_ACT:
            return None
        try:
            seen = await judgement.observe(contract, {"args": arguments}, self._read)
            held = conditions.holds(contract.pre, {"args": arguments, "reads": seen})
            observed = judgement.bounded(seen)
        except conditions.ConditionError as error:
            return failures.permanent(failures.PRE_REFUTED, f"pre cannot be judged: {error}")
        except ToolError as error:
            make = failures.transient if error.transient else failures.permanent
            return make(failures.PRE_REFUTED, f"pre cannot be judged: {error}")
        except Exception as error:
            # A read tool is the user's code: whatever it raises, the result says that pre was not judged.
            _logger.warning("pre could not be judged", tool=action.tool, exc_info=True)
            return failures.transient(
                failures.PRE_REFUTED, f"pre cannot be judged: {type(error).__name__}: {error}"
            )
        if held:
            return None
        return failures.permanent(
            failures.PRE_REFUTED,
            f"{contract.name} must not run now: {contract.pre} does not hold; observed {observed}",
        )

    async def _read(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        if tool not in self._tools:
            raise ToolError(f"toolbox {self._toolbox} has no read tool {tool!r}")
        return await invoke(self._tools[tool], arguments, timeout_s=PRE_TIMEOUT_S, threads=self._threads)

    def _has_effect(self, action: event_pb2.Action) -> bool:
        return self._tools[action.tool].contract.has_effect

    # --- the claim -----------------------------------------------------------------------------------

    async def _claim(self, key: RunKey, attempt: str) -> bool:
        intent = event_pb2.Intent(attempt=attempt, claimer=str(self._instance))
        event = self._event()
        event.intent.CopyFrom(intent)
        try:
            await self._log.append(
                self._address(key, "intent", attempt),
                event,
                fence=subjects.claim(key, self._toolbox, attempt),
                trace=tracing.carried(),
            )
        except FenceLost:
            return False
        return True

    async def _append_refusal(self, key: RunKey, result: event_pb2.Result) -> bool:
        """Refuse an action; where somebody else has claimed it meanwhile, it is not ours to refuse."""
        event = self._event()
        event.result.CopyFrom(result)
        fence = subjects.claim(key, self._toolbox, result.attempt)
        try:
            address = self._address(key, "result", result.attempt)
            await self._log.append(address, event, fence=fence, trace=tracing.carried())
        except FenceLost:
            return False
        return True

    async def _report_lost_claim(self, delivery: Delivery, attempt: str) -> bool:
        """Say that another has claimed the attempt and is silent; never resolve it."""
        key = delivery.key
        last = await self._log.last(key.shard, subjects.claim_filter(key, self._toolbox, attempt))
        kind = last.address.topic[-2] if last is not None else ""
        if last is None or kind not in ("intent", "orphan"):
            # Taken back, answered or judged: there is nothing left to say.
            return True
        claimer, told_dead = _claimer(last)
        dead = self._instance.knows_dead(claimer)
        if kind == "intent" or (dead and not told_dead):
            event = self._event()
            event.orphan.CopyFrom(event_pb2.Orphan(attempt=attempt, claimer=claimer, seen_dead=dead))
            fence = Fence(subjects.claim_filter(key, self._toolbox, attempt), last.sequence)
            try:
                address = self._address(key, "orphan", attempt)
                await self._log.append(address, event, fence=fence, trace=tracing.carried())
            except FenceLost:
                dead = False
        if dead or delivery.deliveries > MAX_DELIVERIES:
            return True
        # The claimer may still answer, or be seen dead by its successor.
        await delivery.nak(min(2.0 ** (delivery.deliveries - 1), MAX_LOST_CLAIM_DELAY_S))
        return False

    # --- the act and after ---------------------------------------------------------------------------

    async def _call(self, action: event_pb2.Action, arguments: Mapping[str, Any]) -> event_pb2.Result:
        """Call the tool and say how it went, and whether its effect happened."""
        tool = self._tools[action.tool]
        timeout_s = action.timeout.ToNanoseconds() / 1e9 or tool.contract.timeout_s
        doubt = tool.contract.has_effect
        try:
            output = await invoke(tool, arguments, key=action.key, timeout_s=timeout_s, threads=self._threads)
            result = event_pb2.Result(output=values.inline(output), happened=event_pb2.HAPPENED_YES)
        except InvalidArguments as error:
            return _failed(failures.permanent(failures.BAD_ARGUMENTS, str(error)), event_pb2.HAPPENED_NO)
        except (InvalidOutput, values.BadValue) as error:
            return _failed(failures.permanent(failures.BAD_OUTPUT, str(error)), event_pb2.HAPPENED_YES)
        except ToolError as error:
            if error.in_doubt and doubt:
                return _failed(failures.in_doubt(error.code, str(error)), event_pb2.HAPPENED_UNKNOWN)
            make = failures.transient if error.transient else failures.permanent
            return _failed(make(error.code, str(error)), event_pb2.HAPPENED_NO)
        except TimeoutError:
            message = f"{action.tool} did not answer within {timeout_s:g} s"
            slow = failures.in_doubt if doubt else failures.transient
            return _failed(slow(failures.TIMEOUT, message), event_pb2.HAPPENED_UNKNOWN)
        except Exception as error:
            # A tool is the user's code: whatever it raises is an outcome, and the result event tells it.
            _logger.warning("tool raised", tool=action.tool, exc_info=True)
            raised = failures.in_doubt if doubt else _class_of(tool)
            message = f"{type(error).__name__}: {error}"
            return _failed(raised(failures.TOOL_RAISED, message), event_pb2.HAPPENED_UNKNOWN)
        if action.kind == event_pb2.ACTION_KIND_READ_BACK and output is None:
            result.happened = event_pb2.HAPPENED_NO
        return result

    async def _spill(self, key: RunKey, result: event_pb2.Result) -> None:
        content = result.output.json.encode()
        if len(content) > values.MAX_INLINE_BYTES:
            result.output.blob.CopyFrom(await self._durably(lambda: self._log.put_blob(key, content)))

    async def _append_result(self, key: RunKey, result: event_pb2.Result) -> None:
        event = self._event()
        event.result.CopyFrom(result)
        address = self._address(key, "result", result.attempt)
        await self._durably(lambda: self._log.append(address, event, trace=tracing.carried()))

    async def _durably(self, write: Callable[[], Any]) -> Any:
        """Write until it is written: what has been done must not be forgotten because the broker is away."""
        while True:
            try:
                return await write()
            except (LogUnavailable, LogFull) as error:
                _logger.warning("result not written yet", reason=str(error))
                await asyncio.sleep(APPEND_RETRY_DELAY_S)

    def _event(self) -> event_pb2.Event:
        writer = f"worker-{self._toolbox}/{self._instance}"
        return event_pb2.Event(id=uuid.uuid4().hex, version=run.VERSION, writer=writer)

    def _address(self, key: RunKey, kind: str, attempt: str) -> Address:
        return Address(key, "ans", ("worker", self._toolbox, kind, attempt))


def _claimer(record: Record) -> tuple[str, bool]:
    """Return who has claimed an attempt, and whether it was said that they are dead."""
    event = record.event
    if event is None or event.version > run.VERSION:
        return run.UNREADABLE, False
    if event.HasField("orphan"):
        return event.orphan.claimer, event.orphan.seen_dead
    return event.intent.claimer or run.NAMELESS, False


def _failed(failure: event_pb2.Failure, happened: event_pb2.Happened.ValueType) -> event_pb2.Result:
    return event_pb2.Result(failure=failure, happened=happened)


def _class_of(tool: Tool) -> Callable[[str, str], event_pb2.Failure]:
    return failures.transient if tool.contract.retry == "transient" else failures.permanent
