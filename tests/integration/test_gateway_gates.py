"""The gate service with a real decider behind it: what waits is shown, and what is decided becomes so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from actors.executor import Executor
from actors.models import Task
from actors.models.table import DecisionTable
from bus.memory import MemoryLog
from core import failures
from core.decide import Catalogue
from core.policy import ALLOWED, Reason, Request, Ruling
from core.ports import RunKey
from core.references import Limits
from core.run import initial
from core.state import Gate
from handrail import errors
from handrail.cli.main import app
from handrail.client import Client
from handrail.v1 import event_pb2, gate_service_pb2, gate_service_pb2_grpc, run_service_pb2
from orchestrator.decider import Decider
from orchestrator.gates import _check_choice
from orchestrator.rpc_errors import Refusal
from tests.integration.gateway_stage import CONTRACTS, Stage, details, staged, until
from tests.keys import SIGNER
from tests.policies import LOST, FunctionPolicy, asking

WAITING = event_pb2.RUN_STATUS_WAITING
PLAN = {"steps": [{"id": "refund", "tool": "refund_order", "with": {"order_id": 7, "amount": 5}}]}


@dataclass
class Desk:
    """A client, and what it works on."""

    stage: Stage
    client: Client
    policy: FunctionPolicy

    async def waiting(self) -> run_service_pb2.Gate:
        """Submit a refund, and return the gate at which it waits."""
        submitted = await self.client.submit("refund 7", plan=PLAN, submitter="ann")
        async with asyncio.timeout(10):
            while not (run := await self.client.get(submitted.run)).gates:
                await asyncio.sleep(0.01)
        assert run.status == WAITING
        return run.gates[0]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with _desk(tmp_path, asking("refund")) as found:
        yield found


class _desk:
    def __init__(self, path: Path, policy: FunctionPolicy) -> None:
        self._staged = staged(path=path / "listing.db", policy=policy)
        self._policy = policy

    async def __aenter__(self) -> Desk:
        stage = await self._staged.__aenter__()
        catalogue = Catalogue(contracts=CONTRACTS, policy=self._policy, limits=Limits(proposers=True))
        decider = Decider(MemoryLog(stage.broker, stage.log.shards), catalogue, signer=SIGNER, instance="t")
        self._deciding = asyncio.create_task(decider.serve())
        self._client = Client(stage.address)
        return Desk(stage, self._client, self._policy)

    async def __aexit__(self, *exc: object) -> None:
        self._deciding.cancel()
        with suppress(asyncio.CancelledError):
            await self._deciding
        await self._client.close()
        await self._staged.__aexit__(None, None, None)


async def test_what_waits_is_shown_with_all_that_it_would_do(desk: Desk) -> None:
    gate = await desk.waiting()
    listed = [found async for found in desk.client.gates()]
    assert [found.id for found in listed] == [gate.id]
    assert (listed[0].goal, listed[0].submitter) == ("refund 7", "ann")
    (item,) = (await desk.client.gate(gate.id)).what.items
    assert {name: value.json for name, value in item.arguments.items()} == {"order_id": "7", "amount": "5"}
    waiting = [run async for run in desk.client.list(status=WAITING)]
    assert [run.id for run in waiting] == [gate.run]


async def test_what_is_too_large_for_an_event_is_shown_whole(
    tmp_path: Path,
) -> None:
    letter = {"steps": [{"id": "mail", "tool": "refund_letter", "with": {"to": "ada", "text": "$goal.text"}}]}
    text = "Dear Ada, " + "x" * 80_000 + " pay \u202e here"
    async with _desk(tmp_path, asking("refund")) as desk:
        submitted = await desk.client.submit("write", plan=letter, context={"text": text}, submitter="ann")
        gate = (await desk.client.wait(submitted.run, timeout_s=10)).gates[0]
        assert gate.what.items[0].arguments["text"].blob.size_bytes > 80_000
        assert await desk.client.gate_value(gate.id, "text") == text
        assert await desk.client.gate_value(gate.id, "to", step="mail") == "ada"
        with pytest.raises(errors.InvalidArgument, match="no argument 'cc' here: text, to"):
            await desk.client.gate_value(gate.id, "cc")
        with pytest.raises(errors.InvalidArgument, match="say which of its 1 actions: mail"):
            await desk.client.gate_value(gate.id, "text", step="male")
        shown = await _handrail("gates", "show", gate.id, "--server", desk.stage.address)
        assert f"see all   handrail gates show {gate.id} --value text" in shown
        whole = await _handrail("gates", "show", gate.id, "--value", "text", "--server", desk.stage.address)
        assert whole.strip() == '"' + text.replace("\u202e", "\\u202e") + '"'
        events = desk.stage.events()
        with pytest.raises(errors.PermissionDenied):
            await desk.client.decide(gate.id, approve=True, approver="eve")
        assert desk.stage.events() == events
        await desk.client.decide(gate.id, approve=True, approver="bob")
        assert (await _closed(desk, gate)).outcome == event_pb2.GATE_OUTCOME_APPROVED


async def test_what_cannot_be_read_whole_is_given_up_when_somebody_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = {"steps": [{"id": "mail", "tool": "refund_letter", "with": {"to": "ada", "text": "$goal.text"}}]}
    async with _desk(tmp_path, asking("refund")) as desk:
        submitted = await desk.client.submit(
            "write", plan=letter, context={"text": "x" * 80_000}, submitter="ann"
        )
        gate = (await desk.client.wait(submitted.run, timeout_s=10)).gates[0]
        read = desk.stage.broker.first

        async def damaged(stream: str, subject: str, after: int = 0) -> Any:
            found = await read(stream, subject, after)
            return replace(found, data=found.data[:-1]) if found and stream.startswith("BLOB_") else found

        monkeypatch.setattr(desk.stage.broker, "first", damaged)
        with pytest.raises(errors.FailedPrecondition, match=r"whole any more, deny the gate: .*damaged"):
            await desk.client.gate_value(gate.id, "text")
        await desk.client.decide(gate.id, approve=False, approver="bob", reason="unreadable")
        closed = await _closed(desk, gate)
        assert closed.outcome == event_pb2.GATE_OUTCOME_VOID
        assert closed.reason.startswith("what it is for cannot be read any more: ")
        ended = await desk.client.wait(submitted.run, timeout_s=10)
        assert (ended.status, ended.failure.code) == (event_pb2.RUN_STATUS_FAILED, failures.UNRESOLVED)


async def _handrail(*arguments: str) -> str:
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


async def test_an_approval_lets_it_go_on(desk: Desk) -> None:
    gate = await desk.waiting()
    assert not await desk.client.decide(gate.id, approve=True, approver="bob", binding=gate.what.binding)
    seen = await _closed(desk, gate)
    assert (seen.outcome, list(seen.approvers)) == (event_pb2.GATE_OUTCOME_APPROVED, ["bob"])
    assert [found async for found in desk.client.gates()] == []
    run = await desk.client.get(gate.run)
    assert [a.tool for a in run.steps[0].attempts] == ["refund_order"]


async def test_a_denial_ends_it(desk: Desk) -> None:
    gate = await desk.waiting()
    await desk.client.decide(gate.id, approve=False, approver="bob", reason="not before Friday")
    run = await desk.client.wait(gate.run, timeout_s=10)
    assert run.status == event_pb2.RUN_STATUS_FAILED
    assert run.failure.code == "denied"
    assert "bob" in run.failure.message
    assert "not before Friday" in run.failure.message


async def test_deciding_twice_is_deciding_once_and_otherwise_is_refused(desk: Desk, tmp_path: Path) -> None:
    async with _desk(tmp_path / "..", asking("refund", 2)) as other:
        gate = await other.waiting()
        decide = other.client.decide
        assert not await decide(gate.id, approve=True, approver="bob", binding=gate.what.binding)
        assert await decide(gate.id, approve=True, approver="bob", binding=gate.what.binding)
        with pytest.raises(errors.FailedPrecondition) as refused:
            await decide(gate.id, approve=False, approver="bob", binding=gate.what.binding)
        assert refused.value.reason == "DECIDED_BEFORE"
        assert list((await other.client.gate(gate.id)).approved_by) == ["bob"]


async def test_two_at_once_have_one_outcome(desk: Desk) -> None:
    gate = await desk.waiting()
    await asyncio.gather(
        desk.client.decide(gate.id, approve=True, approver="bob", binding=gate.what.binding),
        desk.client.decide(gate.id, approve=False, approver="cat", binding=gate.what.binding),
        return_exceptions=True,
    )
    closed = await _closed(desk, gate)
    notes = [
        part
        async for seen in desk.client.watch(gate.run, until_now=True)
        for part in (*seen.event.before, seen.event)
        if part.HasField("gate_closed")
    ]
    assert len(notes) == 1
    run = await desk.client.get(gate.run)
    assert (closed.outcome == event_pb2.GATE_OUTCOME_APPROVED) == bool(run.steps[0].attempts)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"approver": "eve"}, errors.PermissionDenied, "FORBIDDEN"),
        ({"approver": ""}, errors.InvalidArgument, "NO_APPROVER"),
        ({"approver": "b\x1bob"}, errors.InvalidArgument, "BAD_DECISION"),
        ({"approver": "bob "}, errors.InvalidArgument, "BAD_DECISION"),
        ({"binding": "f" * 64}, errors.FailedPrecondition, "GATE_CHANGED"),
        ({"reason": "x" * 2000}, errors.InvalidArgument, "BAD_DECISION"),
    ],
)
async def test_a_decision_that_could_not_count_is_refused(
    desk: Desk, change: dict[str, str], kind: type[errors.ClientError], reason: str
) -> None:
    gate = await desk.waiting()
    events = desk.stage.events()
    given = {"approver": "bob", "binding": gate.what.binding, "reason": "", **change}
    with pytest.raises(kind) as refused:
        await desk.client.decide(gate.id, approve=True, **given)
    assert refused.value.reason == reason
    assert desk.stage.events() == events


@pytest.mark.parametrize("name", ["", "g1", "r0-01k9x3-g1", "{run}-g2", "{run}", "{run}-g0", "{run}-g1-g1"])
async def test_a_gate_that_there_is_not_is_said_so(desk: Desk, name: str) -> None:
    gate = await desk.waiting()
    with pytest.raises((errors.NotFound, errors.InvalidArgument)):
        await desk.client.gate(name.format(run=gate.run))


async def test_a_gate_that_is_closed_cannot_be_decided(desk: Desk) -> None:
    gate = await desk.waiting()
    await desk.client.cancel(gate.run)
    await desk.client.wait(gate.run, timeout_s=10)
    shown = await desk.client.gate(gate.id)
    assert shown.closed.outcome == event_pb2.GATE_OUTCOME_VOID
    with pytest.raises(errors.FailedPrecondition) as refused:
        await desk.client.decide(gate.id, approve=True, approver="bob", binding=gate.what.binding)
    assert refused.value.reason == "GATE_CLOSED"
    async with asyncio.timeout(10):
        while [found async for found in desk.client.gates()]:
            await asyncio.sleep(0.01)


async def test_whoever_watches_hears_of_what_is_open_and_of_what_changes(desk: Desk) -> None:
    first = await desk.waiting()
    heard: list[tuple[str, bool]] = []

    async def watch() -> None:
        async for gate in desk.client.watch_gates():
            heard.append((gate.id, gate.HasField("closed")))

    watching = asyncio.create_task(watch())
    await until(lambda: heard == [(first.id, False)])
    second = await desk.waiting()
    await until(lambda: len(heard) == 2)
    await desk.client.decide(first.id, approve=True, approver="bob", binding=first.what.binding)
    await until(lambda: len(heard) == 3)
    assert heard == [(first.id, False), (second.id, False), (first.id, True)]
    watching.cancel()


async def test_the_inbox_survives_a_restart_and_the_loss_of_its_file(tmp_path: Path) -> None:
    async with _desk(tmp_path, asking("refund")) as desk:
        gates = [(await desk.waiting()).id for _ in range(3)]
        broker = desk.stage.broker
        await desk.client.decide(gates[1], approve=False, approver="bob")
        await desk.client.wait(gates[1].rpartition("-")[0], timeout_s=10)
    for lost in (False, True):
        if lost:
            (tmp_path / "listing.db").unlink()
        again = staged(broker, path=tmp_path / "listing.db", policy=asking("refund"))
        async with again as stage, Client(stage.address) as client:
            assert [gate.id async for gate in client.gates()] == [gates[0], gates[2]]
            # Nobody decides on it while no decider is there; it stays.
            await client.decide(gates[0], approve=True, approver="bob")
            assert [gate.id async for gate in client.gates()] == [gates[0], gates[2]]


async def test_pages_of_the_inbox_go_on_where_they_ended(desk: Desk) -> None:
    gates = [(await desk.waiting()).id for _ in range(5)]
    seen, token = [], ""
    stub = gate_service_pb2_grpc.GateServiceStub(desk.stage.channel)
    while True:
        page = await stub.ListGates(gate_service_pb2.ListGatesRequest(page_size=2, page_token=token))
        seen += [gate.id for gate in page.gates]
        token = page.next_page_token
        if not token:
            break
    assert seen == gates


async def _closed(desk: Desk, gate: run_service_pb2.Gate) -> event_pb2.GateClosed:
    """Wait until a gate is closed, and for the inbox to have heard of it."""
    async with asyncio.timeout(10):
        while not (found := await desk.client.gate(gate.id)).HasField("closed"):
            await asyncio.sleep(0.01)
        while [one async for one in desk.client.gates() if one.id == gate.id]:
            await asyncio.sleep(0.01)
    return found.closed


# --- amending and delegating -----------------------------------------------------------------------------


def limited(quorum: int = 1) -> FunctionPolicy:
    """Refunds wait for somebody; more than 100 is refused."""
    much = Ruling("refuse", (Reason("much", "it is too much"),))

    def rule(request: Request) -> Ruling:
        if request.contract.name != "refund_order" or "amount" not in request.arguments:
            return ALLOWED
        return much if request.arguments["amount"] > 100 else Ruling("gate", (LOST,), quorum)

    return FunctionPolicy(rule)


@pytest.fixture
async def limits(tmp_path: Path) -> AsyncIterator[Desk]:
    async with _desk(tmp_path, limited()) as found:
        yield found


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Desk]:
    async with _desk(tmp_path, limited(quorum=2)) as found:
        yield found


async def _authorised(desk: Desk, run: str) -> list[str]:
    """Return the amounts with which refunds of a run were authorised."""
    return [
        part.action.arguments["amount"].json
        async for seen in desk.client.watch(run, until_now=True)
        for part in (*seen.event.before, seen.event)
        if part.HasField("action")
    ]


async def _closings(desk: Desk, run: str) -> list[tuple[str, int]]:
    """Return how each gate of a run was closed, in the order of the log."""
    return [
        (part.gate_closed.gate, part.gate_closed.outcome)
        async for seen in desk.client.watch(run, until_now=True)
        for part in (*seen.event.before, seen.event)
        if part.HasField("gate_closed")
    ]


async def _at_once(*calls: Awaitable[object]) -> list[errors.ClientError]:
    """Make calls at the same time, and return what the server said no to."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, errors.ClientError) for answer in refused), refused
    return [answer for answer in refused if isinstance(answer, errors.ClientError)]


async def test_what_was_amended_is_done(limits: Desk) -> None:
    gate = await limits.waiting()
    assert not await limits.client.amend(
        gate.id, arguments={"amount": 3}, approver="bob", binding=gate.what.binding, reason="the postage"
    )
    seen = await _closed(limits, gate)
    assert (seen.outcome, list(seen.approvers)) == (event_pb2.GATE_OUTCOME_AMENDED, ["bob"])
    assert ({n: v.json for n, v in seen.arguments.items()}, seen.reason) == ({"amount": "3"}, "the postage")
    assert seen.binding not in ("", gate.what.binding)
    assert await _authorised(limits, gate.run) == ["3"]


async def test_what_needs_two_is_asked_about_again_as_it_is_now(pair: Desk) -> None:
    gate = await pair.waiting()
    await pair.client.amend(gate.id, arguments={"amount": 3}, approver="bob")
    assert (await _closed(pair, gate)).binding == ""
    async with asyncio.timeout(10):
        while not (again := [one async for one in pair.client.gates()]):
            await asyncio.sleep(0.01)
    assert again[0].what.items[0].arguments["amount"].json == "3"
    for who in ("ann 2", "bob"):
        assert await _authorised(pair, gate.run) == []
        await pair.client.decide(again[0].id, approve=True, approver=who)
    await _closed(pair, again[0])
    assert await _authorised(pair, gate.run) == ["3"]


@pytest.mark.parametrize(
    ("who", "arguments", "kind", "reason", "told"),
    [
        ("bob", {"amount": 500}, errors.PermissionDenied, "FORBIDDEN", "it is too much"),
        ("bob", {"amount": "much"}, errors.InvalidArgument, "BAD_ARGUMENTS", "amount"),
        ("bob", {"amout": 5}, errors.InvalidArgument, "BAD_ARGUMENTS", "amout"),
        ("eve", {"amount": 3}, errors.PermissionDenied, "FORBIDDEN", "eve may not decide"),
        ("bob", {}, errors.InvalidArgument, "BAD_ARGUMENTS", "which arguments"),
        ("bob", {"amount": float("nan")}, errors.InvalidArgument, "BAD_CALL", "JSON"),
    ],
    ids=str,
)
async def test_what_may_not_be_is_refused_at_once_and_the_gate_stays_open(
    limits: Desk,
    who: str,
    arguments: dict[str, Any],
    kind: type[errors.ClientError],
    reason: str,
    told: str,
) -> None:
    gate = await limits.waiting()
    events = limits.stage.events()
    with pytest.raises(kind) as refused:
        await limits.client.amend(gate.id, arguments=arguments, approver=who)
    assert refused.value.reason == reason
    assert told in str(refused.value)
    assert limits.stage.events() == events
    assert not (await limits.client.gate(gate.id)).HasField("closed")
    # Nothing is spoiled by it: who was refused can still decide, if they may.
    await limits.client.decide(gate.id, approve=True, approver="bob")
    await _closed(limits, gate)
    assert await _authorised(limits, gate.run) == ["5"]
    assert await _closings(limits, gate.run) == [("g1", event_pb2.GATE_OUTCOME_APPROVED)]


async def test_amended_twice_at_once_one_of_them_is_done(limits: Desk) -> None:
    gate = await limits.waiting()
    amounts = {"bob": 3, "cat": 4}
    amend = limits.client.amend
    await _at_once(
        *(
            amend(gate.id, arguments={"amount": amount}, approver=who, binding=gate.what.binding)
            for who, amount in amounts.items()
        )
    )
    closed = await _closed(limits, gate)
    (who,) = closed.approvers
    assert await _authorised(limits, gate.run) == [str(amounts[who])]
    assert await _closings(limits, gate.run) == [("g1", event_pb2.GATE_OUTCOME_AMENDED)]


async def test_amended_and_approved_at_once_one_of_them_is_done(limits: Desk) -> None:
    gate = await limits.waiting()
    binding = gate.what.binding
    await _at_once(
        limits.client.amend(gate.id, arguments={"amount": 3}, approver="bob", binding=binding),
        limits.client.decide(gate.id, approve=True, approver="cat", binding=binding),
    )
    closed = await _closed(limits, gate)
    amended = closed.outcome == event_pb2.GATE_OUTCOME_AMENDED
    assert list(closed.approvers) == (["bob"] if amended else ["cat"])
    assert await _authorised(limits, gate.run) == (["3"] if amended else ["5"])
    assert len(await _closings(limits, gate.run)) == 1


async def test_amended_and_cancelled_at_once_it_ends_once(limits: Desk) -> None:
    gate = await limits.waiting()
    await _at_once(
        limits.client.amend(gate.id, arguments={"amount": 3}, approver="bob", binding=gate.what.binding),
        limits.client.cancel(gate.run),
    )
    async with asyncio.timeout(10):
        while not (seen := await limits.client.gate(gate.id)).HasField("closed"):
            await asyncio.sleep(0.01)
    amended = seen.closed.outcome == event_pb2.GATE_OUTCOME_AMENDED
    assert amended or seen.closed.outcome == event_pb2.GATE_OUTCOME_VOID
    # What was not amended was not done; what was may have been cancelled before its turn.
    assert await _authorised(limits, gate.run) in ([["3"], []] if amended else [[]])
    assert len(await _closings(limits, gate.run)) <= 1


async def test_the_same_again_is_no_news_and_something_else_is_refused(tmp_path: Path) -> None:
    async with _desk(tmp_path, limited()) as desk:
        handed, amended = [(await desk.waiting()).id for _ in range(2)]
        broker = desk.stage.broker
    # While no decider is there, what was said stays what was said.
    again = staged(broker, path=tmp_path / "listing.db", policy=limited())
    async with again as stage, Client(stage.address) as client:
        assert not await client.delegate(handed, to="dan", approver="bob")
        assert await client.delegate(handed, to="dan", approver="bob")
        assert not await client.amend(amended, arguments={"amount": 3}, approver="bob")
        assert await client.amend(amended, arguments={"amount": 3}, approver="bob")
        otherwise = await _at_once(
            client.delegate(handed, to="cat", approver="bob"),
            client.amend(amended, arguments={"amount": 4}, approver="bob"),
            client.decide(amended, approve=True, approver="bob"),
        )
        assert [refused.reason for refused in otherwise] == ["DECIDED_BEFORE"] * 3


async def test_somebody_decides_in_anothers_stead(limits: Desk) -> None:
    gate = await limits.waiting()
    assert not await limits.client.delegate(gate.id, to="eve", approver="bob", reason="on holiday")
    assert not (await limits.client.gate(gate.id)).HasField("closed")
    assert await _authorised(limits, gate.run) == []
    with pytest.raises(errors.FailedPrecondition) as refused:
        await limits.client.decide(gate.id, approve=True, approver="bob")
    assert refused.value.reason == "DECIDED_BEFORE"
    await limits.client.decide(gate.id, approve=True, approver="eve")
    closed = await _closed(limits, gate)
    assert (closed.outcome, list(closed.approvers)) == (event_pb2.GATE_OUTCOME_APPROVED, ["eve"])
    assert await _authorised(limits, gate.run) == ["5"]


@pytest.mark.parametrize(
    ("who", "to", "kind", "reason", "told"),
    [
        ("bob", "ann", errors.InvalidArgument, "BAD_DELEGATE", "ann asks for it"),
        ("bob", "bob", errors.InvalidArgument, "BAD_DELEGATE", "somebody else"),
        ("bob", "", errors.InvalidArgument, "BAD_DELEGATE", "say who"),
        ("bob", "c\x1bat", errors.InvalidArgument, "BAD_DELEGATE", ""),
        ("eve", "cat", errors.PermissionDenied, "FORBIDDEN", "eve may not decide here"),
    ],
    ids=str,
)
async def test_a_delegation_that_could_not_count_is_refused(
    limits: Desk, who: str, to: str, kind: type[errors.ClientError], reason: str, told: str
) -> None:
    gate = await limits.waiting()
    events = limits.stage.events()
    with pytest.raises(kind) as refused:
        await limits.client.delegate(gate.id, to=to, approver=who)
    assert (refused.value.reason, told in str(refused.value)) == (reason, True)
    assert limits.stage.events() == events
    assert not (await limits.client.gate(gate.id)).HasField("closed")


async def test_a_gate_says_who_has_handed_their_decision_to_whom(limits: Desk) -> None:
    gate = await limits.waiting()
    await limits.client.delegate(gate.id, to="eve", approver="bob", reason="on holiday")
    (seen,) = (await limits.client.gate(gate.id)).delegations
    assert (seen.by, seen.to, seen.reason) == ("bob", "eve", "on holiday")
    with pytest.raises(errors.FailedPrecondition, match="bob has handed that decision to eve"):
        await limits.client.decide(gate.id, approve=True, approver="bob")


@pytest.mark.parametrize(
    ("who", "to", "told"),
    [
        ("cat", "dan", "bob lets cat decide, which cannot be handed on"),
        ("dan", "cat", "cat decides here for bob already"),
        ("dan", "bob", "bob has decided here before"),
    ],
)
async def test_a_vote_goes_one_step_and_nobody_gets_a_second(
    limits: Desk, who: str, to: str, told: str
) -> None:
    gate = await limits.waiting()
    await limits.client.delegate(gate.id, to="cat", approver="bob")
    events = limits.stage.events()
    with pytest.raises(errors.InvalidArgument, match=told):
        await limits.client.delegate(gate.id, to=to, approver=who)
    assert limits.stage.events() == events
    await limits.client.decide(gate.id, approve=True, approver="cat")
    assert (await _closed(limits, gate)).outcome == event_pb2.GATE_OUTCOME_APPROVED


async def test_what_was_handed_to_somebody_is_not_handed_on(limits: Desk) -> None:
    gate = await limits.waiting()
    await limits.client.delegate(gate.id, to="eve", approver="bob")
    with pytest.raises(errors.PermissionDenied):
        await limits.client.delegate(gate.id, to="eve 2", approver="eve")
    with pytest.raises(errors.PermissionDenied):
        await limits.client.decide(gate.id, approve=True, approver="eve 2")
    await limits.client.amend(gate.id, arguments={"amount": 3}, approver="eve")
    await _closed(limits, gate)
    assert await _authorised(limits, gate.run) == ["3"]


# --- doubts ----------------------------------------------------------------------------------------------


async def _in_doubt(desk: Desk) -> run_service_pb2.Gate:
    """Return the gate of a refund whose worker died, and which the tool cannot repeat any more."""
    submitted = await desk.client.submit("refund 7", plan=PLAN, submitter="ann")
    key = desk.stage.key(submitted.run)
    async with asyncio.timeout(10):
        while not (run := await desk.client.get(submitted.run)).steps or not run.steps[0].attempts:
            await asyncio.sleep(0.01)
    await desk.stage.note(
        key.run, "in_doubt", event_pb2.InDoubt(step="refund", attempt="refund-a1", why="lost")
    )
    async with asyncio.timeout(10):
        while not (run := await desk.client.get(submitted.run)).gates:
            await asyncio.sleep(0.01)
    return run.gates[0]


async def test_a_doubt_is_settled_by_somebodys_word(tmp_path: Path) -> None:
    async with _desk(tmp_path, asking("nothing")) as desk:
        gate = await _in_doubt(desk)
        assert gate.what.kind == event_pb2.GATE_KIND_DOUBT
        await desk.client.settle(gate.id, happened=True, output={"refund": 5}, approver="bob")
        run = await desk.client.wait(gate.run, timeout_s=10)
        assert run.status == event_pb2.RUN_STATUS_DONE
        assert run.steps[0].output.json == '{"refund":5}'


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"choice": event_pb2.GATE_CHOICE_APPROVE}, "BAD_CHOICE"),
        ({"choice": 99}, "BAD_CHOICE"),
        ({"choice": event_pb2.GATE_CHOICE_REPEAT, "output": "{}"}, "BAD_OUTPUT"),
        ({"choice": event_pb2.GATE_CHOICE_HAPPENED, "output": "not json"}, "BAD_OUTPUT"),
        ({"choice": event_pb2.GATE_CHOICE_HAPPENED, "output": '"text"'}, "BAD_OUTPUT"),
    ],
)
async def test_what_is_no_answer_to_a_doubt_is_refused(
    tmp_path: Path, said: dict[str, object], reason: str
) -> None:
    async with _desk(tmp_path, asking("nothing")) as desk:
        gate = await _in_doubt(desk)
        stub = gate_service_pb2_grpc.GateServiceStub(desk.stage.channel)
        request = gate_service_pb2.DecideGateRequest(
            gate=gate.id,
            binding=gate.what.binding,
            approver="bob",
            choice=said["choice"],  # type: ignore[arg-type]
        )
        if "output" in said:
            request.output.json = str(said["output"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.DecideGate(request)
        assert details(refused.value)[0].reason == reason


@pytest.mark.parametrize(("missing", "refused"), [(["amount", "note"], True), ([], False)])
def test_what_lacks_something_is_not_approved(missing: list[str], refused: bool) -> None:
    item = event_pb2.GateItem(step="pay", tool="refund_order", missing=missing)
    opened = event_pb2.GateOpened(gate="g1", kind=event_pb2.GATE_KIND_ACTION, items=[item])
    request = gate_service_pb2.DecideGateRequest(choice=event_pb2.GATE_CHOICE_APPROVE)
    state = initial(RunKey(0, "default", "r0-01k9x3abcd"))
    if not refused:
        _check_choice(state, Gate(1, 1, opened), request)
        return
    with pytest.raises(Refusal, match="nothing is said of amount and note") as told:
        _check_choice(state, Gate(1, 1, opened), request)
    assert (told.value.code, told.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "GATE_LACKS")


class Unsure:
    """Proposes a refund, and does not know of how much."""

    async def propose(self, task: Task) -> event_pb2.Proposal:
        found = event_pb2.Proposal(model="test")
        found.call.tool, found.call.unsure = "refund_order", "nothing that it was given says amount"
        return found


async def test_what_lacks_something_waits_until_somebody_says_it(tmp_path: Path) -> None:
    grant = {"tool": "refund_order", "with": {"order_id": 7}, "open": {"amount": "value < 100"}}
    plan = {"steps": [{"id": "pay", "title": "Settle it", "with": {"mail": "pay me"}, "grants": [grant]}]}
    async with _desk(tmp_path, FunctionPolicy(lambda _: ALLOWED)) as desk:
        run = (await desk.client.submit("settle it", plan=plan, submitter="ann")).run
        key, executor = desk.stage.key(run), Executor(DecisionTable(), Unsure(), pool="main", instance="t")

        async def answered() -> bool:
            for record in await desk.stage.log.read(key):
                for answer in await executor.handle(record, desk.stage.log):
                    await desk.stage.log.append(answer.address, answer.event)
                    return True
            return False

        async with asyncio.timeout(10):
            while not await answered():
                await asyncio.sleep(0.01)
            while not (gates := (await desk.client.get(run)).gates):
                await asyncio.sleep(0.01)
        (gate,) = gates
        (item,) = gate.what.items
        assert (list(item.missing), item.tool) == (["amount"], "refund_order")
        with pytest.raises(errors.InvalidArgument, match="nothing is said of amount") as refused:
            await desk.client.decide(gate.id, approve=True, approver="bob")
        assert refused.value.reason == "GATE_LACKS"
        # So is what does not say it, and what the tool does not take.
        for arguments in ({"order_id": 8}, {"amount": "a lot"}):
            with pytest.raises(errors.InvalidArgument, match="amount"):
                await desk.client.amend(gate.id, arguments=arguments, approver="bob")
        assert not (await desk.client.gate(gate.id)).HasField("closed")
        await desk.client.amend(gate.id, arguments={"amount": 5}, approver="bob")
        assert (await _closed(desk, gate)).outcome == event_pb2.GATE_OUTCOME_AMENDED
        events = [one.event for one in await desk.stage.log.read(key) if one.event is not None]
        (action,) = (event.action for event in events if event.HasField("action"))
        assert {name: value.json for name, value in action.arguments.items()} == {
            "order_id": "7",
            "amount": "5",
        }
