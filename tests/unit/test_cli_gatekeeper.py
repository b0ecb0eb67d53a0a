"""Gates of a watched run: shown, asked about on a terminal, approved unasked, or left as they are."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from core.state import Decision, Gate
from handrail.cli import gatekeeper, watching
from handrail.cli.gatekeeper import QUESTION, UNDO_DOUBT, WHY, Answer, Gatekeeper
from handrail.cli.output import Output
from handrail.cli.terminal import Ask, can_ask, on_terminal
from handrail.cli.watching import Watch
from handrail.errors import FailedPrecondition, InvalidArgument
from handrail.v1 import plan_pb2, run_service_pb2
from tests.unit.gate_samples import RUN, TARGET, E, gate, item, opened
from tests.unit.test_cli_watching import FakeClient, event, until
from tests.unit.undo_samples import responses, stuck

PLAN = plan_pb2.Plan(origin="client", steps=[plan_pb2.Step(id="tell", tool="send_email")])
SUBMIT = event(1, "cmd.submit", submit=E.Submit(goal=E.Goal(text="tell ada", submitter="ada")))
ACCEPTED = event(2, "dec.note.plan_accepted", plan_accepted=E.PlanAccepted(plan=PLAN))
OPENED = event(3, "dec.note.gate_opened", gate_opened=opened())
DONE = event(9, "dec.note.finished", finished=E.Finished(status=E.RUN_STATUS_DONE))
FAILED = event(9, "dec.note.finished", finished=E.Finished(status=E.RUN_STATUS_FAILED))


def decided(sequence: int, choice: int, by: str) -> run_service_pb2.WatchRunResponse:
    body = E.Decide(gate="g1", binding=opened().binding, approver=by)
    body.choice = choice  # type: ignore[assignment]
    return event(sequence, "cmd.decide", decide=body)


def closed(sequence: int, outcome: int, by: str) -> run_service_pb2.WatchRunResponse:
    body = E.GateClosed(gate="g1", approvers=[by])
    body.outcome = outcome  # type: ignore[assignment]
    return event(sequence, "dec.note.gate_closed", gate_closed=body)


class GatedRun(FakeClient):
    """A run that waits at a gate; a decision ends it, unless it does not count."""

    def __init__(self, *events: run_service_pb2.WatchRunResponse, counts: bool = True) -> None:
        super().__init__(*(events or (SUBMIT, ACCEPTED, OPENED)), endless=True)
        self.counts = counts
        self.decided: list[tuple[str, bool, str, str, str]] = []
        self.amended: list[tuple[str, dict[str, Any], str]] = []
        self.wants: type = object

    async def decide(
        self, gate: str, *, approve: bool, approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        self.decided.append((gate, approve, approver, binding, reason))
        choice = E.GATE_CHOICE_APPROVE if approve else E.GATE_CHOICE_DENY
        outcome = E.GATE_OUTCOME_APPROVED if approve else E.GATE_OUTCOME_DENIED
        self.more.put_nowait(decided(4, choice, approver))
        if self.counts:
            self.more.put_nowait(closed(5, outcome, approver))
            self.more.put_nowait(DONE if approve else FAILED)
        return False

    async def amend(
        self, gate: str, *, arguments: Mapping[str, Any], approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        self.amended.append((gate, dict(arguments), approver))
        if not all(isinstance(held, self.wants) for held in arguments.values()):
            raise InvalidArgument("no", code=grpc.StatusCode.INVALID_ARGUMENT)
        self.more.put_nowait(decided(4, E.GATE_CHOICE_AMEND, approver))
        self.more.put_nowait(closed(5, E.GATE_OUTCOME_AMENDED, approver))
        self.more.put_nowait(DONE)
        return False


class Typist:
    """Answers questions with what is given; then waits for ever."""

    def __init__(self, *typed: str | None) -> None:
        self.typed = list(typed)
        self.questions: list[str] = []
        self.left = False

    async def ask(self, question: str) -> str | None:
        self.questions.append(question)
        if self.typed:
            return self.typed.pop(0)
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True
        return None


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "GATHER_S", 0.001)
    monkeypatch.setattr(watching, "SETTLED_AFTER_S", 0.02)
    monkeypatch.setattr(watching, "DECIDED_AFTER_S", 0.2)


def watch(client: GatedRun, ask: Ask | None, *, approve: bool = False, **options: Any) -> Watch:
    fake: Any = client
    output = Output()
    keeper = Gatekeeper(output, "ada", lambda: TARGET, approve=approve, ask=ask)
    options.setdefault("polite", True)
    return Watch(fake, RUN, output, note="cancelling", gatekeeper=keeper, **options)


async def follow(watching: Watch) -> run_service_pb2.Run:
    async with asyncio.timeout(5):
        return await watching.follow()


async def test_yes_approves_what_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    client, typist = GatedRun(), Typist("y")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_DONE
    assert client.decided == [(f"{RUN}-g1", True, "ada", opened().binding, "")]
    assert typist.questions == [QUESTION]
    out = capsys.readouterr().out
    assert '    to       "ada@example.com"' in out
    assert f"handrail approve {RUN}-g1 --binding" in out


async def test_no_asks_why_and_denies() -> None:
    client, typist = GatedRun(), Typist("No", "not before\x1b[2J Friday")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_FAILED
    assert client.decided == [(f"{RUN}-g1", False, "ada", opened().binding, "not before Friday")]
    assert typist.questions == [QUESTION, WHY]
    assert seen.gates[0].closed.outcome == E.GATE_OUTCOME_DENIED


@pytest.mark.parametrize("reason", ["", None])
async def test_a_denial_needs_no_reason(reason: str | None) -> None:
    client = GatedRun()
    await follow(watch(client, Typist("n", reason).ask))
    assert client.decided[0][1:] == (False, "ada", opened().binding, "")


@pytest.mark.parametrize("typed", [["l"], ["later"], [None], ["", "what", "yess", "Y es", "да"]])
async def test_later_leaves_the_gate_open(typed: list[str | None]) -> None:
    client, typist = GatedRun(), Typist(*typed)
    following = watch(client, typist.ask)
    seen = await follow(following)
    assert seen.status == E.RUN_STATUS_WAITING
    assert not following.left
    assert client.decided == client.cancelled == []
    assert len(typist.questions) == len(typed)


async def test_while_somebody_thinks_the_watch_goes_on() -> None:
    client, typist = GatedRun(), Typist()
    thinking: Any = watch(client, typist.ask)
    following = asyncio.create_task(follow(thinking))
    await until(lambda: typist.questions == [QUESTION])
    assert thinking.watched.status == E.RUN_STATUS_WAITING
    assert thinking._settling is None
    client.more.put_nowait(closed(5, E.GATE_OUTCOME_APPROVED, "bob"))
    await until(lambda: typist.left)
    client.more.put_nowait(DONE)
    assert (await following).status == E.RUN_STATUS_DONE
    assert client.decided == []


async def test_a_gate_that_closes_meanwhile_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    client, typist = GatedRun(), Typist()
    following = asyncio.create_task(follow(watch(client, typist.ask)))
    await until(lambda: typist.questions == [QUESTION])
    client.more.put_nowait(closed(5, E.GATE_OUTCOME_EXPIRED, ""))
    await until(lambda: typist.left)
    client.more.put_nowait(FAILED)
    await following
    assert f"{RUN}-g1 has been closed meanwhile" in capsys.readouterr().err


async def test_an_interrupt_at_the_question_leaves_the_gate_open() -> None:
    client, typist = GatedRun(), Typist()
    following = watch(client, typist.ask)
    task = asyncio.create_task(follow(following))
    await until(lambda: typist.questions == [QUESTION])
    os.kill(os.getpid(), signal.SIGINT)
    seen = await task
    assert following.left
    assert seen.status == E.RUN_STATUS_WAITING
    assert typist.left
    assert client.decided == client.cancelled == []


async def test_a_run_that_is_cancelled_asks_no_more() -> None:
    client, typist = GatedRun(), Typist()
    task = asyncio.create_task(follow(watch(client, typist.ask)))
    await until(lambda: typist.questions == [QUESTION])
    client.more.put_nowait(event(5, "cmd.cancel", cancel=E.Cancel()))
    await until(lambda: typist.left)
    client.more.put_nowait(event(6, "dec.note.finished", finished=E.Finished(status=E.RUN_STATUS_CANCELLED)))
    assert (await task).status == E.RUN_STATUS_CANCELLED


async def test_of_a_past_gate_nobody_is_asked() -> None:
    client = GatedRun(
        SUBMIT,
        ACCEPTED,
        OPENED,
        decided(4, E.GATE_CHOICE_APPROVE, "bob"),
        closed(5, E.GATE_OUTCOME_APPROVED, "bob"),
        DONE,
    )
    typist = Typist()
    client.endless = False
    assert (await follow(watch(client, typist.ask))).status == E.RUN_STATUS_DONE
    assert typist.questions == []


@pytest.mark.parametrize(("by", "quorum", "asked"), [("ada", 2, 0), ("bob", 2, 1), ("bob", 1, 0)])
async def test_nobody_is_asked_twice_nor_where_enough_is_said(by: str, quorum: int, asked: int) -> None:
    first = event(3, "dec.note.gate_opened", gate_opened=opened(quorum=quorum))
    client = GatedRun(SUBMIT, ACCEPTED, first, decided(4, E.GATE_CHOICE_APPROVE, by))
    typist = Typist("l")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_WAITING
    assert len(typist.questions) == asked


async def test_several_gates_are_asked_about_one_after_the_other() -> None:
    plan = plan_pb2.Plan(steps=[plan_pb2.Step(id=name, tool="send_email") for name in ("tell", "warn")])
    accepted = event(2, "dec.note.plan_accepted", plan_accepted=E.PlanAccepted(plan=plan))
    second = opened(item("warn", to="bob"), name="g2")
    client = GatedRun(SUBMIT, accepted, OPENED, event(4, "dec.note.gate_opened", gate_opened=second))
    typist = Typist("l", "l")
    seen = await follow(watch(client, typist.ask))
    assert [each.id for each in seen.gates] == [f"{RUN}-g1", f"{RUN}-g2"]
    assert typist.questions == [QUESTION, QUESTION]


LACKING = event(
    3, "dec.note.gate_opened", gate_opened=opened(item(to="ada@example.com", missing=["body", "subject"]))
)


async def test_what_is_missing_is_asked_for_shown_and_approved(capsys: pytest.CaptureFixture[str]) -> None:
    client, typist = GatedRun(SUBMIT, ACCEPTED, LACKING), Typist(" two  spaces ", '"7"', "y")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_DONE
    assert client.amended == [(f"{RUN}-g1", {"body": "two  spaces", "subject": "7"}, "ada")]
    assert client.decided == []
    assert typist.questions == ["body? (empty: later): ", "subject? (empty: later): ", QUESTION]
    out = capsys.readouterr().out
    assert "subject  nobody has said it" in out
    assert '  body  was not given\n        now "two  spaces"' in out
    assert f"handrail amend {RUN}-g1 --set body=JSON --set subject=JSON --binding" in out
    assert "handrail approve" not in out


@pytest.mark.parametrize("typed", [[""], [None], ["a subject", " "], ["no", "n", "l"], ["a", "b", None]])
async def test_what_nobody_says_is_left_for_later(typed: list[str | None]) -> None:
    client, typist = GatedRun(SUBMIT, ACCEPTED, LACKING), Typist(*typed)
    seen = await follow(watch(client, typist.ask))
    assert (client.decided, client.amended) == ([], [])
    assert seen.status == E.RUN_STATUS_WAITING


async def test_what_lacks_something_can_be_denied_on_a_terminal() -> None:
    client, typist = GatedRun(SUBMIT, ACCEPTED, LACKING), Typist("a", "b", "n", "not now")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_FAILED
    assert client.amended == []
    assert client.decided == [(f"{RUN}-g1", False, "ada", opened().binding, "not now")]


async def test_a_text_that_looks_like_json_is_said_as_a_text_where_it_must_be_one() -> None:
    client, typist = GatedRun(SUBMIT, ACCEPTED, LACKING), Typist("4711", "NaN", "y")
    client.wants = str
    await follow(watch(client, typist.ask))
    assert [said for _, said, _ in client.amended] == [
        {"body": 4711, "subject": "NaN"},
        {"body": "4711", "subject": "NaN"},
    ]


async def test_approve_cannot_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    client, typist = GatedRun(SUBMIT, ACCEPTED, LACKING), Typist()
    seen = await follow(watch(client, typist.ask, approve=True))
    assert (client.decided, client.amended, seen.status) == ([], [], E.RUN_STATUS_WAITING)
    assert f"{RUN}-g1 lacks body and subject, which somebody has to say" in capsys.readouterr().err


async def test_with_approve_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    client, typist = GatedRun(), Typist()
    seen = await follow(watch(client, typist.ask, approve=True))
    assert seen.status == E.RUN_STATUS_DONE
    assert client.decided == [(f"{RUN}-g1", True, "ada", opened().binding, "")]
    assert typist.questions == []
    told = capsys.readouterr()
    assert f"--approve: approving {RUN}-g1 as ada" in told.err
    assert '    to       "ada@example.com"' in told.out


async def test_a_decision_that_does_not_count_is_waited_for_and_left() -> None:
    client = GatedRun(counts=False)
    seen = await follow(watch(client, Typist("y").ask))
    assert seen.status == E.RUN_STATUS_WAITING
    assert seen.gates[0].approved_by == ["ada"]


async def test_a_decision_that_comes_late_counts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "DECIDED_AFTER_S", 60.0)
    client = GatedRun(counts=False)
    waiting: Any = watch(client, Typist("y").ask)
    task = asyncio.create_task(follow(waiting))
    await until(lambda: bool(client.decided) and waiting._settling is not None)
    left_s = waiting._settling.when() - asyncio.get_running_loop().time()
    assert left_s > watching.SETTLED_AFTER_S
    client.more.put_nowait(closed(5, E.GATE_OUTCOME_APPROVED, "ada"))
    client.more.put_nowait(DONE)
    assert (await task).status == E.RUN_STATUS_DONE


async def test_what_the_server_says_no_to_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    client = GatedRun()

    async def decide(*_: Any, **__: Any) -> bool:
        raise FailedPrecondition("the gate is closed", code=grpc.StatusCode.FAILED_PRECONDITION)

    client.decide = decide  # type: ignore[method-assign]
    assert (await follow(watch(client, Typist("y").ask))).status == E.RUN_STATUS_WAITING
    assert f"nothing was decided at {RUN}-g1: the gate is closed" in capsys.readouterr().err


async def test_a_defect_in_asking_is_not_hidden() -> None:
    async def broken(question: str) -> str | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await follow(watch(GatedRun(), broken))


async def test_without_a_gatekeeper_the_watch_ends_at_the_gate() -> None:
    fake: Any = GatedRun()
    async with asyncio.timeout(5):
        seen = await Watch(fake, RUN, Output(), polite=True, note="").follow()
    assert seen.status == E.RUN_STATUS_WAITING


@pytest.mark.parametrize(
    ("typed", "sent"), [(["y"], "happened"), (["r"], "repeat"), (["g", "it is fine"], "deny"), (["l"], None)]
)
async def test_an_undo_that_went_wrong_is_asked_about_as_such(typed: list[str], sent: str | None) -> None:
    typist = Typist(*typed)
    keeper = Gatekeeper(Output(), "ada", lambda: TARGET, ask=typist.ask)
    said = await keeper.answer(stuck().view.gates[0])
    assert (said.word if said is not None else None) == sent
    assert typist.questions[0] == UNDO_DOUBT
    # With --approve nobody says for others what became of something.
    unasked = Gatekeeper(Output(), "ada", lambda: TARGET, approve=True, ask=None)
    assert await unasked.answer(stuck().view.gates[0]) is None


async def test_whoever_watches_is_asked_at_the_gates_of_an_undo() -> None:
    client = GatedRun(*responses(stuck()))
    typist = Typist("l")
    seen = await follow(watch(client, typist.ask))
    assert seen.status == E.RUN_STATUS_WAITING
    assert typist.questions == [UNDO_DOUBT]


# --- the terminal --------------------------------------------------------------------------------------


class Screen:
    """The other end of a terminal: what is on it, and a keyboard."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._descriptor, 65_536)
            except OSError:
                return
            self.text += found.decode(errors="replace")

    def end(self) -> None:
        """Read what is left; the terminal has been closed."""
        self._thread.join(5)
        os.close(self._descriptor)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with (
        open(theirs, encoding="utf-8", closefd=False) as typed,
        open(theirs, "w", encoding="utf-8", closefd=False) as shown,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", typed)
        patch.setattr(sys, "stdout", shown)
        screen = Screen(ours)
        yield screen
    os.close(theirs)
    screen.end()


async def on_screen(screen: Screen, text: str) -> None:
    await until(lambda: text in screen.text)


@pytest.mark.parametrize(("typed", "status"), [("y", E.RUN_STATUS_DONE), ("n", E.RUN_STATUS_FAILED)])
async def test_the_question_and_the_tree_share_a_terminal(
    monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    client = GatedRun()
    with terminal(monkeypatch) as screen:
        output = Output()
        assert output.live
        assert can_ask(output)
        asking: Any = watch(client, on_terminal(output))
        following = asyncio.create_task(follow(asking))
        await on_screen(screen, QUESTION.strip())
        # While the question stands, nothing is drawn over it.
        assert not asking._display._live.is_started
        screen.type("maybe\n")
        await until(lambda: screen.text.count(QUESTION.strip()) == 2)
        screen.type(f"{typed}\n")
        if typed == "n":
            await on_screen(screen, WHY.strip())
            screen.type("not before Friday\n")
        seen = await following
    assert seen.status == status
    assert client.decided == [
        (f"{RUN}-g1", typed == "y", "ada", opened().binding, "" if typed == "y" else "not before Friday")
    ]
    assert '"ada@example.com"' in screen.text


async def test_what_was_typed_before_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    client = GatedRun()
    with terminal(monkeypatch) as screen:
        screen.type("y\n")
        await on_screen(screen, "y")
        following = asyncio.create_task(follow(watch(client, on_terminal(Output()))))
        await on_screen(screen, QUESTION.strip())
        screen.type("\x04")  # Ctrl-D
        assert (await following).status == E.RUN_STATUS_WAITING
    assert client.decided == []


async def test_an_interrupt_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    client = GatedRun()
    with terminal(monkeypatch) as screen:
        following = watch(client, on_terminal(Output()))
        task = asyncio.create_task(follow(following))
        await on_screen(screen, QUESTION.strip())
        os.kill(os.getpid(), signal.SIGINT)
        await task
        # The next words begin on a line of their own, with the cursor shown.
        await until(lambda: "\n" in screen.text.rpartition(QUESTION.strip())[2])
    assert following.left
    assert client.decided == client.cancelled == []


def test_nobody_is_asked_on_a_pipe_or_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_ask(Output())
    with terminal(monkeypatch):
        assert can_ask(Output())
        assert not can_ask(Output(as_json=True))
        with monkeypatch.context() as patch, Path(os.devnull).open() as nothing:
            patch.setattr(sys, "stdin", nothing)
            assert not can_ask(Output())
            patch.setattr(sys, "stdin", None)
            assert not can_ask(Output())


async def test_an_answer_stands_for_itself() -> None:
    keeper = Gatekeeper(Output(as_json=True), "ada", lambda: TARGET, ask=Typist("YES").ask)
    assert await keeper.answer(gate()) == Answer("approve")


@pytest.mark.parametrize(
    ("kind", "quorum", "choices", "enough"),
    [
        (E.GATE_KIND_ACTION, 1, [], False),
        (E.GATE_KIND_ACTION, 2, [E.GATE_CHOICE_APPROVE], False),
        (E.GATE_KIND_ACTION, 2, [E.GATE_CHOICE_APPROVE, E.GATE_CHOICE_APPROVE], True),
        (E.GATE_KIND_ACTION, 2, [E.GATE_CHOICE_DENY], True),
        (E.GATE_KIND_ACTION, 2, [E.GATE_CHOICE_AMEND], True),
        (E.GATE_KIND_ACTION, 1, [E.GATE_CHOICE_DELEGATE], False),
        (E.GATE_KIND_DOUBT, 1, [E.GATE_CHOICE_HAPPENED], True),
        (E.GATE_KIND_DOUBT, 1, [E.GATE_CHOICE_DELEGATE], False),
    ],
)
def test_when_enough_was_said(kind: Any, quorum: int, choices: list[Any], enough: bool) -> None:
    said = tuple(Decision(1, E.Decide(choice=choice)) for choice in choices)
    what = opened(kind=kind, quorum=quorum)
    assert gatekeeper.is_decided(Gate(sequence=1, opened_ns=1, opened=what, decisions=said)) == enough
