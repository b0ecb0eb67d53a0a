"""Trajectories from logs: what was decided and where from, what came of it, and who may learn from it."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors.models.lam import collecting as why
from actors.models.lam import splitting, verified
from actors.models.lam.assembling import assemble
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.collecting import Collected, collect
from actors.models.lam.options import Parameter, options_of
from actors.models.lam.reading import read
from actors.models.lam.row_text import BadRows, read_lines, write_line
from actors.models.lam.tracing import Tracer
from actors.models.lam.training_rows import NOT_REAL, OTHER_VERSION, UNTEACHABLE, BadRow, admitted, lesson_of
from actors.models.lam.xlam import BadRecord, records, rows_of
from core import values
from core.playbook import Match, Playbook, instantiate, match
from core.redaction import MASK
from handrail import project
from handrail.cli import lam
from handrail.cli.collect import check_form, read_rows
from handrail.cli.collect import write as write_file
from handrail.cli.exits import CommandError
from handrail.cli.output import Output
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from handrail.v1 import trajectory_pb2 as pb
from tests.scenarios import histories
from tests.scenarios.play import KEY, START_NS, Play, contract, write
from tests.scenarios.test_histories import NAMES

SAMPLE = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
DAY = datetime.date(2023, 11, 14)
ORDER = contract(
    "get_order",
    input_schema='{"type":"object","properties":{"order":{"type":"integer"},'
    '"detail":{"type":"string","default":"all"}},"required":["order"]}',
    output_schema='{"type":"object","properties":{"id":{"type":"integer"},"customer":{"type":"integer"},'
    '"others":{"type":"array","items":{"type":"integer"}}}}',
)
NOTE = write(
    "add_note",
    idempotency=tool_pb2.IDEMPOTENCY_NATURAL,
    input_schema='{"type":"object","properties":{"customer":{"type":"integer"},"text":{"type":"string"},'
    '"kind":{"enum":["praise","complaint"]},"api_key":{"type":"string"}},"required":["customer","text"]}',
    output_schema='{"type":"object","properties":{"note":{"type":"integer"}}}',
    post="reads.note != null",
)
CONTRACTS = {one.name: one for one in (ORDER, NOTE)}
LOOK = {"id": "look", "tool": "get_order", "with": {"order": 1001}}
SAY = {"id": "say", "tool": "add_note", "with": {"customer": "$look.customer", "text": "she is glad"}}
NOTE_OF_BOB = {"id": "say", "tool": "add_note", "with": {"customer": 7, "text": "bob@example.org"}}
GOAL = "note on the customer of order 1001: she is glad"


def submitted(goal: str, *steps: Mapping[str, Any], **fields: Any) -> Play:
    from core.plan_form import plan_from_form

    play = Play(ORDER, NOTE)
    body = event_pb2.Submit(goal=event_pb2.Goal(text=goal, **fields))
    body.goal.plan.CopyFrom(plan_from_form({"steps": list(steps)}))
    body.goal.plan.origin = "client"
    return play.fact(("submit",), "submit", body, channel="cmd")


def confirmed(
    play: Play, attempt: str, output: Any, *, seen: bool = True, condition: str = NOTE.post
) -> Play:
    """A worker is done, and the verifier has looked."""
    if play._attempt(attempt).action.tool == "add_note":  # type: ignore[union-attr]
        play.intent(attempt)
    play.output(attempt, output)
    body = event_pb2.Verdict(attempt=attempt, round=1, outcome=event_pb2.OUTCOME_CONFIRMED)
    fact = play._attempt(attempt)
    assert fact is not None
    assert fact.result is not None
    body.result_id = fact.result.event_id
    if seen:
        body.evidence.add(condition=condition, held=True, observed='{"note":7}')
    return play.fact(("verifier", "main", "verdict", attempt), "verdict", body)


def carried_out(goal: str = GOAL, *steps: Mapping[str, Any], seen: bool = True, **fields: Any) -> Play:
    play = submitted(goal, *(steps or (LOOK, SAY)), **{"teaches": True, **fields})
    return finish(play, seen=seen)


def finish(play: Play, *, seen: bool = True) -> Play:
    while play.state.in_flight:
        attempt = play.state.in_flight[0]
        assert attempt.action is not None
        output = {"id": 1001, "customer": 7} if attempt.action.tool == "get_order" else {"note": 7}
        confirmed(play, attempt.id, output, seen=seen)
    assert play.status == "done", play.lines
    return play


def of(play: Play) -> Collected:
    return collect(KEY, play.records, ())


def call(found: Collected, index: int) -> pb.OptionCall:
    return found.rows[index].decision.call


def test_a_plan_of_a_client_is_a_decision_for_each_step_and_a_stop() -> None:
    found = of(carried_out())
    first, second, last = found.rows
    assert [row.trains for row in found.rows] == [True] * 3
    order = first.decision.call.arguments["order"]
    assert (GOAL[order.span.start : order.span.end], order.value.json) == ("1001", "1001")
    said = second.decision.call.arguments
    assert said["customer"].field == pb.FieldOf(step="look", path="customer")
    assert GOAL[said["text"].span.start : said["text"].span.end] == "she is glad"
    assert last.decision.HasField("stop")
    assert [step.id for step in last.past] == ["look", "say"]
    assert second.past[0].call == first.decision.call
    (seen,) = second.observations
    assert (seen.step, seen.kind, list(seen.fields)) == ("look", "output", ["id", "customer"])
    assert seen.sha256 == values.digest('{"customer":7,"id":1001}')
    (outcome,) = second.steps
    assert (outcome.verdict, outcome.attempts, outcome.settled) == ("confirmed", 1, "done")
    assert outcome.evidence[0].held
    assert (first.trajectory, first.outcome, first.source) == (KEY.run, "done", pb.TRAJECTORY_SOURCE_TEACH)
    assert first.said_at.ToNanoseconds() // 10**9 == START_NS // 10**9
    assert first.versions.tools.keys() == CONTRACTS.keys()
    assert list(first.entities) == ["number=1001", 'text="she is glad"']


def test_it_is_what_a_model_can_be_taught() -> None:
    rows = of(carried_out()).rows
    options = options_of(CONTRACTS, ())
    fit, left = admitted(rows, options)
    assert (len(fit), left) == (3, Counter())
    past = [*rows[1].past, pb.PastStep(id="say", call=rows[1].decision.call)]
    plan = assemble(tuple(past), {one.name: one for one in options}, {})
    assert [step.tool for step in plan.steps] == ["get_order", "add_note"]


def test_what_was_shown_is_told_from_what_was_run_and_alone_trains() -> None:
    assert {row.source for row in of(carried_out()).rows} == {pb.TRAJECTORY_SOURCE_TEACH}
    run = of(carried_out(teaches=False)).rows
    assert {(row.source, row.why_not) for row in run} == {(pb.TRAJECTORY_SOURCE_RUN, why.NOT_SHOWN)}


def confirming(
    goal: str = GOAL, *, customer: int = 7, lie: Callable[[pb.PastStep], None] = lambda said: None
) -> Play:
    """Somebody has confirmed what a model read, and submits it as a plan that may be another."""
    text = "she is glad"
    said = pb.PastStep(id="s1", call=pb.OptionCall(option="add_note"))
    for name, words, held in (("customer", "7", "7"), ("text", text, f'"{text}"')):
        filled = said.call.arguments[name]
        filled.span.start, filled.value.json = goal.index(words), held
        filled.span.end = filled.span.start + len(words)
    options = {one.name: one for one in options_of(CONTRACTS, ())}
    read = assemble((said,), options, {})
    lie(said)
    thought = event_pb2.ModelThought(model="lam:0123456789ab", sure=0.7, needed=0.9, decisions=[said])
    play = Play(ORDER, NOTE)
    body = event_pb2.Submit(goal=event_pb2.Goal(text=goal, teaches=True, plan=read, confirms=thought))
    body.goal.plan.origin = "client"
    body.goal.plan.steps[0].arguments["customer"].constant.json = str(customer)
    return finish(play.fact(("submit",), "submit", body, channel="cmd"))


def test_what_somebody_confirmed_is_told_as_the_model_had_read_it() -> None:
    first, last = of(confirming("customer 7: she is glad")).rows
    assert (first.trains, last.trains, first.source) == (True, True, pb.TRAJECTORY_SOURCE_TEACH)
    span = first.decision.call.arguments["customer"].span
    assert (span.start, span.end) == (9, 10)
    assert first.confidence.calibrated == pytest.approx(0.7)
    fit, left = admitted((first, last), options_of(CONTRACTS, ()))
    assert (len(fit), left) == (2, Counter())


def test_what_was_confirmed_has_to_come_to_what_was_done() -> None:
    rows = of(confirming("customer 7: she is glad", customer=8)).rows
    assert {row.why_not for row in rows} == {why.CHANGED}


def _no_json(said: pb.PastStep) -> None:
    said.call.arguments["text"].value.json = "she is"


def _no_json_beside_a_field(said: pb.PastStep) -> None:
    _no_json(said)
    said.call.arguments["text"].field.path = "text"


def _too_deep(said: pb.PastStep) -> None:
    said.call.arguments["customer"].value.json = "[" * 5_000


def _other_words(said: pb.PastStep) -> None:
    said.call.arguments["text"].span.end -= len(" glad")


def _no_words(said: pb.PastStep) -> None:
    said.call.arguments["text"].span.end = 1_000_000


def _no_source(said: pb.PastStep) -> None:
    said.call.arguments["text"].ClearField("span")


@pytest.mark.parametrize(
    "lie", [_no_json, _no_json_beside_a_field, _too_deep, _other_words, _no_words, _no_source]
)
def test_who_lies_about_what_the_model_had_read_teaches_nothing(lie: Callable[[pb.PastStep], None]) -> None:
    rows = of(confirming("customer 7: she is glad", lie=lie)).rows
    fit, _ = admitted(rows, options_of(CONTRACTS, ()))
    assert not [row for row in fit if row.decision.HasField("call")]


def test_the_same_thing_twice_is_not_taught() -> None:
    rows = of(carried_out("look order 1001 up", LOOK, {**LOOK, "id": "again"})).rows
    assert {row.why_not for row in rows} == {why.REPEATED}


def test_steps_are_told_in_an_order_in_which_they_can_be_taken() -> None:
    found = of(carried_out(GOAL, SAY, LOOK))
    assert [row.decision.call.option for row in found.rows] == ["get_order", "add_note", ""]
    assert all(row.trains for row in found.rows)


def test_what_is_given_beside_the_goal_is_named_and_not_told() -> None:
    context = plan_pb2.Value(json='{"customer":7,"words":"she is sad"}')
    step = {"id": "say", "tool": "add_note", "with": {"customer": "$goal.customer", "text": "she is sad"}}
    found = of(carried_out("write that down", step, context=context))
    said = call(found, 0).arguments
    assert (said["customer"].context.key, said["text"].context.key) == ("customer", "words")
    assert not any(one.HasField("value") for one in said.values())
    # Whoever learns it is told nothing of these arguments, and of the others that they are left out.
    lesson = lesson_of(found.rows[0], ClosedSet(options_of(CONTRACTS, ())))
    assert [one.parameter.name for one in lesson.fillings] == ["kind", "api_key"]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({**SAY, "with": {"customer": 99, "text": "she is glad"}}, why.UNTRACED),
        ({**SAY, "with": {**SAY["with"], "text": "he is sad"}}, why.UNTRACED),  # type: ignore[dict-item]
        ({**SAY, "when": "look.id > 0"}, why.CONDITION),
        ({**SAY, "with": {**SAY["with"], "customer": "$look.id"}}, ""),  # type: ignore[dict-item]
        ({**SAY, "with": {**SAY["with"], "kind": "praise"}}, ""),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_said_does_not_train(step: Mapping[str, Any], reason: str) -> None:
    found = of(carried_out(GOAL, LOOK, step))
    assert [row.why_not for row in found.rows[1:]] == [reason, reason]
    assert [row.trains for row in found.rows[1:]] == [not reason] * 2
    # A condition is a matter of the whole plan; a value is one of its step and of what comes after.
    assert found.rows[0].trains is (reason != why.CONDITION)
    if reason == why.UNTRACED:
        assert any(one.HasField("untraced") for one in call(found, 1).arguments.values())
        with pytest.raises(BadRow):
            lesson_of(found.rows[1], ClosedSet(options_of(CONTRACTS, ())))


def test_a_default_that_nobody_said_is_left_out() -> None:
    step = {**LOOK, "with": {"order": 1001, "detail": "all"}}
    found = of(carried_out("look order 1001 up", step))
    assert list(call(found, 0).arguments) == ["order"]
    assert found.rows[0].trains
    other = of(carried_out("look order 1001 up", {**LOOK, "with": {"order": 1001, "detail": "some"}}))
    assert other.rows[0].why_not == why.UNTRACED


@pytest.mark.parametrize(
    ("goal", "customer", "text"),
    [
        ("note 12 on customer 12", 12, "note"),  # which of the two?
        ("note it on customer 12", 12, "12"),  # of one place two arguments
        ("the one who is customer 5: glad", 1, "glad"),
        ("customer two hundred is glad", 100, "glad"),
        ("customer two hundred and five is glad", 5, "glad"),
        ("customer twenty-five is glad", 20, "glad"),
        ("customer 5 hundred is glad", 100, "glad"),
        ("customer 7, mail bob@example.org", 7, "bob"),
        ("customer 7 has 5.50", 7, "5"),
    ],
)
def test_a_value_of_which_nobody_knows_where_it_stands_does_not_train(
    goal: str, customer: int, text: str
) -> None:
    step = {"id": "say", "tool": "add_note", "with": {"customer": customer, "text": text}}
    assert {row.why_not for row in of(carried_out(goal, step)).rows} == {why.UNTRACED}


def test_a_span_that_is_a_part_of_a_word_is_no_lesson() -> None:
    (row, *_) = of(carried_out("on customer 7: bob@example.org", NOTE_OF_BOB)).rows
    assert row.trains
    closed = ClosedSet(options_of(CONTRACTS, ()))
    assert lesson_of(row, closed)
    row.decision.call.arguments["text"].span.end = row.decision.call.arguments["text"].span.start + 3
    with pytest.raises(BadRow, match="text"):
        lesson_of(row, closed)


def test_what_a_playbook_was_given_is_of_the_context_whatever_the_goal_says() -> None:
    book = Playbook.model_validate(
        {
            "name": "praise",
            "phrases": ["look at order {order} for them"],
            "slots": {"order": {"type": "integer"}, "customer": {"type": "integer"}},
            "steps": [
                {"id": "look", "tool": "get_order", "with": {"order": "{order}"}},
                {"id": "say", "tool": "add_note", "with": {"customer": "{customer}", "text": "glad"}},
            ],
        }
    )
    goal, context = "look at order 3 for them", {"customer": 3}
    found = match(goal, [book], context)
    assert isinstance(found, Match)
    play = Play(ORDER, NOTE)
    body = event_pb2.Submit(goal=event_pb2.Goal(text=goal))
    body.goal.context.json = values.encode(context)
    play.fact(("submit",), "submit", body, channel="cmd").plan(plan=instantiate(book, found.slots))
    finish(play)
    (row, _) = collect(KEY, play.records, [book]).rows
    said = row.decision.call.arguments
    assert row.trains, row.why_not
    assert (said["order"].span.start, said["customer"].context.key) == (14, "customer")


def test_an_effect_that_nobody_looked_at_does_not_train() -> None:
    assert {row.why_not for row in of(carried_out(seen=False)).rows} == {verified.UNSEEN}


def test_what_a_plan_had_looked_at_itself_proves_no_effect() -> None:
    play = submitted(GOAL, LOOK, {**SAY, "post": "output.note > 0"}, teaches=True)
    while play.state.in_flight:
        action = play.state.in_flight[0].action
        assert action is not None
        output = {"id": 1001, "customer": 7} if action.tool == "get_order" else {"note": 7}
        confirmed(play, action.attempt, output, condition="output.note > 0")
    assert {row.why_not for row in of(play).rows} == {verified.UNSEEN}


def test_a_step_that_was_not_verified_does_not_train() -> None:
    play = submitted(GOAL, LOOK, SAY)
    confirmed(play, "look-a1", {"id": 1001, "customer": 7})
    play.intent("say-a1").failed("say-a1")
    assert play.status == "failed"
    found = of(play)
    assert {row.why_not for row in found.rows} == {verified.NOT_DONE}
    assert found.rows[1].steps[0].settled == "failed"


def test_every_prefix_of_a_log_gives_rows_that_train_only_at_its_end() -> None:
    records_ = carried_out().records
    for count in range(1, len(records_)):
        found = collect(KEY, records_[:count], ())
        assert not any(row.trains for row in found.rows)
        assert found.left_out in (why.GOING_ON, why.NO_PLAN, why.UNREADABLE)


def test_what_has_no_plan_or_no_end_or_did_nothing_is_left_out() -> None:
    assert of(Play(ORDER).submit({"id": "a", "tool": "none"})).left_out == why.NO_PLAN
    assert of(submitted(GOAL, LOOK)).left_out == why.GOING_ON
    assert of(submitted(GOAL, LOOK, dry_run=True)).left_out == why.DRY
    assert collect(KEY, (), ()).left_out == why.UNREADABLE


def test_what_was_forgotten_or_cannot_be_read_is_left_out() -> None:
    held = carried_out().records
    gone = [replace(one, event=None, forgotten=True) if one.address.channel != "dec" else one for one in held]
    assert collect(KEY, gone, ()).left_out == why.FORGOTTEN
    broken = [replace(one, event=None) if one.address.channel == "dec" else one for one in held]
    assert collect(KEY, broken, ()).left_out == why.UNREADABLE
    # A worker's answer that nobody can read is no answer.
    lost = [replace(one, event=None) if one.address.topic[-1] == "say-a1" else one for one in held]
    assert not any(row.trains for row in collect(KEY, lost, ()).rows)


def test_a_large_value_is_not_told() -> None:
    blob = plan_pb2.Value(blob=plan_pb2.Blob(sha256="a" * 64, size_bytes=70_000, chunks=2))
    held = [replace(one) for one in carried_out().records]
    for record in held:
        assert record.event is not None
        for event in (*record.event.before, record.event):
            if event.HasField("plan_accepted"):
                event.plan_accepted.plan.steps[1].arguments["text"].constant.CopyFrom(blob)
            if event.HasField("result") and event.result.attempt == "look-a1":
                event.result.output.CopyFrom(blob)
    found = collect(KEY, held, ())
    assert call(found, 1).arguments["text"] == pb.FilledArgument(untraced=pb.Untraced())
    assert found.rows[1].why_not == why.UNTRACED
    assert found.rows[1].observations[0].kind == "blob"


def test_secrets_by_name_never_leave() -> None:
    secret = "hunter2-of-7"
    step = {**SAY, "with": {"customer": "$look.customer", "text": f"key {secret}", "api_key": secret}}
    goal = f"order 1001: note key {secret}"
    context = plan_pb2.Value(json=json.dumps({"login": {"password": "opensesame"}}))
    found = of(carried_out(goal, LOOK, step, context=context))
    text = "".join(map(write_line, found.rows))
    assert secret not in text
    assert "opensesame" not in text
    assert found.rows[0].goal == f"order 1001: note key {MASK}"
    assert {row.why_not for row in found.rows} == {why.REDACTED}
    assert list(found.rows[0].redacted) == ["api_key", "goal", "text"]


def test_a_secret_slot_of_a_playbook_is_taken_out_of_the_goal() -> None:
    held = histories.load("refund")
    (refund,) = (one for one in SAMPLE.playbooks if one.name == "refund")
    said = json.loads(refund.model_dump_json(by_alias=True).replace("{order}", "{order_token}"))
    said["slots"] = {"order_token": said["slots"]["order"]}
    secret = type(refund).model_validate(said)
    found = collect(held[0].address.key, held, (secret,))
    assert {row.why_not for row in found.rows} == {why.REDACTED}
    assert "1001" not in "".join(row.goal + str(row.decision) for row in found.rows)


def test_a_short_secret_takes_what_holds_it_along() -> None:
    context = plan_pb2.Value(json='{"pin_code": "1", "password": 1001}')
    found = of(carried_out(context=context))
    assert "1001" not in "".join(row.goal + str(row.decision) for row in found.rows)
    assert not any(row.trains for row in found.rows)


@pytest.mark.parametrize("goal", ["замечание 1001 — she is glad ✓ 🙂", "1001\u2028she is glad\u2029"])
def test_any_script_keeps_its_places(goal: str) -> None:
    found = of(carried_out(goal))
    for row in read_lines(map(write_line, found.rows)):
        for name, value in row.decision.call.arguments.items():
            if value.HasField("span"):
                words = row.goal[value.span.start : value.span.end]
                assert values.encode(words if name == "text" else int(words)) == value.value.json


def test_a_goal_of_sixteen_thousand_characters_is_kept_and_not_learnt() -> None:
    found = of(carried_out(f"order 1001, she is glad {'and so on ' * 1_600}"))
    assert {row.why_not for row in found.rows} == {why.LONG}


def test_the_histories_of_real_runs() -> None:
    found = {}
    for name in NAMES:
        held = histories.load(name)
        found[name] = collect(held[0].address.key, held, SAMPLE.playbooks)
    assert (found["in_doubt"].left_out, found["refused"].left_out) == (why.GOING_ON, why.NO_PLAN)
    reasons = {name: one.rows[0].why_not for name, one in found.items() if one.rows}
    assert reasons["undone"] == verified.UNDONE
    assert reasons["amended"] == verified.AMENDED
    assert reasons["cancelled"] == verified.NOT_DONE
    assert reasons["worker_killed"] == why.FAN_OUT
    healed = found["lie_healed"].rows[0]
    assert (healed.decision.call.option, healed.trains) == ("playbook:refund", True)
    order = healed.decision.call.arguments["order"]
    assert (healed.goal[order.span.start : order.span.end], order.value.json) == ("1007", "1007")
    assert [list(step.heals) for step in healed.steps if step.heals] == [["reread", "retry"]]
    # Their tools have changed since: nobody learns from them, though they were verified.
    options = options_of(SAMPLE.protos, SAMPLE.playbooks)
    assert admitted(found["lie_healed"].rows, options) == ([], Counter({OTHER_VERSION: 2}))


def test_a_playbook_that_has_changed_since_is_not_taught() -> None:
    held = histories.load("refund")
    key = held[0].address.key
    others = tuple(one for one in SAMPLE.playbooks if one.name != "refund")
    (refund,) = (one for one in SAMPLE.playbooks if one.name == "refund")
    changed = refund.model_copy(update={"steps": refund.steps[:-1]})
    for playbooks in (others, (*others, changed)):
        found = collect(key, held, playbooks)
        assert {row.why_not for row in found.rows} == {why.CHANGED}


@pytest.mark.parametrize("name", NAMES)
def test_collecting_twice_gives_the_same_bytes(name: str) -> None:
    held = histories.load(name)
    key = held[0].address.key
    first, second = (
        [write_line(row) for row in collect(key, held, books).rows]
        for books in (SAMPLE.playbooks, SAMPLE.playbooks[::-1])
    )
    assert first == second
    assert [write_line(row) for row in read_lines(first)] == first


WORDS = st.lists(
    st.sampled_from(
        [
            "order",
            "12",
            "1001",
            "on",
            "Friday",
            "2026-03-04",
            "12.50",
            "EUR",
            "€",
            "5",
            "-5",
            "1,000",
            "#7",
            "no.",
            "ana@example.com",
            "'so",
            "be",
            "it'",
            "3pm",
            "twelve",
            "and,",
            "a",
            "b",
            "✓",
            "Straße",
            "😀",
            "tomorrow",
            "yes",
        ]
    ),
    max_size=12,
)
MONEY = {"minor": 1250, "currency": "EUR"}
NUMBERS: list[Any] = [12, 1001, -5, 5, 1000, 7, 1, True, 12.5, MONEY]
TEXTS: list[Any] = [
    "2026-03-04",
    "15:00",
    "ana@example.com",
    "so be it",
    "order",
    "b",
    ["a", "b"],
    None,
    {},
    "✓",
]
VALUES = st.sampled_from([*NUMBERS, *TEXTS])
KINDS = st.sampled_from(
    ["integer", "number", "boolean", "text", "word", "money", "date", "time", "email", "list"]
)


@settings(max_examples=400)
@given(WORDS, VALUES, KINDS)
def test_a_span_reads_as_its_value(words: list[str], value: Any, kind: Any) -> None:
    goal = " ".join(words)
    found = Tracer(goal, DAY, {"given": value}).trace(Parameter("it", kind, True), value)
    if found.HasField("span"):
        again = read(kind, goal[found.span.start : found.span.end], DAY)
        assert values.encode(again) == values.encode(value) == found.value.json
    elif not found.HasField("enumerated") and found.context.key != "given":
        assert len(Tracer(goal, DAY).places(Parameter("it", kind, True), value)) > 1


@settings(max_examples=60)
@given(st.integers(0, 40), st.sampled_from(["verdict", "result", "finished", "plan_accepted"]))
def test_a_log_that_lacks_something_never_trains(at: int, arm: str) -> None:
    held = list(carried_out().records)
    without = []
    for number, record in enumerate(held):
        assert record.event is not None
        event = event_pb2.Event.FromString(record.event.SerializeToString())
        if event.HasField(arm) and number <= at:  # type: ignore[arg-type]
            continue
        without.append(replace(record, event=event))
    if len(without) < len(held):
        assert not any(row.trains for row in collect(KEY, without, ()).rows)


def test_what_is_about_an_entity_is_on_one_side() -> None:
    names = [f"order={number}" for number in range(400)]
    held = {name for name in names if splitting.side_of("t", [name]) == pb.TRAJECTORY_SPLIT_HELD}
    alone = splitting.side_of("t", [])
    assert alone == pb.TRAJECTORY_SPLIT_TRAIN
    assert 0 < len(held) < 60
    some = next(iter(held))
    for run in range(20):
        assert splitting.side_of(f"r{run}", [some, "order=x"]) == pb.TRAJECTORY_SPLIT_HELD
    rows = [pb.TrajectoryRow(trajectory=f"r{n}", split=pb.TRAJECTORY_SPLIT_HELD) for n in range(3)]
    assert splitting.split(rows).trajectories == rows


def test_real_rows_are_a_share_that_counts() -> None:
    generated = [pb.TrajectoryRow(source=pb.TRAJECTORY_SOURCE_SYNTHETIC)] * 900
    real = [pb.TrajectoryRow(source=pb.TRAJECTORY_SOURCE_RUN)] * 7
    found = splitting.with_real([*real, *generated])
    share = sum(row.source == pb.TRAJECTORY_SOURCE_RUN for row in found) / len(found)
    assert splitting.REAL_SHARE <= share < splitting.REAL_SHARE + 0.01
    assert splitting.repeats(1, 10**6) == splitting.MAX_REPEATS
    assert splitting.with_real(real) == real
    assert splitting.with_real(generated) == generated


def test_a_row_of_other_tools_or_of_none_is_not_learnt() -> None:
    rows = of(carried_out()).rows
    changed = tool_pb2.ToolContract()
    changed.CopyFrom(ORDER)
    changed.description = "another"
    fit, left = admitted(rows, options_of({**CONTRACTS, "get_order": changed}, ()))
    assert (fit, left) == ([], Counter({OTHER_VERSION: 3}))
    strangers = [pb.TrajectoryRow(source=pb.TRAJECTORY_SOURCE_RUN, trains=True, decision=rows[0].decision)]
    assert admitted(strangers, options_of(CONTRACTS, ()))[1] == Counter({OTHER_VERSION: 1})
    no = [pb.TrajectoryRow(source=pb.TRAJECTORY_SOURCE_RUN, decision=rows[0].decision)]
    assert sum(admitted(no, options_of(CONTRACTS, ()))[1].values()) == 1


HELD = pb.TRAJECTORY_SPLIT_HELD
SYNTHETIC = pb.TRAJECTORY_SOURCE_SYNTHETIC


def poisoned(what: str) -> pb.TrajectoryRow:
    """A row that a file could hold and nobody should learn from."""
    first, _, last = of(carried_out(f"{GOAL}; day 1001.5")).rows
    row = last if what in ("offered stop", "past twice") else first
    order = row.decision.call.arguments["order"] if row is first else None
    match what:
        case "nothing decided":
            row.ClearField("decision")
        case "outcome":
            row.outcome = "failed"
        case "why not":
            row.why_not = "it was undone"
        case "offered stop" | "offered call":
            row.offered.append("add_note")
        case "past twice":
            row.past.append(row.past[0])
        case "required":
            del row.decision.call.arguments["order"]
        case "unknown":
            row.decision.call.arguments["nothing"].CopyFrom(order)
        case "no span":
            order.span.end = order.span.start
        case "far span":
            order.span.start, order.span.end = 2**32 - 2, 2**32 - 1
        case "other words":
            order.span.start, order.span.end = 0, 4
        case "other value":
            order.value.json = "1002"
        case "no value":
            order.enumerated.SetInParent()
            order.ClearField("value")
        case "broken value":
            order.value.json = "{"
        case "long value":
            order.value.json = "9" * 5_000
        case "blob":
            order.value.blob.sha256 = "a" * 64
        case "cut":
            at = row.goal.index("1001.5")
            order.span.start, order.span.end = at, at + 4
        case "field":
            order.field.step, order.field.path = "look", "customer"
    return row


@pytest.mark.parametrize(
    "what",
    [
        "nothing decided",
        "outcome",
        "why not",
        "offered stop",
        "offered call",
        "past twice",
        "required",
        "unknown",
        "no span",
        "far span",
        "other words",
        "other value",
        "no value",
        "broken value",
        "long value",
        "blob",
        "cut",
        "field",
    ],
)
def test_a_row_of_a_file_that_would_poison_is_left_out(what: str) -> None:
    assert admitted([poisoned("")], OPTIONS.values())[1] == Counter()
    row = poisoned(what)
    (again,) = read_lines([write_line(row)])
    assert admitted([again], OPTIONS.values()) == ([], Counter({UNTEACHABLE: 1}))


def test_what_a_file_says_was_generated_is_left_out() -> None:
    for source in (SYNTHETIC, pb.TRAJECTORY_SOURCE_UNSPECIFIED):
        row = poisoned("")
        row.source = source
        assert admitted([row], OPTIONS.values())[1] == Counter({NOT_REAL: 1})


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"nothing": 1}',
        '{"index": "x"}',
        "\u0000",
        "1",
        '{"index": ' + "9" * 5_000 + "}",
        '{"index": 1e999}',
        '{"goal": "\\ud800"}',
        '{"said_at": "x"}',
        '{"past": {}}',
    ],
)
def test_what_is_no_row_is_said_by_its_line(line: str) -> None:
    good = write_line(of(carried_out()).rows[0])
    with pytest.raises(BadRows, match="line 2"):
        list(read_lines([good, line]))


OPTIONS = {one.name: one for one in options_of(CONTRACTS, ())}


def test_records_of_xlam_come_back_as_they_were() -> None:
    rows = of(carried_out()).rows
    (record,) = records(rows, OPTIONS)
    action_studio = {"unique_trajectory_id", "task_instruction", "tools", "conversation"}
    assert record.keys() == action_studio | {"trains", "why_not"}
    roles = [turn["role"] for turn in record["conversation"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    # All that there was to choose among, not only what was called.
    assert [one["function"]["name"] for one in record["tools"]] == sorted(OPTIONS)
    again = rows_of(json.loads(json.dumps(record)), OPTIONS, said_on=DAY, licence="MIT")
    assert [row.decision for row in again] == [row.decision for row in rows]
    assert [list(row.past) for row in again] == [list(row.past) for row in rows]
    assert {(row.source, row.licence, row.trains) for row in again} == {
        (pb.TRAJECTORY_SOURCE_IMPORT, "MIT", True)
    }
    assert admitted(again, OPTIONS.values())[1] == Counter()


def test_what_a_tool_returned_in_a_record_explains_a_value() -> None:
    function = {"name": "get_order", "arguments": '{"order": 1001}'}
    say = {"name": "add_note", "arguments": {"customer": 7, "text": "she is glad"}}
    record = {
        "unique_trajectory_id": "x-1",
        "conversation": [
            {"role": "user", "content": GOAL},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": '{"id": 1001, "customer": 7}'},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": say}]},
        ],
    }
    rows = rows_of(record, OPTIONS, said_on=DAY, licence="MIT")
    assert rows[1].decision.call.arguments["customer"].field == pb.FieldOf(step="s1", path="customer")
    # It says nothing at its end: whether anything was left to do nobody knows.
    assert len(rows) == 2


def test_a_record_of_what_must_not_train_does_not_when_it_is_back() -> None:
    (record,) = records(of(carried_out(seen=False)).rows, OPTIONS)
    assert (record["trains"], record["why_not"]) == (False, verified.UNSEEN)
    again = rows_of(record, OPTIONS, said_on=DAY, licence="CC0")
    assert not any(row.trains for row in again)


def of_record(goal: str, *turns: Mapping[str, Any], name: str = "x") -> list[pb.TrajectoryRow]:
    said = [{"role": "user", "content": goal}, *turns]
    record = {"unique_trajectory_id": name, "conversation": said}
    return rows_of(record, OPTIONS, said_on=DAY, licence="MIT")


def calls(name: str, id_: str = "", /, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": id_, "type": "function", "function": function}]}


def returns(content: Any) -> dict[str, Any]:
    return {"role": "tool", "content": json.dumps(content)}


def says(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "turns",
    [
        (calls("get_order"), says("Done.")),  # without what it needs
        (calls("get_order", order=1001), says("And the other?"), calls("get_order", order=1002)),
        (calls("get_order", order=1001), returns({"error": "no such order"}), says("Done.")),
        (calls("get_order", order=1001), returns("Error: no such order"), says("Done.")),
        (calls("get_order", order=1001), returns({"success": False}), says("Done.")),
        (calls("get_order", order=1001), calls("get_order", order=1001), says("Done.")),
        (calls("get_order", "\ud800", order=1001), says("Done.")),
        ({"role": "assistant", "tool_calls": {}}, {"role": "assistant", "tool_calls": {"a": 1}}),
    ],
)
def test_a_record_of_what_should_not_be_learnt_is_left_out(turns: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(BadRecord):
        of_record("orders 1001 and 1002", *turns)


def test_an_id_that_is_no_text_is_a_bad_record() -> None:
    with pytest.raises(BadRecord):
        of_record("order 1001", calls("get_order", order=1001), name="\ud800")


@pytest.mark.parametrize(
    ("end", "stops"), [("Done.", True), ("None of the tools does this.", False), ("Please say: x.", False)]
)
def test_only_who_says_that_it_is_done_stops(end: str, stops: bool) -> None:
    rows = of_record("order 1001", calls("get_order", order=1001), says(end))
    assert rows[-1].decision.HasField("stop") is stops


def test_what_the_goal_says_is_not_from_what_was_returned() -> None:
    seen = {"id": 1001, "customer": 7}
    note = calls("add_note", customer=7, text="order 1001 is fine", kind="praise")
    rows = of_record("customer 7: order 1001 is fine", calls("get_order", order=1001), returns(seen), note)
    said = rows[1].decision.call.arguments
    assert said["customer"].WhichOneof("source") == "span"
    assert said["kind"].WhichOneof("source") == "enumerated"
    # 1001 is an integer there; a note is none.
    text = of_record(
        "order 1001, customer 7",
        calls("get_order", order=1001),
        returns(seen | {"customer": "she"}),
        calls("add_note", customer=7, text="she"),
    )
    assert text[1].decision.call.arguments["text"].WhichOneof("source") == "untraced"
    twice = of_record(
        "order 1001: 7 notes, 7 mails",
        calls("get_order", order=1001),
        returns(seen),
        calls("add_note", customer=7, text="notes"),
    )
    assert twice[1].decision.call.arguments["customer"].WhichOneof("source") == "untraced"


def test_one_value_of_the_goal_for_two_parameters_of_a_record_trains_nobody() -> None:
    note = calls("add_note", customer=1001, text="glad")
    rows = of_record("order 1001 is glad", calls("get_order", order=1001), note)
    assert {row.why_not for row in rows} == {why.UNTRACED}


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"unique_trajectory_id": 1, "conversation": [{"role": "user", "content": "x"}]},
        {"unique_trajectory_id": "x", "conversation": []},
        {"unique_trajectory_id": "x", "conversation": [{"role": "user", "content": "\ud800"}]},
        {"unique_trajectory_id": "x", "conversation": [{"role": "user", "content": "x"}, 1]},
        {"unique_trajectory_id": "x", "conversation": [{"role": "user", "content": "x"}] * 2},
        {"unique_trajectory_id": "x", "conversation": [{"role": "user", "content": "x " * 9_000}]},
    ],
)
def test_what_is_no_record_is_left_out(record: Any) -> None:
    with pytest.raises(BadRecord):
        rows_of(record, OPTIONS, said_on=DAY, licence="")


@pytest.mark.parametrize(
    "call_",
    [
        None,
        {},
        {"function": {"name": "rm", "arguments": {}}},
        {"function": {"name": "get_order", "arguments": "{"}},
        {"function": {"name": "get_order", "arguments": [1]}},
        {"function": {"name": ["get_order"], "arguments": {}}},
        {"function": {"name": "get_order", "arguments": {"nothing": 1}}},
        {"function": {"name": "get_order", "arguments": {"order": float("nan")}}},
    ],
)
def test_what_is_no_call_of_a_tool_of_this_project_is_left_out(call_: Any) -> None:
    record = {
        "unique_trajectory_id": "x",
        "conversation": [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [call_]}],
    }
    with pytest.raises(BadRecord):
        rows_of(record, OPTIONS, said_on=DAY, licence="")


def thought_of(*steps: pb.PastStep) -> event_pb2.ModelThought:
    return event_pb2.ModelThought(
        model="lam:0123456789ab",
        model_sha256="f" * 64,
        decisions=steps,
        sure=0.97,
        needed=0.95,
        doubtful="order",
        raw=0.91,
        alternatives={"list_orders": 0.04},
    )


def thought_through(goal: str, *steps: pb.PastStep, context: Mapping[str, Any] | None = None) -> Play:
    """A run that the action model has planned."""
    play = Play(ORDER, NOTE)
    body = event_pb2.Submit(goal=event_pb2.Goal(text=goal))
    if context:
        body.goal.context.json = values.encode(context)
    play.fact(("submit",), "submit", body, channel="cmd")
    given_ = [why._given(step, context or {}) for step in steps]
    plan = assemble(tuple(given_), OPTIONS, {})
    plan.origin, plan.origin_sha256 = "lam:0123456789ab", "f" * 64
    play.plan(plan=plan, thought=thought_of(*steps))
    while play.state.in_flight:
        action = play.state.in_flight[0].action
        assert action is not None
        order = {"id": 1001, "customer": 7, "others": [8]}
        confirmed(play, action.attempt, order if action.tool == "get_order" else {})
    assert play.status == "done", play.lines
    return play


def step_of(name: str, option: str, **arguments: pb.FilledArgument) -> pb.PastStep:
    return pb.PastStep(id=name, call=pb.OptionCall(option=option, arguments=arguments))


FOUND = pb.FilledArgument(value=plan_pb2.Value(json="1001"), span=pb.GoalSpan(start=6, end=10))
OF_IT = pb.FilledArgument(field=pb.FieldOf(step="s1", path="customer"))
GLAD = pb.FilledArgument(value=plan_pb2.Value(json='"glad"'), span=pb.GoalSpan(start=15, end=19))


def test_what_a_model_decided_is_told_as_it_told_it() -> None:
    steps = (step_of("s1", "get_order", order=FOUND), step_of("s2", "add_note", customer=OF_IT, text=GLAD))
    found = of(thought_through("order 1001: is glad", *steps))
    assert [row.decision.call for row in found.rows[:2]] == [step.call for step in steps]
    assert [row.trains for row in found.rows] == [True] * 3
    assert [[step.step for step in row.steps] for row in found.rows] == [["s1"], ["s2"], []]
    first = found.rows[0]
    assert (first.confidence.calibrated, first.confidence.needed, first.confidence.raw) == (0.97, 0.95, 0.91)
    assert dict(first.confidence.alternatives) == {"list_orders": 0.04}
    assert (first.versions.model, first.versions.model_sha256) == ("lam:0123456789ab", "f" * 64)


def test_what_a_model_was_given_is_not_told() -> None:
    given_ = pb.FilledArgument(context=pb.GoalContext(key="customer"))
    step = step_of("s1", "add_note", customer=given_, text=GLAD)
    found = of(thought_through("order 1001: is glad", step, context={"customer": 7}))
    assert call(found, 0).arguments["customer"] == given_
    assert found.rows[0].trains


def test_decisions_that_do_not_come_to_the_plan_are_not_taught() -> None:
    play = thought_through("order 1001: is glad", step_of("s1", "get_order", order=FOUND))
    for record in play.records:
        assert record.event is not None
        for event in (*record.event.before, record.event):
            if event.HasField("plan_answer"):
                event.plan_answer.thought.decisions[0].call.arguments["order"].value.json = "1002"
    assert {row.why_not for row in of(play).rows} == {why.CHANGED}


def test_what_a_bigger_model_says_beyond_it_is_not_taught() -> None:
    invented = pb.FilledArgument(value=GLAD.value, untraced=pb.Untraced())
    first = step_of("s1", "get_order", order=FOUND)
    found = of(
        thought_through(
            "order 1001: is glad", first, step_of("s2", "add_note", customer=OF_IT, text=invented)
        )
    )
    assert {row.why_not for row in found.rows} == {why.UNTRACED}
    unknown = pb.FilledArgument(field=pb.FieldOf(step="s1", path="others[0]"))
    found = of(
        thought_through("order 1001: is glad", first, step_of("s2", "add_note", customer=unknown, text=GLAD))
    )
    assert {row.why_not for row in found.rows} == {why.NO_FIELD}


def test_a_model_that_does_not_say_how_sure_it_is_has_no_confidence() -> None:
    play = thought_through("order 1001: is glad", step_of("s1", "get_order", order=FOUND))
    for record in play.records:
        assert record.event is not None
        for event in (*record.event.before, record.event):
            if event.HasField("plan_answer"):
                for name in ("sure", "needed", "doubtful"):
                    event.plan_answer.thought.ClearField(name)
    found = of(play)
    assert all(row.trains and not row.HasField("confidence") for row in found.rows)


def test_a_parquet_file_holds_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = list(of(carried_out()).rows)
    file = tmp_path / "rows.parquet"
    write_file(file, rows, "rows", ())
    first = file.read_bytes()
    table = parquet.read_table(file).to_pylist()
    assert list(read_lines(row["row"] for row in table)) == rows
    assert [row["option"] for row in table] == ["get_order", "add_note", "stop"]
    write_file(file, rows, "rows", ())
    assert file.read_bytes() == first
    write_file(file, [], "rows", ())
    assert parquet.read_table(file).num_rows == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_is_its_owners_whatever_lay_there(tmp_path: Path) -> None:
    rows = list(of(carried_out()).rows)
    others = tmp_path / "others"
    others.write_text("mine")
    others.chmod(0o666)
    file = tmp_path / "new" / "rows.jsonl"
    file.parent.mkdir()
    file.symlink_to(others)
    (file.parent / ".rows.jsonl.new").symlink_to(others)
    write_file(file, rows, "rows", ())
    assert (read_rows(file), others.read_text()) == (rows, "mine")
    assert (file.is_symlink(), file.stat().st_mode & 0o777) == (False, 0o600)
    assert sorted(one.name for one in file.parent.iterdir()) == [".rows.jsonl.new", "rows.jsonl"]


def test_two_collects_at_once_both_write(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = list(of(carried_out()).rows)

    def slowly() -> Any:
        yield rows[0]
        # In the middle of it another one begins and ends.
        write_file(file, rows[:2], "rows", ())
        yield rows[1]

    write_file(file, slowly(), "rows", ())
    assert read_rows(file) == rows[:2]
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_is_no_place_for_a_file_is_said(tmp_path: Path) -> None:
    for path in (Path(), tmp_path):
        with pytest.raises(CommandError, match="is a folder"):
            check_form(path, "rows", named=True)
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="cannot be written"):
        write_file(tmp_path / "file" / "x.jsonl", [], "rows", ())


def test_a_file_that_is_named_twice_is_learnt_from_once(tmp_path: Path) -> None:
    shelf = tmp_path / SAMPLE.settings.lam.path
    named = [shelf / "collected.jsonl", tmp_path / "a" / "x.jsonl", tmp_path / "b" / "x.jsonl"]
    rows = list(of(carried_out()).rows)
    for path in named:
        path.parent.mkdir(exist_ok=True, parents=True)
        write_file(path, rows, "rows", ())
    own = replace(SAMPLE, directory=tmp_path)
    found, counts = lam._real(
        own, tuple(OPTIONS.values()), ["synthetic", "runs", *map(str, named)], Output(as_json=True)
    )
    assert (len(found), counts) == (9, {"runs": 3, "x.jsonl": 3, "x.jsonl (2)": 3})


def test_records_of_which_nothing_comes_leave_the_file_as_it_was(tmp_path: Path) -> None:
    out, records_ = tmp_path / "imported.jsonl", tmp_path / "records.jsonl"
    out.write_text("before")
    records_.write_text("{}\n")
    sample = str(Path(__file__).parents[2] / "examples" / "backoffice")
    arguments = ["--from", str(records_), "--licence", "MIT", "--project", sample, "--out", str(out)]
    done = CliRunner().invoke(lam.app, ["collect", *arguments])
    assert isinstance(done.exception, CommandError)
    assert "no record" in str(done.exception)
    assert out.read_text() == "before"


def test_an_entity_is_one_however_it_was_said() -> None:
    said = {
        name
        for goal in ("look order 1,032 up", "look order 1032 up")
        for name in of(carried_out(goal, {**LOOK, "with": {"order": 1032}})).rows[0].entities
    }
    assert said == {"number=1032"}
    # What was given beside the goal counts, and is not told.
    assert splitting.side_of(KEY.run, []) != HELD
    (number,) = [n for n in range(400) if splitting.side_of("t", [f"number={n}"]) == HELD][:1]
    context = plan_pb2.Value(json=json.dumps({"order": number}))
    rows = of(carried_out("look it up", {**LOOK, "with": {"order": "$goal.order"}}, context=context)).rows
    assert {row.split for row in rows} == {HELD}
    assert not rows[0].entities
