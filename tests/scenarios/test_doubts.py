"""Doubts: what may or may not have happened waits at a gate, and somebody's word settles it once."""

from __future__ import annotations

from typing import Any

import pytest

from core import failures, values
from core.run import fold
from handrail.v1 import event_pb2, tool_pb2
from tests.policies import asking
from tests.scenarios.play import KEY, Play, contract, write

HAPPENED, REPEAT = event_pb2.GATE_CHOICE_HAPPENED, event_pb2.GATE_CHOICE_REPEAT
NOTE = {"id": "note", "tool": "note", "with": {"text": "hello"}}
THEN = {"id": "then", "tool": "look", "with": {"id": "$note.id"}}


def doubtful(*more: dict[str, object], **fields: object) -> Play:
    """A note that nobody can ask for, whose worker died."""
    play = Play(contract("look"), write("note", doubt=True, **fields)).submit(NOTE, *more)
    return play.intent("note-a1").orphan("note-a1", seen_dead=True)


def outcome(play: Play, gate: str = "g1") -> str:
    """What became of a gate."""
    closed = play.state.gates[gate].closed
    name = event_pb2.GateOutcome.Name(closed.outcome) if closed is not None else ""
    return name.removeprefix("GATE_OUTCOME_").lower()


def test_a_doubt_is_a_gate_that_shows_the_action() -> None:
    play = doubtful()
    assert play.status == "waiting"
    (gate,) = play.view.gates
    assert gate.what.kind == event_pb2.GATE_KIND_DOUBT
    assert [(i.tool, i.arguments["text"].json) for i in gate.what.items] == [("note", '"hello"')]
    assert "died" in gate.what.reasons[0].text
    assert play.view.steps[0].gate == gate.id


def test_it_happened_counts_with_the_output_that_is_known() -> None:
    play = doubtful(THEN).decide("ann", choice=HAPPENED, output=values.inline({"id": 7}))
    assert outcome(play) == "happened"
    play.done("then-a1")
    assert play.status == "done"
    play.check("doubt_happened")


def test_it_happened_without_an_output_is_enough_where_nobody_needs_one() -> None:
    play = doubtful().decide("ann", choice=HAPPENED)
    assert play.status == "done"
    assert play.view.steps[0].output.json == "null"


def test_it_is_done_again_when_somebody_says_so() -> None:
    play = doubtful().decide("ann", choice=REPEAT)
    assert outcome(play) == "repeat"
    keys = {a.action.key for a in play.state.instances["note"].attempts if a.action}
    assert len(keys) == 1
    play.intent("note-a2").done("note-a2").check("doubt_repeat")
    assert play.status == "done"


def test_a_repeat_that_is_in_doubt_again_is_another_gate() -> None:
    play = doubtful().decide("ann", choice=REPEAT)
    play.intent("note-a2").orphan("note-a2", seen_dead=True)
    assert (outcome(play), outcome(play, "g2")) == ("repeat", "")
    play.decide("ann", gate="g2", choice=HAPPENED)
    assert play.status == "done"


def test_giving_it_up_fails_the_step() -> None:
    play = doubtful().decide("ann", deny=True, reason="nobody knows")
    assert play.status == "failed"
    assert play.state.instances["note"].failure.code == failures.DENIED  # type: ignore[union-attr]


def test_nobody_in_time_gives_it_up() -> None:
    play = doubtful().tick()
    assert play.status == "failed"
    assert outcome(play) == "expired"


def test_a_verdict_that_comes_late_settles_it_first() -> None:
    play = doubtful(THEN).output("note-a1", {"id": 7}).verdict("note-a1")
    assert outcome(play) == "void"
    assert play.decide("ann", choice=REPEAT).done("then-a1").status == "done"
    assert len(play.state.instances["note"].attempts) == 1


def test_a_gate_that_a_run_leaves_open_is_void() -> None:
    play = doubtful().output("note-a1", {"id": 7}).verdict("note-a1")
    assert play.status == "done"
    assert play.view.gates[0].closed.outcome == event_pb2.GATE_OUTCOME_VOID


def test_an_approval_is_no_answer_to_a_doubt_nor_the_other_way_round() -> None:
    assert outcome(doubtful().decide("ann")) == ""
    play = Play(write("pay"), policy=asking("pay")).submit({"id": "pay", "tool": "pay"})
    play.decide("ann", choice=HAPPENED).decide("bob", choice=REPEAT)
    assert outcome(play) == ""
    assert not play.state.attempts


def test_a_cancel_ends_a_run_in_doubt_and_its_gate_is_worth_nothing() -> None:
    play = doubtful().cancel()
    assert play.status == "cancelled"
    play.decide("ann", choice=REPEAT)
    assert len(play.state.instances["note"].attempts) == 1


@pytest.mark.parametrize("pause_first", [True, False])
def test_a_doubt_of_a_paused_run_is_settled_when_it_goes_on(pause_first: bool) -> None:
    play = doubtful()
    if pause_first:
        play.pause().decide("ann", choice=REPEAT)
    else:
        play.decide("ann", choice=REPEAT).pause()
    play.resume()
    assert [a.id for a in play.state.instances["note"].attempts if not a.revoked][-1] in (
        "note-a2",
        "note-a3",
    )


def test_each_item_of_a_fan_out_is_a_doubt_of_its_own() -> None:
    play = Play(contract("look"), write("note", doubt=True))
    step = {"id": "note", "tool": "note", "each": "$look", "with": {"text": "$each"}}
    play.submit({"id": "look", "tool": "look"}, step).done("look-a1", ["a", "b"])
    for n in (0, 1):
        play.intent(f"note-{n}-a1", f"1-box_{n}-1").orphan(
            f"note-{n}-a1", seen_dead=True, claimer=f"1-box_{n}-1"
        )
    play.decide("ann", gate="g1", choice=HAPPENED)
    assert (outcome(play), outcome(play, "g2")) == ("happened", "")
    play.decide("ann", gate="g2", choice=HAPPENED)
    assert play.status == "done"


def test_everything_is_in_the_log() -> None:
    play = doubtful(THEN).decide("ann", choice=HAPPENED, output=values.inline({"id": 7})).done("then-a1")
    assert fold(KEY, play.records) == play.state


@pytest.mark.parametrize("tries", [{}, {"max_attempts": 1}], ids=str)
def test_a_verdict_alone_has_nothing_done_twice(tries: dict[str, int]) -> None:
    play = Play(write("pay", doubt=True)).submit({"id": "pay", "tool": "pay", **tries})
    play.intent("pay-a1").output("pay-a1", 1)
    no = event_pb2.HAPPENED_NO
    play.verdict("pay-a1", event_pb2.OUTCOME_REFUTED, happened=no).tick()
    play.verdict("pay-a1", event_pb2.OUTCOME_REFUTED, round=2, happened=no)
    assert list(play.state.attempts) == ["pay-a1"]
    assert play.state.gates["g1"].opened.kind == event_pb2.GATE_KIND_DOUBT
    play.decide("ann", choice=REPEAT)
    assert list(play.state.attempts) == ["pay-a1", "pay-a2"]


@pytest.mark.parametrize("idempotency", [tool_pb2.IDEMPOTENCY_KEYED, tool_pb2.IDEMPOTENCY_NATURAL])
def test_what_was_said_to_be_done_is_done_by_no_other_tool_on_the_word_of_a_verifier(
    idempotency: tool_pb2.Idempotency.ValueType,
) -> None:
    refuted, never = event_pb2.OUTCOME_REFUTED, event_pb2.HAPPENED_NO
    play = standing_in(idempotency).output("pay-a1", 7, happened=event_pb2.HAPPENED_YES)
    play.verdict("pay-a1", refuted, happened=never).tick()
    play.verdict("pay-a1", refuted, round=2, happened=never).tick().intent("pay-a2").failed("pay-a2")
    assert (play.status, acting(play)) == ("failed", ["pay", "pay"])
    undo = play.command("undo", event_pb2.Undo(submitter="ines")).view.undo
    assert [(one.step, one.why) for one in undo.stays] == [("pay", "nobody knows whether it happened")]


@pytest.mark.parametrize(
    ("idempotency", "tools"),
    [
        # Under the same key it says of both that it did not act.
        (tool_pb2.IDEMPOTENCY_KEYED, ["pay", "pay", "pay_backup"]),
        (tool_pb2.IDEMPOTENCY_NATURAL, ["pay", "pay"]),
    ],
)
def test_what_may_have_happened_is_done_by_another_tool_only_where_the_key_rules_it_out(
    idempotency: tool_pb2.Idempotency.ValueType, tools: list[str]
) -> None:
    play = standing_in(idempotency).orphan("pay-a1", seen_dead=True).tick().intent("pay-a2").failed("pay-a2")
    assert acting(play) == tools


def standing_in(idempotency: tool_pb2.Idempotency.ValueType) -> Play:
    """A payment that is claimed, by a tool for which another can stand in."""
    fields: dict[str, Any] = {"capability": "money", "idempotency": idempotency}
    pay = write("pay", undo="unpay", undo_arguments={"id": "output"}, **fields)
    play = Play(pay, write("pay_backup", **fields), write("unpay")).submit({"id": "pay", "tool": "pay"})
    return play.intent("pay-a1")


def acting(play: Play) -> list[str]:
    """The tools that were asked to pay."""
    return [a.action.tool for a in play.state.instances["pay"].attempts if a.action is not None]
