"""The shadow and graduation: what counts as right, how it is counted, and who is asked first then."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from actors.models import Task
from actors.models.lam import graduation, shadowing, shelf
from actors.models.lam.answering import open_model
from actors.models.lam.graduation import GraduatedProposer, bound, graduated, kind_of, standing
from actors.models.lam.options import options_of
from actors.models.lam.serving import Serving
from actors.models.lam.shadowing import Seen, shadow, tally
from core import failures, values
from core.conformance import Limits
from core.policy import ALLOWED, Ruling
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from tests.policies import LOST, FunctionPolicy
from tests.scenarios.play import KEY, Play, contract, write
from tests.unit.lam_weights import write_model

NOTE_SCHEMA = (
    '{"type":"object","properties":{"text":{"type":"string"},"customer":{"type":"integer"}},'
    '"required":["text"],"additionalProperties":false}'
)
KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
CONTRACTS = {
    one.name: one
    for one in (
        write("add_note", input_schema=NOTE_SCHEMA, post="output.id > 0", **KEYED),
        contract("list_orders"),
    )
}
GRANTS = [{"tool": "add_note", "open": {"text": ""}}, {"tool": "list_orders"}]
SETTLE = {"id": "settle", "title": "Settle it", "with": {"mail": "$goal.mail"}, "grants": GRANTS}
MAIL = "please note that I am away"
DAY = datetime.date(2026, 3, 2)


def asked(mail: str = MAIL) -> Play:
    play = Play(*CONTRACTS.values(), limits=Limits(proposers=True))
    return play.submit(SETTLE, context=plan_pb2.Value(json=values.encode({"mail": mail})))


def done(play: Play, attempt: str = "settle-a2", *, seen: bool = True) -> Play:
    play.intent(attempt).output(attempt, {"id": 1})
    body = event_pb2.Verdict(attempt=attempt, round=1, outcome=event_pb2.OUTCOME_CONFIRMED)
    fact = play._attempt(attempt)
    assert fact is not None
    assert fact.result is not None
    body.result_id = fact.result.event_id
    if seen:
        body.evidence.add(condition="output.id > 0", held=True)
    return play.fact(("verifier", "main", "verdict", attempt), "verdict", body)


class Says:
    """A model that proposes what it was told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tool, self.arguments, self.unsure = "add_note", {"text": "I am away"}, ""
        self.seen: list[Task] = []
        monkeypatch.setattr(shadowing, "propose", self.propose)

    def propose(self, model: Any, task: Task, contracts: Any) -> event_pb2.Proposal:
        self.seen.append(task)
        found = event_pb2.Proposal(model="lam:0123456789ab", thought=event_pb2.ModelThought(sure=0.9))
        if not self.tool:
            found.failure.CopyFrom(failures.permanent(failures.NO_PROPOSAL, "it may be this or that"))
            return found
        found.call.tool, found.call.unsure = self.tool, self.unsure
        for name, value in self.arguments.items():
            found.call.arguments[name].CopyFrom(values.inline(value))
        return found


def of(play: Play) -> list[Seen]:
    return [one for one in shadow(None, KEY, play.records, (), CONTRACTS) if one.step]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tool", "text", "unsure", "said"),
    [
        ("add_note", "I am away", "", "same"),
        ("add_note", "i am away.", "", "same"),
        ("add_note", "away", "", "other"),
        ("list_orders", None, "", "other"),
        ("add_note", "I am away", "it guesses", "asks"),
        ("add_note", "away", "it guesses", "asks other"),
        ("", None, "", "nothing"),
    ],
)
def test_what_was_verified_is_what_it_is_held_against(
    monkeypatch: pytest.MonkeyPatch, tool: str, text: str | None, unsure: str, said: str
) -> None:
    model = Says(monkeypatch)
    model.tool, model.unsure = tool, unsure
    model.arguments = {} if text is None else {"text": text}
    play = done(asked().propose("settle-a1", 0, "add_note", text="I am away"))
    assert play.status == "done"
    (one,) = of(play)
    assert (one.said, one.step, one.was) == (said, "settle", 'add_note(text="I am away")')
    assert [(task.title, task.inputs) for task in model.seen] == [("Settle it", {"mail": MAIL})]


def test_what_nobody_knows_to_be_right_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Says(monkeypatch)
    proposed = asked().propose("settle-a1", 0, "add_note", text="I am away")
    assert of(proposed) == []
    failed = asked().propose("settle-a1", 0, "add_note", text="I am away").intent("settle-a2")
    assert failed.failed("settle-a2").status == "failed"
    assert of(failed) == []
    assert of(done(asked().propose("settle-a1", 0, "add_note", text="I am away"), seen=False)) == []
    own = asked()
    call = event_pb2.Call(tool="add_note", arguments={"text": values.inline("I am away")})
    body = event_pb2.Proposal(attempt="settle-a1", call=call, model="lam:0123456789ab")
    own.fact(("executor", "main", "proposal", "settle-a1"), "proposal", body)
    assert of(done(own)) == []


def test_what_somebody_approved_or_amended_or_denied_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Says(monkeypatch)

    def unsure() -> Play:
        call = event_pb2.Call(tool="add_note", unsure="it guesses")
        call.arguments["text"].CopyFrom(values.inline("I am away"))
        body = event_pb2.Proposal(attempt="settle-a1", call=call, model="lam:0123456789ab")
        return asked().fact(("executor", "main", "proposal", "settle-a1"), "proposal", body)

    assert [one.said for one in of(done(unsure().decide("bo")))] == ["same"]
    amend = event_pb2.GATE_CHOICE_AMEND
    (one,) = of(done(unsure().decide("bo", choice=amend, arguments={"text": values.inline("gone")})))
    assert (one.said, one.was) == ("other", 'add_note(text="gone")')
    assert [(one.said, one.was) for one in of(unsure().decide("bo", deny=True))] == [("other", "nothing")]
    model.tool = ""
    assert [one.said for one in of(unsure().decide("bo", deny=True))] == ["nothing"]


def test_what_somebody_had_to_say_nobody_could_have_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Says(monkeypatch)
    model.arguments, model.unsure = {}, "nothing says text"

    def lacking() -> Play:
        return asked().propose("settle-a1", 0, "add_note", unsure="nothing says text")

    amend = event_pb2.GATE_CHOICE_AMEND
    said = lacking().decide("bo", choice=amend, arguments={"text": values.inline("gone")})
    assert done(said).status == "done"
    assert of(said) == []
    assert [(one.said, one.was) for one in of(lacking().decide("bo", deny=True))] == [
        ("asks other", "nothing")
    ]


def test_where_the_other_mind_did_nothing_to_act_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    Says(monkeypatch)
    failure = failures.permanent(failures.NO_PROPOSAL, "nothing fits")
    body = event_pb2.Proposal(attempt="settle-a1", failure=failure, model="function:m:f")
    play = asked().fact(("executor", "main", "proposal", "settle-a1"), "proposal", body)
    assert [(one.said, one.was) for one in of(play)] == [("other", "nothing")]


def test_who_gives_up_a_doubt_says_nothing_of_what_was_right(monkeypatch: pytest.MonkeyPatch) -> None:
    Says(monkeypatch)
    doubtful = write("add_note", input_schema=NOTE_SCHEMA, doubt=True)
    play = Play(doubtful, contract("list_orders"), limits=Limits(proposers=True))
    play.submit(SETTLE, context=plan_pb2.Value(json=values.encode({"mail": MAIL})))
    play.propose("settle-a1", 0, "add_note", text="I am away")
    play.intent("settle-a2").orphan("settle-a2", seen_dead=True).decide("bo", deny=True)
    assert (play.status, of(play)) == ("failed", [])


def test_who_denies_several_actions_at_once_says_of_none_that_it_was_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Says(monkeypatch)
    play = Play(*CONTRACTS.values(), limits=Limits(proposers=True))
    mails = plan_pb2.Value(json=values.encode({"mails": [MAIL, "please"]}))
    play.submit({**SETTLE, "each": "$goal.mails", "with": {"mail": "$each"}}, context=mails).pause()
    for attempt in ("settle-0-a1", "settle-1-a1"):
        play.propose(attempt, 0, "add_note", unsure="it guesses", text="I am away")
    play.resume()
    assert [len(gate.opened.items) for gate in play.state.gates.values()] == [2]
    assert (play.decide("bo", deny=True).status, of(play)) == ("failed", [])


def test_who_denies_a_stand_in_says_nothing_of_what_was_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    Says(monkeypatch)
    two = [
        write(name, input_schema=NOTE_SCHEMA, capability="note", **KEYED) for name in ("add_note", "note_too")
    ]
    asks = FunctionPolicy(lambda r: Ruling("gate", (LOST,), 1) if r.contract.name == "note_too" else ALLOWED)
    play = Play(*two, contract("list_orders"), limits=Limits(proposers=True), policy=asks)
    other = {"id": "other", "tool": "note_too", "with": {"text": "x"}, "after": ["settle"]}
    play.submit(SETTLE, other, context=plan_pb2.Value(json=values.encode({"mail": MAIL})))
    play.propose("settle-a1", 0, "add_note", text="I am away").intent("settle-a2").failed("settle-a2")
    assert (play.decide("bo", deny=True).status, of(play)) == ("failed", [])


def test_an_executor_without_a_mind_says_nothing_of_what_was_right(monkeypatch: pytest.MonkeyPatch) -> None:
    Says(monkeypatch)
    failure = failures.permanent(failures.NO_PROPOSAL, "this executor has nothing that proposes")
    body = event_pb2.Proposal(attempt="settle-a1", failure=failure)
    assert of(asked().fact(("executor", "main", "proposal", "settle-a1"), "proposal", body)) == []


def test_a_goal_whose_context_lies_elsewhere_is_not_compared() -> None:
    play = Play(*CONTRACTS.values())
    context = plan_pb2.Value(blob=plan_pb2.Blob(sha256="ab" * 32, size_bytes=70_000))
    play.submit({"id": "look", "tool": "list_orders"}, context=context, teaches=True)
    play.intent("look-a1").done("look-a1", {})
    assert play.status == "done"
    assert list(shadow(None, KEY, play.records, (), CONTRACTS)) == []  # type: ignore[arg-type]


def test_the_same_words_count_once_by_the_worst_of_them() -> None:
    def seen(said: Any, about: str, kind: str = "k") -> Seen:
        return Seen("r", "s", kind, "Settle it", said, 0.9, "", "", about)

    (one,) = tally([seen("same", "a"), seen("same", "a"), seen("other", "a"), seen("asks", "b")])
    assert (one.seen, one.acted, one.same, one.asked, one.asked_same) == (2, 1, 0, 1, 1)
    goal, step = tally([seen("same", "a", ""), seen("nothing", "a")])[::-1]
    assert (goal.kind, step.seen, step.acted, step.bound) == ("", 1, 0, 0.0)


def test_the_bound() -> None:
    assert bound(0, 0) == 0.0
    assert bound(51, 51) < 0.95 <= bound(52, 52)
    assert bound(99, 100) < bound(990, 1_000) < 0.99
    assert 0.0 == bound(0, 10) < bound(1, 10) < 0.1


def test_a_kind_is_what_the_author_wrote() -> None:
    def grant(fixed: str, condition: str = "") -> plan_pb2.Grant:
        made = plan_pb2.Grant(tool="add_note", open={"text": condition})
        made.arguments["customer"].constant.json = fixed
        return made

    kind = kind_of("Settle it", ["mail", "order"], [grant("1")])
    assert kind == kind_of("Settle it", ["order", "mail"], [grant("2")])
    others = {
        kind_of("Settle", ["mail", "order"], [grant("1")]),
        kind_of("Settle it", ["mail"], [grant("1")]),
        kind_of("Settle it", ["mail", "order"], [grant("1", "size(value) < 9")]),
        kind_of("Settle it", ["mail", "order"], [grant("1"), grant("1")]),
    }
    assert kind not in others
    assert len(others) == 4


class Other:
    """Another mind."""

    def __init__(self) -> None:
        self.asked = 0

    async def propose(self, task: Task) -> event_pb2.Proposal:
        self.asked += 1
        return event_pb2.Proposal(model="function:m:f", call=event_pb2.Call(tool="list_orders", grant=1))


@pytest.mark.parametrize(
    ("kind", "unsure", "model"),
    [
        ("its own", "", "lam:x"),
        ("its own", "it guesses", "function:m:f"),
        ("another", "", "function:m:f"),
        (None, "", "function:m:f"),
    ],
)
async def test_the_model_is_asked_first_about_what_has_graduated_and_the_other_where_it_is_unsure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, unsure: str, model: str
) -> None:
    options = options_of(CONTRACTS, ())
    digest = write_model(tmp_path, options)
    shelf.promote(tmp_path, digest)
    task = Task("Settle it", (plan_pb2.Grant(tool="add_note", open={"text": ""}),), {"mail": MAIL}, DAY)
    name = kind_of(task.title, task.inputs, task.grants) if kind == "its own" else "0" * 12
    if kind is not None:
        held = standing(open_model(tmp_path / digest, options, {}))
        graduation.write(tmp_path, held, {name: {"same": 60}})
        assert graduated(tmp_path, held).keys() == {name}
        # For a model that has to be less sure nothing has.
        assert graduated(tmp_path, standing(open_model(tmp_path / digest, options, {"write": 0.123}))) == {}
    found = event_pb2.Proposal(model="lam:x", call=event_pb2.Call(tool="add_note", unsure=unsure))
    found.thought.sure = 0.9

    async def propose(self: Any, task: Task, model: Any) -> event_pb2.Proposal:
        return found

    monkeypatch.setattr("actors.models.lam.proposing.LamProposer.propose", propose)
    other = Other()
    said = await GraduatedProposer(Serving(tmp_path, CONTRACTS, ()), tmp_path, other).propose(task)
    assert (said.model, other.asked) == (model, int(model != "lam:x"))
    # Where it was asked and was not sure, that is told.
    assert said.HasField("thought") is (kind == "its own")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 1}', '{"model": "MODEL", "kinds": {"a": 1}}', "\xff"]
)
async def test_a_file_that_cannot_be_read_graduates_nothing(tmp_path: Path, text: str) -> None:
    digest = write_model(tmp_path, options_of(CONTRACTS, ()))
    shelf.promote(tmp_path, digest)
    held = standing(open_model(tmp_path / digest, options_of(CONTRACTS, ()), {}))
    (tmp_path / graduation.GRADUATED).write_text(text.replace("MODEL", held), encoding="latin-1")
    other = Other()
    task = Task("Settle it", (plan_pb2.Grant(tool="list_orders"),), {}, DAY)
    await GraduatedProposer(Serving(tmp_path, CONTRACTS, ()), tmp_path, other).propose(task)
    assert other.asked == 1


async def test_a_model_that_has_shown_nothing_is_not_asked_for_one_that_it_replaces_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(CONTRACTS, ())
    digest, other = (write_model(tmp_path, options, seed=seed) for seed in (1, 2))
    shelf.promote(tmp_path, digest)
    task = Task("Settle it", (plan_pb2.Grant(tool="list_orders"),), {}, DAY)
    kind = kind_of(task.title, task.inputs, task.grants)
    graduation.change(tmp_path, standing(open_model(tmp_path / digest, options, {})), kind, {"same": 60})
    asked: list[str] = []

    def propose(model: Any, task: Task, contracts: Any) -> event_pb2.Proposal:
        asked.append(model.digest)
        return event_pb2.Proposal(model="lam:x", call=event_pb2.Call(tool="list_orders"))

    def graduated_just_before(place: Path, held: str) -> Any:
        found = graduated(place, held)
        shelf.promote(tmp_path, other)
        return found

    monkeypatch.setattr("actors.models.lam.proposing.propose", propose)
    monkeypatch.setattr(graduation, "graduated", graduated_just_before)
    proposer = GraduatedProposer(Serving(tmp_path, CONTRACTS, ()), tmp_path, Other())
    await proposer.propose(task)
    assert asked == [digest]
    assert (await proposer.propose(task)).model == "function:m:f"


async def test_whatever_is_wrong_with_the_model_the_other_mind_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / graduation.GRADUATED).write_text("{}")

    async def current(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Serving, "current", current)
    other = Other()
    task = Task("Settle it", (plan_pb2.Grant(tool="list_orders"),), {}, DAY)
    await GraduatedProposer(Serving(tmp_path, CONTRACTS, ()), tmp_path, other).propose(task)
    assert other.asked == 1


def test_kinds_that_graduate_at_once_are_all_kept(tmp_path: Path) -> None:
    digest = "0" * 12
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda kind: graduation.change(tmp_path, digest, f"{kind}", {}), range(40)))
    assert graduated(tmp_path, digest).keys() == {f"{kind}" for kind in range(40)}
    graduation.change(tmp_path, digest, "7", None)
    assert len(graduated(tmp_path, digest)) == 39
