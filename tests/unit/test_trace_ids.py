"""Ids of traces and spans: the same wherever they are asked for; a foreign context only where it is valid."""

from __future__ import annotations

import pytest

from bus.answers import trace_in
from bus.link import Client
from core.ports import RunKey
from handrail.v1 import event_pb2
from observability import ids, names

KEY = RunKey(0, "default", "r0-scenario01")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


def test_a_context_is_read_and_written() -> None:
    context = ids.parse(SAMPLED)
    assert context == ids.Context(TRACE, SPAN, True)
    assert ids.render(context) == SAMPLED
    assert ids.parse(f"00-{TRACE}-{SPAN}-00") == ids.Context(TRACE, SPAN, False)
    assert ids.render(ids.Context(TRACE, SPAN, False)).endswith("-00")
    # A later version may say more.
    assert ids.parse(f"01-{TRACE}-{SPAN}-03-more") == ids.Context(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01" + "-" + "x" * 300,
    ],
)
def test_what_is_no_context_is_ignored(text: str) -> None:
    assert ids.parse(text) is None
    ours = ids.of_run(KEY, text)
    assert ours == ids.of_run(KEY, "")
    assert (len(ours.trace_id), ours.span_id, ours.sampled) == (32, "", True)


def test_the_clients_trace_goes_on() -> None:
    assert ids.of_run(KEY, SAMPLED) == ids.Context(TRACE, SPAN, True)


def test_ids_differ_by_run_and_by_what_they_are_about() -> None:
    other = RunKey(0, "another", KEY.run)
    found = {
        ids.span_id(KEY, names.ATTEMPT, "a-a1"),
        ids.span_id(KEY, names.ATTEMPT, "a-a2"),
        ids.span_id(KEY, names.EXECUTE_TOOL, "a-a1"),
        ids.span_id(other, names.ATTEMPT, "a-a1"),
    }
    assert len(found) == 4
    assert all(len(one) == 16 and int(one, 16) for one in found)
    assert ids.of_run(other, "").trace_id != ids.of_run(KEY, "").trace_id


def test_an_ask_carries_the_span_that_waits_for_the_answer() -> None:
    asks = {
        names.PLAN: event_pb2.Event(plan_ask=event_pb2.PlanAsk(attempt="x")),
        names.ATTEMPT: event_pb2.Event(action=event_pb2.Action(attempt="x")),
    }
    for what, event in asks.items():
        expected = ids.Context(TRACE, ids.span_id(KEY, what, "x"))
        assert ids.parse(ids.of_ask(KEY, SAMPLED, event)) == expected
    assert ids.of_ask(KEY, SAMPLED, event_pb2.Event(skipped=event_pb2.Skipped(step="x"))) == ""


def test_whoever_answers_knows_its_own_span() -> None:
    judged = event_pb2.Event(verify_ask=event_pb2.VerifyAsk(attempt="x", round=2))
    assert ids.of_answer(KEY, judged) == ids.span_id(KEY, names.VERIFY, "x", "2")
    done = event_pb2.Event(result=event_pb2.Result(attempt="x"))
    assert ids.of_answer(KEY, done) == ids.span_id(KEY, names.VERIFY, "x", "1")
    act = event_pb2.Event(action=event_pb2.Action(attempt="x"))
    assert ids.of_answer(KEY, act) == ids.span_id(KEY, names.EXECUTE_TOOL, "x")


@pytest.mark.parametrize("value", [b"one\r\ntraceparent: two", b" \x85caf\xc3\xa9\xff ", b"a:b", b""])
def test_every_reader_reads_the_same_trace(value: bytes) -> None:
    """What is signed for is what one of them reads."""
    raw = b"traceparent: " + value + b"\r\n\r\n"
    assert trace_in(b"NATS/1.0\r\n" + raw) == Client._parse_header_lines(raw)["traceparent"]
