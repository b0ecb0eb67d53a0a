"""A project's function that proposes: whatever it does, the executor answers."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from actors.executor import Executor
from actors.models import CannotPropose, Task
from actors.models.function import FunctionProposer
from actors.models.table import DecisionTable
from bus.memory import MemoryBroker, MemoryLog
from core import failures, values
from core.ports import Address, Record, RunKey
from handrail.release import release
from handrail.v1 import event_pb2, plan_pb2

GRANTS = [plan_pb2.Grant(tool="refund", open={"amount": "value < 5"}), plan_pb2.Grant(tool="reply")]
INPUTS = {"order": {"id": 7}}


def nothing(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> None:
    """Propose nothing."""


TASK = Task("Settle it", GRANTS, INPUTS, datetime.date(2026, 3, 2))


async def proposed(said: Any) -> event_pb2.Call | None:
    return called(await FunctionProposer(lambda inputs, grants: said).propose(TASK))


def called(proposal: event_pb2.Proposal) -> event_pb2.Call | None:
    return proposal.call if proposal.HasField("call") else None


async def test_what_a_function_says_is_a_call() -> None:
    seen: list[Any] = []

    def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append((inputs, grants))
        return {"grant": 0, "arguments": {"amount": inputs["order"]["id"]}, "reason": "late"}

    call = called(await FunctionProposer(propose).propose(TASK))
    assert call is not None
    assert (call.grant, call.tool, call.reason) == (0, "refund", "late")
    assert values.load(call.arguments["amount"], {}) == 7
    assert seen == [
        (
            INPUTS,
            [
                {"tool": "refund", "with": [], "open": {"amount": "value < 5"}},
                {"tool": "reply", "with": [], "open": {}},
            ],
        )
    ]


async def test_a_function_can_be_unsure() -> None:
    call = await proposed({"grant": 1, "unsure": "two orders fit"})
    assert call is not None
    assert call.unsure == "two orders fit"
    with pytest.raises(CannotPropose):
        await proposed({"grant": 1, "unsure": "x" * 501})


def test_it_is_known_by_its_name_and_by_the_file_that_it_is_in() -> None:
    model = FunctionProposer(nothing, "a" * 64).model
    assert (model.name, model.sha256) == (f"function:{__name__}:nothing", "a" * 64)

    class Mind:
        def __call__(self, inputs: dict[str, Any], grants: list[dict[str, Any]]) -> None:
            """Propose nothing."""

    assert FunctionProposer(Mind()).model.name.endswith(".<locals>.Mind")


async def test_an_executor_says_what_proposed() -> None:
    executor = Executor(DecisionTable(), FunctionProposer(nothing, "a" * 64), pool="main", instance="t")
    row = plan_pb2.Rule(tool="reply")

    async def answer(**ask: Any) -> event_pb2.Proposal:
        body = event_pb2.ProposalAsk(attempt="a-a1", step="a", **ask)
        address = Address(RunKey(0, "default", "r0-x"), "dec", ("ask", "executor", "main"))
        record = Record(1, 1, address, event_pb2.Event(proposal_ask=body))
        (said,) = await executor.handle(record, MemoryLog(MemoryBroker(), (0,)))
        assert said.event.handrail == release()
        return said.event.proposal

    chosen, refused, none = (
        await answer(rules=[row]),
        await answer(rules=[plan_pb2.Rule(when="input.x", tool="reply")]),
        await answer(grants=GRANTS),
    )
    assert (chosen.WhichOneof("answer"), chosen.model, chosen.model_sha256) == ("choice", "table", "")
    assert (refused.WhichOneof("answer"), refused.model) == ("failure", "table")
    assert (none.WhichOneof("answer"), none.model) == ("failure", f"function:{__name__}:nothing")
    assert none.model_sha256 == "a" * 64


async def test_it_may_be_a_coroutine_function_and_may_have_nothing_to_say() -> None:
    async def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> None:
        await asyncio.sleep(0)

    proposal = await FunctionProposer(propose).propose(TASK)
    assert proposal.failure.code == failures.NO_PROPOSAL


async def test_a_grant_that_there_is_not_is_for_the_decider_to_refuse() -> None:
    call = await proposed({"grant": 9})
    assert call is not None
    assert (call.grant, call.tool) == (9, "")


@pytest.mark.parametrize(
    "said",
    [
        7,
        "refund",
        {},
        {"grant": -1},
        {"grant": "first"},
        {"grant": 0, "tool": "wipe"},
        {"grant": 0, "arguments": [1]},
        {"grant": 0, "arguments": {"amount": len}},
        {"grant": 0, "reason": "x" * 501},
    ],
    ids=repr,
)
async def test_what_is_no_proposal_is_an_error(said: Any) -> None:
    with pytest.raises(CannotPropose):
        await proposed(said)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration(), KeyboardInterrupt()])
async def test_whatever_it_raises_is_an_error(error: BaseException) -> None:
    def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> None:
        raise error

    with pytest.raises(CannotPropose):
        await FunctionProposer(propose).propose(TASK)


async def test_one_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.models.function.PROPOSE_TIMEOUT_S", 0.05)
    never = asyncio.Event()

    async def propose(inputs: dict[str, Any], grants: list[dict[str, Any]]) -> None:
        await never.wait()

    with pytest.raises(CannotPropose, match="no answer within"):
        await FunctionProposer(propose).propose(TASK)
