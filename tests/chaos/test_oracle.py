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
}


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


def test_percentiles_are_of_those_that_there_are() -> None:
    assert recovery.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert recovery.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert recovery.percentile([1.0], 0.5) == 1.0
