"""The decider: reads a run's log, folds it, decides, and performs what was decided.

Deliveries only wake it. Each run is applied strictly in stream order, the decider's own events included;
whenever order is not certain the run is read again from the log. A trigger is acknowledged after all its
appends and timers, so a crash in between costs a second look. Correctness rests on the fences alone: that
one decider is pinned to a shard only keeps two from doing the same work.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field

import structlog

from bus import consumers, subjects
from bus.spilling import spill
from core import permits, run
from core.ahead import can_be_overtaken, decide_ahead, is_note
from core.decide import Catalogue
from core.errors import HandrailError
from core.moves import Arm, Decide, Erase, Load, Move, Revoke
from core.permits import Signer
from core.ports import (
    Address,
    Consumer,
    Delivery,
    FenceLost,
    Log,
    LogError,
    LogForbidden,
    LogUnavailable,
    RunKey,
)
from core.state import RunState
from handrail.release import release
from handrail.v1 import event_pb2, plan_pb2
from observability import ids, logs, tracing
from orchestrator.reads import Reads

MAX_UNANSWERED = 2_000
MAX_CACHED_RUNS = 10_000
MAX_ROUNDS = 2_000
MAX_CARRIED_BYTES = 256 * 1024
MAX_OVERTAKEN = 5
"""So often a run that was decided on too early is read and decided on again at once."""
RETRY_DELAY_S = 0.25

_FOLLOWED_BY_NOTHING = frozenset({"plan_ask", "proposal_ask", "action", "verify_ask", "intent"})

_logger = structlog.get_logger("decider")


class Overtaken(FenceLost):
    """Something was said in a run that a decision on it had to know of."""


class DecisionStuck(HandrailError):
    """A decision that never gets all that it asks for."""


@dataclass(slots=True)
class _Entry:
    """A run that is being looked at."""

    key: RunKey
    state: RunState | None = None
    pending: list[Delivery] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    armed: dict[str, int] = field(default_factory=dict)
    now_ns: int = 0
    # Decide again only when applied up to here.
    appended: int = 0
    busy: bool = False
    # Something was delivered out of order: read the run again before going on.
    stale: bool = False
    # The broker's time of the last tick that it was read for.
    ticked_ns: int = 0
    # The id of the run's trace, once its submission has been read.
    trace: str = ""
    # All that could be decided is on its way; what was decided, and claims, change nothing about that.
    at_rest: bool = False
    # So far it was read when a decision was overtaken, by what may be no record.
    end: int = 0


class Decider:
    """Sees every run of the shards that are pinned to it through to its end."""

    def __init__(self, log: Log, catalogue: Catalogue, *, signer: Signer, instance: str) -> None:
        self._log = log
        self._reads = Reads(log)
        self._catalogue = catalogue
        self._signer = signer
        self._writer = f"decider/{instance}"
        self._runs: dict[RunKey, _Entry] = {}
        # The next sequence that each shard's consumer will deliver, if nothing is missed.
        self._expected: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def cached(self) -> int:
        """How many runs are held in memory."""
        return len(self._runs)

    async def serve(self) -> None:
        """Decide until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._consume(consumers.decider()))
                group.create_task(self._consume(consumers.ticks()))
        finally:
            for task in self._tasks:
                task.cancel()
            self._reads.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _consume(self, consumer: Consumer) -> None:
        async for delivery in self._log.consume(consumer, limit=MAX_UNANSWERED):
            self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        """Queue a delivery for its run, and work on the run if nobody does."""
        if delivery.record is not None:
            self._check_order(delivery.key.shard, delivery.record.sequence)
        entry = self._runs.get(delivery.key)
        if entry is None:
            entry = self._runs[delivery.key] = _Entry(delivery.key)
        entry.pending.append(delivery)
        if not entry.busy:
            entry.busy = True
            task = asyncio.create_task(self._work(entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _check_order(self, shard: int, sequence: int) -> None:
        """Forget what is cached of a shard when its deliveries have skipped something."""
        expected = self._expected.get(shard)
        if expected is None or sequence > expected:
            # Also what a tick made it cache before the shard was its own. What nobody works on is read again
            # when something happens: of a run whose end went to another decider nothing may ever be heard.
            for entry in [entry for entry in self._runs.values() if entry.key.shard == shard]:
                entry.stale = True
                if not entry.busy:
                    del self._runs[entry.key]
        if expected is None or sequence >= expected:
            self._expected[shard] = sequence + 1

    async def _work(self, entry: _Entry) -> None:
        try:
            while entry.pending:
                batch, entry.pending = entry.pending, []
                with logs.bound(entry.key.run, trace=entry.trace):
                    await self._look(entry, batch)
        finally:
            entry.busy = False
            if not entry.pending and self._idle(entry):
                self._runs.pop(entry.key, None)

    def _idle(self, entry: _Entry) -> bool:
        """Whether nothing is on its way: the run can be read again when something happens."""
        state = entry.state
        if state is None or state.over or state.unreadable:
            return True
        planning = state.plan is None and state.plan_asks > 0
        waiting = state.applied < entry.appended or bool(state.in_flight) or planning
        return not waiting or len(self._runs) > MAX_CACHED_RUNS

    async def _look(self, entry: _Entry, batch: list[Delivery]) -> None:
        """Fold what came, decide, perform, acknowledge. The one supervision point of the decider."""
        try:
            await self._fold(entry, batch)
            if not entry.trace:
                entry.trace = ids.of_run(entry.key, _traceparent(entry)).trace_id
                logs.bind_trace(entry.trace)
            if not (entry.at_rest and all(map(_tells_nothing, batch))):
                entry.at_rest = False
                entry.at_rest = await self._insist(entry)
        except (LogError, OSError) as error:
            # A foreign decision, too many answers, or a broker that is away: forget, and look again later.
            entry.state, entry.appended, entry.at_rest = None, 0, False
            _logger.info("decision postponed", run=entry.key.run, reason=str(error))
            await self._postpone(batch)
        except asyncio.CancelledError:
            raise
        except Exception:
            entry.state, entry.appended, entry.at_rest = None, 0, False
            _logger.exception("decision failed", run=entry.key.run)
            await self._postpone(batch)
        else:
            for delivery in batch:
                await delivery.ack()

    async def _postpone(self, batch: list[Delivery]) -> None:
        for delivery in batch:
            await delivery.nak(RETRY_DELAY_S * min(delivery.deliveries, 20))

    async def _fold(self, entry: _Entry, batch: list[Delivery]) -> None:
        entry.now_ns = max(entry.now_ns, *(d.time_ns for d in batch))
        # A tick may come to a decider that no longer hears the run's events. Where many are due at once, some
        # come again before they are answered: what was read for a tick is not read for it once more.
        ticks = [delivery for delivery in batch if delivery.record is None]
        ticked = any(tick.deliveries == 1 or tick.time_ns != entry.ticked_ns for tick in ticks)
        if entry.state is None and not entry.stale and not ticked and _is_first(batch):
            entry.state = run.initial(entry.key)
        if entry.state is None or entry.stale or ticked:
            entry.stale = entry.at_rest = False
            # A timer that has fired is armed no more, whether its time had come or not.
            entry.armed.clear()
            await self._read(entry)
            entry.ticked_ns = ticks[-1].time_ns if ticks else 0
            return
        for delivery in batch:
            if delivery.record is not None:
                entry.state = run.apply(entry.state, delivery.record)

    async def _read(self, entry: _Entry) -> None:
        """Read a run anew: together with others, where many are due at once."""
        records = await self._reads.read(entry.key)
        entry.state = run.fold(entry.key, records)
        if records:
            entry.now_ns = max(entry.now_ns, records[-1].time_ns)

    async def _insist(self, entry: _Entry) -> bool:
        """Settle a run; where something came first that a decision had to know of, read it and decide again.

        That ends: answers come only of what is in flight, which is bounded, and other decisions are kept.
        What nobody could read is passed over.
        """
        for _ in range(MAX_OVERTAKEN):
            try:
                return await self._settle(entry)
            except Overtaken as error:
                _logger.info("decision overtaken", run=entry.key.run, reason=str(error))
                # First the end: what comes after it overtakes again.
                entry.end = await self._log.end(entry.key)
                await self._read(entry)
        return await self._settle(entry)

    async def _settle(self, entry: _Entry) -> bool:
        """Decide and perform until nothing is missing that can be done now; return whether that is all."""
        for _ in range(MAX_ROUNDS):
            state = entry.state
            if state is None or state.applied < entry.appended:
                return False
            moves = decide_ahead(state, entry.now_ns, self._catalogue, entry.contents)
            loads = [move for move in moves if isinstance(move, Load)]
            if not loads:
                return await self._perform(entry, state, moves)
            for load in loads:
                entry.contents[load.blob.sha256] = await self._load(entry.key, load.blob)
        raise DecisionStuck(f"run {entry.key.run} needs more than {MAX_ROUNDS} large values at once")

    async def _load(self, key: RunKey, blob: plan_pb2.Blob) -> str:
        """Return a large value; what is not whole, or no text, is none and fails the step that needs it."""
        try:
            return (await self._log.get_blob(key, blob)).decode()
        except (LogUnavailable, LogForbidden):
            raise
        except (LogError, UnicodeDecodeError) as error:
            _logger.warning("a large value cannot be read", run=key.run, reason=str(error))
            return ""

    async def _perform(self, entry: _Entry, state: RunState, moves: list[Move]) -> bool:
        """Carry moves out; return whether nothing more can be decided before somebody answers."""
        last = state.last_decision
        revoked = False
        # As long as one is to come that can be overtaken: what is appended before it must not hide by what.
        fragile = sum(isinstance(move, Decide) and can_be_overtaken(state, move) for move in moves)
        for move in moves:
            if isinstance(move, Decide):
                if revoked:
                    # The fence is only known when the revoke has been folded, and what came before it.
                    return False
                last = await self._append(
                    entry, move, last, read=max(state.applied, entry.end) if fragile else 0
                )
                fragile -= can_be_overtaken(state, move)
            elif isinstance(move, Revoke):
                sequence = await self._revoke(entry.key, move)
                entry.appended = max(entry.appended, sequence)
                revoked = revoked or sequence > 0
            elif isinstance(move, Erase):
                await self._log.erase(entry.key)
            elif isinstance(move, Arm) and entry.armed.get(move.timer) != move.due_ns:
                await self._log.arm(entry.key, move.timer, move.due_ns)
                entry.armed[move.timer] = move.due_ns
        # Asks rest with others, and an end is an end; after notes alone there may be more to decide.
        return not any(isinstance(m, Revoke) or (isinstance(m, Decide) and is_note(m)) for m in moves)

    async def _append(self, entry: _Entry, move: Decide, last: int, *, read: int) -> int:
        """Append a decision behind the last one, and return where it stands.

        With `read` only if nothing has been said in the run since then, but for decisions of one's own.
        """
        for topic, event in await self._events(entry.key, move):
            fence = subjects.decisions(entry.key, last)
            if read:
                fence = subjects.everything(entry.key, max(read, last))
            trace = tracing.of_ask(entry.key, _traceparent(entry), event)
            address = Address(entry.key, "dec", topic)
            try:
                last = entry.appended = await self._log.append(address, event, fence=fence, trace=trace)
            except FenceLost as error:
                if read:
                    raise Overtaken(str(error)) from error
                raise
        return last

    async def _revoke(self, key: RunKey, move: Revoke) -> int:
        """Take an attempt back; where its intent came first there is nothing to take, and 0 is returned."""
        topic = ("claim", move.pool, "revoke", move.body.attempt)
        fence = subjects.claim(key, move.pool, move.body.attempt)
        try:
            return await self._log.append(
                Address(key, "dec", topic), self._event("revoked", move.body), fence=fence
            )
        except FenceLost:
            return 0

    async def _events(self, key: RunKey, move: Decide) -> list[tuple[tuple[str, ...], event_pb2.Event]]:
        """Return a decision as one event with what it carries; notes that are too large go on their own."""
        *carried, last = [(one, self._event(one.arm, one.body)) for one in (*move.before, move)]
        await self._spill(key, [event for _, event in (*carried, last)])
        apart: list[tuple[Decide, event_pb2.Event]] = []
        if sum(event.ByteSize() for _, event in carried) > MAX_CARRIED_BYTES:
            apart = [(one, event) for one, event in carried if is_note(one)]
            carried = [(one, event) for one, event in carried if not is_note(one)]
        actions = [event.action for _, event in (*carried, last) if event.HasField("action")]
        if actions:
            permits.sign(actions, self._signer)
        last[1].before.extend(event for _, event in carried)
        return [(one.topic, event) for one, event in (*apart, last)]

    def _event(self, arm: str, body: object) -> event_pb2.Event:
        event = event_pb2.Event(
            id=uuid.uuid4().hex, version=run.VERSION, writer=self._writer, handrail=release()
        )
        getattr(event, arm).CopyFrom(body)
        return event

    async def _spill(self, key: RunKey, events: list[event_pb2.Event]) -> None:
        """Move large arguments out of what becomes one event, into the blob stream."""
        found: list[plan_pb2.Value] = []
        for event in events:
            if event.HasField("action"):
                found += event.action.arguments.values()
            elif event.HasField("proposal_ask"):
                found += event.proposal_ask.inputs.values()
            elif event.HasField("undo_planned"):
                steps = [one.step for one in event.undo_planned.compensations]
                found += [held.constant for step in steps for held in step.arguments.values()]
            elif event.HasField("gate_opened"):
                found += [value for item in event.gate_opened.items for value in item.arguments.values()]
        await spill(self._log, key, found)


def _is_first(batch: list[Delivery]) -> bool:
    """Whether a batch begins with a submission that nobody has been handed before.

    It is the first event of its run, so there is nothing to be read.
    """
    first = batch[0]
    if first.record is None or first.deliveries > 1:
        return False
    return (first.record.address.channel, *first.record.address.topic) == ("cmd", "submit")


def _tells_nothing(delivery: Delivery) -> bool:
    """Whether a delivery is a decision or a claim, from which nothing new can follow."""
    if delivery.record is None or delivery.record.event is None:
        return False
    return delivery.record.event.WhichOneof("body") in _FOLLOWED_BY_NOTHING


def _traceparent(entry: _Entry) -> str:
    submit = entry.state.submit if entry.state is not None else None
    return submit.traceparent if submit is not None else ""
