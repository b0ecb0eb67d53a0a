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
from bus.spilling import spill
from core import failures, run, values
from core.answers import NAMELESS
from core.permits import Checker
from core.plan import BadReference, Unresolved, parse_reference, resolve
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
from handrail.calling import AnyTool
from handrail.release import release
from handrail.secrets import NO_SECRETS, Secrets
from handrail.v1 import event_pb2
from observability import names, tracing
from workers.instance import Ended, Instance, nobody
from workers.toolbox import Toolbox

PROGRESS_INTERVAL_S = 0.5
# Far above what bad luck makes: the broker also counts what a busy agent put back.
MAX_DELIVERIES = 30
MAX_LOST_CLAIM_DELAY_S = 30.0
APPEND_RETRY_DELAY_S = 0.2
TOGETHER_S = 0.1
MAX_TOGETHER_BYTES = 256 * 1024

_logger = structlog.get_logger("worker")


class Worker:
    """The host of one toolbox's tools."""

    def __init__(
        self,
        log: Log,
        tools: Mapping[str, AnyTool],
        *,
        toolbox: str,
        instance: Instance,
        checker: Checker,
        concurrency: int,
        secrets: Secrets = NO_SECRETS,
        ended: Ended = nobody,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._toolbox = Toolbox(
            toolbox, tools, checker=checker, concurrency=concurrency, secrets=secrets, now_ns=now_ns
        )
        self._pool = toolbox
        self._instance = instance
        self._ended = ended
        self._concurrency = concurrency
        self._running: set[tuple[RunKey, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Act until cancelled; what is in flight is then finished first."""
        if self._toolbox.is_shut_in:
            await asyncio.to_thread(self._toolbox.warm)
        async for delivery in self._log.consume(consumers.worker(self._pool), limit=self._concurrency):
            task = asyncio.create_task(self._take(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is in flight."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self._toolbox.close()

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
        actions = _actions(record)
        if record is None or not actions:
            await delivery.ack()
            return
        running = (delivery.key, actions[-1].attempt)
        if running in self._running:
            # Delivered again while it is still being carried out here.
            await delivery.nak(PROGRESS_INTERVAL_S)
            return
        self._running.add(running)
        try:
            foreign = self._toolbox.foreign(delivery.key, actions)
            if foreign is not None:
                if await self._refuse(delivery, record, actions, foreign):
                    await delivery.ack()
            elif len(actions) > 1:
                await self._carry_out_chain(delivery, record, actions)
                await delivery.ack()
            elif await self._carry_out(delivery, record, actions[0]):
                await delivery.ack()
        finally:
            self._running.discard(running)

    async def _refuse(
        self, delivery: Delivery, record: Record, actions: list[event_pb2.Action], why: event_pb2.Failure
    ) -> bool:
        """Carry nothing out of what the decider has not signed; return whether the delivery is done with."""
        started, refused = time.monotonic(), []
        for action in actions:
            refused.append(event_pb2.Result(failure=why, happened=event_pb2.HAPPENED_NO))
            _complete(refused[-1], record, action, started)
        if len(refused) > 1:
            await self._append_results(delivery.key, refused)
        elif not await self._append_refusal(delivery.key, refused[0]):
            return await self._report_lost_claim(delivery, actions[0].attempt)
        return True

    async def _carry_out(self, delivery: Delivery, record: Record, action: event_pb2.Action) -> bool:
        """Return whether the delivery is done with."""
        key = delivery.key
        started = time.monotonic()
        arguments, before, refusal = await self._admit(delivery, action, {})
        if refusal is not None:
            result = event_pb2.Result(failure=refusal, happened=event_pb2.HAPPENED_NO)
        else:
            if self._toolbox.has_effect(action.tool) and not await self._claim(key, action.attempt, before):
                return await self._report_lost_claim(delivery, action.attempt)
            result = await self._toolbox.call(action, arguments)
            await self._spill(key, result)
        _complete(result, record, action, started)
        if refusal is None:
            await self._append_results(key, [result])
        elif not await self._append_refusal(key, result):
            return await self._report_lost_claim(delivery, action.attempt)
        return True

    async def _carry_out_chain(
        self, delivery: Delivery, record: Record, actions: list[event_pb2.Action]
    ) -> None:
        """Read one after another, until one fails; results that come soon after each other are one event.

        What comes after a failure is answered too: where a worker before this one has read what failed now,
        the rest still waits for an answer.
        """
        outputs: dict[str, Any] = {}
        said: list[event_pb2.Result] = []
        writing: list[asyncio.Task[None]] = []
        begun = time.monotonic()
        try:
            for position, action in enumerate(actions, start=1):
                size = sum(result.ByteSize() for result in said)
                if said and (time.monotonic() - begun > TOGETHER_S or size > MAX_TOGETHER_BYTES):
                    writing.append(asyncio.create_task(self._append_results(delivery.key, said)))
                    said, begun = [], time.monotonic()
                result = await self._read_link(delivery, record, action, outputs)
                said.append(result)
                if result.HasField("failure"):
                    said += [_left_behind(record, later, action) for later in actions[position:]]
                    break
            await self._append_results(delivery.key, said)
        finally:
            await asyncio.gather(*writing)

    async def _read_link(
        self, delivery: Delivery, record: Record, action: event_pb2.Action, outputs: dict[str, Any]
    ) -> event_pb2.Result:
        """Carry out one action of a chain; its output joins those of the ones before it."""
        with tracing.within(delivery.key, names.EXECUTE_TOOL, action.attempt, step=action.step):
            return await self._read_one(delivery, record, action, outputs)

    async def _read_one(
        self, delivery: Delivery, record: Record, action: event_pb2.Action, outputs: dict[str, Any]
    ) -> event_pb2.Result:
        started = time.monotonic()
        arguments, _, refusal = await self._admit(delivery, action, outputs)
        if refusal is None and self._toolbox.has_effect(action.tool):
            refusal = failures.permanent(failures.PERMIT, f"{action.tool} has an effect: it needs a claim")
        if refusal is not None:
            result = event_pb2.Result(failure=refusal, happened=event_pb2.HAPPENED_NO)
        else:
            result = await self._toolbox.call(action, arguments)
            for name in action.pending:
                result.arguments[name].CopyFrom(values.inline(arguments[name]))
            if result.HasField("output"):
                outputs[action.step] = values.load(result.output, {})
            await self._spill(delivery.key, result)
        _complete(result, record, action, started)
        return result

    async def _admit(
        self, delivery: Delivery, action: event_pb2.Action, outputs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], event_pb2.Failure | None]:
        """Return the arguments, what was seen before, and why it must not be carried out, if it must not."""
        arguments: dict[str, Any] = {}
        before: dict[str, Any] = {}
        try:
            arguments = await self._load(delivery.key, action)
            refusal = self._toolbox.refusal(delivery.key, action, arguments)
            if refusal is None:
                arguments |= {
                    name: resolve(parse_reference(argument.reference), outputs)
                    for name, argument in action.pending.items()
                }
                before, refusal = await self._toolbox.look(action, arguments)
        except LogUnavailable:
            raise
        except (Unresolved, BadReference) as error:
            refusal = failures.permanent(failures.UNRESOLVED, str(error))
        except (values.BadValue, UnicodeDecodeError, LogError) as error:
            refusal = failures.permanent(failures.BAD_ARGUMENTS, str(error))
        if refusal is None and delivery.deliveries > MAX_DELIVERIES:
            refusal = failures.permanent(
                failures.POISONED, f"handed out {delivery.deliveries} times without an answer"
            )
        return arguments, before, refusal

    # --- before ------------------------------------------------------------------------------------

    async def _load(self, key: RunKey, action: event_pb2.Action) -> dict[str, Any]:
        contents: dict[str, str] = {}
        for value in action.arguments.values():
            if value.HasField("blob"):
                contents[value.blob.sha256] = (await self._log.get_blob(key, value.blob)).decode()
        return {name: values.load(value, contents) for name, value in action.arguments.items()}

    # --- the claim -----------------------------------------------------------------------------------

    async def _claim(self, key: RunKey, attempt: str, before: Mapping[str, Any]) -> bool:
        intent = event_pb2.Intent(attempt=attempt, claimer=str(self._instance))
        for name, value in before.items():
            intent.before[name].CopyFrom(values.inline(value))
        await spill(self._log, key, list(intent.before.values()))
        event = self._event()
        event.intent.CopyFrom(intent)
        try:
            await self._log.append(
                self._address(key, "intent", attempt),
                event,
                fence=subjects.claim(key, self._pool, attempt),
                trace=tracing.carried(),
            )
        except FenceLost:
            return False
        return True

    async def _append_refusal(self, key: RunKey, result: event_pb2.Result) -> bool:
        """Refuse an action; where somebody else has claimed it meanwhile, it is not ours to refuse."""
        event = self._result_event(result)
        fence = subjects.claim(key, self._pool, result.attempt)
        try:
            address = self._address(key, "result", result.attempt)
            await self._log.append(address, event, fence=fence, trace=tracing.carried())
        except FenceLost:
            return False
        return True

    async def _report_lost_claim(self, delivery: Delivery, attempt: str) -> bool:
        """Say that another has claimed the attempt and is silent; never resolve it."""
        key = delivery.key
        last = await self._log.last(key.shard, subjects.claim_filter(key, self._pool, attempt))
        kind = last.address.topic[-2] if last is not None else ""
        if last is None or kind not in ("intent", "orphan"):
            # Taken back, answered or judged: there is nothing left to say.
            return True
        claimer, told_dead = _claimer(last)
        dead = self._instance.knows_dead(claimer, self._ended)
        if kind == "intent" or (dead and not told_dead):
            event = self._event()
            event.orphan.CopyFrom(event_pb2.Orphan(attempt=attempt, claimer=claimer, seen_dead=dead))
            fence = Fence(subjects.claim_filter(key, self._pool, attempt), last.sequence)
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

    async def _spill(self, key: RunKey, result: event_pb2.Result) -> None:
        found = [result.output] if result.HasField("output") else []
        await self._durably(lambda: spill(self._log, key, [*found, *result.arguments.values()]))

    async def _append_results(self, key: RunKey, results: list[event_pb2.Result]) -> None:
        """Append what was read or done, as one event."""
        *earlier, last = (self._result_event(result) for result in results)
        last.before.extend(earlier)
        address = self._address(key, "result", last.result.attempt)
        await self._durably(lambda: self._log.append(address, last, trace=tracing.carried()))

    def _result_event(self, result: event_pb2.Result) -> event_pb2.Event:
        event = self._event()
        event.result.CopyFrom(result)
        return event

    async def _durably(self, write: Callable[[], Any]) -> Any:
        """Write until it is written: what has been done must not be forgotten because the broker is away."""
        while True:
            try:
                return await write()
            except (LogUnavailable, LogFull) as error:
                _logger.warning("result not written yet", reason=str(error))
                await asyncio.sleep(APPEND_RETRY_DELAY_S)

    def _event(self) -> event_pb2.Event:
        writer = f"worker-{self._pool}/{self._instance}"
        return event_pb2.Event(id=uuid.uuid4().hex, version=run.VERSION, writer=writer, handrail=release())

    def _address(self, key: RunKey, kind: str, attempt: str) -> Address:
        return Address(key, "ans", ("worker", self._pool, kind, attempt))


def _actions(record: Record | None) -> list[event_pb2.Action]:
    """Return what a delivery asks for: an action, or a chain of them."""
    if record is None or record.event is None or record.event.WhichOneof("body") != "action":
        return []
    parts = run.unbundled(record)
    return [part.event.action for part in parts if part.event is not None and part.event.HasField("action")]


def _left_behind(record: Record, action: event_pb2.Action, failed: event_pb2.Action) -> event_pb2.Result:
    failure = failures.transient(failures.LEFT_BEHIND, f"not read, because {failed.attempt} failed")
    return event_pb2.Result(
        attempt=action.attempt,
        action_sequence=record.sequence,
        failure=failure,
        happened=event_pb2.HAPPENED_NO,
    )


def _complete(result: event_pb2.Result, record: Record, action: event_pb2.Action, started: float) -> None:
    result.attempt, result.action_sequence = action.attempt, record.sequence
    result.took.FromNanoseconds(int((time.monotonic() - started) * 1e9))


def _claimer(record: Record) -> tuple[str, bool]:
    """Return who has claimed an attempt, and whether it was said that they are dead."""
    event = record.event
    if event is None or event.version > run.VERSION:
        return run.UNREADABLE, False
    if event.HasField("orphan"):
        return event.orphan.claimer, event.orphan.seen_dead
    return event.intent.claimer or NAMELESS, False
