"""The account of a run: told from its log alone, whole, in order, with nothing that the log does not say."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from core import told, values
from core.account import FORMAT, TOLD, account
from core.policy import Request, Ruling
from core.ports import Record
from handrail.cli.account_text import ENTRIES, account_lines
from handrail.cli.pen import Detail, Pen
from handrail.v1 import event_pb2, plan_pb2
from tests.policies import LOST, FunctionPolicy, asking
from tests.scenarios import histories
from tests.scenarios.play import KEY, Play, contract, write
from tests.scenarios.test_amendments import amend, limited
from tests.scenarios.test_amendments import paying as amendable
from tests.scenarios.test_gates import KEYED, paying
from tests.scenarios.test_grants import settling
from tests.scenarios.test_histories import NAMES

ROUNDS = 25
Account = dict[str, Any]


def of(play: Play) -> Account:
    return account(KEY, play.records)


def history(name: str) -> Account:
    records = histories.load(name)
    return account(records[0].address.key, records, trace_id=lambda traceparent: "f" * 32)


def entries(found: Account, event: str) -> list[Account]:
    return [entry for entry in found["entries"] if entry["event"] == event]


def text(found: Account, *, full: bool = False, width: int = 110) -> list[str]:
    detail = Detail.FULL if full else Detail.NORMAL
    pen = Pen(width=width, detail=detail)
    return [line.plain for line in account_lines(json.loads(json.dumps(found)), pen)]


def test_every_kind_of_event_is_told_of() -> None:
    arms = {field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert arms == TOLD
    shown = {entry["event"] for name in NAMES for entry in history(name)["entries"]}
    assert shown < ENTRIES.keys()
    within = {
        "plan_answer",
        "proposal",
        "proposal_refused",
        "intent",
        "orphan",
        "revoked",
        "result",
        "verify_ask",
    }
    within |= {"verdict", "decide", "gate_closed", "submit", "plan_accepted", "finished", "forgotten"}
    assert ENTRIES.keys() == (arms - within) | {"uncounted", "unreadable", "erased"}


def test_a_refund_that_somebody_approved_and_somebody_else_took_back() -> None:
    found = history("undone")
    assert (found["format"], found["status"], found["trace_id"]) == (FORMAT, "done", "f" * 32)
    assert found["log"] == {**found["log"], "shard": 3, "first": 1, "last": 32, "uncounted": 0}
    assert (found["goal"]["text"], found["goal"]["submitter"]) == (
        "refund order 1004 and tell the customer",
        "ines",
    )
    assert found["plan"]["origin"] == "playbook:refund"
    assert [one["since"] for one in found["policies"]] == [4]
    (gate,) = entries(found, "gate_opened")
    assert [reason["rule"] for reason in gate["reasons"]] == ["irreversible", "untrusted_critical"]
    assert [(said["approver"], said["choice"]) for said in gate["decisions"]] == [("ines", "approve")]
    assert (gate["closed"]["outcome"], gate["closed"]["approvers"]) == ("approved", ["ines"])
    actions = {entry["attempt"]: entry for entry in entries(found, "action")}
    sent = actions["notify-a1"]
    assert (sent["permit"]["gate"], sent["permit"]["policy"]) == ("g1", found["policies"][0]["version"])
    assert sent["reasons"] == gate["reasons"]
    assert sent["arguments"]["to"] == "bruno.carvalho@example.com"
    assert [one["argument"] for one in sent["labels"] if one["untrusted"]] == ["body", "subject", "to"]
    assert sent["claim"]["writer"] == sent["result"]["writer"] == "worker-backoffice/a671ab-1-backoffice_0-1"
    assert (sent["result"]["happened"], sent["verdicts"][0]["outcome"]) == ("yes", "confirmed")
    assert all(evidence["held"] for evidence in sent["verdicts"][0]["evidence"])
    assert sent["key_id"] == "a3c67d8a2d322b5e"
    assert sent["fingerprint"] == found["tools"]["send_email"]["fingerprint"]
    assert [entry["reason"] for entry in entries(found, "undo")] == ["wrong order"]
    (planned,) = entries(found, "undo_planned")
    assert planned["stays"] == [{"step": "notify", "tool": "send_email", "why": "it cannot be undone"}]
    assert {"undo-draft-a1", "undo-refund-a1"} < actions.keys()
    sequences = [entry["sequence"] for entry in found["entries"]]
    assert sequences == sorted(sequences)


def test_an_amendment_says_what_was_changed_and_by_whom() -> None:
    found = history("amended")
    (gate,) = entries(found, "gate_opened")
    (said,) = gate["decisions"]
    assert (said["approver"], said["choice"], said["arguments"]) == (
        "yuki",
        "amend",
        {"subject": "About your order"},
    )
    (sent,) = (entry for entry in entries(found, "action") if entry["step"] == "notify")
    assert sent["arguments"]["subject"] == "About your order"
    # What yuki has written is nobody else's.
    assert [one["argument"] for one in sent["labels"] if one["untrusted"]] == ["body", "to"]
    again = of(amend(amendable(limited()), "bo", amount=20))
    assert entries(again, "gate_opened")[0]["closed"]["arguments"] == {"amount": 20}


def test_a_denial_ends_it_with_its_reason() -> None:
    found = of(paying().decide("ann", deny=True, reason="not without a contract"))
    (gate,) = entries(found, "gate_opened")
    assert (gate["closed"]["outcome"], gate["decisions"][0]["reason"]) == ("denied", "not without a contract")
    assert [entry["step"] for entry in entries(found, "action")] == ["look"]
    assert (found["status"], found["end"]["status"]) == ("failed", "failed")
    lines = text(found)
    assert any("denies" in line for line in lines)
    assert any("not without a contract" in line for line in lines)


def test_a_heal_says_why() -> None:
    found = history("lie_healed")
    assert [(e["strategy"], e["cause"]["code"]) for e in entries(found, "healed")] == [
        ("reread", "post_refuted"),
        ("retry", "post_refuted"),
    ]
    first, second = (e for e in entries(found, "action") if e["step"] == "notify")
    assert [verdict["outcome"] for verdict in first["verdicts"]] == ["refuted", "refuted"]
    assert (second["replaces"], second["verdicts"][0]["outcome"]) == ("notify-a1", "confirmed")


def test_a_doubt_stays_one() -> None:
    found = history("in_doubt")
    (doubt,) = entries(found, "in_doubt")
    assert "not seen dead" in doubt["why"]
    assert [e["kind"] for e in entries(found, "action")] == ["act", "read_back"]
    assert found["end"] is None
    lost = next(e for e in entries(history("worker_killed"), "action") if "orphans" in e)
    assert lost["orphans"][0]["seen_dead"]


def test_what_an_executor_chose_and_what_it_was_refused() -> None:
    (chosen,) = entries(history("choose"), "proposal_ask")
    assert chosen["proposal"]["choice"]["tool"] == "escalate_ticket"
    assert chosen["inputs"] == {"idle_days": 1, "priority": "high", "status": "open"}
    play = settling()
    found = of(play.propose("settle-a1", 7, "nothing"))
    refused = entries(found, "proposal_ask")[0]["refused"]
    assert refused["violations"][0]["message"]
    assert any("refused" in line for line in text(found))


def test_a_cancelled_run_and_one_that_was_refused_at_its_plan() -> None:
    found = history("cancelled")
    assert (found["status"], [e["event"] for e in entries(found, "cancel")]) == ("cancelled", ["cancel"])
    back = [entry for entry in entries(found, "action") if "revoked" in entry]
    assert all(entry["revoked"]["reason"] and "claim" not in entry for entry in back)
    refused = history("refused")
    assert (refused["plan"], refused["end"]["failure"]["code"]) == (None, "no_plan")
    assert entries(refused, "plan_ask")[0]["answer"]["no_plan"]["nearest"]
    rejected = of(Play().submit({"id": "a", "tool": "none"}))
    assert entries(rejected, "plan_rejected")[0]["violations"][0]["code"] == "unknown_tool"
    assert rejected["goal"]["plan"]["steps"] == [{"id": "a", "tool": "none"}]


def test_who_called_stands_beside_in_whose_name() -> None:
    play = paying()
    for record in play.records:
        if record.event is not None and record.event.HasField("submit"):
            record.event.caller = "ada"
            record.event.submit.goal.submitter = "maren"
    found = of(play)
    assert (found["goal"]["caller"], found["goal"]["submitter"]) == ("ada", "maren")
    assert any("maren (with the token of ada)" in line for line in text(found))


def test_as_what_somebody_called_and_with_which_token() -> None:
    play = paying().decide("ann")
    for record in play.records:
        if record.event is not None and record.address.channel == "cmd":
            record.event.caller, record.event.token_id = "ada", "7f3a"
            record.event.caller_roles.extend(["approver", "submitter"])
    found = of(play)
    (said,) = entries(found, "gate_opened")[0]["decisions"]
    for command in (found["goal"], said):
        assert (command["caller"], command["token_id"]) == ("ada", "7f3a")
        assert command["caller_roles"] == ["approver", "submitter"]
    assert any("ann (with the token of ada, id 7f3a, as approver, submitter)" in line for line in text(found))


def test_every_process_is_there_with_its_version() -> None:
    play = paying().decide("ann")
    writers = {"cmd": "gateway/1", "dec": "decider/1", "ans": "worker-box/1"}
    for record in play.records:
        for event in (record.event, *record.event.before) if record.event is not None else ():
            event.writer = writers[record.address.channel]
            event.handrail = "" if record.address.channel == "ans" else "0.9.1"
    # A decider that was made another on the way, and a stranger whose word changes nothing.
    last = play.records[-1].event
    assert last is not None
    last.handrail = "0.9.2"
    play.append(event_pb2.Event(id="x", version=1, writer="stranger/1", handrail="9"), ("decide",), "cmd")
    found = of(play)
    assert [(one["writer"], one["handrail"]) for one in found["processes"]] == [
        ("gateway/1", "0.9.1"),
        ("decider/1", "0.9.1"),
        ("worker-box/1", ""),
        ("decider/1", "0.9.2"),
    ]
    assert found["processes"][-1]["since"] == found["entries"][-2]["sequence"]
    said = "\n".join(text(found))
    assert "0.9.1: gateway/1, decider/1" in said
    assert "of a version that it does not say: worker-box/1" in said


def test_an_action_says_which_rules_allowed_it_and_of_which_code_the_tool_was() -> None:
    def rule(request: Request) -> Ruling:
        if request.contract.name == "pay":
            return Ruling("gate", (LOST,), 1, rules=("pays", "seen"))
        return Ruling("allow", rules=("reads",))

    play = paying(FunctionPolicy(rule)).decide("bob").intent("pay-a1").done("pay-a1")
    for record in play.records:
        if record.event is not None and record.event.HasField("result"):
            record.event.result.code_sha256 = b"\xab" * 32
    found = of(play)
    look, pay = entries(found, "action")
    assert (look["permit"]["rules"], pay["permit"]["rules"]) == (["reads"], ["pays", "seen"])
    assert look["result"]["code_sha256"] == pay["result"]["code_sha256"] == "ab" * 32
    lines = text(found)
    assert any("allowed by  reads, of rules v1" in line for line in lines)
    assert any("allowed by  pays, seen, of rules v1, at gate g1" in line for line in lines)
    assert any(line.strip() == f"code        {'ab' * 6}" for line in lines)


def test_a_run_that_nobody_had_to_ask_about_says_what_let_it_and_what_did_it() -> None:
    found = history("allowed")
    actions = {entry["attempt"]: entry for entry in entries(found, "action")}
    assert actions.keys() == {"order-a1", "refund-a1", "draft-a1", "notify-a1"}
    assert {tuple(one["permit"]["rules"]) for one in actions.values()} == {("everybody", "owners")}
    assert [one["permit"].get("gate", "") for one in actions.values()] == ["", "", "", "g1"]
    assert all(len(one["result"]["code_sha256"]) == 64 for one in actions.values())
    # The draft and the e-mail are of one module.
    assert len({one["result"]["code_sha256"] for one in actions.values()}) == 3
    assert len(found["plan"]["origin_sha256"]) == 64
    assert {one["handrail"] for one in found["processes"]} == {"0.1.0"}
    roles = [one["writer"].partition("/")[0] for one in found["processes"]]
    assert roles == ["gateway", "decider", "planner", "worker-backoffice", "verifier"]
    (gate,) = entries(found, "gate_opened")
    for command in (found["goal"], gate["decisions"][0]):
        assert (command["caller"], command["token_id"]) == ("root", "0f4ba8cb518cd0d3")
        assert "approver" in command["caller_roles"]


def test_what_made_a_plan_and_what_proposed_are_there_with_their_digests() -> None:
    plan = plan_pb2.Plan(steps=[plan_pb2.Step(id="look", tool="look")], origin="playbook:see")
    plan.origin_sha256 = "cd" * 32
    found = of(Play(contract("look")).submit().plan(plan=plan))
    assert (found["plan"]["origin"], found["plan"]["origin_sha256"]) == ("playbook:see", "cd" * 32)
    assert any("playbook:see, whose file was cdcdcdcdcdcd" in line for line in text(found))
    play = settling().propose("settle-a1", 7, "nothing")
    for record in play.records:
        if record.event is not None and record.event.HasField("proposal"):
            record.event.proposal.model, record.event.proposal.model_sha256 = "function:mind:say", "ef" * 32
    (asked, *_) = entries(of(play), "proposal_ask")
    assert (asked["proposal"]["model"], asked["proposal"]["model_sha256"]) == ("function:mind:say", "ef" * 32)
    assert any("function:mind:say, whose file was efefefefefef" in line for line in text(of(play)))
    # Where the action model was asked first and was not sure enough, it is not what has proposed.
    for record in play.records:
        if record.event is not None and record.event.HasField("proposal"):
            record.event.proposal.thought.model = "lam:abcdef012345"
    said = text(of(play))
    assert any("function:mind:say, whose file was efefefefefef" in line for line in said)
    assert any("lam:abcdef012345" in line for line in said)


def test_how_an_action_model_came_to_its_plan_is_there_with_the_source_of_each_argument() -> None:
    thought = event_pb2.ModelThought(model="lam:abcdef012345", model_sha256="ab" * 32, sure=0.97, needed=0.8)
    first = thought.decisions.add(id="s1")
    first.call.option = "look"
    first.call.arguments["order"].value.json = "1001"
    first.call.arguments["order"].span.start, first.call.arguments["order"].span.end = 5, 9
    second = thought.decisions.add(id="s2")
    second.call.option = "look"
    second.call.arguments["order"].field.step, second.call.arguments["order"].field.path = "s1", "next"
    second.call.arguments["kind"].value.json = '"paid"'
    second.call.arguments["kind"].enumerated.SetInParent()
    thought.doubtful = "order"
    plan = plan_pb2.Plan(steps=[plan_pb2.Step(id="s1", tool="look")], origin=thought.model)
    found = of(Play(contract("look")).submit().plan(plan=plan, thought=thought))
    (asked,) = entries(found, "plan_ask")
    assert asked["answer"]["thought"]["model_sha256"] == "ab" * 32
    said = "\n".join(" ".join(line.split()) for line in text(found, full=True, width=200))
    assert "lam:abcdef012345" in said
    assert "97% sure of order, had to be 80%" in said
    assert "look, order: 1001, characters 5 to 9 of the goal" in said
    assert "look, order: what s1 returns as next" in said
    assert "look, kind: 'paid', one of those listed" in said


@pytest.mark.parametrize(
    ("options", "shown"), [(["look", "see"], "look, see"), ([], "nothing that it knows")]
)
def test_what_a_goal_came_to_with_a_greeting_before_it_is_there(options: list[str], shown: str) -> None:
    thought = event_pb2.ModelThought(model="lam:abcdef012345", model_sha256="ab" * 32, needed=0.8)
    thought.otherwise.SetInParent()
    for number, option in enumerate(options, 1):
        thought.otherwise.decisions.add(id=f"s{number}").call.option = option
    plan = plan_pb2.Plan(steps=[plan_pb2.Step(id="s1", tool="look")], origin=thought.model)
    found = of(Play(contract("look")).submit().plan(plan=plan, thought=thought))
    said = "\n".join(" ".join(line.split()) for line in text(found, full=True, width=200))
    assert f"with a greeting before the goal: {shown}" in said


def test_what_does_not_count_is_told_of_and_changes_nothing() -> None:
    play = paying().decide("ann")
    whole = of(play)
    found = of(play.decide("eve", deny=True, reason="no"))
    (stray,) = entries(found, "uncounted")
    assert (stray["of"], stray["gate"], found["log"]["uncounted"]) == ("decide", "g1", 1)
    assert [e for e in found["entries"] if e != stray] == whole["entries"]
    newer = event_pb2.Event(id="x", version=99, writer="decider/2")
    newer.finished.status = event_pb2.RUN_STATUS_DONE
    found = of(play.append(newer, ("note", "finished"), "dec"))
    assert (found["status"], found["end"]) == ("unreadable", None)
    assert entries(found, "unreadable")[0]["where"] == "dec.note.finished"


def test_a_chain_is_signed_once_and_for_all_of_it() -> None:
    play = Play(contract("look"), contract("see"))
    play.submit({"id": "look", "tool": "look"}, {"id": "see", "tool": "see", "with": {"of": "$look.id"}})
    (bundle,) = (r.event for r in play.records if r.event is not None and r.event.before)
    bundle.action.key_id, bundle.action.signature = "k1", b"\1"
    first, second = entries(of(play), "action")
    assert (first["key_id"], second["key_id"], second["pending"]) == (
        "k1",
        "k1",
        {"of": {"reference": "$look.id"}},
    )
    assert "signature" not in second


def test_what_names_itself_a_secret_is_masked_wherever_it_stands() -> None:
    play = Play(write("login", **KEYED), policy=asking("login"))
    secret = "hunter2-hunter2"
    context = plan_pb2.Value(json=json.dumps({"password": secret}))
    play.submit({"id": "login", "tool": "login", "with": {"api_key": secret, "as": "ada"}}, context=context)
    play.decide("ann").intent("login-a1").output("login-a1", {"session": {"token": secret}})
    play.verdict("login-a1")
    found = of(play)
    assert play.status == "done"
    assert secret not in json.dumps(found)
    assert secret not in "\n".join(text(found, full=True))
    assert entries(found, "action")[0]["arguments"]["as"] == "ada"


def test_nothing_that_somebody_wrote_reaches_a_terminal_as_it_is() -> None:
    evil = "a\x1b[2J\u202eb\nx"
    play = Play(write("say", **KEYED)).submit({"id": "say", "tool": "say", "with": {"text": evil}})
    play.intent("say-a1", claimer=evil).output("say-a1", {"text": evil}).verdict("say-a1")
    for record in play.records:
        if record.event is not None:
            record.event.writer, record.event.caller = evil, evil
            if record.event.HasField("submit"):
                record.event.submit.goal.text = evil
    shown = text(of(play)) + text(of(play), full=True)
    assert not any(character in line for line in shown for character in "\x1b\u202e\n")
    assert any("\\u202e" in line for line in shown)


def test_a_fingerprint_is_that_of_the_contract_as_json() -> None:
    one, other = write("refund", timeout_s=5), write("refund", timeout_s=6)
    assert told.fingerprint(one) != told.fingerprint(other)
    said = MessageToDict(one, preserving_proto_field_name=True)
    assert told.fingerprint(one) == values.digest(json.dumps(said, sort_keys=True, separators=(",", ":")))
    found = of(Play(one).submit({"id": "refund", "tool": "refund"}))
    assert found["tools"]["refund"] == {
        "fingerprint": told.fingerprint(one),
        "since": 2,
        "toolbox": "box",
        "effect": "write",
        "permission": "execute",
        "idempotency": "none",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_words_fit_and_nothing_is_cut_but_values(name: str) -> None:
    found = history(name)
    short, whole = text(found), text(found, full=True)
    assert max(map(len, short)) <= 110
    assert max(map(len, whole)) <= 110
    assert not any(" characters)" in line for line in whole)
    assert all(entry["sequence"] and entry["time"].endswith("Z") for entry in found["entries"])


@pytest.mark.parametrize("name", NAMES)
def test_whatever_stands_in_a_log_it_is_told(name: str) -> None:
    """What anybody but the decider writes may be missing, twice, late, or not what it was: never a crash."""
    dice = Random(name)
    records = histories.load(name)
    for _ in range(ROUNDS):
        found = account(records[0].address.key, _bent(records, dice))
        assert text(found)
        assert json.dumps(found, allow_nan=False)


def _bent(records: list[Record], dice: Random) -> list[Record]:
    kept: list[Record] = []
    for record in records:
        if record.address.channel == "dec" or dice.random() < 0.5:
            kept.append(record)
            continue
        for _ in range(dice.randrange(3)):
            kept.insert(dice.randint(max(0, len(kept) - 3), len(kept)), _flipped(record, dice))
    return [replace(record, sequence=number) for number, record in enumerate(kept, start=1)]


def _flipped(record: Record, dice: Random) -> Record:
    if record.event is None or dice.random() < 0.3:
        return record
    raw = bytearray(record.event.SerializeToString())
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    event: event_pb2.Event | None = None
    with suppress(DecodeError):
        event = event_pb2.Event.FromString(bytes(raw))
    return replace(record, event=event)
