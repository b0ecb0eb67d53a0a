"""Judging: which read calls a contract wants, and whether its conditions hold over what they returned.

The calls themselves are made through a port, by a worker before an action (`pre`) and by the verifier
after it (`post`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from core import conditions, values
from handrail.v1 import event_pb2, tool_pb2

MAX_OBSERVED_CHARS = 2_000

CallRead = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Call a read tool by name and return its JSON output."""


async def observe(
    contract: tool_pb2.ToolContract,
    scope: Mapping[str, Any],
    call: CallRead,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """Make the read calls of a contract whose arguments the scope can give; return the outputs by name.

    Before an action there is no output yet: calls that need it are left out. With `names` no others are made.
    """
    seen: dict[str, Any] = {}
    for read in contract.reads:
        if names is not None and read.name not in names:
            continue
        if "output" not in scope and any(
            "output" in conditions.variables(e) for e in read.arguments.values()
        ):
            continue
        arguments = {name: conditions.evaluate(text, scope) for name, text in read.arguments.items()}
        seen[read.name] = await call(read.tool, arguments)
    return seen


def needed_to_undo(contract: tool_pb2.ToolContract) -> frozenset[str]:
    """Return the names of the reads that the contract's undo needs as they were before the action."""
    texts = contract.undo_arguments.values()
    used = {field for text in texts for name, field in conditions.selections(text) if name == "reads"}
    # What is looked at otherwise than by its name, as in reads["stock"], may be any of them.
    return frozenset(read.name for read in contract.reads if not used.isdisjoint((read.name, "")))


def judge(expressions: list[str], scope: Mapping[str, Any]) -> list[event_pb2.Evidence]:
    """Evaluate conditions and say for each whether it held, and what was observed."""
    observed = bounded(scope.get("reads", {}))
    evidence = []
    for expression in expressions:
        try:
            held, seen = conditions.holds(expression, scope), observed
        except conditions.ConditionError as error:
            held, seen = False, f"{error}; {observed}"
        evidence.append(
            event_pb2.Evidence(condition=expression, held=held, observed=seen[:MAX_OBSERVED_CHARS])
        )
    return evidence


def bounded(value: Any) -> str:
    """Return a value as JSON text, cut where it is long."""
    text = values.encode(value)
    return text if len(text) <= MAX_OBSERVED_CHARS else text[: MAX_OBSERVED_CHARS - 1] + "…"
