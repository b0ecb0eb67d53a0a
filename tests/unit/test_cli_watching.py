"""Watching: events are folded as they come, shown in three ways, and Ctrl-C is polite first."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from handrail.cli import watching
from handrail.cli.output import Output
from handrail.cli.watching import Watch, Watched, fold_log, record_of
from handrail.errors import Unavailable
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

E = event_pb2
RUN = "r0-01k9x3abcd"
PLAN = plan_pb2.Plan(origin="client", steps=[plan_pb2.Step(id="look", tool="get_item")])


def event(sequence: int, topic: str, **body: Any) -> run_service_pb2.WatchRunResponse:
    made = run_service_pb2.WatchRunResponse(
        cursor=str(sequence),
        subject=f"ev.0.default.{RUN}.{topic}",
        event=E.Event(id=f"e{sequence}", version=1, writer="test/1", **body),
    )
    made.time.FromNanoseconds(1_800_000_000_000_000_000 + sequence * 1_000_000)
    return made


SUBMIT = event(1, "cmd.submit", submit=E.Submit(goal=E.Goal(text="look around")))
ACCEPTED = event(2, "dec.note.plan_accepted", plan_accepted=E.PlanAccepted(plan=PLAN))
ACTION = event(
    3,
    "dec.ask.worker.shed",
    action=E.Action(attempt="look-a1", step="look", kind=E.ACTION_KIND_ACT, tool="get_item"),
)
IN_DOUBT = event(
    4, "dec.note.in_doubt", in_doubt=E.InDoubt(step="look", attempt="look-a1", why="nobody knows")
)
DONE = event(9, "dec.note.finished", finished=E.Finished(status=E.RUN_STATUS_DONE))
CANCELLED = event(9, "dec.note.finished", finished=E.Finished(status=E.RUN_STATUS_CANCELLED))


class FakeClient:
    """A run whose events are given; with `endless` the watch waits after them until it is cancelled."""

    def __init__(self, *events: run_service_pb2.WatchRunResponse, endless: bool = False) -> None:
        self.events = list(events)
        self.endless = endless
        self.watching = asyncio.Event()
        self.more: asyncio.Queue[run_service_pb2.WatchRunResponse] = asyncio.Queue()
        self.cancelled: list[str] = []
        self.closed = False

    async def watch(self, run: str, **_: Any) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
        try:
            for response in self.events:
                yield response
            self.watching.set()
            while self.endless:
                response = await self.more.get()
                yield response
                if response.event.HasField("finished"):
                    return
        finally:
            self.closed = True

    async def cancel(self, run: str, *, reason: str = "") -> None:
        """End the run, as a server would."""
        self.cancelled.append(reason)
        self.more.put_nowait(CANCELLED)


def watch(client: FakeClient, *, polite: bool = False, as_json: bool = False) -> Watch:
    fake: Any = client
    return Watch(fake, RUN, Output(as_json=as_json), polite=polite, note="cancelling")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_on_a_pipe_every_event_is_a_line_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(SUBMIT, ACCEPTED, ACTION, DONE)
    seen = await watch(client).follow()
    assert seen.status == E.RUN_STATUS_DONE
    assert seen.goal == "look around"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "goal: look around" in lines[0]
    assert not any("\x1b" in line for line in lines)
    assert client.closed


async def test_as_json_every_event_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    await watch(FakeClient(SUBMIT, ACCEPTED, DONE), as_json=True).follow()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["cursor"] for item in found] == ["1", "2", "9"]
    assert found[0]["event"]["submit"]["goal"]["text"] == "look around"


async def test_after_a_sequence_the_rest_is_folded_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    seen = await watch(FakeClient(SUBMIT, ACCEPTED, DONE), as_json=True).follow(after=2)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["cursor"] for item in found] == ["9"]
    assert seen.plan.origin == "client"


async def test_a_run_that_waits_for_a_human_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SETTLED_AFTER_S", 0.01)
    client = FakeClient(SUBMIT, ACCEPTED, ACTION, IN_DOUBT, endless=True)
    async with asyncio.timeout(5):
        following = watch(client)
        seen = await following.follow()
    assert seen.status == E.RUN_STATUS_WAITING
    assert not following.left


async def test_a_run_that_only_seemed_to_wait_is_watched_on() -> None:
    client = FakeClient(SUBMIT, ACCEPTED, ACTION, IN_DOUBT, endless=True)
    following = asyncio.create_task(watch(client).follow())
    await client.watching.wait()
    client.more.put_nowait(DONE)
    async with asyncio.timeout(5):
        assert (await following).status == E.RUN_STATUS_DONE


async def test_the_first_interrupt_cancels_and_waits_for_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(SUBMIT, ACCEPTED, endless=True)
    following = watch(client, polite=True)
    task = asyncio.create_task(following.follow())
    await client.watching.wait()
    os.kill(os.getpid(), signal.SIGINT)
    async with asyncio.timeout(5):
        seen = await task
    assert client.cancelled == ["Ctrl-C"]
    assert seen.status == E.RUN_STATUS_CANCELLED
    assert not following.left
    assert "cancelling" in capsys.readouterr().err


async def test_the_second_interrupt_leaves() -> None:
    client = FakeClient(SUBMIT, ACCEPTED, endless=True)

    async def cancel(run: str, *, reason: str = "") -> None:
        client.cancelled.append(reason)

    client.cancel = cancel  # type: ignore[method-assign]
    following = watch(client, polite=True)
    task = asyncio.create_task(following.follow())
    await client.watching.wait()
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: client.cancelled == ["Ctrl-C"])
    os.kill(os.getpid(), signal.SIGINT)
    async with asyncio.timeout(5):
        await task
    assert following.left


async def test_an_interrupt_only_stops_watching_a_server() -> None:
    client = FakeClient(SUBMIT, ACCEPTED, endless=True)
    following = watch(client)
    task = asyncio.create_task(following.follow())
    await client.watching.wait()
    os.kill(os.getpid(), signal.SIGINT)
    async with asyncio.timeout(5):
        seen = await task
    assert following.left
    assert client.cancelled == []
    assert client.closed
    assert seen.status == E.RUN_STATUS_RUNNING


class LostClient(FakeClient):
    """A server that is lost after its events."""

    async def watch(self, run: str, **given: Any) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
        for response in self.events:
            yield response
        raise Unavailable("gone", code=grpc.StatusCode.UNAVAILABLE)


async def test_a_watch_goes_on_with_whoever_comes_after(capsys: pytest.CaptureFixture[str]) -> None:
    first: Any = LostClient(SUBMIT, ACCEPTED)
    asked: list[str] = []

    class Successor(FakeClient):
        def watch(self, run: str, **given: Any) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
            asked.append(given["after"])
            return super().watch(run)

    async def again() -> Any:
        return Successor(ACTION, DONE)

    following = Watch(first, RUN, Output(as_json=True), polite=False, note="", again=again)
    seen = await following.follow()
    assert seen.status == E.RUN_STATUS_DONE
    assert asked == ["2"]
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["cursor"] for item in found] == ["1", "2", "3", "9"]


@pytest.mark.parametrize("successor", [False, True])
async def test_a_server_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch, successor: bool) -> None:
    monkeypatch.setattr(watching, "OUTAGE_S", 0.01)

    async def again() -> Any:
        return LostClient() if successor else None

    lost: Any = LostClient(SUBMIT)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(5):
            await Watch(lost, RUN, Output(), polite=False, note="", again=again).follow()


async def test_folding_a_log_up_to_a_sequence() -> None:
    fake: Any = FakeClient(SUBMIT, ACCEPTED, ACTION, DONE)
    watched = await fold_log(fake, RUN, upto=3)
    assert watched.status == E.RUN_STATUS_RUNNING
    assert watched.time_ns == 1_800_000_000_003_000_000
    assert watched.run.steps[0].attempts[0].id == "look-a1"


def test_before_the_first_event_there_is_a_run_with_its_goal() -> None:
    watched = Watched(RUN, "look around")
    assert watched.run == run_service_pb2.Run(id=RUN, goal="look around")
    assert watched.status == E.RUN_STATUS_UNSPECIFIED


def test_what_lies_nowhere_in_a_log_is_no_record() -> None:
    assert record_of(run_service_pb2.WatchRunResponse(cursor="1", subject="elsewhere")) is None
    unreadable = run_service_pb2.WatchRunResponse(cursor="1", subject=SUBMIT.subject)
    record = record_of(unreadable)
    assert record is not None
    assert record.event is None
