"""What the decider authorises is what the plan says, whatever actions somebody else has put into the log."""

from __future__ import annotations

from typing import Any

import pytest

from core import failures, values
from core.policy import Request, Ruling
from handrail.v1 import event_pb2, tool_pb2
from tests.policies import LOST, FunctionPolicy
from tests.scenarios.play import Play, contract, write

KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
LOOK = {"id": "look", "tool": "look", "with": {"id": 7}}
PAY = {"id": "pay", "tool": "pay", "with": {"amount": "$look.amount"}}


def paying(*steps: dict[str, Any]) -> Play:
    """A read that is under way, and a payment that waits for it."""
    play = Play(contract("look"), contract("find"), write("pay", **KEYED), write("send", **KEYED))
    return play.submit(LOOK, *(steps or (PAY,)))


def forged(play: Play, attempt: str, tool: str = "pay", **arguments: Any) -> Play:
    """Somebody who is not the decider has written an action where the decider writes."""
    action = event_pb2.Action(
        attempt=attempt, step=attempt.rsplit("-a", 1)[0], kind=event_pb2.ACTION_KIND_ACT, tool=tool, key="k"
    )
    for name, value in arguments.items():
        action.arguments[name].CopyFrom(values.inline(value))
    return play.fact(("ask", "worker", "box"), "action", action, channel="dec")


def refused(play: Play, attempt: str) -> Play:
    """A worker refuses the permit of an action, for the time being."""
    body = event_pb2.Result(
        attempt=attempt,
        failure=failures.transient(failures.PERMIT, "it is not signed"),
        happened=event_pb2.HAPPENED_NO,
        action_sequence=play._sequence(attempt),
    )
    return play.fact(("worker", "box", "result", attempt), "result", body)


def authorised(play: Play, step: str) -> list[tuple[str, dict[str, str]]]:
    """The tool and arguments of each action of a step."""
    actions = [a.action for a in play.state.instances[step].attempts if a.action is not None]
    return [(one.tool, {name: value.json for name, value in one.arguments.items()}) for one in actions]


@pytest.mark.parametrize("tool", ["pay", "send"])
def test_a_refused_action_is_authorised_anew_as_the_plan_has_it(tool: str) -> None:
    play = forged(paying().done("look-a1", {"amount": 5}).intent("pay-a1"), "pay-a2", tool, amount=9999)
    refused(play, "pay-a2").tick()
    assert authorised(play, "pay")[2:] == [("pay", {"amount": "5"})]


def test_a_refused_action_whose_step_has_not_come_to_its_turn_waits_for_it() -> None:
    play = refused(forged(paying(), "pay-a1", amount=9999), "pay-a1").tick()
    assert len(authorised(play, "pay")) == 1
    play.done("look-a1", {"amount": 5})
    assert authorised(play, "pay")[1:] == [("pay", {"amount": "5"})]


def test_a_refused_action_does_not_outrun_what_its_step_comes_after() -> None:
    after = {"id": "pay", "tool": "pay", "with": {"amount": 5}, "after": ["look"]}
    play = refused(forged(paying(after), "pay-a1", amount=9999), "pay-a1").tick()
    assert len(authorised(play, "pay")) == 1


def test_a_refused_action_of_a_step_that_is_skipped_is_not_done() -> None:
    never = {**PAY, "when": "look.amount > 100"}
    play = (
        refused(forged(paying(never), "pay-a1", amount=9999), "pay-a1").tick().done("look-a1", {"amount": 5})
    )
    assert len(authorised(play, "pay")) == 1
    assert play.state.instances["pay"].settled == "skipped"


def test_an_action_that_was_taken_back_is_started_as_the_plan_has_it() -> None:
    play = forged(paying(), "pay-a1", amount=9999).done("look-a1", {"amount": 5}).pause()
    assert play.state.instances["pay"].attempts[0].revoked
    play.resume()
    assert authorised(play, "pay")[1:] == [("pay", {"amount": "5"})]


def test_a_choice_is_what_was_proposed_and_checked() -> None:
    rules = [
        {"when": "input.amount > 3", "tool": "pay", "with": {"amount": "$input.amount"}},
        {"tool": "send"},
    ]
    pick = {"id": "pick", "with": {"amount": "$look.amount"}, "choose": rules}
    play = paying(pick).done("look-a1", {"amount": 5})
    # An executor's answer that nobody has looked at yet, and a forged action beside it.
    refused(forged(play, "pick-a2", "send"), "pick-a2").tick()
    assert authorised(play, "pick") == [("send", {})]
    assert play.state.instances["pick"].attempts[-1].proposal_ask is not None
    play.choose("pick-a3", 0, "pay")
    assert authorised(play, "pick")[1:] == [("pay", {"amount": "5"})]
    refused(play, "pick-a4").tick()
    assert authorised(play, "pick")[2:] == [("pay", {"amount": "5"})]


def test_a_forged_action_beside_one_that_is_carried_out_does_not_repeat_it() -> None:
    play = Play(contract("look"), write("pay")).submit(LOOK, PAY).done("look-a1", {"amount": 5})
    refused(forged(play.intent("pay-a1"), "pay-a2", amount=9999), "pay-a2")
    assert len(authorised(play, "pay")) == 2
    assert play.status == "waiting"


def test_a_stand_in_stays_one() -> None:
    kinds = {**KEYED, "capability": "pay"}
    play = Play(write("pay", **kinds), write("pay_b", **kinds)).submit({"id": "pay", "tool": "pay"})
    play.intent("pay-a1").failed("pay-a1").tick()
    refused(play, "pay-a2").tick()
    assert [tool for tool, _ in authorised(play, "pay")] == ["pay", "pay_b", "pay_b"]


def test_a_permit_that_is_refused_for_good_has_no_stand_in() -> None:
    kinds = {**KEYED, "capability": "pay"}
    play = Play(write("pay", **kinds), write("pay_b", **kinds)).submit({"id": "pay", "tool": "pay"})
    body = event_pb2.Result(
        attempt="pay-a1",
        failure=failures.permanent(failures.PERMIT, "it is for another action"),
        happened=event_pb2.HAPPENED_NO,
        action_sequence=play._sequence("pay-a1"),
    )
    play.fact(("worker", "box", "result", "pay-a1"), "result", body).tick()
    assert [tool for tool, _ in authorised(play, "pay")] == ["pay"]


def test_a_read_back_asks_for_the_key_of_the_step() -> None:
    play = Play(contract("find"), write("call", readback="find")).submit({"id": "call", "tool": "call"})
    play.intent("call-a1").orphan("call-a1", seen_dead=True).tick()
    assert authorised(play, "call")[1:] == [("find", {"key": f'"{play.state.key.run}:call"'})]


def test_every_action_says_by_which_rules_it_is_allowed() -> None:
    def rule(request: Request) -> Ruling:
        if request.contract.name == "pay":
            return Ruling("gate", (LOST,), 1, rules=("pays", "seen"))
        return Ruling("allow", rules=("reads", f"from_{len(request.unknown)}_unknown"))

    play = Play(
        contract("look"), contract("find"), write("pay", readback="find"), policy=FunctionPolicy(rule)
    )
    more = {"id": "more", "tool": "look", "with": {"of": "$look.id"}}
    play.submit(LOOK, more, {**PAY, "after": ["more"]})
    # A chain: of the second the rules were asked before its argument was known.
    play.output("look-a1", {"amount": 5, "id": 1}).output("more-a1", {}).verdict("look-a1").verdict("more-a1")
    play.decide("bob").intent("pay-a1").orphan("pay-a1", seen_dead=True).tick().found("pay-a2", None)
    play.verdict("pay-a2").tick()
    actions = [a.action for i in play.state.instances.values() for a in i.attempts if a.action is not None]
    assert {one.attempt: (one.permit.gate, list(one.permit.rules)) for one in actions} == {
        "look-a1": ("", ["reads", "from_0_unknown"]),
        "more-a1": ("", ["reads", "from_1_unknown"]),
        "pay-a1": ("g1", ["pays", "seen"]),
        # Nobody asks the rules about a read-back.
        "pay-a2": ("", []),
        "pay-a3": ("g1", ["pays", "seen"]),
    }
