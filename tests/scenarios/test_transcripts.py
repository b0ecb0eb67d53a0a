"""Transcripts of runs: what the core decides about facts, in text that a person can read and diff."""

from __future__ import annotations

from core import failures
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from tests.scenarios.play import Play, contract, write

KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
READ = {"id": "look", "tool": "look", "with": {"id": 7}}
REFUND = {"id": "refund", "tool": "refund", "with": {"order": "$look.id"}}
REFUTED = event_pb2.OUTCOME_REFUTED
UNKNOWN = event_pb2.OUTCOME_UNKNOWN
NO, YES = event_pb2.HAPPENED_NO, event_pb2.HAPPENED_YES


def refunds(**fields: object) -> Play:
    """A read, then a refund whose contract has these fields."""
    play = Play(contract("look"), contract("find"), write("refund", **fields))
    return play.submit(READ, REFUND).done("look-a1", {"id": 7}).intent("refund-a1")


def test_an_effect_is_claimed_carried_out_and_verified() -> None:
    play = refunds(**KEYED).done("refund-a1", {"ok": True})
    assert play.status == "done"
    play.check("effect")


def test_a_transient_failure_is_retried_after_a_while_with_the_same_key() -> None:
    play = refunds(**KEYED).failed("refund-a1", failures.transient).tick()
    keys = {i.action.key for i in play.state.instances["refund"].attempts if i.action}
    assert len(keys) == 1
    play.intent("refund-a2").done("refund-a2").check("transient")
    assert play.status == "done"


def test_transient_failures_end_with_the_budget() -> None:
    play = refunds(**KEYED)
    for n in range(1, 5):
        play.failed(f"refund-a{n}", failures.transient)
        if n < 4:
            play.tick().intent(f"refund-a{n + 1}")
    assert play.status == "failed"
    play.check("transient_exhausted")


def test_a_permanent_failure_ends_the_run() -> None:
    play = refunds().failed("refund-a1")
    assert play.status == "failed"
    play.check("permanent")


def test_another_tool_of_the_same_capability_stands_in() -> None:
    mail = {"capability": "mail", **KEYED}
    play = Play(write("send", **mail), write("send_backup", **mail))
    play.submit({"id": "tell", "tool": "send", "with": {"to": "a"}}).intent("tell-a1").failed("tell-a1")
    play.intent("tell-a2").done("tell-a2")
    assert [a.tool for a in play.view.steps[0].attempts] == ["send", "send_backup"]
    play.check("alternative")


def test_what_happened_is_not_done_again_by_another_tool() -> None:
    mail = {"capability": "mail", **KEYED}
    play = Play(write("send", **mail), write("send_backup", **mail))
    play.submit({"id": "tell", "tool": "send", "with": {"to": "a"}}).intent("tell-a1")
    play.failed("tell-a1", happened=YES)
    assert play.status == "failed"


def test_a_keyed_effect_in_doubt_is_called_again_with_the_same_key() -> None:
    play = refunds(**KEYED).failed("refund-a1", failures.in_doubt).tick()
    play.intent("refund-a2").done("refund-a2")
    assert play.status == "done"
    play.check("doubt_keyed")


def test_a_dead_claimer_of_a_keyed_effect() -> None:
    play = refunds(**KEYED).orphan("refund-a1", seen_dead=True).tick()
    play.intent("refund-a2", "1-box_0-2").done("refund-a2")
    assert play.status == "done"
    play.check("dead_keyed")


def test_a_silent_claimer_has_its_lease() -> None:
    play = refunds(**KEYED).orphan("refund-a1", seen_dead=False)
    assert len(play.state.instances["refund"].attempts) == 1
    play.tick().tick().intent("refund-a2").done("refund-a2")
    play.check("silent_keyed")


def test_a_silent_claimer_that_answers_within_its_lease() -> None:
    play = refunds(**KEYED).orphan("refund-a1", seen_dead=False).done("refund-a1").tick()
    assert play.status == "done"
    assert len(play.state.instances["refund"].attempts) == 1


def test_a_read_back_that_says_yes_counts() -> None:
    play = refunds(readback="find", settle_s=2.0).orphan("refund-a1", seen_dead=True).tick()
    play.found("refund-a2", {"ok": True}).verdict("refund-a2")
    assert play.status == "done"
    play.check("read_back_yes")


def test_a_read_back_that_says_no_permits_a_repeat_after_a_death() -> None:
    play = refunds(readback="find", settle_s=2.0).orphan("refund-a1", seen_dead=True).tick()
    play.found("refund-a2", None).tick().intent("refund-a3").done("refund-a3")
    assert play.status == "done"
    play.check("read_back_no_dead")


def test_a_read_back_that_says_no_of_a_silent_claimer_is_in_doubt() -> None:
    play = refunds(readback="find").orphan("refund-a1", seen_dead=False).tick().tick()
    play.found("refund-a2", None)
    assert play.status == "waiting"
    play.check("read_back_no_silent")


def test_a_timeout_of_a_living_claimer_is_never_repeated_on_a_no() -> None:
    play = refunds(readback="find").failed("refund-a1", failures.in_doubt, event_pb2.HAPPENED_UNKNOWN).tick()
    play.found("refund-a2", None)
    assert play.status == "waiting"


def test_a_doubt_that_nothing_can_settle_waits_for_a_human_and_can_be_cancelled() -> None:
    play = refunds(doubt=True).orphan("refund-a1", seen_dead=True)
    assert play.status == "waiting"
    play.cancel()
    assert play.status == "cancelled"
    play.check("doubt")


def test_a_late_confirmation_settles_a_doubt() -> None:
    play = refunds(doubt=True).orphan("refund-a1", seen_dead=False).tick()
    assert play.status == "waiting"
    play.done("refund-a1", {"ok": True})
    assert play.status == "done"


def test_a_refuted_result_is_looked_at_once_more() -> None:
    play = refunds(**KEYED).output("refund-a1", {}).verdict("refund-a1", REFUTED, happened=YES).tick()
    play.verdict("refund-a1", round=2)
    assert play.status == "done"
    play.check("reread")


def test_a_tool_that_lies_is_repeated_only_if_nothing_happened() -> None:
    play = refunds(**KEYED).output("refund-a1", {}).verdict("refund-a1", REFUTED, happened=NO).tick()
    play.verdict("refund-a1", REFUTED, round=2, happened=NO).tick()
    play.intent("refund-a2").done("refund-a2", {"ok": True})
    assert play.status == "done"
    play.check("lie")


def test_a_refuted_effect_that_may_have_happened_fails_with_its_evidence() -> None:
    play = refunds(**KEYED).output("refund-a1", {}).verdict("refund-a1", REFUTED, happened=YES).tick()
    play.verdict("refund-a1", REFUTED, round=2, happened=YES)
    assert play.status == "failed"
    assert play.view.failure.code == failures.POST_REFUTED


def test_the_same_action_with_the_same_outcome_again_is_a_loop() -> None:
    play = refunds(**KEYED)
    for n in (1, 2):
        attempt = f"refund-a{n}"
        play.output(attempt, {}).verdict(attempt, REFUTED, happened=NO).tick()
        play.verdict(attempt, REFUTED, round=2, happened=NO)
        if n == 1:
            play.tick().intent("refund-a2")
    assert play.view.failure.code == failures.LOOP
    play.check("loop")


def test_an_effect_that_cannot_be_judged_is_surfaced() -> None:
    play = refunds(**KEYED).output("refund-a1", {})
    for n in range(1, 5):
        play.verdict("refund-a1", UNKNOWN, round=n)
        if n < 4:
            play.tick()
    assert play.status == "waiting"
    play.check("unverified")


def test_a_verdict_cannot_confirm_a_failure() -> None:
    play = refunds(**KEYED).failed("refund-a1", failures.transient).verdict("refund-a1")
    assert play.state.instances["refund"].settled == ""


def test_a_verdict_cannot_confirm_a_read_back_that_found_nothing() -> None:
    play = refunds(readback="find").orphan("refund-a1", seen_dead=False).tick().tick()
    play.found("refund-a2", None).verdict("refund-a2")
    assert play.status == "waiting"


def test_an_output_that_is_no_json_fails_the_step_that_needs_it() -> None:
    play = Play(contract("look"), write("refund")).submit(READ, REFUND)
    asked = play.state.instances["look"].attempts[0].sequence
    body = event_pb2.Result(attempt="look-a1", output=plan_pb2.Value(json="{"), action_sequence=asked)
    play.fact(("worker", "box", "result", "look-a1"), "result", body).verdict("look-a1")
    assert play.view.failure.code == failures.UNRESOLVED


def test_cancel_takes_back_what_has_not_started() -> None:
    play = Play(write("refund", **KEYED)).submit({"id": "refund", "tool": "refund"}).cancel()
    assert play.status == "cancelled"
    play.intent("refund-a1")
    play.check("cancel_unstarted")


def test_cancel_waits_for_what_is_in_flight() -> None:
    play = refunds(**KEYED).cancel()
    assert play.status == "cancelling"
    play.output("refund-a1", {})
    assert play.status == "cancelling"
    play.verdict("refund-a1")
    assert play.status == "cancelled"
    play.check("cancel_in_flight")


def test_cancel_still_resolves_a_doubt() -> None:
    play = refunds(**KEYED).cancel().orphan("refund-a1", seen_dead=True).tick()
    play.intent("refund-a2").done("refund-a2")
    assert play.status == "cancelled"
    play.check("cancel_doubt")


def test_a_repeat_that_cannot_start_leaves_the_doubt() -> None:
    play = refunds(**KEYED).orphan("refund-a1", seen_dead=True)
    for n in range(2, 5):
        play.tick().intent(f"refund-a{n}").failed(f"refund-a{n}", failures.transient)
    assert play.status == "waiting"
    play.check("doubt_keyed_exhausted")


def test_a_repeat_that_is_refused_for_good_rules_the_effect_out() -> None:
    play = refunds(**KEYED).orphan("refund-a1", seen_dead=True).tick()
    play.intent("refund-a2").failed("refund-a2")
    assert play.status == "failed"


def test_cancel_starts_no_retry() -> None:
    play = refunds(**KEYED).failed("refund-a1", failures.transient).cancel().tick()
    assert play.status == "cancelled"


def test_pause_and_resume() -> None:
    play = Play(contract("look"), write("refund", **KEYED)).submit(READ, REFUND).done("look-a1", {"id": 7})
    play.pause()
    assert play.status == "paused"
    play.tick(60).resume().intent("refund-a2").done("refund-a2")
    assert play.status == "done"
    play.check("pause")


def test_pause_lets_what_is_in_flight_finish_and_starts_nothing_new() -> None:
    play = Play(contract("look"), write("refund", **KEYED))
    play.submit({"id": "refund", "tool": "refund"}, {"id": "look", "tool": "look", "after": ["refund"]})
    play.intent("refund-a1").pause().done("refund-a1")
    assert play.status == "paused"
    assert play.state.instances["refund"].settled == "done"
    assert not play.state.instances["look"].attempts
    play.resume().done("look-a1")
    assert play.status == "done"


def test_the_deadline_ends_the_run_and_bounds_the_tool() -> None:
    play = Play(write("refund", **KEYED)).submit({"id": "refund", "tool": "refund"}, deadline_s=2.0)
    assert play.state.instances["refund"].attempts[0].action.timeout.ToMilliseconds() <= 2_000
    play.intent("refund-a1").tick()
    assert play.status == "running"
    play.done("refund-a1")
    assert play.status == "failed"
    assert play.view.failure.code == failures.DEADLINE
    play.check("deadline")


def test_a_fan_out_with_conditions() -> None:
    play = Play(contract("list"), write("tell", **KEYED), contract("sum"))
    play.submit(
        {"id": "list", "tool": "list"},
        {"id": "tell", "tool": "tell", "each": "$list", "with": {"to": "$each.mail"}},
        {"id": "sum", "tool": "sum", "with": {"all": "$tell"}, "when": "size(list) > 1"},
        {"id": "never", "tool": "sum", "with": {"all": "$tell"}, "when": "size(list) > 9"},
        {"id": "after", "tool": "sum", "with": {"x": "$never.y"}},
    )
    play.done("list-a1", [{"mail": "a"}, {"mail": "b"}])
    play.intent("tell-1-a1").done("tell-1-a1", 1).intent("tell-0-a1").done("tell-0-a1", 0)
    play.done("sum-a1", 2)
    assert play.status == "done"
    play.check("fan_out")


def test_an_empty_fan_out_is_done() -> None:
    play = Play(contract("list"), contract("tell"), contract("sum"))
    play.submit(
        {"id": "list", "tool": "list"},
        {"id": "tell", "tool": "tell", "each": "$list"},
        {"id": "sum", "tool": "sum", "with": {"all": "$tell"}},
    ).done("list-a1", [])
    assert play.state.instances["sum"].attempts[0].action.arguments["all"].json == "[]"


def test_a_fan_out_of_too_many_fails() -> None:
    play = Play(contract("list"), contract("tell"))
    play.submit(
        {"id": "list", "tool": "list"}, {"id": "tell", "tool": "tell", "each": "$list", "each_limit": 2}
    ).done("list-a1", [1, 2, 3])
    assert play.view.failure.code == failures.EACH


def triage() -> Play:
    play = Play(contract("look"), write("close", **KEYED), write("reply", **KEYED))
    return play.submit(
        {"id": "look", "tool": "look"},
        {
            "id": "triage",
            "with": {"age": "$look.age"},
            "choose": [
                {"when": "input.age > 30", "tool": "close", "with": {"id": "$look.id"}},
                {"tool": "reply", "with": {"id": "$look.id", "age": "$input.age"}},
            ],
        },
    ).done("look-a1", {"id": 1, "age": 40})


def test_an_executor_proposes_and_the_decider_authorises() -> None:
    play = triage().choose("triage-a1", 0, "close").intent("triage-a2").done("triage-a2")
    assert play.status == "done"
    play.check("choose")


def test_a_proposal_outside_the_closed_set_is_refused() -> None:
    play = (
        triage()
        .choose("triage-a1", 1, "close")
        .choose("triage-a2", 7, "reply")
        .choose("triage-a3", 1, "reply")
    )
    play.choose("triage-a4", 1, "reply")
    assert play.status == "failed"
    assert play.view.failure.code == failures.PROPOSAL
    play.check("choose_refused")


def test_a_goal_that_nobody_can_plan_is_refused() -> None:
    play = (
        Play().submit().plan(no_plan=event_pb2.NoPlan(reason="no playbook fits", nearest=["refund order 1"]))
    )
    assert play.status == "refused"
    play.check("no_plan")


def test_a_plan_that_does_not_conform_is_refused() -> None:
    step = plan_pb2.Step(id="a", tool="rm")
    play = Play(contract("look")).submit().plan(plan=plan_pb2.Plan(steps=[step]))
    assert play.status == "refused"
    assert play.view.failure.code == failures.PLAN_REJECTED


def test_a_dry_run_plans_and_checks_and_does_nothing() -> None:
    play = Play(write("refund", **KEYED)).submit({"id": "refund", "tool": "refund"}, dry_run=True)
    assert play.status == "done"
    play.check("dry_run")


def test_arguments_that_do_not_fit_fail_before_anything_is_asked() -> None:
    schema = '{"type":"object","properties":{"order":{"type":"integer"}},"additionalProperties":false}'
    play = Play(contract("look"), write("refund", input_schema=schema, **KEYED)).submit(READ, REFUND)
    play.done("look-a1", {"id": "seven"})
    assert play.view.failure.code == failures.BAD_ARGUMENTS


def test_a_reference_to_nothing_fails() -> None:
    play = Play(contract("look"), write("refund")).submit(READ, REFUND).done("look-a1", {})
    assert play.view.failure.code == failures.UNRESOLVED


def test_the_budget_of_actions_ends_a_run() -> None:
    play = (
        Play(contract("look"))
        .submit(
            {"id": "a", "tool": "look"},
            {"id": "b", "tool": "look", "after": ["a"]},
            budget=plan_pb2.Budget(max_actions=1),
        )
        .done("a-a1", 1)
    )
    assert play.view.failure.code == failures.BUDGET


def test_the_lower_of_the_goals_and_the_plans_budget_holds() -> None:
    steps = [plan_pb2.Step(id="a", tool="look"), plan_pb2.Step(id="b", tool="look", after=["a"])]
    plan = plan_pb2.Plan(steps=steps, budget=plan_pb2.Budget(max_actions=1))
    play = (
        Play(contract("look")).submit(budget=plan_pb2.Budget(max_actions=9)).plan(plan=plan).done("a-a1", 1)
    )
    assert play.view.failure.code == failures.BUDGET
