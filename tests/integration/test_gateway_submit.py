"""Goals come in over gRPC: what is wrong is listed and nothing is written, what is right is durable once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest

from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from core.plan_form import plan_from_form
from core.ports import Address, LogForbidden, LogFull, LogUnavailable
from core.ulids import ulid
from handrail.v1 import event_pb2, plan_pb2
from handrail.v1.run_service_pb2 import GetRunRequest, SubmitGoalRequest
from tests.integration.gateway_stage import Stage, details, staged

DAY_S = 86_400
METHOD = "/handrail.v1.RunService/SubmitGoal"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


def request(text: str = "refund order 1001", **fields: Any) -> SubmitGoalRequest:
    named = {name: fields.pop(name) for name in ("request_id", "first") if name in fields}
    goal = event_pb2.Goal(text=text)
    for name, value in fields.items():
        if name == "context":
            goal.context.json = value
        elif name == "deadline_s":
            goal.deadline.FromNanoseconds(time.time_ns() + int(value * 1e9))
        elif name == "steps":
            goal.plan.CopyFrom(plan_from_form({"steps": value}))
        else:
            getattr(goal, name).CopyFrom(value) if hasattr(value, "CopyFrom") else setattr(goal, name, value)
    return SubmitGoalRequest(goal=goal, **named)


async def refused(stage: Stage, message: SubmitGoalRequest) -> dict[str, str]:
    """Submit what must be refused, and return the violations."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()
    info, fields = details(caught.value)
    assert (info.domain, info.reason) == ("handrail.dev", "BAD_GOAL")
    assert stage.events() == stage.cells() == 0
    return fields


def look(**fields: Any) -> dict[str, Any]:
    return {"id": "look", "tool": "get_order", "with": {"order_id": 7}, **fields}


BAD_GOALS: Mapping[str, tuple[SubmitGoalRequest, dict[str, str]]] = {
    "empty": (request(""), {"goal.text": "EMPTY"}),
    "blank": (request(" \n\t "), {"goal.text": "EMPTY"}),
    "5 MB": (request("x" * 5_000_000), {"goal.text": "TOO_LONG", "goal": "TOO_LARGE"}),
    "zero width": (request("refund\u200border"), {"goal.text": "UNSEEN_CHARACTER"}),
    "right to left": (request("refund \u202e1001"), {"goal.text": "UNSEEN_CHARACTER"}),
    "escape": (request("refund \x1b[2J"), {"goal.text": "UNSEEN_CHARACTER"}),
    "null": (request("refund\0"), {"goal.text": "UNSEEN_CHARACTER"}),
    "carriage return": (request("refund\r\n1001"), {"goal.text": "UNSEEN_CHARACTER"}),
    "context is a list": (request(context="[1]"), {"goal.context": "BAD_JSON"}),
    "context is no JSON": (request(context="{"), {"goal.context": "BAD_JSON"}),
    "context has NaN": (request(context='{"a":NaN}'), {"goal.context": "BAD_JSON"}),
    "context has half a character": (request(context='{"a":"\\ud800"}'), {"goal.context": "BAD_JSON"}),
    "context is deep": (request(context='{"a":' + "[" * 60_000), {"goal.context": "BAD_JSON"}),
    "context is large": (request(context=json.dumps({"a": "x" * 1_050_000})), {"goal.context": "TOO_LARGE"}),
    "deadline past": (request(deadline_s=-1), {"goal.deadline": "PAST"}),
    "deadline far": (request(deadline_s=31 * DAY_S), {"goal.deadline": "TOO_FAR"}),
    "request id long": (request(request_id="x" * 129), {"request_id": "TOO_LONG"}),
    "request id with CR LF": (request(request_id="a\r\nb"), {"request_id": "BAD_CHARACTERS"}),
    "request id not ASCII": (request(request_id="é"), {"request_id": "BAD_CHARACTERS"}),
    "ceiling": (request(ceiling=99), {"goal.ceiling": "UNKNOWN_ENUM"}),
    "budget": (request(budget=plan_pb2.Budget(max_steps=5_000)), {"goal.budget.max_steps": "ABOVE_LIMIT"}),
    "no steps": (request(plan=plan_pb2.Plan(title="t")), {"goal.plan.steps": "EMPTY_PLAN"}),
    "10,000 steps": (
        request(steps=[look(id=f"s{i}") for i in range(10_000)]),
        {"goal.plan.steps": "TOO_MANY_STEPS"},
    ),
}


@pytest.mark.parametrize("name", BAD_GOALS)
async def test_a_bad_goal_is_refused_and_nothing_is_written(stage: Stage, name: str) -> None:
    message, expected = BAD_GOALS[name]
    assert await refused(stage, message) == expected


BAD_STEPS: Mapping[str, tuple[list[dict[str, Any]], str]] = {
    "unknown tool": ([look(tool="get_ordr")], "goal.plan.steps[0].tool"),
    "missing argument": ([look(**{"with": {}})], "goal.plan.steps[0]"),
    "extra argument": ([look(**{"with": {"order_id": 1, "x": 1}})], "goal.plan.steps[0].arguments.x"),
    "mistyped argument": ([look(**{"with": {"order_id": "a"}})], "goal.plan.steps[0].arguments.order_id"),
    "negative amount": ([look(**{"with": {"order_id": -1}})], "goal.plan.steps[0].arguments.order_id"),
    "duplicate id": ([look(), look()], "goal.plan.steps[1].id"),
    "self reference": ([look(**{"with": {"order_id": "$look.id"}})], "goal.plan.steps[0]"),
    "missing reference": ([look(**{"with": {"order_id": "$nowhere.id"}})], "goal.plan.steps[0]"),
    "cycle": ([look(id="a", after=["b"]), look(id="b", after=["a"])], "goal.plan.steps"),
    "id with a dot": ([look(id="a.b")], "goal.plan.steps[0].id"),
    "id with a star": ([look(id="a*")], "goal.plan.steps[0].id"),
    "id with >": ([look(id=">")], "goal.plan.steps[0].id"),
    "id with a space": ([look(id="a b")], "goal.plan.steps[0].id"),
    "id with CR LF": ([look(id="a\r\n")], "goal.plan.steps[0].id"),
    "id right to left": ([look(id="a\u202e")], "goal.plan.steps[0].id"),
    "id zero width": ([look(id="a\u200b")], "goal.plan.steps[0].id"),
}


@pytest.mark.parametrize("name", BAD_STEPS)
async def test_a_bad_plan_is_refused_and_nothing_is_written(stage: Stage, name: str) -> None:
    steps, field = BAD_STEPS[name]
    found = await refused(stage, request(steps=steps))
    assert any(where.startswith(field) for where in found), found


async def test_an_unknown_route_and_a_blob_of_the_clients_are_refused(stage: Stage) -> None:
    message = request(steps=[look()])
    message.goal.plan.steps[0].route = 42  # type: ignore[assignment]
    message.goal.context.blob.sha256 = "0" * 64
    found = await refused(stage, message)
    assert found["goal.plan.steps[0].route"] == "UNKNOWN_ENUM"
    assert found["goal.context"] == "BLOB"


async def test_everything_that_is_wrong_is_said_at_once(stage: Stage) -> None:
    message = request("", context="[]", deadline_s=-5, request_id="é", ceiling=99, steps=[look(tool="x")])
    found = await refused(stage, message)
    assert {"goal.text", "goal.context", "goal.deadline", "request_id", "goal.ceiling"} <= set(found)
    assert "goal.plan.steps[0].tool" in found


async def test_many_violations_fit_into_the_trailers(stage: Stage) -> None:
    found = await refused(
        stage, request("\u202e", steps=[look(id=f"s{i}", tool="ü" * 50) for i in range(900)])
    )
    assert found[""] == "MORE"
    assert len(found) > 5


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a\xff\xff",
        request("a goal").SerializeToString()[:-3],
        b"\xa3\x06" * 5_000 + b"\xa4\x06" * 5_000,
        b"\x0a\x05\x0a\x03\xff\xfe\xfd",
        b"\xff" * 100,
    ],
    ids=["truncated", "cut off", "too deep", "not UTF-8", "garbage"],
)
async def test_what_is_no_message_is_an_invalid_argument(stage: Stage, raw: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.channel.unary_unary(METHOD, None, None)(raw)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info, _ = details(caught.value)
    assert info.reason == "MALFORMED_MESSAGE"
    assert stage.events() == 0


async def test_a_message_above_the_bound_is_refused_by_grpc(stage: Stage) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(request("x" * 9_000_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_goal_is_durable_when_it_is_answered(stage: Stage) -> None:
    sent = request(context='{ "b":1, "a":[2] }', deadline_s=60, steps=[look()])
    sent.goal.plan.origin, sent.goal.plan.origin_sha256 = "playbook:forged", "f" * 64
    response = await stage.runs.SubmitGoal(sent)
    assert not response.existed
    records = await stage.log.read(stage.key(response.run))
    assert [record.address.topic for record in records] == [("submit",)]
    event = records[0].event
    assert event is not None
    assert event.writer.startswith("gateway/")
    assert (event.submit.goal.plan.origin, event.submit.goal.plan.origin_sha256) == ("client", "")
    assert event.submit.goal.context.json == '{"a":[2],"b":1}'
    assert stage.cells() == 0
    run = (await stage.runs.GetRun(GetRunRequest(run=response.run))).run
    assert (run.goal, run.status, run.cursor) == ("refund order 1001", event_pb2.RUN_STATUS_PLANNING, "1")


async def test_a_large_context_goes_to_a_blob(stage: Stage) -> None:
    context = {"orders": ["é" * 1_000] * 200}
    message = request(context=json.dumps(context), request_id="large")
    response = await stage.runs.SubmitGoal(message)
    key = stage.key(response.run)
    [record] = await stage.log.read(key)
    assert record.event is not None
    value = record.event.submit.goal.context
    assert value.WhichOneof("kind") == "blob"
    assert json.loads(await stage.log.get_blob(key, value.blob)) == context
    again = await stage.runs.SubmitGoal(message)
    assert (again.run, again.existed) == (response.run, True)


async def test_run_ids_sort_by_time_and_spread_over_the_shards(stage: Stage) -> None:
    runs = [(await stage.runs.SubmitGoal(request())).run for _ in range(24)]
    assert {run.partition("-")[0] for run in runs} == {"r0", "r1"}
    assert all(len(run.partition("-")[2]) == 26 for run in runs)


async def test_a_request_id_makes_a_submission_idempotent(stage: Stage) -> None:
    first = await stage.runs.SubmitGoal(request(request_id="one", context='{"a":1}'))
    same = await stage.runs.SubmitGoal(request(request_id="one", context='{ "a": 1 }'))
    assert (same.run, same.existed, first.existed) == (first.run, True, False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(request("another goal", request_id="one"))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    info, _ = details(caught.value)
    assert (info.reason, dict(info.metadata)) == ("REQUEST_ID_REUSED", {"run": first.run})
    assert (stage.events(), stage.cells()) == (1, 1)


async def test_two_gateways_and_many_clients_with_one_request_id_make_one_run() -> None:
    broker = MemoryBroker()
    async with staged(broker) as one, staged(broker) as two:
        calls = [side.runs.SubmitGoal(request(request_id="once")) for side in (one, two) for _ in range(10)]
        answers = await asyncio.gather(*calls)
        assert len({answer.run for answer in answers}) == 1
        assert [answer.existed for answer in answers].count(False) == 1
        assert one.events() == 1


class Flaky(MemoryLog):
    """Loses its broker at a chosen point."""

    def __init__(self, broker: MemoryBroker, error: Exception, *, after: bool) -> None:
        super().__init__(broker, (0,))
        self.error: Exception | None = error
        self.after = after

    async def append(self, address: Address, event: event_pb2.Event, **options: Any) -> int:
        error, self.error = self.error, None
        if error is not None and not self.after:
            raise error
        sequence = await super().append(address, event, **options)
        if error is not None:
            raise error
        return sequence


@pytest.mark.parametrize("after", [False, True], ids=["goal not written", "goal written"])
async def test_a_retry_finishes_an_unfinished_submission(after: bool) -> None:
    broker = MemoryBroker()
    log = Flaky(broker, LogUnavailable("the broker is gone"), after=after)
    async with staged(broker, log=log) as stage:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stage.runs.SubmitGoal(request(request_id="again"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (stage.cells(), stage.events()) == (1, int(after))
        cell = hashlib.sha256(b"default\0again").hexdigest()
        held = json.loads(await log.reserve(cell, b"{}"))
        response = await stage.runs.SubmitGoal(request(request_id="again"))
        assert (response.run, response.existed) == (held["run"], after)
        assert stage.events() == 1


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (LogFull("no room"), grpc.StatusCode.RESOURCE_EXHAUSTED, "LOG_FULL"),
        (LogForbidden("not you"), grpc.StatusCode.INTERNAL, "LOG_FORBIDDEN"),
        (LogUnavailable("gone"), grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE"),
        (RuntimeError("a secret"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_errors_of_the_log_are_mapped(error: Exception, code: grpc.StatusCode, reason: str) -> None:
    broker = MemoryBroker()
    async with staged(broker, log=Flaky(broker, error, after=False)) as stage:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stage.runs.SubmitGoal(request())
        info, _ = details(caught.value)
        assert (caught.value.code(), info.reason) == (code, reason)
        assert "secret" not in (caught.value.details() or "")
        if reason == "INTERNAL":
            assert info.metadata["reference"] in (caught.value.details() or "")


ULID = "01m7zazk0qjyjryhk8zjekgap1"


async def test_a_request_id_that_is_a_ulid_names_the_run_and_needs_no_cell(stage: Stage) -> None:
    first = await stage.runs.SubmitGoal(request(request_id=ULID, context='{"a":1}', first=True))
    assert first.run.partition("-")[2] == ULID
    for said in (False, True):
        again = await stage.runs.SubmitGoal(request(request_id=ULID, context='{ "a": 1 }', first=said))
        assert (again.run, again.existed) == (first.run, True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stage.runs.SubmitGoal(request("another goal", request_id=ULID, first=said))
        info, _ = details(caught.value)
        assert (info.reason, dict(info.metadata)) == ("REQUEST_ID_REUSED", {"run": first.run})
    assert (stage.events(), stage.cells()) == (1, 0)


@pytest.mark.parametrize("name", ["one", ULID])
@pytest.mark.parametrize("first", [False, True])
async def test_a_request_whose_run_was_forgotten_is_refused(stage: Stage, name: str, first: bool) -> None:
    made = await stage.runs.SubmitGoal(request(request_id=name, first=True))
    await stage.log.erase(subjects.run_key(made.run, "default"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(request(request_id=name, first=first))
    info, _ = details(caught.value)
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_FORGOTTEN")
    assert made.run in (caught.value.details() or "")
    assert stage.events() == 1


async def test_many_clients_with_one_ulid_make_one_run() -> None:
    broker = MemoryBroker()
    async with staged(broker) as one, staged(broker) as two:
        large = '{"a":"' + "x" * 70_000 + '"}'
        calls = [
            side.runs.SubmitGoal(request(request_id=ULID, first=said, context=large))
            for side in (one, two)
            for said in (False, True) * 5
        ]
        answers = await asyncio.gather(*calls)
        assert len({answer.run for answer in answers}) == 1
        assert [answer.existed for answer in answers].count(False) == 1
        assert one.events() == 1


async def test_a_repeated_ulid_is_found_though_there_are_more_shards_now() -> None:
    broker = MemoryBroker()
    ids = [ulid(10**18 + 10**6 * i, bytes([i] * 10)) for i in range(20)]
    async with staged(broker, shards=(0, 1)) as few:
        runs = [(await few.runs.SubmitGoal(request(request_id=name, first=True))).run for name in ids]
    async with staged(broker, shards=(0, 1, 2, 3, 4)) as many:
        for name, run in zip(ids, runs, strict=True):
            again = await many.runs.SubmitGoal(request(request_id=name))
            assert (again.run, again.existed) == (run, True)
        assert many.events() == len(ids)


async def test_a_first_request_goes_where_there_is_room_and_a_repeated_one_waits_for_its_place() -> None:
    ids = [ulid(10**18 + 10**6 * i, bytes([i] * 10)) for i in range(30)]
    async with staged(shards=(0, 1, 2, 3)) as empty:
        homes = [(await empty.runs.SubmitGoal(request(request_id=name))).run for name in ids]
    async with staged(shards=(0, 1, 2, 3)) as stage:
        stage.broker.fullness = {0: 0.85}
        runs = [(await stage.runs.SubmitGoal(request(request_id=name, first=True))).run for name in ids]
        # A repetition that came in between would have gone to the same place, or nowhere.
        for run, home in zip(runs, homes, strict=True):
            assert run == home if home[:2] != "r0" else run[:2] in ("r1", "r2", "r3")
        found = [await stage.runs.SubmitGoal(request(request_id=name)) for name in ids]
        assert [(answer.run, answer.existed) for answer in found] == [(run, True) for run in runs]
        codes = set()
        for name in (ulid(10**18, bytes([100 + i] * 10)) for i in range(30)):
            try:
                codes.add((await stage.runs.SubmitGoal(request(request_id=name))).run[:2])
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
        assert codes == {"r1", "r2", "r3", grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_shard_that_is_nearly_full_takes_no_new_runs(stage: Stage) -> None:
    stage.broker.fullness = dict.fromkeys(range(64), 0.85)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(request())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stage.events() == 0


async def test_a_shard_that_fills_up_is_looked_at_before_every_submission(stage: Stage) -> None:
    stage.broker.fullness = dict.fromkeys(range(64), 0.7)
    await stage.runs.SubmitGoal(request())
    stage.broker.fullness = dict.fromkeys(range(64), 0.85)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.runs.SubmitGoal(request())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
