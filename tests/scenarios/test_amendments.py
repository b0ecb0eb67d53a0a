"""Amendments and delegations: somebody else's values, or somebody else's decision, and nothing unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core import failures, values
from core.hindsight import asked
from core.policy import ALLOWED, Reason, Request, Ruling
from handrail.v1 import event_pb2, tool_pb2
from tests.policies import LOST, NEVER, FunctionPolicy, asking
from tests.scenarios.play import Play, contract, write

AMEND, DELEGATE = event_pb2.GATE_CHOICE_AMEND, event_pb2.GATE_CHOICE_DELEGATE
KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
SCHEMA = (
    '{"type":"object","properties":{"amount":{"type":"integer"},"to":{"type":"string"}},'
    '"required":["amount","to"],"additionalProperties":false}'
)
LOOK = {"id": "look", "tool": "look"}
PAY = {"id": "pay", "tool": "pay", "with": {"amount": 50, "to": "$look.name"}}


class Limits(FunctionPolicy):
    """Payments wait; above 100 nobody may pay; above 60 only ines may decide; eve may never."""

    def may_decide(self, approver: str, request: Request) -> Ruling:
        big = request.arguments["amount"] > 60
        return NEVER if approver.startswith("eve") or (big and approver != "ines") else ALLOWED


def limited(quorum: int = 1) -> Limits:
    def rule(request: Request) -> Ruling:
        if request.contract.name != "pay" or "amount" not in request.arguments:
            return ALLOWED
        if request.arguments["amount"] > 100:
            return Ruling("refuse", (Reason("much", "it is too much"),))
        return Ruling("gate", (LOST,), quorum) if request.arguments["amount"] > 10 else ALLOWED

    return Limits(rule)


def paying(policy: FunctionPolicy, **goal: Any) -> Play:
    tools = contract("look"), write("pay", input_schema=SCHEMA, critical=["to"], **KEYED)
    return Play(*tools, policy=policy).submit(LOOK, PAY, **goal).done("look-a1", {"name": "mallory"})


def amend(play: Play, who: str, gate: str = "g1", **changed: Any) -> Play:
    return play.decide(
        who, gate=gate, choice=AMEND, arguments={name: values.inline(held) for name, held in changed.items()}
    )


def paid(play: Play) -> list[dict[str, str]]:
    """With what each payment was authorised."""
    attempts = play.state.instances["pay"].attempts
    return [{n: v.json for n, v in a.action.arguments.items()} for a in attempts if a.action is not None]


def outcome(play: Play, gate: str = "g1") -> str:
    closed = play.state.gates[gate].closed
    word = event_pb2.GateOutcome.Name(closed.outcome) if closed is not None else ""
    return word.removeprefix("GATE_OUTCOME_").lower()


def test_what_was_amended_is_done_and_nothing_else() -> None:
    play = amend(paying(limited()), "bo", amount=20)
    assert paid(play) == [{"amount": "20", "to": '"mallory"'}]
    action = play.state.instances["pay"].attempts[0].action
    assert action is not None
    assert (action.permit.gate, bool(action.permit.binding)) == ("g1", True)
    play.intent("pay-a1").done("pay-a1").check("gate_amended")
    assert (play.status, outcome(play)) == ("done", "amended")


def test_looking_back_it_is_told_at_which_gate_it_was_let_pass() -> None:
    def passed(play: Play) -> list[tuple[str, str]]:
        found = asked(play.state.key, play.records, play.catalogue.policy)
        return [(one.became, one.gate) for one in found if one.request.contract.name == "pay"]

    assert passed(amend(paying(limited()), "bo", amount=20)) == [("gate", "g1"), ("authorised", "g1")]
    play = amend(paying(limited(quorum=2)), "bo", amount=20).decide("bo", gate="g2").decide("ann", gate="g2")
    assert passed(play) == [("gate", "g1"), ("gate", "g2"), ("authorised", "g2")]


def test_looking_back_nobody_is_said_to_have_let_a_stand_in_pass_who_was_not_asked() -> None:
    money: dict[str, Any] = {"input_schema": SCHEMA, "capability": "money", **KEYED}
    tools = contract("look"), write("pay", **money), write("repay", **money)
    play = Play(*tools, policy=asking("pay")).submit(LOOK, PAY).done("look-a1", {"name": "mallory"})
    play.decide("bo").intent("pay-a1").failed("pay-a1")
    found = asked(play.state.key, play.records, play.catalogue.policy)
    assert [(one.request.contract.name, one.gate) for one in found[2:]] == [("pay", "g1"), ("repay", "")]


def test_looking_back_what_was_done_before_an_amendment_is_not_said_to_be_amended() -> None:
    play = paying(limited()).decide("bo").intent("pay-a1").failed("pay-a1", failures.transient)
    policy = limited()
    policy.version = "v2"
    play.catalogue = replace(play.catalogue, policy=policy)
    amend(play.tick(), "bo", gate="g2", amount=20)
    found = [one for one in asked(play.state.key, play.records, policy) if one.became == "authorised"]
    assert [sorted(one.amended) for one in found] == [[], [], ["amount"]]


@pytest.mark.parametrize("denied", [False, True])
def test_what_may_have_happened_is_repeated_as_it_was_and_cannot_be_amended(denied: bool) -> None:
    """Under its key nothing else could be done, and the log would tell what the world does not have."""
    play = paying(limited()).decide("bo").intent("pay-a1")
    if denied:
        refuted, never = event_pb2.OUTCOME_REFUTED, event_pb2.HAPPENED_NO
        play.output("pay-a1", 7).verdict("pay-a1", refuted, happened=never).tick()
        play.verdict("pay-a1", refuted, round=2, happened=never)
    else:
        play.orphan("pay-a1", seen_dead=True)
    policy = limited()
    policy.version = "v2"
    play.catalogue = replace(play.catalogue, policy=policy)
    amend(play.tick(), "bo", gate="g2", amount=20)
    assert (outcome(play, "g2"), [one["amount"] for one in paid(play)]) == ("", ["50"])
    play.decide("ann", gate="g2")
    assert [one["amount"] for one in paid(play)] == ["50", "50"]


def test_a_repetition_has_the_amended_arguments_too() -> None:
    play = amend(paying(limited()), "bo", amount=20).intent("pay-a1").orphan("pay-a1", seen_dead=True).tick()
    assert [one["amount"] for one in paid(play)] == ["20", "20"]


def test_what_somebody_has_written_is_not_untrusted_any_more() -> None:
    play = paying(limited(quorum=2))
    assert list(play.state.gates["g1"].opened.items[0].untrusted) == ["to"]
    amend(play, "bo", to="ines@example.com")
    assert list(play.state.gates["g2"].opened.items[0].untrusted) == []


def test_a_tool_that_stands_in_does_it_with_what_was_written_and_is_asked_for_anew() -> None:
    careful = FunctionPolicy(lambda r: Ruling("gate", (LOST,), 1) if r.untrusted or r.leaks else ALLOWED)
    money: dict[str, Any] = {"input_schema": SCHEMA, "capability": "money", **KEYED}
    pays = write("pay", **money), write("pay_backup", shows=["world"], **money)
    play = Play(contract("look", readers=["staff"]), *pays, policy=careful)
    play.submit(LOOK, PAY).done("look-a1", {"name": "mallory"})
    amend(play, "bo", to="ines").intent("pay-a1").failed("pay-a1")
    waiting = play.state.gates["g2"].opened.items[0]
    assert (waiting.tool, waiting.arguments["to"].json) == ("pay_backup", '"ines"')
    assert (list(waiting.untrusted), list(waiting.leaks)) == (["to"], ["to"])
    amend(play, "bo", gate="g2", amount=20)
    assert paid(play) == [{"amount": "50", "to": '"ines"'}, {"amount": "20", "to": '"ines"'}]
    # Bo has written the amount for the other tool, and what she let pass there passes again.
    play.intent("pay-a2").failed("pay-a2", failures.transient).tick()
    assert (len(paid(play)), list(play.state.gates)) == (3, ["g1", "g2"])


@pytest.mark.parametrize(
    ("who", "changed"),
    [
        ("bo", {"amount": 500}),
        ("bo", {"amount": 70}),
        ("bo", {"amount": "much"}),
        ("bo", {"amout": 5}),
        ("bo", {}),
        ("eve", {"amount": 20}),
    ],
    ids=str,
)
def test_an_amendment_that_may_not_be_is_taken_no_notice_of(who: str, changed: dict[str, Any]) -> None:
    play = amend(paying(limited()), who, **changed)
    assert (play.status, outcome(play), paid(play)) == ("waiting", "", [])
    play.decide("ines")
    assert [one["amount"] for one in paid(play)] == ["50"]


def test_what_is_nested_too_deep_as_a_whole_amends_nothing() -> None:
    deep: list[Any] = []
    for _ in range(values.MAX_DEPTH - 1):
        deep = [deep]
    play = Play(write("pay"), policy=asking("pay")).submit({"id": "pay", "tool": "pay", "with": {"note": 1}})
    assert (amend(play, "bo", note=deep).status, outcome(play)) == ("waiting", "")


def test_who_may_decide_about_what_results_may_amend() -> None:
    assert [one["amount"] for one in paid(amend(paying(limited()), "ines", amount=70))] == ["70"]


def test_an_amendment_cannot_spend_more_than_the_budget() -> None:
    money = SCHEMA.replace(
        '{"type":"integer"}',
        '{"type":"object","properties":{"minor":{"type":"integer"},"currency":{"type":"string"}},'
        '"required":["minor","currency"]}',
    )
    pay = {"id": "pay", "tool": "pay", "with": {"amount": {"minor": 5, "currency": "EUR"}, "to": "bo"}}
    play = Play(write("pay", input_schema=money, **KEYED), policy=asking("pay"))
    play.submit(pay, budget={"max_spend": {"EUR": 10}})
    amend(play, "bo", amount={"minor": 11, "currency": "EUR"})
    assert (play.status, outcome(play)) == ("waiting", "")


def test_where_one_approval_is_not_enough_everybody_approves_what_is_there_now() -> None:
    play = paying(limited(quorum=2)).decide("ann")
    amend(play, "bo", amount=20)
    assert (outcome(play), play.status, paid(play)) == ("amended", "waiting", [])
    play.decide("bo", gate="g2")
    assert paid(play) == []
    play.decide("ann", gate="g2")
    assert [one["amount"] for one in paid(play)] == ["20"]


def test_what_needs_nobody_once_it_is_amended_is_done_at_once() -> None:
    assert [one["amount"] for one in paid(amend(paying(limited(quorum=2)), "bo", amount=5))] == ["5"]


def test_amended_and_denied_at_once_the_first_counts() -> None:
    assert paid(amend(paying(limited()).decide("ann", deny=True), "bo", amount=20)) == []
    play = amend(paying(limited()), "bo", amount=20).decide("ann", deny=True)
    assert [one["amount"] for one in paid(play)] == ["20"]


def test_amended_and_cancelled_at_once_nothing_is_done() -> None:
    play = amend(paying(limited()).cancel(), "bo", amount=20)
    assert (play.status, paid(play)) == ("cancelled", [])


def test_a_gate_for_many_cannot_be_amended() -> None:
    each = {"id": "pay", "tool": "pay", "each": "$look", "with": {"amount": 50, "to": "$each"}}
    play = Play(contract("look"), write("pay", input_schema=SCHEMA, **KEYED), policy=limited())
    play.submit(LOOK, each).done("look-a1", ["a", "b"])
    amend(play, "bo", amount=20)
    assert (play.status, outcome(play)) == ("waiting", "")


def test_a_doubt_is_settled_and_not_amended() -> None:
    tools = contract("look"), write("pay", input_schema=SCHEMA)
    play = Play(*tools).submit(LOOK, PAY).done("look-a1", {"name": "x"})
    play.intent("pay-a1").orphan("pay-a1", seen_dead=True)
    assert play.status == "waiting"
    strays = play.state.strays
    amend(play, "bo", amount=20)
    assert play.state.strays == strays + 1


# --- delegation ------------------------------------------------------------------------------------


def delegate(play: Play, who: str, to: str) -> Play:
    return play.decide(who, choice=DELEGATE, delegate=to)


def test_somebody_decides_in_anothers_stead_and_the_log_says_who() -> None:
    play = paying(limited()).decide("eve")
    assert paid(play) == []
    play = delegate(paying(limited()), "bo", "eve").decide("eve")
    assert len(paid(play)) == 1
    closed = play.state.gates["g1"].closed
    assert closed is not None
    assert list(closed.approvers) == ["eve"]


def test_whoever_delegates_decides_there_no_more() -> None:
    play = delegate(paying(limited(quorum=2)), "bo", "eve").decide("bo").decide("eve")
    assert paid(play) == []
    assert len(paid(play.decide("ann"))) == 1


def test_what_nobody_could_decide_nobody_can_delegate() -> None:
    for who, to in (("eve", "bo's friend eve"), ("bo", "eve")):
        play = paying(limited())
        delegate(play, who, "eve 2" if who == "eve" else to)
        play.decide("eve 2")
        assert paid(play) == []


def test_it_is_never_handed_on_nor_to_whoever_asks() -> None:
    play = delegate(delegate(paying(limited()), "bo", "eve"), "eve", "eve 2").decide("eve 2")
    assert paid(play) == []
    play = delegate(paying(limited(), submitter="eve"), "bo", "eve").decide("eve")
    assert paid(play) == []


def test_a_deputy_amends_within_what_the_other_may() -> None:
    play = delegate(paying(limited()), "bo", "eve")
    assert paid(amend(play, "eve", amount=70)) == []
    play = delegate(paying(limited()), "ines", "eve")
    assert [one["amount"] for one in paid(amend(play, "eve", amount=70))] == ["70"]


def test_who_repeats_an_untrusted_value_has_not_written_it() -> None:
    two = Ruling("gate", (LOST,), 2)
    paid = FunctionPolicy(lambda request: two if "amount" in request.untrusted else ALLOWED)
    play = Play(contract("look"), write("pay", **KEYED), policy=paid)
    look = {"id": "look", "tool": "look"}
    play.submit(look, {"id": "pay", "tool": "pay", "with": {"amount": "$look.amount", "note": "a"}})
    play.done("look-a1", {"amount": 5})
    play.decide("bob", choice=AMEND, arguments={"amount": values.inline(5)})
    play.decide("ann", choice=AMEND, arguments={"amount": values.inline(5), "note": values.inline("b")})
    # Ann has changed the note, and two have to approve the amount all the same.
    assert [(gate.closed is not None, gate.opened.quorum) for gate in play.state.gates.values()] == [
        (True, 2),
        (False, 2),
    ]
    assert list(play.state.attempts) == ["look-a1"]
    play.decide("bob", gate="g2").decide("ann", gate="g2")
    action = play.state.instances["pay"].current.action  # type: ignore[union-attr]
    assert action is not None
    assert {name: value.json for name, value in action.arguments.items()} == {"amount": "5", "note": '"b"'}
