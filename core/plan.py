"""The graph of a plan: references, what each step needs, cycles, and the names of instances and attempts.

Nothing here judges a plan (see `conformance`): a reference or condition that cannot be read adds no edge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import conditions
from core.errors import HandrailError
from handrail.v1 import plan_pb2

RESERVED = frozenset({"goal", "each", "input"})
STEP_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
DEFAULT_EACH_LIMIT = 100
MAX_STEPS = 1_000
MAX_REFERENCE_CHARS = 512

_ROOT = re.compile(r"\$([a-z][a-z0-9_]{0,62})(?![A-Za-z0-9_])")
_PART = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(0|[1-9][0-9]{0,8})\]")
_MAX_NAMES_SHOWN = 8
_UNDO = "undo-"


class BadReference(HandrailError):
    """A text that is not a reference."""


class Unresolved(HandrailError):
    """A reference that leads nowhere in the values that there are."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a value comes from: a root (a step's id, or a reserved word) and a path into it."""

    root: str
    path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return f"${self.root}{''.join(parts)}"


def parse_reference(text: str) -> Reference:
    """Read `$step`, `$step.a.b[0].c`, `$goal.x`, `$each`, `$each.id` or `$input.x`."""
    root = _ROOT.match(text) if len(text) <= MAX_REFERENCE_CHARS else None
    if root is None:
        raise BadReference(
            f"{text!r:.100} is not a reference; they look like $step.field or $step.list[0].field"
        )
    path: list[str | int] = []
    position = root.end()
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise BadReference(
                f"{text!r:.100} is not a reference from {text[position:]!r:.50} on; "
                "a path is made of .name and [number]"
            )
        path.append(part[1] if part[1] is not None else int(part[2]))
        position = part.end()
    return Reference(root[1], tuple(path))


def resolve(reference: Reference, scope: Mapping[str, Any]) -> Any:
    """Follow a reference into the values by root."""
    if reference.root not in scope:
        raise Unresolved(f"{reference}: there is no value of '{reference.root}'")
    value = scope[reference.root]
    for depth, part in enumerate(reference.path):
        known = isinstance(value, Mapping) and part in value
        if not known and not (isinstance(part, int) and isinstance(value, list) and part < len(value)):
            where = Reference(reference.root, reference.path[:depth])
            raise Unresolved(f"{reference}: {_missing(str(where)[1:], value, part)}")
        value = value[part]
    return value


def dependencies(plan: plan_pb2.Plan) -> dict[str, frozenset[str]]:
    """Return, by step id, the ids that the step needs: its data, its `when`, and `after`.

    Ids that no step of the plan has are named too.
    """
    return {step.id: references(step) | _ordering(step) for step in plan.steps}


def references(step: plan_pb2.Step) -> frozenset[str]:
    """Return the steps whose outputs are data of this one: arguments, those of rules and grants, `each`."""
    return frozenset(root for text in reference_texts(step) for root in _root(text)) - RESERVED


def reference_texts(step: plan_pb2.Step) -> Iterable[str]:
    """Yield every reference of a step as it is written."""
    for arguments in (step.arguments, *(one.arguments for one in alternatives(step))):
        for argument in arguments.values():
            if argument.WhichOneof("form") == "reference":
                yield argument.reference
    if step.each:
        yield step.each


def find_cycle(needs: Mapping[str, Collection[str]]) -> list[str] | None:
    """Return one cycle, each step needing the next and the last the first; None where there is none."""
    done: set[str] = set()
    for start in needs:
        if start in done:
            continue
        trail: dict[str, None] = {start: None}  # ordered, and quick to look into
        pending = [iter(sorted(needs[start]))]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                done.add(trail.popitem()[0])
            elif step in trail:
                path = list(trail)
                return path[path.index(step) :]
            elif step in needs and step not in done:
                trail[step] = None
                pending.append(iter(sorted(needs[step])))
    return None


def instance(step_id: str, index: int | None = None) -> str:
    """Name a step's instance: "refund", or "refund-3" in a fan-out."""
    return step_id if index is None else f"{step_id}-{index}"


def compensation(instance: str) -> str:
    """Name the compensation of an instance: "undo-refund-3"."""
    return f"{_UNDO}{instance}"


def undone_by(compensation: str) -> str:
    """Name the instance whose effect a compensation takes back: "refund-3"."""
    return compensation.removeprefix(_UNDO)


def is_compensation(instance: str) -> bool:
    """Whether an instance, or an attempt at one, is a compensation ("undo-3" is an item of a step "undo")."""
    return instance.startswith(_UNDO) and instance[len(_UNDO) :][:1].isalpha()


def attempt_id(instance: str, n: int) -> str:
    """Name the n-th attempt at an instance: "refund-a1", "refund-3-a2"."""
    return f"{instance}-a{n}"


def plan_attempt(number: int) -> str:
    """Name the attempts at making a plan; `goal` is no step's id, so they are unique in the run."""
    return f"goal-a{number}"


def canonical_route(step: plan_pb2.Step) -> plan_pb2.Route.ValueType:
    """Return the route, where it is unspecified the one that the step's fields mean."""
    if step.route != plan_pb2.ROUTE_UNSPECIFIED:
        return step.route
    if step.grants:
        return plan_pb2.ROUTE_LAM
    return plan_pb2.ROUTE_CHOOSE if step.rules else plan_pb2.ROUTE_DIRECT


def alternatives(step: plan_pb2.Step) -> Sequence[plan_pb2.Rule | plan_pb2.Grant]:
    """Return what a step that needs a mind may come to; nothing where it needs none."""
    return (*step.rules, *step.grants)


def tools(step: plan_pb2.Step) -> list[str]:
    """Return the tools that may carry a step out."""
    return [*([step.tool] if step.tool else []), *(one.tool for one in alternatives(step))]


def _ordering(step: plan_pb2.Step) -> frozenset[str]:
    named = conditions.variables(step.when) - RESERVED if step.when else frozenset[str]()
    return named.union(step.after)


def _root(text: str) -> Iterable[str]:
    root = _ROOT.match(text)
    return () if root is None else (root[1],)


def _missing(where: str, value: Any, part: str | int) -> str:
    if isinstance(part, int) and isinstance(value, list):
        return f"{where} has {len(value)} items, so there is no [{part}]"
    if isinstance(part, str) and isinstance(value, Mapping):
        names = [str(name)[:50] for name in list(value)[:_MAX_NAMES_SHOWN]]
        held = ", ".join(names) + (", ..." if len(value) > len(names) else "")
        return f"{where} has no '{part}'; it has {held}" if names else f"{where} has no '{part}'; it is empty"
    kind = {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(type(value), "a number")
    kind = "a boolean" if isinstance(value, bool) else kind
    return f"{where} is {kind}, so there is no {f'[{part}]' if isinstance(part, int) else repr(part)}"
