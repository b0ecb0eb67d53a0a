"""The tracer: hears that a run or an undo of it has ended, makes its trace of its log, and sends what is new.

A run is acknowledged when its trace was accepted, so a crash or a collector that is away repeats an export
and loses none. Nobody waits for it: what cannot be sent now is put back with a growing delay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from bus import consumers
from core.errors import HandrailError
from core.ports import Consumer, Delivery, Log, LogError, Record, RunKey
from observability import sampling
from observability.export import Exporter, ExportFailed
from observability.ids import of_run
from observability.metrics import Metrics
from observability.span import Span
from observability.spans import spans_of

if TYPE_CHECKING:
    from orchestrator.lag import Lag

MAX_RUNS = 64
"""Of one export, and as many as are held unanswered."""
LINGER_S = 0.1
"""How long a run waits for others to be exported with it: reading many costs little more than one."""
PROGRESS_INTERVAL_S = 1.0
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
MAX_FOLDED_INLINE = 500
BACKLOG_INTERVAL_S = 10.0
DRAIN_INTERVAL_S = 0.02

_logger = structlog.get_logger("tracer")


class Tracer:
    """Sends the traces of runs and undos that have ended, and counts what they did."""

    def __init__(
        self,
        log: Log,
        exporter: Exporter,
        metrics: Metrics,
        *,
        with_content: bool = False,
        watched: Sequence[Consumer] = (),
        lags: Callable[[], Awaitable[Sequence[Lag]]] | None = None,
        linger_s: float = 0.0,
    ) -> None:
        """`watched` are the consumers whose backlogs are measured; `lags` tells how far the notary is."""
        self._log = log
        self._exporter = exporter
        self._metrics = metrics
        self._with_content = with_content
        self._watched = watched
        self._lags = lags
        self._linger_s = linger_s
        self._sampled = sampling.sampler()
        # Holds no more than is unanswered.
        self._heard: asyncio.Queue[Delivery] = asyncio.Queue()
        self._delay_s = 0.0
        self._resume_s = 0.0

    async def serve(self) -> None:
        """Send traces until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hear())
            group.create_task(self._work())
            if self._metrics.wanted:
                group.create_task(self._measure())

    async def drain(self, timeout_s: float) -> None:
        """Return when all that has ended was sent, at the latest after a time; at once if nobody takes it."""
        with suppress(TimeoutError, LogError):
            async with asyncio.timeout(timeout_s):
                while not self._delay_s and await self._log.backlog(consumers.tracer()) > 0:
                    await asyncio.sleep(DRAIN_INTERVAL_S)

    async def _hear(self) -> None:
        async for delivery in self._log.consume(consumers.tracer(), limit=MAX_RUNS):
            await self._heard.put(delivery)

    async def _work(self) -> None:
        while True:
            batch = [await self._heard.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s):
                    while len(batch) < MAX_RUNS:
                        batch.append(await self._heard.get())
            await self._handle(batch)

    async def _handle(self, batch: list[Delivery]) -> None:
        """Send what was heard together."""
        left_s = self._resume_s - time.monotonic()
        if left_s > 0:
            await self._put_back(batch, left_s)
            return
        beat = asyncio.create_task(_beat(batch))
        try:
            await self._send(batch)
            self._delay_s = 0.0
        except (ExportFailed, LogError) as error:
            self._delay_s = min(max(FIRST_DELAY_S, 2 * self._delay_s), MAX_DELAY_S)
            self._resume_s = time.monotonic() + self._delay_s
            _logger.warning("traces postponed", runs=len(batch), delay_s=self._delay_s, reason=str(error))
            await self._put_back(batch, self._delay_s)
        finally:
            beat.cancel()

    async def _put_back(self, batch: list[Delivery], delay_s: float) -> None:
        for delivery in batch:
            await delivery.nak(delay_s)

    async def _send(self, batch: list[Delivery]) -> None:
        doubts = [delivery.key.tenant for delivery in batch if _is(delivery.record, "in_doubt")]
        ended = [(one.key, one.record.sequence) for one in batch if one.record and _is_end(one.record)]
        read = await self._log.read_runs(list(dict.fromkeys(key for key, _ in ended)))
        traces = [(key, await self._tell(key, read.get(key, []), end)) for key, end in ended]
        sampled = [
            span for key, spans in traces if self._is_sampled(key, read.get(key, [])) for span in spans
        ]
        await self._exporter.export(sampled)
        for key, spans in traces:
            self._metrics.count(spans, key.tenant)
        for tenant in doubts:
            self._metrics.count_doubt(tenant)
        for delivery in batch:
            await delivery.ack()

    async def _tell(self, key: RunKey, records: list[Record], end: int) -> list[Span]:
        """Make a trace. The one supervision point of the tracer: what it stumbles over has none."""
        try:
            if len(records) <= MAX_FOLDED_INLINE:
                return new_spans(key, records, end, with_content=self._with_content)
            return await asyncio.to_thread(new_spans, key, records, end, with_content=self._with_content)
        except Exception:
            # The same log would fail again.
            _logger.exception("a trace cannot be made", run=key.run)
            return []

    def _is_sampled(self, key: RunKey, records: Sequence[Record]) -> bool:
        """Whether a trace is sent: one answer for the run and for every undo of it."""
        submits = (record.event.submit for record in records if record.event and _is(record, "submit"))
        submit = next(submits, None)
        return submit is not None and self._sampled(of_run(key, submit.traceparent))

    async def _measure(self) -> None:
        """Look at the backlogs, and at the notary, now and then."""
        while True:
            for consumer in self._watched:
                with suppress(LogError):
                    self._metrics.set_backlog(consumer.name, await self._log.backlog(consumer))
            # Away, or without a key that can be read, which is for others to say.
            with suppress(HandrailError, OSError):
                for lag in await self._lags() if self._lags is not None else ():
                    self._metrics.set_lag(lag.stream, lag.messages, lag.age_s, bool(lag.stopped))
            await asyncio.sleep(BACKLOG_INTERVAL_S)


def new_spans(key: RunKey, records: Sequence[Record], end: int, *, with_content: bool = False) -> list[Span]:
    """Return what was not told yet of a run at one of its ends: that of the run itself, or of an undo.

    The undo of a run that failed is over before the run is, and told with it. What a later undo changes of an
    earlier one (a late answer to what that gave up) is told again, under the same id.
    """
    until = [record for record in records if record.sequence <= end]
    finished = next((record.sequence for record in until if _is(record, "finished")), None)
    if finished is None:
        return []
    before = max((r.sequence for r in until if finished <= r.sequence < end and _is_end(r)), default=0)
    earlier = [record for record in until if record.sequence <= before]
    told = {span.span_id: span for span in spans_of(key, earlier, with_content=with_content)}
    spans = spans_of(key, until, with_content=with_content)
    return [span for span in spans if told.get(span.span_id) != span]


def _is_end(record: Record) -> bool:
    return _is(record, "finished") or _is(record, "undo_ended")


def _is(record: Record | None, arm: str) -> bool:
    return record is not None and record.event is not None and record.event.HasField(arm)  # type: ignore[arg-type]


async def _beat(batch: list[Delivery]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        for delivery in batch:
            await delivery.progress()
