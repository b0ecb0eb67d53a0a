"""The tracer over the log's twin, and a real collector that refuses, hangs, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bus import consumers
from bus.memory import MemoryLog
from core.ports import Record, RunKey
from handrail.v1 import event_pb2
from observability import names
from observability.export import ExportFailed, FileExporter, NoExporter, OtlpExporter
from observability.metrics import Metrics, NoMetrics, RunMetrics
from observability.spans import spans_of
from orchestrator import tracer as tracers
from orchestrator.lag import Lag
from orchestrator.tracer import Tracer
from tests.awake import Awake
from tests.integration.patient import PatientBroker
from tests.otlp_receiver import Receiver
from tests.scenarios import histories
from tests.scenarios.test_undo import acted, booked, undo


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver().start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
    monkeypatch.setattr(tracers, "FIRST_DELAY_S", 0.05)
    yield found
    found.stop()


class Stage:
    """A log to write histories into, and a tracer that hears it."""

    def __init__(self, exporter: Any, metrics: Metrics | None = None) -> None:
        self.broker = PatientBroker()
        self.log = MemoryLog(self.broker)
        self.exporter = exporter
        self.tracer = Tracer(
            self.log,
            exporter,
            metrics or NoMetrics(),
            watched=[consumers.tracer(), consumers.decider()],
            lags=self._lags,
        )

    async def _lags(self) -> list[Lag]:
        return [Lag("EV_0", 7, 12.5, "message 3 of EV_0 is another now, or none"), Lag("REQ", 0, 0.0)]

    async def write(self, name: str, run: str = "") -> RunKey:
        """Write a history again, as a run of another name."""
        key = RunKey(0, "default", run or f"r0-{name.replace('_', '')}x")
        await self.append(key, histories.load(name))
        return key

    async def append(self, key: RunKey, records: list[Record]) -> None:
        """Write records as those of a run."""
        sequences: dict[int, int] = {}
        for record in records:
            assert record.event is not None
            event = event_pb2.Event()
            event.CopyFrom(record.event)
            if event.HasField("result"):
                event.result.action_sequence = sequences[event.result.action_sequence]
            address = type(record.address)(key, record.address.channel, record.address.topic)
            sequences[record.sequence] = await self.log.append(address, event)

    async def spans(self, key: RunKey) -> list[Any]:
        return spans_of(key, await self.log.read(key))

    async def settled(self, timeout_s: float = 10.0) -> None:
        await until(lambda: self.backlog() == 0, timeout_s)

    def backlog(self) -> int:
        return self.broker.durable(consumers.tracer(), 0).backlog


@contextlib.asynccontextmanager
async def serving(stage: Stage) -> AsyncIterator[Stage]:
    task = asyncio.create_task(stage.tracer.serve())
    try:
        yield stage
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stage.exporter.close()
        await stage.log.close()


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_every_run_that_ended_is_sent_whole(receiver: Receiver) -> None:
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        keys = [await stage.write(name) for name in ("lie_healed", "worker_killed", "refused", "fan_out")]
        await stage.write("in_doubt")
        await stage.settled()
        expected = [span for key in keys for span in await stage.spans(key)]
        found = {(span.trace_id, span.span_id): span for span in receiver.spans()}
        assert found.keys() == {(span.trace_id, span.span_id) for span in expected}
        for span in expected:
            got = found[span.trace_id, span.span_id]
            assert got.service == f"handrail-{span.role}"
            assert (got.instance, got.name, got.parent_id) == (span.instance, span.name, span.parent_id)
            assert (got.kind, got.start_ns, got.end_ns) == (span.kind, span.start_ns, span.end_ns)
            assert got.attributes == span.attributes
            assert got.links == [(link.span_id, dict(link.attributes)) for link in span.links]
            assert got.failed == (span.status == "error")
        assert receiver.contradictions == []


def undone(step: str = "") -> list[Record]:
    """The log of a run that was done, and then undone."""
    play = acted(undo(booked(), step), "undo-book-a1", None)
    return (play if step else acted(play, "undo-pay-a1", None)).records


async def test_an_undo_is_sent_when_it_has_ended_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    file, key, records = tmp_path / "traces.jsonl", RunKey(0, "default", "r0-undonex"), undone()
    end = next(n for n, record in enumerate(records) if record.event and record.event.HasField("finished"))
    async with serving(Stage(FileExporter(file))) as stage:
        await stage.append(key, records)
        await stage.settled()
        expected = await stage.spans(key)
    lines = [_span_ids(line) for line in file.read_text().splitlines()]
    run = {span.span_id for span in spans_of(records[0].address.key, records[: end + 1])}
    assert sorted(id for line in lines for id in line) == sorted(span.span_id for span in expected)
    assert len(run) == 10
    assert len(expected) == 10 + 1 + 2 * 4


def _span_ids(line: str) -> list[str]:
    scopes = (scope for whole in json.loads(line)["resourceSpans"] for scope in whole["scopeSpans"])
    return [span["spanId"] for scope in scopes for span in scope["spans"]]


async def test_an_undo_while_it_goes_on_is_not_sent(receiver: Receiver) -> None:
    records = undone()
    ended = len(records) - 1
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        key = RunKey(0, "default", "r0-undoingx")
        await stage.append(key, records[:ended])
        await stage.settled()
        assert [span.name for span in receiver.spans() if span.name.startswith("undo")] == []
        await stage.append(key, records[ended:])
        await stage.settled()
        assert {span.span_id for span in receiver.spans()} == {s.span_id for s in await stage.spans(key)}
        assert receiver.requests == 2
        assert receiver.contradictions == []


async def test_the_undo_of_an_unsampled_run_is_not_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        await stage.append(RunKey(0, "default", "r0-undonex"), undone())
        await stage.settled()
        assert receiver.requests == 0


async def test_a_collector_that_is_away_gets_the_traces_when_it_is_back(receiver: Receiver) -> None:
    receiver.stop()
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        key = await stage.write("refund")
        await until(lambda: stage.tracer._delay_s > 0)
        assert stage.backlog() == 1
        with Awake() as awake:
            await stage.tracer.drain(2.0)
        assert awake.seconds < 0.5
        receiver.start()
        await stage.settled()
        assert len(receiver.spans()) == len(await stage.spans(key))


async def test_a_refused_export_is_repeated_with_growing_delays(receiver: Receiver) -> None:
    receiver.refusing = True
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        await stage.write("refund")
        await until(lambda: stage.tracer._delay_s > 0.15)
        receiver.refusing = False
        await stage.settled()
        assert stage.tracer._delay_s == 0
        assert receiver.contradictions == []


async def test_a_collector_that_hangs_keeps_nobody_from_leaving(receiver: Receiver) -> None:
    receiver.hanging.set()
    stage = Stage(OtlpExporter(receiver.endpoint))
    with Awake() as awake:
        async with serving(stage):
            await stage.write("refund")
            await until(lambda: receiver.requests)
            await stage.tracer.drain(0.3)
    assert awake.seconds < 2
    assert stage.backlog() == 1


async def test_what_was_not_acknowledged_is_sent_again_and_is_the_same(receiver: Receiver) -> None:
    stage = Stage(OtlpExporter(receiver.endpoint))
    key = await stage.write("refund")
    sent = await stage.spans(key)
    # A tracer that was killed between the export and the acknowledgement.
    await stage.exporter.export(sent)
    async with serving(stage):
        await stage.settled()
        assert receiver.requests == 2
        assert len(receiver.spans()) == len(sent)
        assert receiver.contradictions == []


async def test_runs_are_sent_together(receiver: Receiver) -> None:
    stage = Stage(OtlpExporter(receiver.endpoint))
    for number in range(20):
        await stage.write("refused", f"r0-together{number:02d}")
    async with serving(stage):
        await stage.settled()
        assert len({span.trace_id for span in receiver.spans()}) == 20
        assert receiver.requests <= 5


async def test_unsampled_runs_are_not_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        await stage.write("refund")
        await stage.settled()
        assert receiver.requests == 0


async def test_headers_of_the_environment_are_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=rail")
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        await stage.write("refused")
        await stage.settled()
        assert receiver.headers[0]["x-team"] == "rail"


async def test_a_trace_that_cannot_be_made_holds_up_no_other(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(key: RunKey, records: list[Record], *, with_content: bool) -> Any:
        if key.run.endswith("bad"):
            raise ValueError("a bug")
        return spans_of(key, records)

    monkeypatch.setattr(tracers, "spans_of", broken)
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        await stage.write("refused", "r0-itisbad")
        key = await stage.write("refused")
        await stage.settled()
        assert len(receiver.spans()) == len(await stage.spans(key))


async def test_large_traces_go_in_several_requests(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("observability.export.MAX_SPANS", 10)
    async with serving(Stage(OtlpExporter(receiver.endpoint))) as stage:
        key = await stage.write("worker_killed")
        await stage.settled()
        spans = await stage.spans(key)
        assert receiver.requests == -(-len(spans) // 10)
        assert len(receiver.spans()) == len(spans)


async def test_without_a_collector_a_file_has_the_traces(tmp_path: Path) -> None:
    async with serving(Stage(FileExporter(tmp_path / "traces.jsonl"))) as stage:
        await stage.write("refund")
        await stage.tracer.drain(5.0)
        assert stage.backlog() == 0
        assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 1


async def test_a_closed_exporter_sends_nothing(receiver: Receiver) -> None:
    exporter = OtlpExporter(receiver.endpoint)
    await exporter.close()
    records = histories.load("refused")
    with pytest.raises(ExportFailed):
        await exporter.export(spans_of(records[0].address.key, records))


# --- metrics -------------------------------------------------------------------------------------


async def test_metrics_count_what_the_spans_tell() -> None:
    reader = InMemoryMetricReader()
    metrics = RunMetrics(MeterProvider([reader], shutdown_on_exit=False))
    async with serving(Stage(NoExporter(), metrics)) as stage:
        healed = await stage.write("lie_healed")
        await stage.write("worker_killed")
        # It does not end, and its doubt counts all the same.
        await stage.write("in_doubt")
        await stage.append(RunKey(0, "default", "r0-undonex"), undone("book"))
        await stage.settled()
        data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name: metric.data.data_points
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }
        assert _sums(found[names.RUNS], "handrail.status") == {"done": 3}
        assert _sums(found[names.DOUBTS], "") == {"": 1}
        assert _sums(found[names.HEALS], names.HEAL_STRATEGY) == {
            "reread": 1,
            "retry": 1,
            "retry_same_key": 8,
        }
        outcomes = _sums(found[names.ACTIONS], "handrail.outcome")
        assert outcomes == {"confirmed": 4 + 1 + 8 + 1 + 3, "refuted": 1, "lost": 8}
        assert _sums(found[names.STEPS], "handrail.status") == {"done": 4 + 11 + 2, "skipped": 1}
        assert _sums(found[names.UNDOS], "handrail.outcome") == {"undone": 1}
        assert _sums(found[names.COMPENSATIONS], "handrail.outcome") == {"done": 1}
        stacks = {names.BACKLOG, names.NOTARY_LAG, names.NOTARY_LAG_AGE, names.NOTARY_STOPPED}
        for name in found.keys() - stacks:
            assert _sums(found[name], names.TENANT).keys() == {"default"}, name
        backlogs = {point.attributes[names.CONSUMER]: point.value for point in found[names.BACKLOG]}
        assert backlogs.keys() == {"tracer", "decider"}
        figures = {
            name: {point.attributes[names.STREAM]: point.value for point in found[name]}
            for name in (names.NOTARY_LAG, names.NOTARY_LAG_AGE, names.NOTARY_STOPPED)
        }
        assert figures == {
            "handrail.notary.lag": {"EV_0": 7, "REQ": 0},
            "handrail.notary.lag.age": {"EV_0": 12.5, "REQ": 0.0},
            "handrail.notary.stopped": {"EV_0": 1, "REQ": 0},
        }
        exemplars = [e for point in found[names.ACTION_DURATION] for e in point.exemplars]
        spans = {span.span_id for span in await stage.spans(healed)}
        assert any(f"{exemplar.span_id:016x}" in spans for exemplar in exemplars)
        metrics.close()


async def test_what_tenants_do_is_counted_apart() -> None:
    reader = InMemoryMetricReader()
    metrics = RunMetrics(MeterProvider([reader], shutdown_on_exit=False))
    records = histories.load("lie_healed")
    for tenant, times in (("acme", 1), ("hooli", 2)):
        for _ in range(times):
            metrics.count(spans_of(records[0].address.key, records), tenant)
            metrics.count_doubt(tenant)
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        sums = _sums(metric.data.data_points, names.TENANT)
        assert sums["hooli"] == 2 * sums["acme"] > 0, metric.name
    metrics.close()


def _sums(points: Any, attribute: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for point in points:
        key = str(point.attributes.get(attribute, "")) if attribute else ""
        # Of a histogram: how many there are.
        found[key] = found.get(key, 0) + (point.value if hasattr(point, "value") else point.count)
    return found
