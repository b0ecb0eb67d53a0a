"""The courses that goals take: a plan or a playbook, what befalls their calls, and the effects that are owed.

Each course passes points that the others do not: a heal, a second look, a doubt, something taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.history import Asked
from tests.chaos.world import Fault

FAN = 4
CROWD = 12
"""More than all workers carry out at once."""
LARGE_TEXT = "x" * 70_000
"""Too large to travel in an event."""
REFUSING = (Fault("refuse"),) * 16
"""Whoever asks is refused: the first answer can be lost with the worker that heard it."""
LATE_S = 3.0
"""Longer than a tool of the project may take."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal on its course: what to submit, what befalls it, and what to do while it goes on."""

    asked: Asked
    text: str
    plan: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    # Once the first claim is in the log: "cancel", "pause" (and resume after a while).
    then: str = ""
    # What people do: the name of something that `People` can.
    people: str = ""
    undo_on_failure: bool = False


Course = Callable[[str, str], Goal]
"""Makes a goal of a ref; the second argument names the point to be struck in a tool, or is empty."""


def _asked(ref: str, course: str, *owes: tuple[str, str], **other: Any) -> Asked:
    return Asked(ref=ref, course=course, owes=owes, **other)


def errand(ref: str, strike: str = "") -> Goal:
    """Plan by playbook; reads, a keyed effect, a choice, an effect that can be read back, a skipped step."""
    asked = _asked(ref, "errand", ("post", ref), ("post_copy", ref), ("send", ref))
    return Goal(asked, f"run errand {ref}")


def fan(ref: str, strike: str = "") -> Goal:
    """A fan-out of keyed effects after a read."""
    refs = [f"{ref}-{number}" for number in range(FAN)]
    plan = [_look(ref), _step("posts", "post", {"ref": "$each"}, each="$goal.refs", after=["look"])]
    asked = _asked(ref, "fan", *(("post", one) for one in refs))
    return Goal(asked, "post them all", {"steps": plan}, {"refs": refs})


def sends(ref: str, strike: str = "") -> Goal:
    """Effects without a key, one after the other, the middle one slow."""
    refs = [f"{ref}-{number}" for number in range(3)]
    steps = [
        _step(f"send{number}", "send", {"ref": one}, after=[f"send{number - 1}"] if number else [])
        for number, one in enumerate(refs)
    ]
    faults = {refs[1]: (Fault("hang", "after", 0.3),)}
    return Goal(_asked(ref, "sends", *(("send", r) for r in refs)), "send", {"steps": steps}, None, faults)


def busy(ref: str, strike: str = "") -> Goal:
    """The world is busy twice: healed by trying again."""
    return _one(ref, "busy", "post", Fault("busy"), Fault("busy"))


def hidden(ref: str, strike: str = "") -> Goal:
    """The effect cannot be seen at first: refuted, and looked at again."""
    return _one(ref, "hidden", "post", Fault("hide", seconds=1))


def reset(ref: str, strike: str = "") -> Goal:
    """The world hangs up when the effect is out: read back, and the yes counts."""
    return _one(ref, "reset", "send", Fault("reset", "after"))


def late(ref: str, strike: str = "") -> Goal:
    """The effect comes when the worker has long given the call up: the key holds it to one."""
    return _one(ref, "late", "post", Fault("hang", "before", LATE_S))


def doubt(ref: str, strike: str = "") -> Goal:
    """An effect without key and read-back is cut off: surfaced."""
    return _one(ref, "doubt", "ring", Fault("reset", "after"), ends=("done", "waiting"))


def refused(ref: str, strike: str = "") -> Goal:
    """The world refuses for good: the step fails, and the run with it."""
    return _one(ref, "refused", "post", *REFUSING, ends=("failed",))


def large(ref: str, strike: str = "") -> Goal:
    """An argument that is too large for an event."""
    asked = _asked(ref, "large", ("post", ref))
    steps = [_step("post", "post", {"ref": ref, "text": "$goal.text"})]
    return Goal(asked, "post a long text", {"steps": steps}, {"text": LARGE_TEXT})


def paused(ref: str, strike: str = "") -> Goal:
    """More than the workers can take at once, paused when they have begun, and resumed."""
    return _crowd(ref, "paused", "pause", ("pause", "resume"), ("done",))


def cancelled(ref: str, strike: str = "") -> Goal:
    """The same, cancelled: what has not begun is taken back."""
    return _crowd(ref, "cancelled", "cancel", ("cancel",), ("cancelled", "done"))


def in_post(ref: str, strike: str = "") -> Goal:
    """A keyed call whose worker is struck in it; `strike` is "deed@where@name"."""
    return _struck(ref, "in_post", "post", strike)


def in_send(ref: str, strike: str = "") -> Goal:
    """A call that can be read back, whose worker is struck in it."""
    return _struck(ref, "in_send", "send", strike)


def in_ring(ref: str, strike: str = "") -> Goal:
    """A call that nothing shows, whose worker is struck in it."""
    return _struck(ref, "in_ring", "ring", strike)


def in_look(ref: str, strike: str = "") -> Goal:
    """A read whose worker is struck in it."""
    asked = _asked(ref, "in_look")
    return Goal(asked, "look", {"steps": [_look(ref)]}, None, {ref: (_fault(strike),)} if strike else {})


def handed(ref: str, strike: str = "") -> Goal:
    """Waits for one approval, and has it."""
    return _gated(ref, "handed", "hand", "approve")


def denied(ref: str, strike: str = "") -> Goal:
    """Waits for one approval, and is denied."""
    return _gated(ref, "denied", "hand", "deny", ends=("failed",))


def sealed(ref: str, strike: str = "") -> Goal:
    """Waits for two, who approve at once."""
    return _gated(ref, "sealed", "seal", "approve_both")


def contested(ref: str, strike: str = "") -> Goal:
    """Approved and cancelled at once."""
    return _gated(
        ref, "contested", "hand", "approve_and_cancel", "cancel", ends=("done", "cancelled", "failed")
    )


def undone(ref: str, strike: str = "") -> Goal:
    """Done, and undone: what has a key, and what has none but can be read back."""
    return _regretted(ref, "undone", "undo")


def undone_twice(ref: str, strike: str = "") -> Goal:
    """Two undo it at once."""
    return _regretted(ref, "undone_twice", "undo_twice")


def half_undone(ref: str, strike: str = "") -> Goal:
    """An undo that is stopped in the middle."""
    return _regretted(ref, "half_undone", "undo_and_cancel", "cancel", ends=("done", "undone"))


def undone_late(ref: str, strike: str = "") -> Goal:
    """A compensation fails once, and another for good until somebody wants it done again."""
    faults = {f"unpost {ref}-0": (Fault("busy"),), f"unpost {ref}-1": (Fault("refuse"),)}
    return _regretted(ref, "undone_late", "undo", faults=faults)


def undone_by_itself(ref: str, strike: str = "") -> Goal:
    """A run that fails and undoes itself, since its goal wants that."""
    asked = _asked(
        ref,
        "undone_by_itself",
        ("post", ref),
        undoes=(("unpost", ref),),
        ends=("failed",),
        commands=("undo",),
    )
    steps = [
        _step("post", "post", {"ref": ref}),
        _step("copy", "post_copy", {"ref": f"{ref}-copy"}, after=["post"]),
    ]
    faults = {f"{ref}-copy": REFUSING}
    return Goal(
        asked, "post, and copy", {"steps": steps}, None, faults, people="look_on", undo_on_failure=True
    )


def handed_back(ref: str, strike: str = "") -> Goal:
    """What takes it back waits for an approval, which comes together with a cancel."""
    commands, ends = ("decide", "undo", "cancel"), ("done", "undone")
    asked = _asked(ref, "handed_back", ("hand", ref), undoes=(("unhand", ref),), ends=ends, commands=commands)
    return Goal(asked, "hand", {"steps": [_step("hand", "hand", {"ref": ref})]}, people="approve_and_undo")


def in_unpost(ref: str, strike: str = "") -> Goal:
    """A compensation whose worker is struck in it."""
    faults = {f"unpost {ref}-0": (_fault(strike),)} if strike else {}
    return _regretted(ref, "in_unpost", "undo", faults=faults)


COURSES: dict[str, Course] = {
    made.__name__: made
    for made in (
        *(errand, fan, sends, busy, hidden, reset, late, doubt, refused, large, paused, cancelled),
        *(in_post, in_send, in_ring, in_look, in_unpost),
        *(handed, denied, sealed, contested),
        *(undone, undone_twice, half_undone, undone_late, undone_by_itself, handed_back),
    )
}
LOAD = (
    *("errand", "errand", "errand", "fan", "fan", "sends", "busy", "hidden", "reset", "late", "large"),
    *("handed", "sealed", "contested", "undone", "undone_twice", "half_undone", "undone_late"),
    *("undone_by_itself", "handed_back"),
)
"""What goes on beside the strokes."""


def _look(ref: str) -> dict[str, Any]:
    return _step("look", "look", {"ref": ref})


def _step(id: str, tool: str, arguments: Mapping[str, Any], **other: Any) -> dict[str, Any]:
    return {"id": id, "tool": tool, "with": dict(arguments), **other}


def _one(ref: str, course: str, tool: str, *faults: Fault, ends: tuple[str, ...] = ("done",)) -> Goal:
    asked = _asked(ref, course, (tool, ref), ends=ends)
    return Goal(asked, course, {"steps": [_step(tool, tool, {"ref": ref})]}, None, {ref: faults})


def _crowd(ref: str, course: str, then: str, commands: tuple[str, ...], ends: tuple[str, ...]) -> Goal:
    refs = [f"{ref}-{number}" for number in range(CROWD)]
    asked = _asked(ref, course, *(("post", one) for one in refs), ends=ends, commands=commands)
    steps = [_step("posts", "post", {"ref": "$each"}, each="$goal.refs")]
    faults = {one: (Fault("hang", "before", 0.3),) for one in refs}
    return Goal(asked, course, {"steps": steps}, {"refs": refs}, faults, then)


def _gated(
    ref: str, course: str, tool: str, people: str, *commands: str, ends: tuple[str, ...] = ("done",)
) -> Goal:
    asked = _asked(ref, course, (tool, ref), ends=ends, commands=("decide", *commands))
    return Goal(asked, course, {"steps": [_step(tool, tool, {"ref": ref})]}, people=people)


def _regretted(
    ref: str,
    course: str,
    people: str,
    *commands: str,
    faults: Mapping[str, tuple[Fault, ...]] | None = None,
    ends: tuple[str, ...] = ("undone",),
) -> Goal:
    """Two postings, and something lent that rests on them; then it is undone."""
    refs = [f"{ref}-{number}" for number in range(2)]
    asked = _asked(
        ref,
        course,
        *(("post", one) for one in refs),
        ("lend", ref),
        undoes=(*(("unpost", one) for one in refs), ("reclaim", ref)),
        ends=ends,
        # What is in doubt is settled by whoever has undone it.
        commands=("undo", "decide", *commands),
    )
    steps = [
        _step("posts", "post", {"ref": "$each"}, each="$goal.refs"),
        _step("lend", "lend", {"ref": ref}, after=["posts"]),
    ]
    return Goal(asked, course, {"steps": steps}, {"refs": refs}, faults or {}, people=people)


def _struck(ref: str, course: str, tool: str, strike: str) -> Goal:
    ends = ("done", "waiting") if tool == "ring" else ("done",)
    return _one(ref, course, tool, *([_fault(strike)] if strike else []), ends=ends)


def _fault(strike: str) -> Fault:
    deed, where, name = strike.split("@", 2)
    return Fault(deed=deed, where=where, name=name)  # type: ignore[arg-type]
