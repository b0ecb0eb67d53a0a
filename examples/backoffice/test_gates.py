"""Everyday use stays easy: a playbook waits for a human once at most, and says why in words."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from core import rules
from core.plan_form import plan_from_form
from core.playbook import instantiate
from handrail.project import Project, load
from handrail.v1 import event_pb2, tool_pb2

SAMPLE = Path(__file__).parent
PLAYBOOKS = sorted(path.stem for path in (SAMPLE / "playbooks").glob("*.yaml"))
MAX_GATES = 1
MAX_REASON_CHARS = 120
# Words and amounts; a rule's name has an underscore, and code has signs that no sentence needs.
SENTENCE = re.compile(r"[A-Za-z][A-Za-z0-9 ,.;:'-]*")


@cache
def project() -> Project:
    """The sample; loaded when it is first asked for, as that takes over the names of its modules."""
    return load(SAMPLE, rules=True)


def calls_of(playbook: str, user: str) -> list[rules.Call]:
    """What the policy says of each call of a playbook, asked by somebody with values that fit."""
    (found,) = (one for one in project().playbooks if one.name == playbook)
    plan = instantiate(found, {name: slot.sample for name, slot in found.slots.items()})
    goal = event_pb2.Goal(plan=plan, submitter=user, ceiling=tool_pb2.PERMISSION_ADMIN)
    policy = project().policy
    asked = rules.calls(plan, project().protos, policy, goal=goal, tenant="default", now_ns=0)
    assert {call.step.id for call in asked} == {step.id for step in plan.steps}
    return asked


def test_every_playbook_is_asked_about() -> None:
    assert sorted(playbook.name for playbook in project().playbooks) == PLAYBOOKS
    gated = [name for name in PLAYBOOKS if _gates(calls_of(name, "maren"))]
    # The policy holds something up, or there would be nothing to count.
    assert 0 < len(gated) < len(PLAYBOOKS)


@pytest.mark.parametrize("user", ["maren", "yuki", "ines", "a new colleague"])
@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_waits_once_at_most(playbook: str, user: str) -> None:
    asked = calls_of(playbook, user)
    assert [call.field for call in asked if call.ruling.outcome == "refuse"] == []
    # The actions of one step share a gate, whichever of its rules is taken and however many they are.
    gates = _gates(asked)
    assert len(gates) <= MAX_GATES, f"{playbook} waits at {gates}"
    for call in asked:
        for reason in call.ruling.reasons:
            assert_is_sentence(reason.text)


def asked_about(*steps: dict[str, Any]) -> dict[str, rules.Call]:
    """What the policy says of each step of a plan that somebody of support submits."""
    plan = plan_from_form({"steps": list(steps)})
    goal = event_pb2.Goal(plan=plan, submitter="maren")
    loaded = project()
    found = rules.calls(plan, loaded.protos, loaded.policy, goal=goal, tenant="default", now_ns=0)
    return {call.step.id: call for call in found}


NOTES = {"id": "notes", "tool": "list_notes", "with": {"customer_id": 7}}


@pytest.mark.parametrize(
    ("said", "leaks"),
    [("We come back to you.", False), ("$ticket.subject", False), ("$notes.notes[0].text", True)],
)
def test_what_is_for_colleagues_does_not_reach_a_customer_unseen(said: str, leaks: bool) -> None:
    found = asked_about(
        NOTES,
        {"id": "ticket", "tool": "get_ticket", "with": {"ticket_id": 501}},
        {"id": "reply", "tool": "reply_to_ticket", "with": {"ticket_id": 501, "body": said}},
    )
    ruling = found["reply"].ruling
    # An answer to a ticket waits for nobody otherwise.
    assert [reason.rule for reason in ruling.reasons] == (["leak"] if leaks else [])
    (seen,) = rules.outlook([found["reply"]])
    assert [(one.argument, list(one.steps)) for one in seen.leaks] == ([("body", ["notes"])] if leaks else [])


def test_a_colleague_reads_what_is_for_colleagues() -> None:
    found = asked_about(
        NOTES,
        {"id": "copy", "tool": "add_note", "with": {"customer_id": 7, "text": "$notes.notes[0].text"}},
    )
    assert found["copy"].ruling.outcome == "allow"


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_no_playbook_leaks(playbook: str) -> None:
    assert [call.step.id for call in calls_of(playbook, "maren") if rules.outlook([call])[0].leaks] == []


def test_whatever_holds_an_action_up_reads_like_a_sentence() -> None:
    """Those too that only other values than the everyday ones meet."""
    forbids = [rule for rule in project().policy.rules if rule.node.effect == "forbid"]
    assert len(forbids) > 3
    for rule in forbids:
        assert rule.has_reason, rule.where
        assert_is_sentence(rule.reason)


def assert_is_sentence(text: str) -> None:
    assert SENTENCE.fullmatch(text), text
    assert len(text) <= MAX_REASON_CHARS, text
    assert " " in text, text
    named = {rule.id for rule in project().policy.rules if "_" in rule.id}
    assert not any(name in text for name in named), text


def _gates(asked: list[rules.Call]) -> list[str]:
    return sorted({call.step.id for call in asked if call.ruling.outcome == "gate"})
