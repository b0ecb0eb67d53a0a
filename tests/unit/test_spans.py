"""The spans of a run, over histories of real runs and over made-up ones in which anything may happen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from core import failures, run, values
from core.ports import Record
from core.run import HANDLERS
from handrail.v1 import event_pb2, tool_pb2
from observability import diary, ids, names
from observability.span import Span
from observability.spans import spans_of
from tests.scenarios import histories
from tests.scenarios.play import KEY, Play, contract, write
from tests.scenarios.test_chains import chain
from tests.scenarios.test_histories import NAMES
from tests.unit.test_run import CHOICES, random_play

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def tree(spans: list[Span], *attributes: str) -> list[str]:
    """One line for each span, below its parent, with what was asked for of its attributes."""
    depth = {span.span_id: 0 for span in spans[:1]}
    lines = []
    for span in spans:
        depth[span.span_id] = depth.get(span.parent_id, -1) + 1
        said = [str(span.attributes[name]) for name in attributes if name in span.attributes]
        marks = [mark for mark, set in (("LOST", span.lost), ("OPEN", span.open)) if set]
        error = [f"!{span.error}"] if span.error else []
        lines.append("  " * depth[span.span_id] + " ".join([span.name, *said, *error, *marks]))
    return lines


def of(play: Play, **options: Any) -> list[Span]:
    return spans_of(KEY, play.records, **options)


def one(spans: list[Span], what: str, attempt: str = "") -> Span:
    found = [s for s in spans if s.what == what and attempt in ("", s.attributes.get(names.ATTEMPT_ID))]
    assert len(found) == 1, [s.name for s in found]
    return found[0]


def check(records: list[Record], spans: list[Span]) -> None:
    """What holds for the spans of any log."""
    seen: set[str] = set()
    for span in spans:
        assert span.span_id not in seen
        assert span.parent_id in seen or span is spans[0], span
        assert 0 < span.start_ns <= span.end_ns, span
        assert not (span.lost and span.open)
        assert not span.lost or span.error
        assert {link.span_id for link in span.links} <= {s.span_id for s in spans}
        seen.add(span.span_id)
    assert len({span.trace_id for span in spans}) <= 1
    told = diary.Diary(records[0].address.key, records)
    if told.finished is not None:
        assert not any(span.open for span in spans)
        assert max(span.end_ns for span in spans) == told.finished.time_ns
    attempts = [span for span in spans if span.what == names.ATTEMPT]
    assert {span.attributes[names.ATTEMPT_ID] for span in attempts} == set(told.state.attempts)
    assert len(attempts) == len(told.state.attempts)
    assert sum(s.what == names.HEAL for s in spans) == told.state.heals


# --- histories -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_history_makes_a_whole_trace_at_every_moment(name: str) -> None:
    records = histories.load(name)
    for end in range(1, len(records) + 1):
        check(records[:end], spans_of(records[0].address.key, records[:end]))


def test_a_healed_run() -> None:
    records = histories.load("lie_healed")
    spans = spans_of(records[0].address.key, records)
    assert tree(spans, names.ATTEMPT_OUTCOME, names.STEP_STATUS) == [
        "handrail.v1.RunService/SubmitGoal",
        "  invoke_workflow refund",
        "    plan",
        "      make_plan",
        *(
            line
            for step, tool in (("order", "get_order"), ("refund", "refund_order"), ("earlier", ""))
            for line in (_step(step, tool) if tool else [f"    step {step} skipped"])
        ),
        *_step("draft", "draft_email"),
        "    step notify done",
        "      attempt refuted !post_refuted",
        "        execute_tool send_email",
        "        verify !post_refuted",
        "        verify !post_refuted",
        "      attempt confirmed",
        "        execute_tool send_email",
        "        verify",
        "      heal reread",
        "      heal retry",
    ]
    second = one(spans, names.ATTEMPT, "notify-a2")
    first = one(spans, names.ATTEMPT, "notify-a1")
    assert [link.span_id for link in second.links] == [first.span_id]
    assert second.links[0].attributes == {
        names.HEAL_STRATEGY: "retry",
        names.HEAL_CAUSE: failures.POST_REFUTED,
    }
    heals = [span for span in spans if span.what == names.HEAL]
    # From its decision until it was carried out.
    assert heals[1].end_ns == second.start_ns
    assert heals[1].start_ns > max(s.end_ns for s in spans if s.parent_id == first.span_id)
    roles = {(span.what, span.role, span.kind) for span in spans}
    assert {
        (names.SUBMIT, "gateway", "server"),
        (names.EXECUTE_TOOL, "worker-backoffice", "internal"),
    } < roles
    assert {(names.VERIFY, "verifier", "consumer"), (names.MAKE_PLAN, "planner", "consumer")} < roles
    assert {(names.ATTEMPT, "decider", "producer"), (names.INVOKE_WORKFLOW, "decider", "internal")} < roles


def _step(step: str, tool: str, done: str = " done") -> list[str]:
    lines = [f"step {step}{done}", "  attempt confirmed", f"    execute_tool {tool}", "    verify"]
    return [f"    {line}" for line in lines]


def test_a_killed_worker_leaves_no_hole() -> None:
    records = histories.load("worker_killed")
    spans = spans_of(records[0].address.key, records)
    lost = [span for span in spans if span.lost]
    assert len(lost) == 16
    assert {span.error for span in lost} == {failures.SILENT}
    for what in (names.ATTEMPT, names.EXECUTE_TOOL):
        first, second = one(spans, what, "mails-3-a1"), one(spans, what, "mails-3-a2")
        assert first.lost
        assert not second.lost
        assert first.end_ns <= second.start_ns
    tool = one(spans, names.EXECUTE_TOOL, "mails-3-a1")
    assert (tool.role, tool.instance) == ("worker-backoffice", "1-backoffice_0-1")
    attempt = one(spans, names.ATTEMPT, "mails-3-a1")
    assert [event.name for event in attempt.events] == [names.CLAIMED, names.ORPHANED]
    assert attempt.events[1].attributes[names.SEEN_DEAD] is True
    # From its claim until the decider gave it up.
    assert (tool.start_ns, tool.end_ns) == (attempt.events[0].time_ns, attempt.end_ns)
    link = one(spans, names.ATTEMPT, "mails-3-a2").links[0]
    assert link.attributes == {names.HEAL_STRATEGY: "retry_same_key", names.HEAL_CAUSE: failures.SILENT}


def test_a_doubt_shows() -> None:
    records = histories.load("in_doubt")
    spans = spans_of(records[0].address.key, records)
    assert tree(spans, names.ATTEMPT_OUTCOME, names.STEP_STATUS) == [
        "handrail.v1.RunService/SubmitGoal",
        "  invoke_workflow !in_doubt OPEN",
        "    step slot in_doubt !in_doubt",
        "      attempt in_doubt !timeout",
        "        execute_tool book_slot !timeout",
        "      attempt not_found",
        "        execute_tool slot_by_reference",
        "      heal read_back",
    ]


def test_a_cancelled_run_says_so() -> None:
    records = histories.load("cancelled")
    run = one(spans_of(records[0].address.key, records), names.INVOKE_WORKFLOW)
    assert (run.error, run.status, run.attributes[names.RUN_STATUS]) == ("cancelled", "error", "cancelled")
    assert [event.name for event in run.events] == ["plan_accepted", "cancel"]


# --- made-up runs --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(choices=CHOICES)
def test_whatever_happens_the_trace_is_whole(choices: list[int]) -> None:
    records = random_play(choices).records
    check(records, spans_of(KEY, records, with_content=True))


def test_what_is_kept_covers_every_kind_of_event() -> None:
    assert diary._KEEPERS.keys() == HANDLERS.keys()


def test_strays_are_no_spans() -> None:
    play = Play(contract("look")).submit({"id": "look", "tool": "look"})
    play.verdict("look-a1").done("look-a1", 1).output("look-a1", 2).verdict("look-a1")
    play.output("nobody-a1", 1)
    assert [span.what for span in of(play)] == [
        names.SUBMIT,
        names.INVOKE_WORKFLOW,
        names.STEP,
        names.ATTEMPT,
        names.EXECUTE_TOOL,
        names.VERIFY,
    ]
    assert one(of(play), names.INVOKE_WORKFLOW).attributes[names.STRAYS] == play.state.strays


def test_a_log_without_a_submission_has_no_spans() -> None:
    play = Play(contract("look")).submit({"id": "look", "tool": "look"}).done("look-a1", 1)
    assert spans_of(KEY, play.records[1:]) == []
    assert spans_of(KEY, []) == []


def test_the_clients_span_is_the_parent_and_its_flag_is_kept() -> None:
    play = Play(contract("look"))
    body = event_pb2.Submit(goal=event_pb2.Goal(text="a goal"), traceparent=CLIENT[:-1] + "0")
    body.took.FromMilliseconds(3)
    play.fact(("submit",), "submit", body, channel="cmd")
    spans = of(play)
    context = ids.parse(CLIENT)
    assert context is not None
    assert (spans[0].trace_id, spans[0].parent_id) == (context.trace_id, context.span_id)
    assert {span.trace_id for span in spans} == {context.trace_id}
    assert not any(span.sampled for span in spans)
    assert spans[0].duration_ns == 3_000_000


def test_a_running_run_has_open_spans() -> None:
    play = Play(write("send")).submit({"id": "send", "tool": "send"}).intent("send-a1")
    assert tree(of(play)) == [
        "handrail.v1.RunService/SubmitGoal",
        "  invoke_workflow OPEN",
        "    step send OPEN",
        "      attempt OPEN",
        "        execute_tool send OPEN",
    ]
    play.output("send-a1", 1)
    assert tree(of(play))[4:] == ["        execute_tool send", "        verify OPEN"]
    assert one(of(play), names.VERIFY).end_ns == play.records[-1].time_ns


def test_what_is_never_answered_is_lost_with_the_run() -> None:
    play = Play(contract("look")).submit().cancel()
    assert tree(of(play)) == [
        "handrail.v1.RunService/SubmitGoal",
        "  invoke_workflow !cancelled",
        "    plan !unanswered LOST",
        "      make_plan !unanswered LOST",
    ]


def test_what_is_taken_back_is_not_lost() -> None:
    play = Play(write("send")).submit({"id": "send", "tool": "send"}).pause().resume().done("send-a2", 1)
    spans = of(play)
    assert tree(spans, names.ATTEMPT_OUTCOME)[2:] == [
        "    step send",
        "      attempt revoked",
        "      attempt confirmed",
        "        execute_tool send",
        "        verify",
    ]
    link = one(spans, names.ATTEMPT, "send-a2").links[0]
    assert link.attributes == {names.HEAL_STRATEGY: "again", names.HEAL_CAUSE: "revoked"}


def test_a_late_result_takes_the_place_of_the_heal() -> None:
    keyed = write("send", idempotency=tool_pb2.IDEMPOTENCY_KEYED)
    play = Play(keyed).submit({"id": "send", "tool": "send"}).intent("send-a1")
    play.orphan("send-a1", seen_dead=True).done("send-a1", 1)
    spans = of(play)
    assert not any(span.lost for span in spans)
    heal, tool = one(spans, names.HEAL), one(spans, names.EXECUTE_TOOL)
    assert heal.end_ns == tool.end_ns


def test_a_fan_out_is_a_step_of_steps() -> None:
    play = Play(contract("look"), contract("each")).submit(
        {"id": "look", "tool": "look"},
        {"id": "items", "tool": "each", "each": "$look", "with": {"x": "$each"}},
    )
    play.done("look-a1", [1, 2]).done("items-1-a1", 1).done("items-0-a1", 1)
    spans = [s for s in of(play) if s.what == names.STEP and s.attributes[names.STEP_ID] != "look"]
    parent, *items = spans
    assert [item.attributes[names.STEP_ID] for item in items] == ["items-0", "items-1"]
    assert {item.parent_id for item in items} == {parent.span_id}
    assert parent.end_ns == max(item.end_ns for item in items)


def test_answers_of_one_event_are_laid_out_one_after_another() -> None:
    play = Play(contract("look")).submit({"id": "a", "tool": "look"}, {"id": "b", "tool": "look"})
    for attempt in ("a-a1", "b-a1"):
        play.output(attempt, 1, took={"nanos": 400_000})
    first, second = (record for record in play.records if record.event and record.event.HasField("result"))
    together = [*play.records]
    together[together.index(first)] = replace(first, sequence=second.sequence, time_ns=second.time_ns)
    together.sort(key=lambda record: record.sequence)
    a, b = (one(spans_of(KEY, together), names.EXECUTE_TOOL, name) for name in ("a-a1", "b-a1"))
    assert (a.duration_ns, b.duration_ns) == (400_000, 400_000)
    assert a.end_ns == b.start_ns
    assert b.end_ns == second.time_ns


def test_a_chain_is_told_step_by_step() -> None:
    play = chain()
    event = event_pb2.Event(id="r3", version=run.VERSION, writer="worker-box/1-box_0-1")
    sequence = play.records[-1].sequence
    results = [
        event_pb2.Result(attempt=f"{step}-a1", action_sequence=sequence, output=values.inline({"id": number}))
        for number, step in enumerate(("one", "two", "three"), start=1)
    ]
    for result, pending in zip(results[1:], ("1", "2"), strict=True):
        result.arguments["x"].json = pending
    for result in results:
        result.took.FromMicroseconds(100)
        last = result is results[-1]
        part = event if last else event.before.add(id=result.attempt, version=run.VERSION)
        part.result.CopyFrom(result)
    play.now_ns += 1_000_000
    play.append(event, ("worker", "box", "result", "three-a1"))
    play.verdict("one-a1").verdict("two-a1").verdict("three-a1")
    spans = of(play, with_content=True)
    assert tree(spans, names.ATTEMPT_OUTCOME)[2:] == [
        line for step in ("one", "two", "three") for line in _step(step, "look", done="")
    ]
    tools = [one(spans, names.EXECUTE_TOOL, f"{step}-a1") for step in ("one", "two", "three")]
    assert [tool.duration_ns for tool in tools] == [100_000] * 3
    assert [tool.end_ns for tool in tools[:2]] == [tool.start_ns for tool in tools[1:]]
    assert json.loads(str(tools[2].attributes[names.GENAI_TOOL_ARGUMENTS])) == {"x": 2, "y": 7}
    check(play.records, spans)


def test_what_a_broken_chain_left_behind_is_not_lost() -> None:
    play = chain().output("one-a1", {"id": 1}).failed("two-a1", failures.transient).verdict("one-a1")
    play.tick().done("two-a2", {"id": 2}).done("three-a2", {"id": 3})
    spans = of(play)
    assert not any(span.lost for span in spans)
    third = one(spans, names.ATTEMPT, "three-a1")
    assert (third.attributes[names.ATTEMPT_OUTCOME], third.error) == (names.LEFT_BEHIND, "")
    link = one(spans, names.ATTEMPT, "three-a2").links[0]
    assert link.span_id == third.span_id
    assert link.attributes == {names.HEAL_STRATEGY: "again", names.HEAL_CAUSE: names.LEFT_BEHIND}
    assert sum(span.what == names.EXECUTE_TOOL for span in spans) == 4
    check(play.records, spans)


def test_content_is_there_only_when_asked_for() -> None:
    play = Play(contract("look"), write("send")).submit(
        {"id": "send", "tool": "send", "with": {"to": {"secret": "ada@example.com"}}}
    )
    play.output("send-a1", {"secret": "kept"}).verdict("send-a1", event_pb2.OUTCOME_REFUTED)
    without = json.dumps([_all(span) for span in of(play)])
    for word in ("ada@example.com", "kept", "a goal", "the world says otherwise"):
        assert word not in without
    spans = of(play, with_content=True)
    tool = one(spans, names.EXECUTE_TOOL)
    assert json.loads(str(tool.attributes[names.GENAI_TOOL_ARGUMENTS])) == {
        "to": {"secret": "ada@example.com"}
    }
    assert json.loads(str(tool.attributes[names.GENAI_TOOL_RESULT])) == {"secret": "kept"}
    assert "a goal" in str(one(spans, names.INVOKE_WORKFLOW).attributes[names.GENAI_INPUT_MESSAGES])
    assert one(spans, names.VERIFY).message == "the world says otherwise"


def test_content_is_bounded() -> None:
    play = Play(contract("look")).submit({"id": "look", "tool": "look", "with": {"x": "y" * 60_000}})
    play.done("look-a1", "z" * 60_000)
    tool = one(of(play, with_content=True), names.EXECUTE_TOOL)
    assert all(len(str(value)) <= 2_000 for value in tool.attributes.values())


def _all(span: Span) -> Any:
    events = [dict(event.attributes) for event in span.events]
    return [span.name, span.message, dict(span.attributes), events, [dict(k.attributes) for k in span.links]]
