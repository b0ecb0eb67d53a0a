"""The rules of a policy, one by one: where each stands, what it says of itself, and what it looks at.

The engine knows neither lines nor files, so a text is cut at the semicolons that end its rules, and each is
parsed by itself. What a rule looks at is read off its syntax tree: that is how it is known which rules an
argument without a value leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from cedarpy import PolicySet, pst

MAX_RULES = 1_000
MAX_ID_CHARS = 100
MAX_REASON_CHARS = 300

# What a rule can look at: these members of the context, and `argument(name)`.
ARGUMENTS = "arguments"
SPENT = "spent"
CONTEXT = frozenset(
    {
        *(ARGUMENTS, SPENT, "untrusted", "approvals", "actions", "now", "leaks", "plan", "undoing"),
        *("requester", "self"),
    }
)

_ID = re.compile(rf"[^\s`\x00-\x1f\x7f](?:[^`\x00-\x1f\x7f]{{0,{MAX_ID_CHARS - 2}}}[^\s`\x00-\x1f\x7f])?")
_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|;|\s+|[^";\s/]+|.', re.DOTALL)
_CONTEXT = pst.Var("context")
_CONTEXT_ARGUMENTS = pst.GetAttr(_CONTEXT, ARGUMENTS)


@dataclass(frozen=True, slots=True)
class Rule:
    """One `permit` or `forbid`."""

    id: str
    file: str
    line: int
    # What it says of itself in `@reason`; where it says nothing, words of ours.
    reason: str
    has_id: bool
    has_reason: bool
    text: str
    node: pst.Template
    looks_at: frozenset[str]

    @property
    def where(self) -> str:
        """Return where the rule stands, for messages."""
        return f"{self.file}, line {self.line}"

    def can_apply(self, actions: Collection[str], tool: str, toolbox: str) -> bool:
        """Whether its scope leaves room for an action, named with its groups, on a tool; whoever asks."""
        on, of = self.node.action, self.node.resource
        if isinstance(on, pst.ActionEq | pst.ActionIn):
            named = (on.entity,) if isinstance(on, pst.ActionEq) else on.entities
            if not any(uid == _uid("Action", action) for uid in named for action in actions):
                return False
        if isinstance(of, pst.ScopeEq | pst.ScopeIn):
            return of.entity in (_uid("Tool", tool), _uid("Toolbox", toolbox))
        return True


def argument(name: str) -> str:
    """Return what a rule looks at that looks at one argument."""
    return f"{ARGUMENTS}.{name}"


def read_rules(files: Mapping[str, str]) -> tuple[list[Rule], list[str]]:
    """Return the rules of the texts, by file, and what is wrong with them."""
    rules: list[Rule] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for file, text in sorted(files.items()):
        for number, (line, statement) in enumerate(_statements(text), 1):
            found = _read_rule(file, number, line, statement)
            if isinstance(found, str):
                problems.append(found)
            elif found.id in places:
                problems.append(
                    f"{found.where}: the rule '{found.id}' is in {places[found.id]} too; rename one"
                )
            else:
                places[found.id] = found.where
                rules.append(found)
    if not rules and not problems:
        problems.append("there are no rules, so nothing would be permitted; write a `permit`")
    if len(rules) > MAX_RULES:
        problems.append(f"there are {len(rules)} rules; a policy may have {MAX_RULES}")
    return rules, problems


def set_of(nodes: list[pst.Template]) -> PolicySet:
    """Return what the engine asks, of rules under their ids."""
    return PolicySet.from_pst(pst.PolicySet({}, {node.id: node for node in nodes}, ()))


def guard_of(node: pst.Template, open_to: frozenset[str]) -> pst.Template:
    """Return a permit that holds wherever a rule can come to look at what is open.

    That is its scope, and of its conditions those before the first that looks: the engine judges them in
    order and stops at one that does not hold.
    """
    clauses: list[pst.Clause] = []
    for clause in node.clauses:
        parts = (
            [pst.When(part) for part in _conjuncts(clause.expr)] if isinstance(clause, pst.When) else [clause]
        )
        for part in parts:
            if not open_to.isdisjoint(_looks_at(part)):
                return replace(node, effect="permit", clauses=tuple(clauses))
            clauses.append(part)
    return replace(node, effect="permit", clauses=tuple(clauses))


def named(rules: Iterable[Rule], kind: str) -> frozenset[str]:
    """Return the entities of a kind that rules name."""
    uids = (uid for rule in rules for uid in pst.entity_uids(rule.node))
    return frozenset(uid.id for uid in uids if str(uid.type) == kind)


def compared(node: pst.Template) -> Iterator[tuple[str, str]]:
    """Yield what a rule compares with texts that it spells out, as "resource.effect", and each text."""
    pending: list[Any] = [node.clauses]
    while pending:
        part = pending.pop()
        pending.extend(_children(part))
        if isinstance(part, pst.BinaryOp):
            for one, other in ((part.left, part.right), (part.right, part.left)):
                texts = other.elements if isinstance(other, pst.Set) else (other,)
                if isinstance(one, pst.GetAttr) and isinstance(one.base, pst.Var):
                    where = f"{one.base.name}.{one.attr}"
                    yield from ((where, text.value) for text in texts if isinstance(text, pst.StringLit))


def as_permit(node: pst.Template) -> pst.Template:
    """Return a permit that holds where a rule does."""
    return replace(node, effect="permit")


def _read_rule(file: str, number: int, line: int, statement: str) -> Rule | str:
    where = f"{file}, line {line}"
    try:
        parsed = PolicySet.from_str(statement).to_pst()
    except ValueError as error:
        return f"{where}: the rule that begins here cannot be read: {error}"
    if parsed.templates:
        return f"{where}: a rule with ?principal or ?resource is a template, and does nothing; name them"
    (node,) = parsed.static_policies.values()
    name, reason = node.annotations.get("id", ""), node.annotations.get("reason", "")
    if name and not (_ID.fullmatch(name) and name.isprintable()):
        return f"{where}: @id must be 1 to {MAX_ID_CHARS} printable characters, without '`'"
    if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        return f"{where}: @reason must be one line of at most {MAX_REASON_CHARS} printable characters"
    node = replace(node, id=name or f"{file}:{number}")
    return Rule(
        id=node.id,
        file=file,
        line=line,
        reason=reason or f"the rule '{node.id}' says so",
        has_id=bool(name),
        has_reason=bool(reason),
        text=statement,
        node=node,
        looks_at=_looks_at(node.clauses),
    )


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text into what its semicolons end, each with the line on which it begins."""
    line, begins, start, end = 1, 0, 0, 0
    for token in _TOKEN.finditer(text):
        word = token.group()
        quiet = word.isspace() or word.startswith("//")
        if not begins and not quiet:
            begins, start = line, token.start()
        line += word.count("\n")
        end = token.end() if not quiet else end
        if word == ";":
            yield begins, text[start : token.end()]
            begins = 0
    if begins:
        yield begins, text[start:end]


def _uid(kind: str, name: str) -> pst.EntityUid:
    return pst.EntityUid(pst.EntityType(kind), name)


def _conjuncts(expr: pst.Expr) -> Iterator[pst.Expr]:
    """Yield what `&&` joins, in order."""
    if isinstance(expr, pst.BinaryOp) and expr.op == "and":
        yield from _conjuncts(expr.left)
        yield from _conjuncts(expr.right)
    else:
        yield expr


def _looks_at(node: Any) -> frozenset[str]:
    """Return what a part of a syntax tree looks at; the whole of a record is everything in it."""
    found: set[str] = set()
    pending = [node]
    while pending:
        part = pending.pop()
        seen = _seen(part)
        if seen is None:
            pending.extend(_children(part))
        else:
            found.update(seen)
    return frozenset(found)


def _seen(part: Any) -> Iterable[str] | None:
    """Return what one node looks at; None where that is to be found below it."""
    if part == _CONTEXT:
        return CONTEXT
    if part == _CONTEXT_ARGUMENTS:
        return (ARGUMENTS,)
    if not isinstance(part, pst.GetAttr | pst.HasAttr):
        return None
    path = (part.attr,) if isinstance(part, pst.GetAttr) else part.attrs
    if part.base == _CONTEXT and path[0] == ARGUMENTS:
        # `context has arguments.amount`, and `context has arguments`, which says nothing.
        return [argument(name) for name in path[1:2]]
    if part.base == _CONTEXT:
        return path[:1]
    return (argument(path[0]),) if part.base == _CONTEXT_ARGUMENTS else None


def _children(part: Any) -> Iterable[Any]:
    if isinstance(part, tuple):
        return part
    if isinstance(part, Mapping):
        return part.values()
    return [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else ()
