"""Labels: who has written a value, told from the plan and the contracts alone.

What the user wrote is trusted: the goal's context, and the constants of the plan (whoever planned had seen
nothing else). What a tool returns is untrusted, but for the fields that its contract endorses, and these only
where everything that the tool was asked with is trusted: whoever chooses the question chooses the answer.
A condition on untrusted values taints what it guards. A label is never better than what it rests on.

Who may read a value is told in the same way: what the user wrote, anybody; what a tool returns, those whom
its contract names; what is made of several, those who may read all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

from core import conditions, conformance
from core.plan import BadReference, Reference, alternatives, canonical_route, parse_reference, tools
from core.shape import Shape, shape_of
from handrail.v1 import plan_pb2, tool_pb2

MAX_KEPT = 256

WHEN, EACH, CHOICE = "$when", "$each", "$choice"
"""What decides that a step is taken, how often, and by which tool: labelled like arguments of it."""


@dataclass(frozen=True, slots=True)
class Label:
    """Who has written a value and who may read it, and the steps whose outputs it rests on."""

    # Somebody may have written it whom nobody trusts.
    untrusted: bool = False
    steps: frozenset[str] = frozenset()
    # None is anybody.
    readers: frozenset[str] | None = None

    def join(self, other: Label) -> Label:
        """Return the label of what is made of both."""
        readers = self.readers if other.readers is None else other.readers
        if self.readers is not None and other.readers is not None:
            readers = self.readers & other.readers
        return Label(self.untrusted or other.untrusted, self.steps | other.steps, readers)

    def leaks_to(self, shows: Iterable[str]) -> bool:
        """Whether somebody would read it who may not."""
        return self.readers is not None and not self.readers.issuperset(shows)


TRUSTED = Label()


def labels_of(plan: plan_pb2.Plan, contracts: Mapping[str, tool_pb2.ToolContract]) -> Labels:
    """Return the labels of a plan; kept, since a run asks for them at every action."""
    kept = _kept.get(id(plan))
    if kept is not None and kept.plan is plan and kept.contracts is contracts:
        return kept
    while len(_kept) >= MAX_KEPT:
        _kept.pop(next(iter(_kept)))
    made = _kept[id(plan)] = Labels(plan, contracts)
    return made


class Labels:
    """The labels of one plan, of which the references form no cycle."""

    def __init__(self, plan: plan_pb2.Plan, contracts: Mapping[str, tool_pb2.ToolContract]) -> None:
        self.plan = plan
        self.contracts = contracts
        self._shape: Shape = shape_of(plan)
        self._arguments: dict[str, Mapping[str, Label]] = {}
        self._asked: dict[str, Label] = {}

    @cached_property
    def acting(self) -> frozenset[str]:
        """The tools that the plan names, and those that can stand in for them: these may act as well."""
        return self._shape.tools.union(conformance.acting_of(self.plan, self.contracts))

    def of_action(self, step_id: str) -> Mapping[str, Label]:
        """Return the labels of a step's arguments, and of what decides that and how it is taken.

        Of a step that chooses, an argument has the label that it would have by the worst of its rules.
        """
        if step_id not in self._arguments:
            step = self._shape.steps[step_id]
            found = {name: self._argument(step, held) for name, held in step.arguments.items()}
            if canonical_route(step) in (plan_pb2.ROUTE_CHOOSE, plan_pb2.ROUTE_LAM):
                found = self._chosen(step, found)
            if step.when:
                found[WHEN] = self._condition(step.when)
            if step.each:
                found[EACH] = self._list(step.each)
            self._arguments[step_id] = found
        return self._arguments[step_id]

    def of_output(self, step_id: str, path: tuple[str | int, ...]) -> Label:
        """Return the label of a part of what a step returns; who may read it may read what it was asked."""
        step = self._shape.steps.get(step_id)
        if step is None:
            return Label(untrusted=True, steps=frozenset((step_id,)))
        if step.each and path and isinstance(path[0], int):
            path = path[1:]
        return self._returned(step, lambda tool: _endorses(tool, path))

    def _returned(self, step: plan_pb2.Step, endorses: Callable[[tool_pb2.ToolContract], bool]) -> Label:
        tools = self._tools(step)
        label = Label(not (tools and all(map(endorses, tools))), frozenset((step.id,)))
        for one in tools:
            if one.readers:
                label = label.join(Label(readers=frozenset(one.readers)))
        return self._asked_with(step).join(label)

    def _asked_with(self, step: plan_pb2.Step) -> Label:
        """Return the label of all that a step's tool is asked with."""
        if step.id not in self._asked:
            self._asked[step.id] = _join(self.of_action(step.id).values())
        return self._asked[step.id]

    def _chosen(self, step: plan_pb2.Step, inputs: Mapping[str, Label]) -> dict[str, Label]:
        found: dict[str, Label] = {}
        for one in alternatives(step):
            for name, held in one.arguments.items():
                found[name] = found.get(name, TRUSTED).join(self._argument(step, held, inputs))
        if step.grants:
            # Every executor is taken to be hijacked: what it fills in and what it chooses is whoever's.
            whoever = _join(inputs.values()).join(Label(untrusted=True))
            return {
                **found,
                **dict.fromkeys((n for g in step.grants for n in g.open), whoever),
                CHOICE: whoever,
            }
        seen = {looked for rule in step.rules if rule.when for looked in conditions.selections(rule.when)}
        # What is looked at otherwise than by its name, as in input["mood"], may be any of it.
        names = {
            name for variable, field in seen if variable == "input" for name in ([field] if field else inputs)
        }
        found[CHOICE] = _join(inputs.get(name, TRUSTED) for name in names)
        return found

    def _argument(
        self, step: plan_pb2.Step, held: plan_pb2.Argument, inputs: Mapping[str, Label] | None = None
    ) -> Label:
        if held.WhichOneof("form") != "reference":
            return TRUSTED
        return self._reference(step, held.reference, inputs or {})

    def _reference(self, step: plan_pb2.Step, text: str, inputs: Mapping[str, Label]) -> Label:
        try:
            reference = parse_reference(text)
        except BadReference:
            return Label(untrusted=True)
        if reference.root == "goal":
            return TRUSTED
        if reference.root == "input":
            return self._input(step, reference, inputs)
        if reference.root == "each":
            # The items of a list that is the user's are the user's; of an output, the paths go on in it.
            source = parse_reference(step.each)
            if source.root == "goal":
                return TRUSTED
            path = source.path if self._is_fan_out(source.root) and not source.path else (*source.path, 0)
            return self.of_output(source.root, (*path, *reference.path))
        return self.of_output(reference.root, reference.path)

    def _input(self, step: plan_pb2.Step, reference: Reference, inputs: Mapping[str, Label]) -> Label:
        """Return the label of a part of what a step was given; a part may be better than the whole."""
        name = str(reference.path[0]) if reference.path else ""
        if name not in inputs:
            return _join(inputs.values())
        held = step.arguments[name]
        if held.WhichOneof("form") != "reference":
            return TRUSTED
        try:
            source = parse_reference(held.reference)
        except BadReference:
            return Label(untrusted=True)
        return self._reference(step, str(Reference(source.root, (*source.path, *reference.path[1:]))), {})

    def _is_fan_out(self, step_id: str) -> bool:
        step = self._shape.steps.get(step_id)
        return step is not None and bool(step.each)

    def _list(self, text: str) -> Label:
        """Return the label of which items a list has; nobody says who endorses nothing in an item."""
        source = parse_reference(text)
        step = self._shape.steps.get(source.root)
        if step is None:
            return TRUSTED
        path = source.path
        if step.each:
            if not path:  # a fan-out returns as many as its plan has it done
                return self._asked_with(step).join(Label(steps=frozenset((step.id,))))
            path = path[1:]
        return self._returned(step, lambda tool: _endorses_in(tool, path))

    def _condition(self, text: str) -> Label:
        looked_at = (
            self.of_output(name, (field,) if field else ())
            for name, field in conditions.selections(text)
            if name in self._shape.steps
        )
        return _join(looked_at)

    def _tools(self, step: plan_pb2.Step) -> list[tool_pb2.ToolContract]:
        """Return the contracts of whatever may carry the step out, those that stand in included."""
        found = [self.contracts[name] for name in tools(step) if name in self.contracts]
        capabilities = {contract.capability for contract in found if contract.capability}
        return [*found, *(c for c in self.contracts.values() if c.capability in capabilities)]


def _join(labels: Iterable[Label]) -> Label:
    return reduce(Label.join, labels, TRUSTED)


def _endorses(contract: tool_pb2.ToolContract, path: tuple[str | int, ...]) -> bool:
    """Whether a contract endorses a part of its output, or something that this is a part of."""
    parts = _parts(path)
    return any(parts[: len(held)] == held for held in map(split_endorsed, contract.endorses))


def _endorses_in(contract: tool_pb2.ToolContract, path: tuple[str | int, ...]) -> bool:
    """Whether a contract endorses anything of the items of a list: then nobody else makes items of it."""
    items = (*_parts(path), "[]")
    return _endorses(contract, path) or any(
        held[: len(items)] == items for held in map(split_endorsed, contract.endorses)
    )


def _parts(path: tuple[str | int, ...]) -> tuple[str, ...]:
    # "orders[].id" is every item's.
    return tuple("[]" if isinstance(part, int) else part for part in path)


def split_endorsed(text: str) -> tuple[str, ...]:
    """Return the parts of an endorsed path: "orders[].id" is orders, [], id."""
    return tuple(part for part in text.replace("[]", ".[]").split(".") if part)


_kept: dict[int, Labels] = {}
