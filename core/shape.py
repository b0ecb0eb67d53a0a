"""What follows from a plan alone: kept, since a plan is looked at again at every event of its run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from core.plan import dependencies, tools
from handrail.v1 import plan_pb2

MAX_SHAPES = 256


@dataclass(frozen=True)
class Shape:
    """What follows from a plan alone."""

    plan: plan_pb2.Plan
    steps: Mapping[str, plan_pb2.Step]
    needs: Mapping[str, frozenset[str]]
    rank: Mapping[str, int]
    # By step, the steps that need it.
    needed_by: Mapping[str, tuple[str, ...]]

    @cached_property
    def tools(self) -> frozenset[str]:
        """The tools that it names."""
        return frozenset(name for step in self.plan.steps for name in tools(step))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the plan."""
        return hashlib.sha256(self.plan.SerializeToString(deterministic=True)).hexdigest()


_shapes: dict[int, Shape] = {}


def shape_of(plan: plan_pb2.Plan) -> Shape:
    """Return the shape of a plan; a plan is looked at again at every event of its run."""
    kept = _shapes.get(id(plan))
    if kept is not None and kept.plan is plan:
        return kept
    while len(_shapes) >= MAX_SHAPES:
        _shapes.pop(next(iter(_shapes)))
    steps = {step.id: step for step in plan.steps}
    needs = dependencies(plan)
    needed_by: dict[str, list[str]] = {step: [] for step in steps}
    for step, needed in needs.items():
        for one in needed & steps.keys():
            needed_by[one].append(step)
    shape = Shape(
        plan,
        steps,
        needs,
        {step: i for i, step in enumerate(steps)},
        {step: tuple(others) for step, others in needed_by.items()},
    )
    _shapes[id(plan)] = shape
    return shape
