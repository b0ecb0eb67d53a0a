"""Conformance: every way in which a plan, or the arguments of an action, break a rule.

`check_plan` judges a plan against the contracts before anything runs, `check_arguments` resolved values
against the input schema. Neither stops at the first: a planner or a person gets all there is to mend.

Codes: empty_plan, too_many_steps, plan_too_large, bad_id, reserved_id, duplicate_id, hidden_characters,
too_long, route_unavailable, route_mismatch, unknown_tool, permission_above_ceiling, missing_argument,
unknown_argument, mistyped_argument, bad_argument, bad_value, empty_argument, too_many_arguments,
bad_reference, unknown_step, self_reference, cycle, each_outside, input_outside, unknown_input,
unknown_context, unknown_path, bad_each, bad_condition, no_rules, too_many_rules, otherwise_not_last,
no_grants, too_many_grants, bad_grant, bad_timeout, bad_attempts, over_budget, more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from core import plan, schemas, values
from core.references import Limits as Limits
from core.references import Surroundings
from core.spending import amounts_in, excess
from core.step import StepCheck
from core.violations import Enough, Found, check_names, check_text, check_value, plain, show
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

_SHOWN_STEPS = 8

Contracts = Mapping[str, tool_pb2.ToolContract]


def check_plan(
    plan: plan_pb2.Plan, contracts: Contracts, *, goal: event_pb2.Goal, limits: Limits
) -> list[plan_pb2.Violation]:
    """Return every rule that a plan breaks, as many as are worth reading; none means that it can run."""
    found = Found()
    max_steps = min(limits.max_steps, goal.budget.max_steps or limits.max_steps)
    ceiling = goal.ceiling or tool_pb2.PERMISSION_EXECUTE
    around = Surroundings({}, contracts, goal.context, found, replace(limits, max_steps=max_steps), ceiling)
    with suppress(Enough):
        if _fits(plan, around):
            _check(plan, around)
            _check_spending(plan, around, goal)
    return found.violations


def check_arguments(
    contract: tool_pb2.ToolContract, arguments: Mapping[str, Any], missing: Collection[str] = ()
) -> list[plan_pb2.Violation]:
    """Return in what way resolved arguments do not fit the tool; of `missing` somebody says them later."""
    found = Found()
    schema = schemas.compile_schema(contract.input_schema)
    with suppress(Enough):
        check_names(found, schema, contract.name, arguments, "arguments", missing)
        for name, value in arguments.items():
            if name in schema.properties or not schema.closed:
                check_value(found, schema, name, value, f"arguments.{plain(name)}")
    return found.violations


def tools_of(proposed: plan_pb2.Plan, contracts: Contracts) -> dict[str, tool_pb2.ToolContract]:
    """Return the contract of every tool that the plan can come to use.

    That is: its tools, those that can stand in for them (of the same capability, effect, arguments and
    defaults, with no higher permission), and the read tools that judge them.
    """
    acting = acting_of(proposed, contracts)
    used = dict(acting)
    for contract in acting.values():
        for name in (contract.readback, *(read.tool for read in contract.reads)):
            if name in contracts:
                used[name] = contracts[name]
    return used


def acting_of(proposed: plan_pb2.Plan, contracts: Contracts) -> dict[str, tool_pb2.ToolContract]:
    """Return the contract of every tool that can come to carry out a step: the named, and their stand-ins."""
    named = {name for step in proposed.steps for name in plan.tools(step)}
    acting = {name: contracts[name] for name in sorted(named) if name in contracts}
    for contract in list(acting.values()):
        acting |= {name: other for name, other in contracts.items() if stands_in(other, contract)}
    return acting


def stands_in(other: tool_pb2.ToolContract, contract: tool_pb2.ToolContract) -> bool:
    """Whether a tool can carry out what another was to do, with the same values, those left out included."""
    if not contract.capability or other.capability != contract.capability or other.effect != contract.effect:
        return False
    ours, theirs = (schemas.compile_schema(c.input_schema) for c in (contract, other))
    same = _defaults(ours) == _defaults(theirs)
    return same and other.permission <= contract.permission


def _defaults(schema: schemas.Schema) -> dict[str, str]:
    """Return what each argument is where it is left out, as text: 1 is not true."""
    parts = schema.properties.items()
    return {n: values.encode(part.get("default") if isinstance(part, dict) else None) for n, part in parts}


def _fits(plan: plan_pb2.Plan, around: Surroundings) -> bool:
    """Check what must hold before a closer look is worth its time."""
    found, limits = around.found, around.limits
    size, count = plan.ByteSize(), len(plan.steps)
    if count == 0:
        found.add("steps", "empty_plan", "the plan has no steps; give it at least one")
    if count > limits.max_steps:
        found.add("steps", "too_many_steps", f"a plan has at most {limits.max_steps} steps, not {count}")
    if size > limits.max_plan_bytes:
        found.add("", "plan_too_large", f"a plan has at most {limits.max_plan_bytes} bytes, not {size}")
    return not found.violations


def _check(proposed: plan_pb2.Plan, around: Surroundings) -> None:
    found = around.found
    for name in ("title", "origin", "origin_sha256"):
        check_text(found, name, getattr(proposed, name), around.limits.max_title_chars)
    for index, step in enumerate(proposed.steps):
        _check_id(f"steps[{index}].id", step, around)
    for index, step in enumerate(proposed.steps):
        StepCheck(around, f"steps[{index}]", step).run()
    needs = {name: needed - {name} for name, needed in plan.dependencies(proposed).items()}
    cycle = plan.find_cycle(needs)
    if cycle is not None:
        index = next(i for i, step in enumerate(proposed.steps) if step.id == cycle[0])
        shown = [show(name) for name in cycle[:_SHOWN_STEPS]] + ["..."] * (len(cycle) > _SHOWN_STEPS)
        path = " needs ".join([*shown, show(cycle[0])])
        found.add(f"steps[{index}]", "cycle", f"steps wait for each other: {path}")


def _check_spending(proposed: plan_pb2.Plan, around: Surroundings, goal: event_pb2.Goal) -> None:
    """Refuse what would spend more than it may, as far as that is known before the run."""
    budgets = [one for one in (goal.budget, proposed.budget) if one.max_spend]
    total: Counter[str] = Counter()
    for index, step in enumerate(proposed.steps if budgets else ()):
        contract = around.contracts.get(step.tool)
        if contract is None:
            continue
        known: dict[str, Any] = {}
        for name, held in step.arguments.items():
            with suppress(values.BadValue, values.NotLoaded):
                known |= {name: values.load(held.constant, {})} if held.HasField("constant") else {}
        amounts = amounts_in(contract, known, step.arguments.keys() - known.keys())
        certain = not step.when and not step.each
        over = excess(total + amounts if certain else amounts, budgets) if amounts else ""
        if over:
            around.found.add(f"steps[{index}].arguments", "over_budget", f"with this step {over}")
            return
        total += amounts if certain else Counter()


def _check_id(where: str, step: plan_pb2.Step, around: Surroundings) -> None:
    if not plan.STEP_ID.fullmatch(step.id):
        rule = "use a lower case letter, then letters, digits and '_', at most 63 in all"
        around.found.add(where, "bad_id", f"{show(step.id)} is no step id: {rule}")
    elif step.id in plan.RESERVED:
        message = f"'{step.id}' has a meaning of its own in references; rename it"
        around.found.add(where, "reserved_id", message)
    elif step.id in around.steps:
        around.found.add(where, "duplicate_id", f"two steps are called '{step.id}'; rename one")
    around.steps.setdefault(step.id, step)
