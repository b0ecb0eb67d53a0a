"""The verifier: judges what a worker says it did, by reading the world with read-only tools of its own.

It hears results directly and reads the action behind one by its sequence. A result that says it failed needs
no verdict. Where a postcondition is refuted and the tool has a read-back, that is asked too, so that the
decider knows whether a repeat would be a second effect.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.agent import Answer
from actors.answers import answer, load, load_all, poisoned
from bus import consumers
from core import conditions, failures, judgement, permits, run, values
from core.permits import Checker
from core.ports import Consumer, Log, Record, RunKey
from handrail.calling import InvalidArguments, InvalidOutput, ToolThreads, invoke
from handrail.tool import Tool, ToolError
from handrail.v1 import event_pb2, tool_pb2
from observability import names, tracing

READ_TIMEOUT_S = 10.0
MAX_THREADS = 32


@dataclass(frozen=True, slots=True)
class _Asked:
    """An action as it was found, and the pool that it was asked of."""

    action: event_pb2.Action
    pool: str


@dataclass(frozen=True, slots=True)
class _Case:
    """What is to be judged: a result, what was asked for, and that whose effect it tells of."""

    result: event_pb2.Result
    result_id: str
    round: int
    asked: _Asked
    original: _Asked


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
        checker: Checker,
        pool: str,
        instance: str,
    ) -> None:
        # Read tools alone: a verifier cannot act, whatever it is told.
        self._tools = {name: tool for name, tool in tools.items() if not tool.contract.has_effect}
        self._contracts = contracts
        self._checker = checker
        self._pool = pool
        self._instance = instance
        self._threads = ToolThreads(MAX_THREADS)

    def consumer(self, pool: str) -> Consumer:
        """Return what a verifier hears."""
        return consumers.verifier(pool)

    async def handle(self, record: Record, log: Log) -> list[Answer]:
        """Judge a result, or those of a chain, or judge one once more."""
        verdicts = []
        for case in await self._cases(record, log):
            verdict = event_pb2.Verdict(
                attempt=case.result.attempt, result_id=case.result_id, round=case.round
            )
            begun = time.monotonic()
            try:
                about = (case.result.attempt, str(case.round))
                with tracing.within(record.address.key, names.VERIFY, *about, step=case.asked.action.step):
                    await self._judge(case, verdict, record.address.key, log)
            except (CannotRead, conditions.ConditionError, values.BadValue) as error:
                verdict.outcome = event_pb2.OUTCOME_UNKNOWN
                verdict.failure.CopyFrom(failures.transient(failures.UNVERIFIED, str(error)))
            verdict.took.FromNanoseconds(int((time.monotonic() - begun) * 1e9))
            verdicts.append(verdict)
        return self._answers(record, verdicts)

    def give_up(self, record: Record) -> list[Answer]:
        """Say that the results could not be judged."""
        event = record.event
        if event is not None and event.HasField("verify_ask"):
            ask = event.verify_ask
            verdicts = [event_pb2.Verdict(attempt=ask.attempt, result_id=ask.result_id, round=ask.round)]
        else:
            verdicts = [
                event_pb2.Verdict(attempt=part.result.attempt, result_id=part.id, round=1)
                for _, part in _outputs(record)
            ]
        for verdict in verdicts:
            verdict.outcome = event_pb2.OUTCOME_UNKNOWN
            verdict.failure.CopyFrom(poisoned(record))
        return self._answers(record, verdicts)

    async def _cases(self, record: Record, log: Log) -> list[_Case]:
        """Gather what a record wants judged."""
        event = record.event
        if event is not None and event.HasField("verify_ask"):
            ask = event.verify_ask
            again = await log.get(record.address.key.shard, ask.result_sequence)
            if again is None or again.address.key != record.address.key:
                return []
            wanted = [(part, one) for part, one in _outputs(again) if one.id == ask.result_id]
            found = [await self._open(part, one, ask.round, log, {}) for part, one in wanted]
        else:
            asked: dict[int, Record | None] = {}
            found = [await self._open(part, one, 1, log, asked) for part, one in _outputs(record)]
        return [case for case in found if case is not None]

    async def _open(
        self, record: Record, event: event_pb2.Event, round_: int, log: Log, asked: dict[int, Record | None]
    ) -> _Case | None:
        """Find the action behind a result; None where there is nothing to judge."""
        shard, result = record.address.key.shard, event.result
        if result.action_sequence not in asked:
            # The results of a chain have one ask.
            asked[result.action_sequence] = await log.get(shard, result.action_sequence)
        found = _find(asked[result.action_sequence], record, result.attempt)
        if found is None or record.address.topic[1::2] != (found.pool, result.attempt):
            # Not where the worker of that attempt would have written it.
            return None
        action, original = found.action, found
        if result.arguments.keys() != action.pending.keys():
            return None
        if action.kind == event_pb2.ACTION_KIND_READ_BACK:
            if result.happened != event_pb2.HAPPENED_YES:
                return None
            earlier = _find(await log.get(shard, action.original_sequence), record, action.replaces)
            if earlier is None:
                return None
            original = earlier
        return _Case(result, event.id, round_, found, original)

    async def _believed(self, asked: _Asked, key: RunKey, log: Log) -> dict[str, Any]:
        """Return the arguments of an action, if the decider has authorised exactly it."""
        arguments = await load_all(log, key, asked.action.arguments)
        # It may have been carried out when its permit was still good.
        found = permits.refusal(asked.action, key, asked.pool, arguments, self._checker, now_ns=None)
        if found is not None:
            raise CannotRead(f"the action cannot be believed: {found.message}")
        return arguments

    async def _judge(self, case: _Case, verdict: event_pb2.Verdict, key: RunKey, log: Log) -> None:
        arguments = await self._believed(case.asked, key, log)
        if case.original is not case.asked:
            arguments = await self._believed(case.original, key, log)
        act = case.original.action
        contract = self._contracts.get(act.tool)
        if contract is None:
            raise CannotRead("the verifier does not know the tool: does it have the same project?")
        wanted = [text for text in (contract.post, act.post) if text]
        if wanted:
            if case.original is case.asked:
                arguments |= await load_all(log, key, case.result.arguments)
            contents = await load(log, key, [case.result.output])
            scope = {
                "args": arguments,
                "output": values.load(case.result.output, contents),
            }
            reads = await judgement.observe(contract, scope, self._read)
            verdict.evidence.extend(judgement.judge(wanted, {**scope, "reads": reads}))
        happened = await self._read_back(contract.readback, act.key, verdict) if contract.readback else None
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

    def _answers(self, record: Record, verdicts: list[event_pb2.Verdict]) -> list[Answer]:
        """Put what is judged together into one event."""
        if not verdicts:
            return []
        *earlier, last = (self._answer(record, verdict) for verdict in verdicts)
        last.event.before.extend(one.event for one in earlier)
        return [last]

    def _answer(self, record: Record, verdict: event_pb2.Verdict) -> Answer:
        topic = (self.role, self._pool, "verdict", verdict.attempt)
        return answer(record, topic, "verdict", verdict, self._instance)


def _outputs(record: Record) -> list[tuple[Record, event_pb2.Event]]:
    """Return the results among what a record holds that want a verdict."""
    return [
        (part, part.event)
        for part in run.unbundled(record)
        if part.event is not None and part.event.HasField("result") and part.event.result.HasField("output")
    ]


def _find(asked: Record | None, record: Record, attempt: str) -> _Asked | None:
    """Return the action of an attempt, if it is among what was found where the decider writes."""
    if asked is None or asked.address.key != record.address.key:
        return None
    for part in run.unbundled(asked):
        on_channel = part.address.channel == "dec" and part.address.topic[:2] == ("ask", "worker")
        event = part.event if on_channel else None
        if event is not None and event.HasField("action") and event.action.attempt == attempt:
            return _Asked(event.action, part.address.topic[2])
    return None
