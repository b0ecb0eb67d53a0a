"""Events in words: every kind has a line, and a line is one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handrail.cli.events import DESCRIPTIONS, describe, event_line, event_object
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

E = event_pb2
EVIL = "\x1b[31mred\u202e\n[bold]"
FAILURE = E.Failure(code="timeout", message=EVIL)
BODIES = [field.name for field in E.Event.DESCRIPTOR.oneofs_by_name["body"].fields]


def response(event: event_pb2.Event, subject: str = "ev.0.default.r0-01k9x3ab.cmd.submit") -> Any:
    made = run_service_pb2.WatchRunResponse(cursor="17", subject=subject, event=event)
    made.time.FromNanoseconds(1_800_000_000_123_000_000)
    return made


def filled(kind: str) -> event_pb2.Event:
    """Return an event of a kind with evil text in every text field."""
    event = E.Event(id="e1", version=1, writer=EVIL)
    body = getattr(event, kind)
    body.SetInParent()
    for field in body.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(body, field.name, EVIL)
    return event


def test_every_kind_of_event_has_a_description() -> None:
    assert set(DESCRIPTIONS) == set(BODIES)


@pytest.mark.parametrize("kind", BODIES)
def test_a_description_is_one_clean_line(kind: str) -> None:
    event = filled(kind)
    for text in (describe(event), event_line(response(event)).plain):
        assert text
        assert len(text.splitlines()) == 1
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("kind", BODIES)
def test_an_event_as_json_is_one_line(kind: str) -> None:
    found = event_object(response(filled(kind)))
    assert kind in found["event"]
    assert found["cursor"] == "17"
    json.dumps(found).encode("ascii")


def test_the_line_says_time_sequence_writer_kind_and_content() -> None:
    action = E.Action(
        attempt="refund-a1",
        step="refund",
        kind=E.ACTION_KIND_ACT,
        tool="refund_order",
        arguments={"order_id": plan_pb2.Value(json="1001"), "note": plan_pb2.Value(json='"x"')},
    )
    event = E.Event(id="e1", version=1, writer="decider/1", action=action)
    line = event_line(response(event, "ev.0.default.r0-01k9x3ab.dec.ask.worker.shop")).plain
    assert ".123 " in line
    assert "    17 decider/1 " in line
    assert "dec.action" in line
    assert 'refund: authorises refund_order(note="x", order_id=1001) (refund-a1)' in line


def test_what_cannot_be_read_is_said() -> None:
    assert "cannot read" in describe(E.Event(version=9))
    assert event_line(run_service_pb2.WatchRunResponse(cursor="1")).plain


def test_what_no_version_of_ours_has_written_is_told_all_the_same() -> None:
    """An agent can write numbers that no enum has, and times that are none: the rest stays to be read."""
    verdict = E.Verdict(attempt="a-a1")
    verdict.outcome = 99  # type: ignore[assignment]
    assert describe(E.Event(version=1, verdict=verdict)).startswith("a-a1: 99")
    result = E.Result(attempt="a-a1", output=plan_pb2.Value(json="7"))
    result.took.nanos = 2**31 - 1
    told = event_object(response(E.Event(version=1, result=result)))
    assert told["event"]["result"]["output"] == {"json": "7"}
    assert "took" not in told["event"]["result"]
    late = response(E.Event(version=1, result=result))
    late.time.seconds = 2**60
    assert event_line(late).plain.startswith("??:??:??")


def test_telling_descriptions() -> None:
    def said(**body: Any) -> str:
        return describe(E.Event(version=1, **body))

    heal = E.Healed(step="refund", attempt="refund-a1", strategy="retry_same_key", cause=FAILURE)
    assert said(healed=heal).startswith("refund: retry same key because timeout: red")
    no_plan = E.NoPlan(reason="nothing fits", nearest=["refund order {order}"])
    assert said(plan_answer=E.PlanAnswer(no_plan=no_plan)) == (
        "no plan: nothing fits; nearest: refund order {order}"
    )
    answer = E.PlanAnswer(thought=E.ModelThought(sure=0.974), plan=plan_pb2.Plan(origin="lam:0123456789ab"))
    assert said(plan_answer=answer) == "plan: lam:0123456789ab: 0 steps: , 97% sure"
    verdict = E.Verdict(attempt="a-a1", outcome=E.OUTCOME_REFUTED, evidence=[E.Evidence(condition="x == 1")])
    assert said(verdict=verdict) == "a-a1: refuted; does not hold: x == 1"
    doubt = E.Result(attempt="a-a1", failure=E.Failure(code="timeout"), happened=E.HAPPENED_UNKNOWN)
    assert said(result=doubt) == "a-a1: timeout, the effect may have happened"
    orphan = E.Orphan(attempt="a-a1", claimer="1-w-1", seen_dead=True)
    assert said(orphan=orphan) == "a-a1: claimed by 1-w-1, which is dead"


def test_what_is_said_at_a_gate_is_told() -> None:
    def said(choice: int, **body: Any) -> str:
        decided = E.Decide(gate="g1", approver="bob", **body)
        decided.choice = choice  # type: ignore[assignment]
        return describe(E.Event(version=1, decide=decided))

    changed = {"amount": plan_pb2.Value(json="20"), "to": plan_pb2.Value(json='"ines"')}
    assert said(E.GATE_CHOICE_AMEND, arguments=changed, reason="no postage") == (
        'bob amends to amount=20, to="ines" at gate g1: no postage'
    )
    assert said(E.GATE_CHOICE_DELEGATE, delegate="ines") == "bob delegates to ines at gate g1"
    closed = E.GateClosed(gate="g1", outcome=E.GATE_OUTCOME_AMENDED, approvers=["bob"], arguments=changed)
    assert (
        describe(E.Event(version=1, gate_closed=closed)) == 'gate g1: amended by bob to amount=20, to="ines"'
    )


def test_what_stands_under_a_secrets_name_is_masked() -> None:
    action = E.Action(attempt="a", step="s", tool="sign_in")
    action.arguments["password"].json = '"typed"'
    action.arguments["form"].json = '{"api_key":"typed","tokens_used":3}'
    refuted = E.Verdict(attempt="a", evidence=[E.Evidence(observed='{"deep":{"token":"typed"}}')])
    refuted.failure.message = 'observed {"password":"typed","user":"ada"…'
    plan = plan_pb2.Plan(steps=[plan_pb2.Step(id="s", tool="sign_in")])
    plan.steps[0].arguments["password"].constant.json = '"typed"'
    for event in (
        E.Event(action=action),
        E.Event(verdict=refuted),
        E.Event(plan_accepted=E.PlanAccepted(plan=plan)),
    ):
        shown = json.dumps(event_object(response(event)))
        assert "typed" not in shown + describe(event)
        assert "**********" in shown
    assert describe(E.Event(action=action)) == (
        's: authorises sign_in(form={"api_key": "**********", "tokens_used": 3}, password=**********) (a)'
    )
