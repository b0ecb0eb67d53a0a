"""What is asked of the stack, by the seed: goals with their plans, and the commands that race with them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.models import Goal
from core import values
from core.plan_form import plan_from_form
from handrail.v1 import event_pb2, plan_pb2
from tests.simulation.tools import EFFECTS, UNDOABLE

Command = Literal["pause", "resume", "cancel"]
MAX_STEPS = 7
MAX_ITEMS = 3


@dataclass(slots=True)
class Draft:
    """A goal as a client submits it, and what the client does with its run later."""

    label: str
    plan: plan_pb2.Plan
    # What the planner says when it is asked, in turn; the last for ever.
    planned: list[str] = field(default_factory=list)
    submit_s: float = 0.0
    # After its submission; 0 means none.
    deadline_s: float = 0.0
    commands: list[tuple[float, Command]] = field(default_factory=list)
    max_heals: int = 0
    submitter: str = ""
    undo_on_failure: bool = False

    @property
    def goal(self) -> event_pb2.Goal:
        """Return the goal, but for its deadline."""
        context = values.inline({"items": [1, 2], "n": 1})
        goal = event_pb2.Goal(text=self.label, context=context, submitter=self.submitter)
        goal.undo_on_failure = self.undo_on_failure
        goal.budget.max_heals = self.max_heals
        if not self.planned:
            goal.plan.CopyFrom(self.plan)
        return goal


def draw(seed: int | str) -> list[Draft]:
    """Draw the goals of a seed."""
    chance, regret = random.Random(f"{seed}/plans"), random.Random(f"{seed}/regret")
    drafts = [_draft(chance, f"goal{number}") for number in range(chance.choice((2, 3, 3, 4, 5)))]
    for draft in drafts:
        draft.undo_on_failure = regret.random() < 0.25
    if regret.random() < 0.6:
        drafts.append(_regretted(regret))
    return drafts


def _regretted(regret: random.Random) -> Draft:
    """Draw a goal of which much can be undone: effects that rest on each other, and some that do not."""
    steps: list[dict[str, Any]] = []
    for index in range(regret.randint(3, 5)):
        named = {"who": f"regret.s{index}", "n": regret.choice((1, 2, 3))}
        before = [step["id"] for step in steps if regret.random() < 0.4]
        tool = regret.choice(UNDOABLE)
        steps.append({"id": f"s{index}", "tool": tool, "with": named, "after": before})
    plan = plan_from_form({"title": "regret", "steps": steps})
    draft = Draft("regret", plan, submit_s=regret.uniform(0.0, 2.0))
    draft.undo_on_failure = regret.random() < 0.5
    return draft


def _draft(chance: random.Random, label: str) -> Draft:
    draft = Draft(label, plan_from_form({"title": label, "steps": _Steps(chance, label).draw()}))
    draft.submit_s = chance.uniform(0.0, 3.0)
    if chance.random() < 0.35:
        draft.planned = [*chance.choice(((), (), ("crash",), ("crash", "crash"))), "plan"]
        if chance.random() < 0.1:
            draft.planned = [chance.choice(("no plan", "bad plan"))]
    if chance.random() < 0.25:
        draft.deadline_s = chance.uniform(0.5, 15.0)
    if chance.random() < 0.3:
        at_s = chance.uniform(0.0, 8.0)
        draft.commands.append((at_s, "pause"))
        # Some forget it: such a run rests until its deadline, if it has one.
        if chance.random() < 0.7:
            draft.commands.append((at_s + chance.uniform(0.0, 6.0), "resume"))
    if chance.random() < 0.2:
        draft.commands.append((chance.uniform(0.0, 8.0), "cancel"))
    draft.commands.sort()
    draft.max_heals = chance.choice((0, 0, 0, 0, 3))
    return draft


class _Steps:
    """A plan in the making: steps that refer to some of those before them."""

    def __init__(self, chance: random.Random, label: str) -> None:
        self._chance = chance
        self._label = label
        self._steps: list[dict[str, Any]] = []
        # Earlier steps by what they return.
        self._numbers: list[str] = []
        self._lists: list[str] = []

    def draw(self) -> list[dict[str, Any]]:
        chance = self._chance
        for index in range(chance.randint(1, MAX_STEPS)):
            name = f"s{index}"
            make = chance.choices(
                (self._act, self._look, self._chained, self._list, self._each, self._choose, self._story),
                (7, 2, 6, 2, 3, 3, 0.2),
            )[0]
            step = make(name)
            if self._steps and chance.random() < 0.25:
                step["after"] = [chance.choice(self._steps)["id"]]
            if self._numbers and chance.random() < 0.15:
                step["when"] = f"{chance.choice(self._numbers)} >= {chance.choice((0, 0, 2, 9))}"
            if chance.random() < 0.1:
                step["max_attempts"] = chance.randint(1, 3)
            self._steps.append(step)
            if make in (self._act, self._look, self._chained):
                self._numbers.append(name)
            elif make == self._list:
                self._lists.append(name)
        return self._steps

    def _n(self) -> Any:
        """Return a number, or a reference to one."""
        if self._numbers and self._chance.random() < 0.5:
            return f"${self._chance.choice(self._numbers)}"
        return self._chance.choice((1, 2, 3, "$goal.n"))

    def _with(self, name: str, n: Any) -> dict[str, Any]:
        return {"who": f"{self._label}.{name}", "n": n}

    def _act(self, name: str) -> dict[str, Any]:
        step = {"id": name, "tool": self._chance.choice(EFFECTS), "with": self._with(name, self._n())}
        if self._chance.random() < 0.15:
            step["post"] = "output == args.n"
        return step

    def _look(self, name: str) -> dict[str, Any]:
        return {"id": name, "tool": "look", "with": {"n": self._n()}}

    def _chained(self, name: str) -> dict[str, Any]:
        """A read that refers to the step before, which may wait for nobody else."""
        last = self._steps[-1]["id"] if self._steps else ""
        tool = self._chance.choice(("look", "glance"))
        return {"id": name, "tool": tool, "with": {"n": f"${last}" if last in self._numbers else 1}}

    def _list(self, name: str) -> dict[str, Any]:
        return {"id": name, "tool": "numbers", "with": {"count": self._chance.randint(0, MAX_ITEMS)}}

    def _story(self, name: str) -> dict[str, Any]:
        return {"id": name, "tool": "story", "with": {"n": 1}}

    def _each(self, name: str) -> dict[str, Any]:
        items = f"${self._chance.choice(self._lists)}" if self._lists else "$goal.items"
        tool = self._chance.choice((*EFFECTS, "look"))
        named = {"n": "$each"} if tool == "look" else self._with(name, "$each")
        return {"id": name, "tool": tool, "each": items, "with": named}

    def _choose(self, name: str) -> dict[str, Any]:
        one, other = self._chance.choice(EFFECTS), self._chance.choice(EFFECTS)
        rules = [
            {"when": "input.n > 1", "tool": one, "with": self._with(name, "$input.n")},
            {"tool": other, "with": self._with(name, 1)},
        ]
        return {"id": name, "with": {"n": self._n()}, "choose": rules}


class PlannerCrash(Exception):
    """What the planner's model raises now and then."""


class DrawnPlans:
    """A model for the planner: it knows the plans of the seed, and sometimes fails to say one."""

    def __init__(self, drafts: list[Draft]) -> None:
        self._drafts = {draft.label: draft for draft in drafts}

    async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
        """Return the plan of the goal."""
        draft = self._drafts[goal.text]
        said = draft.planned.pop(0) if len(draft.planned) > 1 else draft.planned[0]
        if said == "crash":
            raise PlannerCrash("no idea")
        if said == "no plan":
            none = event_pb2.NoPlan(reason="there is none", nearest=["something else"])
            return event_pb2.PlanAnswer(no_plan=none)
        if said == "bad plan":
            return event_pb2.PlanAnswer(
                plan=plan_from_form({"steps": [{"id": "s0", "tool": "no_such_tool"}]})
            )
        return event_pb2.PlanAnswer(plan=draft.plan)
