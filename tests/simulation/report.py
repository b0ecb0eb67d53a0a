"""What people read: an event as a line, a failing seed and how to see it again, the statistics of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.ports import Record
from tests.scenarios.play import describe as say

if TYPE_CHECKING:
    from tests.simulation.seed import Outcome

TAIL_LINES = 60
MAX_LINE_CHARS = 200
FAULTS = (
    "kill decider",
    "kill gateway",
    "kill planner",
    "kill executor",
    "kill verifier",
    "kill worker",
    "kill everything",
    "stop decider",
    "stop verifier",
    "stop worker",
    "partition",
    "broker away",
    "disk full",
    "clock jump",
    "network: lost",
    "network: answer lost",
    "network: late",
    "delivery: lost",
    "delivery: twice",
    "delivery: disordered",
    "tick: late",
    "tick: early",
    "tick: twice",
    "stray tick",
)
HEALS = tuple(f"heal: {name}" for name in ("retry", "retry_same_key", "read_back", "reread", "alternative"))
ENDS = tuple(f"run: {name}" for name in ("done", "failed", "refused", "cancelled"))
_GROUPS = (
    "run",
    "at rest",
    "heal",
    "kill",
    "stop",
    "network",
    "delivery",
    "tick",
    "tool",
    "refused",
    "event",
)


def describe(record: Record) -> str:
    """One line for a record: where it lies and what it says."""
    event = record.event
    arm = event.WhichOneof("body") if event is not None else None
    if event is None or arm is None:
        return f"{'.'.join(record.address.topic)} (unreadable)"
    return f"{record.address.channel}.{say(record.address.topic, getattr(event, arm))}"


def failure(outcome: Outcome, promise: str, *, options: str = "") -> str:
    """Tell of a seed that failed: which promise, what led to it, and how to see it again."""
    first = outcome.violations[0]
    tail = [line[:MAX_LINE_CHARS] for line in outcome.lines[-TAIL_LINES:]]
    head = [f"seed {outcome.seed} breaks {first.invariant}: {first.what}"]
    head += [f"  the promise: {promise}"] if promise else []
    return "\n".join([*head, *tail, f"replay: {replay(outcome.seed)}{options}"])


def replay(seed: int) -> str:
    """Return the command that lives through a seed again, and tells all."""
    return f"python -m tests.simulation --seed {seed} --trace"


def missing(counts: Counter[str], kinds: Iterable[str]) -> list[str]:
    """Return what has not occurred at all."""
    return [kind for kind in kinds if not counts[kind]]


def statistics(counts: Counter[str], *, seeds: int, virtual_s: float, real_s: float, jobs: int) -> str:
    """Tell what has happened in all the seeds together."""
    grouped: dict[str, list[str]] = {}
    for kind, count in sorted(counts.items()):
        group = next((g for g in _GROUPS if kind.startswith((f"{g}: ", f"{g} "))), "other")
        name = kind.removeprefix(f"{group}: ").removeprefix(f"{group} ")
        grouped.setdefault(group, []).append(f"{name} {count:,}")
    lines = [f"{group:>9}  {', '.join(grouped[group])}" for group in (*_GROUPS, "other") if group in grouped]
    each_ms = 1_000 * real_s * jobs / max(seeds, 1)
    faster = virtual_s / max(real_s, 1e-9)
    lines.append(
        f"{seeds:,} seeds in {real_s:.1f} s ({jobs} at a time, {each_ms:.0f} ms each); "
        f"{virtual_s / 3600:.1f} hours went by, {faster:,.0f} seconds a second"
    )
    return "\n".join(lines)
