"""The plan of a campaign, drawn from its seed: which process is struck how, where or when, and how long.

Points are named `kind@moment`: before an event of that kind is appended, after that was answered, before a
delivery is acknowledged (`worker_action@ack`), and inside a tool before and after its effect.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.chaos.history import Deed, Stroke

HostKind = Literal["inline", "ray"]

STOP_S = (0.5, 8.0)
"""From less than a redelivery takes to longer than every lease of the project."""
HOLD_S = (0.5, 6.0)
BETWEEN_S = (0.0, 0.6)
HEAD_SHARE = 12
"""One of so many strokes on Ray falls on its head, which takes long."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the code of a role, and the course on which it is passed."""

    role: str
    kind: str
    moments: tuple[str, ...]
    course: str

    def names(self) -> Iterator[str]:
        """Name every moment of it."""
        for moment in self.moments:
            yield f"{self.kind}@{moment}"


_APPEND = ("before", "after")
_ACK = ("ack",)

POINTS: tuple[Point, ...] = (
    *(Point("gateway", kind, _APPEND, "errand") for kind in ("request", "submit")),
    *(Point("gateway", kind, _APPEND, "paused") for kind in ("pause", "resume")),
    Point("gateway", "cancel", _APPEND, "cancelled"),
    Point("gateway", "blob", _APPEND, "large"),
    *(
        Point("decider", kind, _APPEND, "errand")
        for kind in ("plan_ask", "plan_accepted", "proposal_ask", "action", "skipped", "finished")
    ),
    Point("decider", "expanded", _APPEND, "fan"),
    Point("decider", "step_failed", _APPEND, "refused"),
    *(Point("decider", kind, _APPEND, "busy") for kind in ("healed", "timer")),
    Point("decider", "verify_ask", _APPEND, "hidden"),
    Point("decider", "in_doubt", _APPEND, "doubt"),
    Point("decider", "revoked", _APPEND, "cancelled"),
    *(
        Point("decider", f"decider_{kind}", _ACK, "errand")
        for kind in ("submit", "plan_answer", "proposal", "intent", "result", "verdict", "action", "finished")
    ),
    *(Point("decider", f"decider_{kind}", _ACK, "cancelled") for kind in ("cancel", "revoked")),
    Point("decider", "ticks_tick", _ACK, "busy"),
    Point("planner", "plan_answer", _APPEND, "errand"),
    Point("planner", "planner_plan_ask", _ACK, "errand"),
    Point("executor", "proposal", _APPEND, "errand"),
    Point("executor", "executor_proposal_ask", _ACK, "errand"),
    Point("verifier", "verdict", _APPEND, "errand"),
    Point("verifier", "verifier_result", _ACK, "errand"),
    Point("verifier", "verifier_verify_ask", _ACK, "hidden"),
    *(Point("worker", kind, _APPEND, "sends") for kind in ("intent", "result")),
    Point("worker", "orphan", _APPEND, "in_post"),
    Point("worker", "worker_action", _ACK, "sends"),
    *(Point("worker", f"tool-{tool}", _APPEND, f"in_{tool}") for tool in ("post", "send", "ring")),
    Point("worker", "tool-look", ("before",), "in_look"),
)


def points(host: HostKind, deed: Deed, rng: random.Random) -> list[Stroke]:
    """Return a stroke for each named point; on Ray only for those of the minds."""
    minds = ("planner", "executor", "verifier")
    found = []
    for point in POINTS:
        if host == "ray" and point.role not in minds:
            continue
        target = "minds" if host == "inline" and point.role in minds else point.role
        for name in point.names():
            pause_s = rng.uniform(*STOP_S) if deed == "stop" else 0.0
            found.append(Stroke(0, target, deed, point=name, course=point.course, pause_s=pause_s))
    rng.shuffle(found)
    return found


def at_random(host: HostKind, kills: int, others: int, rng: random.Random, only: str = "") -> list[Stroke]:
    """Return strokes at random moments: so many kills, and so many stops, cuts and dead ways."""
    minds = ["minds"] if host == "inline" else ["planner", "executor", "verifier", "minds"]
    targets = ["gateway", "decider", "worker:0", "worker:1", "broker", *minds]
    if only:
        targets = [target for target in [*targets, "head"] if target.partition(":")[0] in only.split(",")]
    found = []
    for number in range(kills + others):
        deed: Deed = "kill" if number < kills else rng.choice(("stop", "stop", "cut", "hold"))
        # In turn, so that each has its share, and no process is struck while it starts.
        target = targets[number % len(targets)]
        if host == "ray" and not only and deed == "kill" and number % HEAD_SHARE == HEAD_SHARE - 1:
            target = "head"
        if target == "broker" and deed in ("cut", "hold"):
            deed = "stop"
        if target == "minds" and host == "ray" and deed in ("cut", "hold"):
            # It places the actors, and has no way to the broker itself.
            deed = "stop"
        pause_s = {"stop": rng.uniform(*STOP_S), "hold": rng.uniform(*HOLD_S)}.get(deed, 0.0)
        after_s = rng.uniform(*BETWEEN_S)
        found.append(Stroke(0, target, deed, pause_s=pause_s, after_s=after_s))
    rng.shuffle(found)
    return found


def number(strokes: list[Stroke]) -> list[Stroke]:
    """Give each its number in the campaign."""
    for place, stroke in enumerate(strokes, 1):
        stroke.number = place
    return strokes
