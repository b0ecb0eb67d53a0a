"""Models on disk, and the maker of plans that reads them: whole, fitting, exchanged while it works."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.models import Goal
from actors.models.lam import artifact, shelf
from actors.models.lam.answering import answer, open_model, reason_of, shown, thought_of
from actors.models.lam.assembling import assemble
from actors.models.lam.calibration import Calibration, Curve
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decided, Decider, Part
from actors.models.lam.network import Network
from actors.models.lam.options import options_of
from actors.models.lam.planning import GREETING, Outcome, Thinker, Thought, completed
from actors.models.lam.plans import LamPlans
from actors.models.lam.reader import read_situation
from actors.models.lam.serving import Serving
from actors.models.lam.shelf import BadModel
from actors.models.lam.text import MAX_TOKENS
from actors.models.playbooks import PlaybookPlans
from core import conformance, told
from handrail import project
from handrail.v1 import event_pb2, plan_pb2, trajectory_pb2
from tests.unit.lam_weights import MEASURES, weights_of, write_model

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
OPTIONS = options_of(LOADED.protos, LOADED.playbooks)
BY_NAME = {one.name: one for one in OPTIONS}
CLOSED = ClosedSet(OPTIONS)
PLAYBOOKS = {one.name: one for one in LOADED.playbooks}
DAY = datetime.date(2026, 3, 2)


def step(number: int, option: str, *missing: str, **arguments: Any) -> trajectory_pb2.PastStep:
    made = trajectory_pb2.PastStep(id=f"s{number}", call=trajectory_pb2.OptionCall(option=option))
    for name, value in arguments.items():
        filled = made.call.arguments[name]
        if isinstance(value, tuple):
            filled.field.step, filled.field.path = value
        else:
            filled.value.json = value
            filled.span.end = 1
    made.call.missing.extend(missing)
    return made


def plans(place: Path, **thresholds: float) -> LamPlans:
    return LamPlans(Serving(place, LOADED.protos, LOADED.playbooks, thresholds))


async def ask(maker: Any, text: str, **context: Any) -> event_pb2.PlanAnswer:
    answer: event_pb2.PlanAnswer = await maker.make(Goal(text, context, DAY))
    return answer


async def test_without_a_model_the_playbooks_have_the_last_word(tmp_path: Path) -> None:
    both = PlaybookPlans(LOADED.playbooks, {}, plans(tmp_path / "none"))
    answer = await ask(both, "make me a sandwich")
    assert answer.no_plan.reason == "no playbook has a phrase like this"
    assert answer.no_plan.nearest
    assert (await ask(both, "refund order 1001")).plan.origin == "playbook:refund"


async def test_what_it_decided_and_how_sure_it_was_is_in_the_answer(tmp_path: Path) -> None:
    digest = write_model(tmp_path, OPTIONS)
    shelf.promote(tmp_path, digest)
    for text in ("give 1001 back", "hello there", "close it", "what about 12", "ship it to Ada Lovelace"):
        answer = await ask(plans(tmp_path), text)
        assert answer.thought.model == f"lam:{digest}"
        assert answer.thought.model_sha256.startswith(digest)
        if answer.HasField("plan"):
            assert (answer.plan.origin, answer.plan.origin_sha256[:12]) == (f"lam:{digest}", digest)
            known = conformance.tools_of(answer.plan, LOADED.protos)
            assert known


async def test_what_it_is_not_sure_of_it_does_not_do(tmp_path: Path) -> None:
    shelf.promote(tmp_path, write_model(tmp_path, OPTIONS, sure=0.4))
    for text in ("give 1001 back", "show me order 1001", "close ticket 501 as solved"):
        answer = await ask(plans(tmp_path), text)
        assert answer.WhichOneof("answer") == "no_plan"


async def test_what_it_was_not_trained_on_as_it_is_it_never_decides_on(tmp_path: Path) -> None:
    fingerprints = {one.name: one.fingerprint for one in OPTIONS}
    fingerprints["playbook:refund"] = "0" * 64
    del fingerprints["get_order"]
    digest = write_model(tmp_path, OPTIONS, fingerprints=fingerprints)
    model = open_model(tmp_path / digest, OPTIONS, {})
    assert BY_NAME.keys() - model.offered == {"playbook:refund", "get_order"}
    shelf.promote(tmp_path, write_model(tmp_path, OPTIONS, fingerprints={}))
    for text in ("give 1001 back", "show me order 1001", "close ticket 501 as solved"):
        answer = await ask(plans(tmp_path), text)
        assert (answer.WhichOneof("answer"), list(answer.thought.decisions)) == ("no_plan", [])


async def test_another_model_serves_from_the_next_goal_on(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path, OPTIONS, seed) for seed in (1, 2))
    maker = plans(tmp_path)
    seen = []
    for digest in (first, second, first):
        shelf.promote(tmp_path, digest)
        answers = await asyncio.gather(*(ask(maker, f"do something about {n}") for n in range(4)))
        seen.append({answer.thought.model for answer in answers})
    assert seen == [{f"lam:{first}"}, {f"lam:{second}"}, {f"lam:{first}"}]
    assert shelf.roll_back(tmp_path) == second
    assert (await ask(maker, "do something")).thought.model == f"lam:{second}"
    assert shelf.roll_back(tmp_path) == first
    assert shelf.roll_back(tmp_path) is None


@pytest.mark.parametrize("part", ["card.json", "weights.npz"])
async def test_a_model_that_is_not_whole_serves_nobody(tmp_path: Path, part: str) -> None:
    digest = write_model(tmp_path, OPTIONS)
    shelf.promote(tmp_path, digest)
    file = tmp_path / digest / part
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"2026-11-22", b"2026-11-23") + b" "):
        file.write_bytes(damaged)
        if part == "card.json" and damaged == whole + b" ":
            continue
        answer = await ask(plans(tmp_path), "refund what 1001 paid")
        assert answer.no_plan.reason.startswith("the action model cannot be used: ")
        with pytest.raises(BadModel):
            open_model(tmp_path / digest, OPTIONS, {})
    file.unlink()
    with pytest.raises(BadModel, match="cannot be read"):
        artifact.load(tmp_path / digest)


def test_weights_that_carry_code_are_not_read(tmp_path: Path) -> None:
    import io

    import numpy as np

    file = io.BytesIO()
    np.savez(file, start=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(BadModel, match="cannot be read"):
        artifact.unpack(file.getvalue(), {"start": (1,)})


def test_weights_of_another_shape_are_told_apart(tmp_path: Path) -> None:
    digest = write_model(tmp_path, OPTIONS, heads=3, width=48)
    with pytest.raises(BadModel, match="not those of a network of this version"):
        open_model(tmp_path / digest, OPTIONS, {})


def test_a_playbook_is_instantiated_and_tools_are_chained() -> None:
    plan = assemble((step(1, "playbook:refund", order="1001"),), BY_NAME, PLAYBOOKS)
    assert [one.id for one in plan.steps] == ["order", "refund", "draft", "notify", "earlier"]
    chain = (
        step(1, "get_order", order_id="1001"),
        step(2, "get_customer", customer_id=("s1", "customer_id")),
    )
    plan = assemble(chain, BY_NAME, PLAYBOOKS)
    assert plan.steps[0].arguments["order_id"].constant.json == "1001"
    assert plan.steps[1].arguments["customer_id"].reference == "$s1.customer_id"
    goal = event_pb2.Goal(ceiling=1)
    assert conformance.check_plan(plan, LOADED.protos, goal=goal, limits=conformance.Limits()) == []


def test_what_the_words_left_open_is_taken_from_the_context() -> None:
    refund = BY_NAME["playbook:refund"]
    call = completed(step(1, "playbook:refund", "order").call, refund, {"order": 1001, "other": 2})
    assert (call.arguments["order"].value.json, list(call.missing)) == ("1001", [])
    assert call.arguments["order"].context.key == "order"
    said = completed(step(1, "playbook:refund", order="1002").call, refund, {"order": 1001})
    assert said.arguments["order"].value.json == "1002"
    report = completed(
        step(1, "playbook:weekly_report").call, BY_NAME["playbook:weekly_report"], {"to": "a@b.example"}
    )
    assert report.arguments["to"].value.json == '"a@b.example"'
    asked = (step(1, "playbook:refund", "order"),)
    assert reason_of(Thought("ask", asked, 1.0, 0.5), OPTIONS) == (
        "it reads like refund(), but nothing is said of order: say it, or give it in the context"
    )


def test_what_was_given_stands_in_the_log_once() -> None:
    call = completed(
        step(1, "playbook:note", "text", customer="7").call, BY_NAME["playbook:note"], {"text": "x" * 9_999}
    )
    thought = Thought("plan", (trajectory_pb2.PastStep(id="s1", call=call),), 1.0, 0.5)

    class Named:
        name = "lam:0"
        digest = "0"

    kept = thought_of(type("Model", (), {"artifact": Named})(), thought)  # type: ignore[arg-type]
    (decision,) = kept.decisions
    assert decision.call.arguments["text"].context.key == "text"
    assert not decision.call.arguments["text"].HasField("value")
    assert shown(thought.steps) == "note(customer=7, text=$goal.text)"
    plan = assemble(thought.steps, BY_NAME, PLAYBOOKS)
    assert len(plan.steps[0].arguments["text"].constant.json) == 10_001


def test_a_secret_is_not_shown() -> None:
    secret = step(1, "get_order", password='"hunter2"')
    assert "hunter2" not in shown((secret,))
    answer = event_pb2.PlanAnswer(thought=event_pb2.ModelThought(decisions=[secret]))
    assert "hunter2" not in json.dumps(told.fields(answer))


def test_a_doubt_says_what_it_doubts() -> None:
    steps = (
        step(1, "get_order", order_id="1001"),
        step(2, "get_customer", customer_id=("s1", "customer_id")),
    )
    assert shown(steps) == "get_order(order_id=1001), then get_customer(customer_id=$s1.customer_id)"
    reason = reason_of(Thought("unsure", steps, 0.71, 0.95, doubtful="order_id"), OPTIONS)
    assert reason.endswith(
        "the action model is 71 % sure of order_id, and has to be 95 % sure: say it in other words"
    )


@pytest.mark.parametrize(
    ("outcome", "sure", "left", "asks", "reads"),
    [
        ("unsure", 0.71, "", 0.5, True),
        ("unsure", 0.99, "not", 0.5, True),
        ("unsure", 0.5, "", 0.5, False),
        ("unsure", 1.0, "not", 1.0, False),
        ("none", 0.99, "", 0.5, False),
        ("ask", 0.99, "", 0.5, False),
    ],
)
def test_a_refusal_carries_what_it_would_do_if_that_was_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    sure: float,
    left: str,
    asks: float,
    reads: bool,
) -> None:
    model = open_model(tmp_path / write_model(tmp_path, OPTIONS), OPTIONS, {}, asks)
    steps = (step(1, "get_order", *(["order_id"] if outcome == "ask" else []), order_id="1001"),)
    thought = Thought(outcome, steps, sure, 0.95, "order_id", left)
    monkeypatch.setattr(Thinker, "think", lambda *_: thought)
    found = answer(model, Goal("look 1001 up", {}, DAY), PLAYBOOKS)
    assert found.HasField("no_plan")
    assert found.no_plan.HasField("plan") is reads
    assert [one.tool for one in found.no_plan.plan.steps] == (["get_order"] if reads else [])
    assert found.thought.sure == sure
    assert list(found.no_plan.missing) == (["order_id"] if outcome == "ask" else [])


class Scripted:
    """A decider that says what it was told to, and no network; the same again, or something else."""

    def __init__(self, *decided: Decided, again: Sequence[Decided] | None = None) -> None:
        self.closed = ClosedSet(OPTIONS)
        self.said = list(decided)
        self.again = list(decided if again is None else again)

    def decide(self, situations: Any, today: datetime.date) -> list[Decided]:
        ((goal, _),) = situations
        return [(self.again if goal.startswith(GREETING) else self.said).pop(0)]


def says(option: str, *missing: str, sure: float = 0.99, **arguments: Any) -> Decided:
    decision = trajectory_pb2.Decision()
    if option in ("stop", "abstain"):
        getattr(decision, option).SetInParent()
        return Decided(decision, None, (Part("option", "option", sure),), ())
    decision.call.CopyFrom(step(1, option, *missing, **arguments).call)
    return Decided(decision, BY_NAME[option], (Part("option", "option", sure),), ())


AS_IT_SAYS = Calibration(
    {"option:*": Curve(tuple(n / 100 for n in range(101)), tuple(n / 100 for n in range(101)))}
)
NEEDED = {1: 0.5, 2: 0.6, 3: 0.9, 4: 0.95}


def thinks(*decided: Decided, again: Sequence[Decided] | None = None, **given: Any) -> Thought:
    decider = Scripted(*decided, again=again)
    thinker = Thinker(decider, AS_IT_SAYS, NEEDED, {"do", "it", "hello"})  # type: ignore[arg-type]
    return thinker.think("do it", DAY, given)


def test_what_was_given_is_no_reason_to_stop_early() -> None:
    refund = says("refund_order", order_id=("s1", "id"), amount=("s1", "refundable"), reason='"x"')
    asked = says("get_order", "order_id"), refund, says("stop")
    assert [one.call.option for one in thinks(*asked, order_id=1001).steps] == ["get_order", "refund_order"]
    assert thinks(*asked).outcome == "ask"


def test_a_plan_has_to_be_as_sure_as_the_gravest_of_its_steps_wants() -> None:
    look, send = (
        says("get_order", sure=0.6, order_id="1"),
        says("send_email", sure=0.99, to=("s1", "address")),
    )
    thought = thinks(look, send, says("stop"))
    assert (thought.outcome, thought.sure, thought.needed) == ("unsure", 0.6, 0.95)
    assert thinks(look, says("stop")).outcome == "plan"
    assert thinks(says("send_email", to='"x"'), says("stop", sure=0.94)).outcome == "unsure"
    assert thinks(says("stop")).outcome == "none"
    assert thinks(*(says("get_order", order_id=str(n)) for n in range(9))).outcome == "long"


def test_what_is_said_twice_is_looked_at_once() -> None:
    first, elsewhere = says("get_order", order_id="1"), says("get_order", order_id="1", sure=0.55)
    elsewhere.decision.call.arguments["order_id"].span.start = 7
    elsewhere.decision.call.arguments["order_id"].span.end = 8
    for other in (first, elsewhere):
        thought = thinks(first, other)
        assert [one.call for one in thought.steps] == [first.decision.call]
        assert thought.outcome == "plan"
    # It is as sure of that as of what it said last.
    assert thinks(first, elsewhere).sure == 0.55
    lower = says("get_order", order_id="1", sure=0.4)
    assert thinks(first, lower).outcome == "unsure"
    # Who knows whether they want it twice.
    late = says("playbook:apologise_late")
    for twice in ((late, late), (first, late, first), (late, first, first)):
        assert thinks(*twice).outcome == "none"


def test_what_it_would_do_is_what_it_would_do_after_a_greeting() -> None:
    stop = says("stop")
    look = says("get_order", order_id="1", sure=0.9), stop
    again = says("get_order", order_id="1", sure=0.5), stop
    assert thinks(*look, again=again).outcome == "plan"
    assert thinks(*look, again=again).sure == pytest.approx(0.7)
    assert thinks(*again, again=look).sure == pytest.approx(0.7)
    lower = says("get_order", order_id="1", sure=0.09), stop
    assert thinks(*look, again=lower).outcome == "unsure"
    for other in (
        (says("get_order", order_id="2"), stop),
        (look[0], says("get_order", order_id="2"), stop),
        (says("get_order", "order_id"),),
        (says("abstain"),),
    ):
        thought = thinks(*look, again=other)
        assert (thought.outcome, thought.sure) == ("unsure", 0.0)
        assert [one.call.option for one in thought.steps] == ["get_order"]
        read = "it may read like get_order(order_id=1), but with a greeting before it like "
        assert reason_of(thought, OPTIONS).startswith(read)
    assert "like nothing that it knows: say it in other words" in reason_of(thought, OPTIONS)


def test_it_says_what_the_network_gave_the_least_sure_part_and_what_came_next_there() -> None:
    """Of two readings, those of the less sure one; and the curve may say something else than the network."""
    look = replace(says("get_order", order_id="1", sure=0.9), alternatives=(("get_customer", 0.06),))
    less = replace(says("get_order", order_id="1", sure=0.8), alternatives=(("send_email", 0.11),))
    stop = replace(says("stop"), alternatives=(("refund_order", 0.001),))
    halved = Calibration({"option:*": Curve((0.0, 0.9), (0.4, 0.7))})
    for first, again in ((look, less), (less, look)):
        decider = Scripted(first, stop, again=(again, stop))
        thought = Thinker(decider, halved, NEEDED, {"do", "it", "hello"}).think("do it", DAY)  # type: ignore[arg-type]
        assert (thought.raw, thought.alternatives) == (0.8, (("send_email", 0.11),))
        assert thought.sure == pytest.approx(0.55)
    missed = thinks(replace(says("get_order", "order_id", sure=0.7), alternatives=(("get_customer", 0.2),)))
    assert (missed.outcome, missed.raw, missed.alternatives) == ("ask", 0.7, (("get_customer", 0.2),))


def test_the_log_keeps_what_the_network_gave(tmp_path: Path) -> None:
    model = open_model(tmp_path / write_model(tmp_path, OPTIONS), OPTIONS, {})
    kept = thought_of(model, Thought("plan", sure=0.7, raw=0.8, alternatives=(("get_customer", 0.06),)))
    assert (kept.sure, kept.raw, dict(kept.alternatives)) == (0.7, 0.8, {"get_customer": 0.06})
    # A network that nothing was taught knows no better, and what it does say stands in the log.
    answered = answer(model, Goal("look order 1001 up", {}, DAY), PLAYBOOKS).thought
    assert 0 < len(answered.alternatives) <= 3
    assert {*answered.alternatives} <= {one.name for one in OPTIONS}


def test_two_readings_that_differ_say_in_what() -> None:
    stop = says("stop")
    look = says("get_order", order_id="1"), stop
    assert thinks(*look, again=(says("get_order", order_id="2"), stop)).doubtful == "order_id"
    assert thinks(*look, again=(says("get_customer", customer_id="1"), stop)).doubtful == "option"
    lacking = thinks(*look, again=(says("get_order", "order_id"),))
    assert "like get_order() without order_id" in reason_of(lacking, OPTIONS)
    long, longer = (says("get_order", order_id=f'"{"a" * 70}{end}"') for end in "bc")
    alike = thinks(long, stop, again=(longer, stop))
    assert "like that with something else in it" in reason_of(alike, OPTIONS)
    around = thinks(*look, again=[says("get_order", order_id=str(n)) for n in range(9)])
    assert (around.outcome, [one.call.option for one in around.steps]) == ("unsure", ["get_order"])

    class Named:
        name = "lam:0"
        digest = "0"

    model: Any = type("Model", (), {"artifact": Named})()
    kept = thought_of(model, lacking)
    assert kept.HasField("otherwise")
    assert [one.call.option for one in kept.otherwise.decisions] == ["get_order"]
    assert not thought_of(model, thinks(*look)).HasField("otherwise")


def test_what_it_would_not_do_it_reads_once() -> None:
    # To ask does nothing to anybody, however sure it is, and what is unread is unread.
    assert thinks(says("get_order", "order_id"), again=()).outcome == "ask"
    assert thinks(says("get_order", "order_id", sure=0.45), again=()).outcome == "unsure"
    unread = Scripted(says("get_order", order_id="1"), says("stop"), again=())
    thinker = Thinker(unread, AS_IT_SAYS, NEEDED, {"do", "it"})  # type: ignore[arg-type]
    assert thinker.think("do it 77", DAY).left_over == "77"


@pytest.mark.parametrize("words", [MAX_TOKENS - 2, MAX_TOKENS - 1, MAX_TOKENS])
def test_a_goal_may_be_as_long_as_it_says(words: int) -> None:
    decider = Scripted(says("get_order", order_id="1"), says("stop"))
    thinker = Thinker(decider, AS_IT_SAYS, NEEDED, {"it", "hello"})  # type: ignore[arg-type]
    assert thinker.think(" ".join(["it"] * words), DAY).outcome == "plan"


def test_a_goal_may_ask_for_more_than_one_thing() -> None:
    both = (
        says("playbook:apologise_late"),
        says("playbook:refund", order="1001"),
        says("playbook:refund", order="1002"),
        says("stop"),
    )
    thought = thinks(*both)
    assert thought.outcome == "plan"
    plan = assemble(thought.steps, BY_NAME, PLAYBOOKS)
    assert plan.title == "; ".join(PLAYBOOKS[name].title for name in ("apologise_late", "refund"))
    assert [s.arguments["order_id"].constant.json for s in plan.steps if s.tool == "get_order"] == [
        "1001",
        "1002",
    ]
    assert thinks(*both[:2], says("stop", sure=0.2)).outcome == "unsure"


@pytest.mark.parametrize(
    ("outcome", "origin"), [("plan", "lam:"), ("unsure", "openai:m"), ("ask", "openai:m")]
)
async def test_where_it_is_not_sure_a_bigger_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, origin: str
) -> None:
    shelf.promote(tmp_path, write_model(tmp_path, OPTIONS))
    steps = (step(1, "get_order", *(["order_id"] if outcome == "ask" else []), order_id="1001"),)
    monkeypatch.setattr(Thinker, "think", lambda *_: Thought(outcome, steps, 0.71, 0.95, "order_id"))

    class Bigger:
        async def make(self, goal: Goal) -> event_pb2.PlanAnswer:
            return event_pb2.PlanAnswer(plan=plan_pb2.Plan(origin="openai:m"))

    serving = Serving(tmp_path, LOADED.protos, LOADED.playbooks)
    found = await LamPlans(serving, Bigger()).make(Goal("look 1001 up", {}, DAY))
    assert found.plan.origin.startswith(origin)
    alone = await LamPlans(serving).make(Goal("look 1001 up", {}, DAY))
    assert alone.HasField("plan") is (outcome == "plan")


def test_a_title_is_short_and_shows_all_that_it_holds() -> None:
    odd = replace(BY_NAME["get_order"], text="Look it up.\n\nWith\u202e more" + "x" * 500)
    plan = assemble((step(1, "get_order", order_id="1"),), {"get_order": odd}, PLAYBOOKS)
    assert (plan.title, plan.steps[0].title) == ("Look it up.", "Look it up.")


@pytest.mark.parametrize(
    "written",
    [
        b"\xff\xfe",
        b"\0",
        b"../../etc\n",
        b"/abs\n",
        b"0123456789ab junk\n",
        b"0123456789abc\n",
        b"gone00000000\n",
    ],
)
async def test_a_list_of_models_that_is_none_serves_nobody(tmp_path: Path, written: bytes) -> None:
    (tmp_path / shelf.CHAMPIONS).write_bytes(written)
    answer = await ask(plans(tmp_path), "do something")
    assert answer.no_plan.reason.startswith("the action model cannot be used: ")
    with pytest.raises(BadModel):
        shelf.promote(tmp_path, "0123456789ab")


async def test_whatever_fails_in_a_model_the_run_gets_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.promote(tmp_path, write_model(tmp_path, OPTIONS))
    monkeypatch.setattr(Thinker, "think", lambda *_: 1 / 0)
    answer = await ask(plans(tmp_path), "do something")
    assert answer.no_plan.reason == "the action model failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "changed",
    [
        {"curves": {"option:*": [[0.0, 0.5], [1.0]]}},
        {"curves": {"option:*": [[0.5, 0.0], [0.1, 0.2]]}},
        {"curves": {"option:*": [[0.0], [7.0]]}},
        {"heads": 5},
        {"layers": 10**9},
    ],
)
def test_a_card_that_makes_no_sense_is_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    digest = write_model(tmp_path, OPTIONS)
    card = json.loads((tmp_path / digest / artifact.CARD).read_text())
    (tmp_path / digest / artifact.CARD).write_text(json.dumps(card | changed))
    with pytest.raises(BadModel, match="cannot be read"):
        artifact.load(tmp_path / digest)


def test_weights_that_are_no_numbers_are_not_kept_and_not_read() -> None:
    for wrong in (float("nan"), float("inf"), 1e9):
        weights = weights_of(1)
        weights["start"][0] = wrong
        with pytest.raises(BadModel):
            artifact.pack(weights)
    network = Network({**weights_of(1), "start": weights["start"] * float("nan")}, MEASURES)
    with np.errstate(all="ignore"):
        goal = "refund order 1001"
        (decided,) = Decider(network, CLOSED).decide([(goal, read_situation(goal, [], CLOSED))], DAY)
    assert decided.option is None
    assert AS_IT_SAYS.sure("get_order", [Part("option", "option", float("nan"))]) == 0.0


def test_models_are_promoted_one_after_another(tmp_path: Path) -> None:
    digests = [f"{n:012x}" for n in range(8)]

    def promote(digest: str) -> None:
        for _ in range(20):
            shelf.promote(tmp_path, digest)

    threads = [threading.Thread(target=promote, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = shelf.champions(tmp_path)
    assert set(listed) == set(digests)
    assert all(one != other for one, other in pairwise(listed))
    with pytest.raises(BadModel, match="no model's digest"):
        shelf.promote(tmp_path, "../lam/0123456789")
