"""Whatever the weights are, a decision is valid; and what was not trained on is never decided on."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import FITTING, Decider, _Filling
from actors.models.lam.inputs import Place
from actors.models.lam.layout import MAX_PAST, MISSING, SOURCES, SPAN
from actors.models.lam.network import Known, Network
from actors.models.lam.options import OutputField, options_of
from actors.models.lam.reader import TooLong, read_situation
from actors.models.lam.reading import read
from core import values
from handrail import project
from handrail.v1 import trajectory_pb2
from tests.unit.lam_weights import MEASURES, weights_of

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
OPTIONS = options_of(LOADED.protos, LOADED.playbooks)
CLOSED = ClosedSet(OPTIONS)
DECIDERS = [Decider(Network(weights_of(seed), MEASURES), CLOSED) for seed in range(4)]
TODAY = datetime.date(2026, 3, 2)
WORDS = [
    "refund",
    "order",
    "1001",
    "€12.50",
    "tomorrow",
    "3pm",
    "high",
    "a@b.example",
    '"quoted',
    "É",
    "🙂",
    "-",
]
GOALS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40)
TOOLS = [option.name for option in OPTIONS if not option.is_playbook]


@given(GOALS, st.lists(st.sampled_from(TOOLS), max_size=3), st.sampled_from(DECIDERS))
def test_every_decision_is_valid_whatever_the_weights(goal: str, before: list[str], decider: Decider) -> None:
    past = [
        trajectory_pb2.PastStep(id=f"s{n}", call=trajectory_pb2.OptionCall(option=name))
        for n, name in enumerate(before, 1)
    ]
    (decided,) = decider.decide([(goal, read_situation(goal, past, CLOSED))], TODAY)
    assert all(0 <= part.raw <= 1 for part in decided.parts)
    call = decided.decision.call
    if decided.option is None:
        assert not call.option
        return
    assert call.option == decided.option.name
    assert [part.what for part in decided.parts] == ["option", *(p.name for p in decided.option.parameters)]
    assert not set(call.missing) & set(call.arguments)
    for parameter in decided.option.parameters:
        if parameter.name not in call.arguments:
            assert parameter.name in call.missing or not parameter.required
            continue
        filled = call.arguments[parameter.name]
        match filled.WhichOneof("source"):
            case "span":
                said = goal[filled.span.start : filled.span.end]
                assert values.load(filled.value, {}) == read(parameter.kind, said, TODAY, parameter.choices)
            case "enumerated":
                told = values.load(filled.value, {})
                assert told in parameter.choices or (parameter.kind == "boolean" and isinstance(told, bool))
            case "field":
                step = past[int(filled.field.step[1:]) - 1]
                fields = decider.closed.options[CLOSED.index[step.call.option]].fields
                (field,) = (field for field in fields if field.path == filled.field.path)
                assert field.kind in FITTING.get(parameter.kind, {parameter.kind})
            case other:
                raise AssertionError(other)


@given(GOALS)
def test_nothing_is_decided_on_that_is_not_offered(goal: str) -> None:
    situation = read_situation(goal, [], CLOSED)
    for offered in ((), ("get_order",)):
        decider = Decider(Network(weights_of(1), MEASURES), CLOSED, offered)
        (decided,) = decider.decide([(goal, situation)], TODAY)
        assert decided.option is None or decided.option.name in offered
        assert all(name in offered for name, _ in decided.alternatives)


def test_what_is_off_the_offer_is_not_made_up_for_by_its_neighbour() -> None:
    goal = "refund order 1001"
    situation = read_situation(goal, [], CLOSED)
    for seed in range(6):
        network = Network(weights_of(seed), MEASURES)
        (all_of_them,) = Decider(network, CLOSED).decide([(goal, situation)], TODAY)
        if all_of_them.option is None:
            continue
        others = [name for name in CLOSED.index if name != all_of_them.option.name]
        (without,) = Decider(network, CLOSED, others).decide([(goal, situation)], TODAY)
        assert without.decision.WhichOneof("kind") == "abstain"


def test_what_is_too_long_is_said_to_be() -> None:
    with pytest.raises(TooLong):
        read_situation("word " * 200, [], CLOSED)
    step = trajectory_pb2.PastStep(id="s1", call=trajectory_pb2.OptionCall(option="get_order"))
    read_situation("go on", [step] * MAX_PAST, CLOSED)
    with pytest.raises(TooLong):
        read_situation("go on", [step] * (MAX_PAST + 1), CLOSED)


def test_a_word_that_was_used_is_marked_so() -> None:
    goal = "show order 1001 and order 1002"
    step = trajectory_pb2.PastStep(id="s1", call=trajectory_pb2.OptionCall(option="get_order"))
    step.call.arguments["order_id"].span.start, step.call.arguments["order_id"].span.end = 11, 15
    situation = read_situation(goal, [step], CLOSED)
    assert list(situation.used) == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert list(situation.segments) == [0] * 7 + [1, 1]
    assert "customer_id" in [one.path for one in situation.candidates]


def test_a_contract_that_changed_is_another_option_and_so_are_the_playbooks_that_use_it() -> None:
    changed = dict(LOADED.protos)
    changed["get_order"] = type(changed["get_order"]).FromString(changed["get_order"].SerializeToString())
    changed["get_order"].description += " And more."
    now = {one.name: one.fingerprint for one in options_of(changed, LOADED.playbooks)}
    then = {one.name: one.fingerprint for one in OPTIONS}
    using = {f"playbook:{one.name}" for one in LOADED.playbooks if "get_order" in {s.tool for s in one.steps}}
    assert "playbook:refund" in using
    assert {name for name in then if then[name] != now[name]} == {"get_order", *using}


def test_an_option_says_what_the_model_reads_of_it() -> None:
    order = OPTIONS[CLOSED.index["get_order"]]
    assert OutputField("refundable", "money") in order.fields
    assert [(p.name, p.kind, p.required) for p in order.parameters] == [("order_id", "integer", True)]
    send = OPTIONS[CLOSED.index["send_email"]]
    assert "key" not in [p.name for p in send.parameters]
    onboard = OPTIONS[CLOSED.index["playbook:onboard"]]
    assert onboard.parameter("role") is not None
    assert onboard.effect == OPTIONS[CLOSED.index["send_email"]].effect


@pytest.mark.parametrize(
    ("goal", "customer", "pointed", "text"),
    [
        # A text in quotes is all of it.
        ('put on the account of 7: "prefers tea, not coffee"', "7", "prefers tea", "prefers tea, not coffee"),
        ("note for 7, 'it's his birthday'", "7", "birthday", "it's his birthday"),
        # Where the goal itself is quoted, it is no text of its own.
        ('"add a note on customer 7 that he likes tea"', "7", "he likes tea", "he likes tea"),
        ('boss: "add a note on customer 7: likes tea" now please', "7", "likes tea", "likes tea"),
        ('"he likes tea" 7', "7", "likes", "likes"),
        ('note "he likes tea" for 7', "7", 'tea" for', 'tea" for'),
    ],
)
def test_a_text_in_quotes_is_taken_whole(goal: str, customer: str, pointed: str, text: str) -> None:
    call = filled(goal, customer, pointed)
    found = call.arguments["text"]
    assert json.loads(found.value.json) == text
    assert goal[found.span.start : found.span.end] == text
    assert json.loads(call.arguments["customer_id"].value.json) == 7


def test_what_is_read_stands_in_one_place() -> None:
    goal = 'customer: 7\nmail: likes "tea\nsubject: so" she says'
    places = [(10, 11), (18, 28), (38, len(goal))]
    assert [goal[a:b] for a, b in places] == ["7", 'likes "tea', 'so" she says']
    across = filled(goal, "7", 'tea\nsubject: so" she').arguments["text"]
    assert "\n" in json.loads(across.value.json)
    for text in ('tea\nsubject: so" she', "likes", "she says"):
        found = filled(goal, "7", text, places).arguments["text"].span
        assert any(a <= found.start and found.end <= b for a, b in places)
    assert json.loads(filled(goal, "7", "she says", places).arguments["text"].value.json) == "she says"


@pytest.mark.parametrize(
    ("goal", "pointed", "told"),
    [
        # A part of a day or a time is another one.
        ("move 3 to Friday, 3:15 in the afternoon", {"time": "3:15"}, "15:15"),
        ("move 3 to Friday at half past three in the afternoon", {"time": "three in the afternoon"}, "15:30"),
        ("move 3 to the 4th of next month, 10:00", {"day": "the 4th"}, "2026-04-04"),
        ("move 3 to Monday the 16th at 10:00", {"day": "Monday"}, "2026-03-16"),
        ("move 3 to Monday the 16th at 10:00", {"day": "16th"}, "2026-03-16"),
        ("move 3 to 5 March 2027 at 10:00", {"day": "5 March"}, "2027-03-05"),
        # Where the rest changes nothing it is not taken along.
        ("move 3 to next Friday at 10:00", {"day": "Friday"}, "2026-03-06"),
        ("move 3 to Friday, 3 mugs, 10:00", {"day": "Friday"}, "2026-03-06"),
        # It is another weekday: somebody has to say which of them is meant.
        ("move 3 to Friday, March 5th at 10:00", {"day": "March 5th"}, None),
        ("move 3 to Friday (March 5th) at 10:00", {"day": "March 5th"}, None),
        ("move 3 to 5 March (Friday) at 10:00", {"day": "5 March"}, None),
        ("move 3 to Friday 25/03/2026 at 10:00", {"day": "Friday"}, None),
        ("move 3 to Friday, fifth of March, at 10:00", {"day": "Friday"}, None),
        ("move 3 to tomorrow, Friday, at 10:00", {"day": "Friday"}, None),
        ("move 3 to tomorrow, Friday, at 10:00", {"day": "tomorrow"}, None),
        # Where they agree it is read.
        ("move 3 to Monday the 16th at 10:00", {"day": "the 16th"}, "2026-03-16"),
        ("move 3 to Thursday 2026-03-05 at 10:00", {"day": "2026-03-05"}, "2026-03-05"),
        ("move 3 to tomorrow, Tuesday, at 10:00", {"day": "tomorrow"}, "2026-03-03"),
        ("move 3 from Monday to Friday at 10:00", {"day": "Friday"}, "2026-03-06"),
        # What bends a day makes it another.
        ("move 3 to two weeks from tomorrow, 10:00", {"day": "tomorrow"}, None),
        ("move 3 to a week on Friday, 10:00", {"day": "Friday"}, None),
        ("move 3 to Friday week, 10:00", {"day": "Friday"}, None),
        ("move 3 to Friday after next, 10:00", {"day": "Friday"}, None),
        ("move 3 to Friday in a fortnight, 10:00", {"day": "Friday"}, None),
        ("move 3 to the day before Friday, 10:00", {"day": "Friday"}, None),
        ("move 3 to last Friday, 10:00", {"day": "Friday"}, None),
        ("move 3 to the 5th of the month after next", {"day": "the 5th"}, None),
        ("move 3 to the 31st of April", {"day": "the 31st"}, None),
        ("move 3 to Friday, 5 March 1400", {"day": "5 March"}, None),
        # A time is no more than what stands there.
        ("move 3 to Friday 10:30, in the evening I am away", {"time": "10:30"}, "10:30"),
        ("move 3 to Friday 10:30\nin the evening I am away", {"time": "10:30"}, "10:30"),
        ("move 3 to Friday, from ten to eleven am", {"time": "eleven am"}, None),
        ("move 3 to Friday, from 10 to 11 am", {"time": "11 am"}, None),
        ("move 3 to Friday, half 3 pm", {"time": "3 pm"}, None),
        ("move meeting 3 to 10:30 on Friday", {"time": "10:30"}, "10:30"),
        ("move 3 to Friday, March 5th at 10:00", {"day": "Friday"}, None),
    ],
)
def test_a_day_and_a_time_are_read_whole(goal: str, pointed: dict[str, str], told: str | None) -> None:
    call = filled_in("playbook:reschedule", goal, {"meeting": "3", **pointed})
    ((name, words),) = pointed.items()
    if told is None:
        assert name in call.missing
        return
    assert json.loads(call.arguments[name].value.json) == told
    if words == "Friday":
        span = call.arguments[name].span
        assert goal[span.start : span.end] == words


@pytest.mark.parametrize(
    ("goal", "pointed", "told"),
    [
        ("move 3 to Thursday at 2 pm", "Thursday at 2 pm", "2026-03-05T14:00"),
        ("move 3 to Thursday, half past two in the afternoon", "Thursday, half past", "2026-03-05T14:30"),
        ("move 3 to 10:00 on the 16th please", "10:00 on the 16th", "2026-03-16T10:00"),
        ("move 3 to 2026-03-05 at 3:15 pm", "2026-03-05 at 3:15", "2026-03-05T15:15"),
        ("move 3 to Thursday", "Thursday", None),
        # However little stands around it, it is read as what it is.
        ('"Pricing, tomorrow at 10:00" 3', "tomorrow", "2026-03-03T10:00"),
        ("slot 3: 10:00 \nFriday I am away", "10:00", None),
        ("3 tomorrow, Friday at 10:00", "Friday at 10:00", None),
    ],
)
def test_a_moment_is_a_day_and_a_time(goal: str, pointed: str, told: str | None) -> None:
    call = filled_in("move_slot", goal, {"slot_id": "3", "starts_at": pointed})
    if told is None:
        assert list(call.missing) == ["starts_at"]
    else:
        assert json.loads(call.arguments["starts_at"].value.json) == told


def test_what_a_tool_does_not_take_is_not_read_for_it() -> None:
    # Of the tool itself, and of a playbook that hands it on.
    for name in ("create_sales_report", "playbook:weekly_report"):
        for said, pointed, week in (
            ("week 2026-W08", "2026-W08", "2026-W08"),
            ("week 8", "8", "2026-W08"),
            ("wk 8 of 2025", "8", "2025-W08"),
            ("last week", "last", "last"),
            ("order 8", "8", None),
            ("week 88", "88", None),
            ("week 6 to 8", "6", None),
            ("week 2026-W99", "2026-W99", None),
        ):
            call = filled_in(name, f"the sales report of {said} please", {"week": pointed})
            filled = call.arguments["week"].value.json if "week" in call.arguments else "null"
            assert json.loads(filled) == week, (name, said)
    call = filled_in("list_orders", "the last 1000000 orders of 7", {"limit": "1000000", "customer_id": "7"})
    assert list(call.arguments) == ["customer_id"]


def filled(goal: str, customer: str, pointed: str, within: Sequence[Place] = ()) -> trajectory_pb2.OptionCall:
    return filled_in("add_note", goal, {"customer_id": customer, "text": pointed}, within)


def filled_in(
    name: str, goal: str, pointed: Mapping[str, str], within: Sequence[Place] = ()
) -> trajectory_pb2.OptionCall:
    """Fill an option in as a network would that points at these words and finds no others."""
    situation = read_situation(goal, (), CLOSED)
    option = CLOSED.options[CLOSED.index[name]]
    first, last = np.full((2, len(option.parameters), len(situation.tokens) + 1), -9.0, np.float32)
    sources = np.full((len(option.parameters), len(SOURCES)), -9.0, np.float32)
    for row, parameter in enumerate(option.parameters):
        if parameter.name not in pointed:
            sources[row, MISSING] = 9.0
            continue
        words = pointed[parameter.name]
        start = goal.index(words)
        inside = [n for n, t in enumerate(situation.tokens, 1) if start <= t.start < start + len(words)]
        first[row, inside[0]] = last[row, inside[-1]] = 9.0
        sources[row, SPAN] = 9.0
    known = Known(np.zeros((len(option.parameters), 8), np.float32), sources, first, last)
    filling = _Filling(DECIDERS[0], goal, situation, known, TODAY, within)
    call = trajectory_pb2.OptionCall(option=option.name)
    for row, parameter in enumerate(option.parameters):
        filling.fill(row, option, parameter, call)
    filling.settle(call)
    return call
