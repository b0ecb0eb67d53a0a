"""Whoever comes late: a worker that wakes up after its action was resolved, a decider that was replaced, a
cancel beside a claim. Each has one winner.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.chaos.cases import END_TIMEOUT_S, Scene, case
from tests.chaos.stage import ROOT

ROUNDS = 6


@case()
async def a_worker_is_continued_after_a_keyed_action_was_resolved(scene: Scene) -> None:
    """Stopped after its claim, judged silent, done again with the same key; then it wakes up and acts too."""
    stroke, name = scene.arm("intent@after")
    asked = await scene.submit("in_post")
    await scene.struck(stroke, name)
    await scene.said(asked, "finished")
    scene.stage.free(stroke)
    await scene.stage.world.wait_for(
        "the late call", lambda: len(scene.calls("post", asked.ref)) == 2, END_TIMEOUT_S
    )
    late = scene.calls("post", asked.ref)[-1]
    assert late.pid == stroke.pid, "the late call is not the stopped worker's"
    assert len(scene.stage.world.effects_of(asked.ref)) == 1, "the late call had a second effect"
    await _worker_speaks(scene, stroke.pid)
    await scene.judge()


@case()
async def a_worker_is_continued_after_a_read_back_said_no(scene: Scene) -> None:
    """A read-back alone is not enough: the claimer is not known dead. Surfaced, not repeated."""
    stroke, name = scene.arm("intent@after")
    asked = await scene.submit("in_send")
    await scene.struck(stroke, name)
    await scene.said(asked, "in_doubt")
    kinds = [row.body.strategy for row in scene.of(asked, "healed")]
    assert kinds == ["read_back"], f"it was healed by {kinds}"
    assert not scene.calls("send", asked.ref), "somebody acted while the claim was in doubt"
    scene.stage.free(stroke)
    await scene.stage.world.wait_for(
        "the late effect", lambda: scene.stage.world.effects_of(asked.ref), END_TIMEOUT_S
    )
    await _worker_speaks(scene, stroke.pid)
    assert len(scene.calls("send", asked.ref)) == 1, "the action was repeated"
    await scene.judge()


@case()
async def two_workers_are_handed_one_ask(scene: Scene) -> None:
    """One is stopped between delivery and claim until the other was handed the same; one acts."""
    stroke, name = scene.arm("intent@before")
    asked = await scene.submit("in_ring")
    told = await scene.struck(stroke, name)
    await scene.said(asked, "finished")
    scene.stage.free(stroke)
    await _worker_speaks(scene, stroke.pid)
    assert len(scene.calls("ring", asked.ref)) == 1, "both acted"
    assert told["id"] not in scene.stage.tap.stored.values(), "the second claim is in the log"
    assert not scene.of(asked, "in_doubt"), "a lost claim was taken for a doubt"
    await scene.judge()


@case()
async def a_decider_is_continued_after_it_was_replaced(scene: Scene) -> None:
    """Stopped as it is about to decide; another takes the pin and decides; the first cannot commit."""
    stage = scene.stage
    stroke, name = scene.arm("action@before")
    asked = await scene.submit("sends")
    told = await scene.struck(stroke, name)
    second = await _second_decider(scene, stroke.pid)
    try:
        await scene.said(asked, "finished")
        stage.free(stroke)
    finally:
        second.kill()
        await second.wait()
    # It decides again, so what it had begun has come to its end.
    follower = await scene.submit("in_post")
    await scene.said(follower, "finished")
    assert {row.writer for row in scene.of(follower, "finished")} == {told["writer"]}
    assert told["id"] not in stage.tap.stored.values(), "what the stopped decider had decided is in the log"
    before = [row for row in scene.of(asked) if row.writer == told["writer"]]
    assert all(row.time_ns <= stroke.struck_ns for row in before), f"it went on deciding: {before}"
    await scene.judge()


@case()
async def a_cancel_meets_a_claim_that_is_about_to_be_made(scene: Scene) -> None:
    """The worker is stopped before its claim and the run cancelled: taken back, and nobody acts."""
    stroke, name = scene.arm("intent@before")
    asked = await scene.submit("in_ring")
    asked.commands, asked.ends = ("cancel",), ("cancelled",)
    await scene.struck(stroke, name)
    await scene.stage.client.cancel(asked.run)
    await scene.said(asked, "finished")
    scene.stage.free(stroke)
    await _worker_speaks(scene, stroke.pid)
    assert len(scene.of(asked, "revoked")) == 1, "it was not taken back"
    assert not scene.calls("ring", asked.ref), "it was taken back and carried out"
    await scene.judge()


@case()
async def a_cancel_meets_a_claim_that_was_made(scene: Scene) -> None:
    """The worker is stopped after its claim and the run cancelled: not taken back, and seen through."""
    stroke, name = scene.arm("intent@after")
    asked = await scene.submit("in_post")
    asked.commands, asked.ends = ("cancel",), ("cancelled",)
    await scene.struck(stroke, name)
    await scene.stage.client.cancel(asked.run)
    await scene.said(asked, "cancel")
    scene.stage.free(stroke)
    await scene.said(asked, "finished")
    assert not scene.of(asked, "revoked"), "a claimed action was taken back"
    assert len(scene.stage.world.effects_of(asked.ref)) == 1
    assert scene.of(asked, "verdict"), "it was not seen through"
    await scene.judge()


@case()
async def cancels_race_claims(scene: Scene) -> None:
    """Many claims, and a cancel in the middle of them: each attempt is claimed or taken back, never both."""
    for number in range(ROUNDS):
        asked = await scene.submit("cancelled")
        await scene.said(asked, "intent", count=1 + number)
        await scene.stage.client.cancel(asked.run)
    for asked in scene.asked:
        await scene.said(asked, "finished")
    claimed = sum(len(scene.of(asked, "intent")) for asked in scene.asked)
    taken = sum(len(scene.of(asked, "revoked")) for asked in scene.asked)
    assert claimed, "no claim was made"
    assert taken, "nothing was taken back: there was no race"
    scene.notes.append(f"{claimed} claimed, {taken} taken back")
    await scene.judge()


async def _worker_speaks(scene: Scene, pid: int) -> None:
    """Give work until a worker process has answered some: whatever it had left over is done by then."""
    while True:
        asked = await scene.submit("fan")
        await scene.said(asked, "finished")
        if any(call.pid == pid for call in scene.stage.world.calls if call.ref.startswith(asked.ref)):
            return


async def _second_decider(scene: Scene, first: int) -> asyncio.subprocess.Process:
    """Start another decider, just as the supervisor has started the first."""

    def read(name: str) -> list[str]:
        return Path(f"/proc/{first}/{name}").read_bytes().decode().rstrip("\0").split("\0")

    environment = dict(entry.split("=", 1) for entry in read("environ"))
    process = await asyncio.create_subprocess_exec(
        *read("cmdline"),
        cwd=ROOT,
        env={**environment, "HANDRAIL_GENERATION": "99"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    scene.notes.append(f"second decider {process.pid}")
    return process
