"""Steps of the route lam: the action model chooses among what a step was granted, and fills in what is open.

It reads what the step is for and what it was given, as one text. The closed set is that of the grants, so
what a customer writes can make it choose badly among these, and no more; what it proposes is checked against
the grant before it says so, and by the decider again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.models import Task
from actors.models.lam import shelf
from actors.models.lam.serving import Serving
from core import failures, grants, values
from core.slots import is_money, write_money
from handrail.v1 import event_pb2, plan_pb2, tool_pb2, trajectory_pb2

if TYPE_CHECKING:
    from actors.models.lam.answering import Model

MAX_REASON_CHARS = 500
MAX_LEAVES = 64
MAX_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value of an input as text, and where it stands in what is read; the title has no path."""

    path: str
    start: int
    end: int


class LamProposer:
    """Proposes what the model that serves is sure of."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def propose(self, task: Task) -> event_pb2.Proposal:
        """Return a call within a grant, or what it was unsure of."""
        try:
            model = await self._serving.current()
            if model is None:
                return _nothing(event_pb2.Proposal(), "this project has no action model that serves")
            return await asyncio.to_thread(propose, model, task, self._serving.contracts)
        except shelf.BadModel as error:
            return _nothing(event_pb2.Proposal(), f"the action model cannot be used: {error}")
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the step gets an answer.
            what = f"{type(error).__name__}: {error}"
            return _nothing(event_pb2.Proposal(), f"the action model failed: {what}")


def propose(model: Model, task: Task, contracts: Mapping[str, tool_pb2.ToolContract]) -> event_pb2.Proposal:
    """Return what a model would do of what a step was granted, if it is sure enough."""
    from actors.models.lam.answering import reason_of, shown, thought_of

    text, leaves = text_of(task.title, task.inputs)
    among: dict[str, frozenset[str]] = {}
    for grant in task.grants:
        among[grant.tool] = among.get(grant.tool, frozenset()) | grant.open.keys()
    thought = model.thinker.choose(text, task.day, among)
    found = event_pb2.Proposal(model=model.artifact.name, model_sha256=model.artifact.card.digest)
    told = thought_of(model, thought)
    for step in told.decisions:
        for filled in step.call.arguments.values():
            _place(filled, leaves)
    found.thought.CopyFrom(told)
    if thought.outcome != "plan":
        reason = reason_of(thought, model.options) or "nothing that it was granted does what the step is for"
        return _nothing(found, reason)
    call = thought.steps[0].call
    (decided,) = told.decisions
    if any(filled.HasField("span") for filled in decided.call.arguments.values()):
        return _nothing(found, f"it may be {shown(thought.steps)}, but a value lies across two inputs")
    refused: list[plan_pb2.Violation] = []
    given = {name: values.load(filled.value, {}) for name, filled in call.arguments.items()}
    for at, grant in enumerate(task.grants):
        if grant.tool != call.option:
            continue
        proposed = event_pb2.Call(grant=at, tool=grant.tool, reason=f"{thought.sure:.0%} sure")
        for name, filled in call.arguments.items():
            proposed.arguments[name].CopyFrom(filled.value)
        problems = grants.check_call(proposed, task.grants, given, task.inputs, contracts)
        if not problems:
            found.call.CopyFrom(proposed)
            return found
        refused += problems
    why = "; ".join(f"{one.field}: {one.message}" for one in refused)
    return _nothing(found, f"it would do {shown(thought.steps)}, which it was not granted: {why}")


def text_of(title: str, inputs: Mapping[str, Any]) -> tuple[str, list[Leaf]]:
    """Return what the model reads of a step, and where each value stands in it."""
    parts = [title.strip() or "Decide what to do"]
    leaves = [Leaf("", 0, len(parts[0]))]
    at = len(parts[0]) + 2
    for path, told in _leaves("", inputs, 0):
        label = path.replace(".", " ").replace("_", " ")
        start = at + len(label) + 2
        leaves.append(Leaf(path, start, start + len(told)))
        parts.append(f"{label}: {told}")
        at = start + len(told) + 1
        if len(leaves) > MAX_LEAVES:
            break
    return ":\n".join((parts[0], "\n".join(parts[1:]))) if len(parts) > 1 else parts[0], leaves


def _leaves(path: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the values within a value that can be said in words."""
    if isinstance(value, Mapping) and not is_money(value):
        if depth < MAX_DEPTH:
            for name in value:
                yield from _leaves(f"{path}.{name}" if path else str(name), value[name], depth + 1)
        return
    if is_money(value):
        yield path, write_money(value["minor"], value["currency"])
    elif isinstance(value, bool):
        yield path, "true" if value else "false"
    elif isinstance(value, str | int | float):
        yield path, str(value).strip()
    elif isinstance(value, Sequence) and value and all(isinstance(one, str | int) for one in value):
        yield path, ", ".join(map(str, value))


def _place(filled: trajectory_pb2.FilledArgument, leaves: Sequence[Leaf]) -> None:
    """Say of which input the words are that a value was read from, if they are of one."""
    if filled.WhichOneof("source") != "span":
        return
    start, end = filled.span.start, filled.span.end
    for leaf in leaves:
        if leaf.start <= start and end <= leaf.end:
            filled.input.path = leaf.path
            filled.input.start, filled.input.end = start - leaf.start, end - leaf.start


def _nothing(found: event_pb2.Proposal, reason: str) -> event_pb2.Proposal:
    failure = failures.permanent(failures.NO_PROPOSAL, reason[:MAX_REASON_CHARS])
    found.failure.CopyFrom(failure)
    return found
