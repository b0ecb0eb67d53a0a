"""Runaway: whatever minds and tools answer, a run comes to its end within what it may."""

from __future__ import annotations

import random

import pytest

from core import failures
from core.conformance import Limits
from core.decide import MAX_PLAN_ASKS
from core.healing import DEFAULT_MAX_ATTEMPTS, MAX_VERIFY_ROUNDS
from core.plan_form import plan_from_form
from core.state import Attempt
from handrail.v1 import event_pb2, tool_pb2
from tests.scenarios.play import Play, contract, write

KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
CONFIRMED, REFUTED, UNKNOWN = (
    event_pb2.OUTCOME_CONFIRMED,
    event_pb2.OUTCOME_REFUTED,
    event_pb2.OUTCOME_UNKNOWN,
)
LOOK = {"id": "look", "tool": "look"}
SETTLE = {
    "id": "settle",
    "with": {"order": "$look"},
    "grants": [{"tool": "refund", "open": {"amount": "value <= 50"}}, {"tool": "look"}],
}
ALL = {"id": "all", "tool": "refund", "each": "$look", "with": {"amount": "$each"}, "each_limit": 4}
MAX_ACTIONS, MAX_HEALS, MAX_FACTS = 8, 4, 400


def play() -> Play:
    """A read, an effect, and somebody who may propose it."""
    schema = '{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"]}'
    return Play(
        contract("look"), write("refund", input_schema=schema, **KEYED), limits=Limits(proposers=True)
    )


def test_a_planner_that_fails_is_asked_so_often_and_no_more() -> None:
    p = play().submit()
    for _ in range(MAX_PLAN_ASKS):
        assert p.status == "planning"
        p.plan(failure=failures.transient("busy", "ask again"))
    assert p.status == "failed"


def test_a_plan_is_accepted_once() -> None:
    p = play().submit().plan(plan=plan_from_form({"steps": [LOOK]}))
    accepted, strays = p.state.plan, p.state.strays
    p.plan(plan=plan_from_form({"steps": [LOOK, {"id": "more", "tool": "refund", "with": {"amount": 9}}]}))
    assert (p.state.plan, p.state.strays) == (accepted, strays + 1)
    assert list(p.done("look-a1", 1).state.instances) == ["look"]


def test_proposals_that_only_vary_come_to_an_end() -> None:
    p = play().submit(LOOK, SETTLE).done("look-a1", 1)
    for n in range(DEFAULT_MAX_ATTEMPTS):
        p.propose(f"settle-a{n + 1}", 0, "refund", amount=51 + n)
    assert p.status == "failed"
    assert len(p.state.instances["settle"].attempts) == DEFAULT_MAX_ATTEMPTS


def test_an_outcome_that_was_there_before_is_a_loop_whatever_came_between() -> None:
    p = play().submit(LOOK)
    for n, answer in enumerate(("open", "shut", "open"), 1):
        attempt = f"look-a{n}"
        p.output(attempt, answer).verdict(attempt, REFUTED).tick().verdict(attempt, REFUTED, round=2).tick()
    assert p.view.failure.code == failures.LOOP


def test_a_verifier_that_never_knows_is_asked_so_often_and_no_more() -> None:
    p = play().submit(LOOK).output("look-a1", 1)
    for n in range(MAX_VERIFY_ROUNDS):
        assert p.status == "running"
        p.verdict("look-a1", UNKNOWN, round=n + 1).tick()
    assert p.status == "failed"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_answered_a_run_ends_within_its_budget(seed: int) -> None:
    chance = random.Random(seed)
    p = play().submit(LOOK, SETTLE, ALL, budget={"max_actions": MAX_ACTIONS, "max_heals": MAX_HEALS})
    facts = 0
    while p.status == "running" and facts < MAX_FACTS:
        flying = p.state.in_flight
        if not flying:
            p.tick()
        for attempt in flying:
            _answer(p, attempt, chance)
        facts += 1
    said = [part for r in p.records if r.event is not None for part in (*r.event.before, r.event)]
    asked = [part.WhichOneof("body") for part in said]
    # A doubt that nothing sound can tell waits for somebody.
    assert p.status in ("done", "failed", "in_doubt", "waiting"), p.status
    assert asked.count("healed") <= MAX_HEALS
    assert asked.count("action") <= MAX_ACTIONS
    assert len(p.state.instances) <= 3 + 4


def _answer(p: Play, attempt: Attempt, chance: random.Random) -> None:
    """Answer what is owed, in one of the ways in which it can be answered."""
    if attempt.action is None:
        p.propose(attempt.id, int(chance.random() < 0.2), "refund", amount=chance.choice((5, 50, 500)))
        return
    if attempt.result is not None:
        outcome = chance.choice((CONFIRMED, CONFIRMED, REFUTED, UNKNOWN))
        happened = chance.choice((event_pb2.HAPPENED_YES, event_pb2.HAPPENED_NO, event_pb2.HAPPENED_UNKNOWN))
        p.verdict(attempt.id, outcome, round=attempt.round_asked, happened=happened)
        return
    effect = attempt.action.tool == "refund"
    how = chance.choice(("fails", "fails", "answers", "falls silent" if effect else "answers"))
    if effect:
        p.intent(attempt.id)
    if how == "falls silent":
        p.orphan(attempt.id, seen_dead=chance.random() < 0.5)
    elif how == "fails":
        make = chance.choice((*[failures.transient] * 8, failures.permanent, failures.in_doubt))
        p.failed(attempt.id, make)
    else:
        p.output(attempt.id, chance.choice(([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], {"a": 1})))
