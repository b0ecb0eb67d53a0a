"""Goals as messages, from what a Python caller has: texts, mappings, times, names.

Only what cannot be sent at all is refused here, as `InvalidArgument`; the rest is for the server to judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack, cast

from core import spelling
from core.plan_form import BadPlanForm, plan_from_form
from core.values import BadValue, encode
from handrail import errors
from handrail.v1 import event_pb2, plan_pb2
from handrail.v1.tool_pb2 import Permission

MAX_DEADLINE_S = 366 * 24 * 3_600.0
"""What can be written as a time at all; what is taken is for the server to say."""

Deadline = datetime | timedelta | float


class Options(TypedDict, total=False):
    """What may be said of a goal beyond its text."""

    # A message, or a mapping (see `core.plan_form`).
    plan: plan_pb2.Plan | Mapping[str, Any] | None
    context: Mapping[str, Any] | None
    # A time with a zone, or seconds from now; with a request id of your own give a time, since a repetition
    # must be the same to the letter.
    deadline: Deadline | None
    dry_run: bool
    # The name of a permission.
    ceiling: str | int | None
    # Bounds max_steps, max_actions, max_heals, and max_spend: minor units by currency.
    budget: plan_pb2.Budget | Mapping[str, Any] | None
    submitter: str
    # Take back what was done before it ends as failed.
    undo_on_failure: bool
    # With a plan: it shows how such a goal is carried out, for the action model to learn.
    teaches: bool


def goal(text: str, **options: Unpack[Options]) -> event_pb2.Goal:
    """Make the message of a goal."""
    made = event_pb2.Goal(
        text=sendable("goal", text),
        dry_run=options.get("dry_run", False),
        submitter=sendable("submitter", options.get("submitter", "")),
        undo_on_failure=options.get("undo_on_failure", False),
        teaches=options.get("teaches", False),
    )
    if (plan := options.get("plan")) is not None:
        made.plan.CopyFrom(_plan(plan))
    if (context := options.get("context")) is not None:
        made.context.json = _context(context)
    if (deadline := options.get("deadline")) is not None:
        made.deadline.FromNanoseconds(_deadline_ns(deadline))
    if (ceiling := options.get("ceiling")) is not None:
        made.ceiling = _ceiling(ceiling)
    if (budget := options.get("budget")) is not None:
        made.budget.CopyFrom(_budget(budget))
    return made


def sendable(field: str, text: str) -> str:
    """Return the text if it can be sent; half a surrogate pair cannot."""
    if not isinstance(text, str):
        raise errors.invalid(field, "no_text", f"expected text, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "the text holds half of a surrogate pair, which is not Unicode"
        raise errors.invalid(field, "bad_characters", message) from None
    return text


def _plan(plan: plan_pb2.Plan | Mapping[str, Any]) -> plan_pb2.Plan:
    if isinstance(plan, plan_pb2.Plan):
        return plan
    try:
        return plan_from_form(plan)
    except BadPlanForm as error:
        raise errors.invalid(f"plan.{error.field}", "bad_form", error.message) from None


def value(field: str, held: Any) -> plan_pb2.Value:
    """Return a JSON value as a message."""
    try:
        return plan_pb2.Value(json=encode(held))
    except (BadValue, TypeError, ValueError) as error:
        raise errors.invalid(field, "bad_json", f"it must be a JSON value: {error}") from None


def _context(context: Mapping[str, Any]) -> str:
    try:
        return encode(dict(context))
    except (BadValue, TypeError, ValueError) as error:
        raise errors.invalid("context", "bad_json", f"it must be a JSON object: {error}") from None


def _deadline_ns(deadline: Deadline) -> int:
    """Return the time since the epoch that a deadline means."""
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            message = "it has no time zone; use datetime.now(UTC) or seconds from now"
            raise errors.invalid("deadline", "no_zone", message)
        return (deadline - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1_000
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
    if not math.isfinite(seconds) or abs(seconds) > MAX_DEADLINE_S:
        raise errors.invalid("deadline", "bad_time", f"{seconds} seconds from now is no time")
    return time.time_ns() + round(seconds * 1_000_000_000)


def _ceiling(ceiling: str | int) -> Permission.ValueType:
    if isinstance(ceiling, int):
        return cast(Permission.ValueType, ceiling)
    names = [name.removeprefix("PERMISSION_").lower() for name in Permission.keys()[1:]]
    if ceiling not in names:
        message = f"there is no permission {ceiling!r}{spelling.hint(ceiling, names)}"
        raise errors.invalid("ceiling", "unknown_enum", message)
    return Permission.Value(f"PERMISSION_{ceiling.upper()}")


def _budget(budget: plan_pb2.Budget | Mapping[str, Any]) -> plan_pb2.Budget:
    if isinstance(budget, plan_pb2.Budget):
        return budget
    try:
        return plan_pb2.Budget(**budget)
    except (TypeError, ValueError) as error:
        raise errors.invalid("budget", "bad_budget", str(error)) from None
