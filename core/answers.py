"""What minds and workers have written: plans, proposals, claims, results, verdicts; and what they change."""

from __future__ import annotations

from collections.abc import Mapping

from core.instances import Handler, answered, change, conclude, find, put
from core.plan import plan_attempt
from core.ports import Record
from core.state import ResultFact, RunState, VerdictFact, evolve
from handrail.v1 import event_pb2

NAMELESS = "nameless"
"""Who claimed without saying who."""


def _on_plan_answer(state: RunState, record: Record, body: event_pb2.PlanAnswer) -> RunState | None:
    if (
        state.plan is not None
        or state.plan_answer is not None
        or body.attempt != plan_attempt(state.plan_asks)
    ):
        return None
    return evolve(state, plan_answer=body) if body.WhichOneof("answer") else None


def _on_proposal(state: RunState, record: Record, body: event_pb2.Proposal) -> RunState | None:
    found = answered(state, record, body.attempt)
    if found is None or found[1].proposal_ask is None or found[1].proposal is not None:
        return None
    if body.WhichOneof("answer") is None:
        return None
    return change(state, found[0], evolve(found[1], proposal=body, ended_ns=record.time_ns))


def on_intent(state: RunState, record: Record, body: event_pb2.Intent) -> RunState | None:
    """Take a claim, if the attempt can still be claimed."""
    found = answered(state, record, body.attempt)
    if found is None or not found[1].is_act or found[1].claimer or found[1].revoked:
        return None
    changed = evolve(
        found[1],
        claimer=body.claimer or NAMELESS,
        claimed_ns=record.time_ns,
        before=dict(body.before) if body.before else found[1].before,
    )
    return change(state, found[0], changed)


def _on_result(state: RunState, record: Record, body: event_pb2.Result) -> RunState | None:
    found = answered(state, record, body.attempt)
    if found is None or found[1].action is None or found[1].result is not None or found[1].revoked:
        return None
    if body.WhichOneof("answer") is None or found[1] is not found[0].current:
        return None
    if body.action_sequence != found[1].sequence:
        return None
    if body.HasField("output") and body.output.WhichOneof("kind") is None:
        return None
    pending = found[1].action.pending
    if pending and body.HasField("output") and body.arguments.keys() != pending.keys():
        return None
    event_id = record.event.id if record.event is not None else ""
    result = ResultFact(event_id, record.sequence, record.time_ns, body)
    ended = record.time_ns if body.HasField("failure") else 0
    given = evolve(found[1], result=result, ended_ns=ended)
    if given.was_left_behind:
        # Nobody has called it.
        state = evolve(state, actions=state.actions - 1)
    # It also takes the place of the heal for its silence, if one was decided.
    return change(state, evolve(found[0], heal=None), given)


def _on_orphan(state: RunState, record: Record, body: event_pb2.Orphan) -> RunState | None:
    found = answered(state, record, body.attempt)
    if found is None or found[1].claimer != (body.claimer or NAMELESS):
        return None
    attempt = found[1]
    if attempt.result is not None or (attempt.orphan_ns and attempt.seen_dead >= body.seen_dead):
        return None
    changed = evolve(
        attempt, orphan_ns=attempt.orphan_ns or record.time_ns, seen_dead=attempt.seen_dead or body.seen_dead
    )
    return change(state, found[0], changed)


def _on_verdict(state: RunState, record: Record, body: event_pb2.Verdict) -> RunState | None:
    if record.address.topic[-1] != body.attempt:
        return None
    found = find(state, body.attempt)
    # A late confirmation settles a doubt.
    if found is None or found[0].settled not in ("", "in_doubt") or found[1] is not found[0].current:
        return None
    instance, attempt = found
    if attempt.result is None or attempt.verdict is not None or attempt.revoked:
        return None
    if body.result_id != attempt.result.event_id:
        return None
    if body.round != attempt.round_asked or not body.outcome or not attempt.can_be_judged:
        return None
    verdict = VerdictFact(record.time_ns, body)
    refutations = attempt.refutations + (body.outcome == event_pb2.OUTCOME_REFUTED)
    attempt = evolve(attempt, verdict=verdict, ended_ns=record.time_ns, refutations=refutations)
    state = put(state, evolve(instance, attempts=(*instance.attempts[:-1], attempt)))
    return conclude(state, instance.id)


ANSWERS: Mapping[str, tuple[tuple[str, ...], Handler]] = {
    "plan_answer": (("ans", "planner", "*", "plan", "*"), _on_plan_answer),
    "proposal": (("ans", "executor", "*", "proposal", "*"), _on_proposal),
    "intent": (("ans", "worker", "*", "intent", "*"), on_intent),
    "result": (("ans", "worker", "*", "result", "*"), _on_result),
    "orphan": (("ans", "worker", "*", "orphan", "*"), _on_orphan),
    "verdict": (("ans", "verifier", "*", "verdict", "*"), _on_verdict),
}
