"""Gates: nothing is done before somebody has approved exactly that, and one thing becomes of each gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import failures
from core.ahead import decide_ahead
from core.moves import Decide
from core.policy import ALLOWED, Request, Ruling
from core.run import fold
from handrail.v1 import event_pb2, tool_pb2
from tests.policies import LOST, NEVER, FunctionPolicy, asking
from tests.scenarios.play import KEY, Play, contract, write

KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
LOOK = {"id": "look", "tool": "look", "with": {"id": 7}}
PAY = {"id": "pay", "tool": "pay", "with": {"amount": "$look.amount"}}


def paying(policy: FunctionPolicy | None = None, **fields: object) -> Play:
    """A read, then a payment of what was read, which waits."""
    play = Play(
        contract("look"),
        contract("find"),
        write("pay", **{**KEYED, **fields}),
        policy=policy or asking("pay"),
    )
    return play.submit(LOOK, PAY).done("look-a1", {"amount": 5})


def outcomes(play: Play) -> list[str]:
    """What became of each gate."""
    names = (
        event_pb2.GateOutcome.Name(g.closed.outcome) if g.closed else "" for g in play.state.gates.values()
    )
    return [name.removeprefix("GATE_OUTCOME_").lower() for name in names]


def acts(play: Play) -> list[str]:
    """The attempts that a worker was asked for, but for reads."""
    return [a.id for i in play.state.instances.values() for a in i.attempts if a.id.startswith("pay")]


def test_an_approval_authorises_the_action_in_one_event() -> None:
    play = paying()
    assert play.status == "waiting"
    assert not acts(play)
    events = len(play.records)
    play.decide("bob")
    # The decision, and the gate's end with the action: nobody waits for anything more.
    assert len(play.records) == events + 2
    play.intent("pay-a1").done("pay-a1").check("gate_approved")
    assert play.status == "done"


def test_who_is_to_decide_sees_all_of_it() -> None:
    play = paying()
    (gate,) = play.view.gates
    assert gate.id == f"{KEY.run}-g1"
    assert [(i.step, i.tool, i.arguments["amount"].json) for i in gate.what.items] == [("pay", "pay", "5")]
    assert [(r.rule, r.text) for r in gate.what.reasons] == [("lost", "it cannot be undone")]
    assert play.view.steps[1].gate == gate.id


def test_a_denial_fails_the_step() -> None:
    play = paying().decide("bob", deny=True)
    assert play.status == "failed"
    assert play.state.instances["pay"].failure.code == failures.DENIED  # type: ignore[union-attr]
    play.check("gate_denied")


def test_nobody_in_time_is_a_denial() -> None:
    play = paying().tick()
    assert play.status == "failed"
    assert play.state.instances["pay"].failure.code == failures.GATE_EXPIRED  # type: ignore[union-attr]
    play.check("gate_expired")


def test_an_approval_after_the_end_of_the_gate_is_worth_nothing_whatever_was_down() -> None:
    play = paying()
    # Nobody looked when its time was over; the approval is the first that is heard.
    play.now_ns += 3_600_000_000_001
    play.decide("bob")
    assert outcomes(play) == ["expired"]
    assert not acts(play)


def test_a_quorum_is_of_different_people() -> None:
    play = paying(asking("pay", 2)).decide("bob").decide("bob")
    assert outcomes(play) == [""]
    play.decide("ann")
    assert outcomes(play) == ["approved"]
    assert list(play.state.gates["g1"].closed.approvers) == ["bob", "ann"]  # type: ignore[union-attr]


def test_one_denial_is_enough_until_the_quorum_is_there() -> None:
    assert outcomes(paying(asking("pay", 2)).decide("bob").decide("ann", deny=True)) == ["denied"]
    play = paying().decide("bob").decide("ann", deny=True)
    assert outcomes(play) == ["approved"]
    assert acts(play) == ["pay-a1"]


def test_who_may_not_decide_decides_nothing() -> None:
    play = paying().decide("eve").decide("eve", deny=True)
    assert outcomes(play) == [""]
    play.decide("bob")
    assert outcomes(play) == ["approved"]


@pytest.mark.parametrize(("gate", "binding"), [("g1", "another"), ("g2", "")])
def test_a_decision_about_something_else_is_a_stray(gate: str, binding: str) -> None:
    play = paying().decide("bob", gate=gate, binding=binding)
    assert outcomes(play) == [""]
    assert play.state.strays == 1


def test_a_decision_is_used_once() -> None:
    play = paying().decide("bob").intent("pay-a1").done("pay-a1").decide("ann")
    assert play.status == "done"
    assert play.state.strays == 1


def test_a_retry_of_what_was_approved_is_approved() -> None:
    play = paying().decide("bob").intent("pay-a1").failed("pay-a1", failures.transient).tick()
    assert acts(play) == ["pay-a1", "pay-a2"]
    assert outcomes(play) == ["approved"]


def test_another_tool_that_stands_in_is_another_action() -> None:
    mail = {"capability": "money", **KEYED}
    play = Play(contract("look"), write("pay", **mail), write("pay_backup", **mail), policy=asking("pay"))
    play.submit(LOOK, PAY).done("look-a1", {"amount": 5}).decide("bob").intent("pay-a1").failed("pay-a1")
    assert outcomes(play) == ["approved", ""]
    assert acts(play) == ["pay-a1"]
    play.decide("bob", gate="g2")
    assert play.state.instances["pay"].current.action.tool == "pay_backup"  # type: ignore[union-attr]


def test_a_policy_that_changes_voids_what_waits_and_what_was_approved() -> None:
    policy = asking("pay")
    play = paying(policy)
    policy.version = "v2"
    play.decide("bob")
    assert outcomes(play) == ["void", ""]
    play.decide("bob", gate="g2").intent("pay-a1")
    policy.version = "v3"
    play.failed("pay-a1", failures.transient).tick()
    assert outcomes(play) == ["void", "approved", ""]
    assert acts(play) == ["pay-a1"]


def test_a_policy_that_is_tightened_refuses_what_was_approved() -> None:
    policy = asking("pay")
    play = paying(policy).decide("bob").intent("pay-a1")
    policy.rule, policy.version = (lambda request: NEVER), "v2"
    play.failed("pay-a1", failures.transient).tick()
    assert play.status == "failed"
    assert play.state.instances["pay"].failure.code == failures.FORBIDDEN  # type: ignore[union-attr]


def test_what_is_refused_is_never_done() -> None:
    policy = FunctionPolicy(
        lambda r: Ruling("allow", open=True) if r.unknown else NEVER if r.arguments.get("amount") else ALLOWED
    )
    play = paying(policy)
    assert play.status == "failed"
    assert not acts(play)
    play.check("gate_refused")


def test_a_plan_that_can_only_be_refused_is_not_begun() -> None:
    play = Play(
        contract("look"),
        write("pay"),
        policy=FunctionPolicy(lambda r: NEVER if r.arguments.get("amount") == 13 else ALLOWED),
    )
    play.submit(LOOK, {"id": "pay", "tool": "pay", "with": {"amount": 13}})
    assert play.status == "refused"
    assert [(v.field, v.code) for v in play.state.violations] == [("steps[1].tool", failures.FORBIDDEN)]
    assert not play.state.attempts


def test_a_fan_out_is_one_gate() -> None:
    play = Play(contract("look"), write("pay", **KEYED), policy=asking("pay"))
    step = {"id": "pay", "tool": "pay", "each": "$look", "with": {"amount": "$each"}}
    play.submit(LOOK, step).done("look-a1", [1, 2, 3])
    assert [len(g.opened.items) for g in play.state.gates.values()] == [3]
    play.decide("bob")
    assert acts(play) == ["pay-0-a1", "pay-1-a1", "pay-2-a1"]
    play.check("gate_fan_out")


def test_more_than_a_gate_holds_are_several() -> None:
    play = Play(contract("look"), write("pay", **KEYED), policy=asking("pay"))
    step = {"id": "pay", "tool": "pay", "each": "$look", "each_limit": 250, "with": {"amount": "$each"}}
    play.submit(LOOK, step).done("look-a1", list(range(250)))
    assert [len(g.opened.items) for g in play.state.gates.values()] == [100, 100, 50]
    play.decide("bob", gate="g2")
    assert len(acts(play)) == 64
    assert outcomes(play) == ["", "approved", ""]


def test_the_others_go_on_while_one_waits() -> None:
    play = Play(contract("look"), write("pay", **KEYED), write("tell", **KEYED), policy=asking("pay"))
    play.submit(LOOK, PAY, {"id": "tell", "tool": "tell", "after": ["look"]}).done("look-a1", {"amount": 5})
    assert play.status == "running"
    play.intent("tell-a1").done("tell-a1")
    assert play.status == "waiting"


def test_a_cancel_before_the_approval_wins() -> None:
    play = paying().cancel().decide("bob")
    assert play.status == "cancelled"
    assert not acts(play)


def test_an_approval_before_the_cancel_is_taken_back_or_seen_through() -> None:
    play = paying().decide("bob").cancel()
    assert play.status == "cancelled"
    assert play.state.instances["pay"].current.revoked  # type: ignore[union-attr]


def test_an_approval_while_paused_counts_when_the_run_goes_on() -> None:
    play = paying().pause().decide("bob")
    assert not acts(play)
    play.resume()
    assert acts(play) == ["pay-a1"]


def test_the_gate_of_a_paused_run_ends_with_its_time_all_the_same() -> None:
    play = paying().pause()
    play.now_ns += 3_600_000_000_001
    play.decide("bob").resume()
    assert outcomes(play) == ["expired"]


def test_a_doubt_that_needs_an_approval_stays_a_doubt_when_it_is_denied() -> None:
    policy = asking("pay")
    play = paying(policy).decide("bob").intent("pay-a1")
    policy.version = "v2"
    play.orphan("pay-a1", seen_dead=True).tick().tick()
    assert outcomes(play) == ["approved", ""]
    play.decide("bob", gate="g2", deny=True)
    assert play.state.instances["pay"].settled == "in_doubt"
    assert play.status == "waiting"


def test_a_run_that_ends_at_a_gate_surfaces_its_doubt() -> None:
    policy = asking("pay")
    play = paying(policy).decide("bob").intent("pay-a1")
    policy.version = "v2"
    play.orphan("pay-a1", seen_dead=True).tick().tick().cancel()
    assert play.state.instances["pay"].settled == "in_doubt"


def test_what_an_executor_proposes_waits_too() -> None:
    play = Play(write("pay", **KEYED), policy=asking("pay"))
    play.submit({"id": "pick", "choose": [{"when": "true", "tool": "pay"}]})
    play.choose("pick-a1", 0, "pay")
    assert outcomes(play) == [""]
    play.decide("bob").intent("pick-a2").done("pick-a2")
    assert play.status == "done"


def test_a_read_that_waits_is_no_link_of_a_chain() -> None:
    look = FunctionPolicy(lambda r: Ruling("gate", (LOST,), 1) if r.contract.name == "open" else ALLOWED)
    play = Play(contract("look"), contract("open"), policy=look)
    play.submit(LOOK, {"id": "open", "tool": "open", "with": {"id": "$look.id"}}).done("look-a1", {"id": 1})
    assert outcomes(play) == [""]
    play.decide("bob").done("open-a1")
    assert play.status == "done"


def test_what_depends_on_a_value_that_is_not_known_is_asked_about_when_it_is() -> None:
    def rule(request: Request) -> Ruling:
        if request.unknown:
            return Ruling("allow", open=True)
        return NEVER if request.arguments.get("id") == 13 else ALLOWED

    play = Play(contract("look"), contract("open"), policy=FunctionPolicy(rule))
    play.submit(LOOK, {"id": "open", "tool": "open", "with": {"id": "$look.id"}})
    play.done("look-a1", {"id": 13})
    assert play.status == "failed"


def test_everything_is_in_the_log() -> None:
    play = paying(asking("pay", 2)).decide("bob").decide("ann").intent("pay-a1").done("pay-a1")
    assert fold(KEY, play.records) == play.state


def test_the_memory_of_a_gate_is_bounded() -> None:
    play = paying()
    for n in range(100):
        play.decide(f"eve {n}")
    assert len(play.state.gates["g1"].decisions) == 64


def test_a_dry_run_says_what_would_come_of_each_step_and_does_nothing() -> None:
    play = Play(
        contract("look", endorses=["id"]),
        write("pay", critical=["to"], undo="unpay", **KEYED),
        write("unpay"),
        policy=asking("pay"),
    )
    pay = {"id": "pay", "tool": "pay", "with": {"to": "$look.name", "amount": "$look.id"}}
    play.submit(LOOK, pay, dry_run=True)
    assert play.status == "done"
    assert not play.state.attempts
    (look,), (paid,) = (list(step.outlook) for step in play.view.steps)
    assert (look.ruling, look.effect) == (event_pb2.RULING_OUTCOME_ALLOW, tool_pb2.EFFECT_READ)
    assert (paid.ruling, paid.quorum, paid.undo) == (event_pb2.RULING_OUTCOME_GATE, 1, "unpay")
    assert [(p.argument, list(p.steps)) for p in paid.untrusted] == [("to", ["look"])]


def test_a_dry_run_says_what_each_step_would_spend() -> None:
    amount = (
        '{"type":"object","properties":{"minor":{"type":"integer"},"currency":{"type":"string"}},'
        '"required":["minor","currency"]}'
    )
    schema = f'{{"type":"object","properties":{{"amount":{amount}}},"required":["amount"]}}'
    play = Play(contract("look"), write("pay", input_schema=schema, **KEYED))
    euros = {"minor": 60_000, "currency": "EUR"}
    known = {"id": "known", "tool": "pay", "with": {"amount": euros}}
    unknown = {"id": "unknown", "tool": "pay", "with": {"amount": "$look.amount"}}
    each = {"id": "all", "tool": "pay", "each": "$look", "with": {"amount": euros}}
    play.submit(LOOK, known, unknown, each, dry_run=True)
    seen = [(dict(step.outlook[0].spends), step.outlook[0].spends_more) for step in play.view.steps]
    assert seen == [({}, False), ({"EUR": 60_000}, False), ({}, True), ({"EUR": 60_000}, True)]


def test_what_not_everybody_may_read_is_shown_to_nobody_else_unseen() -> None:
    def rule(request: Request) -> Ruling:
        return Ruling("gate", (LOST,), 1) if request.leaks else ALLOWED

    play = Play(
        contract("look", readers=["staff", "customer"]),
        contract("notes", readers=["staff"]),
        write("mail", shows=["customer"], **KEYED),
        policy=FunctionPolicy(rule),
    )
    notes = {"id": "notes", "tool": "notes", "with": {"of": "$look.id"}}
    told = {"id": "told", "tool": "mail", "with": {"to": "$look.mail", "text": "sorry"}}
    shown = {"id": "shown", "tool": "mail", "with": {"to": "$look.mail", "text": "$notes"}, "after": ["told"]}
    play.submit(LOOK, notes, told, shown).done("look-a1", {"id": 7, "mail": "a@b"}).done("notes-a1", "rude")
    play.intent("told-a1").done("told-a1")
    (gate,) = play.view.gates
    assert list(gate.what.items[0].leaks) == ["text"]
    assert [(p.argument, list(p.steps)) for p in gate.what.items[0].provenance if p.argument == "text"] == [
        ("text", ["look", "notes"])
    ]
    # Whoever writes it anew has read what was there, and answers for what they write.
    text = event_pb2.Decide().arguments["text"]
    text.json = '"we are sorry"'
    play.decide("bo", choice=event_pb2.GATE_CHOICE_AMEND, arguments={"text": text})
    assert play.status == "running"


def test_a_run_that_is_not_dry_keeps_no_outlook() -> None:
    assert not paying().state.outlook


MONEY = (
    '{"type":"object","properties":{"amount":{"type":"object","properties":{"minor":{"type":"integer"},'
    '"currency":{"type":"string"}},"required":["minor","currency"]}}}'
)


def test_the_policy_knows_what_the_run_has_spent() -> None:
    seen: list[dict[str, int]] = []

    def rule(request: Request) -> Ruling:
        if request.contract.name == "pay" and not request.unknown:
            seen.append(dict(request.spent))
        return ALLOWED

    play = Play(write("pay", input_schema=MONEY, **KEYED), policy=FunctionPolicy(rule))
    steps = [
        {
            "id": f"pay{n}",
            "tool": "pay",
            "with": {"amount": {"minor": 10 * n, "currency": "EUR"}},
            "after": after,
        }
        for n, after in ((1, []), (2, ["pay1"]), (3, ["pay2"]))
    ]
    play.submit(*steps).intent("pay1-a1").failed("pay1-a1", failures.transient).tick()
    play.intent("pay1-a2").done("pay1-a2").failed("pay2-a1")
    # What is retried is not spent twice; what did not happen is not spent.
    assert [one for one in seen if one] == [{"EUR": 10}]
    assert play.status == "failed"


def test_what_may_have_happened_is_spent() -> None:
    seen: list[dict[str, int]] = []

    def rule(request: Request) -> Ruling:
        seen.append(dict(request.spent))
        return ALLOWED

    play = Play(write("pay", input_schema=MONEY, **KEYED), policy=FunctionPolicy(rule))
    amounts = [{"minor": 7, "currency": "EUR"}, {"minor": 5, "currency": "SEK"}]
    steps = [{"id": f"p{n}", "tool": "pay", "with": {"amount": held}} for n, held in enumerate(amounts)]
    play.submit(*steps).intent("p0-a1").intent("p1-a1").orphan("p0-a1", seen_dead=True).tick()
    # The repetition of the first is asked about with what the other may have come to.
    assert seen[-1] == {"SEK": 5}


def paying_at_once(*minors: int, policy: FunctionPolicy, **goal: object) -> Play:
    """Payments that can all be made at once."""
    play = Play(write("pay", input_schema=MONEY, **KEYED), policy=policy)
    amounts = [{"minor": minor, "currency": "EUR"} for minor in minors]
    return play.submit(
        *({"id": f"p{n}", "tool": "pay", "with": {"amount": held}} for n, held in enumerate(amounts)), **goal
    )


def test_what_is_authorised_at_once_is_spent_too() -> None:
    def rule(request: Request) -> Ruling:
        known = request.arguments["amount"]["minor"]
        return NEVER if request.spent.get("EUR", 0) + known > 10 or request.actions > 1 else ALLOWED

    assert list(paying_at_once(7, 5, policy=FunctionPolicy(rule)).state.attempts) == ["p0-a1"]
    assert list(paying_at_once(3, 3, 3, policy=FunctionPolicy(rule)).state.attempts) == ["p0-a1", "p1-a1"]


def test_an_amount_below_nothing_hides_none_above() -> None:
    def rule(request: Request) -> Ruling:
        return NEVER if request.spent.get("EUR", 0) > 10 else ALLOWED

    play = paying_at_once(-100, 20, 1, policy=FunctionPolicy(rule))
    assert list(play.state.attempts) == ["p0-a1", "p1-a1"]


def test_a_budget_of_money_is_kept_however_much_is_done_at_once() -> None:
    anything = FunctionPolicy(lambda request: ALLOWED)
    budget = {"max_spend": {"EUR": 10}}
    play = paying_at_once(7, 5, policy=anything, budget=budget)
    assert play.status == "refused"
    assert [v.code for v in play.state.violations] == ["over_budget"]
    each = {"id": "p", "tool": "pay", "each": "$look", "with": {"amount": "$each"}}
    play = Play(contract("look"), write("pay", input_schema=MONEY, **KEYED), policy=anything)
    play.submit({"id": "look", "tool": "look"}, each, budget=budget)
    play.done("look-a1", [{"minor": 7, "currency": "EUR"}, {"minor": 5, "currency": "EUR"}])
    assert list(play.state.attempts) == ["look-a1", "p-0-a1"]
    play.intent("p-0-a1").done("p-0-a1")
    assert play.status == "failed"
    failure = play.state.instances["p-1"].failure
    assert failure is not None
    assert (failure.code, "12 minor units of EUR, and the budget is 10" in failure.message) == (
        failures.BUDGET,
        True,
    )


def test_a_budget_in_one_currency_lets_no_other_be_spent() -> None:
    play = paying_at_once(
        7, policy=FunctionPolicy(lambda request: ALLOWED), budget={"max_spend": {"SEK": 99}}
    )
    assert play.status == "refused"


def asked_again(*others: dict[str, object]) -> Play:
    """A payment that was approved and went silent; by the policy of now it has to be approved again."""
    policy = asking("pay")
    play = Play(contract("look"), write("pay", **KEYED), contract("tell"), policy=policy)
    play.submit(LOOK, PAY, *others).done("look-a1", {"amount": 5}).decide("bob").intent("pay-a1")
    policy.version = "v2"
    return play.orphan("pay-a1", seen_dead=True).tick()


def test_a_gate_for_what_turns_out_to_be_done_is_void() -> None:
    play = asked_again({"id": "tell", "tool": "tell"})
    assert outcomes(play) == ["approved", ""]
    # Whoever claimed it was not dead, and says that it is done.
    play.done("pay-a1")
    assert outcomes(play) == ["approved", "void"]
    play.done("tell-a1")
    assert play.status == "done"


def test_a_denial_that_comes_after_the_answer_denies_nothing() -> None:
    play = asked_again().output("pay-a1", 1).decide("ann", gate="g2", deny=True)
    assert outcomes(play) == ["approved", "denied"]
    play.verdict("pay-a1")
    assert play.status == "done"


def test_a_denial_holds_for_what_the_verifier_refutes_later() -> None:
    play = asked_again().output("pay-a1", 1).decide("ann", gate="g2", deny=True)
    for round in (1, 2):
        play.verdict("pay-a1", event_pb2.OUTCOME_REFUTED, happened=event_pb2.HAPPENED_NO, round=round).tick()
    assert play.status == "failed"
    assert play.state.instances["pay"].failure.code == failures.DENIED  # type: ignore[union-attr]
    assert outcomes(play) == ["approved", "denied"]
    assert acts(play) == ["pay-a1"]


def test_a_denial_of_which_only_a_part_is_written_is_no_new_question() -> None:
    policy = asking("pay")
    play = Play(contract("look"), write("pay", **KEYED), policy=policy)
    step = {"id": "pay", "tool": "pay", "each": "$look", "with": {"amount": "$each"}}
    play.submit(LOOK, step).done("look-a1", [1, 2]).decide("bob").intent("pay-0-a1").intent("pay-1-a1")
    policy.version = "v2"
    play.orphan("pay-0-a1", seen_dead=True).orphan("pay-1-a1", seen_dead=True).tick(5)
    play.decide("bob", gate="g2", deny=True)
    assert [i.settled for i in play.state.instances.values()] == ["done", "", "in_doubt", "in_doubt"]
    # The decider dies between the two doubts: each is an event of its own.
    doubts = [
        n for n, record in enumerate(play.records) if record.event and record.event.HasField("in_doubt")
    ]
    before = fold(KEY, play.records[: doubts[1]])
    said = [m.body for m in decide_ahead(before, play.now_ns, play.catalogue) if isinstance(m, Decide)]
    assert [body.step for body in said if isinstance(body, event_pb2.InDoubt)] == ["pay-1"]
    opened = [body for body in said if isinstance(body, event_pb2.GateOpened)]
    assert [(body.kind, body.items[0].step) for body in opened] == [(event_pb2.GATE_KIND_DOUBT, "pay-0")]


MONEY = (
    '{"type":"object","properties":{"amount":{"type":"object","properties":{"minor":{"type":"integer"},'
    '"currency":{"type":"string"}},"required":["minor","currency"]}}}'
)


def spending(rule: Callable[[int], Ruling], *amounts: int) -> Play:
    """Payments that nothing keeps apart, under a rule about what they come to together."""

    def ruling(request: Request) -> Ruling:
        return rule(request.spent.get("EUR", 0) + request.arguments["amount"]["minor"])

    play = Play(write("pay", input_schema=MONEY, **KEYED), policy=FunctionPolicy(ruling))
    steps = (
        {"id": f"pay{i}", "tool": "pay", "with": {"amount": {"minor": minor, "currency": "EUR"}}}
        for i, minor in enumerate(amounts)
    )
    return play.submit(*steps)


def test_what_is_authorised_at_one_moment_is_spent_for_what_comes_next() -> None:
    play = spending(lambda total: NEVER if total > 1_000 else ALLOWED, 600, 500, 400, 1)
    assert acts(play) == ["pay0-a1", "pay2-a1"]
    assert play.state.instances["pay1"].failure is not None


def test_an_approval_by_fewer_than_the_rules_ask_for_by_then_is_not_enough() -> None:
    def rule(total: int) -> Ruling:
        return Ruling("gate", (LOST,), 2 if total > 1_000 else 1)

    play = spending(rule, 600, 500)
    assert [gate.opened.quorum for gate in play.state.gates.values()] == [1, 1]
    play.decide("ada", gate="g1").decide("ada", gate="g2")
    assert acts(play) == ["pay0-a1"]
    # By then it would be more than one may approve.
    assert [gate.opened.quorum for gate in play.state.gates.values()] == [1, 1, 2]
    play.decide("ada", gate="g3")
    assert acts(play) == ["pay0-a1"]
    play.decide("bob", gate="g3")
    assert acts(play) == ["pay0-a1", "pay1-a1"]


def test_a_chain_counts_as_many_actions_as_it_has() -> None:
    policy = FunctionPolicy(lambda request: NEVER if request.actions >= 2 else ALLOWED)
    play = Play(contract("look"), policy=policy)
    play.submit(
        {"id": "a", "tool": "look"},
        {"id": "b", "tool": "look", "with": {"x": "$a"}},
        {"id": "c", "tool": "look", "with": {"x": "$b"}},
    )
    assert list(play.state.attempts) == ["a-a1", "b-a1"]
    play.done("a-a1", 1).done("b-a1", 2)
    assert play.status == "failed"


MONEY_BY_DEFAULT = MONEY.replace(
    '"required":["minor","currency"]}',
    '"required":["minor","currency"],"default":{"minor":7,"currency":"EUR"}}',
)


def test_what_is_left_out_is_spent_as_the_tool_will_act_with_it() -> None:
    pays = [{"id": name, "tool": "pay", "with": {"to": name}} for name in ("p0", "p1")]
    play = Play(write("pay", input_schema=MONEY_BY_DEFAULT, **KEYED))
    play.submit(*pays, budget={"max_spend": {"EUR": 10}})
    assert play.status == "refused"
    assert [v.code for v in play.state.violations] == ["over_budget"]


def test_an_amount_that_comes_from_a_step_is_not_taken_for_its_default() -> None:
    play = Play(contract("look"), write("pay", input_schema=MONEY_BY_DEFAULT, **KEYED))
    pays = [
        {"id": name, "tool": "pay", "with": {"amount": "$look", "to": "a"}} for name in ("p0", "p1", "p2")
    ]
    play.submit({"id": "look", "tool": "look"}, *pays, budget={"max_spend": {"EUR": 10}})
    play.done("look-a1", {"minor": 5, "currency": "EUR"})
    assert list(play.state.attempts) == ["look-a1", "p0-a1", "p1-a1"]


@pytest.mark.parametrize("budget", [{}, {"max_spend": {"EUR": 10}}], ids=str)
def test_an_amount_with_too_much_in_it_to_be_counted_is_not_spent(budget: dict[str, object]) -> None:
    play = Play(contract("look"), write("pay", input_schema=MONEY_BY_DEFAULT, **KEYED))
    play.submit(
        {"id": "look", "tool": "look"},
        {"id": "p", "tool": "pay", "with": {"amount": "$look", "to": "a"}},
        budget=budget,
    )
    play.done("look-a1", {"minor": 5, "currency": "EUR", "pad": "x" * 70_000})
    assert play.status == "failed"
    failure = play.state.instances["p"].failure
    assert failure is not None
    assert failure.code == failures.BUDGET
    assert "what 'amount' comes to would go uncounted: it has 70,037 bytes" in failure.message


def test_a_tool_that_can_stand_in_counts_as_one_of_the_plan() -> None:
    """Else what must not be done together is done by naming another tool, which then says that it failed."""
    money = {"capability": "money", **KEYED}
    tools = (contract("export"), write("pay", **money), write("wire", **money), write("note", **KEYED))
    never = Ruling("refuse", (LOST,))

    def rule(request: Request) -> Ruling:
        return never if request.contract.name == "export" and "wire" in request.plan else ALLOWED

    steps = ({"id": "look", "tool": "export"}, {"id": "send", "tool": "pay", "after": ["look"]})
    assert Play(*tools, policy=FunctionPolicy(rule)).submit(*steps).status == "refused"
    higher = write("wire", **money, permission=tool_pb2.PERMISSION_ADMIN)
    assert Play(*tools, higher, policy=FunctionPolicy(rule)).submit(*steps).status == "running"
    steps[1]["tool"] = "note"
    assert Play(*tools, policy=FunctionPolicy(rule)).submit(*steps).status == "running"
