"""Plans as people write them, in Python or YAML: plain mappings, made into a `Plan`.

    steps:
      - id: refund
        tool: refund_order
        with: {order_id: $lookup.order.id, amount: {minor: 500, currency: EUR}, note: "$$5 off"}

A text that begins with "$" is a reference, "$$" stands for a "$" that is meant. References stand alone: one
inside a list or an object is refused rather than taken for text. Whether the plan makes sense is for
`conformance`; here only its form is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from core import spelling, values
from core.errors import HandrailError
from handrail.v1 import plan_pb2

MAX_FORM_STEPS = 10_000
"""Far above what conforms: there the plan is refused with a better message."""
MAX_TIMEOUT_S = 30 * 24 * 3_600
_UINT32 = 2**32


class BadPlanForm(HandrailError):
    """What was written is no plan; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def plan_from_form(form: Mapping[str, Any]) -> plan_pb2.Plan:
    """Make a plan of `{"title": ..., "steps": [...]}`; raises BadPlanForm with the path of what is wrong."""
    _check_mapping("plan", form)
    _check_keys("", form, {"title", "steps"})
    steps = _sequence("steps", form.get("steps", ()))
    if len(steps) > MAX_FORM_STEPS:
        raise BadPlanForm("steps", f"there are {len(steps)}, at most {MAX_FORM_STEPS} are read")
    plan = plan_pb2.Plan(title=_text("title", form.get("title", "")))
    for index, step in enumerate(steps):
        _add_step(plan.steps.add(), f"steps[{index}]", step)
    return plan


def arguments_from_form(field: str, form: Mapping[str, Any]) -> dict[str, plan_pb2.Argument]:
    """Make arguments of a mapping: references of texts that begin with "$", constants of the rest."""
    _check_mapping(field, form)
    found: dict[str, plan_pb2.Argument] = {}
    for name, value in form.items():
        found[_text(f"{field} (a name)", name)] = _argument(f"{field}.{name}", value)
    return found


def _add_step(step: plan_pb2.Step, field: str, form: Any) -> None:
    _check_mapping(field, form)
    _check_keys(field, form, {*_STEP_FIELDS, "with", "choose", "grants"})
    if "id" not in form:
        raise BadPlanForm(field, "a step needs an id")
    for key, read in _STEP_FIELDS.items():
        if form.get(key) is None:
            continue
        value = read(f"{field}.{key}", form[key])
        if isinstance(value, list):
            step.after.extend(value)
        elif isinstance(value, Duration):
            step.timeout.CopyFrom(value)
        else:
            setattr(step, key, value)
    _set_arguments(step, f"{field}.with", form.get("with"))
    for index, row in enumerate(_sequence(f"{field}.choose", form.get("choose") or ())):
        _add_rule(step.rules.add(), f"{field}.choose[{index}]", row)
    for index, row in enumerate(_sequence(f"{field}.grants", form.get("grants") or ())):
        _add_grant(step.grants.add(), f"{field}.grants[{index}]", row)


def _add_grant(grant: plan_pb2.Grant, field: str, form: Any) -> None:
    _check_mapping(field, form)
    _check_keys(field, form, {"tool", "with", "open"})
    grant.tool = _text(f"{field}.tool", form.get("tool") or "")
    _set_arguments(grant, f"{field}.with", form.get("with"))
    within = form.get("open") or {}
    _check_mapping(f"{field}.open", within)
    for name, condition in within.items():
        grant.open[_text(f"{field}.open (a name)", name)] = _text(f"{field}.open.{name}", condition or "")


def _add_rule(rule: plan_pb2.Rule, field: str, form: Any) -> None:
    _check_mapping(field, form)
    _check_keys(field, form, {"when", "tool", "with"})
    rule.when = _text(f"{field}.when", form.get("when") or "")
    rule.tool = _text(f"{field}.tool", form.get("tool") or "")
    _set_arguments(rule, f"{field}.with", form.get("with"))


def _set_arguments(target: plan_pb2.Step | plan_pb2.Rule | plan_pb2.Grant, field: str, form: Any) -> None:
    if form is not None:
        for name, argument in arguments_from_form(field, form).items():
            target.arguments[name].CopyFrom(argument)


def _argument(field: str, value: Any) -> plan_pb2.Argument:
    if isinstance(value, str) and value.startswith("$") and not value.startswith("$$"):
        return plan_pb2.Argument(reference=_text(field, value))
    try:
        return plan_pb2.Argument(constant=values.inline(_constant(field, value, values.MAX_DEPTH)))
    except values.BadValue as error:
        raise BadPlanForm(field, str(error)) from None


def _constant(field: str, value: Any, depth: int) -> Any:
    """Return the value with "$$" unescaped, and refuse a reference inside it."""
    if isinstance(value, str) and value.startswith("$"):
        if value.startswith("$$"):
            return value[1:]
        message = f"{value[:80]!r} is inside a value, where no reference can stand; write '$$' for a '$'"
        raise BadPlanForm(field, message)
    if isinstance(value, Mapping | list | tuple) and depth < 0:
        raise BadPlanForm(field, f"the value is nested deeper than {values.MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {key: _constant(f"{field}.{key}", item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_constant(f"{field}[{i}]", item, depth - 1) for i, item in enumerate(value)]
    return value


def _check_mapping(field: str, form: Any) -> None:
    if not isinstance(form, Mapping):
        raise BadPlanForm(field, f"expected names with values, found {type(form).__name__}")


def _check_keys(field: str, form: Mapping[str, Any], known: set[str]) -> None:
    for key in form:
        if key not in known:
            where = f"{field}.{key}" if field else str(key)
            raise BadPlanForm(where, f"there is no such field{spelling.hint(str(key), known)}")


def _sequence(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadPlanForm(field, f"expected a list, found {type(value).__name__}")
    return list(value)


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadPlanForm(field, f"expected text, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadPlanForm(field, "the text holds half of a surrogate pair, which is not Unicode") from None
    return value


def _names(field: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [_text(field, value)]
    return [_text(f"{field}[{i}]", item) for i, item in enumerate(_sequence(field, value))]


def _count(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _UINT32:
        raise BadPlanForm(field, f"expected a whole number from 0 on, found {value!r:.80}")
    return value


def _duration(field: str, value: Any) -> Duration:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= MAX_TIMEOUT_S:
        raise BadPlanForm(field, f"expected seconds from 0 to {MAX_TIMEOUT_S}, found {value!r:.80}")
    found = Duration()
    found.FromNanoseconds(round(value * 1_000_000_000))
    return found


_STEP_FIELDS: Mapping[str, Callable[[str, Any], Any]] = {
    "id": _text,
    "title": _text,
    "tool": _text,
    "after": _names,
    "when": _text,
    "each": _text,
    "each_limit": _count,
    "post": _text,
    "timeout_s": _duration,
    "max_attempts": _count,
}
