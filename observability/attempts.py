"""The spans of attempts: what was asked, who chose or acted, how it was judged, and what was lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core import failures
from core.state import Attempt, Instance
from handrail.v1 import event_pb2
from observability import names
from observability.diary import Diary, Try
from observability.span import Link, SpanEvent
from observability.teller import (
    UNANSWERED,
    Fate,
    Teller,
    arguments_of,
    body_of,
    failure_of,
    messaging,
    model_of,
    said,
    start_ns,
    text_of,
    word,
)

_OUTCOMES = {
    event_pb2.OUTCOME_CONFIRMED: "confirmed",
    event_pb2.OUTCOME_REFUTED: "refuted",
    event_pb2.OUTCOME_UNKNOWN: "unknown",
}
AGAIN = "again"
"""The strategy of an attempt that takes the place of one that was taken back or refused."""
PROPOSAL = "proposal"
"""The strategy of an attempt that carries out what the one before proposed."""


class AttemptTeller(Teller):
    """Tells of one attempt after another."""

    def __init__(self, diary: Diary, *, with_content: bool) -> None:
        super().__init__(diary, with_content=with_content)
        self._ends = _laid_out(diary)

    def tell_attempt(self, parent: str, instance: Instance, attempt: Attempt, found: Try) -> None:
        """Make the span of an attempt, and those of who answered it."""
        fate, end_ns = self._end_of(attempt, found)
        outcome, failure = _outcome(attempt, found, fate)
        common = {
            names.STEP_ID: instance.id,
            names.ATTEMPT_ID: attempt.id,
            names.ATTEMPT_NUMBER: attempt.number,
        }
        span_id = self.tell(
            names.ATTEMPT,
            (attempt.id,),
            parent=parent,
            start_ns=found.ask.time_ns,
            end_ns=end_ns,
            role="decider",
            writer=found.ask,
            kind="producer",
            failure=failure,
            error=_why_lost(attempt) if fate == "lost" else failures.PROPOSAL if attempt.refused else "",
            fate=fate,
            links=self._replaced(instance, attempt, found),
            events=tuple(_moments(found)),
            attributes={
                **common,
                names.ATTEMPT_KIND: _kind(attempt),
                names.ATTEMPT_OUTCOME: outcome,
                names.CLAIMER: attempt.claimer,
                names.GENAI_TOOL_NAME: attempt.action.tool if attempt.action is not None else "",
                names.SEQUENCE: found.ask.sequence,
                **messaging(found.ask, "publish"),
            },
        )
        if attempt.action is None:
            self._tell_choice(span_id, found, common, end_ns)
        elif outcome not in (names.REVOKED, names.LEFT_BEHIND):
            self._tell_action(span_id, attempt, found, common, end_ns)
            self._tell_verdicts(span_id, attempt, found, common)

    def _end_of(self, attempt: Attempt, found: Try) -> tuple[Fate, int]:
        """Return whether it was lost or goes on, and when it ended."""
        if found.revoked is not None:
            return "", found.revoked.time_ns
        if found.answer is None and self.state.left_behind(attempt):
            # Of a chain that broke before its turn came.
            return "", found.given_up.time_ns if found.given_up is not None else self.section.end_ns
        if found.answer is None and found.given_up is not None:
            return "lost", found.given_up.time_ns
        if attempt.in_flight or found.answer is None:
            return self.fate(missing=True), self.section.end_ns
        last = (*found.verdicts, *((found.refused,) if found.refused is not None else ()))
        return "", max(found.answer.time_ns, *(record.time_ns for record in last), 0)

    def _replaced(self, instance: Instance, attempt: Attempt, found: Try) -> tuple[Link, ...]:
        """Link to the attempt that this one replaces, and say why it does."""
        if attempt.number < 2:
            return ()
        previous = instance.attempts[attempt.number - 2]
        replaced = attempt.action.replaces if attempt.action is not None else ""
        strategy, cause = "", ""
        if found.heal is not None:
            heal = body_of(found.heal.record)
            strategy, cause = heal.strategy, heal.cause.code
        elif previous.revoked:
            strategy, cause = AGAIN, names.REVOKED
        elif self.state.left_behind(previous):
            strategy, cause = AGAIN, names.LEFT_BEHIND
        elif previous.refused:
            strategy, cause = AGAIN, failures.PROPOSAL
        elif previous.proposal is not None:
            strategy = PROPOSAL
        elif self.diary.tries[previous.id].undo != found.undo:
            # Another undo had given it up.
            strategy, cause = AGAIN, names.UNDO
        why = said({names.HEAL_STRATEGY: strategy, names.HEAL_CAUSE: cause})
        return (Link(self.id(names.ATTEMPT, replaced or previous.id), why),)

    # --- who answered ---------------------------------------------------------------------------------

    def _fate(self, found: Try) -> Fate:
        return self.fate(missing=found.answer is None, given_up=found.given_up is not None)

    def _tell_choice(self, parent: str, found: Try, common: dict[str, Any], end_ns: int) -> None:
        answer, fate = found.answer, self._fate(found)
        proposal = body_of(answer) if answer is not None else event_pb2.Proposal()
        end_ns = answer.time_ns if answer is not None else end_ns
        self.tell(
            names.CHOOSE,
            (found.id,),
            parent=parent,
            start_ns=start_ns(found.ask, answer, end_ns),
            end_ns=end_ns,
            role="executor",
            writer=answer,
            kind="consumer",
            failure=failure_of(proposal),
            error=UNANSWERED if fate == "lost" else "",
            attributes={
                **common,
                names.GENAI_TOOL_NAME: proposal.choice.tool or proposal.call.tool,
                names.RULE: proposal.choice.rule if proposal.HasField("choice") else None,
                **model_of(proposal),
                **self.content(lambda: {names.REASON: proposal.choice.reason or proposal.call.reason}),
                **messaging(found.ask, "process"),
            },
            fate=fate,
        )

    def _tell_action(
        self, parent: str, attempt: Attempt, found: Try, common: dict[str, Any], end_ns: int
    ) -> None:
        """Tell of the tool's call: by its result, or by its claim alone where there never was one."""
        assert attempt.action is not None
        action, answer, fate = attempt.action, found.answer, self._fate(found)
        result = body_of(answer) if answer is not None else event_pb2.Result()
        failure = failure_of(result)
        if answer is not None:
            end_ns = self._ends.get((names.EXECUTE_TOOL, attempt.id, 0), answer.time_ns)

        def content() -> dict[str, str]:
            return {
                names.GENAI_TOOL_ARGUMENTS: arguments_of({**action.arguments, **result.arguments}),
                names.GENAI_TOOL_RESULT: text_of(result.output),
            }

        self.tell(
            names.EXECUTE_TOOL,
            (attempt.id,),
            suffix=action.tool,
            parent=parent,
            start_ns=start_ns(found.ask, answer, end_ns, found.claim),
            end_ns=end_ns,
            role=f"worker-{attempt.pool}",
            writer=answer,
            instance=attempt.claimer if answer is None else "",
            failure=failure,
            error=_why_lost(attempt) if fate == "lost" else "",
            attributes={
                **common,
                names.GENAI_OPERATION: names.EXECUTE_TOOL,
                names.GENAI_TOOL_NAME: action.tool,
                names.GENAI_TOOL_TYPE: "function",
                names.GENAI_TOOL_CALL_ID: attempt.id,
                names.TOOLBOX: attempt.pool,
                names.ACTION_KEY: action.key,
                names.HAPPENED: word(event_pb2.Happened, "HAPPENED_", result.happened),
                names.CALLED: failure is None or failure.code not in failures.BEFORE_THE_CALL
                if answer is not None
                else None,
                **self.content(content),
                **messaging(found.ask, "process"),
            },
            fate=fate,
        )

    def _tell_verdicts(self, parent: str, attempt: Attempt, found: Try, common: dict[str, Any]) -> None:
        """Tell of each round in which the verifier judged, and of the one that it still owes."""
        judged = {body_of(verdict).round: verdict for verdict in found.verdicts}
        owed = {attempt.round_asked} if attempt.can_be_judged and attempt.verdict is None else set()
        for round in sorted(judged.keys() | owed):
            verdict = judged.get(round)
            ask = found.verify_asks.get(round) or found.answer
            assert ask is not None
            body = body_of(verdict) if verdict is not None else event_pb2.Verdict()
            end_ns = verdict.time_ns if verdict is not None else self.section.end_ns
            end_ns = self._ends.get((names.VERIFY, attempt.id, round), end_ns)
            fate = self.fate(missing=verdict is None)
            self.tell(
                names.VERIFY,
                (attempt.id, str(round)),
                parent=parent,
                start_ns=start_ns(ask, verdict, end_ns),
                end_ns=end_ns,
                role="verifier",
                writer=verdict,
                kind="consumer",
                failure=failure_of(body),
                error=UNANSWERED if fate == "lost" else "",
                fate=fate,
                attributes={
                    **common,
                    names.VERDICT_ROUND: round,
                    names.VERDICT_OUTCOME: word(event_pb2.Outcome, "OUTCOME_", body.outcome),
                    names.VERDICT_CONDITIONS: len(body.evidence),
                    names.SEQUENCE: verdict.sequence if verdict is not None else None,
                    **messaging(ask, "process"),
                },
            )


def _kind(attempt: Attempt) -> str:
    if attempt.action is None:
        return "proposal"
    return word(event_pb2.ActionKind, "ACTION_KIND_", attempt.action.kind)


def _why_lost(attempt: Attempt) -> str:
    return failures.SILENT if attempt.claimer else UNANSWERED


def _outcome(attempt: Attempt, found: Try, fate: Fate) -> tuple[str, event_pb2.Failure | None]:
    """Return the word for what came of an attempt, and its failure."""
    if attempt.revoked:
        return names.REVOKED, None
    if fate or found.answer is None:
        return {"lost": "lost", "open": ""}.get(fate, names.LEFT_BEHIND), None
    if attempt.action is None:
        failure = failure_of(attempt.proposal) if attempt.proposal is not None else None
        return "failed" if failure is not None else "refused" if attempt.refused else "proposed", failure
    result = attempt.result.message if attempt.result is not None else event_pb2.Result()
    failure = failure_of(result)
    if failure is not None:
        doubtful = failures.failure_class(failure) == event_pb2.FAILURE_CLASS_IN_DOUBT
        return names.IN_DOUBT if doubtful else "failed", failure
    if attempt.verdict is None:
        return "not_found", None
    verdict = attempt.verdict.message
    return _OUTCOMES.get(verdict.outcome, ""), failure_of(verdict)


def _moments(found: Try) -> Iterator[SpanEvent]:
    """Yield what the attempt met beside its answers."""
    if found.claim is not None:
        yield SpanEvent(names.CLAIMED, found.claim.time_ns, {names.CLAIMER: body_of(found.claim).claimer})
    for orphan in found.orphans:
        body = body_of(orphan)
        dead = {names.CLAIMER: body.claimer, names.SEEN_DEAD: body.seen_dead}
        yield SpanEvent(names.ORPHANED, orphan.time_ns, dead)
    for name, record in ((names.REVOKED, found.revoked), (names.PROPOSAL_REFUSED, found.refused)):
        if record is not None:
            yield SpanEvent(name, record.time_ns)


def _laid_out(diary: Diary) -> dict[tuple[str, str, int], int]:
    """Say when each answer of a bundle was ready: they are told at once, and were made one after another."""
    bundles: dict[tuple[str, int], list[tuple[tuple[str, str, int], int, int]]] = {}
    for found in diary.tries.values():
        answers = [(names.EXECUTE_TOOL, 0, found.answer)] if found.answer is not None else []
        answers += [(names.VERIFY, body_of(verdict).round, verdict) for verdict in found.verdicts]
        for what, round, record in answers:
            took_ns = body_of(record).took.ToNanoseconds()
            entry = ((what, found.id, round), record.time_ns, took_ns)
            bundles.setdefault((what, record.sequence), []).append(entry)
    ends: dict[tuple[str, str, int], int] = {}
    for bundle in bundles.values():
        end_ns = bundle[-1][1]
        for key, _, took_ns in reversed(bundle):
            ends[key] = end_ns
            end_ns -= took_ns
    return ends
