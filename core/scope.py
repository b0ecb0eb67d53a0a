"""The values that a plan's references and conditions can see, resolved from a run's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import values
from core.plan import Unresolved, parse_reference, resolve
from core.plan import instance as instance_id
from core.state import Instance, RunState
from handrail.v1 import plan_pb2


class Scope:
    """Resolves references; raises Unresolved, BadReference, BadValue, or NotLoaded for a large value."""

    def __init__(
        self,
        state: RunState,
        steps: Mapping[str, plan_pb2.Step],
        needs: Mapping[str, frozenset[str]],
        contents: Mapping[str, str],
    ) -> None:
        self._state = state
        self._steps = steps
        self._needs = needs
        self._contents = contents

    def loaded(self, arguments: Mapping[str, plan_pb2.Value]) -> dict[str, Any]:
        """Return values as Python objects."""
        return {name: values.load(value, self._contents) for name, value in arguments.items()}

    def written(self, instance: Instance) -> dict[str, Any]:
        """Return the arguments that somebody has changed at a gate."""
        return self.loaded({name: one.value for name, one in instance.amended.items()})

    def arguments(
        self,
        arguments: Mapping[str, plan_pb2.Argument],
        instance: Instance,
        inputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return arguments with every reference resolved."""
        resolved: dict[str, Any] = {}
        for name, argument in arguments.items():
            if argument.WhichOneof("form") == "reference":
                resolved[name] = self.resolve(argument.reference, instance, inputs)
            else:
                resolved[name] = values.load(argument.constant, self._contents)
        return resolved

    def resolve(self, text: str, instance: Instance | None, inputs: Mapping[str, Any] | None = None) -> Any:
        """Return what a reference points to."""
        reference = parse_reference(text)
        return resolve(reference, {reference.root: self._root(reference.root, instance, inputs)})

    def _root(self, root: str, instance: Instance | None, inputs: Mapping[str, Any] | None) -> Any:
        if root == "goal":
            return self._context()
        if root == "input" and inputs is not None:
            return inputs
        if root == "each" and instance is not None and instance.index is not None:
            items = self.resolve(self._steps[instance.step].each, None)
            return items[instance.index]
        return self._output(root)

    def _context(self) -> Any:
        context = self._state.goal.context
        return values.load(context, self._contents) if context.WhichOneof("kind") else {}

    def _output(self, step_id: str) -> Any:
        """Return a step's output; of a fan-out, the list of its items' (null where one was skipped)."""
        instance = self._state.instances.get(step_id)
        if instance is None or instance.settled != "done":
            raise Unresolved(f"${step_id} has no output")
        if instance.count is None:
            return values.load(instance.output, self._contents) if instance.output is not None else None
        items = (self._state.instances[instance_id(step_id, i)] for i in range(instance.count))
        return [values.load(i.output, self._contents) if i.output is not None else None for i in items]

    def conditions_of(self, step_id: str) -> dict[str, Any]:
        """Return what a `when` may look at: the outputs of what the step needs, null where skipped."""
        scope: dict[str, Any] = {"goal": self._context()}
        for need in self._needs[step_id]:
            settled = self._state.instances[need].settled
            scope[need] = self._output(need) if settled == "done" else None
        return scope
