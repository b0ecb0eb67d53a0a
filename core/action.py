"""An authorised action: everything that it may do is in it, and its permit is bound to that.

The permit is signed where the action is written, and not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import permits, values
from core.caller import DEFAULT_TENANT
from core.permits import Grounds
from core.plan import attempt_id, is_compensation
from core.state import Instance, RunState
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

PERMIT_LIFE_NS = 600_000_000_000
"""By the broker's clock. A worker compares with its own: one that is ahead has that much less of it, one that
is behind that much more; that an effect happens once is the claim's doing, and no clock's."""
MIN_TIMEOUT_NS = 100_000_000


def action_key(state: RunState, instance: Instance) -> str:
    """Return the idempotency key of an instance, the same for every attempt at it.

    Clients may choose the ids of their runs, so two tenants can have runs of one id; their keys differ.
    """
    tenant, run = state.key.tenant, state.key.run
    return f"{run}:{instance.id}" if tenant == DEFAULT_TENANT else f"{tenant}/{run}:{instance.id}"


def authorise(
    state: RunState,
    instance: Instance,
    step: plan_pb2.Step,
    contract: tool_pb2.ToolContract,
    arguments: Mapping[str, Any],
    now_ns: int,
    *,
    grounds: Grounds,
    pending: Mapping[str, plan_pb2.Argument] | None = None,
    kind: event_pb2.ActionKind.ValueType = event_pb2.ACTION_KIND_ACT,
    replaces: str = "",
    follows: str = "",
    original: int = 0,
) -> event_pb2.Action:
    """Return the next attempt at an instance as an action."""
    attempt = attempt_id(instance.id, len(instance.attempts) + 1)
    body = event_pb2.Action(
        attempt=attempt,
        step=instance.id,
        kind=kind,
        tool=contract.name,
        key=action_key(state, instance),
        replaces=replaces,
        post=step.post,
        original_sequence=original,
        resolves=instance.doubtful is not None,
        follows=follows,
    )
    for name, value in arguments.items():
        body.arguments[name].CopyFrom(values.inline(value))
    for name, argument in (pending or {}).items():
        body.pending[name].CopyFrom(argument)
    # An undo is made when the run has ended, however late that is.
    deadline_ns = 0 if is_compensation(instance.id) else state.deadline_ns
    body.timeout.FromNanoseconds(_timeout_ns(deadline_ns, step, contract, now_ns))
    permits.bind(body, state.key, contract.toolbox, arguments, grounds, now_ns + PERMIT_LIFE_NS)
    return body


def _timeout_ns(deadline_ns: int, step: plan_pb2.Step, contract: tool_pb2.ToolContract, now_ns: int) -> int:
    own = step.timeout.ToNanoseconds() if step.HasField("timeout") else int(contract.timeout_s * 1e9)
    if deadline_ns > now_ns:
        own = min(own, deadline_ns - now_ns)
    return max(own, MIN_TIMEOUT_NS)
