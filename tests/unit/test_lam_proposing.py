"""What the action model proposes for a step: of what was granted, of what was given, or nothing."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models import Task
from actors.models.lam import shelf
from actors.models.lam.answering import Model, open_model
from actors.models.lam.inputs import text_of
from actors.models.lam.options import options_of
from actors.models.lam.planning import Outcome, Thinker
from actors.models.lam.proposing import LamProposer, propose
from actors.models.lam.serving import Serving
from core import failures, told, values
from core.grants import check_call
from handrail import project
from handrail.cli import events
from handrail.v1 import event_pb2, plan_pb2
from tests.unit.lam_weights import write_model

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
OPTIONS = options_of(LOADED.protos, LOADED.playbooks)
DAY = datetime.date(2026, 3, 2)
NOTE = plan_pb2.Grant(tool="add_note", open={"text": "", "customer_id": "value == input.customer"})
REPLY = plan_pb2.Grant(tool="reply_to_ticket", open={"body": "size(value) < 400"})
REPLY.arguments["ticket_id"].constant.json = "501"
REFUND = plan_pb2.Grant(tool="refund_order", open={"amount": "value.minor <= 5000", "reason": ""})
REFUND.arguments["order_id"].reference = "$input.order"
WIDE = {"text": "", "customer_id": ""}
INPUTS = {"customer": 7, "order": 1004, "mail": {"subject": "Broken", "body": "please refund 20 EUR"}}


def task(*grants: plan_pb2.Grant, **inputs: Any) -> Task:
    return Task("Settle the complaint", grants, inputs or INPUTS, DAY)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    place = tmp_path_factory.mktemp("lam")
    found = []
    for seed in range(4):
        digest = write_model(place, OPTIONS, seed)
        found.append(open_model(place / digest, OPTIONS, dict.fromkeys(("read", "draft", "write"), 0.01)))
    return found


def test_what_a_step_was_given_is_read_as_one_text() -> None:
    text, leaves = text_of(
        "Settle it",
        {
            "order": {"id": 7, "paid": {"minor": 1250, "currency": "EUR"}, "late": False},
            "tags": ["a", "b"],
            "x": None,
        },
    )
    assert text == "Settle it:\norder id: 7\norder late: false\norder paid: 12.50 EUR\ntags: a, b"
    assert {one.path: text[one.start : one.end] for one in leaves} == {
        "": "Settle it",
        "order.id": "7",
        "order.paid": "12.50 EUR",
        "order.late": "false",
        "tags": "a, b",
    }
    assert text_of("", {})[0] == "Decide what to do"


def test_the_same_inputs_are_one_text_in_whatever_order_they_come() -> None:
    other = {"order": 1004, "mail": {"body": "please refund 20 EUR", "subject": "Broken"}, "customer": 7}
    assert text_of("Settle it", INPUTS) == text_of("Settle it", other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_every_value_stands_where_it_is_said_to_stand(title: str, inputs: dict[str, Any]) -> None:
    text, leaves = text_of(title, inputs)
    ends = 0
    for leaf in leaves:
        assert ends <= leaf.start <= leaf.end <= len(text)
        ends = leaf.end
    for leaf in leaves[1:]:
        assert text[: leaf.start].endswith(": ")


@given(
    st.dictionaries(st.sampled_from(["customer", "order", "mail", "note"]), JSON, max_size=4),
    st.integers(0, 3),
)
def test_whatever_its_weights_and_inputs_are_it_stays_within_its_grants(
    models: list[Model], inputs: dict[str, Any], which: int
) -> None:
    asked = task(NOTE, REPLY, REFUND, **(inputs or INPUTS))
    found = propose(models[which], asked, LOADED.protos)
    if found.HasField("failure"):
        assert found.failure.code == failures.NO_PROPOSAL
        return
    given_ = {name: values.load(value, {}) for name, value in found.call.arguments.items()}
    assert not check_call(found.call, asked.grants, given_, asked.inputs, LOADED.protos)
    (decided,) = found.thought.decisions
    assert {filled.WhichOneof("source") for filled in decided.call.arguments.values()} <= {
        "input",
        "enumerated",
    }


def says(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome = "plan",
    sure: float = 0.99,
    missing: tuple[str, ...] = (),
    **spans: str,
) -> None:
    """Have every model point at these words, surely, for the first option that it was granted."""
    from actors.models.lam.planning import Thought
    from handrail.v1 import trajectory_pb2

    def choose(self: Thinker, text: str, today: datetime.date, among: Any, told: Any) -> Thought:
        call = trajectory_pb2.OptionCall(option=next(iter(among)), missing=missing)
        for name, words in spans.items():
            start = text.index(words)
            call.arguments[name].span.start, call.arguments[name].span.end = start, start + len(words)
            told = {"minor": 2000, "currency": "EUR"} if name == "amount" else words
            call.arguments[name].value.json = values.encode(int(words) if words.isdigit() else told)
        step = trajectory_pb2.PastStep(id="s1", call=call)
        return Thought(outcome, (step,), sure, 0.9, doubtful="text")

    monkeypatch.setattr(Thinker, "choose", choose)


@pytest.mark.parametrize(("sure", "asks"), [(0.6, True), (0.4, False)])
def test_what_a_step_lacks_is_asked_for_where_it_is_sure_enough_to_ask(
    models: list[Model], monkeypatch: pytest.MonkeyPatch, sure: float, asks: bool
) -> None:
    says(monkeypatch, "ask", sure, missing=("text",))
    found = propose(models[0], task(NOTE), LOADED.protos)
    why = "nothing that it was given says text"
    assert found.HasField("call") == asks
    if asks:
        assert (found.call.tool, dict(found.call.arguments), found.call.unsure) == ("add_note", {}, why)
    else:
        assert why in found.failure.message


def test_a_call_says_of_which_input_its_words_are(
    models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, amount="20 EUR", reason="Broken")
    found = propose(models[0], task(REFUND), LOADED.protos)
    assert values.load(found.call.arguments["amount"], {}) == {"minor": 2000, "currency": "EUR"}
    (decided,) = found.thought.decisions
    reason, amount = (decided.call.arguments[name].input for name in ("reason", "amount"))
    assert (reason.path, INPUTS["mail"]["subject"][reason.start : reason.end]) == ("mail.subject", "Broken")
    assert (amount.path, INPUTS["mail"]["body"][amount.start : amount.end]) == ("mail.body", "20 EUR")
    assert found.model == models[0].artifact.name
    assert found.thought.sure == 0.99


def test_what_it_was_not_granted_it_does_not_propose(
    models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, customer_id="1004", text="Broken")
    found = propose(models[0], task(NOTE), LOADED.protos)
    assert "which it was not granted: " in found.failure.message
    assert "it must hold that value == input.customer, and it is 1004" in found.failure.message
    says(monkeypatch, customer_id="7", text="Broken\norder: 1004")
    found = propose(models[0], task(NOTE), LOADED.protos)
    assert "text lies across two inputs" in found.failure.message
    says(monkeypatch, customer_id="Broken", text="please")
    found = propose(models[0], task(plan_pb2.Grant(tool="add_note", open=WIDE)), LOADED.protos)
    assert "arguments.customer_id: expected an integer" in found.failure.message


@pytest.mark.parametrize(
    ("outcome", "sure", "asks", "unsure"),
    [
        ("plan", 0.99, 0.5, ""),
        ("unsure", 0.71, 0.5, "the action model is 71% sure of text, and has to be 90% sure"),
        ("unread", 0.99, 0.5, "that would act on nothing that it was given"),
        ("unsure", 0.5, 0.5, None),
        ("unsure", 1.0, 1.0, None),
        ("unread", 0.3, 0.5, None),
        ("unsure", 0.01, 0.0, "the action model is 1% sure of text, and has to be 90% sure"),
    ],
)
def test_what_it_is_not_sure_enough_of_it_asks(
    models: list[Model],
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    sure: float,
    asks: float,
    unsure: str | None,
) -> None:
    says(monkeypatch, outcome, sure, customer_id="7", text="Broken")
    found = propose(replace(models[0], asks=asks), task(NOTE), LOADED.protos)
    assert found.HasField("call") is (unsure is not None)
    assert found.call.unsure == (unsure or "")
    # What it may not do it does not ask, either.
    says(monkeypatch, outcome, sure, customer_id="1004", text="Broken")
    assert propose(replace(models[0], asks=asks), task(NOTE), LOADED.protos).HasField("failure")


def test_what_a_secret_was_stands_in_no_reason(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, password="hunter2", customer_id="7", text="Broken")
    grant = plan_pb2.Grant(tool="add_note", open={**WIDE, "password": "size(value) > 20"})
    found = propose(models[0], task(grant, password="hunter2", customer=7, mail="Broken"), LOADED.protos)
    assert "it must hold that size(value) > 20" in found.failure.message
    assert "hunter2" not in found.failure.message
    event = event_pb2.Event(proposal=found)
    assert "hunter2" not in json.dumps([told.fields(event), events.message_object(event.proposal)])


def test_of_two_grants_of_a_tool_the_one_that_allows_it_is_taken(
    models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = plan_pb2.Grant(tool="add_note", open=WIDE)
    says(monkeypatch, customer_id="1004", text="Broken")
    assert propose(models[0], task(NOTE, wider), LOADED.protos).call.grant == 1
    # Where both do, what is fixed of them differs, and that it does not see.
    says(monkeypatch, customer_id="7", text="Broken")
    found = propose(models[0], task(NOTE, wider), LOADED.protos)
    assert "several of the grants allow" in found.failure.message


@pytest.mark.parametrize(
    "inputs",
    [
        {"thread": [{"text": "hello", "by": "us"}, {"text": "Broken \n"}]},
        {"a.b": "Broken", "a": {"b": "hello"}},
        {"mail": {"body": "\n   so: Broken"}},
        {"mail": ["hello", 1.5, "Broken"]},
    ],
    ids=str,
)
def test_a_path_and_its_characters_lead_to_the_words(
    models: list[Model], monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any]
) -> None:
    says(monkeypatch, reason="Broken")
    found = propose(models[0], task(REFUND, order=1004, **inputs), LOADED.protos)
    source = found.thought.decisions[0].call.arguments["reason"].input
    paths = {"thread[1].text", '["a.b"]', "mail.body", "mail[2]"}
    assert source.path in paths
    value = inputs
    for name, at in re.findall(r'\["?([^]"]+)"?\]|(\w+)', source.path):
        key = name or at
        value = value[int(key) if key.isdigit() else key]  # type: ignore[assignment]
    assert str(value)[source.start : source.end] == "Broken"


@pytest.mark.parametrize(
    "inputs",
    [
        {str(n): "" for n in range(70)},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": "do NOT"}}}}}}},
        {"mail": "word " * 500},
    ],
    ids=["many", "deep", "long"],
)
def test_what_is_not_read_whole_is_not_acted_on(models: list[Model], inputs: dict[str, Any]) -> None:
    found = propose(models[0], task(NOTE, **inputs), LOADED.protos)
    assert "it was given" in found.failure.message


def test_what_the_author_of_a_step_calls_it_denies_nothing(models: list[Model]) -> None:
    asked = Task("Decide whether not to reply, if it was late", [REPLY], {"order_no": "Broken"}, DAY)
    for one in models:
        said = propose(one, asked, LOADED.protos)
        assert "what it was given says" not in said.failure.message


def test_before_it_acts_it_heeds_a_denial_in_what_it_was_given(models: list[Model]) -> None:
    told = [propose(one, task(REPLY, mail="We do not want a refund"), LOADED.protos) for one in models]
    for one in told:
        assert one.HasField("failure") or one.call.unsure == "what it was given says 'not'"


async def test_a_project_without_a_model_proposes_nothing(tmp_path: Path) -> None:
    serving = Serving(tmp_path, LOADED.protos, LOADED.playbooks)
    found = await LamProposer(serving).propose(task(NOTE))
    assert found.failure.message == "this project has no action model that serves"
    (tmp_path / shelf.CHAMPIONS).write_text("0123456789ab\n")
    found = await LamProposer(serving).propose(task(NOTE))
    assert found.failure.message.startswith("the action model cannot be used: ")


async def test_whatever_fails_in_a_model_the_step_gets_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.promote(tmp_path, write_model(tmp_path, OPTIONS))
    monkeypatch.setattr(Thinker, "choose", lambda *_: 1 / 0)
    found = await LamProposer(Serving(tmp_path, LOADED.protos, LOADED.playbooks)).propose(task(NOTE))
    assert found.failure.message == "the action model failed: ZeroDivisionError: division by zero"
    assert failures.failure_class(found.failure) == event_pb2.FAILURE_CLASS_PERMANENT
