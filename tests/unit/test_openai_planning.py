"""Plans of a model behind an endpoint: what it calls becomes a plan, or is refused with what it did."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from actors.models import Goal
from actors.models.lam.options import options_of
from actors.models.openai.endpoint import Endpoint
from actors.models.openai.minds import EndpointPlans
from actors.models.openai.questions import plan_question
from actors.models.playbooks import PlaybookPlans
from core import values
from core.spelling import hint
from handrail.project import limits_of, load
from handrail.v1 import event_pb2, tool_pb2
from tests.acceptance.conftest import ROOT
from tests.openai_endpoint import MODEL, Reply, calls, endpoint, fails, message, says, tools_of

LOADED = load(ROOT / "examples" / "backoffice")
DAY = datetime.date(2026, 3, 2)
NAME = f"openai:{MODEL}"


async def planned(*replies: Reply, goal: str = "do it", **context: Any) -> event_pb2.PlanAnswer:
    with endpoint(*replies) as fake:
        maker = EndpointPlans(
            Endpoint(fake.url, MODEL), LOADED.protos, LOADED.playbooks, limits_of(LOADED.settings)
        )
        found = await maker.make(Goal(goal, context, DAY))
    # The log takes it.
    found.SerializeToString()
    return found


async def refused(*replies: Reply, goal: str = "do it", **context: Any) -> str:
    found = await planned(*replies, goal=goal, **context)
    assert found.WhichOneof("answer") == "no_plan", found
    assert found.no_plan.reason.isprintable()
    return found.no_plan.reason


def form(found: event_pb2.PlanAnswer) -> list[dict[str, Any]]:
    return [
        {
            "id": step.id,
            "tool": step.tool,
            "with": {
                name: one.reference or values.load(one.constant, {}) for name, one in step.arguments.items()
            },
        }
        for step in found.plan.steps
    ]


async def test_calls_become_one_plan_that_names_the_model() -> None:
    goal = "who is behind order 1004? note that she called"
    found = await planned(
        calls(
            ("get_order", {"order_id": 1004}),
            ("get_customer", {"customer_id": "$s1.customer_id"}),
            ("add_note", {"customer_id": "$s2.id", "text": "she called"}),
        ),
        goal=goal,
    )
    assert form(found) == [
        {"id": "s1", "tool": "get_order", "with": {"order_id": 1004}},
        {"id": "s2", "tool": "get_customer", "with": {"customer_id": "$s1.customer_id"}},
        {"id": "s3", "tool": "add_note", "with": {"customer_id": "$s2.id", "text": "she called"}},
    ]
    assert (found.plan.origin, found.plan.origin_sha256) == (NAME, "")
    thought = found.thought
    assert (thought.model, thought.sure, thought.needed) == (NAME, 0, 0)
    assert (thought.input_tokens, thought.output_tokens) == (1_200, 34)
    first, _, third = (step.call.arguments for step in thought.decisions)
    assert goal[first["order_id"].span.start : first["order_id"].span.end] == "1004"
    assert goal[third["text"].span.start : third["text"].span.end] == "she called"
    assert third["customer_id"].field.step == "s2"


async def test_a_playbook_is_called_like_a_tool_and_joined_with_others() -> None:
    found = await planned(
        calls(("playbook_refund", {"order": 1001}), ("get_order", {"order_id": 1004})),
        goal="refund 1001, then show me 1004",
    )
    ids = [step.id for step in found.plan.steps]
    assert all(one.startswith("s1_") for one in ids[:-1])
    assert ids[-1] == "s2"
    # What is looked at after an effect waits for it.
    assert found.plan.steps[-1].after


async def test_slots_are_read_like_the_words_of_a_goal() -> None:
    found = await planned(
        calls(("playbook_partial_refund", {"order": 1001, "amount": "12.50 EUR"})),
        goal="give 12.50 EUR of order 1001 back",
    )
    (call,) = (step.call for step in found.thought.decisions)
    assert json.loads(call.arguments["amount"].value.json) == {"minor": 1250, "currency": "EUR"}
    assert call.arguments["amount"].HasField("span")


async def test_what_nobody_said_is_taken_and_told() -> None:
    found = await planned(calls(("get_order", {"order_id": 1007})), goal="show me the order of Ines")
    assert form(found)[0]["with"] == {"order_id": 1007}
    assert found.thought.decisions[0].call.arguments["order_id"].HasField("untraced")


async def test_what_was_given_can_be_named_and_stands_where_it_is_missing() -> None:
    reply = calls(("get_order", {"order_id": "$goal.number"}))
    found = await planned(reply, goal="show it to me", number=1004)
    assert form(found)[0]["with"] == {"order_id": 1004}
    filled = found.thought.decisions[0].call.arguments["order_id"]
    assert (filled.context.key, filled.HasField("value")) == ("number", False)
    found = await planned(calls(("get_order", {"order_id": None})), goal="show it to me", order_id=1004)
    assert form(found)[0]["with"] == {"order_id": 1004}
    found = await planned(
        calls(("playbook_refund", {"order": "$goal.number"})), goal="refund it", number=1004
    )
    assert found.HasField("plan")


async def test_what_is_missing_is_asked_for() -> None:
    found = await planned(calls(("playbook_refund", {"order": None})), goal="refund my order")
    assert "nothing is said of order: say it, or give it in the context" in found.no_plan.reason
    assert (list(found.no_plan.nearest), list(found.no_plan.missing)) == (["refund()"], ["order"])
    assert "nothing is said of order" in await refused(calls(("playbook_refund", {})), goal="refund my order")


async def test_what_may_be_left_out_has_its_default() -> None:
    found = await planned(calls(("list_orders", {"customer_id": 4, "status": None, "limit": None})))
    assert form(found)[0]["with"] == {"customer_id": 4}


async def test_a_dollar_that_is_meant_is_written_with_two() -> None:
    found = await planned(
        calls(("add_note", {"customer_id": 4, "text": "$$5 off"})), goal="note $5 off for 4"
    )
    assert form(found)[0]["with"]["text"] == "$5 off"


async def test_a_text_is_shown_as_what_it_asks() -> None:
    reason = await refused(says("Which order\x1b[2J do you\n\nmean?\u202e"))
    assert reason == f"{NAME}: it says 'Which order[2J do you mean?'"
    assert len(await refused(says("x" * 10_000))) < 500


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (calls(("nothing", {"reason": "no such thing"})), "it would do nothing: 'no such thing'"),
        (calls(("get_order", {"order_id": 1}), ("nothing", {"reason": "?"})), "it would do nothing"),
        (calls(("nothing", {})), "it does not say why"),
        (calls(("drop_tables", {})), "it calls 'drop_tables', which there is not"),
        (calls(("get_orders", {"order_id": 1})), f"which there is not{hint('get_orders', LOADED.protos)}"),
        (calls(("refund", {"order": 1})), "'refund', which there is not"),
        (calls(("get_order", {"order_id": 1, "evil": 1})), "with 'evil', which that does not take"),
        (
            calls(("get_order", {"order_id": "1004"})),
            'it would do get_order(order_id="1004"), which cannot be',
        ),
        (calls(("get_order", {"order_id": {"$ref": "#"}})), "which cannot be"),
        (calls(("get_order", {"order_id": "$s1.id"})), "$s1.id is of no earlier call"),
        (calls(("get_order", {"order_id": "$goal.order"})), "was not given with the goal"),
        (calls(("get_order", {"order_id": "$each"})), "is of no earlier call"),
        (calls(("get_order", {"order_id": "$"})), "is not a reference"),
        (calls(("get_order", {"order_id": ["$s1.id"]})), "where no reference can stand"),
        (calls(("add_note", {"customer_id": 4, "text": ""})), "which cannot be done"),
        (calls(("playbook_refund", {"order": "x"})), "order cannot be: 'x' is not a whole number"),
        (calls(("playbook_refund", {"order": [1]})), "order cannot be"),
        (
            calls(("get_order", {"order_id": 1}), ("get_customer", {"customer_id": "$s1"})),
            "$s1 does not say which field",
        ),
        (
            calls(("get_order", {"order_id": 1}), ("get_customer", {"customer_id": "$s1.nonsense"})),
            "which cannot be done",
        ),
        (
            calls(("playbook_refund", {"order": 1}), ("get_order", {"order_id": "$s1.id"})),
            "$s1.id is of a playbook, which returns nothing",
        ),
        (
            calls(("get_order", {"order_id": 1}), ("playbook_refund", {"order": "$s1.order_id"})),
            "is not known then",
        ),
        (calls(("get_order", {"order_id": 1}), ("get_order", {"order_id": 1})), "twice"),
        (calls(("get_order", '{"order_id": 1')), "are not JSON"),
        (calls(("get_order\x1b[31m", '{"order_id": 1')), "are not JSON"),
        (says(""), "neither a call nor a text"),
        (Reply(message("length", content="[{")), "cut off"),
        (Reply(message(refusal="no")), "it refuses: 'no'"),
        (Reply({"choices": message()["choices"] * 2}), "2 choices"),
        (Reply(b"<html>"), "not JSON"),
        (fails(500), "failed (500)"),
        (fails(401), "openai.key"),
        (fails(400, "this model's maximum context length is 8192 tokens"), "8192 tokens"),
    ],
)
async def test_what_it_does_wrong_is_refused_with_what_it_is(reply: Reply, says: str) -> None:
    assert says in await refused(reply, goal="show me order 1 or so")


async def test_what_it_is_asked_is_the_closed_set_in_strict_form() -> None:
    with endpoint(calls(("nothing", {}))) as fake:
        maker = EndpointPlans(
            Endpoint(fake.url, MODEL), LOADED.protos, LOADED.playbooks, limits_of(LOADED.settings)
        )
        await maker.make(Goal("make me a sandwich", {"password": "hunter22", "bad key": 1}, DAY))
    (asked,) = fake.asked
    tools = tools_of(asked)
    assert len(tools) == len(LOADED.protos) + len(LOADED.playbooks) + 1
    # The endpoint has checked that what says so is strict; of the sample's all is.
    assert all(one["strict"] for one in tools.values())
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("required", True)
    assert [one["content"] for one in asked["messages"][1:]] == ["make me a sandwich"]
    # What was given beside the goal is named, and stays here.
    assert "$goal.password" in asked["messages"][0]["content"]
    assert "hunter22" not in json.dumps(asked)
    assert "bad key" not in json.dumps(asked)
    keyed = {
        name: contract.key_parameter for name, contract in LOADED.protos.items() if contract.key_parameter
    }
    assert keyed
    assert not any(key in tools[name]["parameters"]["properties"] for name, key in keyed.items())


def test_two_things_never_have_one_name() -> None:
    contracts = {}
    for name in ("nothing", "playbook_refund"):
        contracts[name] = tool_pb2.ToolContract()
        contracts[name].CopyFrom(LOADED.protos["get_order"])
        contracts[name].name = name
    books = {one.name: one for one in LOADED.playbooks if one.name == "refund"}
    question = plan_question(Goal("x", {}, DAY), options_of(contracts, books.values()), contracts, books)
    assert question.meant == {
        "nothing_2": "nothing",
        "playbook_refund": "playbook_refund",
        "playbook_refund_2": "playbook:refund",
    }


async def test_playbooks_are_matched_first_and_told_where_nothing_came_of_it() -> None:
    with endpoint(says("Which?")) as fake:
        maker = EndpointPlans(
            Endpoint(fake.url, MODEL), LOADED.protos, LOADED.playbooks, limits_of(LOADED.settings)
        )
        both = PlaybookPlans(LOADED.playbooks, {}, maker)
        found = await both.make(Goal("refund order 1001", {}, DAY))
        assert found.plan.origin == "playbook:refund"
        assert fake.asked == []
        found = await both.make(Goal("give all of it back", {}, DAY))
        assert found.no_plan.reason.endswith("it says 'Which?'")
        assert found.no_plan.nearest


async def test_one_that_does_not_answer_is_left() -> None:
    with endpoint(Reply(message(), hangs=True)) as fake:
        slow = Endpoint(fake.url, MODEL, timeout_s=0.3)
        maker = EndpointPlans(slow, LOADED.protos, LOADED.playbooks, limits_of(LOADED.settings))
        found = await maker.make(Goal("do it", {}, DAY))
    assert "did not answer within 0.3 s" in found.no_plan.reason
    assert found.thought.model == NAME


async def test_whatever_else_goes_wrong_the_run_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("actors.models.openai.thinking.plan_question", broken)
    assert "failed: RuntimeError: a bug" in await refused(says("x"))
