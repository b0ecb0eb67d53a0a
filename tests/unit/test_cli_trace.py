"""A trace in the terminal: one line for every span, with its place in time, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from bus import subjects
from handrail.cli import trace
from handrail.cli.main import app
from handrail.cli.text import ASCII, UNICODE, Glyphs
from handrail.cli.waterfall import draw, span_object
from handrail.v1 import run_service_pb2
from observability.span import Span
from observability.spans import spans_of
from tests.otlp_receiver import Receiver
from tests.scenarios import histories
from tests.scenarios.play import KEY, Play, write
from tests.scenarios.test_histories import NAMES
from tests.scenarios.test_undo import TELL, acted, booked, undo


def spans(name: str) -> list[Span]:
    records = histories.load(name)
    return spans_of(records[0].address.key, records)


def lines(name: str, width: int = 100, glyphs: Glyphs = UNICODE) -> list[str]:
    return [line.plain for line in draw(spans(name), width=width, glyphs=glyphs)]


def test_a_healed_run() -> None:
    drawn = lines("lie_healed", 90, ASCII)
    assert [" ".join(line.replace("=", "").split()) for line in drawn[-11:]] == [
        "verifier verify 5.5 ms",
        "decider step notify 544 ms",
        "decider attempt notify-a1 281 ms x post_refuted",
        "worker... execute_tool send_email 4.0 ms",
        "verifier verify 7.2 ms x post_refuted",
        "verifier verify (round 2) 4.4 ms x post_refuted",
        "decider heal reread 260 ms post_refuted",
        "decider heal retry 244 ms post_refuted",
        "decider attempt notify-a2 15.4 ms ~ retry",
        "worker... execute_tool send_email 5.0 ms",
        "verifier verify 6.3 ms",
    ]
    # A bar begins where the one before it ends.
    first, second = (next(line for line in drawn if f"notify-a{n}" in line) for n in (1, 2))
    assert first.rindex("=") < second.index("=")


def test_a_lost_attempt_is_marked() -> None:
    lost = [line for line in lines("worker_killed", 120) if "lost" in line]
    assert len(lost) == 16
    assert all("✗ lost: silent_claim" in line and "░" in line for line in lost)
    assert sum("↻ retry same key" in line for line in lines("worker_killed")) == 8


def test_what_goes_on_is_marked() -> None:
    play = Play(write("send")).submit({"id": "send", "tool": "send"}).intent("send-a1")
    drawn = [line.plain for line in draw(spans_of(KEY, play.records))]
    assert all(line.endswith("● goes on") for line in drawn[1:])


def test_an_undo_is_drawn_after_its_run() -> None:
    play = acted(booked(TELL), "tell-a1", None)
    undo(play, dry_run=True)
    acted(acted(undo(play), "undo-book-a1", None), "undo-pay-a1", None)
    undo(play, "tell")
    drawn = [line.plain for line in draw(spans_of(KEY, play.records), width=90, glyphs=ASCII)]
    assert [" ".join(line.replace("=", "").split()) for line in drawn[14:]] == [
        "decider undo 0.0 ms dry run",
        "decider undo 6.0 ms 1 cannot be undone",
        "decider step undo-book 3.0 ms",
        "decider attempt undo-book-a1 3.0 ms",
        "worker... execute_tool unbook 1.0 ms",
        "verifier verify 1.0 ms",
        "decider step undo-pay 3.0 ms",
        "decider attempt undo-pay-a1 3.0 ms",
        "worker... execute_tool unpay 1.0 ms",
        "verifier verify 1.0 ms",
        "decider undo tell 0.0 ms 1 cannot be undone",
    ]
    run, last = drawn[1], drawn[-1]
    assert run.rindex("=") < last.index("=")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_every_history_is_drawn_within_the_width(name: str, width: int, glyphs: Glyphs) -> None:
    drawn = lines(name, width, glyphs)
    assert len(drawn) == len(spans(name))
    assert max(cell_len(line) for line in drawn) <= max(width, 100)
    assert glyphs is not ASCII or all(line.isascii() for line in drawn)


def test_nothing_draws_nothing() -> None:
    assert list(draw([])) == []


def test_a_span_as_json_has_no_secrets_of_the_encoder() -> None:
    found = span_object(spans("lie_healed")[-3])
    assert json.loads(json.dumps(found)) == {
        **found,
        "links": list(found["links"]),
        "events": list(found["events"]),
    }
    assert {"name", "trace_id", "span_id", "parent_id", "start_ns", "end_ns", "status"} <= found.keys()


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has one run."""

    class Served:
        async def watch(self, run: str, **options: Any) -> AsyncGenerator[run_service_pb2.WatchRunResponse]:
            assert options["until_now"]
            for record in histories.load("lie_healed"):
                response = run_service_pb2.WatchRunResponse(
                    cursor=str(record.sequence), subject=subjects.build(record.address), event=record.event
                )
                response.time.FromNanoseconds(record.time_ns)
                yield response

    def with_client(target: Any, work: Any) -> Any:
        import asyncio

        return asyncio.run(work(Served()))

    monkeypatch.setattr(trace, "with_client", with_client)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["trace", "r0-x", "--server", "127.0.0.1:1", *arguments])


def test_the_command_draws(served: None) -> None:
    result = invoke("--width", "100")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].startswith("decider     invoke_workflow refund")
    assert len(result.stdout.splitlines()) == len(spans("lie_healed"))


def test_the_command_prints_json(served: None) -> None:
    result = invoke("--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["span_id"] for one in found] == [span.span_id for span in spans("lie_healed")]


def test_the_command_sends(served: None, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver().start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        result = invoke("--otlp", "--json")
        expected = spans("lie_healed")
        said = {"trace_id": expected[0].trace_id, "spans": len(expected), "sent_to": receiver.endpoint}
        assert json.loads(result.stdout) == said
        assert len(receiver.spans(expected[0].trace_id)) == len(expected)
    finally:
        receiver.stop()
    result = invoke("--otlp")
    assert result.exit_code == 5
    assert "did not take the trace" in result.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in result.stderr
