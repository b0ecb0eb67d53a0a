"""What a run's effects have come to, by currency: what rules call `spent`.

Every amount of money among the arguments of an action that was authorised counts from then on, once for all
attempts at its instance, unless it is known that it did not happen. So nothing in flight is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from core import values
from core.cedar_schema import arguments_of
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, tool_pb2


def spent(state: RunState) -> Mapping[str, Counter[str]]:
    """Return minor units by currency, for each instance that has spent any."""
    if not any(_money(contract) for contract in state.contracts.values()):
        return {}
    found: dict[str, Counter[str]] = {}
    for instance in state.instances.values():
        attempt = _that_counts(instance)
        if attempt is not None and attempt.action is not None:
            amounts = amounts_of(attempt.action, state.contracts[attempt.action.tool])
            if amounts:
                found[instance.id] = amounts
    return found


def amounts_of(action: event_pb2.Action, contract: tool_pb2.ToolContract) -> Counter[str]:
    """Return the minor units by currency that an action comes to."""
    found: Counter[str] = Counter()
    for name in _money(contract):
        if name in action.arguments and action.arguments[name].WhichOneof("kind") == "json":
            amount = values.load(action.arguments[name], {})
            if amount is not None:
                found[amount["currency"]] += amount["minor"]
    return found


def _money(contract: tool_pb2.ToolContract) -> frozenset[str]:
    if contract.effect == tool_pb2.EFFECT_READ:
        return frozenset()
    return arguments_of(contract.input_schema).money


def _that_counts(instance: Instance) -> Attempt | None:
    """Return the last attempt that acted or may have, or may yet."""
    return next((a for a in reversed(instance.attempts) if a.is_act and not _did_not_happen(a)), None)


def _did_not_happen(attempt: Attempt) -> bool:
    if attempt.revoked:
        return True
    result = attempt.result.message if attempt.result is not None else event_pb2.Result()
    return result.HasField("failure") and result.happened == event_pb2.HAPPENED_NO
