"""What people read: an event as a line, a failing seed and how to see it again, the statistics of many."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from core.ports import Record
from tests.scenarios.play import describe as say

if TYPE_CHECKING:
    from tests.simulation.outcome import Outcome

TAIL_LINES = 60
MAX_LINE_CHARS = 200
_KILLED = ("decider", "gateway", "planner", "executor", "verifier", "worker", "everything")
_FAULTS = {
    "kill ": _KILLED,
    "stop ": ("decider", "verifier", "worker"),
    "": ("partition", "broker away", "disk full", "clock jump", "stray tick"),
    "network: ": ("lost", "answer lost", "late"),
    "delivery: ": ("lost", "twice", "disordered"),
    "tick: ": ("late", "early", "twice"),
    "heal: ": ("retry", "retry_same_key", "read_back", "reread", "alternative"),
    "run: ": ("done", "failed", "refused", "cancelled", "undone", "forgotten"),
    "undo: ": ("asked", "asked in vain", "planned", "dry", "on failure", "cancelled", "given up", "stays"),
    "gate: ": ("approved", "denied", "expired", "void", "happened", "repeat"),
}
EXPECTED = tuple(f"{group}{name}" for group, names in _FAULTS.items() for name in names)
"""What happens in every few hundred seeds: where it does not, the simulation is broken."""
EXPECTED_WITHIN = 300
SHARED = {"event: plan_accepted": 0.6, "event: action": 1.5, "run: done": 0.2}
"""What happens in so many of the runs: 0.9, 4 and 0.4 of them when this was written."""
SHARED_WITHIN = 50
_GROUPS = (
    "run",
    "at rest",
    "gate",
    "humans",
    "undo",
    "undoers",
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


def missing(counts: Counter[str], *, seeds: int) -> list[str]:
    """Return what should have happened in so many seeds, and has not."""
    expected = EXPECTED if seeds >= EXPECTED_WITHIN else ("event: submit", "run: done") if seeds else ()
    found = [kind for kind in expected if not counts[kind]]
    if seeds >= SHARED_WITHIN:
        runs = counts["event: submit"]
        few = (kind for kind, share in SHARED.items() if counts[kind] < share * runs)
        found += [f"more than {counts[kind]:,} of '{kind}' in {runs:,} runs" for kind in few]
    return found


def statistics(counts: Counter[str]) -> str:
    """Tell what has happened in all the seeds together."""
    grouped: dict[str, list[str]] = {}
    for kind, count in sorted(counts.items()):
        group = next((g for g in _GROUPS if kind.startswith((f"{g}: ", f"{g} "))), "other")
        name = kind.removeprefix(f"{group}: ").removeprefix(f"{group} ")
        grouped.setdefault(group, []).append(f"{name} {count:,}")
    return "\n".join(
        f"{group:>9}  {', '.join(grouped[group])}" for group in (*_GROUPS, "other") if group in grouped
    )


def figures(counts: Counter[str], *, seeds: int, virtual_s: float, real_s: float, cpu_s: float) -> str:
    """Tell how much that was, and what it took."""
    each = max(seeds, 1)
    events = sum(count for kind, count in counts.items() if kind.startswith("event: "))
    faults = sum(count for kind, count in counts.items() if kind.startswith(tuple(_FAULTS)[0:2]))
    return (
        f"{seeds:,} seeds in {real_s:.1f} s, {1_000 * cpu_s / each:.0f} ms of a CPU each: "
        f"{counts['event: submit']:,} runs, {events:,} events, {faults:,} kills and stops, "
        f"{virtual_s / 3600:.1f} hours"
    )
