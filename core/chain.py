"""Chains: reads of one toolbox, each of which only the next one waits for, asked for at once.

Nothing is lost by carrying them out one after another, and nothing can go wrong between them that has to be
decided: a read has no effect. Effects are never chained. What a read takes from an earlier one of its chain
is pending until the worker has it.
"""

from __future__ import annotations

from collections.abc import Collection

from core import values
from core.plan import BadReference, Unresolved, canonical_route, parse_reference, resolve
from core.shape import Shape
from core.state import Attempt, Instance, RunState
from handrail.v1 import plan_pb2, tool_pb2

MAX_CHAIN = 16


def next_link(state: RunState, shape: Shape, chain: Collection[str], last: str, toolbox: str) -> str | None:
    """Return the step that can be asked for together with a chain that ends so far with `last`."""
    waiting = [step for step in shape.needed_by[last] if not state.instances[step].settled]
    # Whatever else waits for the last one must wait for the next as well, or it would lose time.
    found = next(
        (s for s in waiting if all(s == other or s in shape.needs[other] for other in waiting)), None
    )
    if found is None or not _is_untouched(state, state.instances[found]):
        return None
    step = shape.steps[found]
    if canonical_route(step) != plan_pb2.ROUTE_DIRECT or step.each or step.when:
        return None
    contract = state.contracts.get(step.tool)
    if contract is None or contract.effect != tool_pb2.EFFECT_READ or contract.toolbox != toolbox:
        return None
    others = shape.needs[found].difference(chain)
    return found if all(state.instances[need].settled == "done" for need in others) else None


def pending(step: plan_pb2.Step, chain: Collection[str]) -> dict[str, plan_pb2.Argument]:
    """Return the arguments of a step that refer to what its chain has yet to read."""
    found = {}
    for name, argument in step.arguments.items():
        if argument.WhichOneof("form") == "reference" and _root(argument.reference) in chain:
            found[name] = argument
    return found


def took_what_counts(state: RunState, attempt: Attempt) -> bool:
    """Whether a read was made with the outputs that count of those before it in its chain.

    Where two workers read a chain, each goes on with what it has read itself, and what came first counts. Of
    large values only whole ones are compared.
    """
    if attempt.action is None or attempt.result is None:
        return True
    arguments = attempt.result.message.arguments
    for name, argument in attempt.action.pending.items():
        if name not in arguments:
            return False
        reference, used = parse_reference(argument.reference), arguments[name]
        output = state.instances[reference.root].output
        if output is None or used == output:
            continue
        if reference.path and (output.HasField("blob") or used.HasField("blob")):
            continue
        try:
            found = values.load(output, {})
            wanted = values.inline(resolve(reference, {reference.root: found}))
        except (values.NotLoaded, values.BadValue, Unresolved):
            return False
        if used != wanted:
            return False
    return True


def _is_untouched(state: RunState, instance: Instance) -> bool:
    current = instance.current
    return instance.heal is None and (current is None or current.revoked or state.left_behind(current))


def _root(reference: str) -> str:
    try:
        return parse_reference(reference).root
    except BadReference:
        return ""
