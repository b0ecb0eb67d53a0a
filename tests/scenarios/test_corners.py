"""Corners of the core that once were wrong."""

import pytest

from core import failures, run
from core.plan_form import plan_from_form
from handrail.v1 import event_pb2, tool_pb2
from tests.scenarios.play import Play, contract, write

E = event_pb2
ENDED = {"done", "failed", "refused", "cancelled"}


def starts(play, n):  # acts asked after line n
    return [
        line for line in play.lines[n:] if line.startswith("= ask.worker") and "kind=action_kind_act" in line
    ]


def unkeyed(settle=1.0, **kw):
    return Play(contract("find"), write("call", readback="find", settle_s=settle, **kw), contract("look"))


def test_cancel_during_readback_that_says_no_ends():
    p = (
        unkeyed()
        .submit({"id": "call", "tool": "call"})
        .intent("call-a1")
        .failed("call-a1", failures.in_doubt, E.HAPPENED_UNKNOWN)
    )
    p.tick()  # read back asked (a2)
    assert "call-a2" in p.state.attempts
    p.cancel().found("call-a2", None)
    for _ in range(10):
        p.tick()
    assert p.status in ENDED, p.lines


def test_sibling_fails_during_readback_that_says_no_ends():
    p = unkeyed().submit({"id": "call", "tool": "call"}, {"id": "look", "tool": "look"})
    p.intent("call-a1").failed("call-a1", failures.in_doubt, E.HAPPENED_UNKNOWN).tick()
    p.failed("look-a1").found("call-a2", None)
    for _ in range(10):
        p.tick()
    assert p.status in ENDED, p.lines


def test_cancel_while_retry_after_sound_no_is_pending_ends():
    p = (
        unkeyed()
        .submit({"id": "call", "tool": "call"})
        .intent("call-a1")
        .orphan("call-a1", seen_dead=True)
        .tick()
        .found("call-a2", None)
    )
    p.cancel()
    for _ in range(10):
        p.tick()
    assert p.status in ENDED, p.lines


def test_failed_readback_does_not_clear_doubt():
    # the worker says HAPPENED_NO with every ToolError and every refusal, of read-backs too
    p = (
        unkeyed()
        .submit({"id": "call", "tool": "call"})
        .intent("call-a1")
        .failed("call-a1", failures.in_doubt, E.HAPPENED_UNKNOWN)
        .tick()
    )
    p.failed("call-a2", failures.transient, E.HAPPENED_NO)
    assert p.state.instances["call"].doubtful is not None
    n = len(p.lines)
    p.cancel()
    assert p.status != "cancelled" or any("in_doubt" in line for line in p.lines), p.lines[n:]


def test_cancel_starts_no_new_act_after_refutation():
    p = Play(write("make", doubt=True)).submit({"id": "m", "tool": "make"}).intent("m-a1").output("m-a1", 1)
    p.verdict("m-a1", E.OUTCOME_REFUTED, happened=E.HAPPENED_NO)
    n = len(p.lines)
    p.cancel().tick().verdict("m-a1", E.OUTCOME_REFUTED, round=2, happened=E.HAPPENED_NO).tick().tick()
    assert not starts(p, n), p.lines[n:]


def test_pause_starts_no_new_act_after_refutation():
    p = Play(write("make", doubt=True)).submit({"id": "m", "tool": "make"}).intent("m-a1").output("m-a1", 1)
    p.verdict("m-a1", E.OUTCOME_REFUTED, happened=E.HAPPENED_NO)
    n = len(p.lines)
    p.pause().tick().verdict("m-a1", E.OUTCOME_REFUTED, round=2, happened=E.HAPPENED_NO).tick().tick()
    assert not starts(p, n), p.lines[n:]


def test_settling_time_counts_from_the_death_not_from_the_claim():
    # claimed at 0; the claimer acts 4 s later and dies at once; settles in 3 s
    p = unkeyed(settle=3.0).submit({"id": "call", "tool": "call"}).intent("call-a1").tick(4.0)
    died = p.now_ns
    p.orphan("call-a1", seen_dead=True)
    if "call-a2" not in p.state.attempts:
        p.tick()
    asked = p.now_ns
    assert "call-a2" in p.state.attempts
    assert asked - died >= 3_000_000_000, (asked - died) / 1e9


def test_unknown_then_refuted_waits_for_settling():
    p = unkeyed(settle=3.0).submit({"id": "call", "tool": "call"}).intent("call-a1").output("call-a1", 1)
    at = p.now_ns
    p.verdict("call-a1", E.OUTCOME_UNKNOWN).tick()
    p.verdict("call-a1", E.OUTCOME_REFUTED, round=2, happened=E.HAPPENED_NO).tick()
    assert "call-a2" not in p.state.attempts or p.now_ns - at >= 3_000_000_000, (p.now_ns - at) / 1e9


@pytest.mark.parametrize("code", [failures.PERMIT, failures.POISONED, failures.BAD_ARGUMENTS])
def test_a_refusal_by_the_worker_does_not_clear_doubt(code):
    # keyed, in doubt; the second attempt is refused before the tool is called; a stand-in must not act
    keyed = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key", "capability": "pay"}
    p = Play(write("pay_a", **keyed), write("pay_b", **keyed))
    p.submit({"id": "pay", "tool": "pay_a"}).intent("pay-a1").failed(
        "pay-a1", failures.in_doubt, E.HAPPENED_UNKNOWN
    ).tick()
    assert p.state.instances["pay"].current.id == "pay-a2"
    body = E.Result(attempt="pay-a2", failure=failures.permanent(code, "refused"), happened=E.HAPPENED_NO)
    p.fact(("worker", "box", "result", "pay-a2"), "result", body).tick()
    tools = [a.action.tool for a in p.state.instances["pay"].attempts]
    assert "pay_b" not in tools, p.lines


def test_budget_exhausted_in_doubt_is_surfaced_not_failed():
    p = Play(write("pay", idempotency=tool_pb2.IDEMPOTENCY_KEYED, key_parameter="key"))
    p.submit({"id": "pay", "tool": "pay"}, budget={"max_actions": 1})
    p.intent("pay-a1").failed("pay-a1", failures.in_doubt, E.HAPPENED_UNKNOWN).tick()
    assert p.state.instances["pay"].settled == "in_doubt", p.lines


def test_unknown_failure_class_does_not_loop():
    p = Play(write("pay", idempotency=tool_pb2.IDEMPOTENCY_KEYED, key_parameter="key"))
    p.submit({"id": "pay", "tool": "pay"}).intent("pay-a1").failed(
        "pay-a1", failures.in_doubt, E.HAPPENED_UNKNOWN
    ).tick()

    def odd(code, text):
        return E.Failure(code=code, message=text, **{"class": 7})

    p.failed("pay-a2", odd)
    p.tick()
    assert p.status in ENDED | {"waiting", "running"}


def test_an_intent_without_a_name_can_be_reported_silent():
    p = Play(write("pay", idempotency=tool_pb2.IDEMPOTENCY_KEYED, key_parameter="key"))
    p.submit({"id": "pay", "tool": "pay"}).intent("pay-a1", claimer="").orphan(
        "pay-a1", seen_dead=False, claimer=""
    )
    assert p.state.strays == 0, p.lines
    assert p.timers, p.lines


def test_result_for_another_action_sequence_is_a_stray():
    # core folds it, the verifier refuses to judge it: nobody ever answers
    p = (
        Play(contract("look"))
        .submit({"id": "look", "tool": "look"})
        .output("look-a1", 1, action_sequence=9999)
    )
    assert p.state.strays == 1, p.lines


def test_executor_cannot_put_a_step_in_doubt():
    p = Play(contract("look")).submit({"id": "pick", "choose": [{"tool": "look"}]})
    body = E.Proposal(attempt="pick-a1", failure=failures.in_doubt("x", "y"))
    p.fact(("executor", "main", "proposal", "pick-a1"), "proposal", body)
    assert p.state.instances["pick"].settled != "in_doubt", p.lines


def test_permit_that_expired_in_a_queue_costs_no_try():
    p = Play(contract("look")).submit({"id": "look", "tool": "look", "max_attempts": 1})
    body = E.Result(
        attempt="look-a1",
        failure=failures.transient(failures.PERMIT, "the permit has expired"),
        happened=E.HAPPENED_NO,
    )
    p.fact(("worker", "box", "result", "look-a1"), "result", body)
    assert p.status != "failed", p.lines


KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}


def test_a_late_result_takes_the_place_of_the_heal_for_its_silence():
    p = (
        Play(write("pay", **KEYED))
        .submit({"id": "s", "tool": "pay"})
        .intent("s-a1")
        .orphan("s-a1", seen_dead=True)
    )
    p.output("s-a1", 1).tick().tick()
    assert "s-a2" not in p.state.attempts, p.lines


def test_no_new_act_after_cancel_though_a_heal_was_pending():
    p = (
        Play(write("pay", **KEYED))
        .submit({"id": "s", "tool": "pay"})
        .intent("s-a1")
        .orphan("s-a1", seen_dead=True)
    )
    p.output("s-a1", 1).cancel().verdict("s-a1", E.OUTCOME_UNKNOWN).tick().tick()
    acts = [line for line in p.lines if "ask.worker" in line and "s-a2" in line]
    assert not acts, p.lines


def test_a_read_back_needs_no_claim_and_cannot_be_claimed():
    p = Play(contract("find"), write("call", readback="find")).submit({"id": "s", "tool": "call"})
    p.intent("s-a1").orphan("s-a1", seen_dead=False).tick(60).tick().cancel()
    p.intent("s-a2").orphan("s-a2", seen_dead=True)
    assert p.state.strays == 2
    p.found("s-a2", None)
    assert p.status == "cancelled", p.lines


def test_an_answer_that_came_before_the_heal_for_its_silence_counts():
    """The decider had not read the answer yet: acting on the heal would do again what is being judged."""
    put = write("put", idempotency=tool_pb2.IDEMPOTENCY_KEYED, key_parameter="key")
    play = Play(put).submit({"id": "put", "tool": "put"}).intent("put-a1").orphan("put-a1", seen_dead=False)
    play.output("put-a1", {"ok": True})
    healed = E.Event(id="late", version=run.VERSION)
    healed.healed.CopyFrom(E.Healed(step="put", attempt="put-a1", strategy="retry_same_key"))
    healed.healed.cause.CopyFrom(failures.in_doubt(failures.SILENT, "it did not answer"))
    play.append(healed, ("note", "healed"), "dec").tick()
    assert len(play.state.instances["put"].attempts) == 1
    assert play.verdict("put-a1").status == "done"


def test_what_was_read_is_shown_of_a_run_that_was_refused_for_it() -> None:
    read = plan_from_form({"steps": [{"id": "look", "tool": "look"}]})
    play = Play(contract("look")).submit()
    play.plan(no_plan=event_pb2.NoPlan(reason="it is 70 % sure", plan=read))
    assert play.status == "refused"
    assert play.view.read_as == read
    assert (
        not Play(contract("look"))
        .submit()
        .plan(no_plan=event_pb2.NoPlan(reason="no"))
        .view.HasField("read_as")
    )
    lacking = Play(contract("look")).submit().plan(no_plan=event_pb2.NoPlan(missing=["order"]))
    assert list(lacking.view.missing) == ["order"]
    cancelled = Play(contract("look")).submit().cancel()
    assert not cancelled.plan(no_plan=event_pb2.NoPlan(plan=read)).view.HasField("read_as")
