"""What a run's effects have come to, by currency: what rules call `spent`, and what a budget bounds.

Every amount of money among the arguments of an action that was authorised counts from then on, once for all
attempts at its instance, unless it is known that it did not happen. So nothing in flight is forgotten. A
default that the contract states counts where the argument is left out, since the tool will act with it. So do
amounts within lists and objects, where the contract says that there are any. An amount below nothing hides
none above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from core import values
from core.cedar_schema import Record, amounts_within, arguments_of, objects_within
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

MAX_AMOUNT_BYTES = 1_024
MAX_AMOUNTS_BYTES = values.MAX_INLINE_BYTES // 2
"""Of one amount, and of an argument with several: below what is moved out of the log, and would not count."""


def spent(state: RunState) -> dict[str, Counter[str]]:
    """Return minor units by currency, for each instance that has spent any."""
    effects = {n: c for n, c in state.contracts.items() if c.effect != tool_pb2.EFFECT_READ}
    seen = {name: arguments_of(contract.input_schema) for name, contract in effects.items()}
    if not any(one.money or one.within for one in seen.values()):
        return {}
    found: dict[str, Counter[str]] = {}
    for instance in state.instances.values():
        attempt = _that_counts(instance)
        if attempt is not None and attempt.action is not None and attempt.action.tool in effects:
            held = attempt.action.arguments
            money = seen[attempt.action.tool].money.union(seen[attempt.action.tool].within)
            # What has been moved out of the log is no amount: see `uncountable`.
            inline = {name for name in money & held.keys() if held[name].WhichOneof("kind") == "json"}
            arguments = {name: values.load(held[name], {}) for name in inline}
            amounts = amounts_in(effects[attempt.action.tool], arguments, held.keys() - inline)
            if amounts:
                found[instance.id] = amounts
    return found


def amounts_in(
    contract: tool_pb2.ToolContract, arguments: Mapping[str, Any], unknown: Collection[str] = ()
) -> Counter[str]:
    """Return what an action with an effect comes to, by currency, as far as its arguments are known."""
    found: Counter[str] = Counter()
    if contract.effect == tool_pb2.EFFECT_READ:
        return found
    seen = arguments_of(contract.input_schema)
    for name in seen.money.difference(unknown):
        field = seen.record.fields[name]
        amount = arguments.get(name, field.default)
        if isinstance(amount, Mapping) and isinstance(field.shape, Record):
            members = field.shape.fields
            minor, currency = (amount.get(n, members[n].default) for n in ("minor", "currency"))
            if isinstance(minor, int) and minor > 0:
                found[str(currency)] += minor
    for name in seen.within.keys() - set(unknown):
        for amount in amounts_within(arguments.get(name, seen.within[name])):
            found[str(amount.get("currency"))] += max(0, amount["minor"])
    return +found


def has_money(contract: tool_pb2.ToolContract, arguments: Collection[str]) -> bool:
    """Whether any of the arguments of an effect is money, or may hold some."""
    if contract.effect == tool_pb2.EFFECT_READ:
        return False
    seen = arguments_of(contract.input_schema)
    return not seen.money.union(seen.within).isdisjoint(arguments)


def uncountable(contract: tool_pb2.ToolContract, arguments: Mapping[str, Any]) -> str:
    """Say which amount could not be counted when only the log is left; "" where all can."""
    if contract.effect == tool_pb2.EFFECT_READ:
        return ""
    seen = arguments_of(contract.input_schema)
    for name in sorted(seen.money.union(seen.within) & arguments.keys()):
        size = len(values.encode(arguments[name]).encode())
        most = MAX_AMOUNT_BYTES if name in seen.money else MAX_AMOUNTS_BYTES
        if size > most:
            bound = f"it has {size:,} bytes, and at most {most:,} are counted"
            return f"what '{name}' comes to would go uncounted: {bound}"
    for name, default in seen.within.items():
        held = arguments.get(name, default)
        if any("currency" not in amount for amount in amounts_within(held)):
            return f"what '{name}' comes to would go uncounted: an amount in it names no currency"
        amounts = (one["minor"] for one in objects_within(held) if {"minor", "currency"} <= one.keys())
        if any(minor is not None and not isinstance(minor, int) for minor in amounts):
            return f"what '{name}' comes to would go uncounted: an amount in it is no whole number"
    return ""


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
