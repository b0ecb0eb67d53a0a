"""Steps of the route lam: the action model chooses among what a step was granted, and fills in what is open.

It reads what the step is for and what it was given, as one text. The closed set is that of the grants, so
what a customer writes can make it choose badly among these, and no more; what it proposes is checked against
the grant before it says so, and by the decider again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actors.models import Task
from actors.models.lam import shelf
from actors.models.lam.inputs import Leaf, TooMuch, text_of
from actors.models.lam.rivals import MAX_SENTENCES
from actors.models.lam.serving import Serving
from core import conformance, failures, grants, values
from handrail.v1 import event_pb2, plan_pb2, tool_pb2, trajectory_pb2

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.planning import Thought

MAX_REASON_CHARS = 500
MAX_SHOWN_CHARS = 60


class LamProposer:
    """Proposes what the model that serves is sure of."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def propose(self, task: Task, model: Model | None = None) -> event_pb2.Proposal:
        """Return a call within a grant, or what it was unsure of; asks the model that serves if no other."""
        try:
            model = model or await self._serving.current()
            if model is None:
                return _nothing(event_pb2.Proposal(), "this project has no action model that serves")
            return await self._serving.think(propose, model, task, self._serving.contracts)
        except shelf.BadModel as error:
            return _nothing(event_pb2.Proposal(), f"the action model cannot be used: {error}")
        except Exception as error:  # noqa: BLE001
            # The supervision point for a model: whatever goes wrong with it, the step gets an answer.
            what = f"{type(error).__name__}: {error}"
            return _nothing(event_pb2.Proposal(), f"the action model failed: {what}")


def propose(model: Model, task: Task, contracts: Mapping[str, tool_pb2.ToolContract]) -> event_pb2.Proposal:
    """Return what a model would do of what a step was granted, if it is sure enough to do or to ask it."""
    from actors.models.lam.answering import shown, thought_of

    found = event_pb2.Proposal(model=model.artifact.name, model_sha256=model.artifact.digest)
    try:
        text, leaves = text_of(task.title, task.inputs)
    except TooMuch as error:
        return _nothing(found, str(error))
    among: dict[str, frozenset[str]] = {}
    for grant in task.grants:
        among[grant.tool] = among.get(grant.tool, frozenset()) | grant.open.keys()
    told = [(leaf.start, leaf.end) for leaf in leaves[1:]]
    thought = model.thinker.choose(text, task.day, among, told)
    found.thought.CopyFrom(thought_of(model, thought))
    across = [
        name
        for step in found.thought.decisions
        for name, filled in step.call.arguments.items()
        if not _place(filled, leaves)
    ]
    asks = thought.outcome in ("unsure", "unread", "ask") and thought.sure > model.asks
    if thought.outcome != "plan" and not asks:
        return _nothing(found, reason_of(thought))
    if across:
        return _nothing(found, f"it may be {shown(thought.steps)}, but {across[0]} lies across two inputs")
    calls, refused = _calls(thought, task, contracts)
    if len(calls) == 1:
        found.call.CopyFrom(calls[0])
        found.call.unsure = doubt_of(thought) if asks else ""
        return found
    if calls:
        return _nothing(found, f"several of the grants allow {shown(thought.steps)}: it cannot tell which")
    why = "; ".join(f"{one.field}: {one.message}" for one in refused)
    return _nothing(found, f"it would do {shown(thought.steps)}, which it was not granted: {why}")


def _calls(
    thought: Thought, task: Task, contracts: Mapping[str, tool_pb2.ToolContract]
) -> tuple[list[event_pb2.Call], list[plan_pb2.Violation]]:
    """Return the call for each grant that allows it, and what the others say; the decider asks the same."""
    call = thought.steps[0].call
    given = {name: values.load(filled.value, {}) for name, filled in call.arguments.items()}
    calls: list[event_pb2.Call] = []
    refused: list[plan_pb2.Violation] = []
    for at, grant in enumerate(task.grants):
        if grant.tool != call.option:
            continue
        proposed = event_pb2.Call(grant=at, tool=grant.tool, reason=f"{thought.sure:.0%} sure")
        for name, filled in call.arguments.items():
            proposed.arguments[name].CopyFrom(filled.value)
        problems = grants.check_call(proposed, task.grants, given, task.inputs, contracts)
        # What is fixed is not known here, so what is missing is not, either.
        unfit = conformance.check_arguments(contracts[grant.tool], given)
        problems += [one for one in unfit if one.code != "missing_argument"]
        refused += problems
        calls += [] if problems else [proposed]
    return calls, refused


def reason_of(thought: Thought) -> str:
    """Say why there is no proposal."""
    from actors.models.lam.answering import shown
    from actors.models.lam.text import MAX_TOKENS

    if thought.outcome == "long":
        return f"it was given more than the {MAX_TOKENS} words that the action model reads"
    if thought.outcome == "none":
        return "nothing that it was granted does what the step is for"
    what = shown(thought.steps)
    if thought.outcome == "ask":
        return f"it would be {what}, but {doubt_of(thought)}"
    return f"it may be {what}, but {doubt_of(thought)}"


def doubt_of(thought: Thought) -> str:
    """Say why a thought is not sure enough to be acted on."""
    from actors.models.lam.answering import shown

    if thought.outcome == "ask":
        return f"nothing that it was given says {' and '.join(thought.steps[0].call.missing)}"
    if thought.outcome == "unread":
        return "that would act on nothing that it was given"
    if thought.left_over:
        return f"what it was given says {thought.left_over[:MAX_SHOWN_CHARS]!r}"
    if thought.rival is not None and not thought.rival.option:
        return f"it was given more than the {MAX_SENTENCES} sentences that it reads one by one"
    if thought.rival is not None:
        step = trajectory_pb2.PastStep(call=thought.rival)
        return f"what it was given may ask for {shown([step])} too"
    doubt = "what is wanted" if thought.doubtful == "option" else thought.doubtful
    sure, needed = f"{thought.sure:.0%}", f"{thought.needed:.0%}"
    return f"the action model is {sure} sure of {doubt}, and has to be {needed} sure"


def _place(filled: trajectory_pb2.FilledArgument, leaves: Sequence[Leaf]) -> bool:
    """Say of which input the words are that a value was read from; False where they are of several."""
    if filled.WhichOneof("source") != "span":
        return True
    start, end = filled.span.start, filled.span.end
    for leaf in leaves:
        if leaf.start <= start and end <= leaf.end:
            filled.input.path = leaf.path
            if leaf.skipped is not None:
                filled.input.start = start - leaf.start + leaf.skipped
                filled.input.end = end - leaf.start + leaf.skipped
            return True
    return False


def _nothing(found: event_pb2.Proposal, reason: str) -> event_pb2.Proposal:
    failure = failures.permanent(failures.NO_PROPOSAL, reason[:MAX_REASON_CHARS])
    found.failure.CopyFrom(failure)
    return found
