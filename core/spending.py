"""What a run's effects have come to, by currency: what rules call `spent`, and what a budget bounds.

Every amount of money among the arguments of an action that was authorised counts from then on, once for all
attempts at its instance, unless it is known that it did not happen. So nothing in flight is forgotten. An
amount below nothing hides none above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from core import values
from core.cedar_schema import arguments_of
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2


def spent(state: RunState) -> dict[str, Counter[str]]:
    """Return minor units by currency, for each instance that has spent any."""
    effects = {n: c for n, c in state.contracts.items() if c.effect != tool_pb2.EFFECT_READ}
    if not any(arguments_of(contract.input_schema).money for contract in effects.values()):
        return {}
    found: dict[str, Counter[str]] = {}
    for instance in state.instances.values():
        attempt = _that_counts(instance)
        if attempt is not None and attempt.action is not None and attempt.action.tool in effects:
            inline = {n: v for n, v in attempt.action.arguments.items() if v.WhichOneof("kind") == "json"}
            money = arguments_of(effects[attempt.action.tool].input_schema).money
            arguments = {name: values.load(inline[name], {}) for name in money & inline.keys()}
            amounts = amounts_in(effects[attempt.action.tool], arguments)
            if amounts:
                found[instance.id] = amounts
    return found


def amounts_in(contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]) -> Counter[str]:
    """Return what an action with an effect comes to, by currency."""
    found: Counter[str] = Counter()
    if contract.effect == tool_pb2.EFFECT_READ:
        return found
    for name in arguments_of(contract.input_schema).money & arguments.keys():
        amount = arguments[name]
        if isinstance(amount, Mapping) and isinstance(minor := amount.get("minor"), int) and minor > 0:
            found[str(amount.get("currency"))] += minor
    return found


def excess(total: Mapping[str, int], budgets: Iterable[plan_pb2.Budget]) -> str:
    """Say in which way what is spent is more than any of the budgets allows; "" where it is not."""
    for budget in budgets:
        for currency, minor in sorted(total.items()) if budget.max_spend else ():
            most = budget.max_spend.get(currency, 0)
            if minor > most:
                return f"it comes to {minor} minor units of {currency}, and the budget is {most}"
    return ""


def _that_counts(instance: Instance) -> Attempt | None:
    """Return the last attempt that acted or may have, or may yet."""
    return next((a for a in reversed(instance.attempts) if a.is_act and not _did_not_happen(a)), None)


def _did_not_happen(attempt: Attempt) -> bool:
    if attempt.revoked:
        return True
    result = attempt.result.message if attempt.result is not None else event_pb2.Result()
    return result.HasField("failure") and result.happened == event_pb2.HAPPENED_NO
