"""What a plan leaves of its goal, and what that means for acting on it."""

from __future__ import annotations

import re

import pytest

from actors.models.lam.leftovers import left_over, words_of
from core import values
from handrail.v1 import tool_pb2, trajectory_pb2

READ, DRAFT, WRITE = tool_pb2.EFFECT_READ, tool_pb2.EFFECT_DRAFT, tool_pb2.EFFECT_WRITE
WORDS = frozenset(
    {
        "would",
        "you",
        "no",
        "of",
        "instead",
        "refund",
        "order",
        "please",
        "the",
        "and",
        "tell",
        "customer",
        "note",
        "on",
        "move",
        "to",
    }
)


def steps(goal: str, *read: str) -> list[trajectory_pb2.PastStep]:
    made = trajectory_pb2.PastStep(id="s1")
    for number, text in enumerate(read):
        span = made.call.arguments[f"a{number}"].span
        span.start = goal.index(text)
        span.end = span.start + len(text)
    return [made]


@pytest.mark.parametrize(
    ("goal", "read", "effect", "left"),
    [
        ("refund order 1001 please", ["1001"], WRITE, ""),
        ("refund 20 on order 1016", ["1016"], READ, "20"),
        ("refund order 1001, not 1002", ["1001"], READ, "1002"),
        ("tell ada@shop.example about order 1001", ["1001"], READ, "ada@shop.example"),
        ('refund order 1001 and note "call her"', ["1001"], READ, "call her"),
        ('note on customer 7: "call her back"', ["7", "call her back"], WRITE, ""),
        ("note on customer 7: „do not refund“", ["7", "do not refund"], WRITE, ""),
        ("do not refund order 1001", ["1001"], WRITE, "do"),
        ("not refund order 1001", ["1001"], READ, ""),
        ("refund order 1001 and kill the customer", ["1001"], WRITE, "kill"),
        ("refund order 1001 and kill the customer", ["1001"], READ, ""),
        ("refund order 1001 and kill the customer", ["1001"], DRAFT, ""),
        ("do not refund order 1001", ["1001"], DRAFT, "not"),
        ("move order 1 to 10:00 and tell 2", ["1", "10:00"], WRITE, "2"),
        ("", [], WRITE, ""),
        # What is said once more is read, but a short number may be another one.
        ("refund order 1001. yes, 1001", ["1001"], READ, ""),
        ("refund order 1001. yes, 1002", ["1001"], READ, "1002"),
        ("refund order 1001. yes, 1001", ["1001"], WRITE, "1001"),
        ("order 4 please, refund order 4", ["4"], READ, ""),
        ("refund order 1001, i mean keep order 1001", ["1001"], WRITE, "1001"),
        ("refund order 1001, i mean keep order 1001", ["1001"], DRAFT, "1001"),
        ("order 4 please, refund 4", ["4"], READ, "4"),
        ("tell ada@shop.example, ada@shop.example", ["ada@shop.example"], READ, ""),
        ("refund order's 1001", ["1001"], WRITE, ""),
        ("refund cat's 1001", ["1001"], WRITE, "cat's"),
    ],
)
def test_what_is_left(goal: str, read: list[str], effect: int, left: str) -> None:
    assert left_over(goal, steps(goal, *read), effect, WORDS) == left


@pytest.mark.parametrize(
    ("goal", "read", "denies"),
    [
        ("refund order 1001 please", ["1001"], ""),
        ("Don’t refund order 1001", ["1001"], "Don’t"),
        ("note on customer 7: do not call", ["7", "do not call"], ""),
        ("refund order no. 1001 please", ["1001"], ""),
        ("refund order no 1001", ["1001"], ""),
        ("no. refund order 1001", ["1001"], "no"),
        ("no order on 1001", ["1001"], "no"),
        ("give no 1001 back", ["1001"], "no"),
        ("refund? no 1001 stays", ["1001"], "no"),
        ("move order 1 to 10:00 instead", ["1", "10:00"], ""),
        ("note instead of refund on order 1001", ["1001"], "instead"),
        ("Would you refund order 1001", ["1001"], ""),
        ("hello. would you refund order 1001", ["1001"], ""),
        ("would you ever refund order 1001", ["1001"], "would"),
        ("what would you say: refund order 1001", ["1001"], "would"),
        ("nobody would like you to refund order 1001", ["1001"], "nobody"),
        ("customer 7 would like a note", ["7"], ""),
        ("would the customer refund order 1001", ["1001"], "would"),
        ("refund order 1001, nope", ["1001"], "nope"),
        ("i refuse: refund order 1001", ["1001"], "refuse"),
        ("refund order 1001 is forbidden", ["1001"], "forbidden"),
        ("refund order 1001, perhaps", ["1001"], "perhaps"),
        ("refund order 1001, stop", ["1001"], "stop"),
        ("refund order 1001 only once ada agrees", ["1001"], "once"),
        ("you needn't refund order 1001", ["1001"], "needn't"),
        ("havent refund order 1001", ["1001"], "havent"),
        ("refund order 1001 as soon as the customer calls", ["1001"], "soon"),
        ("refund order 1001 as soon as possible", ["1001"], ""),
        ("refund order 1001 as soon as you can please", ["1001"], ""),
        ("refund order 1001 soon", ["1001"], ""),
        ("order 1001 has its refund already", ["1001"], "already"),
        # A text that nothing announced may end before such a word.
        ("note on 7 she pays late, without excuse", ["7", "she pays late, without excuse"], "without"),
        ("note on 7, no call", ["7", "no call"], "no"),
        ("note on 7 she never pays", ["7", "she never pays"], ""),
        ("note on 7: she pays late, without excuse", ["7", "she pays late, without excuse"], ""),
        ("note on 7 - she pays late, no excuse", ["7", "she pays late, no excuse"], ""),
        ('note "she pays, not he" on 7', ["7", "she pays, not he"], ""),
    ],
)
def test_what_denies_is_no_word_to_pass_over(goal: str, read: list[str], denies: str) -> None:
    words = {one.casefold().strip(",.:?") for one in goal.split()}
    assert left_over(goal, steps(goal, *read), WRITE, words) == denies
    assert left_over(goal, steps(goal, *read), DRAFT, words) == denies
    assert left_over(goal, steps(goal, *read), READ, words) == ""


@pytest.mark.parametrize(
    ("goal", "read", "value", "left"),
    [
        ("note on customer 7: call her back soon", "call her back", "call her back", "soon"),
        ("note on customer 7: call her  back soon", "call her  back", "call her back", "soon"),
        ("note on customer 7: call her back please", "call her back", "call her back", ""),
        ("note on customer 7: call her back, please, thanks!", "call her back", "call her back", ""),
        ("note on customer 7: call her back please call", "call her back", "call her back", "please"),
        ("note on customer 7: call her back now", "call her back", "call her back", "now"),
        ("call customer 7 next monday at 10", "next monday", "2026-03-09", ""),
        ("give ticket 501 to greta.olsen with the note", "greta.olsen", "greta.olsen", ""),
        # One word, too: but not what only leads on.
        ("note on customer 7: call back", "call", "call", "back"),
        ("note back on customer 7", "back", "back", ""),
        ("note MUG-BLUE back on customer 7", "MUG-BLUE", "MUG-BLUE", ""),
        # A name is whole where something is told of it; a text that only looks like one may go on.
        ("Zoë van den Berg joins the team", "Zoë van den Berg", "Zoë van den Berg", ""),
        ("move Ana Back from the team", "Ana Back", "Ana Back", ""),
        ("Siobhán O'Reilly-Back is late", "Siobhán O'Reilly-Back", "Siobhán O'Reilly-Back", ""),
        ("O' Reilly is late", "O' Reilly", "O' Reilly", "is"),
        ("move Ana Back From the team", "Ana Back", "Ana Back", "From"),
        ("move Ana Back and the team", "Ana Back", "Ana Back", "and"),
        ("note on customer 7: Ana Back is late", "Ana Back", "Ana Back", "is"),
        ("note on customer 7 - Ana Back is late", "Ana Back", "Ana Back", "is"),
        ("move Call Back is late", "Call Back", "Call Back", "is"),
        ("move Ana back is late", "Ana back", "Ana back", "is"),
        ("move call Ada is late", "call Ada", "call Ada", "is"),
        ("move Ana 4 Below is late", "Ana 4 Below", "Ana 4 Below", "is"),
    ],
)
def test_a_text_may_go_on(goal: str, read: str, value: str, left: str) -> None:
    made = steps(goal, read, *re.findall(r"\d+", goal))
    made[0].call.arguments["a0"].value.json = values.encode(value)
    words = WORDS | {
        "soon",
        "her",
        "back",
        "call",
        "at",
        "give",
        "ticket",
        "with",
        "to",
        "please",
        "thanks",
        "now",
        "joins",
        "team",
        "from",
        "is",
        "late",
        "and",
    }
    assert left_over(goal, made, WRITE, words) == left


def test_words_are_those_that_came_a_few_times_beside_what_is_filled_in() -> None:
    goal = "Refund Ada's order 1001, ’tis don’t, for Bo"
    row = trajectory_pb2.TrajectoryRow(goal=goal)
    span = row.decision.call.arguments["name"].span
    span.start, span.end = 7, 12
    # What a later decision reads is not said around it.
    later = trajectory_pb2.TrajectoryRow(goal=goal, index=1)
    span = later.decision.call.arguments["name"].span
    span.start, span.end = goal.index("Bo"), len(goal)
    rows = []
    for number in range(5):
        for one in (row, later):
            rows.append(trajectory_pb2.TrajectoryRow.FromString(one.SerializeToString()))
            rows[-1].trajectory = str(number)
    assert words_of(rows) == ["don't", "for", "order", "refund", "tis"]
    assert words_of([row] * 4) == []
    for one in rows:
        one.decision.abstain.SetInParent()
    assert words_of(rows) == [], "what nobody wants may be why"
    for one in rows:
        one.decision.call.option = "refund_order"
        one.offered.append("refund_order")
    assert words_of(rows) == [], "what is written to a step is no goal"


@pytest.mark.parametrize(
    ("option", "goal", "read", "left"),
    [
        ("playbook:book_call", "Ada booked the call with customer 7", ["7"], "booked"),
        ("playbook:book_call", "we have booked the call with customer 7", ["7"], "booked"),
        ("playbook:book_call", "get the call booked with customer 7", ["7"], ""),
        ("playbook:book_call", "BOOKED IS BOOKED, CALL customer 7".upper(), ["7"], ""),
        ("cancel_slot", "i cancelled slot 7", ["7"], "cancelled"),
        ("cancel_slot", "Ada booked slot 7, cancel it", ["7"], ""),
        ("apply_credit", "she applied credit 7", ["7"], "applied"),
        ("archive", "they archived 7", ["7"], "archived"),
        ("send_email", "she sent 7", ["7"], "sent"),
        # What stands in what is filled in is said there.
        ("playbook:note", "customer 7: we noted it", ["7", "we noted it"], ""),
        # A login is read, or it weighs.
        ("playbook:note", "ada.king is to look after 7", ["7"], "ada.king"),
        ("playbook:note", "note on 7: ada.king", ["7", "ada.king"], ""),
        ("playbook:note", "note on 7, e.g. today at 3 p.m.", ["7", "today", "3"], ""),
    ],
)
def test_what_is_told_as_done_and_a_login_are_not_passed_over(
    option: str, goal: str, read: list[str], left: str
) -> None:
    (made,) = steps(goal, *read)
    made.call.option = option
    words = frozenset(re.findall(r"[a-z]+", goal.casefold()))
    assert left_over(goal, [made], WRITE, words) == left
    assert left_over(goal, [made], READ, words) == ""
