"""Undoing again, and other moments at which a gate, a doubt or a view once said what was not so."""

from __future__ import annotations

import pytest

from core import failures, values
from core.healing import DEFAULT_MAX_ATTEMPTS
from handrail.v1 import event_pb2, run_service_pb2
from tests.policies import asking
from tests.scenarios.play import START_NS, Play, contract, write
from tests.scenarios.test_undo import KEYED, PAY, TOOLS, acted, asked, paid, undo

REPEAT = event_pb2.GATE_CHOICE_REPEAT
DELEGATE = event_pb2.GATE_CHOICE_DELEGATE
CANCELLED = run_service_pb2.STEP_STATUS_CANCELLED
PAID_BY_KEY = write("pay", undo="unpay", undo_arguments={"id": "output.id"}, **KEYED)


def statuses(steps: object) -> dict[str, int]:
    return {step.id: step.status for step in steps}  # type: ignore[attr-defined]


def silent(play: Play) -> Play:
    """An undo whose keyed compensation nobody answers for, until somebody gives it up."""
    return unanswered(undo(play)).decide("bo", deny=True)


def unanswered(play: Play) -> Play:
    """The same, until somebody is asked."""
    for n in range(1, DEFAULT_MAX_ATTEMPTS + 1):
        play.intent(f"undo-pay-a{n}").orphan(f"undo-pay-a{n}", seen_dead=True)
        if n < DEFAULT_MAX_ATTEMPTS:
            play.tick()
    return play


def refuted(play: Play) -> Play:
    """An undo whose compensation is done, and cannot be seen, until somebody gives it up."""
    attempt, no = "undo-pay-a1", event_pb2.OUTCOME_REFUTED
    undo(play).intent(attempt).output(attempt, None, happened=event_pb2.HAPPENED_YES)
    return play.verdict(attempt, no).tick().verdict(attempt, no, round=2).decide("bo", deny=True)


@pytest.mark.parametrize("gone_wrong", [silent, refuted])
def test_an_undo_that_is_cancelled_at_once_begins_nothing_and_ends(gone_wrong: object) -> None:
    play = gone_wrong(paid())  # type: ignore[operator]
    before = asked(play)
    # Both are there before the decider looks.
    play._append("cmd", ("undo",), "undo", event_pb2.Undo(submitter="ines"))
    play.cancel()
    assert asked(play) == before
    assert play.status == "done"
    assert play.view.undo.failure.code == failures.CANCELLED


def test_what_an_earlier_undo_has_tried_waits_for_a_doubt_too() -> None:
    tip = {"id": "tip", "tool": "pay", "with": {"to": "bo"}}
    play = acted(Play(PAID_BY_KEY, write("unpay")).submit(PAY, tip), "pay-a1", {"id": 7})
    undo(acted(play, "tip-a1", {"id": 8})).intent("undo-pay-a1").intent("undo-tip-a1")
    play.orphan("undo-pay-a1", seen_dead=True).failed("undo-tip-a1").decide("bo", deny=True)
    before = asked(play)
    undo(play)
    assert asked(play) == before
    assert play.status == "waiting"
    play.decide("bo", gate="g3", choice=event_pb2.GATE_CHOICE_HAPPENED)
    assert len(asked(play)) == len(before) + 1
    assert acted(play, "undo-tip-a2", None).status == "undone"


@pytest.mark.parametrize(("lost", "amount"), [(True, "3"), (False, "5")])
def test_what_may_have_been_taken_back_is_repeated_as_somebody_had_amended_it(
    lost: bool, amount: str
) -> None:
    """Under its key nothing else could be done; what was not done is asked about as it is planned."""
    undone = {"undo": "unpay", "undo_arguments": {"amount": "args.amount"}}
    play = Play(write("pay", **undone, **KEYED), write("unpay", **KEYED), policy=asking("unpay"))
    undo(acted(play.submit(PAY), "pay-a1", {"id": 7}))
    play.decide("bo", choice=event_pb2.GATE_CHOICE_AMEND, arguments={"amount": values.inline(3)})
    gone_wrong = unanswered(play) if lost else play.failed("undo-pay-a1")
    gone_wrong.decide("bo", gate="g2", deny=True)
    assert undo(play).status == "waiting"
    assert play.state.gates["g3"].opened.items[0].arguments["amount"].json == amount


def test_what_was_never_judged_in_an_earlier_undo_can_be_repeated_in_the_next() -> None:
    tools = (*TOOLS[:2], write("unpay"))
    play = undo(acted(Play(*tools).submit(PAY), "pay-a1", {"id": 7})).intent("undo-pay-a1")
    play.orphan("undo-pay-a1", seen_dead=True).output("undo-pay-a1", None).decide("bo", deny=True)
    undo(play).decide("bo", gate="g2", choice=REPEAT)
    assert acted(play, "undo-pay-a2", None).status == "undone"


def test_what_this_undo_does_not_touch_waits_for_nobody() -> None:
    """The gate of the first undo was left behind with it."""
    step = {"id": "book", "tool": "book", "with": {"day": 3}}
    play = acted(Play(*TOOLS, policy=asking("unpay")).submit(PAY, step), "pay-a1", {"id": 7})
    undo(acted(play, "book-a1", {"id": 8}, room={"day": 1}), "pay").cancel()
    undo(play, "book")
    assert play.status == "undoing"
    assert statuses(play.view.undo.steps)["undo-pay"] == CANCELLED


def test_a_run_that_undoes_itself_waits_at_no_gate_of_its_own() -> None:
    steps = ({"id": "tell", "tool": "tell"}, {"id": "look", "tool": "look"})
    play = paid(*steps, policy=asking("tell"), undo_on_failure=True).failed("look-a1")
    assert play.status == "undoing"
    assert statuses(play.view.steps)["tell"] == CANCELLED


def test_a_run_that_was_too_late_stays_failed_though_the_clock_is_set_back() -> None:
    look = {"id": "look", "tool": "look", "after": ["pay"]}
    play = paid(look, deadline_s=10, undo_on_failure=True).tick(60)
    play.now_ns = START_NS + 2_000_000_000
    acted(play, "undo-pay-a1", None)
    assert play.status == "failed"
    assert play.view.failure.code == failures.DEADLINE


def test_a_doubt_about_a_stand_in_shows_the_stand_in() -> None:
    spare = {"id": "spare", "tool": "take_back", "when": "false", "after": ["pay"]}
    tools = (PAID_BY_KEY, write("unpay", capability="back", **KEYED), write("take_back", capability="back"))
    play = undo(acted(Play(*tools).submit(PAY, spare), "pay-a1", {"id": 7}))
    play.intent("undo-pay-a1").failed("undo-pay-a1")
    play.intent("undo-pay-a2").orphan("undo-pay-a2", seen_dead=True)
    assert [item.tool for item in play.view.gates[0].what.items] == ["take_back"]


def test_a_compensation_that_only_reads_is_tried_again() -> None:
    tools = (write("pay", undo="look", undo_arguments={"id": "output.id"}, **KEYED), contract("look"))
    play = undo(acted(Play(*tools).submit(PAY), "pay-a1", {"id": 7}))
    play.failed("undo-pay-a1", failures.transient).tick()
    assert acted(play, "undo-pay-a2", None).status == "undone"


@pytest.mark.parametrize("outcome", [event_pb2.OUTCOME_CONFIRMED, event_pb2.OUTCOME_UNKNOWN])
def test_what_was_answered_after_all_is_not_repeated_before_it_is_judged(outcome: int) -> None:
    """Who says that it be repeated has not seen the answer."""
    play = Play(write("call")).submit({"id": "call", "tool": "call"}).intent("call-a1")
    play.orphan("call-a1", seen_dead=True).output("call-a1", 1, happened=event_pb2.HAPPENED_YES)
    play.decide("bo", choice=REPEAT)
    assert "call-a2" not in play.state.attempts
    play.verdict("call-a1", outcome)  # type: ignore[arg-type]
    assert ("call-a2" in play.state.attempts) == (outcome == event_pb2.OUTCOME_UNKNOWN)
    assert play.status == ("running" if outcome == event_pb2.OUTCOME_UNKNOWN else "done")


def test_what_somebody_has_said_before_was_said_in_nobodys_stead() -> None:
    play = Play(write("call"), policy=asking("call")).submit({"id": "call", "tool": "call"})
    play.decide("eve").decide("bo", choice=DELEGATE, delegate="eve")
    assert "call-a1" not in play.state.attempts
    assert play.decide("cy").state.attempts.keys() == {"call-a1"}
