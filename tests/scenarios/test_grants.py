"""Grants: an executor fills in what is open to it, within bounds, and nothing else becomes an action."""

from __future__ import annotations

from typing import Any

import pytest

from core import failures, values
from core.conformance import Limits
from core.policy import ALLOWED, Request, Ruling
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from tests.policies import LOST, FunctionPolicy
from tests.scenarios.play import Play, contract, write

KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
SCHEMA = (
    '{"type":"object","properties":{"order":{"type":"integer"},"amount":{"type":"integer"},'
    '"note":{"type":"string"}},"required":["order","amount"],"additionalProperties":false}'
)
LOOK = {"id": "look", "tool": "look"}
REFUND = {
    "tool": "refund",
    "with": {"order": "$input.order.id"},
    "open": {"amount": "value > 0 && value <= input.order.total", "note": ""},
}
SETTLE = {
    "id": "settle",
    "with": {"order": "$look"},
    "grants": [REFUND, {"tool": "reply", "open": {"text": ""}}],
}
ORDER = {"id": 7, "total": 50}


def settling(policy: FunctionPolicy | None = None, step: dict[str, Any] | None = None) -> Play:
    """A read, then a step in which an executor may refund up to the total, or reply."""
    tools = (
        contract("look", endorses=["id", "total"]),
        write("refund", input_schema=SCHEMA, critical=["amount", "order"], **KEYED),
        write("reply", **KEYED),
        write("wipe", **KEYED),
    )
    play = Play(*tools, policy=policy, limits=Limits(proposers=True))
    return play.submit(LOOK, step or SETTLE).done("look-a1", ORDER)


def asked(play: Play) -> list[tuple[str, dict[str, str]]]:
    """What workers were asked to do, but for reads."""
    return [
        (a.action.tool, {name: value.json for name, value in a.action.arguments.items()})
        for a in play.state.instances["settle"].attempts
        if a.action is not None
    ]


def test_what_is_within_the_grant_becomes_an_action() -> None:
    play = settling().propose("settle-a1", 0, "refund", amount=20)
    assert asked(play) == [("refund", {"order": "7", "amount": "20"})]
    play.intent("settle-a2").done("settle-a2").check("granted")
    assert play.status == "done"


@pytest.mark.parametrize(
    ("grant", "tool", "arguments", "code"),
    [
        (0, "refund", {"amount": 51}, "outside_grant"),
        (0, "refund", {"amount": 20, "order": 8}, "outside_grant"),
        (0, "refund", {"amount": 20, "extra": 1}, "outside_grant"),
        (0, "refund", {"note": "no amount"}, "missing_argument"),
        (0, "refund", {"amount": 20, "note": 5}, "mistyped_argument"),
        (0, "refund", {"amount": "20"}, failures.CONDITION),
        (0, "wipe", {}, "outside_closed_set"),
        (1, "refund", {"amount": 20}, "outside_closed_set"),
        (9, "refund", {"amount": 20}, "outside_closed_set"),
    ],
    ids=str,
)
def test_what_is_not_is_refused_and_asked_again(
    grant: int, tool: str, arguments: dict[str, Any], code: str
) -> None:
    play = settling().propose("settle-a1", grant, tool, **arguments)
    assert asked(play) == []
    refused = play.state.instances["settle"].attempts[0].refused
    assert code in [violation.code for violation in refused]
    play.propose("settle-a2", 1, "reply", text="sorry")
    assert asked(play) == [("reply", {"text": '"sorry"'})]


def test_an_executor_that_never_fits_fails_its_step() -> None:
    play = settling()
    for number in range(1, 5):
        play.propose(f"settle-a{number}", 0, "refund", amount=99)
    assert play.status == "failed"
    assert asked(play) == []
    failure = play.state.instances["settle"].failure
    assert failure is not None
    assert failure.code == failures.PROPOSAL


def test_a_choice_answers_no_grant_and_a_call_no_table() -> None:
    assert asked(settling().choose("settle-a1", 0, "refund")) == []
    table = {"id": "settle", "with": {"n": 1}, "choose": [{"tool": "wipe"}]}
    assert asked(settling(step=table).propose("settle-a1", 0, "wipe")) == []


def test_a_repetition_is_what_was_proposed_and_authorised() -> None:
    play = settling().propose("settle-a1", 0, "refund", amount=20).intent("settle-a2")
    play.orphan("settle-a2", seen_dead=True).tick()
    assert asked(play) == [("refund", {"order": "7", "amount": "20"})] * 2


def test_what_an_executor_fills_in_is_untrusted_and_what_is_fixed_is_not() -> None:
    seen: list[frozenset[str]] = []

    def rule(request: Request) -> Ruling:
        if request.contract.name == "refund":
            seen.append(request.untrusted)
        bad = request.untrusted & set(request.contract.critical)
        return Ruling("gate", (LOST,), 1) if bad else ALLOWED

    play = settling(FunctionPolicy(rule)).propose("settle-a1", 0, "refund", amount=20)
    assert {name for name in seen[-1] if not name.startswith("$")} == {"amount", "note", "text"}
    assert "$choice" in seen[-1]
    assert play.status == "waiting"
    assert asked(play) == []
    assert asked(play.decide("bo")) == [("refund", {"order": "7", "amount": "20"})]


def test_what_its_mind_is_unsure_of_is_done_after_an_approval_only() -> None:
    play = settling().propose("settle-a1", 0, "refund", amount=20, unsure="71 % sure of amount")
    assert play.status == "waiting"
    assert asked(play) == []
    opened = play.state.gates["g1"].opened
    assert [(one.rule, one.text) for one in opened.reasons] == [("", "71 % sure of amount")]
    assert (opened.quorum, opened.kind) == (1, event_pb2.GATE_KIND_ACTION)
    play.decide("bo")
    assert asked(play) == [("refund", {"order": "7", "amount": "20"})]
    # What was approved is approved for its repetition as well.
    play.intent("settle-a2").orphan("settle-a2", seen_dead=True).tick()
    assert asked(play) == [("refund", {"order": "7", "amount": "20"})] * 2
    assert len(play.state.gates) == 1


def test_who_is_unsure_can_be_told_no_or_better() -> None:
    def unsure() -> Play:
        return settling().propose("settle-a1", 0, "refund", amount=20, unsure="it guesses")

    denied = unsure().decide("bo", deny=True)
    assert asked(denied) == []
    assert denied.status == "failed"
    amend = event_pb2.GATE_CHOICE_AMEND
    amended = unsure().decide("bo", choice=amend, arguments={"amount": values.inline(15)})
    assert asked(amended) == [("refund", {"order": "7", "amount": "15"})]


def test_being_unsure_is_one_more_reason_for_a_gate_and_none_against_a_refusal() -> None:
    two = Ruling("gate", (LOST,), 2)
    play = settling(FunctionPolicy(lambda r: two if r.contract.name == "refund" else ALLOWED))
    play.propose("settle-a1", 0, "refund", amount=20, unsure="it guesses")
    opened = play.state.gates["g1"].opened
    assert [one.text for one in opened.reasons] == [LOST.text, "it guesses"]
    assert opened.quorum == 2

    def rule(request: Request) -> Ruling:
        return Ruling("refuse", (LOST,)) if request.arguments.get("amount") == 20 else ALLOWED

    play = settling(FunctionPolicy(rule))
    play.propose("settle-a1", 0, "refund", amount=20, unsure="it guesses").decide("bo")
    assert (play.status, asked(play)) == ("failed", [])


def test_nobody_is_asked_about_what_was_refused_and_proposed_anew_surely() -> None:
    play = settling().propose("settle-a1", 0, "refund", amount=99, unsure="it guesses")
    play.propose("settle-a2", 0, "refund", amount=20)
    assert asked(play) == [("refund", {"order": "7", "amount": "20"})]


def test_what_stands_in_for_what_its_mind_is_unsure_of_is_asked_about_as_well() -> None:
    schema = values.encode({"type": "object", "properties": {"amount": {"type": "integer"}}})
    tools = [write(name, input_schema=schema, capability="money", **KEYED) for name in ("pay", "pay_too")]
    play = Play(*tools, limits=Limits(proposers=True))
    other = {"id": "other", "tool": "pay_too", "with": {"amount": 1}, "after": ["settle"]}
    play.submit({"id": "settle", "grants": [{"tool": "pay", "open": {"amount": ""}}]}, other)
    play.propose("settle-a1", 0, "pay", amount=5, unsure="it guesses").decide("bo")
    play.intent("settle-a2").failed("settle-a2")
    assert asked(play) == [("pay", {"amount": "5"})]
    assert play.status == "waiting"
    assert asked(play.decide("bo", gate="g2")) == [("pay", {"amount": "5"}), ("pay_too", {"amount": "5"})]


def test_a_grant_that_policy_refuses_whatever_is_filled_in_is_refused_with_the_plan() -> None:
    never = Ruling("refuse", (LOST,))
    play = settling(FunctionPolicy(lambda r: never if r.contract.name == "reply" else ALLOWED))
    assert play.status == "refused"
    assert play.state.violations[0].field == "steps[1].grants[1].tool"


def test_what_is_open_is_not_known_when_the_plan_is_accepted() -> None:
    seen: list[tuple[dict[str, Any], frozenset[str]]] = []

    def rule(request: Request) -> Ruling:
        if request.contract.name == "refund":
            seen.append((dict(request.arguments), request.unknown))
        return ALLOWED

    settling(FunctionPolicy(rule))
    assert seen == [({}, frozenset({"order", "amount", "note"}))]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"grants": []}, "empty"),
        ({"tool": "wipe"}, "route_mismatch"),
        ({"choose": [{"tool": "wipe"}]}, "route_mismatch"),
        ({"grants": [{"tool": "nothing"}]}, "unknown_tool"),
        ({"grants": [{"tool": "refund", "open": {"amount": ""}}]}, "missing_argument"),
        ({"grants": [{"tool": "refund", "with": {"order": 1}, "open": {"amont": ""}}]}, "unknown_argument"),
        ({"grants": [{**REFUND, "with": {"order": 1, "amount": 5}}]}, "bad_grant"),
        ({"grants": [{**REFUND, "open": {"amount": "value >"}}]}, "bad_condition"),
        ({"grants": [{**REFUND, "open": {"amount": "value < input.oder.total"}}]}, "unknown_input"),
        ({"grants": [{**REFUND, "open": {"amount": "output > 1"}}]}, "bad_condition"),
        ({"grants": [{**REFUND, "with": {"order": "$input.oder.id"}}]}, "unknown_input"),
    ],
    ids=str,
)
def test_a_plan_whose_grants_make_no_sense_is_refused(change: dict[str, Any], code: str) -> None:
    play = settling(step={**SETTLE, **change})
    assert play.status == "refused"
    codes = [violation.code for violation in play.state.violations]
    assert code in codes or (code == "empty" and codes)


def test_without_a_proposer_there_is_no_such_route() -> None:
    play = Play(contract("look"), write("refund", **KEYED), write("reply", **KEYED)).submit(LOOK, SETTLE)
    assert [violation.code for violation in play.state.violations] == ["route_unavailable"]
    assert "[minds] proposer" in play.state.violations[0].message


def test_grants_are_in_the_ask_and_large_values_are_not_lost() -> None:
    play = settling()
    ask = play.state.instances["settle"].attempts[0].proposal_ask
    assert ask is not None
    assert [grant.tool for grant in ask.grants] == ["refund", "reply"]
    assert values.load(ask.inputs["order"], {}) == ORDER
    assert plan_pb2.Route.Name(play.view.steps[1].route) == "ROUTE_LAM"
    assert event_pb2.RunStatus.Name(play.state.status) == "RUN_STATUS_RUNNING"


def test_what_is_left_out_has_the_default_that_the_tool_acts_with() -> None:
    """Whoever leaves an open argument out chooses its default: that must be within its condition too."""
    play = defaulting(5_000).propose("settle-a1", 0, "pay", order=7)
    assert asked(play) == []
    refused = play.state.instances["settle"].attempts[0].refused
    assert [(one.field, one.code) for one in refused] == [("call.arguments.amount", "outside_grant")]
    assert "5000" in refused[0].message
    play.propose("settle-a2", 0, "pay", order=7, amount=20)
    assert asked(play) == [("pay", {"amount": "20", "order": "7"})]


@pytest.mark.parametrize(("default", "seen"), [(50, {"amount": "50"}), (None, {})])
def test_what_is_left_out_may_be_where_its_default_is_within_or_nothing(
    default: int | None, seen: dict[str, str]
) -> None:
    """Whoever approves it sees the default."""
    play = defaulting(default).propose("settle-a1", 0, "pay", order=7)
    assert asked(play) == [("pay", {"order": "7", **seen})]


def defaulting(default: int | None) -> Play:
    """A step in which an executor may pay up to the total, with a tool that has a default amount."""
    amount = {"type": ["integer", "null"], "default": default}
    schema = {
        "type": "object",
        "properties": {"order": {"type": "integer"}, "amount": amount},
        "required": ["order"],
        "additionalProperties": False,
    }
    grant = {"tool": "pay", "open": {"order": "", "amount": "value <= input.order.total"}}
    tools = (
        contract("look", endorses=["id", "total"]),
        write("pay", input_schema=values.encode(schema), critical=["amount"], **KEYED),
    )
    play = Play(*tools, limits=Limits(proposers=True))
    return play.submit(LOOK, {**SETTLE, "grants": [grant]}).done("look-a1", ORDER)


@pytest.mark.parametrize(("default", "stands_in"), [(5, True), (5_000, False), (None, False)])
def test_what_is_left_out_is_the_same_by_whichever_tool(default: int | None, stands_in: bool) -> None:
    """Who leaves something out, and has the tool fail, must not come to what the grant keeps from it."""

    def pays(name: str, amount: int | None) -> tool_pb2.ToolContract:
        schema = {"properties": {"amount": {"type": "integer", "default": amount}}, "type": "object"}
        return write(name, input_schema=values.encode(schema), capability="money", **KEYED)

    play = Play(pays("refund", 5), pays("refund_backup", default), limits=Limits(proposers=True))
    other = {"id": "other", "tool": "refund_backup", "with": {"amount": 1}, "after": ["settle"]}
    play.submit({"id": "settle", "grants": [{"tool": "refund", "open": {"amount": "value <= 10"}}]}, other)
    play.propose("settle-a1", 0, "refund").intent("settle-a2").failed("settle-a2")
    with_five = {"amount": "5"}
    assert asked(play) == [("refund", with_five), ("refund_backup", with_five)][: 1 + stands_in]


def lacking(policy: FunctionPolicy | None = None, **arguments: Any) -> Play:
    """A refund that is proposed without its amount, by a mind that says so."""
    said = "nothing that it was given says amount"
    return settling(policy).propose("settle-a1", 0, "refund", unsure=said, **arguments)


def say(play: Play, who: str = "bo", gate: str = "g1", **said: Any) -> Play:
    amend = event_pb2.GATE_CHOICE_AMEND
    arguments = {name: values.inline(value) for name, value in said.items()}
    return play.decide(who, gate=gate, choice=amend, arguments=arguments)


def test_what_a_proposal_lacks_somebody_says_at_a_gate() -> None:
    play = lacking(note="broken")
    assert play.status == "waiting"
    (item,) = play.state.gates["g1"].opened.items
    assert list(item.missing) == ["amount"]
    assert sorted(item.arguments) == ["note", "order"]
    assert play.state.gates["g1"].opened.reasons[0].text == "nothing that it was given says amount"
    say(play, amount=30)
    assert asked(play) == [("refund", {"order": "7", "amount": "30", "note": '"broken"'})]
    play.intent("settle-a2").done("settle-a2").check("granted_missing")
    assert play.status == "done"


def test_it_is_not_approved_without() -> None:
    play = lacking().decide("bo").decide("ann")
    assert (play.status, asked(play)) == ("waiting", [])
    # Nor with something else only.
    say(play, "cy", note="broken")
    assert (play.status, asked(play)) == ("waiting", [])
    say(play, "di", amount="much")
    assert (play.status, asked(play)) == ("waiting", [])
    play.decide("fay", deny=True)
    assert (play.status, asked(play)) == ("failed", [])


def test_the_policy_is_asked_again_with_what_was_said() -> None:
    seen: list[tuple[frozenset[str], Any]] = []

    def rule(request: Request) -> Ruling:
        if request.contract.name != "refund":
            return ALLOWED
        seen.append((request.unknown, request.arguments.get("amount")))
        if "amount" in request.unknown:
            return Ruling("refuse", (LOST,), open=True)
        return ALLOWED if request.arguments["amount"] <= 40 else Ruling("refuse", (LOST,))

    play = lacking(FunctionPolicy(rule))
    assert seen[-1] == (frozenset({"amount"}), None)
    assert play.status == "waiting"
    say(play, "bo", amount=45)
    assert (play.status, asked(play)) == ("waiting", [])
    say(play, "ann", amount=40)
    assert seen[-1] == (frozenset(), 40)
    assert asked(play) == [("refund", {"order": "7", "amount": "40"})]


def test_what_the_policy_refuses_whatever_would_be_said_is_not_asked_about() -> None:
    now = [ALLOWED]
    play = settling(FunctionPolicy(lambda one: now[0]))
    now[0] = Ruling("refuse", (LOST,))
    play.propose("settle-a1", 0, "refund", unsure="nothing that it was given says amount")
    assert (play.status, dict(play.state.gates)) == ("failed", {})


def test_where_two_must_approve_it_is_said_once() -> None:
    two = Ruling("gate", (LOST,), 2)
    play = lacking(FunctionPolicy(lambda one: two if one.contract.name == "refund" else ALLOWED))
    say(play, amount=30)
    (item,) = play.state.gates["g2"].opened.items
    assert (list(item.missing), item.arguments["amount"].json) == ([], "30")
    assert asked(play.decide("bo", gate="g2")) == []
    assert asked(play.decide("ann", gate="g2")) == [("refund", {"order": "7", "amount": "30"})]


def test_what_is_fixed_by_the_plan_is_not_asked_for_and_no_other_tool_is_done_without() -> None:
    play = settling().propose("settle-a1", 0, "wipe", unsure="whatever")
    assert play.state.instances["settle"].attempts[0].refused
    play = settling().propose("settle-a1", 0, "refund", unsure="whatever", amount="much")
    assert play.state.instances["settle"].attempts[0].refused


def test_each_of_a_fan_out_is_asked_for_by_itself() -> None:
    step = {**SETTLE, "each": "$look.items", "with": {"order": "$each"}}
    play = Play(
        contract("look", endorses=["items"]),
        write("refund", input_schema=SCHEMA, critical=["amount", "order"], **KEYED),
        write("reply", **KEYED),
        limits=Limits(proposers=True),
    )
    play.submit(LOOK, step).done("look-a1", {"items": [{"id": 7, "total": 50}, {"id": 8, "total": 60}]})
    for number in (0, 1):
        play.propose(f"settle-{number}-a1", 0, "refund", unsure="nothing says it")
    gates = {gate.opened.items[0].step: name for name, gate in play.state.gates.items()}
    assert [len(gate.opened.items) for gate in play.state.gates.values()] == [1, 1]
    say(play, gate=gates["settle-1"], amount=60)
    say(play, gate=gates["settle-0"], amount=50)
    done = [a.action for one in play.state.instances.values() for a in one.attempts if a.action is not None]
    refunds = {
        one.arguments["order"].json: one.arguments["amount"].json for one in done if one.tool == "refund"
    }
    assert refunds == {"7": "50", "8": "60"}


def test_what_nobody_has_said_is_nobodys_to_distrust() -> None:
    seen: list[Request] = []

    def rule(request: Request) -> Ruling:
        if request.contract.name == "refund":
            seen.append(request)
        return Ruling("refuse", (LOST,)) if "amount" in request.untrusted and seen[-1].arguments else ALLOWED

    now = [FunctionPolicy(lambda request: ALLOWED)]
    play = settling(FunctionPolicy(lambda request: now[0].rule(request)))
    now[0] = FunctionPolicy(rule)
    play.propose("settle-a1", 0, "refund", unsure="nothing says amount")
    assert play.status == "waiting"
    assert "amount" not in play.state.gates["g1"].opened.items[0].untrusted
    assert seen[-1].unknown == {"amount"}
    assert asked(say(play, amount=30)) == [("refund", {"order": "7", "amount": "30"})]


def test_what_was_said_is_no_longer_said_to_be_missing() -> None:
    two = Ruling("gate", (LOST,), 2)
    play = say(
        lacking(FunctionPolicy(lambda one: two if one.contract.name == "refund" else ALLOWED)), amount=30
    )
    told = [reason.text for reason in play.state.gates["g2"].opened.reasons]
    assert "nothing that it was given says amount, before somebody amended it" in told
