"""Undo on the command line: what is drawn, said and asked, and what the exit codes mean."""

from __future__ import annotations

import getpass
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from core.policy import ALLOWED
from handrail.cli import runs, server, terminal, undo
from handrail.cli.events import describe, event_line
from handrail.cli.exits import ExitCode
from handrail.cli.main import app
from handrail.cli.pen import Detail, Pen
from handrail.cli.summary import ending, exit_code, undo_code
from handrail.cli.text import ASCII
from handrail.cli.tree import draw, undo_lines
from handrail.cli.undo_text import foreseen
from handrail.cli.watching import Watched
from handrail.v1 import event_pb2, run_service_pb2
from tests.policies import NEVER, FunctionPolicy, asking
from tests.scenarios.play import Play, contract
from tests.scenarios.test_undo import acted, booked, paid
from tests.scenarios.test_undo import undo as asked
from tests.unit.gate_samples import TARGET
from tests.unit.undo_samples import begun, responses, stuck, told, undone

E = event_pb2
SERVER = ["--server", "127.0.0.1:1"]
runner = CliRunner()


def said(play: Play) -> list[str]:
    """What is told of an undo at the end, below the run's own lines."""
    lines = [line.plain for line in ending(play.view, TARGET, Pen())]
    return lines[next(n for n, line in enumerate(lines) if line.startswith("  ↶ ")) :]


def ahead(play: Play) -> list[str]:
    return [line.plain for line in foreseen(play.view.undo_outlook, Pen())]


def tree(play: Play, **pen: Any) -> list[str]:
    return [line.plain for line in draw(play.view, Pen(**pen))]


# --- what is drawn -------------------------------------------------------------------------------------


def test_an_undo_is_drawn_below_its_run_as_it_goes() -> None:
    lines = tree(begun())
    place = lines.index("↶ undo for ines: they kept it")
    assert [line.split()[:3] for line in lines[place + 1 :]] == [
        ["├─", "●", "undo-book"],
        ["└─", "○", "undo-pay"],
    ]
    assert lines[1].startswith("● undoing")


def test_what_is_undone_is_marked_in_the_run() -> None:
    lines = tree(undone())
    assert lines[1].startswith("↶ undone · ")
    assert "2 of 2 steps" in lines[1]
    marked = [line for line in lines if line.startswith(("├─ ↶", "└─ ↶"))]
    assert [line.split()[2] for line in marked] == ["pay", "book"]
    assert all(line.endswith("undone") for line in marked)
    folded = tree(undone(), detail=Detail.FOLDED, glyphs=ASCII)
    assert "`- < 2 steps undone" in folded


def test_a_compensation_that_went_wrong_is_no_doubt() -> None:
    lines = tree(stuck())
    (line,) = [line for line in lines if "undo-book  unbook" in line]
    assert line.split()[1] == "?"
    assert line.endswith("went wrong")
    assert "in doubt" not in "\n".join(lines)
    assert "in_doubt" not in "\n".join(lines)
    assert lines[1].startswith("? waiting for a human")


def test_a_dry_run_shows_every_call_what_the_rules_say_of_it_and_where_it_comes_from() -> None:
    play = asked(booked(policy=asking("unpay")), dry_run=True)
    lines = [line.plain for line in undo_lines(play.view.undo_outlook, Pen())]
    assert lines == [
        "↶ what would be undone for ines",
        "├─ ○ undo-book  unbook",
        "│  ├─ day  3",
        "│  └─ was  1",
        "└─ ○ undo-pay   unpay",
        "   ├─ id  7",
        "   ├─ ◆ would wait for a human: it cannot be undone",
        "   └─ ! id is untrusted: from pay",
    ]
    assert ahead(play) == [
        "2 effects would be taken back: book by unbook, pay by unpay",
        "it would wait for a human to undo pay by unpay",
    ]


def test_a_dry_run_does_not_say_that_what_the_rules_refuse_would_be_taken_back() -> None:
    policy = FunctionPolicy(lambda request: NEVER if request.contract.name == "unpay" else ALLOWED)
    play = asked(booked(policy=policy), dry_run=True)
    assert ahead(play) == [
        "1 effect would be taken back: book by unbook",
        "the rules would refuse to undo pay by unpay: somebody would be asked",
    ]


def test_the_arguments_of_a_real_one_are_there_in_full() -> None:
    assert not any("day  3" in line for line in tree(begun()))
    assert any("day  3" in line for line in tree(begun(), detail=Detail.FULL))


def test_a_run_says_that_it_undoes_itself_if_it_fails() -> None:
    play = paid(undo_on_failure=True)
    assert "undoes itself if it fails" in tree(play)[1]
    (first, *_) = responses(play)
    assert event_line(first).plain.endswith("goal: a goal (with a plan, undone if it fails)")


# --- what is said at the end ----------------------------------------------------------------------------


def test_an_undo_says_what_is_undone_and_by_what() -> None:
    assert said(undone()) == [
        "  ↶ undo for ines: they kept it",
        "    ✓ undone: book by unbook, pay by unpay",
    ]
    assert undo_code(undone().view) is ExitCode.DONE
    assert exit_code(undone().view) is ExitCode.DONE


def test_what_stays_is_said_with_its_reason() -> None:
    play = asked(told(), "tell")
    assert said(play) == [
        "  ↶ undo of tell and what rests on it for ines",
        "    ! tell (tell) stays: it cannot be undone",
    ]
    assert undo_code(play.view) is ExitCode.STAYS
    assert exit_code(play.view) is ExitCode.DONE
    assert "! tell (tell) would stay: it cannot be undone" in ahead(asked(told(), dry_run=True))


def test_a_dry_run_is_not_told_as_an_undo_of_the_run() -> None:
    assert not any("↶" in line.plain for line in ending(asked(told(), dry_run=True).view, TARGET, Pen()))
    assert not any("would" in line for line in tree(asked(told(), dry_run=True)))
    assert said(asked(undone(), dry_run=True)) == said(undone())


def test_an_undo_with_nothing_to_do_says_so() -> None:
    again = asked(undone())
    assert said(again)[1:] == [
        "    ✓ undone before: book by unbook, pay by unpay",
        "    nothing was left to undo",
    ]
    assert undo_code(again.view) is ExitCode.DONE
    play = asked(undone(), dry_run=True)
    assert ahead(play) == ["there is nothing to undo"]
    looked = asked(Play(contract("look")).submit({"id": "look", "tool": "look"}).done("look-a1"))
    assert said(looked)[1:] == ["    there was nothing to undo"]
    assert undo_code(looked.view) is ExitCode.DONE


def test_one_that_was_given_up_says_what_is_left_and_how_to_go_on() -> None:
    play = stuck().decide("bob", deny=True, reason="it is fine")
    name = play.view.id
    assert said(play) == [
        "  ↶ undo for ines: they kept it",
        "    ✗ book is not undone: denied: bob denied it at gate g1: it is fine",
        "    ○ nothing was done about it: pay by unpay",
        f"    `handrail undo {name} --project shop` goes on with what is left",
    ]
    assert undo_code(play.view) is ExitCode.STAYS


def test_one_that_was_stopped_says_so() -> None:
    play = begun().intent("undo-book-a1").cancel()
    assert undo_code(play.view) is ExitCode.INTERRUPTED
    play.output("undo-book-a1", None).verdict("undo-book-a1")
    assert said(play)[1:4] == [
        "    ✓ undone: book by unbook",
        "    ○ nothing was done about it: pay by unpay",
        "    the undo was stopped: enough",
    ]
    assert undo_code(play.view) is ExitCode.STAYS


def test_one_that_was_stopped_at_what_went_wrong_names_it() -> None:
    assert said(stuck().cancel())[1:4] == [
        "    ✗ book is not undone: in_doubt: it broke",
        "    ○ nothing was done about it: pay by unpay",
        "    the undo was stopped: enough",
    ]


def test_one_that_waits_says_how_to_decide() -> None:
    play = stuck()
    name = f"{play.view.id}-g1"
    lines = said(play)
    assert lines[:2] == [
        "  ↶ undo for ines: they kept it",
        "    ○ not yet undone: pay by unpay",
    ]
    assert lines[2] == "  undoing book went wrong, and waits for a human: unbook(day=3, was=1)"
    assert [line.split(" --binding")[0].split(" --reason")[0] for line in lines[4:]] == [
        f"    handrail approve {name} --happened",
        f"    handrail approve {name} --repeat",
        f"    handrail deny {name}",
    ]
    assert undo_code(play.view) is ExitCode.WAITING


def test_a_cancelled_run_says_how_to_take_it_back_until_it_is() -> None:
    play = booked({"id": "more", "tool": "look"}).cancel()
    name = play.view.id
    last = [line.plain for line in ending(play.view, TARGET, Pen())][-1]
    assert last.endswith(f"`handrail undo {name} --project shop` takes it back")
    lines = [line.plain for line in ending(asked(play).view, TARGET, Pen())]
    assert not any("takes it back" in line for line in lines)


def test_events_of_an_undo_in_words() -> None:
    def of(play: Play, arm: str) -> str:
        events = [e for r in play.records if r.event for e in (*r.event.before, r.event)]
        return next(describe(e) for e in events if e.HasField(arm))  # type: ignore[arg-type]

    assert of(begun(), "undo") == "ines wants everything undone: they kept it"
    assert of(begun(), "undo_planned") == "undo book by unbook, pay by unpay"
    assert of(stuck(), "in_doubt") == "undo-book: went wrong, it broke"
    opened = of(stuck(), "gate_opened")
    assert opened == "undo-book: gate g1: unbook(day=3, was=1) went wrong, which is for a human: it broke"
    assert of(stuck().decide("bob", deny=True), "undo_ended").startswith("undo ended: denied: bob denied")


def test_a_watch_folds_over_the_end_of_the_run() -> None:
    watched = Watched("r0-x")
    for response in responses(undone()):
        watched.add(response)
    assert watched.run == undone().view
    assert watched.status == E.RUN_STATUS_UNDONE


# --- the command ---------------------------------------------------------------------------------------


class FakeServer:
    """A server with one run of a play's."""

    def __init__(self, play: Play, dry: Play | None = None, *, existed: bool = False) -> None:
        self.play, self.dry, self.existed = play, dry, existed
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def undo(self, run: str, **given: Any) -> run_service_pb2.Run:
        self.asked.append(("undo", given))
        assert self.dry is not None
        return self.dry.view

    async def begin_undo(self, run: str, **given: Any) -> bool:
        self.asked.append(("begin_undo", given))
        return self.existed

    async def get(self, run: str) -> run_service_pb2.Run:
        return self.play.view

    async def watch(self, run: str, **_: Any) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
        for response in responses(self.play):
            yield response


def serve(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> FakeServer:
    @asynccontextmanager
    async def connect(*_: object, **__: object) -> AsyncIterator[FakeServer]:
        yield fake

    monkeypatch.setattr(server, "connect", connect)
    return fake


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("HANDRAIL_SERVER", "HANDRAIL_PROJECT", "HANDRAIL_DATA", "HANDRAIL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")


def sit(monkeypatch: pytest.MonkeyPatch, *typed: str | None) -> list[str]:
    """Have somebody sit at the terminal, who types this."""
    questions: list[str] = []
    answers = list(typed)

    async def ask(question: str) -> str | None:
        questions.append(question)
        return answers.pop(0)

    monkeypatch.setattr(terminal, "can_ask", lambda output: True)
    monkeypatch.setattr(terminal, "on_terminal", lambda output: ask)
    return questions


def call(*arguments: str) -> Any:
    return runner.invoke(app, ["undo", "r0-scenario01", *arguments, *SERVER])


def test_a_dry_run_shows_and_ends_with_whether_something_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, FakeServer(told(), asked(told(), dry_run=True)))
    result = call("--dry-run", "--step", "tell", "--reason", "look", "--as", "ines")
    assert result.exit_code == ExitCode.STAYS
    given = {"dry_run": True, "step": "tell", "reason": "look", "submitter": "ines"}
    assert fake.asked == [("undo", given)]
    assert "! tell (tell) would stay: it cannot be undone" in result.stdout
    fake.dry = asked(booked(), dry_run=True)
    result = call("--dry-run", "--json")
    assert result.exit_code == ExitCode.DONE
    (line,) = result.stdout.splitlines()
    found = json.loads(line)["run"]["undo_outlook"]
    assert [one["undoes"] for one in found["compensations"]] == ["book", "pay"]
    assert found["compensations"][1]["step"]["arguments"] == {"id": {"constant": {"json": "7"}}}
    assert found["steps"][0]["outlook"][0]["ruling"] == "RULING_OUTCOME_ALLOW"


def test_on_a_pipe_nobody_is_asked_and_every_event_of_the_undo_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = serve(monkeypatch, FakeServer(undone()))
    before = booked().view

    async def get(run: str) -> run_service_pb2.Run:
        return before

    fake.get = get  # type: ignore[method-assign]
    result = call("--reason", "they kept it")
    assert result.exit_code == ExitCode.DONE
    assert fake.asked == [("begin_undo", {"step": "", "reason": "they kept it", "submitter": "ada"})]
    assert "cmd.undo" in result.stdout.splitlines()[0]
    assert "✓ undone: book by unbook, pay by unpay" in result.stdout


def test_on_a_terminal_what_stays_is_said_before_and_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, FakeServer(asked(told()), asked(told(), dry_run=True)))
    for typed in ("n", "", "what", None):
        questions = sit(monkeypatch, typed)
        result = call()
        assert result.exit_code == ExitCode.FAILED
        assert questions == [undo.QUESTION]
        assert "! tell (tell) would stay: it cannot be undone" in result.stdout
        assert "nothing was undone" in result.stderr
    assert {kind for kind, _ in fake.asked} == {"undo"}
    sit(monkeypatch, "y", "l")
    fake.play = acted(acted(asked(told()), "undo-book-a1", None), "undo-pay-a1", None)
    assert call().exit_code == ExitCode.STAYS
    assert [kind for kind, _ in fake.asked][-2:] == ["undo", "begin_undo"]


def test_nobody_is_asked_beforehand_where_nothing_stays_or_with_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve(monkeypatch, FakeServer(undone(), asked(booked(), dry_run=True)))
    assert sit(monkeypatch) == []
    assert call().exit_code == ExitCode.DONE
    assert [kind for kind, _ in fake.asked] == ["undo", "begin_undo"]
    assert call("--yes").exit_code == ExitCode.DONE
    assert [kind for kind, _ in fake.asked] == ["undo", "begin_undo", "begin_undo"]


@pytest.mark.parametrize("existed", [True, False])
def test_detached_it_is_left_to_the_server(monkeypatch: pytest.MonkeyPatch, existed: bool) -> None:
    fake = serve(monkeypatch, FakeServer(begun(), existed=existed))
    result = call("--detach", "--json")
    assert result.exit_code == ExitCode.DONE
    assert json.loads(result.stdout) == {"run": "r0-scenario01", "asked": "undo", "existed": existed}
    assert [kind for kind, _ in fake.asked] == ["begin_undo"]


def test_what_cannot_be_detached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, FakeServer(begun()))
    assert call("--detach", "--dry-run").exit_code == ExitCode.USAGE
    own = runner.invoke(app, ["undo", "r0-scenario01", "--detach"])
    assert own.exit_code == ExitCode.UNAVAILABLE
    assert "no server to leave the undo to" in own.stderr.lower()


def test_another_undo_that_came_first_is_not_taken_for_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, FakeServer(acted(asked(booked(), "book"), "undo-book-a1", None)))
    result = call()
    assert result.exit_code == ExitCode.FAILED
    assert "Somebody else asked for another undo" in result.stderr


def test_with_approve_it_is_said_who_approves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def see_through(*_: Any, **options: Any) -> ExitCode:
        seen.append((options["name"], options["approve"], options["after"]))
        return ExitCode.DONE

    monkeypatch.setattr(undo, "see_through", see_through)
    serve(monkeypatch, FakeServer(undone()))
    result = call("--approve", "--as", "ines")
    assert seen == [("ines", True, int(undone().view.cursor))]
    assert "ines approves every gate of this undo" in result.stderr


def test_run_and_submit_pass_on_that_it_is_undone_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Fake(FakeServer):
        async def submit(self, goal: str, **given: Any) -> Any:
            seen.append(given["undo_on_failure"])
            return type("Submitted", (), {"run": "r0-scenario01", "existed": False})()

    fake = serve(monkeypatch, Fake(undone()))
    monkeypatch.setattr(runs, "connect", server.connect)
    assert fake.asked == []
    for command in ("submit", "run"):
        for options in ([], ["--undo-on-failure"]):
            assert runner.invoke(app, [command, "a goal", *options, *SERVER]).exit_code == 0
    assert seen == [False, True, False, True]
