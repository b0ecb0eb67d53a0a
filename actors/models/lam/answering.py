"""What the planner answers of a thought: a plan, or why there is none and what would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.models import Goal
from actors.models.lam import artifact
from actors.models.lam.assembling import assemble
from actors.models.lam.calibration import Calibration
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decider
from actors.models.lam.layout import MAX_PAST
from actors.models.lam.network import Encode, Network
from actors.models.lam.options import PLAYBOOK, Option
from actors.models.lam.planning import ASKS, EFFECT_WORDS, Thinker, Thought
from actors.models.lam.shelf import DIGEST_CHARS, BadModel
from actors.models.lam.text import MAX_TOKENS
from actors.models.lam.together import Together
from core import values
from core.joining import CannotJoin
from core.playbook import BadPlaybook, Playbook
from core.redaction import MASK, is_secret_name
from core.slots import BadSlot
from handrail.v1 import event_pb2, trajectory_pb2

_SHOWN_CHARS = 60


Reads = Callable[[Network], Encode]
"""Of a network, how situations are read."""


def alone(network: Network) -> Encode:
    """Read in NumPy, each asker for itself."""
    return network.encode


def reads_with(device: str, batch: int) -> Reads:
    """Return how situations are read on a device, so many at once; raises BadModel where there is none."""

    def reads(network: Network) -> Encode:
        encode = _on(device, network) if device else network.encode
        return encode if batch == 1 else Together(encode, batch)

    return reads


def _on(device: str, network: Network) -> Encode:
    try:
        from actors.models.lam.torch_reader import TorchReader

        return TorchReader(network.weights, network.measures, device)
    except ImportError:
        told = f"[lam] device = {device!r} needs torch: install Handrail with its extra `gpu`"
        raise BadModel(told) from None
    except (RuntimeError, AssertionError) as error:
        # What torch raises of a device depends on how it was built.
        told = f"[lam] device = {device!r} cannot be used: {str(error).splitlines()[0]}"
        raise BadModel(told) from None


@dataclass(frozen=True)
class Model:
    """A model that serves a project."""

    artifact: artifact.Artifact
    options: tuple[Option, ...]
    # Those that it was trained on as they are now.
    offered: frozenset[str]
    thinker: Thinker
    # Where it is surer than this, and not sure enough, it asks whether that is meant.
    asks: float = ASKS

    @property
    def digest(self) -> str:
        """What its folder is named."""
        return self.artifact.digest[:DIGEST_CHARS]


def open_model(
    folder: Path,
    options: Sequence[Option],
    thresholds: Mapping[str, float],
    asks: float = ASKS,
    reads: Reads = alone,
) -> Model:
    """Read a model for a project; `thresholds` replace its own; `reads` says how. Raises BadModel."""
    held = artifact.load(folder)
    card = held.card
    network = Network(held.weights, card.measures)
    offered = frozenset(one.name for one in options if card.fingerprints.get(one.name) == one.fingerprint)
    decider = Decider(network, ClosedSet(options), offered, reads(network))
    wanted = {**card.thresholds, **thresholds}
    needed = {int(number): wanted.get(word, 1.0) for number, word in EFFECT_WORDS.items()}
    thinker = Thinker(decider, Calibration.from_json(card.curves), needed, card.words)
    return Model(held, tuple(options), offered, thinker, asks)


def answer(model: Model, goal: Goal, playbooks: Mapping[str, Playbook]) -> event_pb2.PlanAnswer:
    """Return the plan that a model is sure of, or what it was unsure of and would do if it were sure."""
    thought = model.thinker.think(goal.text, goal.day, goal.context)
    found = event_pb2.PlanAnswer(thought=thought_of(model, thought))
    if thought.outcome == "plan" or (thought.outcome == "unsure" and thought.sure > model.asks):
        try:
            plan = assemble(thought.steps, {one.name: one for one in model.options}, playbooks)
        except (BadPlaybook, BadSlot, CannotJoin, values.BadValue) as error:
            found.no_plan.reason = f"it reads like {shown(thought.steps)}, but {error}"
            return found
        plan.origin, plan.origin_sha256 = model.artifact.name, model.artifact.digest
        if thought.outcome == "plan":
            found.plan.CopyFrom(plan)
            return found
        found.no_plan.plan.CopyFrom(plan)
    found.no_plan.reason = reason_of(thought, model.options)
    if thought.outcome == "ask":
        found.no_plan.missing.extend(thought.steps[-1].call.missing)
    if thought.steps and thought.outcome != "none":
        found.no_plan.nearest.append(shown(thought.steps))
    return found


def thought_of(model: Model, thought: Thought) -> event_pb2.ModelThought:
    """Return what the log keeps of a thought; what was given in the context stands there already."""
    told = event_pb2.ModelThought(
        model=model.artifact.name,
        model_sha256=model.artifact.digest,
        decisions=thought.steps,
        sure=thought.sure,
        needed=thought.needed,
        doubtful=thought.doubtful,
        left_over=thought.left_over,
        raw=thought.raw,
        alternatives=dict(thought.alternatives),
    )
    if thought.otherwise is not None:
        told.otherwise.decisions.extend(thought.otherwise)
    for step in (*told.decisions, *told.otherwise.decisions):
        for filled in step.call.arguments.values():
            if filled.HasField("context"):
                filled.ClearField("value")
    return told


def reason_of(thought: Thought, options: Sequence[Option]) -> str:
    """Say why there is no plan, and what would help; nothing where nothing was understood."""
    if thought.outcome == "long":
        return (
            f"the action model reads goals of up to {MAX_TOKENS} words, and plans of up to {MAX_PAST} steps"
        )
    if thought.outcome == "ask":
        call = thought.steps[-1].call
        names = " and ".join(call.missing)
        (option,) = (one for one in options if one.name == call.option)
        unsayable = any(one.name in call.missing and one.kind == "other" for one in option.parameters)
        help_ = "give it in the context" if unsayable else "say it, or give it in the context"
        return f"it reads like {shown(thought.steps)}, but nothing is said of {names}: {help_}"
    if thought.left_over:
        left = thought.left_over[:_SHOWN_CHARS]
        return (
            f"it may read like {shown(thought.steps)}, but that leaves {left!r} unread: say it in other words"
        )
    if thought.otherwise is not None:
        return f"{_read_otherwise(thought.steps, thought.otherwise)}: say it in other words"
    if thought.outcome == "unsure":
        doubt = "what is wanted" if thought.doubtful == "option" else thought.doubtful
        sure, needed = (f"{100 * share:.0f} %" for share in (thought.sure, thought.needed))
        return (
            f"it may read like {shown(thought.steps)}, but the action model is {sure} sure of {doubt}, "
            f"and has to be {needed} sure: say it in other words"
        )
    return ""


def _read_otherwise(
    steps: Sequence[trajectory_pb2.PastStep], otherwise: Sequence[trajectory_pb2.PastStep]
) -> str:
    """Say what a goal may read like, and what it reads like with a greeting before it."""
    read, other = shown(steps), shown(otherwise) or "nothing that it knows"
    if otherwise and otherwise[-1].call.missing:
        other += f" without {' and '.join(otherwise[-1].call.missing)}"
    # Of what is long or secret the difference may not be shown.
    other = "that with something else in it" if other == read else other
    return f"it may read like {read}, but with a greeting before it like {other}"


def shown(steps: Sequence[trajectory_pb2.PastStep]) -> str:
    """Write decisions as a person reads them: refund(order=1001)."""
    return ", then ".join(_shown(step.call) for step in steps)


def _shown(call: trajectory_pb2.OptionCall) -> str:
    arguments = (f"{name}={_argument(name, call.arguments[name])}" for name in sorted(call.arguments))
    return f"{call.option.removeprefix(PLAYBOOK)}({', '.join(arguments)})"


def _argument(name: str, filled: trajectory_pb2.FilledArgument) -> str:
    if filled.HasField("field"):
        return f"${filled.field.step}.{filled.field.path}"
    if filled.HasField("context"):
        return f"$goal.{filled.context.key}"
    text = MASK if is_secret_name(name) else filled.value.json
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
