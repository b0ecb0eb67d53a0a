"""Whether rules fit a project: its tools and their arguments, and its people.

`check_fit` finds what makes a policy unusable: names that mean nothing, types that do not match. `find_dead`,
`find_unheard` and `find_unguarded` find what a policy can be used with, and hardly means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cedarpy import Schema, pst, validate_policies

from core import cedar_rules, cedar_schema, spelling
from core.cedar_rules import Rule
from core.labels import CHOICE, EACH, WHEN
from core.policy import Policy, Request
from handrail.v1 import tool_pb2

MAX_SHOWN_OF_RULE = 3
FOR_ALL = "the rules"

_PREFIX = re.compile(r"^for policy `policy\d+`, ")
_POLICY = re.compile(r"policy(\d+)")
_ACTION = re.compile(r'unrecognized action `Action::"(.*)"`', re.DOTALL)
_FOR_ACTION = re.compile(r' in context for Action::".*?"')
_NO_ACTION = "unable to find an applicable action given the policy scope constraints"
_SCOPE = (
    "its scope fits no request: a principal is a User, in a Role or a Tenant; an action is a tool's, or "
    "decide, or `in` a group; a resource is a Tool, in a Toolbox"
)

Contracts = Sequence[tool_pb2.ToolContract]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a rule, or about people, that somebody should look at."""

    severity: Literal["warning", "hint"]
    where: str
    text: str


def check_fit(rules: Sequence[Rule], contracts: Contracts) -> list[str]:
    """Return in what way rules do not fit these tools, each with file and line."""
    problems = [
        f"the tool '{contract.name}' has the name of a group of actions, which rules could not tell apart; "
        "rename the tool"
        for contract in contracts
        if contract.name in cedar_schema.GROUPS
    ]
    if problems or not rules:
        return problems
    for rule in rules:
        problems += [f"{rule.where}: {wrong}" for wrong in _wrong_names(rule, contracts)]
    schema = compile_schema(contracts, complete=True)
    found = validate_policies("\n".join(rule.text for rule in rules), schema)
    by_rule: dict[int, list[str]] = {}
    for error in found.errors:
        match = _POLICY.fullmatch(error.policy_id)
        by_rule.setdefault(int(match[1]) if match else -1, []).append(error.error)
    for place, errors in sorted(by_rule.items()):
        where = rules[place].where if place >= 0 else FOR_ALL
        problems += [f"{where}: {text}" for text in _explained(errors, contracts)]
    return problems


def compile_schema(contracts: Contracts, *, complete: bool = False) -> Schema:
    """Return the schema of requests about these tools."""
    return Schema.from_json_str(json.dumps(cedar_schema.schema_of(contracts, complete=complete)))


def find_dead(rules: Iterable[Rule], contracts: Contracts) -> Iterator[Finding]:
    """Yield the rules that no request can meet.

    The engine does not say so by itself, but it does not look into what can never come to be evaluated: a
    rule's conditions are made to guard something wrong, and if that is not found, they never hold.
    """
    schema = compile_schema(contracts)
    wrong = pst.GetAttr(pst.Var("context"), "no such member")
    for rule in rules:
        whole = _condition(rule.node)
        probe = pst.When(pst.IfThenElse(whole, wrong, pst.BoolLit(True)))
        text = str(cedar_rules.set_of([replace(rule.node, clauses=(probe,))]))
        found = validate_policies(text, schema)
        if found.validation_passed or any(_NO_ACTION in error.error for error in found.errors):
            yield Finding("warning", rule.where, f"the rule '{rule.id}' can never apply to any tool")


def find_unguarded(
    policy: Policy, rules: Iterable[Rule], contracts: Contracts, users: Iterable[str]
) -> Iterator[Finding]:
    """Yield the tools with an effect that nothing undoes and that some of the users may cause unasked.

    A tool that a `forbid` names has been thought of: it may be an exception.
    """
    asking = list(users)
    forbids = [rule.node for rule in rules if rule.node.effect == "forbid"]
    named = {uid.id for node in forbids for uid in pst.entity_uids(node) if str(uid.type) == "Tool"}
    for contract in contracts:
        if contract.effect not in (tool_pb2.EFFECT_WRITE, tool_pb2.EFFECT_IRREVERSIBLE) or contract.undo:
            continue
        if contract.name in named:
            continue
        names = frozenset(cedar_schema.arguments_of(contract.input_schema).record.fields)
        for user in asking:
            ruling = policy.rule(Request(user, "default", contract, {}, unknown=names))
            if ruling.outcome == "allow" and not ruling.open:
                text = f"nothing undoes it, and no rule asks before {user} does it; write one, or an undo"
                yield Finding("hint", contract.name, text)
                break


def find_unheard(rules: Iterable[Rule], people: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Yield what rules leave unsaid of themselves, and roles that rules and people do not share.

    `people` has the roles of each user; nobody listed means one user, of whom no role is asked.
    """
    held = {role for roles in people.values() for role in roles}
    named: set[str] = set()
    for rule in rules:
        if not rule.has_id:
            yield Finding(
                "hint", rule.where, f"no @id: it is '{rule.id}' until a rule above it comes or goes"
            )
        if not rule.has_reason:
            yield Finding("hint", rule.where, f"no @reason: people are told that {rule.reason}")
        for uid in sorted(pst.entity_uids(rule.node), key=str):
            kind, name = str(uid.type), uid.id
            if kind == "Role":
                named.add(name)
            if not people:
                continue
            if kind == "Role" and name not in held:
                text = f"nobody has the role '{name}'{spelling.hint(name, held)}"
                yield Finding("warning", rule.where, text)
            if kind == "User" and name not in people:
                text = f"there is no user '{name}'{spelling.hint(name, people)}"
                yield Finding("warning", rule.where, text)
    for user, roles in sorted(people.items()):
        for role in sorted(roles):
            if role not in named:
                text = f"'{user}' has the role '{role}', which no rule names{spelling.hint(role, named)}"
                yield Finding("hint", "people.toml", text)


def _wrong_names(rule: Rule, contracts: Contracts) -> Iterator[str]:
    """Yield the names in a rule that nothing has; of actions and types the engine says so itself."""
    known = {
        "Tool": {contract.name for contract in contracts},
        "Toolbox": {contract.toolbox for contract in contracts},
    }
    for uid in sorted(pst.entity_uids(rule.node), key=str):
        names = known.get(str(uid.type))
        if names is not None and uid.id not in names:
            yield f"there is no {str(uid.type).lower()} '{uid.id}'{spelling.hint(uid.id, names)}"
    arguments: set[str] = set()
    left_out: dict[str, str] = {}
    for contract in contracts:
        seen = cedar_schema.arguments_of(contract.input_schema)
        arguments.update(seen.record.fields)
        left_out |= seen.left_out
    yield from _wrong_texts(rule, arguments.union(left_out), [contract.name for contract in contracts])
    prefix = cedar_rules.argument("")
    for looked in sorted(rule.looks_at):
        name = looked.removeprefix(prefix)
        if name == looked or name in arguments:
            continue
        if name in left_out:
            yield f"rules cannot see the argument '{name}': it {left_out[name]}"
        else:
            yield f"no tool has an argument '{name}'{spelling.hint(name, arguments)}"


def _wrong_texts(rule: Rule, arguments: Collection[str], tools: Collection[str]) -> Iterator[str]:
    """Yield the texts that a rule compares with something that is never so."""
    words = {f"resource.{name}": words for name, words in cedar_schema.WORDS.items()}
    known = {
        "context.untrusted": [*arguments, WHEN, EACH, CHOICE],
        "context.leaks": arguments,
        "resource.critical": arguments,
        "context.plan": tools,
        **words,
    }
    for what, text in cedar_rules.compared(rule.node):
        if what in known and text not in known[what]:
            yield f"{what} is never '{text}'{spelling.hint(text, known[what])}"


def _explained(errors: Iterable[str], contracts: Contracts) -> list[str]:
    """Return the few things that are wrong with a rule; the engine says them for every action."""
    texts = list(dict.fromkeys(_explain(error, contracts) for error in sorted(errors)))
    if len(texts) > 1 and _SCOPE in texts:
        texts.remove(_SCOPE)  # it follows from the others
    return texts[:MAX_SHOWN_OF_RULE]


def _explain(error: str, contracts: Contracts) -> str:
    """Return what the engine says, without what only the engine understands."""
    text = _PREFIX.sub("", error)
    if text == _NO_ACTION:
        return _SCOPE
    action = _ACTION.fullmatch(text)
    if action is not None:
        names = {contract.name for contract in contracts} | cedar_schema.GROUPS
        return f"there is no action '{action[1]}'{spelling.hint(action[1], names)}"
    shorter = _FOR_ACTION.sub("", text)
    if "unable to guarantee safety of access to optional" in shorter:
        return f"{shorter}: ask `has` first"
    return f"{text}; `handrail policy schema` shows what there is" if "not found" in text else text


def _condition(node: pst.Template) -> pst.Expr:
    """Return the clauses of a rule as one expression."""
    whole: pst.Expr = pst.BoolLit(True)
    for clause in node.clauses:
        part = clause.expr if isinstance(clause, pst.When) else pst.UnaryOp("not", clause.expr)
        whole = part if whole == pst.BoolLit(True) else pst.BinaryOp("and", whole, part)
    return whole
