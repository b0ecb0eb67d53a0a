"""Say what a run lacks: `decide(state, now_ns, catalogue, contents)`, pure and level-triggered.

It looks at the state alone, never at what has just happened; so a lost wake-up, a crash between two
appends or a second look costs nothing. The moves are carried out in order; after them the run is folded
further and looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core import conformance, failures, gates, values
from core.course import MIND_POOL, Course, deadline_failure, finish
from core.failures import permanent
from core.forgetting import left_of
from core.moves import Arm, Decide, Erase, Load, Move, ask, note
from core.plan import plan_attempt
from core.policy import NoRules, Policy
from core.rules import Call, Rules, calls, forbidden, outlook, outlook_of
from core.state import Instance, RunState, Undo, evolve
from core.undo import plan_undo
from core.undo_course import UndoCourse
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

MAX_PLAN_ASKS = 3


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What the decider knows beyond the run's log.

    The contracts and limits are consulted to accept a plan, and never after; the policy at every action.
    """

    contracts: Mapping[str, tool_pb2.ToolContract] = field(default_factory=dict)
    limits: conformance.Limits = field(default_factory=conformance.Limits)
    policy: Policy = field(default_factory=NoRules)
    gate_life_ns: int = gates.LIFE_NS


def decide(
    state: RunState, now_ns: int, catalogue: Catalogue, contents: Mapping[str, str] | None = None
) -> list[Move]:
    """Return what to do next; nothing when the run waits for somebody, or has ended."""
    if state.forgotten is not None:
        # Again at each look: whoever appended it may have died before the key was gone.
        return [Erase()]
    if state.forget is not None and state.over:
        return [note("forgotten", left_of(state))]
    if state.submit is None or state.over or state.unreadable:
        return []
    contents = contents or {}
    try:
        if state.plan is None:
            return _plan(state, now_ns, catalogue)
        if state.undo is not None and state.undoing:
            return _undo(state, state.undo, now_ns, catalogue, contents)
        rules = Rules(state, catalogue.policy, now_ns, catalogue.gate_life_ns)
        moves = Course(state, now_ns, contents, rules).moves()
        if state.goal.undo_on_failure and state.undo is None and _is_failure(moves):
            planned = plan_undo(state, catalogue.contracts, contents, event_pb2.Undo())
            return [note("undo_planned", planned)]
        return moves
    except values.NotLoaded as missing:
        return [Load(missing.blob)]


# --- undo ----------------------------------------------------------------------------------------------


def _is_failure(moves: list[Move]) -> bool:
    """Whether all that is left to do is to end as failed."""
    last = moves[-1] if moves else None
    if not isinstance(last, Decide) or not isinstance(last.body, event_pb2.Finished):
        return False
    return last.body.status == event_pb2.RUN_STATUS_FAILED


def _undo(
    state: RunState, undo: Undo, now_ns: int, catalogue: Catalogue, contents: Mapping[str, str]
) -> list[Move]:
    if undo.planned is None:
        planned = plan_undo(state, catalogue.contracts, contents, undo.asked or event_pb2.Undo())
        if planned.dry_run:
            _look_ahead(state, planned, now_ns, catalogue, contents)
        return [note("undo_planned", planned)]
    if undo.is_dry:
        return [note("undo_ended", event_pb2.UndoEnded(status=state.standing))]
    rules = Rules(state, catalogue.policy, now_ns, catalogue.gate_life_ns)
    return UndoCourse(state, now_ns, contents, rules).moves()


def _look_ahead(
    state: RunState,
    planned: event_pb2.UndoPlanned,
    now_ns: int,
    catalogue: Catalogue,
    contents: Mapping[str, str],
) -> None:
    """Say of each compensation what would come of it."""
    contracts = {**planned.contracts, **state.contracts}
    imagined = evolve(state, undo=Undo(planned=planned), contracts=contracts)
    rules = Rules(imagined, catalogue.policy, now_ns, catalogue.gate_life_ns)
    for one in planned.compensations:
        instance, contract = Instance(id=one.step.id, step=one.step.id), contracts[one.step.tool]
        arguments = {name: values.load(held.constant, contents) for name, held in one.step.arguments.items()}
        ruling = rules.rule(instance, contract, arguments)
        planned.outlook.append(outlook_of(one.step, contract, ruling, rules.labels(one.step.id)))


# --- until there is a plan ---------------------------------------------------------------------------


def _plan(state: RunState, now_ns: int, catalogue: Catalogue) -> list[Move]:
    if state.cancel is not None:
        return [finish(event_pb2.RUN_STATUS_CANCELLED, permanent(failures.CANCELLED, state.cancel.reason))]
    if state.deadline_ns and now_ns >= state.deadline_ns:
        return [finish(event_pb2.RUN_STATUS_FAILED, deadline_failure())]
    if state.violations:
        return [finish(event_pb2.RUN_STATUS_REFUSED, _rejection(state.violations))]
    if state.goal.HasField("plan"):
        return _accept(state, state.goal.plan, catalogue, now_ns)
    moves: list[Move] = [Arm("deadline", state.deadline_ns)] if state.deadline_ns else []
    if state.paused:
        return moves
    answer = state.plan_answer
    if answer is not None:
        return _on_answer(state, answer, catalogue, now_ns)
    if state.plan_asks == 0:
        moves.append(_ask_plan(state))
    return moves


def _ask_plan(state: RunState) -> Decide:
    body = event_pb2.PlanAsk(attempt=plan_attempt(state.plan_asks + 1), text=state.goal.text)
    if state.goal.HasField("context"):
        body.context.CopyFrom(state.goal.context)
    return ask("planner", MIND_POOL, "plan_ask", body)


def _on_answer(
    state: RunState, answer: event_pb2.PlanAnswer, catalogue: Catalogue, now_ns: int
) -> list[Move]:
    kind = answer.WhichOneof("answer")
    if kind == "plan":
        return _accept(state, answer.plan, catalogue, now_ns)
    if kind == "no_plan":
        nearest = "; nearest: " + " | ".join(answer.no_plan.nearest) if answer.no_plan.nearest else ""
        failure = permanent(failures.NO_PLAN, answer.no_plan.reason + nearest)
        return [finish(event_pb2.RUN_STATUS_REFUSED, failure)]
    transient = failures.failure_class(answer.failure) == event_pb2.FAILURE_CLASS_TRANSIENT
    if transient and state.plan_asks < MAX_PLAN_ASKS:
        return [_ask_plan(state)]
    return [finish(event_pb2.RUN_STATUS_FAILED, answer.failure)]


def _accept(state: RunState, plan: plan_pb2.Plan, catalogue: Catalogue, now_ns: int) -> list[Move]:
    found = conformance.check_plan(plan, catalogue.contracts, goal=state.goal, limits=catalogue.limits)
    asked: list[Call] = []
    if not found:
        asked = calls(
            plan,
            catalogue.contracts,
            catalogue.policy,
            goal=state.goal,
            tenant=state.key.tenant,
            now_ns=now_ns,
        )
        found = forbidden(asked)
    if found:
        rejected = event_pb2.PlanRejected(violations=found)
        return [note("plan_rejected", rejected)]
    body = event_pb2.PlanAccepted(plan=plan, outlook=outlook(asked) if state.goal.dry_run else [])
    for name, contract in sorted(conformance.tools_of(plan, catalogue.contracts).items()):
        body.contracts[name].CopyFrom(contract)
    return [note("plan_accepted", body)]


def _rejection(violations: tuple[plan_pb2.Violation, ...]) -> event_pb2.Failure:
    text = "; ".join(f"{v.field}: {v.message}" for v in violations)
    return permanent(failures.PLAN_REJECTED, f"the plan does not conform: {text}")
