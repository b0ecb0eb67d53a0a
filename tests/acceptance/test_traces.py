"""Traces across real processes, to a real collector: the exact tree of a healed run, and no hole in any."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from opentelemetry import context, trace

from handrail.cli.watching import parts_of
from handrail.v1 import run_service_pb2, run_service_pb2_grpc
from tests.acceptance.conftest import Up, handrail, start, status_name, wait_for
from tests.otlp_receiver import Received, Receiver

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
RUNS = 8
COINS = 10


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver().start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
    yield found
    found.stop()


@pytest.fixture
def mint(tmp_path: Path) -> Path:
    target = tmp_path / "mint"
    shutil.copytree(Path(__file__).parent / "mint", target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def tree(spans: list[Received]) -> list[str]:
    """A line for each span, below its parent, in order of time: name, service, what went wrong."""
    ids = {span.span_id for span in spans}
    below: dict[str, list[Received]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.end_ns)):
        below.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)

    def walk(parent: str, indent: str) -> Iterator[str]:
        for span in below.get(parent, ()):
            error = f" !{span.attributes['error.type']}" if "error.type" in span.attributes else ""
            yield f"{indent}{span.name} [{span.service.removeprefix('handrail-')}]{error}"
            yield from walk(span.span_id, indent + "  ")

    return list(walk("", ""))


def one(spans: list[Received], name: str, attempt: str) -> Received:
    found = [s for s in spans if s.name == name and s.attributes.get("handrail.attempt.id") == attempt]
    assert len(found) == 1, (name, attempt, len(found))
    return found[0]


def test_the_exact_tree_of_a_healed_run_across_ray_processes(receiver: Receiver, mint: Path) -> None:
    up = start(mint, "ray")
    try:
        place = trace.SpanContext(TRACE, SPAN, is_remote=False, trace_flags=trace.TraceFlags(1))
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(place)))
        try:
            with up.client() as client:
                run = client.submit("strike coin 3").run
                assert status_name(client.wait(run, timeout_s=60).status) == "done"
        finally:
            context.detach(token)
        # The tools' own spans come by themselves.
        receiver.wait(lambda: len(receiver.spans(f"{TRACE:032x}")) >= 26)
        assert undo(up, run) == "undone"
        receiver.wait(lambda: len(receiver.spans(f"{TRACE:032x}")) >= 33)
        spans = receiver.spans(f"{TRACE:032x}")
        with up.client() as client:
            log = list(client.watch(run, until_now=True))
    finally:
        assert up.stop() == 0
    assert tree(spans) == [
        "handrail.v1.RunService/SubmitGoal [gateway]",
        "  invoke_workflow mint [decider]",
        "    plan [decider]",
        "      make_plan [planner]",
        "    step die [decider]",
        "      attempt [decider]",
        "        execute_tool get_die [worker-mint]",
        "          open drawer [worker-mint]",
        "        verify [verifier]",
        "    step coin [decider]",
        "      attempt [decider] !slipped",
        "        execute_tool strike_coin [worker-mint] !slipped",
        "          strike [worker-mint]",
        "      heal retry [decider]",
        "      attempt [decider]",
        "        execute_tool strike_coin [worker-mint]",
        "          strike [worker-mint]",
        "        verify [verifier]",
        "          look at coin [verifier]",
        "    step polish [decider]",
        "      attempt [decider]",
        "        choose [executor]",
        "      attempt [decider]",
        "        execute_tool get_coin [worker-mint]",
        "          look at coin [worker-mint]",
        "        verify [verifier]",
        "    undo [decider]",
        "      step undo-coin [decider]",
        "        attempt [decider]",
        "          execute_tool melt_coin [worker-mint]",
        "            melt [worker-mint]",
        "          verify [verifier]",
        "            look at coin [verifier]",
    ]
    melted = next(span for span in spans if span.name == "step undo-coin")
    assert melted.links == [(one(spans, "attempt", "coin-a2").span_id, {})]
    check_healed(spans, log)
    assert {span.parent_id for span in spans} - {span.span_id for span in spans} == {f"{SPAN:016x}"}
    assert receiver.contradictions == []
    assert {
        pair["handrail.run.id"] for pair in (s.attributes for s in spans) if "handrail.run.id" in pair
    } == {run}


def undo(up: Up, run: str) -> str:
    """Have a run undone, and say where it stands then."""
    bearer = (("authorization", f"Bearer {up.token.read_text()}"),)
    with grpc.insecure_channel(up.address) as channel:
        request = run_service_pb2.UndoRunRequest(run=run, wait=Duration(seconds=60))
        response = run_service_pb2_grpc.RunServiceStub(channel).UndoRun(request, metadata=bearer)
    return status_name(response.state.status)


def check_healed(spans: list[Received], log: list[run_service_pb2.WatchRunResponse]) -> None:
    """Links, attributes, times and instances of the attempt that failed and of the one after it."""
    first, second = one(spans, "attempt", "coin-a1"), one(spans, "attempt", "coin-a2")
    why = {"handrail.heal.strategy": "retry", "handrail.heal.cause": "slipped"}
    assert second.links == [(first.span_id, why)]
    assert first.attributes["handrail.attempt.outcome"] == "failed"
    assert second.attributes["handrail.attempt.outcome"] == "confirmed"
    assert (first.failed, second.failed, first.events) == (True, False, ["claimed"])
    assert first.attributes["messaging.system"] == "nats"
    assert (
        first.attributes["messaging.destination.template"] == "ev.{shard}.{tenant}.{run}.dec.ask.worker.mint"
    )
    tool = one(spans, "execute_tool strike_coin", "coin-a2")
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.name"] == "strike_coin"
    assert tool.attributes["gen_ai.tool.call.id"] == "coin-a2"
    assert tool.attributes["handrail.step.id"] == "coin"
    assert "gen_ai.tool.call.arguments" not in tool.attributes
    written = {response.event.id: response for response in log}
    result = next(
        r for r in written.values() if r.event.HasField("result") and r.event.result.attempt == "coin-a2"
    )
    assert tool.end_ns == result.time.ToNanoseconds()
    assert tool.end_ns - tool.start_ns == result.event.result.took.ToNanoseconds()
    # One service for each role, and the instance that did the work.
    writers = {r.event.writer for r in log}
    told = {f"{s.service.removeprefix('handrail-')}/{s.instance}" for s in spans}
    assert writers <= told
    assert {span.resource["service.namespace"] for span in spans} == {"handrail"}
    choice = next(link for link in one(spans, "attempt", "polish-a2").links)
    assert choice == (one(spans, "attempt", "polish-a1").span_id, {"handrail.heal.strategy": "proposal"})


# --- kills ---------------------------------------------------------------------------------------


def expected(log: list[run_service_pb2.WatchRunResponse]) -> Counter[tuple[str, str]]:
    """What spans a run must have, counted from its events: first word of the name, and what it is about."""
    seen: dict[tuple[str, str], None] = {
        ("handrail.v1.RunService/SubmitGoal", ""): None,
        ("invoke_workflow", ""): None,
    }
    heals: Counter[str] = Counter()
    for part in (part for response in log for part in parts_of(response)):
        event = part.event
        arm = str(event.WhichOneof("body"))
        body: Any = getattr(event, arm)
        found: list[tuple[str, str]] = []
        if arm == "plan_ask":
            found = [("plan", body.attempt), ("make_plan", body.attempt)]
        elif arm in ("action", "proposal_ask"):
            answered = "execute_tool" if arm == "action" else "choose"
            found = [("step", body.step), ("attempt", body.attempt), (answered, body.attempt)]
        elif arm in ("expanded", "skipped"):
            found = [("step", body.step)]
        elif arm == "verdict":
            found = [("verify", f"{body.attempt}/{body.round}")]
        elif arm == "healed":
            heals[body.step] += 1
            found = [("heal", f"{body.step}/{heals[body.step]}")]
        seen.update(dict.fromkeys(found))
    return Counter(seen.keys())


def told(spans: list[Received]) -> Counter[tuple[str, str]]:
    """The same of what the collector was sent."""
    found: Counter[tuple[str, str]] = Counter()
    heals: Counter[str] = Counter()
    for span in sorted(spans, key=lambda span: span.start_ns):
        what, said = span.name.split()[0], span.attributes
        about = str(said.get("handrail.attempt.id", ""))
        if what == "step":
            about = said["handrail.step.id"]
        elif what == "verify":
            about = f"{about}/{said['handrail.verdict.round']}"
        elif what == "heal":
            heals[said["handrail.step.id"]] += 1
            about = f"{said['handrail.step.id']}/{heals[said['handrail.step.id']]}"
        found[what, about] += 1
    return found


def test_every_span_arrives_though_tools_fail_and_processes_are_killed(
    receiver: Receiver, mint: Path
) -> None:
    plan = {
        "steps": [
            {"id": "die", "tool": "get_die", "with": {"number": 1}},
            {
                "id": "coins",
                "tool": "strike_coin",
                "each": "$goal.numbers",
                "after": ["die"],
                "with": {"number": "$each"},
            },
        ]
    }
    up = start(mint, "inline")
    try:
        with up.client() as client:
            runs = []
            for number in range(RUNS):
                numbers = list(range(COINS * number, COINS * (number + 1)))
                runs.append(client.submit("coins", plan=plan, context={"numbers": numbers}).run)
        for name in ("worker:mint:0", "tracer", "decider", "minds:inline", "worker:mint:0", "tracer"):
            wait_for("the next effect", _struck(mint), 60)
            pid = wait_for(name, lambda name=name: up.children().get(name), 20)
            os.kill(pid, signal.SIGKILL)
            if name == "decider":
                receiver.stop()
        receiver.start()
        with up.client() as client:
            ended = [client.wait(run, timeout_s=90) for run in runs]
            logs = {run: list(client.watch(run, until_now=True)) for run in runs}
        assert [status_name(run.status) for run in ended] == ["done"] * RUNS

        def ours() -> list[Received]:
            return [span for span in receiver.spans() if "handrail.run.id" in span.attributes]

        count = sum(expected(log).total() for log in logs.values())
        receiver.wait(lambda: len(ours()) >= count, 60)
        by_run: dict[str, list[Received]] = {}
        for span in ours():
            by_run.setdefault(span.attributes["handrail.run.id"], []).append(span)
        for run, log in logs.items():
            assert told(by_run[run]) == expected(log)
            assert len({span.trace_id for span in by_run[run]}) == 1
            roots = {span.parent_id for span in by_run[run]} - {span.span_id for span in by_run[run]}
            assert roots == {""}
        assert receiver.contradictions == []
        # It was no quiet day.
        lost = [span for span in ours() if span.attributes.get("handrail.lost")]
        assert lost, "no attempt was lost"
        assert sum(span.attributes.get("error.type") == "slipped" for span in ours()) >= RUNS
        # The numbers come with it.
        receiver.wait(lambda: "handrail.runs" in _metrics(receiver))
        check_trace_command(up, runs[0], len(by_run[runs[0]]))
        check_logs(up)
    finally:
        up.stop()


def _struck(mint: Path) -> Any:
    """Say when one more coin has been struck than now, or all have."""

    def count() -> int:
        return len([path for path in (mint / "coins").glob("*") if path.name.isdigit()])

    before = count()
    return lambda: count() > min(before, RUNS * COINS - 1)


def _metrics(receiver: Receiver) -> set[str]:
    return {
        metric.name
        for request in list(receiver.metrics)
        for whole in request.resource_metrics
        for scope in whole.scope_metrics
        for metric in scope.metrics
    }


def check_trace_command(up: Up, run: str, count: int) -> None:
    drawn = handrail("trace", run, "--server", up.address)
    assert drawn.returncode == 0, drawn.stderr
    assert len(drawn.stdout.splitlines()) == count
    sent = handrail("trace", run, "--server", up.address, "--otlp", "--json")
    assert json.loads(sent.stdout)["spans"] == count


def check_logs(up: Up) -> None:
    """What a tool logs says for which run, step and attempt it was called."""
    lines = (up.data / "logs" / "worker-mint-0.log").read_text().splitlines()
    striking = [json.loads(line) for line in lines if '"striking' in line]
    assert striking
    for line in striking:
        assert line["attempt"].startswith(line["step"])
        assert line["step"].startswith("coins-")
        assert line["run"]
        assert len(line["trace_id"]) == 32


def test_a_collector_that_is_down_neither_slows_nor_breaks_a_run(
    mint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Receiver().start()
    away.stop()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", away.endpoint)
    ended = handrail("run", "strike coin 1", "--project", str(mint), "--json")
    assert ended.returncode == 0, ended.stderr
    run = json.loads(ended.stdout.splitlines()[-1])["run"]["id"]
    # It is sent by the next stack that finds the collector.
    away.start()
    up = start(mint, "inline")
    try:
        again = handrail("run", "strike coin 2", "--server", up.address, "--json")
        assert again.returncode == 0, again.stderr
        away.wait(lambda: any(s.attributes.get("handrail.run.id") == run for s in away.spans()), 60)
    finally:
        assert up.stop() == 0
        away.stop()
