"""What a step refers to: that it exists, and that the path into it is one that the value can have.

A path is judged by the output schemas, where they say enough to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from core import plan, schemas, spelling, values
from core.violations import Found, show
from handrail.v1 import plan_pb2, tool_pb2

Nodes = tuple[schemas.Node, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a plan may be."""

    max_steps: int = plan.MAX_STEPS
    max_arguments: int = 64
    max_plan_bytes: int = 512 * 1024
    max_rules: int = 64
    max_after: int = 100
    max_attempts: int = 20
    max_title_chars: int = 200
    # Whether there are executors that propose: without them no step can take the route lam.
    proposers: bool = False


@dataclass
class Surroundings:
    """What stands around the steps of one plan."""

    steps: dict[str, plan_pb2.Step]
    contracts: Mapping[str, tool_pb2.ToolContract]
    context: plan_pb2.Value  # of the goal
    found: Found
    limits: Limits
    ceiling: int

    @cached_property
    def goal(self) -> Any:
        """The goal's context, read once; raises BadValue, and NotLoaded where it is large."""
        return values.load(self.context, {}) if self.context.WhichOneof("kind") else {}

    def output(self, step: plan_pb2.Step) -> Nodes | None:
        """Return what is known of one output of a step; None where nothing is."""
        nodes: list[schemas.Node] = []
        for name in plan.tools(step):
            if name not in self.contracts:
                return None
            nodes.extend(schemas.compile_schema(self.contracts[name].output_schema).nodes)
        return tuple(nodes) or None


class References:
    """The references of one step, which stands at `where` in its plan."""

    def __init__(self, around: Surroundings, where: str, step: plan_pb2.Step) -> None:
        self.around = around
        self.where = where
        self.step = step

    def add(self, field: str, code: str, message: str) -> None:
        """Note a violation of this step."""
        self.around.found.add(f"{self.where}.{field}", code, message)

    def known(self, field: str, name: str) -> bool:
        """Check that a step that this one needs exists, and is another."""
        if name == self.step.id:
            self.add(field, "self_reference", "a step cannot wait for itself")
        elif name not in self.around.steps:
            self.add(
                field,
                "unknown_step",
                f"there is no step {show(name)}{spelling.hint(name, self.around.steps)}",
            )
        return name != self.step.id and name in self.around.steps

    def unknown_input(self, field: str, name: str) -> None:
        """Note a reference to an input that the step does not have."""
        hint = spelling.hint(name, self.step.arguments)
        self.add(field, "unknown_input", f"the step has no input '{name}'{hint}")

    def check(self, field: str, text: str, *, in_rule: bool) -> Nodes | None:
        """Check a reference; return what is known of the value that it leads to."""
        try:
            reference = plan.parse_reference(text)
        except plan.BadReference as error:
            self.add(field, "bad_reference", str(error))
            return None
        if reference.root == "goal":
            self._goal_reference(field, reference)
            return None
        if reference.root == "input":
            self._input_reference(field, reference, in_rule=in_rule)
            return None
        if reference.root == "each":
            return self._follow(field, reference, self._items(field))
        if self.known(field, reference.root):
            return self._step_reference(field, reference)
        return None

    def _step_reference(self, field: str, reference: plan.Reference) -> Nodes | None:
        step = self.around.steps[reference.root]
        nodes = self.around.output(step)
        if not step.each:
            return self._follow(field, reference, nodes)
        if not reference.path:
            return None
        item, *path = reference.path
        if isinstance(item, str):
            why = f"step '{step.id}' has 'each', so its output is a list"
            self.add(field, "unknown_path", f"{reference}: {why}")
            return None
        return self._follow(field, plan.Reference(f"{reference.root}[{item}]", tuple(path)), nodes)

    def _follow(self, field: str, reference: plan.Reference, nodes: Nodes | None) -> Nodes | None:
        for depth, part in enumerate(reference.path):
            if nodes is None:
                return None
            inner = schemas.descend(nodes, part)
            if inner == ():
                known = schemas.names(nodes) if isinstance(part, str) else ()
                hint = spelling.hint(part, known) if isinstance(part, str) and known else ""
                here = plan.Reference(reference.root, reference.path[:depth])
                shown = f"'{part}'" if isinstance(part, str) else f"[{part}]"
                self.add(field, "unknown_path", f"{reference}: {here} has no {shown}{hint}")
                return None
            nodes = inner
        return nodes

    def _items(self, field: str) -> Nodes | None:
        """Return what is known of `$each`."""
        if not self.step.each:
            self.add(field, "each_outside", "$each is the item of a fan-out, and this step has no 'each'")
            return None
        try:
            source = plan.parse_reference(self.step.each)
        except plan.BadReference:
            return None  # said where it stands
        step = self.around.steps.get(source.root)
        nodes = self.around.output(step) if step is not None and step is not self.step else None
        path = source.path
        if step is not None and step.each:
            if not path:
                return nodes
            if isinstance(path[0], str):
                return None  # said where it stands
            path = path[1:]
        for part in (*path, 0):
            nodes = (schemas.descend(nodes, part) or None) if nodes else None
        return nodes

    def _goal_reference(self, field: str, reference: plan.Reference) -> None:
        """Check against the context, which is at hand unless it is large."""
        try:
            plan.resolve(reference, {"goal": self.around.goal})
        except values.NotLoaded:
            return
        except values.BadValue as error:
            self.add(field, "unknown_context", f"the goal's context cannot be read: {error}")
        except plan.Unresolved as error:
            self.add(field, "unknown_context", f"{error}; give it in the goal's context")

    def _input_reference(self, field: str, reference: plan.Reference, *, in_rule: bool) -> None:
        if not in_rule:
            self.add(
                field,
                "input_outside",
                "$input is for the arguments of rules and grants; refer to a step or to $goal",
            )
        elif reference.path and reference.path[0] not in self.step.arguments:
            self.unknown_input(field, str(reference.path[0]))
