"""Undo: what a run has done is taken back, each effect once, the last first, and what stays is named."""

from __future__ import annotations

from typing import Any

import pytest

from core import failures
from core.policy import ALLOWED, Reason, Request, Ruling
from handrail.v1 import event_pb2, run_service_pb2, tool_pb2
from tests.policies import FunctionPolicy, asking
from tests.scenarios.play import Play, contract, write

NATURAL = {"idempotency": tool_pb2.IDEMPOTENCY_NATURAL}
KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
TOOLS = (
    contract("look", endorses=["id"]),
    write("pay", undo="unpay", undo_arguments={"id": "output.id"}, **KEYED),
    write("unpay", critical=["id"], **KEYED),
    write("book", undo="unbook", undo_arguments={"day": "args.day", "was": "reads.room.day"}, **NATURAL),
    write("unbook", **NATURAL),
    write("tell", effect=tool_pb2.EFFECT_IRREVERSIBLE, **KEYED),
    write("file", **NATURAL),
)
PAY = {"id": "pay", "tool": "pay", "with": {"amount": 5}}
BOOK = {"id": "book", "tool": "book", "with": {"day": 3, "for": "$pay.id"}}
TELL = {"id": "tell", "tool": "tell", "after": ["book"]}
UNDONE = run_service_pb2.STEP_STATUS_UNDONE


def acted(play: Play, attempt: str, output: Any, **before: Any) -> Play:
    """A worker claims, with what it read before, and acts."""
    from core import values

    body = event_pb2.Intent(attempt=attempt, claimer="1-box_0-1")
    for name, value in before.items():
        body.before[name].CopyFrom(values.inline(value))
    play.fact(("worker", "box", "intent", attempt), "intent", body)
    return play.output(attempt, output, happened=event_pb2.HAPPENED_YES).verdict(attempt)


def paid(*steps: dict[str, Any], policy: FunctionPolicy | None = None, **goal: Any) -> Play:
    """A run that has paid, and goes on."""
    play = Play(*TOOLS, policy=policy)
    return acted(play.submit(PAY, *steps, **goal), "pay-a1", {"id": 7})


def booked(*steps: dict[str, Any], **fields: Any) -> Play:
    """A run that has paid and booked."""
    return acted(paid(BOOK, *steps, **fields), "book-a1", {"id": 8}, room={"day": 1})


def undo(play: Play, step: str = "", **fields: Any) -> Play:
    return play.command("undo", event_pb2.Undo(step=step, **{"submitter": "ines", **fields}))


def asked(play: Play) -> list[tuple[str, dict[str, str]]]:
    """Every compensation that a worker was asked for, with its arguments."""
    return [
        (attempt.id, {name: value.json for name, value in attempt.action.arguments.items()})
        for instance in play.state.instances.values()
        for attempt in instance.attempts
        if instance.id.startswith("undo-") and attempt.action is not None
    ]


def stays(play: Play) -> dict[str, str]:
    return {one.step: one.why for one in play.view.undo.stays}


def test_what_was_done_is_taken_back_the_last_first() -> None:
    play = undo(booked())
    assert play.status == "undoing"
    # The booking rests on the payment: it goes first.
    assert asked(play) == [("undo-book-a1", {"day": "3", "was": "1"})]
    acted(play, "undo-book-a1", None)
    acted(play, "undo-pay-a1", None)
    play.check("undone")
    assert play.status == "undone"
    assert [step.status for step in play.view.steps] == [UNDONE, UNDONE]


def test_one_step_goes_with_what_rests_on_it_and_the_rest_stays_done() -> None:
    play = acted(undo(booked(), "book"), "undo-book-a1", None)
    assert play.status == "done"
    assert play.view.undo.ended
    acted(undo(play), "undo-pay-a1", None)
    assert play.status == "undone"
    assert [name for name, _ in asked(play)] == ["undo-book-a1", "undo-pay-a1"]
    play = undo(booked(), "pay")
    assert [name for name, _ in asked(play)] == ["undo-book-a1"]


def test_what_stays_is_named_and_the_run_is_not_called_undone() -> None:
    filed = {"id": "file", "tool": "file"}
    play = acted(acted(booked(TELL, filed), "file-a1", None), "tell-a1", None)
    acted(acted(undo(play), "undo-book-a1", None), "undo-pay-a1", None)
    assert stays(play) == {"tell": "it cannot be undone", "file": "nothing is known to undo file"}
    assert play.status == "done"


def test_a_dry_run_says_what_would_come_of_it_and_does_nothing() -> None:
    play = undo(booked(policy=asking("unpay")), dry_run=True)
    assert play.status == "done"
    assert not asked(play)
    assert not play.view.HasField("undo")
    found = [(s.id, s.outlook[0].ruling) for s in play.view.undo_outlook.steps]
    assert found == [
        ("undo-book", event_pb2.RULING_OUTCOME_ALLOW),
        ("undo-pay", event_pb2.RULING_OUTCOME_GATE),
    ]
    # What it is made of came from a tool, and is critical.
    assert [p.argument for p in play.view.undo_outlook.steps[1].outlook[0].untrusted] == ["id"]
    assert undo(play).status == "undoing"
    assert not play.view.HasField("undo_outlook")


@pytest.mark.parametrize("seen", ["reads.room.note", "reads['room'].note"])
def test_what_was_read_before_the_action_is_not_shown_to_whom_it_is_not_for(seen: str) -> None:
    asks = FunctionPolicy(lambda r: Ruling("gate", (Reason("leak", "it leaks"),), 1) if r.leaks else ALLOWED)
    book = write("book", undo="tell", undo_arguments={"text": seen}, **NATURAL)
    book.reads.add(name="room", tool="look")
    tools = book, write("tell", shows=["customer"], **NATURAL)
    for readers, becomes in (["staff"], "waiting"), (["customer"], "undoing"), ([], "undoing"):
        play = Play(contract("look", readers=readers), *tools, policy=asks).submit(
            {"id": "a", "tool": "book"}
        )
        assert undo(acted(play, "a-a1", {"id": 8}, room={"note": "pst"})).status == becomes


def test_a_dry_run_leaves_what_is_said_of_the_undo_before() -> None:
    play = undo(booked()).intent("undo-book-a1").cancel()
    before = play.output("undo-book-a1", None, happened=event_pb2.HAPPENED_YES).verdict("undo-book-a1").view
    assert before.undo.failure.code == failures.CANCELLED
    undo(undo(play, dry_run=True), "pay", dry_run=True)
    assert play.view.undo == before.undo
    assert list(play.view.steps) == list(before.steps)
    assert play.view.undo_outlook.step == "pay"


def test_nothing_is_undone_twice() -> None:
    play = undo(undo(booked()))
    acted(acted(play, "undo-book-a1", None), "undo-pay-a1", None)
    undo(play)
    assert play.status == "undone"
    assert len(asked(play)) == 2
    assert play.view.undo.ended


def test_a_run_that_goes_on_is_not_undone() -> None:
    play = undo(paid(BOOK))
    assert play.state.strays == 1
    acted(play, "book-a1", {"id": 8})
    assert play.status == "done"
    assert play.state.undo is None


def test_a_failed_run_undoes_itself_if_its_goal_says_so() -> None:
    play = paid(BOOK, undo_on_failure=True, submitter="bo").intent("book-a1").failed("book-a1")
    assert play.status == "undoing"
    assert play.view.undo.submitter == "bo"
    acted(play, "undo-pay-a1", None)
    play.check("undone_on_failure")
    assert play.status == "failed"
    assert play.view.undo.ended


def test_a_run_that_is_too_late_undoes_itself_too() -> None:
    play = paid({"id": "look", "tool": "look", "after": ["pay"]}, undo_on_failure=True, deadline_s=10)
    play.tick(60)
    play.done("look-a1")
    assert play.status == "undoing"
    assert acted(play, "undo-pay-a1", None).status == "failed"
    assert play.view.failure.code == failures.DEADLINE


def test_a_run_that_undoes_itself_can_be_stopped() -> None:
    play = paid(BOOK, undo_on_failure=True).intent("book-a1").failed("book-a1").cancel()
    assert play.status == "failed"
    assert play.view.undo.failure.code == failures.CANCELLED


def test_a_cancelled_run_is_undone_when_somebody_asks() -> None:
    play = paid(BOOK).cancel()
    assert play.status == "cancelled"
    acted(undo(play), "undo-pay-a1", None)
    assert play.status == "cancelled"
    assert play.view.undo.ended
    assert not play.view.undo.HasField("failure")


def test_what_comes_late_of_the_run_itself_changes_nothing() -> None:
    play = undo(paid(BOOK).cancel())
    play.intent("book-a1").output("book-a1", {"id": 8}).verdict("book-a1")
    assert play.state.instances["book"].settled == ""
    acted(play, "undo-pay-a1", None)
    assert play.status == "cancelled"


def test_a_compensation_that_fails_stops_the_others_and_asks() -> None:
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1")
    assert play.status == "waiting"
    (gate,) = play.view.gates
    assert (gate.what.kind, gate.submitter) == (event_pb2.GATE_KIND_DOUBT, "ines")
    assert [reason.text for reason in gate.what.reasons] == ["it broke"]
    assert len(asked(play)) == 1
    play.decide("bo", choice=event_pb2.GATE_CHOICE_REPEAT)
    acted(play, "undo-book-a2", None)
    acted(play, "undo-pay-a1", None)
    assert play.status == "undone"


def test_what_somebody_has_undone_by_hand_counts() -> None:
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1")
    play.decide("bo", choice=event_pb2.GATE_CHOICE_HAPPENED)
    acted(play, "undo-pay-a1", None)
    assert play.status == "undone"


def test_an_undo_that_is_given_up_says_what_is_left_and_can_be_asked_for_again() -> None:
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1").decide("bo", deny=True)
    assert play.status == "done"
    assert play.view.undo.failure.code == failures.DENIED
    status = {step.id: step.status for step in play.view.undo.steps}
    assert status == {
        "undo-book": run_service_pb2.STEP_STATUS_FAILED,
        "undo-pay": run_service_pb2.STEP_STATUS_CANCELLED,
    }
    acted(undo(play), "undo-book-a2", None)
    acted(play, "undo-pay-a1", None)
    assert play.status == "undone"


def test_a_doubt_about_a_compensation_without_a_key_is_for_a_human() -> None:
    tools = [*TOOLS[:2], write("unpay", **{"idempotency": tool_pb2.IDEMPOTENCY_NONE})]
    play = acted(Play(*tools).submit(PAY), "pay-a1", {"id": 7})
    undo(play).intent("undo-pay-a1").orphan("undo-pay-a1", seen_dead=True)
    assert play.status == "waiting"
    assert len(asked(play)) == 1
    play.decide("bo", choice=event_pb2.GATE_CHOICE_HAPPENED)
    assert play.status == "undone"


def test_a_compensation_that_policy_refuses_asks_too() -> None:
    rulings = {"unpay": Ruling("refuse", (Reason("no", "not like this"),))}
    play = undo(paid(policy=FunctionPolicy(lambda request: rulings.get(request.contract.name, ALLOWED))))
    assert play.status == "waiting"
    assert not asked(play)
    rulings.clear()
    play.decide("bo", choice=event_pb2.GATE_CHOICE_REPEAT)
    acted(play, "undo-pay-a1", None)
    assert play.status == "undone"


def test_it_is_asked_in_the_name_of_whoever_undoes() -> None:
    seen: list[tuple[str, str]] = []

    def rule(request: Request) -> Ruling:
        seen.append((request.contract.name, request.user))
        return ALLOWED

    undo(paid(policy=FunctionPolicy(rule), submitter="bo"))
    assert seen[-1] == ("unpay", "ines")


def test_an_approval_lets_a_compensation_pass_and_a_denial_ends_the_undo() -> None:
    play = undo(paid(policy=asking("unpay")))
    assert play.status == "waiting"
    assert acted(play.decide("bo"), "undo-pay-a1", None).status == "undone"
    play = undo(paid(policy=asking("unpay"))).decide("bo", deny=True)
    assert play.status == "done"
    assert play.view.undo.failure.code == failures.DENIED
    assert not asked(play)


def test_an_undo_that_is_cancelled_finishes_what_it_began_and_nothing_more() -> None:
    play = undo(booked()).intent("undo-book-a1").cancel()
    assert play.status == "undoing"
    play.output("undo-book-a1", None).verdict("undo-book-a1")
    assert play.status == "done"
    assert play.view.undo.failure.code == failures.CANCELLED
    assert len(asked(play)) == 1
    play = undo(booked()).cancel()
    assert play.status == "done"
    assert play.state.instances["undo-book"].attempts[0].revoked


def test_an_undo_can_be_paused() -> None:
    play = undo(booked()).intent("undo-book-a1").pause()
    assert play.status == "paused"
    play.output("undo-book-a1", None).verdict("undo-book-a1")
    assert len(asked(play)) == 1
    acted(play.resume(), "undo-pay-a1", None)
    assert play.status == "undone"


def test_a_run_that_was_cancelled_while_it_was_paused_is_undone_at_once() -> None:
    play = undo(paid(BOOK).pause().cancel())
    assert play.status == "undoing"


def test_what_an_undo_is_to_do_is_shown_with_its_arguments() -> None:
    for dry_run in (True, False):
        found = undo(booked(), dry_run=dry_run).view
        seen = found.undo_outlook if dry_run else found.undo
        calls = [(one.undoes, one.step.tool, one.step.arguments) for one in seen.compensations]
        assert [(undoes, tool) for undoes, tool, _ in calls] == [("book", "unbook"), ("pay", "unpay")]
        assert calls[1][2]["id"].constant.json == "7"


def test_cancelled_and_approved_at_once_only_one_comes_of_it() -> None:
    play = undo(paid(policy=asking("unpay"))).cancel().decide("bo")
    assert play.status == "done"
    assert not asked(play)


@pytest.mark.parametrize("first", [True, False])
def test_what_the_world_was_like_is_told_by_the_claim_of_the_first_who_may_have_acted(first: bool) -> None:
    """The repeat of a lost attempt sees the world as the lost one left it."""
    play = paid(BOOK)
    body = event_pb2.Intent(attempt="book-a1", claimer="1-box_0-1")
    body.before["room"].json = '{"day":1}'
    play.fact(("worker", "box", "intent", "book-a1"), "intent", body)
    if first:
        play.orphan("book-a1", seen_dead=True)
        play.tick()
    else:
        play.failed("book-a1", failures.transient)
        play.tick()
    acted(play, "book-a2", {"id": 8}, **({} if first else {"room": {"day": 2}}))
    undo(play)
    assert asked(play) == [("undo-book-a1", {"day": "3", "was": "1" if first else "2"})]


def test_each_item_of_a_fan_out_is_undone() -> None:
    each = {"id": "pays", "tool": "pay", "each": "$look.ids", "with": {"amount": "$each"}}
    rest = {"id": "book", "tool": "book", "with": {"day": 3}, "after": ["pays"]}
    play = Play(*TOOLS).submit({"id": "look", "tool": "look"}, each, rest).done("look-a1", {"ids": [1, 2]})
    for n in (0, 1):
        acted(play, f"pays-{n}-a1", {"id": n})
    acted(play, "book-a1", None, room={"day": 1})
    undo(play)
    assert [name for name, _ in asked(play)] == ["undo-book-a1"]
    acted(play, "undo-book-a1", None)
    assert [name for name, _ in asked(play)][1:] == ["undo-pays-1-a1", "undo-pays-0-a1"]
    acted(play, "undo-pays-1-a1", None)
    of_pays = {step.id: step.status for step in play.view.steps if step.id.startswith("pays")}
    done = run_service_pb2.STEP_STATUS_DONE
    assert of_pays == {"pays": done, "pays-0": done, "pays-1": UNDONE}
    acted(play, "undo-pays-0-a1", None)
    assert play.status == "undone"
    assert {step.status for step in play.view.steps if step.id.startswith("pays")} == {UNDONE}


def test_an_effect_that_was_refuted_happened_all_the_same() -> None:
    refuted = event_pb2.OUTCOME_REFUTED
    play = Play(*TOOLS).submit(PAY).intent("pay-a1")
    play.output("pay-a1", {"id": 7}, happened=event_pb2.HAPPENED_YES).verdict("pay-a1", refuted).tick()
    play.verdict("pay-a1", refuted, round=2)
    assert play.status == "failed"
    assert acted(undo(play), "undo-pay-a1", None).view.undo.ended
    assert asked(play) == [("undo-pay-a1", {"id": "7"})]


def test_an_effect_that_only_a_verifier_denies_is_not_passed_over() -> None:
    refuted, never = event_pb2.OUTCOME_REFUTED, event_pb2.HAPPENED_NO
    play = Play(*TOOLS).submit({**PAY, "max_attempts": 1}).intent("pay-a1")
    play.output("pay-a1", {"id": 7}, happened=event_pb2.HAPPENED_YES)
    play.verdict("pay-a1", refuted, happened=never).tick().verdict("pay-a1", refuted, round=2, happened=never)
    assert play.status == "failed"
    assert stays(undo(play)) == {"pay": "nobody knows whether it happened"}


def test_who_decides_which_of_two_is_paid_decides_from_whom_it_is_taken_back() -> None:
    undone = {"undo": "unpay", "undo_arguments": {"to": "args.to"}}
    rows = [{"when": "input.mood == 'x'", "tool": "pay", "with": {"to": "ann"}}]
    rows.append({"tool": "pay", "with": {"to": "bo"}})
    tools = contract("look"), write("pay", **undone, **KEYED), write("unpay", critical=["to"], **KEYED)
    play = Play(*tools, policy=asking("unpay"))
    play.submit({"id": "look", "tool": "look"}, {"id": "pay", "with": {"mood": "$look.mood"}, "choose": rows})
    play.done("look-a1", {"mood": "x"}).choose("pay-a1", 0, "pay")
    undo(acted(play, "pay-a2", 3))
    item = play.state.gates["g1"].opened.items[0]
    assert (list(item.untrusted), list(item.arguments)) == (["$choice"], ["to"])


def test_what_is_above_the_ceiling_of_the_goal_stays() -> None:
    tools = [*TOOLS[:2], write("unpay", permission=tool_pb2.PERMISSION_DELETE, **KEYED)]
    play = undo(acted(Play(*tools).submit(PAY), "pay-a1", {"id": 7}))
    assert stays(play) == {"pay": "unpay needs the permission delete, above the goal's ceiling"}
    assert play.status == "done"


def test_what_its_undo_needs_and_nobody_knows_stays() -> None:
    play = undo(acted(Play(*TOOLS).submit(PAY), "pay-a1", {"number": 7}))
    assert list(stays(play)) == ["pay"]
    assert stays(play)["pay"].startswith("what unpay needs as id is not known: ")


def test_a_tool_that_is_gone_leaves_its_effects() -> None:
    play = undo(acted(Play(TOOLS[1]).submit(PAY), "pay-a1", {"id": 7}))
    assert stays(play) == {"pay": "there is no tool unpay any more"}


def test_a_step_that_there_is_not_asks_for_nothing() -> None:
    for step in ("nothing", "undo-pay"):
        play = undo(paid(), step)
        assert play.status == "done"
        assert play.view.undo.ended


def test_neither_the_deadline_nor_the_budget_of_the_run_binds_its_undo() -> None:
    play = paid(deadline_s=10, budget={"max_actions": 1})
    play.tick(60)
    assert acted(undo(play), "undo-pay-a1", None).status == "undone"
    action = play.state.instances["undo-pay"].attempts[0].action
    assert action is not None
    assert action.timeout.ToSeconds() == 5


@pytest.mark.parametrize("step", ["", "pay", "undo-book"])
def test_while_one_undo_goes_on_no_other_is_begun(step: str) -> None:
    play = undo(undo(booked()).intent("undo-book-a1"), step)
    assert play.state.strays == 1
    assert play.status == "undoing"
    play.output("undo-book-a1", None).verdict("undo-book-a1")
    assert acted(play, "undo-pay-a1", None).status == "undone"


def test_a_gate_of_an_undo_that_was_stopped_is_not_asked_about_again() -> None:
    play = undo(booked()).intent("undo-book-a1").failed("undo-book-a1")
    assert [gate.what.gate for gate in play.view.gates] == ["g1"]
    play.cancel()
    assert play.status == "done"
    undo(play)
    assert play.status == "undoing"
    play.intent("undo-book-a2").failed("undo-book-a2")
    assert play.status == "waiting"
    assert [gate.opened.gate for gate in play.state.open_gates] == ["g2"]
    # Nothing waits any more where somebody was asked before.
    play.decide("bo", gate="g1", choice=event_pb2.GATE_CHOICE_HAPPENED)
    assert play.status == "waiting"


LATE = {
    "a decision": lambda play: play.decide("bo", choice=event_pb2.GATE_CHOICE_REPEAT),
    "a result": lambda play: play.output("undo-lend-a1", None, happened=event_pb2.HAPPENED_YES),
}


@pytest.mark.parametrize("what", LATE)
def test_what_comes_late_of_an_earlier_undo_is_nothing_to_the_next(what: str) -> None:
    tools = (*TOOLS, write("lend", undo="unlend", **KEYED), write("unlend"))
    play = acted(Play(*tools).submit(PAY, {"id": "lend", "tool": "lend"}), "pay-a1", {"id": 7})
    undo(acted(play, "lend-a1", None), "lend").intent("undo-lend-a1")
    play.orphan("undo-lend-a1", seen_dead=True)
    assert (play.status, play.view.gates[0].what.gate) == ("waiting", "g1")
    undo(play.cancel(), "pay")
    strays = play.state.strays
    LATE[what](play)
    assert (play.status, play.state.strays) == ("undoing", strays + 1)
    assert play.state.open_gates == ()
    assert acted(play, "undo-pay-a1", None).status == "done"
    assert [name for name, _ in asked(play)] == ["undo-lend-a1", "undo-pay-a1"]
