"""What steps with grants teach: whose word counts, what is learnt of it, and that a file may hold it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.models.lam import step_lessons, verified
from actors.models.lam.collecting import collect
from actors.models.lam.options import options_of
from actors.models.lam.row_text import read_lines, write_line
from actors.models.lam.training_rows import admitted
from actors.models.lam.xlam import BadRecord, records, rows_of
from core import values
from core.conformance import Limits
from handrail.v1 import event_pb2, plan_pb2
from handrail.v1 import trajectory_pb2 as pb
from tests.scenarios.play import KEY, Play
from tests.unit.test_lam_shadowing import CONTRACTS, DAY, MAIL, SETTLE, asked, done

OPTIONS = options_of(CONTRACTS, ())
BY_NAME = {one.name: one for one in OPTIONS}
LAM = "lam:0123456789ab"


def of(play: Play) -> list[pb.TrajectoryRow]:
    """The rows of a run's steps."""
    return [one for one in collect(KEY, play.records, ()).rows if one.offered]


def proposed(
    play: Play, model: str, *, unsure: str = "", attempt: str = "settle-a1", **arguments: Any
) -> Play:
    body = event_pb2.Proposal(attempt=attempt, model=model)
    body.call.tool, body.call.unsure = "add_note", unsure
    for name, value in arguments.items():
        body.call.arguments[name].CopyFrom(values.inline(value))
    return play.fact(("executor", "main", "proposal", attempt), "proposal", body)


def said(row: pb.TrajectoryRow, name: str) -> str:
    span = row.decision.call.arguments[name].span
    return row.goal[span.start : span.end]


def test_what_another_mind_proposed_and_the_verifier_confirmed_is_a_lesson() -> None:
    play = done(proposed(asked(), "qwen:14b", text="I am away"))
    (row,) = of(play)
    assert (row.trains, row.why_not) == (True, "")
    assert row.goal == f"Settle it:\nmail: {MAIL}"
    assert list(row.offered) == ["add_note", "list_orders"]
    assert (row.decision.call.option, said(row, "text")) == ("add_note", "I am away")
    assert (row.trajectory, row.versions.model) == (f"{KEY.run}/settle", "qwen:14b")
    assert [one.verdict for one in row.steps] == ["confirmed"]
    # A file of it is read again as anybody's, and the network can learn it.
    assert list(read_lines([write_line(row)])) == [row]
    assert admitted([row], OPTIONS) == ([row], {})


def test_its_own_word_is_no_lesson_and_that_of_whoever_was_asked_is() -> None:
    (own,) = of(done(proposed(asked(), LAM, text="I am away")))
    assert (own.trains, own.why_not) == (False, step_lessons.OWN_WORD)
    unsure = {"unsure": "it guesses", "text": "I am away"}
    (approved,) = of(done(proposed(asked(), LAM, **unsure).decide("bo")))
    assert (approved.trains, said(approved, "text")) == (True, "I am away")
    amend = event_pb2.GATE_CHOICE_AMEND
    put_right = {"choice": amend, "arguments": {"text": values.inline("away")}}
    (amended,) = of(done(proposed(asked(), LAM, **unsure).decide("bo", **put_right)))
    assert (amended.trains, said(amended, "text")) == (True, "away")
    assert of(proposed(asked(), LAM, **unsure).decide("bo", deny=True)) == []


def test_what_nobody_looked_at_or_nobody_said_does_not_train() -> None:
    (unseen,) = of(done(proposed(asked(), "qwen:14b", text="I am away"), seen=False))
    assert unseen.why_not == verified.UNSEEN
    (invented,) = of(done(proposed(asked(), "qwen:14b", text="VIP")))
    assert invented.why_not == step_lessons.UNTRACED
    (twice,) = of(done(proposed(asked("away, I say: away"), "qwen:14b", text="away")))
    assert twice.why_not == step_lessons.UNTRACED
    (long,) = of(done(proposed(asked("so " * 200 + "bye"), "qwen:14b", text="bye")))
    assert long.why_not == step_lessons.LONG
    for row in (unseen, invented, twice, long):
        assert admitted([row], OPTIONS)[0] == []


def test_what_a_grant_fixes_is_not_for_the_model_to_learn() -> None:
    play = Play(*CONTRACTS.values(), limits=Limits(proposers=True))
    grant = {"tool": "add_note", "with": {"customer": 7}, "open": {"text": ""}}
    context = plan_pb2.Value(json=values.encode({"mail": f"{MAIL} 7"}))
    play.submit({**SETTLE, "grants": [grant]}, context=context)
    (row,) = of(done(proposed(play, "qwen:14b", text="I am away")))
    assert row.trains, row.why_not
    assert row.decision.call.arguments["customer"].context.key == "customer"
    assert admitted([row], OPTIONS)[0] == [row]
    # Nor where somebody put it to something else, though the mail says it.
    play = Play(*CONTRACTS.values(), limits=Limits(proposers=True))
    play.submit({**SETTLE, "grants": [{**grant, "with": {"customer": 8}}]}, context=context)
    proposed(play, LAM, unsure="it guesses", text="I am away")
    amend = event_pb2.GATE_CHOICE_AMEND
    (row,) = of(done(play.decide("bo", choice=amend, arguments={"customer": values.inline(7)})))
    assert row.trains, row.why_not
    assert row.decision.call.arguments["customer"].context.key == "customer"


def test_what_was_refused_first_is_not_what_is_taught() -> None:
    play = proposed(asked(), "qwen:14b", text="I am away", customer=9)
    play = proposed(play, "qwen:14b", attempt="settle-a2", text="away")
    (row,) = of(done(play, "settle-a3"))
    assert (row.trains, said(row, "text")) == (True, "away")
    assert set(row.decision.call.arguments) == {"text"}


def test_a_secret_that_a_step_was_given_does_not_leave() -> None:
    play = Play(*CONTRACTS.values(), limits=Limits(proposers=True))
    given = {"with": {"mail": "$goal.mail", "password": "$goal.mail"}}
    play.submit({**SETTLE, **given}, context=plan_pb2.Value(json=values.encode({"mail": MAIL})))
    (row,) = of(done(proposed(play, "qwen:14b", text="I am away")))
    assert (row.trains, row.why_not) == (False, step_lessons.REDACTED)
    assert MAIL not in row.goal.partition("password")[2]
    assert row.decision.call.arguments["text"].HasField("untraced")


@pytest.mark.parametrize("at", range(14))
def test_before_a_run_has_ended_none_of_its_steps_teaches(at: int) -> None:
    play = done(proposed(asked(), "qwen:14b", text="I am away"))
    found = collect(KEY, play.records[:at], ()).rows
    assert not any(row.trains for row in found) or at >= len(play.records) - 1


def test_a_record_of_a_step_comes_back_as_one() -> None:
    (row,) = of(done(proposed(asked(), "qwen:14b", text="I am away")))
    (record,) = records([row], BY_NAME)
    record = json.loads(json.dumps(record))
    assert record["granted"] == list(row.offered)
    (again,) = rows_of(record, BY_NAME, said_on=DAY, licence="MIT")
    assert (again.decision, again.goal, list(again.offered)) == (row.decision, row.goal, list(row.offered))
    assert admitted([again], OPTIONS)[0] == [again]
    with pytest.raises(BadRecord):
        rows_of({**record, "granted": ["sudo"]}, BY_NAME, said_on=DAY, licence="MIT")
