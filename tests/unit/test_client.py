"""What a caller gives becomes a goal, or an InvalidArgument that says where; statuses become errors."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from core.errors import HandrailError
from handrail import errors
from handrail.client import Client
from handrail.goals import goal
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from handrail.v1.plan_pb2 import Violation
from orchestrator import rpc_errors

NOTHING: dict[str, Any] = {
    "plan": None,
    "context": None,
    "deadline": None,
    "dry_run": False,
    "ceiling": None,
    "budget": None,
    "submitter": "",
}


def made(text: str = "refund it", **fields: Any) -> event_pb2.Goal:
    return goal(text, **{**NOTHING, **fields})


def test_a_goal_is_made_of_ordinary_values() -> None:
    found = made(
        plan={"steps": [{"id": "look", "tool": "get_order"}]},
        context={"b": [1], "a": "ü"},
        ceiling="draft",
        budget={"max_steps": 5},
        dry_run=True,
        undo_on_failure=True,
    )
    assert found.undo_on_failure
    assert not made().undo_on_failure
    assert found.plan.steps[0].tool == "get_order"
    assert found.context.json == '{"a":"ü","b":[1]}'
    assert (found.ceiling, found.budget.max_steps, found.dry_run) == (tool_pb2.PERMISSION_DRAFT, 5, True)
    plan = plan_pb2.Plan(title="mine")
    assert made(plan=plan).plan == plan
    assert not made().HasField("context")


@pytest.mark.parametrize(
    "deadline", [60, 60.0, timedelta(minutes=1), lambda: datetime.now(UTC) + timedelta(minutes=1)]
)
def test_deadlines(deadline: Any) -> None:
    found = (
        made(deadline=deadline() if callable(deadline) else deadline).deadline.ToNanoseconds()
        - time.time_ns()
    )
    assert 0 < found <= 61 * 10**9


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text": "\ud800"}, "goal"),
        ({"text": None}, "goal"),
        ({"plan": {"steps": [{"id": "a", "tol": "x"}]}}, "plan.steps[0].tol"),
        ({"context": {"x": float("nan")}}, "context"),
        ({"context": {"x": object()}}, "context"),
        ({"context": 7}, "context"),
        ({"deadline": datetime(2030, 1, 1)}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"deadline": 1e30}, "deadline"),
        ({"ceiling": "root"}, "ceiling"),
        ({"budget": {"max_stepz": 1}}, "budget"),
        ({"budget": {"max_steps": -1}}, "budget"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_place(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        made(**fields)
    assert [v.field for v in caught.value.violations] == [field]
    assert isinstance(caught.value, HandrailError)


def raised(code: grpc.StatusCode, message: str, raw: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*([("grpc-status-details-bin", raw)] if raw is not None else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message, None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExists),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Internal),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
    ],
)
def test_every_status_has_its_error(code: grpc.StatusCode, kind: type[errors.ClientError]) -> None:
    refusal = rpc_errors.Refusal(code, "WHY", "because", metadata={"run": "r0-x"})
    raw = rpc_errors.status(refusal).SerializeToString()
    found = errors.of_rpc(raised(code, "because", raw), "here:1")
    assert type(found) is kind
    assert (found.code, found.reason, found.metadata, str(found)) == (code, "WHY", {"run": "r0-x"}, "because")
    for bare in (None, b"\xff\xff"):
        assert type(errors.of_rpc(raised(code, "x", bare), "here:1")) is kind
        assert "here:1" in str(errors.of_rpc(raised(code, "x", bare), "here:1"))


def test_violations_arrive() -> None:
    sent = [Violation(field=f"f{i}", code="too_long", message="m") for i in range(3)]
    refusal = rpc_errors.invalid("BAD_GOAL", sent)
    raw = rpc_errors.status(refusal).SerializeToString()
    found = errors.of_rpc(raised(grpc.StatusCode.INVALID_ARGUMENT, str(refusal), raw), "here:1")
    assert isinstance(found, errors.InvalidArgument)
    assert list(found.violations) == sent
    assert "f2: m" in str(found)


def test_a_status_never_outgrows_the_trailers() -> None:
    sent = [Violation(field="ü" * 500, code="too_long", message="\u202e" * 5_000) for _ in range(5_000)]
    refusal = rpc_errors.invalid("BAD_GOAL", sent)
    found = rpc_errors.status(refusal)
    percent_encoded = 3 * len(found.message.encode())
    assert found.ByteSize() * 4 / 3 + percent_encoded < 8_000


async def test_the_proxy_is_left_alone_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    real = grpc.aio.insecure_channel

    def spy(address: str, options: Any) -> grpc.aio.Channel:
        seen.append(dict(options))
        return real(address, options=options)

    monkeypatch.setattr(grpc.aio, "insecure_channel", spy)
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "example.com:1"):
        await Client(address).close()
    assert [options.get("grpc.enable_http_proxy") for options in seen] == [0, 0, 0, None]
