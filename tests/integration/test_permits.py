"""What the decider has not signed is not done, not believed, and does not keep a run from its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from actors.verifier import Verifier
from bus.memory import MemoryBroker, MemoryLog
from core import failures, permits, run, values
from core.contracts import to_proto
from core.permits import Grounds, Signer
from core.ports import Address, Record, RunKey
from handrail.release import release
from handrail.tool import Tool, tool
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from tests.integration.test_life import KEY, Stage, output
from tests.keys import CHECKER, SIGNER, STRANGER
from workers.host import Worker
from workers.instance import Instance

OTHER = RunKey(0, "default", "r0-another001")
TIMEOUT_S = 10.0
LIFE_NS = 600 * 10**9


def action(attempt: str = "pay-a1", tool: str = "pay", **arguments: Any) -> event_pb2.Action:
    """An action without its permit."""
    made = event_pb2.Action(
        attempt=attempt, step="pay", kind=event_pb2.ACTION_KIND_ACT, tool=tool, key=f"{KEY.run}:pay"
    )
    for name, value in (arguments or {"amount": 5}).items():
        made.arguments[name].CopyFrom(values.inline(value))
    made.timeout.FromSeconds(5)
    return made


def permitted(
    made: event_pb2.Action, signer: Signer = SIGNER, *, toolbox: str = "box", life_ns: int = LIFE_NS
) -> event_pb2.Action:
    """The action with a permit for exactly it."""
    arguments = {name: values.load(value, {}) for name, value in made.arguments.items()}
    permits.bind(made, KEY, toolbox, arguments, Grounds(), time.time_ns() + life_ns)
    permits.sign([made], signer)
    return made


def under_the_permit_of(made: event_pb2.Action, other: event_pb2.Action) -> event_pb2.Action:
    """The action under a permit that the decider signed for another."""
    made.permit.CopyFrom(other.permit)
    made.signature, made.key_id = other.signature, other.key_id
    return made


def unsigned(made: event_pb2.Action) -> event_pb2.Action:
    made.ClearField("signature")
    made.ClearField("key_id")
    return made


def written(made: event_pb2.Action, **fields: Any) -> event_pb2.Event:
    event = event_pb2.Event(id=f"{made.attempt}-ask", version=run.VERSION, **fields)
    event.action.CopyFrom(made)
    return event


class Hands:
    """A worker, and what it did."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.log = MemoryLog(MemoryBroker(), (0,))

        @tool(effect="write", idempotency="natural", post="output == args.amount")
        def pay(amount: int) -> int:
            """Pay."""
            self.done.append(amount)
            return amount

        @tool(effect="read")
        def look(amount: int) -> int:
            """Look."""
            self.done.append(amount)
            return amount

        found = [f.__handrail_tool__.with_toolbox("box") for f in (pay, look)]  # type: ignore[attr-defined]
        self.tools: dict[str, Tool] = {one.contract.name: one for one in found}
        self.worker = Worker(
            self.log,
            self.tools,
            toolbox="box",
            instance=Instance("here", 1, "box_0", 1),
            checker=CHECKER,
            concurrency=1,
        )

    async def ask(self, made: event_pb2.Action, key: RunKey = KEY) -> event_pb2.Result:
        """Have an action in the log, and return what the worker makes of it."""
        await self.log.append(Address(key, "dec", ("ask", "worker", "box")), written(made))
        async with asyncio.timeout(TIMEOUT_S):
            async for record in self.log.follow(key):
                if record.event is not None and record.event.HasField("result"):
                    return record.event.result
        raise AssertionError("unreachable")


@pytest.fixture
async def hands() -> AsyncIterator[Hands]:
    found = Hands()
    task = asyncio.create_task(found.worker.serve())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_permitted_is_done(hands: Hands) -> None:
    result = await hands.ask(permitted(action()))
    assert not result.HasField("failure"), result
    assert hands.done == [5]


async def test_a_result_says_of_which_code_the_tool_is_and_who_called_it(hands: Hands) -> None:
    result = await hands.ask(permitted(action()))
    assert result.code_sha256 == sha256(Path(__file__).read_bytes()).digest()
    events = [record.event for record in await hands.log.read(KEY)]
    assert {event.handrail for event in events if event is not None and event.HasField("result")} == {
        release()
    }


async def test_what_was_refused_was_called_in_no_code(hands: Hands) -> None:
    assert (await hands.ask(unsigned(permitted(action())))).code_sha256 == b""


@pytest.mark.parametrize(
    ("made", "says", "again"),
    [
        (unsigned(permitted(action())), "is not signed", True),
        (unsigned(permitted(action(tool="look"))), "is not signed", True),
        (permitted(action(), STRANGER), f"signed by key '{STRANGER.key_id}'", True),
        (permitted(action(), life_ns=-1), "has expired", True),
        (under_the_permit_of(action(amount=9), permitted(action())), "the arguments", False),
        (under_the_permit_of(action("pay-a2"), permitted(action())), "for attempt 'pay-a1'", False),
        (under_the_permit_of(action(tool="look"), permitted(action())), "for tool 'pay'", False),
        (permitted(action(), toolbox="bank"), "for toolbox 'bank'", False),
    ],
    ids=["unsigned", "unsigned read", "stranger", "expired", "arguments", "attempt", "tool", "toolbox"],
)
async def test_what_was_not_permitted_is_not_done(
    hands: Hands, made: event_pb2.Action, says: str, again: bool
) -> None:
    result = await hands.ask(made)
    assert hands.done == []
    assert result.happened == event_pb2.HAPPENED_NO
    assert result.failure.code == failures.PERMIT
    assert says in result.failure.message
    transient = failures.failure_class(result.failure) == event_pb2.FAILURE_CLASS_TRANSIENT
    assert transient == again


async def test_a_signature_that_was_changed_is_not_the_deciders(hands: Hands) -> None:
    made = permitted(action())
    made.signature = bytes([made.signature[0] ^ 1]) + made.signature[1:]
    result = await hands.ask(made)
    assert hands.done == []
    assert "does not fit its permit" in result.failure.message


async def test_a_permit_is_of_no_use_in_another_run(hands: Hands) -> None:
    result = await hands.ask(permitted(action()), OTHER)
    assert hands.done == []
    assert f"for run '{KEY.run}'" in result.failure.message


async def test_a_permit_serves_once(hands: Hands) -> None:
    await hands.ask(permitted(action()))
    again = written(permitted(action()))
    again.id = "again"
    await hands.log.append(Address(KEY, "dec", ("ask", "worker", "box")), again)
    # Whoever is asked next has got past it.
    await hands.ask(permitted(action("pay-a2", amount=6)))
    async with asyncio.timeout(TIMEOUT_S):
        while 6 not in hands.done:
            await asyncio.sleep(0.01)
    assert hands.done == [5, 6]


# --- the verifier ----------------------------------------------------------------------------------


async def judged(made: event_pb2.Action, returned: int = 5) -> event_pb2.Verdict:
    """What a verifier says of a result to an action."""
    hands = Hands()
    contracts = {name: to_proto(one.contract) for name, one in hands.tools.items()}
    verifier = Verifier(hands.tools, contracts, checker=CHECKER, pool="main", instance="t")
    sequence = await hands.log.append(Address(KEY, "dec", ("ask", "worker", "box")), written(made))
    result = event_pb2.Event(id="result", version=run.VERSION)
    result.result.CopyFrom(
        event_pb2.Result(
            attempt=made.attempt,
            output=values.inline(returned),
            happened=event_pb2.HAPPENED_YES,
            action_sequence=sequence,
        )
    )
    address = Address(KEY, "ans", ("worker", "box", "result", made.attempt))
    (answer,) = await verifier.handle(Record(sequence + 1, 1, address, result), hands.log)
    return answer.event.verdict


async def test_a_verifier_believes_what_is_signed_whenever_it_expired() -> None:
    assert (await judged(permitted(action(), life_ns=-1))).outcome == event_pb2.OUTCOME_CONFIRMED


async def test_a_verifier_does_not_judge_by_what_the_decider_has_not_said() -> None:
    weaker = permitted(action())
    weaker.post = "true"
    cases = (
        (unsigned(permitted(action())), "is not signed"),
        (permitted(action(), STRANGER), "signed by key"),
        (under_the_permit_of(action(amount=9), permitted(action())), "the arguments"),
        (weaker, "does not fit"),
    )
    for made, says in cases:
        verdict = await judged(made)
        assert verdict.outcome == event_pb2.OUTCOME_UNKNOWN
        assert verdict.failure.code == failures.UNVERIFIED
        assert says in verdict.failure.message


# --- a whole run -----------------------------------------------------------------------------------


class Mute:
    """A decider of the time before permits were signed."""

    key_id = ""

    def sign(self, message: bytes) -> bytes:
        """Sign nothing."""
        return b""


async def test_a_run_of_the_time_before_permits_were_signed_goes_on() -> None:
    stage = Stage()
    old = Decider(stage._log(), stage.decider._catalogue, signer=Mute(), instance="old")
    deciding = asyncio.create_task(old.serve())
    await stage.submit({"id": "made", "tool": "make", "with": {"amount": 5}, "max_attempts": 1})
    async with asyncio.timeout(TIMEOUT_S):
        async for record in stage.log.follow(KEY):
            if record.event is not None and record.event.HasField("action"):
                break
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)
    stage.start()
    try:
        state = await stage.finish()
    finally:
        await stage.stop()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    first, second = state.instances["made"].attempts
    assert first.result is not None
    assert first.result.message.failure.code == failures.PERMIT
    assert not first.claimer
    assert second.action is not None
    assert second.action.key_id == SIGNER.key_id
    assert list(stage.world.made.values()) == [5]


async def test_what_somebody_else_writes_into_a_run_is_not_done() -> None:
    stage = Stage()
    stage.start()
    stage.world.faults["make"] = ["hang"]
    try:
        await stage.submit(
            {"id": "made", "tool": "make", "with": {"amount": 5}},
            {"id": "more", "tool": "make", "with": {"amount": "$made"}, "when": "made > 100"},
            {"id": "last", "tool": "add", "with": {"a": "$made", "b": 1}},
        )
        async with asyncio.timeout(TIMEOUT_S):
            while "make" not in stage.world.calls:
                await asyncio.sleep(0.01)
        for attempt, step in (("more-a1", "more"), ("last-a1", "last")):
            forged = action(attempt, "make", amount=9_999)
            forged.step = step
            await stage.log.append(
                Address(KEY, "dec", ("ask", "worker", "box")), written(permitted(forged, STRANGER))
            )
        state = await stage.finish()
    finally:
        await stage.stop()
    assert state.status == event_pb2.RUN_STATUS_DONE, state.finished
    assert state.instances["more"].settled == "skipped"
    assert output(state, "last") == "6"
    assert list(stage.world.made.values()) == [5]
