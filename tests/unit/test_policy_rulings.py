"""Rulings: allow, gate, refuse; what cannot be judged allows nothing; what is not known is never guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cedarpy import is_authorized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import cedar_fit, cedar_question, cedar_rules, cedar_schema
from core.cedar import BadPolicy, CedarPolicy, Person
from core.policy import MAX_QUORUM, Policy, Reason, Request, Ruling
from tests.unit.policies import ARGUMENTS, EUR, EVERYBODY, TOOLS, ask, policy_of

DECIDE = '{} (principal, action == Action::"decide", resource) when {{ {} }};\n'
FORBID = 'forbid (principal, action == Action::"refund", resource) when {{ {} }};\n'
ALLOW = Ruling("allow")
NOTHING = Ruling("refuse", (Reason("", "no rule permits it"),))


def refund(minor: int = 500, **fields: Any) -> Request:
    arguments = {"order_id": 1, "amount": {"minor": minor, "currency": "EUR"}}
    return ask("refund", arguments={**arguments, **fields.pop("arguments", {})}, **fields)


def test_it_is_a_policy() -> None:
    policy: Policy = policy_of(EVERYBODY)
    assert policy.rule(ask("look")) == ALLOW
    assert policy.rule(ask("approve_invoice")) == NOTHING


def test_a_gate_has_the_first_quorum_that_allows_and_the_rules_that_said_no() -> None:
    policy = policy_of(
        EVERYBODY
        + '@id("two") @reason("it is much") forbid (principal, action == Action::"refund", resource)'
        " when { context.arguments.amount.minor > 1000 } unless { context.approvals >= 2 };"
        '@id("one") @reason("it is urgent") forbid (principal, action == Action::"refund", resource)'
        " when { context.arguments.urgent } unless { context.approvals >= 1 };"
        'forbid (principal, action == Action::"refund", resource)'
        " when { context.arguments.amount.minor > 9000 } unless { context.approvals >= 9 };"
    )
    much, urgent = Reason("two", "it is much"), Reason("one", "it is urgent")
    never = Reason("policy/rules.cedar:4", "the rule 'policy/rules.cedar:4' says so")
    assert policy.rule(refund()) == ALLOW
    assert policy.rule(refund(2000)) == Ruling("gate", (much,), quorum=2)
    assert policy.rule(refund(arguments={"urgent": True})) == Ruling("gate", (urgent,), quorum=1)
    assert policy.rule(refund(2000, arguments={"urgent": True})) == Ruling("gate", (much, urgent), quorum=2)
    # What approvals would have helped with is not why it is refused.
    assert policy.rule(refund(9500)) == Ruling("refuse", (never,))
    assert policy.rule_from(refund(2000), 1) == Ruling("gate", (much,), quorum=2)
    assert policy.rule_from(refund(2000), 2) == ALLOW


def test_a_permit_can_ask_for_approvals_too() -> None:
    policy = policy_of(
        'permit (principal, action in Action::"at_most_admin", resource) when { context.approvals >= 3 };'
    )
    reason = Reason("", "no rule permits it before somebody has approved it")
    assert policy.rule(ask("look")) == Ruling("gate", (reason,), quorum=3)


def test_a_ruling_names_the_rules_that_allow_it() -> None:
    policy = policy_of(
        '@id("all") permit (principal, action in Action::"at_most_execute", resource);'
        '@id("mine") permit (principal == User::"ada", action == Action::"refund", resource);'
        '@id("small") permit (principal, action == Action::"refund", resource)'
        " when { context.arguments.amount.minor < 100 };"
        '@id("seen") permit (principal, action == Action::"refund", resource)'
        " when { context.approvals >= 2 };"
        '@id("two") forbid (principal, action == Action::"refund", resource)'
        " when { context.arguments.amount.minor > 1000 } unless { context.approvals >= 2 };"
    )
    assert policy.rule(ask("look")).rules == ("all",)
    # In the order of the files, whatever the engine's is.
    assert policy.rule(refund(50)).rules == ("all", "mine", "small")
    assert policy.rule(refund(50, user="ruth")).rules == ("all", "small")
    # At a gate those that allow it then; the ones that said no are why it waits.
    waits = policy.rule(refund(2000))
    assert (waits.outcome, waits.quorum, waits.rules) == ("gate", 2, ("all", "mine", "seen"))
    assert policy.rule(ask("approve_invoice")).rules == ()
    # What is kept is kept with its rules.
    assert policy.rule(ask("look")).rules == policy.rule_from(ask("look"), 0).rules == ("all",)
    unsure = policy.rule(refund(unknown=frozenset({"amount"}), arguments={"amount": None}))
    assert (unsure.open, unsure.rules) == (True, ("all", "mine"))


@pytest.mark.parametrize("wins", ["permit", "forbid"])
def test_a_rule_that_fails_allows_nothing(wins: str) -> None:
    fails = FORBID.format("context.arguments.amount.minor + 1 > 0").replace("forbid", wins, 1)
    policy = policy_of(EVERYBODY + f'@id("sum") {fails}')
    found = policy.rule(refund(2**63 - 1))
    assert (found.outcome, [reason.rule for reason in found.reasons]) == ("refuse", ["sum"])
    assert "it cannot be judged, so nothing is allowed: integer overflow" in found.reasons[0].text


def test_a_rule_that_fails_later_allows_nothing_either() -> None:
    overflow = FORBID.format(f"context.approvals * {2**63 - 1} > 0 && false")
    policy = policy_of(EVERYBODY + FORBID.format("context.approvals < 3") + overflow)
    found = policy.rule(refund())
    assert found.outcome == "refuse"
    assert "integer overflow" in found.reasons[0].text


def test_a_question_that_cannot_be_asked_allows_nothing() -> None:
    policy = policy_of(EVERYBODY + FORBID.format("context.actions > 100"))
    assert policy.rule(refund(actions=2**70)).outcome == "refuse"
    assert policy.rule(refund(actions=100)) == ALLOW


def test_a_value_that_no_rule_can_be_shown_allows_nothing_that_rests_on_it() -> None:
    by_amount = policy_of(EVERYBODY + FORBID.format("context.arguments.amount.minor > 1000"))
    found = by_amount.rule(refund(2**63))
    assert (found.outcome, found.open) == ("refuse", False)
    assert (
        found.reasons[0].text
        == "a rule looks at what it cannot be shown: 'amount' is a number of more than 64 bits"
    )
    assert by_amount.rule(ask("refund", arguments={"order_id": 1})).outcome == "refuse"
    # Nobody looks at it.
    assert by_amount.rule(refund(arguments={"order_id": 2**63})) == ALLOW
    # What is known already may say no to a value that comes later.
    assert by_amount.rule(refund(2**63, unknown=frozenset({"order_id"}))) == Ruling("allow", open=True)


def test_an_argument_cannot_pass_for_something_else() -> None:
    policy = policy_of(EVERYBODY + FORBID.format('context.arguments.reason like "a*"'))
    for escape in ({"__entity": {"type": "User", "id": "ines"}}, {"__extn": {"fn": "unknown", "arg": "x"}}):
        assert policy.rule(refund(arguments={"reason": escape})).outcome == "refuse"
        assert policy.rule(refund(arguments={"reason": "b", "amount": {**EUR, **escape}})) == ALLOW


def test_a_default_is_what_the_tool_will_act_with() -> None:
    policy = policy_of(EVERYBODY + FORBID.format('context.arguments.reason == "on request"'))
    assert policy.rule(refund()).outcome == "refuse"
    assert policy.rule(refund(arguments={"reason": "late"})) == ALLOW


def test_null_is_absence() -> None:
    policy = policy_of(EVERYBODY + FORBID.format("context.arguments has note"))
    assert policy.rule(refund(arguments={"note": None})) == ALLOW
    assert policy.rule(refund(arguments={"note": ""})).outcome == "refuse"


def test_spent_is_in_the_currency_of_the_action() -> None:
    policy = policy_of(
        EVERYBODY
        + 'forbid (principal, action in Action::"at_most_admin", resource) when { context.spent > 900 };'
    )
    assert policy.rule(refund(spent={"EUR": 901})).outcome == "refuse"
    assert policy.rule(refund(spent={"EUR": 900, "SEK": 5000})) == ALLOW
    assert policy.rule(ask("look", spent={"EUR": 901})) == ALLOW
    assert policy.rule(ask("send", spent={"EUR": 901})) == ALLOW
    mail = {**ARGUMENTS["send"], "fee": EUR}
    assert policy.rule(ask("send", arguments=mail, spent={"EUR": 901})).outcome == "refuse"
    no_amount = ask("refund", arguments={"order_id": 1}, unknown=frozenset({"amount"}))
    assert policy.rule(no_amount) == Ruling("allow", open=True)


def test_time_is_utc() -> None:
    policy = policy_of(EVERYBODY + FORBID.format('context.now.toTime() < duration("8h")'))
    eight = datetime(2026, 3, 2, 8, tzinfo=UTC)
    assert policy.rule(refund(now_ns=ns(eight - timedelta(milliseconds=1)))).outcome == "refuse"
    assert policy.rule(refund(now_ns=ns(eight))) == ALLOW


def ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000) * 1_000_000


def test_untrusted_arguments_and_critical_ones() -> None:
    policy = policy_of(
        EVERYBODY + 'forbid (principal, action in Action::"at_most_admin", resource)'
        " when { context.untrusted.containsAny(resource.critical) } unless { context.approvals >= 1 };"
    )
    assert policy.rule(refund(untrusted=frozenset({"amount"}))).quorum == 1
    assert policy.rule(refund(untrusted=frozenset({"reason"}))) == ALLOW


@pytest.mark.parametrize("decides", ["$when", "$each", "$choice"])
def test_a_rule_can_ask_where_untrusted_values_decide_that_something_is_done(decides: str) -> None:
    policy = policy_of(
        EVERYBODY + 'forbid (principal, action in Action::"at_most_admin", resource)'
        f' when {{ context.untrusted.contains("{decides}") }} unless {{ context.approvals >= 1 }};'
    )
    assert policy.rule(refund(untrusted=frozenset({decides}))).quorum == 1
    assert policy.rule(refund(untrusted=frozenset({"reason"}))) == ALLOW
    with pytest.raises(BadPolicy, match=r"context\.leaks is never '\$"):
        policy_of(f'forbid (principal, action, resource) when {{ context.leaks.contains("{decides}") }};')


def test_what_must_not_be_done_together_is_refused_wherever_it_stands_in_the_plan() -> None:
    policy = policy_of(
        EVERYBODY + '@reason("nobody pays back and writes in one go")'
        ' forbid (principal, action == Action::"refund", resource) when { context.plan.contains("send") };'
    )
    assert policy.rule(refund(plan=frozenset({"refund", "look"}))) == ALLOW
    ruling = policy.rule(refund(plan=frozenset({"refund", "send"})))
    assert (ruling.outcome, ruling.reasons[0].text) == ("refuse", "nobody pays back and writes in one go")
    # Whether or not the values are known: it is told before anything runs.
    unknown = frozenset({"order_id", "amount"})
    assert not policy.rule(refund(plan=frozenset({"send"}), arguments={}, unknown=unknown)).open


def test_a_rule_can_let_what_takes_something_back_pass() -> None:
    policy = policy_of(
        EVERYBODY + 'forbid (principal, action in Action::"at_most_admin", resource)'
        " when { !resource.undoable } unless { context.undoing || context.approvals >= 1 };"
    )
    assert policy.rule(ask("take_back")).outcome == "gate"
    assert policy.rule(ask("take_back", undoing=True)) == ALLOW
    assert policy.rule(refund()) == ALLOW


def test_a_rule_about_a_plan_with_a_tool_that_there_is_not_does_not_load() -> None:
    with pytest.raises(BadPolicy, match=r"context\.plan is never 'sned'; did you mean 'send'\?"):
        policy_of('forbid (principal, action, resource) when { context.plan.contains("sned") };')


def test_users_are_in_their_roles_and_tenants() -> None:
    policy = policy_of(
        'permit (principal in Role::"support", action == Action::"look", resource);'
        'permit (principal in Tenant::"elsewhere", action == Action::"refund", resource in Toolbox::"shop");'
        'permit (principal == User::"a \\"b\\"\\n", action == Action::"send", resource);'
    )
    assert policy.rule(ask("look", "ada")) == ALLOW
    assert policy.rule(ask("look", "ruth")) == NOTHING
    assert policy.rule(ask("look", "stranger")) == NOTHING
    assert policy.rule(ask("refund", "ines")) == ALLOW  # her own tenant, whatever the run's is
    assert policy.rule(ask("refund", "ada")) == NOTHING
    assert policy.rule(replace(ask("refund", "ada"), tenant="elsewhere")) == ALLOW
    assert policy.rule(replace(ask("refund", "stranger"), tenant="elsewhere")) == ALLOW
    assert policy.rule(ask("send", 'a "b"\n')) == ALLOW


def test_where_nobody_is_listed_everybody_is_an_owner() -> None:
    text = 'permit (principal in Role::"owner", action, resource);'
    alone, listed = policy_of(text, people={}), policy_of(text)
    assert alone.rule(ask("look", "")) == alone.may_decide("x", ask("look", "")) == ALLOW
    assert listed.rule(ask("look", "stranger")) == NOTHING


def test_who_may_decide() -> None:
    finance, owner, support = (f'in Role::"{role}"' for role in ("finance", "owner", "support"))
    much = f"context.arguments has amount && context.arguments.amount.minor > 1000 && !(principal {owner})"
    policy = policy_of(
        EVERYBODY
        + DECIDE.format("permit", f"principal {finance} || principal {owner}")
        + '@id("own") @reason("own")' + DECIDE.format("forbid", "context.self")
        + '@id("much") @reason("much")' + DECIDE.format("forbid", f'resource == Tool::"refund" && {much}')
        + '@id("for") @reason("for")'
        + DECIDE.format("forbid", f"context.requester {support} && context.spent > 900")
    )  # fmt: skip
    assert policy.may_decide("ruth", refund()) == ALLOW
    assert policy.may_decide("stranger", refund()) == NOTHING
    assert policy.may_decide("ruth", refund(user="ruth")) == Ruling("refuse", (Reason("own", "own"),))
    assert policy.may_decide("ruth", refund(2000)) == Ruling("refuse", (Reason("much", "much"),))
    assert policy.may_decide("ines", refund(2000)) == ALLOW
    assert policy.may_decide("ruth", refund(spent={"EUR": 901})) == Ruling("refuse", (Reason("for", "for"),))
    assert policy.may_decide("ruth", ask("send")) == ALLOW
    assert policy.may_decide("ruth", ask("refund", arguments={}, unknown=frozenset({"amount"}))).open


def test_matching_says_which_rules_hold() -> None:
    policy = policy_of(
        f'@id("all") {EVERYBODY} @id("no") {FORBID.format("context.approvals < 1")}'
        '@id("decide") permit (principal, action == Action::"decide", resource);'
    )
    assert policy.matching(refund()) == {"all", "no"}
    assert policy.matching(refund(), approvals=1) == {"all"}
    assert policy.matching(refund(), "ruth") == {"decide"}


def test_a_contract_that_is_another_by_now_is_judged_as_it_was_planned_under() -> None:
    by_amount = policy_of(EVERYBODY + FORBID.format("context.arguments.amount.minor > 1000"))
    changed = type(TOOLS["refund"])()
    changed.CopyFrom(TOOLS["refund"])
    changed.description = "other words"
    assert by_amount.rule(replace(refund(), contract=changed)) == ALLOW
    changed.permission = 7
    assert by_amount.rule(replace(refund(), contract=changed)) == NOTHING
    # The rule would see nothing of it.
    changed.CopyFrom(TOOLS["refund"])
    changed.input_schema = changed.input_schema.replace('"amount"', '"sum"')
    found = by_amount.rule(replace(refund(), contract=changed))
    assert found.outcome == "refuse"
    assert "no tool has an argument 'amount'" in found.reasons[0].text
    changed.CopyFrom(TOOLS["look"])
    changed.name = "gone_since"
    assert by_amount.rule(replace(ask("look"), contract=changed)) == ALLOW


def test_the_version_is_of_everything_that_the_answers_rest_on() -> None:
    people = {"ada": Person(frozenset({"b", "a"}))}
    contracts = list(TOOLS.values())
    versions = {
        CedarPolicy({"a": EVERYBODY}, people, contracts).version,
        CedarPolicy({"b": EVERYBODY}, people, contracts).version,
        CedarPolicy({"a": EVERYBODY + "// other"}, people, contracts).version,
        CedarPolicy({"a": EVERYBODY}, {}, contracts).version,
        CedarPolicy({"a": EVERYBODY}, {"ada": Person(frozenset({"a"}))}, contracts).version,
        CedarPolicy({"a": EVERYBODY}, people, contracts[1:]).version,
    }
    assert len(versions) == 6
    again = CedarPolicy({"a": EVERYBODY}, {"ada": Person(frozenset({"a", "b"}))}, reversed(contracts))
    assert again.version in versions
    assert len(again.version) == 64


def test_bad_rules_are_told_all_at_once() -> None:
    with pytest.raises(BadPolicy) as wrong:
        policy_of("permit (principal);", more='permit (principal, action == Action::"x", resource);')
    assert [problem.partition(",")[0] for problem in wrong.value.problems] == [
        "policy/rules.cedar",
        "policy/more.cedar",
    ]


# --- what is not known yet ---------------------------------------------------------------------------------


def test_a_rule_that_does_not_look_leaves_nothing_open() -> None:
    policy = policy_of(
        EVERYBODY
        + FORBID.format("context.arguments.amount.minor > 1000")
        + FORBID.format('principal in Role::"finance" && context.arguments.order_id == 7')
        + 'forbid (principal, action == Action::"look", resource) when { context.arguments has order_id };'
    )
    unknown = frozenset({"amount", "order_id"})
    assert policy.rule(refund(unknown=frozenset({"reason"}))) == ALLOW
    assert policy.rule(refund(unknown=frozenset({"order_id"}))) == ALLOW  # she is not in finance
    assert policy.rule(refund(user="ruth", unknown=frozenset({"order_id"}))) == Ruling("allow", open=True)
    assert policy.rule(refund(unknown=unknown)) == Ruling("allow", open=True)
    assert policy.rule(ask("approve_invoice", unknown=frozenset({"invoice_id"}))) == NOTHING


def test_unknown_is_not_absent() -> None:
    policy = policy_of(EVERYBODY + FORBID.format("context.arguments has note"))
    assert policy.rule(refund(unknown=frozenset({"note"}))) == Ruling("allow", open=True)
    policy = policy_of(EVERYBODY + FORBID.format("!(context.arguments has note)"))
    assert policy.rule(refund(unknown=frozenset({"note"}))) == Ruling("allow", open=True)


def test_what_is_refused_whatever_comes_is_refused_now() -> None:
    policy = policy_of(
        EVERYBODY
        + f'@id("x") @reason("x") {FORBID.format("context.actions > 3")}'
        + FORBID.format("context.arguments.amount.minor > 1000")
    )
    assert policy.rule(refund(actions=4, unknown=frozenset({"amount"}))) == Ruling(
        "refuse", (Reason("x", "x"),)
    )
    assert policy.rule(refund(actions=3, unknown=frozenset({"amount"}))) == Ruling("allow", open=True)


def test_a_permit_that_looks_leaves_it_open() -> None:
    policy = policy_of(
        FORBID.replace("forbid", "permit").format("context.arguments.amount.minor < 9")
        + FORBID.format("context.approvals < 1")
    )
    found = policy.rule(refund(unknown=frozenset({"amount"})))
    assert (found.outcome, found.quorum, found.open) == ("gate", 1, True)
    assert policy.rule(refund()) == NOTHING


ATOMS = [
    "context.arguments.amount.minor > 700",
    'context.arguments.amount.currency == "EUR"',
    "context.arguments.amount.minor + 9223372036854775000 > 0",
    "context.arguments.order_id == 1",
    "context.arguments.order_id * 2 > 3",
    'context.arguments has note && context.arguments.note like "a*"',
    "context.arguments has note",
    "context has arguments.note",
    "context.arguments.urgent",
    'context.arguments.reason == "on request"',
    "{a: context.arguments.order_id}.a == 1",
    "(if context.arguments.urgent then context.arguments.order_id else 2) == 2",
    'context.untrusted.contains("amount")',
    "context.approvals >= 1",
    "context.approvals >= 3",
    "context.spent > 800",
    "context.spent + context.arguments.amount.minor > 1200",
    "context.actions < 2",
    'principal in Role::"support"',
    "resource.undoable",
    "true",
]
CONDITIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.builds("({} && {})".format, inner, inner)
        | st.builds("({} || {})".format, inner, inner)
        | st.builds("!({})".format, inner)
        | st.builds("(if {} then {} else {})".format, inner, inner, inner)
    ),
    max_leaves=4,
)


@st.composite
def rules(draw: Callable[[Any], Any]) -> str:
    scope = draw(st.sampled_from(["principal", 'principal in Role::"support"', 'principal == User::"ruth"']))
    clauses = draw(
        st.lists(st.builds("{} {{ {} }}".format, st.sampled_from(["when", "unless"]), CONDITIONS), max_size=2)
    )
    effect = draw(st.sampled_from(["permit", "forbid", "forbid"]))
    return f'{effect} ({scope}, action == Action::"refund", resource) {" ".join(clauses)};'


LONGS = st.sampled_from([0, 1, 2, 500, 800, 1300, 2**63 - 1, 2**63])
AMOUNTS = st.builds(
    lambda minor, currency: {"minor": minor, "currency": currency}, LONGS, st.sampled_from(["EUR", "SEK"])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "order_id": LONGS,
    "amount": AMOUNTS,
    "reason": st.sampled_from(["on request", "late"]),
    "note": st.sampled_from([None, "a", "b"]),
    "urgent": st.booleans(),
}
OPTIONAL = ("reason", "note", "urgent")
REQUESTS = st.builds(
    Request,
    user=st.sampled_from(["ada", "ruth", "stranger"]),
    tenant=st.just("default"),
    contract=st.just(TOOLS["refund"]),
    arguments=st.fixed_dictionaries(
        {name: VALUES[name] for name in ("order_id", "amount")},
        optional={name: VALUES[name] for name in OPTIONAL},
    ),
    untrusted=st.sets(st.sampled_from(sorted(VALUES))).map(frozenset),
    actions=st.integers(0, 3),
    spent=st.fixed_dictionaries({}, optional={"EUR": st.sampled_from([500, 900, 2**63 - 1])}),
)
slow = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)


def rank(ruling: Ruling) -> int:
    return {"allow": 0, "gate": ruling.quorum, "refuse": MAX_QUORUM + 1}[ruling.outcome]


@slow
@given(text=st.lists(rules(), min_size=1, max_size=4), permit=st.booleans(), request=REQUESTS, data=st.data())
def test_what_is_definite_holds_for_every_value(
    text: list[str], permit: bool, request: Request, data: st.DataObject
) -> None:
    policy = policy_of("\n".join([*text, EVERYBODY * permit]))
    unknown = data.draw(st.sets(st.sampled_from(sorted(VALUES))).map(frozenset), label="unknown")
    given = {name: value for name, value in request.arguments.items() if name not in unknown}
    early = policy.rule(replace(request, arguments=given, unknown=unknown))
    assert not early.open or unknown
    for number in range(6):
        found = dict(given)
        for name in sorted(unknown):
            if name not in OPTIONAL or data.draw(st.booleans(), label=f"{number} has {name}"):
                found[name] = data.draw(VALUES[name], label=f"{number} {name}")
        late = policy.rule(replace(request, arguments=found))
        assert not late.open
        # It is never better than it was said to be; and where it was definite, it is the same.
        assert rank(late) >= rank(early)
        if not early.open:
            assert rank(late) == rank(early)


@slow
@given(text=st.lists(rules(), min_size=1, max_size=4), request=REQUESTS, count=st.integers(0, 3))
def test_the_ruling_is_what_the_engine_says_of_the_whole_context_under_the_schema(
    text: list[str], request: Request, count: int
) -> None:
    policy = policy_of("\n".join([*text, EVERYBODY]))
    tool = cedar_schema.arguments_of(request.contract.input_schema)
    context, unheld = cedar_question.context_of(request, tool, tool, cedar_rules.CONTEXT)
    if unheld:
        return
    question = policy._ask(request)
    assert isinstance(question, cedar_question.Question)
    whole = is_authorized(
        {
            "principal": question.principal,
            "action": question.action,
            "resource": question.resource,
            "context": {**context, "approvals": count},
        },
        "\n".join(rule.text for rule in policy.rules),
        question.entities,
        cedar_fit.compile_schema(list(TOOLS.values())),
    )
    assert whole.decision.value != "NoDecision", whole.diagnostics.errors
    found = policy.rule_from(request, count)
    assert (found.outcome == "allow") is (whole.allowed and not whole.diagnostics.errors)
