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
HEAD_SHARE = 8
"""One of so many kills on Ray falls on its head, which takes long."""
MINDS = ("planner", "executor", "verifier")
HEAD = ("head", "raylet", "keeper")
"""The processes of Ray's head: one that is lost takes the others with it."""


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
    # Gates and undos.
    Point("gateway", "decide", _APPEND, "handed"),
    Point("gateway", "undo", _APPEND, "undone"),
    # The decider passes so many that each counts for the length of a campaign.
    Point("decider", "gate_opened", ("after",), "handed"),
    Point("decider", "gate_closed", ("before",), "handed"),
    Point("decider", "undo_planned", ("after",), "undone"),
    Point("decider", "undo-action", _APPEND, "undone"),
    Point("decider", "undo_ended", ("before",), "undone"),
    Point("decider", "decider_undo", _ACK, "undone"),
    Point("verifier", "undo-verdict", _APPEND, "undone"),
    *(Point("worker", f"undo-{kind}", _APPEND, "undone") for kind in ("intent", "result")),
    Point("worker", "tool-unpost", _APPEND, "in_unpost"),
)


def points(host: HostKind, deed: Deed, rng: random.Random) -> list[Stroke]:
    """Return a stroke for each named point."""
    found = []
    for point in POINTS:
        target = "minds" if host == "inline" and point.role in MINDS else point.role
        for name in point.names():
            pause_s = rng.uniform(*STOP_S) if deed == "stop" else 0.0
            found.append(Stroke(0, target, deed, point=name, course=point.course, pause_s=pause_s))
    rng.shuffle(found)
    return found


def deeds(host: HostKind) -> dict[str, tuple[Deed, ...]]:
    """Return every target of a host, and what can be done to it."""
    everything: tuple[Deed, ...] = ("kill", "stop", "cut", "hold")
    found = dict.fromkeys(("gateway", "decider", "worker:0", "worker:1", "broker", "tracer"), everything)
    if host == "inline":
        return {**found, "minds": everything}
    # What places the actors, and Ray's own parts, have no way to the broker.
    return {**found, **dict.fromkeys(MINDS, everything), **dict.fromkeys(("minds", *HEAD), ("kill", "stop"))}


def at_random(
    host: HostKind, kills: int, others: int | None, rng: random.Random, only: str = ""
) -> list[Stroke]:
    """Return strokes at random moments: so many kills, and so many stops, cuts and dead ways.

    Without a number of others there is each of them once, and a third as many as kills at least.
    """
    there = deeds(host)
    if only:
        there = {
            target: found for target, found in there.items() if target.partition(":")[0] in only.split(",")
        }
    # In turn, so that each has its share, and no process is struck while it starts.
    often = [target for target in there if target not in HEAD] or list(there)
    seldom = [target for target in there if target in HEAD]
    slow = kills // HEAD_SHARE if seldom else 0
    turns = [
        *(often[n % len(often)] for n in range(kills - slow)),
        *(seldom[n % len(seldom)] for n in range(slow)),
    ]
    chosen: list[tuple[str, Deed]] = [(target, "kill") for target in turns]
    each = [(target, deed) for target, found in there.items() for deed in found if deed != "kill"]
    rng.shuffle(each)
    count = max(len(each), kills // 3) if others is None else others
    chosen += [each[place % len(each)] for place in range(count)]
    found = []
    for target, deed in chosen:
        pause_s = {"stop": rng.uniform(*STOP_S), "hold": rng.uniform(*HOLD_S)}.get(deed, 0.0)
        found.append(Stroke(0, target, deed, pause_s=pause_s, after_s=rng.uniform(*BETWEEN_S)))
    rng.shuffle(found)
    return found


def number(strokes: list[Stroke]) -> list[Stroke]:
    """Give each its number in the campaign."""
    for place, stroke in enumerate(strokes, 1):
        stroke.number = place
    return strokes
