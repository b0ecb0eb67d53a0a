"""The commands about gates: which gate is meant, what is sent, what comes of it, and the exit codes."""

from __future__ import annotations

import getpass
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from bus import directory
from handrail import errors
from handrail.cli import deciding, gates, options, runs, server
from handrail.cli.exits import ExitCode
from handrail.cli.main import app
from handrail.cli.output import Output
from handrail.v1 import run_service_pb2
from tests.unit.gate_samples import RUN, E, FakeGates, closed, gate, item
from tests.unit.undo_samples import stuck

SERVER = ["--server", "127.0.0.1:1"]
GATE = f"{RUN}-g1"
runner = CliRunner()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("HANDRAIL_SERVER", "HANDRAIL_PROJECT", "HANDRAIL_DATA", "HANDRAIL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deciding, "HEARD_WITHIN_S", 0.05)
    monkeypatch.setattr(deciding, "LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")


def serve(monkeypatch: pytest.MonkeyPatch, *found: run_service_pb2.Gate, counts: bool = True) -> FakeGates:
    fake = FakeGates(*found, counts=counts)

    @asynccontextmanager
    async def connect(*_: object, **__: object) -> AsyncIterator[FakeGates]:
        yield fake

    for module in (server, runs, gates):
        monkeypatch.setattr(module, "connect", connect)
    return fake


def call(*arguments: str) -> Any:
    return runner.invoke(app, [*arguments, *SERVER])


# --- the inbox -----------------------------------------------------------------------------------------


def test_the_inbox_has_a_line_for_each_open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate(), closed(E.GATE_OUTCOME_DENIED, name="g2"), gate(name="g3"))
    result = call("gates")
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stdout.splitlines()] == [GATE, f"{RUN}-g3"]


def test_the_inbox_as_json_is_one_gate_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate(), gate(name="g3"))
    result = call("gates", "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["id"] for each in found] == [GATE, f"{RUN}-g3"]
    assert found[0]["what"]["items"][0]["arguments"]["to"] == {"json": '"ada@example.com"'}
    assert found[0]["what"]["reasons"] == [{"rule": "no_undo", "text": "it cannot be undone"}]
    assert len(found[0]["what"]["binding"]) == 64


def test_an_empty_inbox_says_so_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    result = call("gates")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing waits for a human" in result.stderr


def test_a_long_inbox_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, *(gate(name=f"g{n}") for n in range(5)))
    monkeypatch.setattr(gates, "MAX_LISTED", 3)
    result = call("gates")
    assert len(result.stdout.splitlines()) == 3
    assert "there are more than these 3" in result.stderr


def test_watching_the_inbox_shows_what_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate(), closed(E.GATE_OUTCOME_APPROVED, ["bob"], name="g2"))
    lines = call("gates", "--watch").stdout.splitlines()
    assert lines[0].startswith(f"◆ {GATE}")
    assert lines[1].startswith(f"✓ gate {RUN}-g2 approved by bob")


async def test_watching_the_inbox_follows_a_stack_that_is_put_up_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    gone = errors.Unavailable("nobody is there", code=grpc.StatusCode.UNAVAILABLE)

    @asynccontextmanager
    async def connect(target: server.Target) -> AsyncIterator[FakeGates]:
        asked.append(target.address)
        if len(asked) < 3:
            raise gone
        yield FakeGates(gate())

    found = iter([None, directory.Endpoint("127.0.0.1:2", "", 1, 1, "", "inline")])
    monkeypatch.setattr(directory, "find_endpoint", lambda _: next(found))
    monkeypatch.setattr(gates, "connect", connect)
    running = server.Target("running", "127.0.0.1:1", tmp_path, tmp_path, "")
    await gates.watch_inbox(running, Output())
    assert asked == ["127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:2"]
    shown = capsys.readouterr()
    assert shown.out.startswith(f"◆ {GATE}")
    assert "the stack is up again, at 127.0.0.1:2" in shown.err
    # A server that was named has no successor.
    asked.clear()
    with pytest.raises(errors.Unavailable):
        await gates.watch_inbox(replace(running, kind="server"), Output())
    assert len(asked) == 1


# --- which gate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [GATE, RUN])
def test_a_gate_is_shown_by_its_id_and_by_its_run(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    serve(monkeypatch, gate(), closed(E.GATE_OUTCOME_DENIED, name="g2"))
    result = call("gates", "show", text)
    assert result.exit_code == 0
    assert '    to       "ada@example.com"' in result.stdout
    assert f"handrail approve {GATE} --binding 673167316731 --server 127.0.0.1:1" in result.stdout
    assert json.loads(call("gates", "show", text, "--json").stdout)["gate"]["id"] == GATE


def test_a_closed_gate_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, closed(E.GATE_OUTCOME_DENIED, ["bob"], "no"))
    result = call("gates", "show", GATE)
    assert result.exit_code == 0
    assert "closed    denied by bob: no" in result.stdout


@pytest.mark.parametrize(
    ("found", "text", "code", "words"),
    [
        ([gate()], "g1", ExitCode.USAGE, "is the id of no gate and of no run"),
        ([gate()], f"{RUN}-g7", ExitCode.USAGE, "there is no gate"),
        ([gate()], "r0-01k9x3zzzz", ExitCode.USAGE, "there is no run"),
        ([], RUN, ExitCode.USAGE, "has no gate"),
        ([gate(), gate(name="g2")], RUN, ExitCode.USAGE, f"{RUN}-g2 send_email("),
        ([closed(E.GATE_OUTCOME_VOID, reason="new rules")], RUN, ExitCode.FAILED, "g1 is void: new rules"),
    ],
)
@pytest.mark.parametrize("command", [["gates", "show"], ["approve"], ["deny"]])
def test_no_such_gate(
    monkeypatch: pytest.MonkeyPatch, command: list[str], found: list[Any], text: str, code: int, words: str
) -> None:
    fake = serve(monkeypatch, *found)
    result = call(*command, text)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""
    assert fake.decided == []


def test_options_of_the_inbox_are_not_dropped_before_a_subcommand() -> None:
    result = runner.invoke(app, ["gates", "--json", "show", GATE])
    assert result.exit_code == ExitCode.USAGE
    assert "--json stands before `show`" in json.loads(result.stderr)["error"]["what"]


# --- deciding ------------------------------------------------------------------------------------------


def test_approving_says_what_and_sends_the_binding_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, gate())
    result = call("approve", GATE)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        'approving: send_email(subject="Your refund", to="ada@example.com")',
        f"{GATE} approved by ada",
    ]
    assert f"handrail watch {RUN} --server 127.0.0.1:1" in result.stderr
    assert fake.decided == [
        {"gate": GATE, "approve": True, "by": "ada", "binding": "6731" * 16, "reason": ""}
    ]


@pytest.mark.parametrize(
    ("flags", "happened", "output", "told"),
    [
        (["--happened"], True, None, "settled as having happened by ada"),
        (["--happened", "--output", '{"id": 7}'], True, {"id": 7}, "settled as having happened by ada"),
        (["--repeat"], False, None, "settled, to be done again by ada"),
    ],
)
def test_a_doubt_is_settled(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], happened: bool, output: Any, told: str
) -> None:
    fake = serve(monkeypatch, gate(kind=E.GATE_KIND_DOUBT))
    result = call("approve", GATE, *flags)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1] == f"{GATE} {told}"
    assert fake.decided == [
        {"gate": GATE, "happened": happened, "by": "ada", "binding": "6731" * 16, "output": output}
    ]


@pytest.mark.parametrize(
    ("kind", "flags", "told"),
    [
        (E.GATE_KIND_DOUBT, [], "asks what became of an action"),
        (E.GATE_KIND_ACTION, ["--happened"], "asks whether something may be done"),
        (E.GATE_KIND_ACTION, ["--repeat"], "asks whether something may be done"),
        (E.GATE_KIND_DOUBT, ["--happened", "--repeat"], "say opposite things"),
        (E.GATE_KIND_DOUBT, ["--repeat", "--output", "1"], "--output goes with --happened"),
        (E.GATE_KIND_DOUBT, ["--happened", "--output", "{"], "--output is not JSON"),
    ],
)
def test_what_is_no_answer_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, kind: int, flags: list[str], told: str
) -> None:
    fake = serve(monkeypatch, gate(kind=kind))
    result = call("approve", GATE, *flags)
    assert (result.exit_code, told in result.stderr) == (ExitCode.USAGE, True)
    assert fake.decided == []


def test_a_doubt_shows_how_to_settle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate(kind=E.GATE_KIND_DOUBT))
    shown = call("gates", "show", GATE).stdout
    assert "send_email may or may not have happened, and waits for a human" in shown
    assert f"handrail approve {GATE} --happened --binding 673167316731" in shown
    assert f"handrail approve {GATE} --repeat --binding 673167316731" in shown


def test_denying_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, gate())
    result = call("deny", RUN, "--reason", "not before Friday", "--as", "bob")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("denying: send_email(")
    assert result.stdout.splitlines()[1] == f"{GATE} denied by bob: not before Friday"
    assert fake.decided[0]["approve"] is False
    assert fake.decided[0]["reason"] == "not before Friday"


@pytest.mark.parametrize(
    ("command", "decision", "state"), [("approve", "approve", "approved"), ("deny", "deny", "denied")]
)
def test_a_decision_as_json(monkeypatch: pytest.MonkeyPatch, command: str, decision: str, state: str) -> None:
    serve(monkeypatch, gate())
    result = call(command, GATE, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "gate": GATE,
        "run": RUN,
        "decision": decision,
        "approver": "ada",
        "binding": "6731" * 16,
        "existed": False,
        "state": state,
    }


@pytest.mark.parametrize("binding", ["673167316731", "6731" * 16])
def test_a_binding_that_fits(monkeypatch: pytest.MonkeyPatch, binding: str) -> None:
    assert serve(monkeypatch, gate()).decided == []
    assert call("approve", GATE, "--binding", binding).exit_code == 0


@pytest.mark.parametrize(
    ("binding", "code", "words"),
    [("6731", ExitCode.USAGE, "too short"), ("0" * 12, ExitCode.FAILED, "is not bound to 000000000000")],
)
def test_a_binding_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, binding: str, code: int, words: str
) -> None:
    fake = serve(monkeypatch, gate())
    result = call("approve", GATE, "--binding", binding)
    assert result.exit_code == code
    assert words in result.stderr
    assert fake.decided == []


def test_a_closed_gate_is_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, closed(E.GATE_OUTCOME_EXPIRED, reason="nobody decided in time"))
    result = call("approve", GATE)
    assert result.exit_code == ExitCode.FAILED
    assert f"Gate {GATE} is closed: expired: nobody decided in time." in result.stderr
    assert fake.decided == []


@pytest.mark.parametrize("command", ["approve", "deny"])
def test_saying_it_again_is_no_error(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    serve(monkeypatch, gate())
    assert call(command, GATE).exit_code == 0
    again = call(command, GATE)
    assert again.exit_code == 0
    assert "you had said so before" in again.stdout
    assert call(command, GATE, "--as", "bob").exit_code == ExitCode.FAILED
    assert call("deny" if command == "approve" else "approve", GATE).exit_code == ExitCode.FAILED


def test_an_approval_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate(quorum=2))
    first = call("approve", GATE)
    assert first.exit_code == 0
    assert "stays open: 1 of 2 have approved" in first.stdout
    again = call("approve", GATE)
    assert again.exit_code == 0
    assert "you had said so before" in again.stdout
    second = call("approve", GATE, "--as", "bob")
    assert "approved by ada, bob" in second.stdout


@pytest.mark.parametrize("command", ["approve", "deny"])
def test_a_decision_that_does_not_count_ends_with_1(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    serve(monkeypatch, gate(), counts=False)
    result = call(command, GATE)
    assert result.exit_code == ExitCode.FAILED
    assert "is still open: what ada said has not counted" in result.stdout
    assert "the rules may not let ada decide here" in result.stderr
    assert json.loads(call(command, GATE, "--json").stdout)["state"] == "open"


@pytest.mark.parametrize("command", ["approve", "deny"])
def test_a_decision_counts_when_a_paused_run_goes_on(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    serve(monkeypatch, gate(), counts=False).status = E.RUN_STATUS_PAUSED
    result = call(command, GATE)
    assert result.exit_code == 0
    assert "stays open while its run is paused: what ada said counts when it goes on" in result.stdout
    assert f"handrail resume {RUN}" in result.stderr
    assert json.loads(call(command, GATE, "--json").stdout)["state"] == "open"


def test_a_gate_that_is_closed_otherwise_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, gate(), counts=False)

    async def decide(gate: str, **_: Any) -> bool:
        fake.all[gate].closed.outcome = E.GATE_OUTCOME_DENIED
        return False

    monkeypatch.setattr(fake, "decide", decide)
    result = call("approve", GATE)
    assert result.exit_code == ExitCode.FAILED
    assert "was closed otherwise: denied" in result.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FailedPrecondition("the gate is closed", code=grpc.StatusCode.FAILED_PRECONDITION), 1),
        (errors.PermissionDenied("bob may not decide", code=grpc.StatusCode.PERMISSION_DENIED), 1),
        (errors.NotFound("there is no gate", code=grpc.StatusCode.NOT_FOUND), 2),
        (errors.Unavailable("gone", code=grpc.StatusCode.UNAVAILABLE), 5),
    ],
)
def test_what_the_server_says_no_to(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    fake = serve(monkeypatch, gate())

    async def decide(*_: Any, **__: Any) -> bool:
        raise error

    monkeypatch.setattr(fake, "decide", decide)
    result = call("approve", GATE)
    assert result.exit_code == code
    assert str(error) in result.stderr


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.FAILED, ExitCode.WAITING])
def test_on_a_stack_of_its_own_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, code: ExitCode) -> None:
    fake = serve(monkeypatch, gate())
    seen: list[Any] = []

    async def see_through(client: Any, run: str, *_: Any, **options: Any) -> ExitCode:
        seen.append((client, run, options["name"]))
        return code

    monkeypatch.setattr(deciding, "see_through", see_through)
    result = runner.invoke(app, ["approve", GATE, "--as", "bob"])
    assert result.exit_code == code
    assert seen == [(fake, RUN, "bob")]
    assert fake.decided[0]["by"] == "bob"


@pytest.mark.parametrize(
    ("became", "code"),
    [
        (gate(), ExitCode.DONE),
        (closed(E.GATE_OUTCOME_DENIED, ["bob"]), ExitCode.DONE),
        (closed(E.GATE_OUTCOME_APPROVED, ["cat"]), ExitCode.FAILED),
        (closed(E.GATE_OUTCOME_VOID), ExitCode.FAILED),
    ],
    ids=["open", "denied", "approved", "void"],
)
def test_on_a_stack_of_its_own_what_did_not_count_is_told_whatever_became_of_the_run(
    monkeypatch: pytest.MonkeyPatch, became: run_service_pb2.Gate, code: ExitCode
) -> None:
    serve(monkeypatch, gate())

    async def see_through(*_: Any, **options: Any) -> ExitCode:
        told: ExitCode = options["code"](run_service_pb2.Run(status=E.RUN_STATUS_DONE, gates=[became]))
        return told

    monkeypatch.setattr(deciding, "see_through", see_through)
    result = runner.invoke(app, ["deny", GATE, "--as", "bob"])
    assert result.exit_code == code
    assert (f"{GATE} was closed otherwise" in result.stdout) == (code is ExitCode.FAILED)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["approve", "--happened"], "settling, book is undone: unbook(day=3, was=1)"),
        (["approve", "--repeat"], "settling, to be done again: unbook(day=3, was=1)"),
        (["deny"], "denying: unbook(day=3, was=1)"),
    ],
)
def test_an_undo_that_went_wrong_is_decided_like_a_doubt(
    monkeypatch: pytest.MonkeyPatch, given: list[str], told: str
) -> None:
    (made,) = stuck().view.gates
    fake = serve(monkeypatch, made)
    seen: list[Any] = []
    ended = run_service_pb2.Run(status=E.RUN_STATUS_DONE)
    ended.undo.ended = True
    ended.undo.stays.add(step="book")

    async def see_through(*_: Any, **options: Any) -> ExitCode:
        seen.append(options["code"](ended))
        return ExitCode.DONE

    monkeypatch.setattr(deciding, "see_through", see_through)
    result = runner.invoke(app, [given[0], made.id, *given[1:], "--as", "bob"])
    assert result.exit_code == 0, result.stderr
    assert told in result.stdout
    assert fake.decided[0]["by"] == "bob"
    # What it ends with is what came of the undo, and not of the run.
    assert seen == [ExitCode.STAYS]


# --- amending and delegating -------------------------------------------------------------------------------


def refund(**more: Any) -> run_service_pb2.Gate:
    amount = {"minor": 5000, "currency": "EUR"}
    return gate(item("pay", "refund", amount=amount, to="ada@example.com"), **more)


def test_what_is_missing_has_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, gate(item(to="ada@example.com", missing=["subject"])))
    result = call("approve", GATE)
    assert result.exit_code == ExitCode.FAILED
    assert f"Gate {GATE} lacks subject." in result.stderr
    assert "send_email needs that, and nobody has said it" in result.stderr
    assert f"handrail amend {GATE} --server 127.0.0.1:1 --set subject=..." in " ".join(result.stderr.split())
    assert fake.decided == []
    result = call("amend", GATE, "--set", "subject=Hello")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        'amending: send_email(to="ada@example.com", subject=?)',
        "  subject  was not given",
        '           now "Hello"',
        f'{GATE} amended by ada to subject="Hello"',
    ]
    assert [one["amend"] for one in fake.decided] == [{"subject": "Hello"}]


def test_amending_says_what_it_was_and_what_it_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, refund())
    lower = '{"minor": 1250, "currency": "EUR"}'
    given = ("--set", f"amount={lower}", "--set", "to=ines@example.com", "--reason", "no postage")
    result = call("amend", GATE, *given)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        'amending: refund(amount={"minor": 5000, "currency": "EUR"}, to="ada@example.com")',
        '  amount  was {"minor": 5000, "currency": "EUR"}',
        '          now {"currency": "EUR", "minor": 1250}',
        '  to  was "ada@example.com"',
        '      now "ines@example.com"',
        f'{GATE} amended by ada to amount={lower}, to="ines@example.com": no postage',
    ]
    assert fake.decided == [
        {
            "gate": GATE,
            "amend": {"amount": {"minor": 1250, "currency": "EUR"}, "to": "ines@example.com"},
            "by": "ada",
            "binding": "6731" * 16,
        }
    ]


@pytest.mark.parametrize(
    ("held", "meant"),
    [
        ("7", 7),
        ('"7"', "7"),
        ("true", True),
        ("null", None),
        ("", ""),
        ("a=b", "a=b"),
        ("ada, bo", "ada, bo"),
        ("[1,", "[1,"),
    ],
)
def test_what_is_no_json_is_text(held: str, meant: Any) -> None:
    assert options.read_changes([f"to={held}"]) == {"to": meant}


@pytest.mark.parametrize(
    ("made", "changes", "told"),
    [
        (refund(), ["amount"], "says nothing of an argument"),
        (refund(), ["=5"], "says nothing of an argument"),
        (refund(), ["to=1", "to=2"], "--set names 'to' twice"),
        (refund(), ["to=NaN"], "--set to"),
        (refund(), ["amount.minor=1250"], 'Now it is amount={"minor": 5000, "currency": "EUR"}'),
        (gate(item("a-0"), item("a-1")), ["to=1"], "is for 2 actions, and is decided as a whole"),
        (gate(kind=E.GATE_KIND_DOUBT), ["to=1"], "asks what became of an action"),
    ],
)
def test_what_cannot_be_amended_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, made: run_service_pb2.Gate, changes: list[str], told: str
) -> None:
    fake = serve(monkeypatch, made)
    result = call("amend", GATE, *(part for change in changes for part in ("--set", change)))
    assert (result.exit_code, told in result.stderr) == (ExitCode.USAGE, True), result.stderr
    assert fake.decided == []
    assert call("amend", GATE).exit_code == ExitCode.USAGE


def test_where_more_must_approve_it_is_said_where(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, refund(quorum=2))
    result = call("amend", GATE, "--set", "to=bo")
    assert result.exit_code == 0, result.stderr
    last = result.stdout.splitlines()[-2:]
    assert last == [
        f'{GATE} amended by ada to to="bo"',
        f"{RUN}-g9 has opened: as it is now it needs 2 approvals",
    ]
    assert f"handrail approve {RUN}-g9 --binding 673167316731 --server 127.0.0.1:1" in result.stderr


def test_an_amendment_as_json_names_the_next_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, refund(quorum=2))
    told = json.loads(call("amend", GATE, "--set", "to=bo", "--json").stdout)
    assert told == {
        "gate": GATE,
        "run": RUN,
        "decision": "amend",
        "approver": "ada",
        "binding": "6731" * 16,
        "existed": False,
        "state": "amended",
        "arguments": {"to": "bo"},
        "after": f"{RUN}-g9",
    }


def test_why_it_was_not_amended_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, refund())

    async def amend(*_: Any, **__: Any) -> bool:
        message = "it cannot be amended so: refund is not allowed like this: it is too much"
        raise errors.PermissionDenied(message, code=grpc.StatusCode.PERMISSION_DENIED)

    monkeypatch.setattr(fake, "amend", amend)
    result = call("amend", GATE, "--set", "to=bo")
    assert result.exit_code == ExitCode.FAILED
    assert f"Gate {GATE} was not amended, and is open as it was." in result.stderr
    assert "it is too much" in result.stderr
    assert "now" in result.stdout


def test_amending_again_is_no_error_and_what_does_not_count_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, refund())
    assert call("amend", GATE, "--set", "to=bo").exit_code == 0
    again = call("amend", GATE, "--set", "to=bo")
    assert (again.exit_code, "you had said so before" in again.stdout) == (0, True)
    assert call("amend", GATE, "--set", "to=bo", "--as", "bob").exit_code == ExitCode.FAILED
    serve(monkeypatch, refund(), counts=False)
    late = call("amend", GATE, "--set", "to=bo")
    assert (late.exit_code, "has not counted" in late.stdout) == (ExitCode.FAILED, True)


@pytest.mark.parametrize("made", [refund(), gate(kind=E.GATE_KIND_DOUBT)])
def test_delegating_says_who_may_decide(monkeypatch: pytest.MonkeyPatch, made: run_service_pb2.Gate) -> None:
    fake = serve(monkeypatch, made)
    result = call("delegate", GATE, "--to", " bo ", "--reason", "I am away")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("delegating to bo: ")
    assert lines[1:] == [f"{GATE} stays open: bo may decide in ada's stead, and ada no more"]
    assert fake.decided == [
        {"gate": GATE, "to": "bo", "by": "ada", "binding": "6731" * 16, "reason": "I am away"}
    ]
    told = json.loads(call("delegate", GATE, "--to", "bo", "--json").stdout)
    assert (told["decision"], told["to"], told["state"]) == ("delegate", "bo", "open")


def test_nothing_is_delegated_to_nobody_nor_at_a_closed_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, closed(E.GATE_OUTCOME_APPROVED, ["bob"]))
    assert call("delegate", GATE, "--to", " ").exit_code == ExitCode.USAGE
    assert call("delegate", GATE).exit_code == ExitCode.USAGE
    assert call("delegate", GATE, "--to", "bo").exit_code == ExitCode.FAILED
    assert fake.decided == []


# --- who -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "name"), [([], "ada"), (["--as", " bob "], "bob")])
def test_submit_and_run_say_who_asks(monkeypatch: pytest.MonkeyPatch, given: list[str], name: str) -> None:
    fake = serve(monkeypatch)
    seen: list[str] = []

    async def see_through(*_: Any, name: str, **__: Any) -> ExitCode:
        seen.append(name)
        return ExitCode.DONE

    monkeypatch.setattr(runs, "see_through", see_through)
    assert call("submit", "goal", *given).exit_code == 0
    assert call("run", "goal", *given).exit_code == 0
    assert [each["submitter"] for each in fake.submitted] == [name, name]
    assert seen == [name]


def test_submit_and_run_say_what_it_may_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch)

    async def see_through(*_: Any, **__: Any) -> ExitCode:
        return ExitCode.DONE

    monkeypatch.setattr(runs, "see_through", see_through)
    given = ("--ceiling", "draft", "--budget", "EUR=500.00", "--budget", "max_actions=5")
    for command in ("submit", "run"):
        assert call(command, "goal", *given).exit_code == 0
        assert call(command, "goal").exit_code == 0
        assert call(command, "goal", "--ceiling", "root").exit_code == ExitCode.USAGE
        assert call(command, "goal", "--budget", "EUR").exit_code == ExitCode.USAGE
    bounded = ("draft", {"max_actions": 5, "max_spend": {"EUR": 50_000}})
    seen = [(each["ceiling"], each["budget"]) for each in fake.submitted]
    assert seen == [bounded, (None, None)] * 2


def test_a_name_that_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, gate())
    for command in (["run", "goal"], ["submit", "goal"], ["approve", GATE], ["deny", GATE], ["watch", RUN]):
        assert call(*command, "--as", " ").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("error", [KeyError("no uid"), OSError("no name"), ImportError("pwd")])
def test_whoami_never_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", fail)
    assert options.whoami().startswith("uid-")
    monkeypatch.setattr(getpass, "getuser", lambda: "a\udcffb")
    assert options.whoami() == "a?b"
