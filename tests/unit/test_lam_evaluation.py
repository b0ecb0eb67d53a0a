"""A model is measured without what its goals take, too: it may not have it, or it is not there."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from actors.models.lam.answering import open_model
from actors.models.lam.evaluation import CHANGED, GONE, Case, score, try_withdrawn
from actors.models.lam.options import PLAYBOOK, options_of, tools_of
from handrail import project
from tests.unit.lam_weights import write_model

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
OPTIONS = options_of(LOADED.protos, LOADED.playbooks)
USING = {f"{PLAYBOOK}{one.name}": tools_of(one) for one in LOADED.playbooks}
TODAY = datetime.date(2026, 3, 2)


def test_a_playbook_says_which_tools_it_may_use() -> None:
    assert "refund_order" in USING["playbook:refund"]
    # Those of a decision table, too.
    assert "escalate_ticket" in USING["playbook:triage_ticket"]


@pytest.mark.parametrize("seed", range(3))
def test_what_was_withdrawn_is_not_taken_however_sure_the_model_is(tmp_path: Path, seed: int) -> None:
    thinker = open_model(tmp_path / write_model(tmp_path, OPTIONS, seed), OPTIONS, {}).thinker
    goals = [f"show order {number} and the invoice 9001" for number in range(1001, 1021)]
    chosen = {step.call.option for goal in goals for step in thinker.think(goal, TODAY).steps}
    assert chosen
    for gone in (False, True):
        less = thinker.without(chosen, gone=gone)
        still = {step.call.option for goal in goals for step in less.think(goal, TODAY).steps}
        assert not still & chosen
        # What was taken away is taken away from the one that was returned alone.
        assert {step.call.option for goal in goals for step in thinker.think(goal, TODAY).steps} == chosen
        twice = less.without(chosen, gone=True)
        assert not chosen & set(twice.decider.closed.index)


def test_a_goal_is_tried_without_its_tools_and_without_the_playbooks_that_use_them(tmp_path: Path) -> None:
    thinker = open_model(tmp_path / write_model(tmp_path, OPTIONS), OPTIONS, {}).thinker
    cases = [
        Case("show order 1001", (({"option": "get_order", "with": {"order_id": 1001}},),)),
        Case("nothing", ()),
        Case("refund it", (), (("refund", "order"),)),
        Case("do what there is no tool for", (({"option": "unheard_of"},),)),
    ]
    outcomes = list(try_withdrawn(thinker, OPTIONS, cases, TODAY, USING))
    assert [(one.case.goal, one.case.group) for one in outcomes] == [
        ("show order 1001", CHANGED),
        ("show order 1001", GONE),
    ]
    without = {"get_order", *(name for name, tools in USING.items() if "get_order" in tools)}
    for one in outcomes:
        assert not without & {step.call.option for step in one.thought.steps}
    assert score(outcomes).cases == 2
