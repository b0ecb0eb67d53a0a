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
from handrail.calling import AnyTool, InvalidArguments, InvalidOutput, ToolThreads, invoke, told
from handrail.secrets import NO_SECRETS, SecretMissing, Secrets
from handrail.tool import ToolError
from handrail.v1 import event_pb2, tool_pb2
from observability import names, tracing

READ_TIMEOUT_S = 10.0
MAX_THREADS = 32


@dataclass(frozen=True, slots=True)
class _Ask:
    """What workers of a pool were asked for at once, and why it is not the decider's, if it is not."""

    actions: tuple[event_pb2.Action, ...]
    pool: str
    foreign: event_pb2.Failure | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """One action of an ask."""

    action: event_pb2.Action
    ask: _Ask


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
        tools: Mapping[str, AnyTool],
        contracts: Mapping[str, tool_pb2.ToolContract],
        *,
        checker: Checker,
        pool: str,
        instance: str,
        secrets: Mapping[str, Secrets] | None = None,
    ) -> None:
        """`secrets` are those of each toolbox."""
        self._secrets = secrets or {}
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
            asks: dict[int, _Ask | None] = {}
            found = [await self._open(part, one, 1, log, asks) for part, one in _outputs(record)]
        return [case for case in found if case is not None]

    async def _open(
        self, record: Record, event: event_pb2.Event, round_: int, log: Log, asks: dict[int, _Ask | None]
    ) -> _Case | None:
        """Find the action behind a result; None where there is nothing to judge."""
        result = event.result
        asked = await self._find(record, result.action_sequence, result.attempt, log, asks)
        if asked is None or record.address.topic[1::2] != (asked.ask.pool, result.attempt):
            # Not where the worker of that attempt would have written it.
            return None
        action, original = asked.action, asked
        if result.arguments.keys() != action.pending.keys():
            return None
        if action.kind == event_pb2.ACTION_KIND_READ_BACK:
            if result.happened != event_pb2.HAPPENED_YES:
                return None
            earlier = await self._find(record, action.original_sequence, action.replaces, log, asks)
            if earlier is None:
                return None
            original = earlier
        return _Case(result, event.id, round_, asked, original)

    async def _find(
        self, record: Record, sequence: int, attempt: str, log: Log, asks: dict[int, _Ask | None]
    ) -> _Asked | None:
        """Return the action of an attempt, if it is at that place, and a decider would have written there."""
        key = record.address.key
        if sequence not in asks:
            # The results of a chain have one ask.
            asks[sequence] = self._ask(await log.get(key.shard, sequence), key)
        ask = asks[sequence]
        found = (one for one in ask.actions if one.attempt == attempt) if ask is not None else iter(())
        action = next(found, None)
        return _Asked(action, ask) if action is not None and ask is not None else None

    def _ask(self, record: Record | None, key: RunKey) -> _Ask | None:
        if record is None or record.address.key != key or record.address.channel != "dec":
            return None
        if record.address.topic[:2] != ("ask", "worker"):
            return None
        events = [part.event for part in run.unbundled(record) if part.event is not None]
        actions = tuple(event.action for event in events if event.HasField("action"))
        if not actions:
            return None
        return _Ask(actions, record.address.topic[2], permits.foreign(actions, self._checker))

    async def _believed(self, asked: _Asked, key: RunKey, log: Log) -> dict[str, Any]:
        """Return the arguments of an action, if the decider has authorised exactly it."""
        found, arguments = asked.ask.foreign, dict[str, Any]()
        if found is None:
            arguments = await load_all(log, key, asked.action.arguments)
            # It may have been carried out when its permit was still good.
            found = permits.refusal(asked.action, key, asked.ask.pool, arguments, now_ns=None)
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
            return await self._secrets.get(tool.contract.toolbox, NO_SECRETS).lend(
                lambda secrets: invoke(
                    tool, arguments, timeout_s=READ_TIMEOUT_S, threads=self._threads, secrets=secrets
                )
            )
        except (SecretMissing, ToolError, InvalidArguments, InvalidOutput, TimeoutError) as error:
            raise CannotRead(f"{name}: {error or 'no answer in time'}") from error
        except Exception as error:
            # A tool is the user's code: whatever else it raises, the verdict says that it could not be read.
            raise CannotRead(f"{name} raised {told(error)}") from error

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
