"""Corners of undo, most of them found by the simulator: who comes again, too late, or in between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core import failures, run, values
from core.ahead import can_be_overtaken
from core.decide import Catalogue, decide
from core.moves import note
from core.policy import ALLOWED
from core.undo import plan_undo
from handrail.v1 import event_pb2, tool_pb2
from tests.policies import NEVER, FunctionPolicy, asking
from tests.scenarios.play import KEY, Play, write
from tests.scenarios.test_undo import BOOK, KEYED, PAY, TOOLS, acted, asked, booked, paid, stays, undo

REPEAT, HAPPENED = event_pb2.GATE_CHOICE_REPEAT, event_pb2.GATE_CHOICE_HAPPENED
UNKEYED = (*TOOLS[:2], write("unpay", **{"idempotency": tool_pb2.IDEMPOTENCY_NONE}))


def paid_unkeyed() -> Play:
    """A run that has paid, where nothing tells whether it was taken back."""
    return acted(Play(*UNKEYED).submit(PAY), "pay-a1", {"id": 7})


def test_an_undo_is_not_asked_for_anew_while_it_goes_on_whatever_it_names() -> None:
    play = undo(paid()).intent("undo-pay-a1")
    strays = play.state.strays
    undo(play, "undo-pay")
    assert play.state.strays == strays + 1
    play.output("undo-pay-a1", None).verdict("undo-pay-a1")
    assert play.status == "undone"


def test_a_step_that_is_called_undo_is_none() -> None:
    """Its first attempt has the name that a compensation could have."""
    step = {"id": "undo", "tool": "ring", "after": ["pay"]}
    play = acted(Play(*TOOLS, write("ring")).submit(PAY, step), "pay-a1", {"id": 7})
    play.intent("undo-a1").orphan("undo-a1", seen_dead=True).cancel()
    before = undo(play).state.instances["undo"]
    play.output("undo-a1", 1).verdict("undo-a1")
    assert play.state.instances["undo"] == before
    assert stays(play) == {"undo": "nothing is known to undo ring"}


def test_what_may_have_been_taken_back_is_not_taken_back_again_unasked() -> None:
    play = undo(paid_unkeyed()).intent("undo-pay-a1").orphan("undo-pay-a1", seen_dead=True)
    assert play.decide("bo", deny=True).status == "done"
    undo(play)
    assert play.status == "waiting"
    assert len(asked(play)) == 1
    assert acted(play.decide("bo", gate="g2", choice=REPEAT), "undo-pay-a2", None).status == "undone"


def test_a_cancelled_undo_leaves_its_doubt_to_the_next() -> None:
    play = undo(paid_unkeyed()).intent("undo-pay-a1").orphan("undo-pay-a1", seen_dead=True).cancel()
    assert play.status == "done"
    assert undo(play).status == "waiting"
    assert len(asked(play)) == 1
    assert play.decide("bo", gate="g2", choice=HAPPENED).status == "undone"


def test_what_says_that_it_was_taken_back_and_cannot_be_seen_is_not_done_again_unasked() -> None:
    refuted = event_pb2.OUTCOME_REFUTED
    play = undo(paid_unkeyed()).intent("undo-pay-a1")
    play.output("undo-pay-a1", None, happened=event_pb2.HAPPENED_YES).verdict("undo-pay-a1", refuted).tick()
    play.verdict("undo-pay-a1", refuted, round=2).decide("bo", deny=True)
    assert play.status == "done"
    assert undo(play).status == "waiting"
    assert len(asked(play)) == 1


def test_what_says_that_it_was_taken_back_is_not_done_again_on_the_word_of_a_verifier() -> None:
    refuted, never = event_pb2.OUTCOME_REFUTED, event_pb2.HAPPENED_NO
    play = undo(paid_unkeyed()).intent("undo-pay-a1")
    play.output("undo-pay-a1", None, happened=event_pb2.HAPPENED_YES)
    play.verdict("undo-pay-a1", refuted, happened=never).tick()
    play.verdict("undo-pay-a1", refuted, round=2, happened=never).decide("bo", deny=True)
    assert undo(play).status == "waiting"
    assert len(asked(play)) == 1


def test_a_gate_is_left_behind_with_its_undo() -> None:
    play = undo(paid(policy=asking("unpay", quorum=2))).decide("bo").cancel()
    assert play.view.gates[0].closed.outcome == event_pb2.GATE_OUTCOME_VOID
    strays = undo(play).state.strays
    assert [gate.opened.gate for gate in play.state.open_gates] == ["g2"]
    play.decide("cy")
    assert play.state.strays == strays + 1
    assert not asked(play.decide("bo", gate="g2"))
    assert acted(play.decide("cy", gate="g2"), "undo-pay-a1", None).status == "undone"


def test_what_was_approved_for_one_who_undoes_is_not_approved_for_the_next() -> None:
    """Who undoes might have approved it themselves."""
    play = undo(paid(policy=asking("unpay"))).decide("bo").intent("undo-pay-a1").failed("undo-pay-a1")
    assert play.decide("cy", gate="g2", deny=True).status == "done"
    play.command("undo", event_pb2.Undo(submitter="bo"))
    assert [gate.opened.submitter for gate in play.state.open_gates] == ["bo"]
    assert len(asked(play)) == 1


def test_a_deadline_is_why_a_run_failed_whatever_became_of_its_undo() -> None:
    play = paid(BOOK, deadline_s=10, undo_on_failure=True).tick(60)
    play.intent("undo-pay-a1").failed("undo-pay-a1").decide("bo", deny=True)
    assert play.status == "failed"
    assert play.view.undo.failure.code == failures.DENIED
    assert play.view.failure.code == failures.DEADLINE


def test_what_cannot_be_read_any_more_stays() -> None:
    """The decider that wants to load it finds nothing that is whole."""
    play = acted(Play(*TOOLS).submit(PAY), "pay-a1", {"id": 7})
    output = play.state.instances["pay"].output
    assert output is not None
    output.blob.sha256 = values.digest("lost")
    planned = plan_undo(play.state, play.catalogue.contracts, {output.blob.sha256: ""}, event_pb2.Undo())
    assert [one.step for one in planned.stays] == ["pay"]
    assert planned.stays[0].why.startswith("what it was done with cannot be read: ")


def test_what_is_tried_again_waits_for_what_has_come_to_rest_on_it() -> None:
    """The booking could not be undone at first: its tool was away, and is back."""
    tools = [tool for tool in TOOLS if tool.name != "unbook"]
    play = acted(Play(*tools).submit(PAY, BOOK), "pay-a1", {"id": 7})
    acted(play, "book-a1", {"id": 8}, room={"day": 1})
    undo(play).intent("undo-pay-a1").failed("undo-pay-a1").decide("bo", deny=True)
    assert stays(play) == {"book": "there is no tool unbook any more"}
    play.catalogue = Catalogue(contracts={tool.name: tool for tool in TOOLS}, gate_life_ns=10**12)
    undo(play)
    assert [name for name, _ in asked(play)] == ["undo-pay-a1", "undo-book-a1"]
    acted(acted(play, "undo-book-a1", None), "undo-pay-a2", None)
    assert play.status == "undone"


def test_a_cancel_during_the_last_compensation_leaves_nothing() -> None:
    play = acted(undo(booked()), "undo-book-a1", None)
    play.intent("undo-pay-a1").cancel().output("undo-pay-a1", None).verdict("undo-pay-a1")
    assert play.status == "undone"
    assert not play.view.undo.HasField("failure")


def test_a_keyed_compensation_that_was_lost_is_repeated_under_its_key() -> None:
    tools = [*TOOLS[:2], write("unpay", **KEYED)]
    play = undo(acted(Play(*tools).submit(PAY), "pay-a1", {"id": 7}))
    play.intent("undo-pay-a1").orphan("undo-pay-a1", seen_dead=True).tick()
    keys = {a.action.key for a in play.state.instances["undo-pay"].attempts if a.action is not None}
    assert len(asked(play)) == 2
    assert keys == {f"{play.state.key.run}:undo-pay"}


@pytest.mark.parametrize("of_undo", [True, False])
def test_nobody_is_asked_for_ever_about_what_cannot_be_shown(of_undo: bool) -> None:
    """What is in doubt was done with a large value, of which nothing whole is found any more."""
    play, attempt = (undo(paid_unkeyed()), "undo-pay-a1") if of_undo else (Play(*UNKEYED), "unpay-a1")
    if not of_undo:
        play.submit({"id": "unpay", "tool": "unpay", "with": {"id": 7}})
    play.intent(attempt).orphan(attempt, seen_dead=True)
    state = run.fold(KEY, [record for record in play.records if not record.event.HasField("gate_opened")])
    (instance,) = (one for one in state.instances.values() if one.settled == "in_doubt")
    assert instance.current is not None
    assert instance.current.action is not None
    step = state.undo.planned.compensations[0].step if of_undo else None
    held = step.arguments["id"].constant if step else instance.current.action.arguments["id"]
    held.blob.sha256 = values.digest("lost")
    moves = decide(state, play.now_ns, play.catalogue, {held.blob.sha256: ""})
    assert [move.arm for move in moves] == ["step_failed"]


def test_nothing_is_taken_back_in_the_moment_in_which_another_goes_wrong() -> None:
    refused = FunctionPolicy(
        lambda request: NEVER if request.arguments.get("id") == 8 and request.undoing else ALLOWED
    )
    tip = {"id": "tip", "tool": "pay", "with": {"to": "bo"}}
    play = Play(*TOOLS, policy=refused).submit(PAY, tip)
    for name, made in (("pay", 7), ("tip", 8)):
        acted(play, f"{name}-a1", {"id": made})
    undo(play)
    assert play.status == "waiting"
    assert asked(play) == []
    play.decide("bo", choice=REPEAT)
    assert asked(play) == []
    play.decide("bo", gate="g2", choice=HAPPENED)
    assert len(asked(play)) == 1


def test_what_is_taken_back_is_decided_on_all_that_has_been_said() -> None:
    """An answer that is on its way may say that something has happened after all."""
    state = paid().state
    planned, ended = note("undo_planned", event_pb2.UndoPlanned()), note("undo_ended", event_pb2.UndoEnded())
    assert can_be_overtaken(state, planned)
    assert can_be_overtaken(state, replace(ended, before=(planned,)))
    assert not can_be_overtaken(state, ended)
