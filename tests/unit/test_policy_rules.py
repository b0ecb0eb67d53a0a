"""Reading rules: files and lines, names, what a rule looks at; and whether rules fit tools and people."""

from __future__ import annotations

import pytest

from core import cedar_fit, cedar_rules
from core.cedar_rules import CONTEXT, Rule
from tests.unit.policies import EVERYBODY, TOOLS, problems_of


def read(text: str, file: str = "a.cedar") -> list[Rule]:
    rules, problems = cedar_rules.read_rules({file: text})
    assert problems == []
    return rules


def findings(text: str, people: dict[str, list[str]] | None = None) -> list[str]:
    rules = read(text)
    found = [*cedar_fit.find_dead(rules, list(TOOLS.values())), *cedar_fit.find_unheard(rules, people or {})]
    return [f"{finding.severity} {finding.where}: {finding.text}" for finding in found]


def test_rules_have_ids_lines_and_reasons() -> None:
    text = """// a comment; with a semicolon

@id("first")
@reason("a reason; with a semicolon \\" and a quote")
permit (principal, action, resource); permit
(principal, action, resource) // another
when { resource.capability == "a;b" };
"""
    rules = read(text)
    assert [(rule.id, rule.line, rule.where) for rule in rules] == [
        ("first", 3, "a.cedar, line 3"),
        ("a.cedar:2", 5, "a.cedar, line 5"),
    ]
    assert rules[0].reason == 'a reason; with a semicolon " and a quote'
    assert rules[1].reason == "the rule 'a.cedar:2' says so"
    assert [(rule.has_id, rule.has_reason) for rule in rules] == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\npermit (principal,\naction\nresource);", "line 3: the rule that begins here cannot be read: "),
        ("permit (principal, action, resource)", "line 1: the rule that begins here cannot be read: "),
        (EVERYBODY + ";", "line 2: the rule that begins here cannot be read: "),
        (EVERYBODY + "\nfoo", "line 3: the rule that begins here cannot be read: "),
        ("permit (principal == ?principal, action, resource);", "line 1: a rule with ?principal"),
        (2 * f'@id("x") {EVERYBODY}', "line 2: the rule 'x' is in policy/rules.cedar, line 1 too"),
        (f'@id("a`b") {EVERYBODY}', "line 1: @id must be"),
        (f'@id("{"x" * 101}") {EVERYBODY}', "line 1: @id must be"),
        (f'@reason("one\\ntwo") {EVERYBODY}', "line 1: @reason must be one line"),
        (f'@reason("\\u{{202e}}") {EVERYBODY}', "line 1: @reason must be one line"),
        ("// nothing\n", "there are no rules"),
        ('permit (principal, action == Action::"refnd", resource);', "there is no action 'refnd'; did"),
        ('permit (principal, action == Action::"execute", resource);', "or `in` a group"),
        ('permit (principal == Role::"x", action, resource);', "its scope fits no request"),
        ('permit (principal in Team::"x", action, resource);', "unrecognized entity type"),
        ('permit (principal, action, resource == Tool::"refnd");', "there is no tool 'refnd'; did"),
        ('permit (principal, action, resource in Toolbox::"shed");', "there is no toolbox 'shed'"),
    ],
)
def test_mistakes_are_named_with_file_and_line(text: str, says: str) -> None:
    found = problems_of(text)
    assert any(says in problem for problem in found), found
    assert all(problem.startswith("policy/rules.cedar, line ") for problem in found) or "no rules" in says


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("!" * 200 + "false", "the rule that begins here cannot be read"),
        ("principal.age > 3", "attribute `age`"),
        ("context.approvals > 0", '`approvals` in context for Action::"decide" not found'),
        ("context.arguments has fee && context.arguments.amount.minor > 3", "attribute `arguments.amount`"),
        ("context.arguments has amuont", "did you mean 'amount'?"),
        ("context has arguments.amuont.x", "did you mean 'amount'?"),
        ("context.arguments has score", "'score': it is a number with a fraction"),
        ('resource.effect == "irreversable"', "did you mean 'irreversible'?"),
        ('["reed"].contains(resource.effect)', "did you mean 'read'?"),
        ('"key" == resource.idempotency', "did you mean 'keyed'?"),
        ('context.untrusted.contains("amuont")', "did you mean 'amount'?"),
        ('resource.critical.containsAny(["too"])', "did you mean 'to'?"),
        ('datetime("soon") < context.now', "datetime"),
    ],
)
def test_mistakes_in_conditions_are_named(condition: str, says: str) -> None:
    found = problems_of(f"permit (principal, action, resource)\nwhen {{ {condition} }};")
    assert any(says in problem for problem in found), found
    assert all(problem.startswith("policy/rules.cedar, line 1: ") for problem in found)


def test_an_optional_argument_is_asked_for_first() -> None:
    text = 'permit (principal, action == Action::"send", resource) when {{ {} }};'
    (problem,) = problems_of(text.format("context.arguments.fee.minor > 3"))
    assert problem.endswith("optional attribute `arguments.fee`: ask `has` first")
    assert problems_of(text.format("context.arguments has fee && context.arguments.fee.minor > 3")) == []
    assert problems_of(text.format('context.arguments.to.contains("x")')) == []


def test_all_mistakes_are_told_at_once() -> None:
    text = EVERYBODY + "permit (principal action, resource);\n"
    text += 'permit (principal, action == Action::"x", resource);'
    assert [problem.partition(":")[0][-6:] for problem in problems_of(text)] == ["line 2", "line 3"]


def test_a_tool_cannot_be_called_like_a_group() -> None:
    contract = type(TOOLS["look"])()
    contract.CopyFrom(TOOLS["look"])
    contract.name = "decide"
    (problem,) = cedar_fit.check_fit(read(EVERYBODY), [contract])
    assert "rename the tool" in problem


def test_a_level_that_no_tool_has_is_no_mistake() -> None:
    text = 'permit (principal, action in Action::"admin", resource) when { context.arguments has amount };'
    assert problems_of(text) == []
    assert cedar_fit.check_fit(read(EVERYBODY), []) == []
    assert findings(text)[0] == "warning a.cedar, line 1: the rule 'a.cedar:1' can never apply to any tool"


@pytest.mark.parametrize(
    ("condition", "looks_at"),
    [
        ("true", set()),
        ("resource.undoable", set()),
        ("context has arguments", set()),
        ("context.approvals > 1", {"approvals"}),
        ("context.arguments has amount", {"arguments.amount"}),
        ("context has arguments.amount.minor", {"arguments.amount"}),
        ("context has spent", {"spent"}),
        ("context.arguments.amount.minor > context.spent", {"arguments.amount", "spent"}),
        ('context["arguments"]["amount"]["minor"] > 1', {"arguments.amount"}),
        ("if context.self then context.arguments has a else true", {"self", "arguments.a"}),
        ("{x: context.arguments}.x.amount == 1", {"arguments"}),
        ("[context.arguments].contains({amount: 1})", {"arguments"}),
        ("context == {a: 1}", CONTEXT),
        ("(if true then context else context).arguments.amount == 1", CONTEXT),
        ('{context: 1}.context == 1 && principal in Role::"x"', set()),
    ],
)
def test_what_a_rule_looks_at(condition: str, looks_at: set[str]) -> None:
    for clause in ("when", "unless"):
        (rule,) = read(f"permit (principal, action, resource) {clause} {{ {condition} }};")
        assert rule.looks_at == looks_at


def test_a_guard_is_what_is_judged_before_the_first_look() -> None:
    (rule,) = read(
        'forbid (principal, action, resource in Toolbox::"x") when { resource.undoable && resource.doubt &&'
        " context.arguments.a == 1 && context.approvals > 1 } unless { context.self };"
    )
    assert len(cedar_rules.guard_of(rule.node, frozenset({"arguments.a"})).clauses) == 2
    assert len(cedar_rules.guard_of(rule.node, frozenset({"self"})).clauses) == 4
    guard = cedar_rules.guard_of(rule.node, frozenset({"arguments.a"}))
    assert (guard.effect, guard.resource) == ("permit", rule.node.resource)


DEAD = [
    "forbid (principal, action, resource) when { false };",
    'forbid (principal, action in Action::"admin", resource);',
    'forbid (principal, action == Action::"look", resource) when { context.arguments has amount };',
    "forbid (principal, action, resource) when { context has requester } unless { context has self };",
]
ALIVE = [
    "forbid (principal, action, resource);",
    "forbid (principal, action, resource) when { context.arguments has amount };",
    'forbid (principal, action == Action::"decide", resource) when { context.arguments has amount };',
    'forbid (principal, action in Action::"approve", resource) unless { context.approvals >= 1 };',
]


@pytest.mark.parametrize(("text", "dead"), [*((t, True) for t in DEAD), *((t, False) for t in ALIVE)])
def test_rules_that_can_never_apply_are_found(text: str, dead: bool) -> None:
    assert problems_of(text) == []
    assert any("can never apply" in found for found in findings(text)) is dead


def test_roles_and_users_that_rules_and_people_do_not_share() -> None:
    text = """
    @id("a") @reason("r") permit (principal in Role::"suport", action, resource);
    @id("b") @reason("r") permit (principal == User::"ava", action, resource);
    permit (principal in Role::"owner", action, resource);
    """
    assert findings(text) == [
        "hint a.cedar, line 4: no @id: it is 'a.cedar:3' until a rule above it comes or goes",
        "hint a.cedar, line 4: no @reason: people are told that the rule 'a.cedar:3' says so",
    ]
    found = findings(text, {"ada": ["support", "owner"]})
    assert "warning a.cedar, line 2: nobody has the role 'suport'; did you mean 'support'?" in found
    assert "warning a.cedar, line 3: there is no user 'ava'; did you mean 'ada'?" in found
    assert any("'ada' has the role 'support', which no rule names" in text for text in found)
