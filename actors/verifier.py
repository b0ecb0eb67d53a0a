"""The verifier: judges what a worker says it did, by reading the world with read-only tools of its own.

It hears results directly and reads the action behind one by its sequence. A result that says it failed needs
no verdict. Where a postcondition is refuted and the tool has a read-back, that is asked too, so that the
decider knows whether a repeat would be a second effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.agent import Answer
from actors.answers import answer, load, load_all, poisoned
from bus import consumers
from core import conditions, failures, judgement, values
from core.ports import Consumer, Log, Record
from handrail.calling import InvalidArguments, InvalidOutput, ToolThreads, invoke
from handrail.tool import Tool, ToolError
from handrail.v1 import event_pb2, tool_pb2

READ_TIMEOUT_S = 10.0
MAX_THREADS = 32


@dataclass(frozen=True, slots=True)
class _Case:
    """What is to be judged."""

    result: event_pb2.Result
    result_id: str
    round: int
    contract: tool_pb2.ToolContract | None
    key: str
    conditions: list[str]
    scope: dict[str, Any]


class CannotRead(Exception):
    """A read tool did not answer; nothing can be judged now."""


class Verifier:
    """Answers results with verdicts."""

    role = "verifier"

    def __init__(
        self,
        tools: Mapping[str, Tool],
        contracts: Mapping[str, tool_pb2.ToolContract],
        *,
        pool: str,
        instance: str,
    ) -> None:
        # Read tools alone: a verifier cannot act, whatever it is told.
        self._tools = {name: tool for name, tool in tools.items() if not tool.contract.has_effect}
        self._contracts = contracts
        self._pool = pool
        self._instance = instance
        self._threads = ToolThreads(MAX_THREADS)

    def consumer(self, pool: str) -> Consumer:
        """Return what a verifier hears."""
        return consumers.verifier(pool)

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        """Judge a result, or judge it once more."""
        case = await self._open(record, log)
        if case is None:
            return []
        verdict = event_pb2.Verdict(attempt=case.result.attempt, result_id=case.result_id, round=case.round)
        try:
            await self._judge(case, verdict)
        except (CannotRead, conditions.ConditionError, values.BadValue) as error:
            verdict.outcome = event_pb2.OUTCOME_UNKNOWN
            verdict.failure.CopyFrom(failures.transient(failures.UNVERIFIED, str(error)))
        return [self._answer(record, verdict)]

    def give_up(self, record: Record) -> list[Answer]:
        """Say that the result could not be judged."""
        event = record.event
        if event is not None and event.HasField("verify_ask"):
            ask = event.verify_ask
            verdict = event_pb2.Verdict(attempt=ask.attempt, result_id=ask.result_id, round=ask.round)
        elif event is not None and event.HasField("result") and event.result.HasField("output"):
            verdict = event_pb2.Verdict(attempt=event.result.attempt, result_id=event.id, round=1)
        else:
            return []
        verdict.outcome = event_pb2.OUTCOME_UNKNOWN
        verdict.failure.CopyFrom(poisoned(record))
        return [self._answer(record, verdict)]

    async def _open(self, record: Record, log: Log) -> _Case | None:
        """Gather what a verdict needs; None where there is nothing to judge."""
        shard, round_ = record.address.key.shard, 1
        if record.event is not None and record.event.HasField("verify_ask"):
            round_ = record.event.verify_ask.round
            again = await log.get(shard, record.event.verify_ask.result_sequence)
            if again is None or again.address.key != record.address.key:
                return None
            record = again
        event = record.event
        if event is None or not event.HasField("result") or not event.result.HasField("output"):
            return None
        key, result = record.address.key, event.result
        asked = await log.get(shard, result.action_sequence)
        action = _action(asked, record)
        if action is None or asked is None or action.attempt != result.attempt:
            return None
        if record.address.topic[1::2] != (asked.address.topic[2], action.attempt):
            # Not where the worker of that attempt would have written it.
            return None
        act = action
        if action.kind == event_pb2.ACTION_KIND_READ_BACK:
            if result.happened != event_pb2.HAPPENED_YES:
                return None
            original = _action(await log.get(shard, action.original_sequence), record)
            if original is None:
                return None
            act = original
        contents = await load(log, key, [result.output])
        scope = {
            "args": await load_all(log, key, act.arguments),
            "output": values.load(result.output, contents),
        }
        contract = self._contracts.get(act.tool)
        wanted = [text for text in (contract.post if contract else "", act.post) if text]
        return _Case(result, event.id, round_, contract, act.key, wanted, scope)

    async def _judge(self, case: _Case, verdict: event_pb2.Verdict) -> None:
        contract = case.contract
        if contract is None:
            raise CannotRead("the verifier does not know the tool: does it have the same project?")
        if case.conditions:
            reads = await judgement.observe(contract, case.scope, self._read)
            verdict.evidence.extend(judgement.judge(case.conditions, {**case.scope, "reads": reads}))
        happened = await self._read_back(contract.readback, case.key, verdict) if contract.readback else None
        refuted = [e for e in verdict.evidence if not e.held]
        if not refuted:
            verdict.outcome = event_pb2.OUTCOME_CONFIRMED
            return
        verdict.outcome = event_pb2.OUTCOME_REFUTED
        verdict.happened = event_pb2.HAPPENED_UNKNOWN
        if happened is not None:
            verdict.happened = event_pb2.HAPPENED_YES if happened else event_pb2.HAPPENED_NO
        found = "; ".join(f"{e.condition} does not hold, observed {e.observed}" for e in refuted)
        verdict.failure.CopyFrom(failures.permanent(failures.POST_REFUTED, f"{contract.name}: {found}"))

    async def _read_back(self, tool: str, key: str, verdict: event_pb2.Verdict) -> bool:
        """Ask the tool's read-back whether the action happened; that too is evidence."""
        found = await self._read(tool, {"key": key})
        verdict.evidence.append(
            event_pb2.Evidence(
                condition=f"{tool} finds the action",
                held=found is not None,
                observed=judgement.bounded(found),
            )
        )
        return found is not None

    async def _read(self, name: str, arguments: Mapping[str, Any]) -> Any:
        tool = self._tools.get(name)
        if tool is None:
            raise CannotRead(f"the verifier has no read tool {name!r}")
        try:
            return await invoke(tool, arguments, timeout_s=READ_TIMEOUT_S, threads=self._threads)
        except (ToolError, InvalidArguments, InvalidOutput, TimeoutError) as error:
            raise CannotRead(f"{name}: {error or 'no answer in time'}") from error
        except Exception as error:
            # A tool is the user's code: whatever else it raises, the verdict says that it could not be read.
            raise CannotRead(f"{name} raised {type(error).__name__}: {error}") from error

    def _answer(self, record: Record, verdict: event_pb2.Verdict) -> Answer:
        topic = (self.role, self._pool, "verdict", verdict.attempt)
        return answer(record, topic, "verdict", verdict, self._instance)


def _action(asked: Record | None, record: Record) -> event_pb2.Action | None:
    """Return the decider's action of the same run, if that is what was found."""
    if asked is None or asked.event is None or asked.address.key != record.address.key:
        return None
    on_channel = asked.address.channel == "dec" and asked.address.topic[:2] == ("ask", "worker")
    return asked.event.action if on_channel and asked.event.HasField("action") else None
