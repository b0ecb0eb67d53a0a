"""Nowhere to write: acknowledgements stop instead of lying, and what was accepted goes on later."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from handrail.errors import ClientError, ResourceExhausted
from tests.chaos.cases import END_TIMEOUT_S, Scene, Skipped, case
from tests.chaos.courses import Goal
from tests.chaos.history import Asked
from tests.chaos.world import Fault

FILLER = "x" * 30_000
MAX_FILLERS = 400
PARKED = 6
PARKED_S = 1.8
"""Nearly as long as a tool of the project may take."""
REFUSED_TIMEOUT_S = 3.0
TRIES = 3
CHUNK_BYTES = 4_096


@case(CHAOS_STREAM_BYTES="2000000")
async def streams_are_full(scene: Scene) -> None:
    """New goals are refused at four fifths; the rest is for the runs that there are, and it is enough."""
    parked = [await _parked(scene) for _ in range(PARKED)]
    refused = False
    for _ in range(MAX_FILLERS):
        goal = scene.goal("in_look")
        filler = Goal(goal.asked, goal.text, goal.plan, {"filler": FILLER})
        try:
            await scene.send(filler)
        except ResourceExhausted:
            refused = True
            break
    assert refused, f"{MAX_FILLERS} goals were taken where there is no room for them"
    scene.notes.append(f"{len(scene.asked)} goals taken before the first was refused")
    for asked in parked:
        await scene.said(asked, "finished")
    await scene.judge()


@case(disk_mb=64)
async def the_disk_is_full(scene: Scene) -> None:
    """Not a byte is left: nothing is acknowledged, what was in flight is told when there is room again."""
    filler = scene.stage.seen / "filler"
    parked = await _parked(scene)
    await scene.said(parked, "intent")
    try:
        await asyncio.to_thread(_fill, filler)
        lost = await _refused(scene)
    finally:
        filler.unlink()
    await _goes_on(scene, lost)
    assert not scene.of(parked, "in_doubt"), "what had been done was forgotten while there was no room"
    await scene.judge()


@case()
async def the_broker_can_write_nothing(scene: Scene) -> None:
    """Every write of the broker fails (as on a disk that was made read-only by an error)."""
    broker = scene.stage.children()["broker"]
    parked = await _parked(scene)
    await scene.said(parked, "intent")
    limits = resource.prlimit(broker, resource.RLIMIT_FSIZE)
    resource.prlimit(broker, resource.RLIMIT_FSIZE, (0, limits[1]))
    lost = await _refused(scene)
    with suppress(ProcessLookupError):
        resource.prlimit(broker, resource.RLIMIT_FSIZE, limits)
    await _goes_on(scene, lost)
    assert not scene.of(parked, "in_doubt"), "what had been done was forgotten while nothing could be written"
    await scene.judge()


@case()
async def the_data_directory_is_read_only(scene: Scene) -> None:
    """Made read-only, and the broker dies: it does not come up, and does when the directory is back."""
    parked = await _parked(scene)
    await scene.said(parked, "intent")
    tree = [scene.stage.data, *scene.stage.data.rglob("*")]
    modes = {path: path.stat().st_mode for path in tree if path.exists() and not path.is_socket()}
    try:
        for path in modes:
            path.chmod(0o500 if path.is_dir() else 0o400)
        if os.geteuid() == 0 and not _bounded(scene.stage.children()["broker"]):
            raise Skipped("root may write everywhere here, and cannot be kept from it")
        os.kill(scene.stage.children()["broker"], signal.SIGKILL)
        lost = await _refused(scene)
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)
    await _goes_on(scene, lost)
    await scene.judge()


async def _parked(scene: Scene) -> Asked:
    """Submit a goal whose effect is out long before its tool returns."""
    goal = scene.goal("in_send")
    scene.stage.world.script(goal.asked.ref, Fault("hang", "after", PARKED_S))
    return await scene.send(goal)


async def _refused(scene: Scene) -> list[Goal]:
    """Submit where nothing can be written, and return what was not acknowledged.

    What is acknowledged all the same, in a last free corner, must be there in the end like everything else.
    """
    lost = []
    for _ in range(TRIES):
        goal = scene.goal("in_post")
        async with scene.stage.another_client(scene.stage.client.address, REFUSED_TIMEOUT_S) as client:
            try:
                submitted = await client.submit(goal.text, plan=goal.plan, request_id=goal.asked.ref)
            except ClientError:
                lost.append(goal)
                continue
        goal.asked.run = submitted.run
        scene.asked.append(goal.asked)
    assert lost, "everything was acknowledged where nothing can be written"
    return lost


async def _goes_on(scene: Scene, lost: list[Goal]) -> None:
    """What was not acknowledged can be submitted again, and then all goes on, by itself."""
    begun = time.monotonic()
    async with _within(END_TIMEOUT_S, "what was refused is still not taken"):
        await asyncio.gather(*(_insist(scene, goal) for goal in lost))
        scene.notes.append(f"goals were taken again after {time.monotonic() - begun:.1f} s")
        for asked in scene.asked:
            await scene.said(asked, "finished", "in_doubt")
    # What was acknowledged is on the disk, and not only in the broker's memory.
    before = scene.stage.children()["broker"]
    os.kill(before, signal.SIGKILL)
    await scene.stage.until(
        "the broker is back", lambda: scene.stage.pids("broker") - {before}, END_TIMEOUT_S
    )


@asynccontextmanager
async def _within(timeout_s: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise AssertionError(f"{what} after {timeout_s:g} s") from None


async def _insist(scene: Scene, goal: Goal) -> Asked:
    while True:
        with suppress(ClientError):
            return await scene.send(goal)


def _fill(path: Path) -> None:
    """Write a file that takes up all the room there is."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * CHUNK_BYTES)


def _bounded(pid: int) -> bool:
    """Whether a process of root may not write everywhere."""
    status = Path(f"/proc/{pid}/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return not effective & 2
