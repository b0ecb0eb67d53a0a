"""The plan of what was decided: playbooks with their slots filled in, and tools, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.models.lam.options import PLAYBOOK, Option
from core import values
from core.joining import MAX_TITLE_CHARS, Part, joined
from core.playbook import BadPlaybook, Playbook, instantiate
from handrail.v1 import plan_pb2, tool_pb2, trajectory_pb2


def assemble(
    steps: tuple[trajectory_pb2.PastStep, ...],
    options: Mapping[str, Option],
    playbooks: Mapping[str, Playbook],
) -> plan_pb2.Plan:
    """Return the plan of what was decided; raises BadPlaybook, BadSlot or CannotJoin."""
    return joined([_part(step, options[step.call.option], playbooks) for step in steps])


def _part(step: trajectory_pb2.PastStep, option: Option, playbooks: Mapping[str, Playbook]) -> Part:
    acts = option.effect > tool_pb2.EFFECT_READ
    if option.is_playbook:
        playbook = playbooks[option.name.removeprefix(PLAYBOOK)]
        return Part(step.id, instantiate(playbook, _slots(playbook, step.call)), acts)
    plan = plan_pb2.Plan(title=_title(option))
    made = plan.steps.add(id=step.id, title=_title(option), tool=option.name)
    for name, filled in step.call.arguments.items():
        if filled.WhichOneof("source") == "field":
            made.arguments[name].reference = f"${filled.field.step}.{filled.field.path}"
        else:
            made.arguments[name].constant.CopyFrom(filled.value)
    return Part(step.id, plan, acts)


def _title(option: Option) -> str:
    """The first paragraph of what an option says of itself, without what cannot be seen."""
    first = " ".join(option.text.split("\n\n")[0].split())
    return "".join(char for char in first if char.isprintable())[:MAX_TITLE_CHARS]


def _slots(playbook: Playbook, call: trajectory_pb2.OptionCall) -> dict[str, Any]:
    """Return the values of a playbook's slots, those that have a default included."""
    found = {}
    for name, slot in playbook.slots.items():
        if name in call.arguments:
            told = values.load(call.arguments[name].value, {})
            # What was read of the goal has been read as what the slot is.
            found[name] = slot.accept(told) if call.arguments[name].HasField("context") else told
        elif slot.default is not None:
            found[name] = slot.sample
        else:
            raise BadPlaybook(f"nothing is said of {name}")
    return found
