"""The shadow: what the model would have decided where something else did, and whether that is the same.

It is a projection of the log: the model is asked afterwards, and nothing that it says reaches a run. What
counts as right is what was verified, or that nothing was to be done.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.models.lam.answering import Model, shown
from actors.models.lam.collecting import collect
from actors.models.lam.evaluation import plain_of
from actors.models.lam.graduation import bound, kind_of
from actors.models.lam.proposing import propose
from actors.models.lam.verified import LAM, Call, said_by, task_of, wanted_of
from core import run, values
from core.playbook import Playbook
from core.ports import Record, RunKey
from core.state import Instance, RunState
from handrail.v1 import tool_pb2, trajectory_pb2

Said = Literal["same", "other", "asks", "asks other", "nothing"]
"""What the model would have done: unasked the same or something else, after asking, or nothing."""
_URGENCY: Mapping[Said, int] = {"same": 0, "asks": 1, "nothing": 2, "asks other": 3, "other": 4}


@dataclass(frozen=True)
class Seen:
    """A decision of somebody else's, and what the model would have decided."""

    run: str
    # The step; nothing where it is the goal.
    step: str
    # Of a step, as it graduates; of a goal "".
    kind: str
    name: str
    said: Said
    sure: float
    # What was decided, and what the model would have, in words.
    was: str
    would: str
    # What it was decided on: the same words count once.
    about: str


@dataclass(frozen=True)
class Tally:
    """What the decisions of one kind come to."""

    kind: str
    name: str
    seen: int
    # What the model would have done unasked, and how much of that is the same.
    acted: int
    same: int
    # Where it would have asked, and how often somebody would have been right to say yes.
    asked: int
    asked_same: int

    @property
    def bound(self) -> float:
        """What share of what it does unasked is at least the same, with 95 % confidence."""
        return bound(self.same, self.acted)


def tally(seen: Iterable[Seen]) -> list[Tally]:
    """Sum up by kind, what was decided in the same words once, by the worst of it."""
    kinds: dict[tuple[str, str], dict[str, Seen]] = {}
    for one in seen:
        held = kinds.setdefault((one.kind, one.name), {})
        before = held.get(one.about)
        if before is None or _URGENCY[one.said] > _URGENCY[before.said]:
            held[one.about] = one
    found = []
    for (kind, name), held in kinds.items():
        said = [one.said for one in held.values()]
        same, asks = said.count("same"), said.count("asks")
        acted, asked = same + said.count("other"), asks + said.count("asks other")
        found.append(Tally(kind, name, len(said), acted, same, asked, asks))
    return sorted(found, key=lambda one: (not one.kind, -one.seen, one.name))


def shadow(
    model: Model,
    key: RunKey,
    records: Sequence[Record],
    playbooks: Sequence[Playbook],
    contracts: Mapping[str, tool_pb2.ToolContract],
) -> Iterator[Seen]:
    """Yield what the model would have decided of a run; `contracts` and `playbooks` are those of now."""
    state = run.fold(key, records)
    if state.forgotten is not None or state.submit is None or not state.over or state.plan is None:
        return
    if (goal := _of_goal(model, state, key, records, playbooks)) is not None:
        yield goal
    for instance in state.instances.values():
        if (step := _of_step(model, state, instance, contracts)) is not None:
            yield step


# --- steps -------------------------------------------------------------------------------------------


def _of_step(
    model: Model, state: RunState, instance: Instance, contracts: Mapping[str, tool_pb2.ToolContract]
) -> Seen | None:
    task = task_of(instance)
    if task is None or (wanted := wanted_of(state, instance)) is None:
        return None
    if any(one.tool not in contracts for one in task.grants):
        return None
    found = propose(model, task, contracts)
    call = said_by(found.call) if found.HasField("call") else None
    right = call is not None and call[0] == wanted[0] and _plain(call[1]) == _plain(wanted[1])
    return Seen(
        run=state.key.run,
        step=instance.id,
        kind=kind_of(task.title, task.inputs, task.grants),
        name=task.title or " or ".join(dict.fromkeys(one.tool for one in task.grants)),
        said=_said(call is not None, bool(found.call.unsure), right),
        sure=found.thought.sure,
        was=_words(wanted) or "nothing",
        would=_words(call) if call is not None else found.failure.message,
        about=values.digest(values.encode(dict(task.inputs))),
    )


def _said(acts: bool, unsure: bool, right: bool) -> Said:
    if not acts:
        return "nothing"
    if unsure:
        return "asks" if right else "asks other"
    return "same" if right else "other"


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain_of(value) for name, value in arguments.items()}


def _words(call: Call) -> str:
    tool, arguments = call
    steps = trajectory_pb2.PastStep(call=trajectory_pb2.OptionCall(option=tool))
    for name, value in arguments.items():
        steps.call.arguments[name].value.json = values.encode(value)
    return shown([steps]) if tool else ""


# --- goals -------------------------------------------------------------------------------------------


def _of_goal(
    model: Model, state: RunState, key: RunKey, records: Sequence[Record], playbooks: Sequence[Playbook]
) -> Seen | None:
    assert state.plan is not None
    if state.plan.origin.startswith(LAM) or state.goal.context.HasField("blob"):
        return None
    # Of its steps there are rows too, which say nothing of the goal.
    rows = [row for row in collect(key, records, playbooks).rows if not row.offered]
    if not rows or not all(row.trains for row in rows):
        return None
    wanted = rows[-1].past
    context = values.load(state.goal.context, {}) if state.goal.context.WhichOneof("kind") else {}
    thought = model.thinker.think(state.goal.text, _day(state.submitted_ns), context)
    right = _told(thought.steps) == _told(wanted)
    acts = thought.outcome == "plan"
    asks = thought.outcome == "unsure" and thought.sure > model.asks
    return Seen(
        run=state.key.run,
        step="",
        kind="",
        name=", ".join(dict.fromkeys(one.call.option for one in wanted)),
        said=_said(acts or asks, asks, right),
        sure=thought.sure,
        was=shown(wanted),
        would=shown(thought.steps) if thought.steps else thought.outcome,
        about=values.digest(values.encode([state.goal.text, context])),
    )


def _told(steps: Sequence[trajectory_pb2.PastStep]) -> list[tuple[str, dict[str, Any]]]:
    """Return decisions as they are compared: steps are known by their place, whatever they are called."""
    place = {step.id: number for number, step in enumerate(steps)}
    found = []
    for step in steps:
        arguments: dict[str, Any] = {}
        for name, filled in step.call.arguments.items():
            source = filled.WhichOneof("source")
            if source == "field":
                arguments[name] = (place.get(filled.field.step), filled.field.path)
            elif source == "context":
                arguments[name] = ("$goal", filled.context.key)
            else:
                arguments[name] = plain_of(values.load(filled.value, {}))
        found.append((step.call.option, arguments))
    return found


def _day(time_ns: int) -> datetime.date:
    return datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC).date()
