"""Undo over gRPC, a broker and a whole stack behind it: asked for, waited for, watched, listed, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handrail import errors
from handrail.client import Client
from handrail.person import whoami
from handrail.stack.inline import embedded
from handrail.sync_client import SyncClient
from handrail.v1 import event_pb2, run_service_pb2
from handrail.v1.event_pb2 import (
    RUN_STATUS_DONE,
    RUN_STATUS_FAILED,
    RUN_STATUS_UNDONE,
    RUN_STATUS_WAITING,
)
from tests.integration.gateway_stage import until

TOOLS = '''
"""Files are made, unmade, and told of."""

import time
from pathlib import Path

from handrail.tool import ToolError, call, tool

WORLD = Path(__file__).parent / "world"


@tool(effect="write", idempotency="keyed", key="key", undo=call("unmake", name="args.name"))
def make(name: str, key: str) -> str:
    """Make a file."""
    (WORLD / name).touch()
    return name


@tool(effect="write", idempotency="natural")
def unmake(name: str) -> None:
    """Take a file away, unless it is stuck."""
    with (WORLD.parent / "unmade").open("a") as calls:
        calls.write(f"{name} ")
    if (WORLD.parent / f"stuck-{name}").exists():
        raise ToolError(f"{name} is stuck", code="stuck")
    (WORLD / name).unlink(missing_ok=True)


@tool(effect="irreversible", idempotency="keyed", key="key")
def tell(name: str, key: str) -> None:
    """Tell somebody."""


@tool(effect="read", timeout_s=20)
def hold() -> None:
    """Wait until somebody says go."""
    while not (WORLD.parent / "go").exists():
        time.sleep(0.01)


@tool(effect="read")
def fail() -> None:
    """Fail."""
    raise ToolError("as it always does", code="always")
'''
POLICY = '@id("all") @reason("all") permit (principal, action, resource);'
ONE = {"id": "one", "tool": "make", "with": {"name": "one"}}
TWO = {"id": "two", "tool": "make", "with": {"name": "two"}, "after": ["one"]}
TELL = {"id": "tell", "tool": "tell", "with": {"name": "ada"}, "after": ["two"]}
FAIL = {"id": "fail", "tool": "fail", "after": ["two"]}
HOLD = {"id": "hold", "tool": "hold"}


@dataclass
class Desk:
    """A client of a stack, and the world that it acts on."""

    client: Client
    address: str
    project: Path

    @property
    def world(self) -> set[str]:
        return {path.name for path in (self.project / "world").iterdir()}

    @property
    def unmade(self) -> list[str]:
        path = self.project / "unmade"
        return path.read_text().split() if path.exists() else []

    def stick(self, name: str) -> Path:
        path = self.project / f"stuck-{name}"
        path.touch()
        return path

    async def done(self, *steps: dict[str, Any], **options: Any) -> str:
        run = await self.client.run("make things", plan={"steps": list(steps)}, submitter="ann", **options)
        assert run.status == RUN_STATUS_DONE, run
        return run.id

    async def listed(self, run: str, status: event_pb2.RunStatus.ValueType) -> run_service_pb2.RunSummary:
        """Wait until the listing says the same of a run."""
        async with asyncio.timeout(10):
            while True:
                found = [one async for one in self.client.list(status=status) if one.id == run]
                if found:
                    return found[0]
                await asyncio.sleep(0.01)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    project = tmp_path / "files"
    (project / "world").mkdir(parents=True)
    (project / "policy").mkdir()
    (project / "policy" / "all.cedar").write_text(POLICY)
    (project / "tools.py").write_text(TOOLS)
    (project / "handrail.toml").write_text('[toolboxes.files]\nmodules = ["tools"]\n')
    async with (
        embedded(project, project / ".handrail") as stack,
        Client(stack.address, timeout_s=30, token_file=project / ".handrail" / "token") as client,
    ):
        yield Desk(client, stack.address, project)


async def test_what_a_run_did_is_taken_back_and_asking_again_does_nothing(desk: Desk) -> None:
    run = await desk.done(ONE, TWO)
    assert desk.world == {"one", "two"}
    seen = await desk.client.undo(run, submitter="ines", reason="a mistake", timeout_s=30)
    assert (seen.status, desk.world, desk.unmade) == (RUN_STATUS_UNDONE, set(), ["two", "one"])
    assert (seen.undo.submitter, seen.undo.reason, seen.undo.ended) == ("ines", "a mistake", True)
    summary = await desk.listed(run, RUN_STATUS_UNDONE)
    assert summary.ended == seen.ended
    again = await desk.client.undo(run, timeout_s=30)
    assert (again.status, len(again.undo.compensations)) == (RUN_STATUS_UNDONE, 0)
    # Whose token it came with, where nobody else is named.
    assert again.undo.submitter == whoami()
    assert desk.unmade == ["two", "one"]


async def test_a_dry_run_says_what_stays_and_does_nothing(desk: Desk) -> None:
    run = await desk.done(ONE, TWO, TELL)
    with SyncClient(desk.address, timeout_s=30, token_file=desk.project / ".handrail" / "token") as client:
        seen = await asyncio.to_thread(client.undo, run, dry_run=True, timeout_s=30)
    assert (seen.status, seen.undo_outlook.ended, desk.unmade) == (RUN_STATUS_DONE, True, [])
    assert [one.undoes for one in seen.undo_outlook.compensations] == ["two", "one"]
    assert [(one.step, one.tool) for one in seen.undo_outlook.stays] == [("tell", "tell")]
    undone = await desk.client.undo(run, step="two", timeout_s=30)
    assert (undone.status, desk.world) == (RUN_STATUS_DONE, {"one"})


async def test_only_an_ended_run_that_did_something_is_undone(desk: Desk) -> None:
    with pytest.raises(errors.NotFound):
        await desk.client.undo("r0-abcdefgh")
    going = (await desk.client.submit("hold on", plan={"steps": [HOLD]})).run
    with pytest.raises(errors.FailedPrecondition, match="cancel it first") as refused:
        await desk.client.undo(going)
    assert refused.value.reason == "RUN_NOT_ENDED"
    (desk.project / "go").touch()
    rehearsed = await desk.client.run("make one", plan={"steps": [ONE]}, dry_run=True)
    with pytest.raises(errors.FailedPrecondition) as refused:
        await desk.client.undo(rehearsed.id)
    assert refused.value.reason == "NOTHING_DONE"
    run = await desk.done(ONE)
    for step in ("oen", "undo-one"):
        with pytest.raises(errors.InvalidArgument) as wrong:
            await desk.client.undo(run, step=step)
        assert (wrong.value.reason, wrong.value.violations[0].field) == ("BAD_STEP", "step")
    for bad in ({"reason": "\u202e"}, {"submitter": "a\x1b"}):
        with pytest.raises(errors.InvalidArgument):
            await desk.client.undo(run, **bad)
    assert (await desk.client.get(run)).HasField("undo") is False


async def test_two_at_once_undo_once(desk: Desk) -> None:
    run = await desk.done(ONE, TWO)
    found = await asyncio.gather(*(desk.client.undo(run, timeout_s=30) for _ in range(5)))
    assert {one.status for one in found} == {RUN_STATUS_UNDONE}
    assert desk.unmade == ["two", "one"]


async def test_what_went_wrong_waits_for_somebody_and_is_watched_to_its_end(desk: Desk) -> None:
    run = await desk.done(ONE, TWO)
    stuck = desk.stick("two")
    seen = await desk.client.undo(run, submitter="ines", timeout_s=30)
    assert (seen.status, desk.world) == (RUN_STATUS_WAITING, {"one", "two"})
    (gate,) = [one async for one in desk.client.gates()]
    assert (gate.submitter, gate.what.step, gate.what.kind) == (
        "ines",
        "undo-two",
        event_pb2.GATE_KIND_DOUBT,
    )
    await desk.listed(run, RUN_STATUS_WAITING)
    # The same again is joined; anything else has to wait.
    assert await desk.client.begin_undo(run)
    with pytest.raises(errors.FailedPrecondition, match="another undo") as refused:
        await desk.client.undo(run, step="one")
    assert refused.value.reason == "ANOTHER_UNDO"
    heard: list[str | None] = []
    watching = asyncio.create_task(_watch(desk.client, run, heard))
    await until(lambda: "gate_opened" in heard)
    assert not watching.done()
    stuck.unlink()
    await desk.client.settle(gate.id, happened=False, approver="bob")
    seen = await desk.client.wait(run, timeout_s=30)
    assert (seen.status, desk.world) == (RUN_STATUS_UNDONE, set())
    bodies = await asyncio.wait_for(watching, 10)
    assert bodies.index("finished") < bodies.index("undo") < len(bodies) - 1
    assert bodies[-1] == "undo_ended"
    await desk.listed(run, RUN_STATUS_UNDONE)
    assert [one async for one in desk.client.gates()] == []
    assert await _watch(desk.client, run) == bodies


async def test_an_undo_is_cancelled_and_can_be_asked_for_again(desk: Desk) -> None:
    run = await desk.done(ONE, TWO)
    stuck = desk.stick("two")
    await desk.client.undo(run, timeout_s=30)
    await desk.client.cancel(run, reason="enough")
    seen = await desk.client.wait(run, timeout_s=30)
    assert (seen.status, seen.undo.failure.code, desk.world) == (RUN_STATUS_DONE, "cancelled", {"one", "two"})
    await desk.listed(run, RUN_STATUS_DONE)
    assert [one async for one in desk.client.gates()] == []
    stuck.unlink()
    assert (await desk.client.undo(run, timeout_s=30)).status == RUN_STATUS_UNDONE


async def test_a_run_that_fails_undoes_itself(desk: Desk) -> None:
    stuck = desk.stick("one")
    plan = {"steps": [ONE, TWO, FAIL]}
    run = await desk.client.run("make things", plan=plan, undo_on_failure=True, timeout_s=30)
    assert (run.status, run.undo_on_failure, desk.world) == (RUN_STATUS_WAITING, True, {"one"})
    await desk.listed(run.id, RUN_STATUS_WAITING)
    with pytest.raises(errors.FailedPrecondition) as refused:
        await desk.client.undo(run.id)
    assert refused.value.reason == "RUN_NOT_ENDED"
    stuck.unlink()
    (gate,) = [one async for one in desk.client.gates()]
    await desk.client.settle(gate.id, happened=False, approver="bob")
    run = await desk.client.wait(run.id, timeout_s=30)
    assert (run.status, run.failure.code, desk.world) == (RUN_STATUS_FAILED, "always", set())
    assert run.undo.ended
    bodies = await _watch(desk.client, run.id)
    assert bodies[-1] == "finished"
    await desk.listed(run.id, RUN_STATUS_FAILED)


async def _watch(client: Client, run: str, heard: list[str | None] | None = None) -> list[str | None]:
    """Every event of a run, and of what goes on of it."""
    found: list[str | None] = [] if heard is None else heard
    async for response in client.watch(run, timeout_s=30):
        found += [event.WhichOneof("body") for event in (*response.event.before, response.event)]
    return found
