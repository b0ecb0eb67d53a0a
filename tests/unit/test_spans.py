"""The spans of a run, over histories of real runs and over made-up ones in which anything may happen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import failures, run, values
from core.ports import Record
from core.run import HANDLERS
from handrail.v1 import event_pb2, tool_pb2
from observability import diary, ids, names
from observability.span import Span
from observability.spans import spans_of
from orchestrator.tracer import _is_end, new_spans
from tests.scenarios import histories
from tests.scenarios.play import KEY, Play, contract, write
from tests.scenarios.test_amendments import amend, limited, paying
from tests.scenarios.test_chains import chain
from tests.scenarios.test_histories import NAMES
from tests.scenarios.test_undo import BOOK, TELL, acted, booked, paid, undo
from tests.unit.test_run import CHOICES, random_play

UNDO_ENDS = ("undo", "undo_ended")
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
    undos = [span for span in spans if span.what == names.UNDO]
    assert [span.open for span in undos] == [undo.ended is None for undo in told.undos]
    if told.finished is not None:
        below = {span.span_id for span in undos if span.start_ns > told.finished.time_ns}
        for span in spans:
            below |= {span.span_id} if span.parent_id in below else set()
        its_own = [span for span in spans if span.span_id not in below]
        assert not any(span.open for span in its_own)
        assert max(span.end_ns for span in its_own) == told.finished.time_ns
        assert any(undo.open for undo in undos) == any(span.open for span in spans)
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


def _step(step: str, tool: str, done: str = " done", outcome: str = " confirmed") -> list[str]:
    lines = [f"step {step}{done}", f"  attempt{outcome}", f"    execute_tool {tool}", "    verify"]
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


# --- undo ----------------------------------------------------------------------------------------


def test_an_undone_run() -> None:
    play = undo(booked(), reason="a mistake")
    acted(play, "undo-book-a1", None).intent("undo-pay-a1").orphan("undo-pay-a1", seen_dead=True)
    play.tick()
    acted(play, "undo-pay-a2", None)
    spans = of(play)
    assert tree(spans, names.STEP_STATUS, names.UNDO_OUTCOME) == [
        "handrail.v1.RunService/SubmitGoal",
        "  invoke_workflow",
        *_step("pay", "pay", outcome=""),
        *_step("book", "book", outcome=""),
        "    undo undone",
        *(f"  {line}" for line in _step("undo-book", "unbook", outcome="")),
        "      step undo-pay done",
        "        attempt !silent_claim LOST",
        "          execute_tool unpay !silent_claim LOST",
        "        attempt",
        "          execute_tool unpay",
        "          verify",
        "        heal retry_same_key",
    ]
    asked, ended = (next(r for r in play.records if r.event and r.event.HasField(arm)) for arm in UNDO_ENDS)
    told = one(spans, names.UNDO)
    assert (told.start_ns, told.end_ns) == (asked.time_ns, ended.time_ns)
    assert (
        told.attributes
        | {
            names.UNDO_COMPENSATIONS: 2,
            names.UNDO_MADE: 2,
            names.UNDO_STAYS: 0,
            names.SEQUENCE: asked.sequence,
        }
        == told.attributes
    )
    assert [event.name for event in told.events] == ["undo_planned"]
    # Each is linked to what it takes back.
    for name in ("book", "pay"):
        step = next(s for s in spans if s.attributes.get(names.STEP_ID) == f"undo-{name}")
        assert step.attributes[names.UNDOES] == name
        assert [link.span_id for link in step.links] == [one(spans, names.ATTEMPT, f"{name}-a1").span_id]
    # The run itself is told as it was when it ended.
    run = one(spans, names.INVOKE_WORKFLOW)
    assert run.attributes[names.RUN_STATUS] == "done"
    assert run.end_ns < told.start_ns
    # Who undid it, and why, is content.
    assert {names.SUBMITTER, names.REASON} & told.attributes.keys() == set()
    said = one(of(play, with_content=True), names.UNDO).attributes
    assert (said[names.SUBMITTER], said[names.REASON]) == ("ines", "a mistake")
    check(play.records, spans)


def test_the_undo_of_a_failed_run_is_over_before_the_run_is() -> None:
    play = paid(BOOK, undo_on_failure=True, submitter="bo").intent("book-a1").failed("book-a1")
    assert tree(of(play))[-3:] == [
        "      step undo-pay OPEN",
        "        attempt OPEN",
        "          execute_tool unpay OPEN",
    ]
    spans = of(acted(play, "undo-pay-a1", None))
    told, run = one(spans, names.UNDO), one(spans, names.INVOKE_WORKFLOW)
    assert (told.parent_id, told.end_ns) == (run.span_id, run.end_ns)
    assert told.attributes[names.UNDO_OUTCOME] == names.UNDONE
    (end,) = (record.sequence for record in play.records if _is_end(record))
    assert new_spans(KEY, play.records, end) == spans


def test_a_dry_run_of_an_undo_has_no_steps() -> None:
    spans = of(undo(booked(), "book", dry_run=True))
    assert spans[-1] == one(spans, names.UNDO)
    assert (spans[-1].name, spans[-1].attributes[names.UNDO_DRY_RUN]) == ("undo book", True)
    assert spans[-1].attributes[names.UNDO_OUTCOME] == names.DRY


def test_what_stays_is_no_error_and_what_is_given_up_is() -> None:
    play = acted(booked(TELL), "tell-a1", None)
    acted(acted(undo(play), "undo-book-a1", None), "undo-pay-a1", None)
    told = one(of(play), names.UNDO)
    assert (told.attributes[names.UNDO_OUTCOME], told.attributes[names.UNDO_STAYS]) == (names.STAYS, 1)
    assert told.error == ""
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1")
    assert tree(of(play))[-5:] == [
        "    undo !in_doubt OPEN",
        "      gate undo-book OPEN",
        "      step undo-book !in_doubt",
        "        attempt !broken",
        "          execute_tool unbook !broken",
    ]
    told = one(of(play.decide("bo", deny=True)), names.UNDO)
    assert (told.error, told.attributes[names.UNDO_OUTCOME]) == (failures.DENIED, names.GIVEN_UP)
    check(play.records, of(play))


def test_to_amend_is_no_error() -> None:
    told = one(of(amend(paying(limited()), "bo", amount=20)), names.GATE)
    assert (told.attributes[names.GATE_OUTCOME], told.error) == ("amended", "")


def test_what_one_undo_gave_up_and_the_next_has_done_is_told_of_both() -> None:
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1").decide("bo", deny=True)
    before = of(play)
    undo(play)
    acted(acted(play, "undo-book-a2", None), "undo-pay-a1", None)
    spans = of(play)
    assert spans[: len(before)] == before
    assert tree(spans, names.STEP_STATUS, names.UNDO_OUTCOME)[len(before) :] == [
        "    undo undone",
        *(f"  {line}" for line in _step("undo-book", "unbook", outcome="")),
        *(f"  {line}" for line in _step("undo-pay", "unpay", outcome="")),
    ]
    (link,) = one(spans, names.ATTEMPT, "undo-book-a2").links
    assert link.span_id == one(spans, names.ATTEMPT, "undo-book-a1").span_id
    assert link.attributes == {names.HEAL_STRATEGY: "again", names.HEAL_CAUSE: "undo"}
    check(play.records, spans)
    # Each end sends what is new, and nothing twice.
    ends = [record.sequence for record in play.records if _is_end(record)]
    sent = [span.span_id for end in ends for span in new_spans(KEY, play.records, end)]
    assert sorted(sent) == sorted(span.span_id for span in spans)


# --- made-up runs --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(choices=CHOICES)
def test_whatever_happens_the_trace_is_whole(choices: list[int]) -> None:
    records = random_play(choices).records
    check(records, spans_of(KEY, records, with_content=True))


def undone_at_random(choices: list[int], random: Any) -> Play:
    """A run in which anything happens, and then most things go well; undone again and again."""
    play = random_play(choices)
    for round in range(6):
        for attempt in sorted(play.state.in_flight, key=lambda attempt: attempt.id):
            chance = random.random()
            if chance < 0.8:
                happened = event_pb2.HAPPENED_YES
                play.intent(attempt.id).output(attempt.id, [1], happened=happened).verdict(attempt.id)
            elif chance < 0.9:
                play.intent(attempt.id).orphan(attempt.id, seen_dead=random.random() < 0.5).tick()
            else:
                play.failed(attempt.id)
        if round > 1 and random.random() < 0.5:
            play.cancel()
        undo(play, random.choice(["", "", "refund", "call-0"]))
        for gate in play.state.open_gates:
            choice = random.choice([event_pb2.GATE_CHOICE_HAPPENED, event_pb2.GATE_CHOICE_REPEAT])
            play.decide("bo", gate=gate.opened.gate, choice=choice, deny=random.random() < 0.5)
    return play


@settings(max_examples=60)
@given(choices=CHOICES, random=st.randoms(use_true_random=False))
def test_what_is_sent_at_each_end_comes_to_the_whole_trace(choices: list[int], random: Any) -> None:
    play = undone_at_random(choices, random)
    check(play.records, spans_of(KEY, play.records))
    sent: dict[str, Span] = {}
    for end in (record.sequence for record in play.records if _is_end(record)):
        new = new_spans(KEY, play.records, end)
        # Of what was sent before, only what an undo had given up may be told otherwise.
        changed = [span for span in new if span.span_id in sent]
        assert all(str(span.attributes[names.STEP_ID]).startswith("undo-") for span in changed)
        sent |= {span.span_id: span for span in new}
        whole = [record for record in play.records if record.sequence <= end]
        assert sent == {span.span_id: span for span in spans_of(KEY, whole)}


def test_what_is_kept_covers_every_kind_of_event() -> None:
    assert diary._KEEPERS.keys() == HANDLERS.keys()


def test_strays_are_no_spans() -> None:
    play = Play(contract("look")).submit({"id": "look", "tool": "look"})
    play.verdict("look-a1").output("nobody-a1", 1).done("look-a1", 1)
    spans = of(play)
    assert [span.what for span in spans] == [
        names.SUBMIT,
        names.INVOKE_WORKFLOW,
        names.STEP,
        names.ATTEMPT,
        names.EXECUTE_TOOL,
        names.VERIFY,
    ]
    assert one(spans, names.INVOKE_WORKFLOW).attributes[names.STRAYS] == play.state.strays == 2
    # What comes after the end changes nothing of what was sent.
    play.output("look-a1", 2).verdict("look-a1")
    assert (of(play), play.state.strays) == (spans, 4)


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
        {"id": "send", "tool": "send", "with": {"to": {"address": "ada@example.com", "api_key": "kept"}}}
    )
    play.output("send-a1", {"note": "kept", "tokens_used": 3}).verdict("send-a1", event_pb2.OUTCOME_REFUTED)
    without = json.dumps([_all(span) for span in of(play)])
    for word in ("ada@example.com", "kept", "a goal", "the world says otherwise"):
        assert word not in without
    spans = of(play, with_content=True)
    tool = one(spans, names.EXECUTE_TOOL)
    assert json.loads(str(tool.attributes[names.GENAI_TOOL_ARGUMENTS])) == {
        "to": {"address": "ada@example.com", "api_key": "**********"}
    }
    assert json.loads(str(tool.attributes[names.GENAI_TOOL_RESULT])) == {"note": "kept", "tokens_used": 3}
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
