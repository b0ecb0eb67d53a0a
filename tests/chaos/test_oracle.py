"""The oracle finds what it is there to find: hand-made histories, one good, each other bad in one way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from handrail.v1 import event_pb2
from tests.chaos import oracle, recovery
from tests.chaos.history import Asked, Row, Stroke
from tests.chaos.oracle import Ledger, Told
from tests.chaos.world import Call, Effect

RUN = "r0-run"
SECOND_NS = 1_000_000_000
BODIES: dict[str, type] = {
    "submit": event_pb2.Submit,
    "cancel": event_pb2.Cancel,
    "plan_ask": event_pb2.PlanAsk,
    "plan_answer": event_pb2.PlanAnswer,
    "action": event_pb2.Action,
    "intent": event_pb2.Intent,
    "result": event_pb2.Result,
    "revoked": event_pb2.Revoked,
    "healed": event_pb2.Healed,
    "in_doubt": event_pb2.InDoubt,
    "verdict": event_pb2.Verdict,
    "finished": event_pb2.Finished,
    "gate_opened": event_pb2.GateOpened,
    "gate_closed": event_pb2.GateClosed,
    "decide": event_pb2.Decide,
    "undo": event_pb2.Undo,
    "undo_planned": event_pb2.UndoPlanned,
    "undo_ended": event_pb2.UndoEnded,
}
APPROVED, DENIED = event_pb2.GATE_OUTCOME_APPROVED, event_pb2.GATE_OUTCOME_DENIED
UNDONE = event_pb2.RUN_STATUS_UNDONE


@dataclass
class History:
    """A log and a ledger that grow by a second with everything that is said."""

    rows: list[Row] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    now_ns: int = 0

    def say(self, kind: str, writer: str = "decider/1", **body: Any) -> History:
        self.now_ns += SECOND_NS
        made = BODIES[kind](**body)
        attempt = str(getattr(made, "attempt", ""))
        number = len(self.rows) + 1
        self.rows.append(Row(RUN, number, 0, self.now_ns, kind, writer, f"e{number}", made, attempt))
        return self

    def ask(self, attempt: str, tool: str = "post", step: str = "") -> History:
        body = event_pb2.Action(attempt=attempt, step=step or attempt.rpartition("-")[0], tool=tool)
        body.arguments["ref"].json = json.dumps("a")
        self.say("action")
        self.rows[-1] = replace(self.rows[-1], body=body, attempt=attempt)
        return self

    def claim(self, attempt: str, slot: int = 0) -> History:
        name = f"site-1-errands_{slot}-1"
        return self.say("intent", f"worker-errands/{name}", attempt=attempt, claimer=name)

    def call(self, tool: str = "post", key: str = "k") -> History:
        self.now_ns += SECOND_NS
        self.calls.append(Call(len(self.calls) + 1, self.now_ns, tool, "a", key, 1))
        return self

    def happen(self, tool: str = "post", key: str = "k") -> History:
        self.now_ns += SECOND_NS
        self.effects.append(Effect(len(self.effects) + 1, self.now_ns, tool, "a", key, 1))
        return self

    def result(self, attempt: str) -> History:
        body = event_pb2.Result(attempt=attempt, happened=event_pb2.HAPPENED_YES)
        body.output.json = "{}"
        self.say("result", "worker-errands/site-1-errands_0-1", attempt=attempt)
        self.rows[-1] = replace(self.rows[-1], body=body)
        return self

    def confirm(self, attempt: str, outcome: int = event_pb2.OUTCOME_CONFIRMED) -> History:
        named = next(row.id for row in reversed(self.rows) if row.kind == "result")
        return self.say("verdict", "verifier/v", attempt=attempt, result_id=named, outcome=outcome)

    def gate(self, step: str, tool: str = "hand", quorum: int = 1) -> History:
        item = event_pb2.GateItem(step=step, tool=tool)
        return self.say("gate_opened", gate="g1", items=[item], quorum=quorum, binding="b")

    def approve(self, who: str, binding: str = "b") -> History:
        choice = event_pb2.GATE_CHOICE_APPROVE
        return self.say("decide", "gateway/1", gate="g1", approver=who, binding=binding, choice=choice)

    def close(self, *who: str, outcome: int = APPROVED) -> History:
        return self.say("gate_closed", gate="g1", outcome=outcome, approvers=who)

    def do(self, attempt: str, tool: str) -> History:
        """Ask, claim, act and confirm."""
        self.ask(attempt, tool).claim(attempt).call(tool)
        return self.happen(tool).result(attempt).confirm(attempt)

    def end(self, status: int = event_pb2.RUN_STATUS_DONE) -> History:
        return self.say("finished", status=status)


def good(tool: str = "post") -> History:
    """One effect, as it should be."""
    history = History().say("submit", "gateway/1").ask("step-a1", tool).claim("step-a1").call(tool)
    return history.happen(tool).result("step-a1").confirm("step-a1").end()


def look(history: History, *, told: Told | None = None, tool: str = "post", **asked: Any) -> list[str]:
    fields: dict[str, Any] = {"ref": "a", "course": "test", "owes": ((tool, "a"),), "run": RUN, **asked}
    ledger = Ledger(history.calls, history.effects)
    return [finding.wrong for finding in oracle.check(Asked(**fields), history.rows, ledger, told)]


def test_a_good_history_has_no_findings() -> None:
    assert look(good()) == []
    assert look(good(), told=Told("done", frozenset({"step"}))) == []


def test_a_run_that_was_never_acknowledged_is_lost() -> None:
    assert look(good(), run="") == ["lost"]


def test_an_acknowledged_run_without_a_goal_in_its_log_is_lost() -> None:
    assert look(History()) == ["lost"]


def test_a_run_without_an_end() -> None:
    history = good()
    history.rows.pop()
    assert look(history) == ["not ended"]


def test_a_run_that_ends_otherwise_than_it_should() -> None:
    history = good()
    history.rows.pop()
    assert look(history.end(event_pb2.RUN_STATUS_FAILED)) == ["not ended"]


def test_a_run_that_ends_twice() -> None:
    assert "torn" in look(good().end())


def test_a_client_that_is_told_something_else() -> None:
    assert look(good(), told=Told("running")) == ["torn"]


def test_two_effects_are_a_repetition() -> None:
    assert look(good().happen(key="other")) == ["repeated"]
    assert look(good("send").happen("send"), tool="send") == ["repeated"]


def test_an_effect_that_is_missing() -> None:
    history = good()
    history.effects.clear()
    assert look(history) == ["missing"]


def test_an_effect_that_nobody_can_tell_of_must_be_surfaced() -> None:
    history = History().say("submit", "gateway/1").ask("step-a1", "ring").claim("step-a1").call("ring")
    assert look(history, tool="ring") == ["not ended"]
    surfaced = history.say("in_doubt", step="step", attempt="step-a1")
    assert look(surfaced, tool="ring") == []
    assert look(surfaced.happen("ring"), tool="ring") == []
    assert look(surfaced.happen("ring"), tool="ring") == ["repeated"]


def test_what_has_a_key_needs_no_human() -> None:
    history = History().say("submit", "gateway/1").ask("step-a1").claim("step-a1").call()
    assert "not ended" in look(history.say("in_doubt", step="step", attempt="step-a1"))


def test_a_step_without_a_verdict() -> None:
    history = good()
    history.rows = [row for row in history.rows if row.kind != "verdict"]
    assert look(history) == ["not verified"]


def test_a_step_that_was_refuted() -> None:
    history = good()
    verdict = next(row for row in history.rows if row.kind == "verdict")
    verdict.body.outcome = event_pb2.OUTCOME_REFUTED
    assert look(history) == ["not verified"]


def test_a_verdict_must_name_the_result() -> None:
    history = good()
    next(row for row in history.rows if row.kind == "verdict").body.result_id = "another"
    assert look(history) == ["not verified"]


def test_a_verdict_that_comes_after_the_end() -> None:
    history = good()
    verdict = next(row for row in history.rows if row.kind == "verdict")
    history.rows.remove(verdict)
    history.rows.append(replace(verdict, sequence=99))
    assert look(history) == ["not verified"]


def test_a_result_that_is_written_twice_is_one() -> None:
    history = good()
    history.rows += [replace(row, sequence=row.sequence + 90) for row in history.rows if row.kind == "result"]
    assert look(history) == []


def test_a_step_that_a_client_is_told_is_done() -> None:
    history = good()
    history.rows = [row for row in history.rows if row.kind not in ("verdict", "finished")]
    history.end(event_pb2.RUN_STATUS_CANCELLED)
    told = Told("cancelled", frozenset({"step"}))
    assert look(history, told=told, ends=("cancelled",)) == ["not verified"]


@pytest.mark.parametrize("second", ["intent", "revoked"])
def test_a_claim_that_is_not_alone(second: str) -> None:
    history = good()
    where = next(i for i, row in enumerate(history.rows) if row.kind == "intent")
    body = BODIES[second](attempt="step-a1")
    history.rows.insert(where + 1, replace(history.rows[where], kind=second, body=body))
    assert look(history) == ["torn"]


def test_a_call_before_its_claim() -> None:
    history = History().say("submit", "gateway/1").ask("step-a1").call().claim("step-a1").happen()
    assert look(history.result("step-a1").confirm("step-a1").end()) == ["unclaimed"]


def test_a_second_call_on_one_claim() -> None:
    assert look(good().call()) == ["unclaimed"]


def test_an_attempt_that_is_asked_for_twice() -> None:
    history = good()
    where = next(i for i, row in enumerate(history.rows) if row.kind == "action")
    history.rows.insert(where + 1, history.rows[where])
    assert look(history) == ["torn"]


def test_what_starts_after_the_end() -> None:
    assert "torn" in look(good().ask("other-a1", "look"))


def test_a_command_that_nobody_planned() -> None:
    history = good()
    history.rows.insert(1, replace(history.rows[0], kind="cancel", body=event_pb2.Cancel()))
    assert look(history) == ["commanded"]
    assert look(history, commands=("cancel",)) == []


def test_what_is_in_flight_at_a_moment() -> None:
    history = History().ask("step-a1").claim("step-a1")
    claimed_ns = history.now_ns
    history.result("step-a1").ask("other-a1").claim("other-a1")
    other_ns = history.now_ns
    history.say("healed", step="other", attempt="other-a1")
    assert oracle.in_flight(history.rows, claimed_ns - 1) == set()
    assert oracle.in_flight(history.rows, claimed_ns) == {(RUN, "step-a1")}
    assert oracle.in_flight(history.rows, other_ns) == {(RUN, "other-a1")}
    assert oracle.in_flight(history.rows, history.now_ns) == set()


def test_recovery_counts_from_the_first_event_of_the_revived_part() -> None:
    history = History().ask("step-a1").claim("step-a1", slot=1)
    stroke = Stroke(1, "worker:1", "kill", struck_ns=history.now_ns)
    work = recovery.in_hand("worker:1", history.rows, stroke.struck_ns)
    assert work == [(RUN, "step-a1")]
    assert recovery.in_hand("worker:0", history.rows, stroke.struck_ns) == []
    history.ask("step-a2").claim("step-a2", slot=0)
    assert recovery.first_back(stroke, history.rows) == 0
    history.result("step-a2").claim("third", slot=1)
    assert recovery.first_back(stroke, history.rows) == history.now_ns
    assert recovery.went_on(work[0], history.rows, stroke.struck_ns) == history.now_ns - SECOND_NS


def test_minds_have_in_hand_what_they_were_asked() -> None:
    history = History().say("plan_ask", attempt="goal-a1")
    asked_ns = history.now_ns
    history.say("plan_answer", "planner/p", attempt="goal-a1")
    assert recovery.in_hand("minds", history.rows, asked_ns) == [(RUN, "goal-a1")]
    assert recovery.in_hand("planner", history.rows, history.now_ns) == []
    assert recovery.went_on((RUN, "goal-a1"), history.rows, asked_ns) == history.now_ns


def test_of_what_has_ended_nothing_is_in_hand() -> None:
    history = good().result("step-a1")
    assert recovery.in_hand("minds", history.rows[:-3], history.now_ns) == [(RUN, "step-a1")]
    assert recovery.in_hand("minds", history.rows, history.now_ns) == []
    history.rows = [row for row in history.rows if row.kind != "verdict"]
    assert recovery.in_hand("minds", history.rows, history.now_ns) == []
    assert recovery.in_hand("minds", history.say("undo", "gateway/1").rows, history.now_ns) == [
        (RUN, "step-a1")
    ]


def test_percentiles_are_of_those_that_there_are() -> None:
    assert recovery.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert recovery.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert recovery.percentile([1.0], 0.5) == 1.0


# --- gates -------------------------------------------------------------------------------------------


def handed(quorum: int = 1, *who: str) -> History:
    """Something that waited for approvals, and had them."""
    tool = "hand" if quorum == 1 else "seal"
    history = History().say("submit", "gateway/1").gate("step", tool, quorum)
    for one in who or ("ada",):
        history.approve(one)
    return history.close(*(who or ("ada",))).do("step-a1", tool).end()


def look_at_gate(history: History, **asked: Any) -> list[str]:
    return look(history, **{"tool": "hand", "commands": ("decide",), **asked})


def test_what_was_approved_has_no_findings() -> None:
    assert look_at_gate(handed()) == []
    assert look_at_gate(handed(2, "ada", "bob"), tool="seal") == []


def test_an_action_that_nobody_has_approved() -> None:
    history = handed()
    history.rows = [row for row in history.rows if row.kind not in ("decide", "gate_opened", "gate_closed")]
    assert look_at_gate(history) == ["unapproved", "unapproved"]


def test_a_gate_that_is_said_to_be_approved() -> None:
    history = handed()
    history.rows = [row for row in history.rows if row.kind != "decide"]
    assert "unapproved" in look_at_gate(history)


def test_one_of_two_who_have_to_approve() -> None:
    history = handed(2, "ada", "ada")
    assert "unapproved" in look_at_gate(history, tool="seal")


def test_an_approval_of_something_else() -> None:
    history = handed()
    next(row for row in history.rows if row.kind == "decide").body.binding = "another"
    assert "unapproved" in look_at_gate(history)


def test_an_action_before_its_gate_is_closed() -> None:
    history = handed()
    closed = next(row for row in history.rows if row.kind == "gate_closed")
    history.rows.remove(closed)
    history.rows.insert(-1, replace(closed, sequence=history.rows[-1].sequence))
    assert "unapproved" in look_at_gate(history)


def test_an_effect_of_what_was_denied() -> None:
    history = History().say("submit", "gateway/1").gate("step").close("ada", outcome=DENIED).happen("hand")
    history.end(event_pb2.RUN_STATUS_FAILED)
    assert look_at_gate(history, ends=("failed",)) == ["unapproved"]


@pytest.mark.parametrize("kind", ["gate_opened", "gate_closed"])
def test_a_gate_with_two_ends_or_beginnings(kind: str) -> None:
    history = handed()
    where = next(i for i, row in enumerate(history.rows) if row.kind == kind)
    history.rows.insert(where + 1, history.rows[where])
    assert "torn" in look_at_gate(history)


# --- undos -------------------------------------------------------------------------------------------


def undone(status: int = UNDONE, **ended: Any) -> History:
    """A posting that is undone, as it should be."""
    history = good().say("undo", "gateway/1").say("undo_planned").do("undo-step-a1", "unpost")
    return history.say("undo_ended", status=status, **ended)


def look_at_undo(history: History, **asked: Any) -> list[str]:
    named = {"undoes": (("unpost", "a"),), "commands": ("undo",), "ends": ("undone",)}
    return look(history, **{**named, **asked})


def test_what_is_undone_has_no_findings() -> None:
    assert look_at_undo(undone()) == []
    assert look_at_undo(undone(), told=Told("undone")) == []


def test_a_client_that_is_told_that_an_undone_run_is_done() -> None:
    assert look_at_undo(undone(), told=Told("done")) == ["torn"]


def test_an_undo_without_an_end() -> None:
    for kinds in (("undo_ended",), ("undo_ended", "undo_planned")):
        history = good().say("undo", "gateway/1") if len(kinds) > 1 else undone()
        history.rows = [row for row in history.rows if row.kind not in kinds]
        assert "not ended" in look_at_undo(history, ends=("done",))


def test_an_undo_that_is_asked_for_twice_is_one() -> None:
    history = undone()
    where = next(i for i, row in enumerate(history.rows) if row.kind == "undo")
    history.rows.insert(where, history.rows[where])
    assert look_at_undo(history) == []


def test_two_compensations_are_a_repetition() -> None:
    assert look_at_undo(undone().happen("unpost", key="other")) == ["repeated"]


def test_a_compensation_that_is_missing() -> None:
    history = undone()
    history.effects = [effect for effect in history.effects if effect.tool != "unpost"]
    assert look_at_undo(history) == ["missing"]
    given_up = undone(event_pb2.RUN_STATUS_DONE, failure=event_pb2.Failure(code="denied"))
    given_up.effects = history.effects
    assert look_at_undo(given_up, ends=("done",)) == []


def test_something_is_taken_back_that_has_not_happened() -> None:
    history = undone()
    history.effects = [effect for effect in history.effects if effect.tool == "unpost"]
    assert "untaken" in look_at_undo(history, owes=())


def test_something_is_taken_back_and_nobody_has_undone_it() -> None:
    assert look_at_undo(good().happen("unpost"), ends=("done",)) == ["untaken"]


def test_something_is_taken_back_before_what_rests_on_it() -> None:
    def both(*order: str) -> History:
        history = History().say("submit", "gateway/1").do("step-a1", "post").do("lend-a1", "lend").end()
        history.say("undo", "gateway/1").say("undo_planned")
        for tool in order:
            history.do(f"undo-{tool}-a1", tool)
        return history.say("undo_ended", status=UNDONE)

    undoes = (("unpost", "a"), ("reclaim", "a"))
    assert look_at_undo(both("reclaim", "unpost"), undoes=undoes) == []
    assert look_at_undo(both("unpost", "reclaim"), undoes=undoes) == ["untaken"]


def test_a_compensation_without_an_undo() -> None:
    history = undone()
    history.rows = [row for row in history.rows if not row.kind.startswith("undo")]
    assert "torn" in look_at_undo(history, ends=("done",))


def test_a_step_that_is_begun_while_the_run_is_undone() -> None:
    history = undone()
    end = history.rows.pop()
    history.ask("other-a1", "look")
    history.rows.append(replace(end, sequence=99))
    assert "torn" in look_at_undo(history)


def test_a_compensation_without_a_verdict() -> None:
    history = undone()
    last = [row for row in history.rows if row.kind == "verdict"][-1]
    history.rows.remove(last)
    assert look_at_undo(history) == ["not verified"]
    history.rows.append(replace(last, sequence=99))
    assert look_at_undo(history) == ["not verified"]


def test_a_compensation_that_somebody_has_looked_up_needs_no_verdict() -> None:
    history = good().say("undo", "gateway/1").say("undo_planned").ask("undo-step-a1", "unpost")
    history.claim("undo-step-a1").call("unpost").happen("unpost")
    history.say("in_doubt", step="undo-step", attempt="undo-step-a1").gate("undo-step", "unpost")
    history.close("ada", outcome=event_pb2.GATE_OUTCOME_HAPPENED).say("undo_ended", status=UNDONE)
    assert look_at_undo(history) == []
    assert oracle.doubts(history.rows) == {}


def test_an_undo_or_a_decision_that_nobody_planned() -> None:
    assert look_at_undo(undone(), commands=()) == ["commanded"]
    assert look_at_gate(handed(), commands=()) == ["commanded"]
