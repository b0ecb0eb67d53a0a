"""Contracts and requests for the tests of policies, and mutants of their rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cedarpy import pst

from core import cedar_rules, contracts
from core.cedar import BadPolicy, CedarPolicy, Person
from core.cedar_rules import Rule
from core.policy import Request
from handrail.tool import Money, call, tool
from handrail.v1 import tool_pb2


@tool(
    effect="write",
    idempotency="natural",
    undo=call("take_back", refund_id="output"),
    critical=["order_id", "amount"],
)
def refund(
    order_id: int, amount: Money, reason: str = "on request", note: str | None = None, urgent: bool = False
) -> int:
    return order_id


@tool(effect="write", idempotency="natural")
def take_back(refund_id: int) -> int:
    return refund_id


@tool(effect="irreversible", idempotency="natural", critical=["to"], capability="mail")
def send(to: list[str], subject: str, fee: Money | None = None, score: float = 0.5) -> str:
    return subject


@tool(effect="read")
def look(order_id: int = 7, text: str = "") -> int:
    return order_id


@tool(effect="write", permission="approve", idempotency="natural", critical=["invoice_id"])
def approve(invoice_id: int) -> int:
    return invoice_id


def contract_of(function: Any, toolbox: str = "shop") -> tool_pb2.ToolContract:
    return contracts.to_proto(function.__handrail_tool__.with_toolbox(toolbox).contract)


TOOLS = {c.name: c for c in (contract_of(f) for f in (refund, take_back, send, look))}
APPROVE_INVOICE = contract_of(approve)
APPROVE_INVOICE.name = "approve_invoice"
TOOLS["approve_invoice"] = APPROVE_INVOICE
PEOPLE = {
    "ada": Person(frozenset({"support"})),
    "ruth": Person(frozenset({"finance"})),
    "ines": Person(frozenset({"owner"}), "elsewhere"),
}
EVERYBODY = 'permit (principal, action in Action::"at_most_execute", resource);\n'
EUR = {"minor": 500, "currency": "EUR"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "refund": {"order_id": 1, "amount": EUR},
    "take_back": {"refund_id": 1},
    "send": {"to": ["a@example.com"], "subject": "Hello"},
    "look": {},
    "approve_invoice": {"invoice_id": 1},
}


def policy_of(text: str, people: dict[str, Person] | None = None, more: str = "") -> CedarPolicy:
    files = {"policy/rules.cedar": text} | ({"policy/more.cedar": more} if more else {})
    return CedarPolicy(files, PEOPLE if people is None else people, TOOLS.values())


def ask(name: str, user: str = "ada", **fields: Any) -> Request:
    fields.setdefault("arguments", ARGUMENTS[name])
    return Request(user=user, tenant="default", contract=TOOLS[name], **fields)


def problems_of(text: str) -> list[str]:
    try:
        policy_of(text)
    except BadPolicy as error:
        return list(error.problems)
    return []


def mutants(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """Yield policies that differ in one rule: removed, widened, a condition inverted or dropped."""
    for rule in rules:
        others = [other.node for other in rules if other is not rule]
        yield f"{rule.id} removed", _text(others)
        for what, node in _changed(rule.node):
            yield f"{rule.id}: {what}", _text([*others, node])


def _changed(node: pst.Template) -> Iterator[tuple[str, pst.Template]]:
    for part in ("principal", "action", "resource"):
        if getattr(node, part) != pst.ScopeAny():
            yield f"any {part}", replace(node, **{part: pst.ScopeAny()})
    for place, clause in enumerate(node.clauses):
        before, after = node.clauses[:place], node.clauses[place + 1 :]
        other = pst.Unless if isinstance(clause, pst.When) else pst.When
        yield f"clause {place} inverted", replace(node, clauses=(*before, other(clause.expr), *after))
        yield f"clause {place} dropped", replace(node, clauses=(*before, *after))
        for expr in _inverted(clause.expr):
            yield (
                f"a part of clause {place} inverted",
                replace(node, clauses=(*before, type(clause)(expr), *after)),
            )


def _inverted(expr: pst.Expr) -> Iterator[pst.Expr]:
    """Yield what `&&` and `||` join with one part of it negated."""
    if isinstance(expr, pst.BinaryOp) and expr.op in ("and", "or"):
        for left in (pst.UnaryOp("not", expr.left), *_inverted(expr.left)):
            yield replace(expr, left=left)
        for right in (pst.UnaryOp("not", expr.right), *_inverted(expr.right)):
            yield replace(expr, right=right)


def _text(nodes: list[pst.Template]) -> str:
    return str(cedar_rules.set_of(nodes)) if nodes else ""
