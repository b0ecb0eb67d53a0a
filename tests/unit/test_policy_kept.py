"""A ruling that is kept is the one that asking would bring, whatever else the two requests differ in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cedarpy import pst
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import cedar_question
from core.cedar import CedarPolicy, Person
from core.policy import Request
from handrail.v1 import tool_pb2
from tests.unit.policies import ARGUMENTS, EUR, EVERYBODY, PEOPLE, TOOLS, ask, policy_of

CRITICAL = "context.untrusted.containsAny(resource.critical)"


class Asked(CedarPolicy):
    """The same rules, of which nothing is kept and no scope is read: each question holds all there is."""

    def _kept(self, request: Request) -> None:
        return None

    def _looks(self, action: str, contract: tool_pb2.ToolContract) -> frozenset[str]:
        return frozenset[str]().union(*(rule.looks_at for rule in self.rules))


# Where a rule applies, and what it can ask there.
ABOUT_RUN = [
    CRITICAL,
    'context.untrusted.contains("to")',
    "context.actions < 2",
    "context.undoing",
    "context.leaks.isEmpty()",
    'context.plan.contains("send")',
    "context.spent > 800",
    'context.now.toTime() < duration("8h")',
    'principal in Role::"support"',
    'principal in Tenant::"elsewhere"',
    'User::"ruth" in Tenant::"elsewhere"',
    'resource.effect == "irreversible"',
    'resource.critical.contains("order_id")',
]
ABOUT_ACTION = [*ABOUT_RUN, "context.approvals >= 1", "context.approvals >= 2"]
OF_REFUND = [*ABOUT_ACTION, "context.arguments.amount.minor > 800", "context.arguments has note"]
SCOPES = {
    "action, resource": ABOUT_RUN,
    'action, resource == Tool::"send"': ABOUT_RUN,
    'action, resource in Toolbox::"shop"': ABOUT_RUN,
    "action, resource is Tool": ABOUT_RUN,
    'action in Action::"at_most_admin", resource': ABOUT_ACTION,
    'action in [Action::"look", Action::"approve"], resource': ABOUT_ACTION,
    'action == Action::"send", resource': [*ABOUT_ACTION, 'context.arguments.subject == "a"'],
    'action == Action::"look", resource is Tool in Toolbox::"shop"': ABOUT_ACTION,
    'action == Action::"refund", resource': OF_REFUND,
    'action == Action::"refund", resource in Tool::"refund"': OF_REFUND,
    'action == Action::"refund", resource == Tool::"look"': OF_REFUND,
    'action == Action::"decide", resource': [*ABOUT_RUN, "context.self"],
}


@st.composite
def rules(draw: Callable[[Any], Any]) -> str:
    scope = draw(st.sampled_from(sorted(SCOPES)))
    asked = st.sampled_from(SCOPES[scope])
    clause = st.builds("{} {{ {} }}".format, st.sampled_from(["when", "unless"]), asked)
    clauses = draw(st.lists(clause, max_size=2))
    effect = draw(st.sampled_from(["permit", "forbid", "forbid"]))
    who = draw(st.sampled_from(["principal", "principal", 'principal in Role::"support"']))
    return f"{effect} ({who}, {scope}) {' '.join(clauses)};"


def other(contract: tool_pb2.ToolContract, **fields: Any) -> tool_pb2.ToolContract:
    found = tool_pb2.ToolContract()
    found.CopyFrom(contract)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


CONTRACTS = [
    *TOOLS.values(),
    # As a log has it: equal and not the same; and what it was before.
    other(TOOLS["send"]),
    other(TOOLS["look"], permission=5),
    other(TOOLS["send"], effect=tool_pb2.EFFECT_WRITE),
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "amount": st.sampled_from([500, 900, 2**63]).map(lambda minor: {"minor": minor, "currency": "EUR"}),
    "subject": st.sampled_from(["a", "b"]),
    "note": st.sampled_from([None, "a"]),
}


@st.composite
def requests(draw: Callable[[Any], Any]) -> Request:
    contract = draw(st.sampled_from(CONTRACTS))
    arguments = {
        name: draw(VALUES[name]) if name in VALUES else value
        for name, value in ARGUMENTS[contract.name].items()
    }
    names = st.sets(st.sampled_from([*arguments, "note", "$when"]), max_size=2).map(frozenset)
    unknown = draw(st.just(frozenset[str]()) | names)
    return Request(
        user=draw(st.sampled_from(["ada", "ruth", "ines", "stranger"])),
        tenant=draw(st.sampled_from(["default", "elsewhere"])),
        contract=contract,
        arguments={name: value for name, value in arguments.items() if name not in unknown},
        unknown=unknown,
        untrusted=draw(names),
        actions=draw(st.integers(0, 3)),
        spent=draw(st.sampled_from([{}, {"EUR": 500}, {"EUR": 900}])),
        now_ns=draw(st.sampled_from([0, 9 * 3_600 * 1_000_000_000])),
        plan=draw(st.sampled_from([frozenset[str](), frozenset({"send"}), frozenset({"look", "send"})])),
        undoing=draw(st.booleans()),
        leaks=draw(st.sampled_from([frozenset[str](), frozenset({"to"})])),
    )


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    text=st.lists(rules(), min_size=1, max_size=4),
    permit=st.booleans(),
    people=st.sampled_from([PEOPLE, {"ada": Person(frozenset({"support"}), "elsewhere")}, {}]),
    asked=st.lists(requests(), min_size=6, max_size=14),
)
def test_a_ruling_that_is_kept_is_the_one_that_asking_brings(
    text: list[str], permit: bool, people: dict[str, Person], asked: list[Request]
) -> None:
    files = {"policy/rules.cedar": "\n".join([*text, EVERYBODY * permit])}
    keeping = CedarPolicy(files, people, TOOLS.values())
    asking = Asked(files, people, TOOLS.values())
    for request in asked:
        wanted = asking.rule(request)
        assert keeping.rule(request) == wanted
        assert keeping.rule(request).rules == wanted.rules
        assert keeping.rule_from(request, 0) == wanted
        assert keeping.rule_from(request, 2) == asking.rule_from(request, 2)
        assert keeping.may_decide("ruth", request) == asking.may_decide("ruth", request)
    # In another order, and after all the others.
    for request in reversed(asked):
        assert keeping.rule(request) == asking.rule(request)
        assert keeping.rule(request).rules == asking.rule(request).rules


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[cedar_question.Question]:
    found: list[cedar_question.Question] = []
    evaluate = cedar_question.evaluate

    def noted(policies: Any, question: cedar_question.Question, count: int | None) -> Any:
        found.append(question)
        return evaluate(policies, question, count)

    monkeypatch.setattr(cedar_question, "evaluate", noted)
    return found


GATES = 'forbid (principal, action in Action::"at_most_admin", resource) when { %s } unless { %s };'


def test_what_rests_on_nothing_else_is_asked_once(evaluations: list[cedar_question.Question]) -> None:
    policy = policy_of(EVERYBODY + GATES % (CRITICAL, "context.approvals >= 1"))
    first = policy.rule(ask("refund", untrusted=frozenset({"amount"})))
    assert (first.outcome, len(evaluations)) == ("gate", 2)
    again = {"arguments": {}, "unknown": frozenset({"order_id"}), "actions": 7, "now_ns": 5, "spent": EUR}
    assert policy.rule(ask("refund", untrusted=frozenset({"amount"}), **again)) is first
    assert policy.rule(replace(ask("refund"), contract=other(TOOLS["refund"]))).outcome == "allow"
    assert len(evaluations) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "ruth"},
        {"tenant": "elsewhere"},
        {"contract": TOOLS["look"]},
        {"untrusted": frozenset({"reason"})},
        {"actions": 1},
        {"undoing": True},
        {"leaks": frozenset({"reason"})},
    ],
)
def test_what_it_rests_on_is_asked_about_anew(
    fields: dict[str, Any], evaluations: list[cedar_question.Question]
) -> None:
    looked = f"{CRITICAL} && context.actions > 5 && !context.undoing && context.leaks.isEmpty()"
    policy = policy_of(EVERYBODY + GATES % (looked, "context.approvals >= 1"))
    policy.rule(ask("refund"))
    policy.rule(replace(ask("refund"), **fields))
    assert len(evaluations) == 2


@pytest.mark.parametrize(
    "condition",
    [
        "context.arguments.amount.minor > 9",
        "context.arguments has note",
        "context has arguments.note",
        "context.spent > 9",
        'context.now.toTime() < duration("8h")',
        "[context.arguments].contains(context.arguments)",
    ],
)
def test_a_ruling_on_values_is_never_kept(condition: str, evaluations: list[cedar_question.Question]) -> None:
    rule = f'forbid (principal, action == Action::"refund", resource) when {{ {condition} && false }};'
    policy = policy_of(EVERYBODY + rule)
    for _ in range(2):
        policy.rule(ask("refund"))
        policy.rule(ask("look"))
    asked = [question.action["id"] for question in evaluations]
    assert asked == ["refund", "look", "refund"]


def test_a_ruling_under_another_contract_is_never_kept(evaluations: list[cedar_question.Question]) -> None:
    policy = policy_of(EVERYBODY)
    before = other(TOOLS["look"], permission=7)
    outcomes = [
        policy.rule(replace(ask("look"), contract=contract)).outcome
        for contract in (TOOLS["look"], before, TOOLS["look"], before)
    ]
    assert outcomes == ["allow", "refuse", "allow", "refuse"]
    assert [question.context for question in evaluations[1:]] == [{"arguments": {}}] * (len(evaluations) - 1)


def test_several_threads_share_what_is_kept() -> None:
    policy = policy_of(EVERYBODY + GATES % (CRITICAL, "context.approvals >= 1"))
    asked = [
        ask(name, user, untrusted=frozenset(untrusted))
        for name in TOOLS
        for user in ("ada", "ruth", "ines")
        for untrusted in ((), ("to",), ("amount",))
    ] * 20
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(policy.rule, asked))
    assert found == [policy.rule_from(request, 0) for request in asked]


@pytest.mark.parametrize(
    ("scope", "applies"),
    [
        ("action, resource", True),
        ('action == Action::"refund", resource', True),
        ('action == Action::"look", resource', False),
        ('action in [Action::"look", Action::"refund"], resource', True),
        ('action in Action::"execute", resource', True),
        ('action in Action::"at_most_delete", resource', True),
        ('action in Action::"at_most_draft", resource', False),
        ('action, resource == Tool::"refund"', True),
        ('action, resource == Tool::"look"', False),
        ('action, resource in Toolbox::"shop"', True),
        ("action, resource is Tool", True),
        ('action, resource is Tool in Toolbox::"shop"', True),
    ],
)
def test_whether_a_scope_leaves_room_for_an_action(scope: str, applies: bool) -> None:
    (rule,) = policy_of(f"permit (principal, {scope});").rules
    assert isinstance(rule.node, pst.Template)
    actions = ("refund", "execute", *(f"at_most_{above}" for above in ("execute", "approve", "delete")))
    assert rule.can_apply(actions, "refund", "shop") is applies
