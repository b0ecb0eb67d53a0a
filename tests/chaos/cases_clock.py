"""The clock of one process jumps by a day: no timer fires early, no deadline that has passed is used.

Times are judged by the broker's clock, which stamped the events, and which nobody has touched.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from core import failures
from handrail.errors import InvalidArgument
from tests.chaos.cases import Scene, case
from tests.chaos.history import Asked
from tests.chaos.world import Fault

DAY_S = 86_400.0
FAR_S = 60.0
NEAR_S = 1.0
LEASE_S = 4.0
"""The time of a tool of the project, and the grace of a claim."""


@case()
async def the_deciders_clock_jumps_ahead(scene: Scene) -> None:
    """Heals, leases and deadlines wait for their time."""
    await _with_clock(scene, "decider", DAY_S)


@case()
async def the_deciders_clock_jumps_back(scene: Scene) -> None:
    """Heals, leases and deadlines come when it is time."""
    await _with_clock(scene, "decider", -DAY_S)


@case()
async def the_minds_clock_jumps(scene: Scene) -> None:
    """Nothing of what minds do has to do with the time of day."""
    for offset_s in (DAY_S, -DAY_S):
        scene.stage.set_clock("minds:inline", offset_s)
        asked = await scene.submit("errand", deadline=FAR_S)
        await scene.said(asked, "finished")
    scene.stage.set_clock("minds:inline", 0.0)
    await scene.judge()


@case()
async def the_workers_clocks_jump_ahead(scene: Scene) -> None:
    """To them every permit has expired: nobody acts, and when the clocks are right again all goes on."""
    workers = ("worker:errands:0", "worker:errands:1")
    for child in workers:
        scene.stage.set_clock(child, DAY_S)
    try:
        asked = await scene.submit("in_ring")
        await scene.said(asked, "healed", count=2)
        assert not scene.calls("ring", asked.ref), "somebody acted on a permit that it thought expired"
    finally:
        for child in workers:
            scene.stage.set_clock(child, 0.0)
    await scene.said(asked, "finished")
    await scene.judge()


@case()
async def the_workers_clocks_jump_back(scene: Scene) -> None:
    """They act, and what they find expired is for the broker's clock to say."""
    workers = ("worker:errands:0", "worker:errands:1")
    for child in workers:
        scene.stage.set_clock(child, -DAY_S)
    try:
        await scene.said(await scene.submit("errand", deadline=FAR_S), "finished")
        await _deadline(scene)
    finally:
        for child in workers:
            scene.stage.set_clock(child, 0.0)
    await scene.judge()


@case()
async def the_gateways_clock_jumps_back(scene: Scene) -> None:
    """It takes a deadline that has passed; the run ends with it, and nothing is done."""
    scene.stage.set_clock("gateway", -DAY_S)
    try:
        goal = scene.goal("in_ring")
        goal.asked.ends = ("failed",)
        asked = await scene.send(goal, deadline=datetime.now(UTC) - timedelta(hours=1))
        await scene.said(asked, "finished")
    finally:
        scene.stage.set_clock("gateway", 0.0)
    assert not scene.of(asked, "action"), "something was authorised after the deadline"
    assert not scene.calls("ring", asked.ref)
    await scene.judge()


@case()
async def the_gateways_clock_jumps_ahead(scene: Scene) -> None:
    """It refuses what it thinks has passed, and acknowledges nothing of it."""
    scene.stage.set_clock("gateway", DAY_S)
    try:
        goal = scene.goal("in_ring")
        with suppress(InvalidArgument):
            await scene.send(goal, deadline=FAR_S)
            raise AssertionError("a deadline that has passed for the gateway was taken")
        await scene.said(await scene.submit("errand"), "finished")
    finally:
        scene.stage.set_clock("gateway", 0.0)
    await scene.judge()


async def _with_clock(scene: Scene, child: str, offset_s: float) -> None:
    scene.stage.set_clock(child, offset_s)
    try:
        healed = await scene.submit("busy", deadline=FAR_S)
        await scene.said(healed, "finished")
        await _lease(scene)
        await _deadline(scene)
    finally:
        scene.stage.set_clock(child, 0.0)
    _no_timer_early(scene, healed)
    await scene.judge()


def _no_timer_early(scene: Scene, asked: Asked) -> None:
    """After a heal the next attempt comes no earlier than was decided."""
    not_before_ns = 0
    for row in scene.of(asked):
        if row.kind == "action" and not_before_ns:
            early_s = (not_before_ns - row.time_ns) / 1e9
            assert early_s <= 0, f"{row.attempt} came {early_s:.3f} s too early"
        if row.kind == "healed":
            not_before_ns = row.body.not_before.ToNanoseconds()


async def _lease(scene: Scene) -> None:
    """A stopped worker's claim is left alone until its lease is over."""
    stroke, name = scene.arm("intent@after")
    asked = await scene.submit("in_post")
    await scene.struck(stroke, name)
    (healed, *_) = await scene.said(asked, "healed")
    (claimed, *_) = scene.of(asked, "intent")
    waited_s = (healed.time_ns - claimed.time_ns) / 1e9
    scene.stage.free(stroke)
    assert waited_s >= LEASE_S, f"the claim was resolved after {waited_s:.2f} s"
    await scene.said(asked, "finished")


async def _deadline(scene: Scene) -> None:
    """A deadline holds: not before it, and nothing starts after it."""
    goal = scene.goal("sends")
    for tool, ref in goal.asked.owes:
        scene.stage.world.script(ref, Fault("hang", "after", NEAR_S * 0.7))
        assert tool == "send"
    goal.asked.ends = ("failed",)
    deadline = datetime.now(UTC) + timedelta(seconds=NEAR_S)
    asked = await scene.send(goal, deadline=deadline)
    (end, *_) = await scene.said(asked, "finished")
    deadline_ns = int(deadline.timestamp() * 1e9)
    assert end.body.failure.code == failures.DEADLINE, f"it ended with {end.body.failure.code}"
    assert end.time_ns >= deadline_ns, (
        f"it ended {(deadline_ns - end.time_ns) / 1e9:.3f} s before its deadline"
    )
    # What clears up an effect that was in flight only reads, and claims nothing.
    late = [row.attempt for row in scene.of(asked, "intent") if row.time_ns > deadline_ns]
    assert not late, f"{late} was claimed after the deadline"
