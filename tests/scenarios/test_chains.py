"""Transcripts of chains: reads that are asked for together, and what becomes of them when one goes wrong."""

from __future__ import annotations

from core import failures, run, values
from handrail.v1 import event_pb2, tool_pb2
from tests.scenarios.play import Play, contract, write

CONFIRMED, REFUTED, UNKNOWN = (
    event_pb2.OUTCOME_CONFIRMED,
    event_pb2.OUTCOME_REFUTED,
    event_pb2.OUTCOME_UNKNOWN,
)
ONE = {"id": "one", "tool": "look"}
TWO = {"id": "two", "tool": "look", "with": {"x": "$one.id"}}
THREE = {"id": "three", "tool": "look", "with": {"x": "$two.id", "y": 7}}


def chain(*more: dict[str, object]) -> Play:
    play = Play(contract("look"), contract("far", toolbox="other"), write("act"), contract("find"))
    return play.submit(ONE, TWO, THREE, *more)


def asked(play: Play) -> list[list[str]]:
    """The attempts of each ask of a worker."""
    found = []
    for record in play.records:
        parts = [part.event for part in run.unbundled(record) if part.event is not None]
        actions = [event.action.attempt for event in parts if event.HasField("action")]
        found += [actions] if actions else []
    return found


def test_reads_that_wait_for_each_other_are_one_ask() -> None:
    play = chain()
    assert asked(play) == [["one-a1", "two-a1", "three-a1"]]
    play.output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).output("three-a1", {"id": 3})
    play.verdict("one-a1").verdict("two-a1").verdict("three-a1")
    play.check("chain")
    assert play.status == "done"


def test_verdicts_may_come_in_any_order() -> None:
    play = chain().output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).output("three-a1", {"id": 3})
    play.verdict("three-a1").verdict("two-a1")
    assert {i.settled for i in play.state.instances.values()} == {""}
    play.verdict("one-a1")
    assert play.status == "done"


def left(code: str, message: str) -> event_pb2.Failure:
    """What a worker says of a read that it did not make, because one before it failed."""
    return failures.transient(failures.LEFT_BEHIND, message)


def test_what_did_not_run_is_asked_for_anew_with_what_failed() -> None:
    play = chain().output("one-a1", {"id": 1}).failed("two-a1", failures.transient).failed("three-a1", left)
    play.verdict("one-a1").tick()
    assert asked(play) == [["one-a1", "two-a1", "three-a1"], ["two-a2", "three-a2"]]
    play.output("two-a2", {"id": 2}).output("three-a2", {"id": 3}).verdict("two-a2").verdict("three-a2")
    play.check("chain_broken")
    assert play.status == "done"
    assert play.state.instances["three"].attempts[1].action.pending["x"].reference == "$two.id"


def test_a_read_that_was_left_behind_is_no_try() -> None:
    """Nobody has called it yet, however often the one before it failed."""
    play = chain().output("one-a1", {"id": 1}).verdict("one-a1")
    for n in range(1, 4):
        play.failed(f"two-a{n}", failures.transient).failed(f"three-a{n}", left).tick()
    play.done("two-a4", {"id": 2}).failed("three-a4", failures.transient).tick()
    assert asked(play)[1:] == [*([f"two-a{n}", f"three-a{n}"] for n in range(2, 5)), ["three-a5"]]
    play.done("three-a5", {"id": 3})
    assert play.status == "done"


def test_a_read_that_was_left_behind_though_the_one_before_it_counts_is_no_try() -> None:
    """Another worker had read two and died; the next one failed there, and left three behind."""
    play = Play(contract("look")).submit(ONE, TWO, {**THREE, "max_attempts": 1})
    play.output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).failed("three-a1", left)
    play.verdict("one-a1").verdict("two-a1").tick().done("three-a2", {"id": 3})
    assert play.status == "done"


def test_a_read_that_was_left_behind_is_no_action_of_the_budget() -> None:
    play = Play(contract("look")).submit(ONE, TWO, THREE, budget={"max_actions": 4})
    play.failed("one-a1", failures.transient).failed("two-a1", left).failed("three-a1", left).tick()
    assert asked(play)[-1] == ["one-a2", "two-a2", "three-a2"]
    play.done("one-a2", {"id": 1}).done("two-a2", {"id": 2}).done("three-a2", {"id": 3})
    assert (play.status, play.state.actions) == ("done", 4)


def test_a_paused_run_does_not_go_on_with_its_chain() -> None:
    play = chain().output("one-a1", {"id": 1}).failed("two-a1", failures.transient).failed("three-a1", left)
    play.verdict("one-a1").pause().tick()
    assert len(asked(play)) == 1
    play.resume()
    assert asked(play)[-1] == ["two-a2", "three-a2"]


def test_what_rests_on_a_refuted_read_does_not_count() -> None:
    play = chain().output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).output("three-a1", {"id": 3})
    play.verdict("two-a1").verdict("three-a1").verdict("one-a1", REFUTED).tick()
    play.verdict("one-a1", REFUTED, round=2).tick().done("one-a2", {"id": 10})
    assert play.state.instances["two"].settled == ""
    assert asked(play)[-1] == ["one-a2", "two-a2", "three-a2"]
    play.done("two-a2", {"id": 20}).done("three-a2", {"id": 30})
    assert play.status == "done"
    assert play.state.instances["two"].attempts[1].result.message.arguments["x"].json == "10"


def test_a_read_that_is_confirmed_at_the_second_look_brings_a_new_chain() -> None:
    play = chain().output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).output("three-a1", {"id": 3})
    play.verdict("one-a1", UNKNOWN).verdict("two-a1").verdict("three-a1").tick().verdict("one-a1", round=2)
    assert play.status == "done", "the reads after it stand on what is confirmed now"


def test_a_failed_read_fails_the_run_and_leaves_nothing_open() -> None:
    play = chain().output("one-a1", {"id": 1}).failed("two-a1").verdict("one-a1")
    assert play.status == "failed"
    assert play.view.failure.code == "broken"


def test_a_cancel_takes_the_whole_chain_back() -> None:
    play = chain().cancel()
    assert play.status == "cancelled"


def test_pause_takes_a_chain_back_and_resume_asks_again() -> None:
    play = chain().output("one-a1", {"id": 1}).pause().verdict("one-a1").resume()
    assert asked(play)[-1] == ["two-a2", "three-a2"]
    play.done("two-a2", {"id": 2}).done("three-a2", {"id": 3})
    assert play.status == "done"


def test_what_can_go_side_by_side_is_not_chained() -> None:
    play = Play(contract("look")).submit(ONE, TWO, {"id": "other", "tool": "look", "with": {"x": "$one.id"}})
    assert asked(play) == [["one-a1"]]
    play.done("one-a1", {"id": 1})
    assert asked(play)[1:] == [["two-a1"], ["other-a1"]]


def test_who_waits_for_the_next_as_well_loses_nothing() -> None:
    both = {"id": "both", "tool": "look", "with": {"x": "$one.id", "y": "$two.id"}}
    play = Play(contract("look")).submit(ONE, TWO, both)
    assert asked(play) == [["one-a1", "two-a1", "both-a1"]]


def test_chains_hold_reads_of_one_toolbox_without_conditions() -> None:
    act = {"id": "act", "tool": "act", "after": ["three"]}
    assert asked(chain(act)) == [["one-a1", "two-a1", "three-a1"]]
    far = {"id": "far", "tool": "far", "after": ["three"]}
    assert asked(chain(far)) == [["one-a1", "two-a1", "three-a1"]]
    when = {"id": "when", "tool": "look", "after": ["three"], "when": "three.id > 1"}
    assert asked(chain(when)) == [["one-a1", "two-a1", "three-a1"]]
    each = {"id": "items", "tool": "look", "each": "$three.ids"}
    assert asked(chain(each)) == [["one-a1", "two-a1", "three-a1"]]


def test_an_effect_waits_for_the_verdict_of_what_it_rests_on() -> None:
    play = chain({"id": "act", "tool": "act", "with": {"x": "$three.id"}})
    play.output("one-a1", {"id": 1}).output("two-a1", {"id": 2}).output("three-a1", {"id": 3})
    play.verdict("three-a1").verdict("two-a1")
    assert len(asked(play)) == 1
    play.verdict("one-a1")
    assert asked(play)[1:] == [["act-a1"]]


def test_the_budget_counts_every_action_of_a_chain() -> None:
    play = Play(contract("look"))
    play.submit(ONE, TWO, THREE, budget={"max_actions": 2})
    assert asked(play) == [["one-a1", "two-a1"]]


def test_a_result_that_does_not_say_what_it_was_called_with_is_a_stray() -> None:
    play = chain().output("one-a1", {"id": 1})
    body = event_pb2.Result(attempt="two-a1", output=values.inline({"id": 2}))
    body.action_sequence = play.state.instances["two"].attempts[0].sequence
    strays = play.state.strays
    play.fact(("worker", "box", "result", "two-a1"), "result", body)
    assert play.state.strays == strays + 1


def test_a_read_made_with_an_output_that_does_not_count_is_made_again() -> None:
    """The worker of one-a1 died; its successor read one again, got something else, and went on with that."""
    play = chain().output("one-a1", {"id": 1}).output("one-a1", {"id": 9})
    body = event_pb2.Result(attempt="two-a1", output=values.inline({"id": 90}))
    body.action_sequence = play.state.instances["two"].attempts[0].sequence
    body.arguments["x"].CopyFrom(values.inline(9))
    play.fact(("worker", "box", "result", "two-a1"), "result", body)
    play.verdict("two-a1").verdict("one-a1").tick()
    assert play.state.instances["two"].settled == ""
    assert play.state.instances["two"].attempts[1].action.arguments["x"].json == "1"
    play.done("two-a2", {"id": 2}).done("three-a2", {"id": 3})
    assert play.status == "done"


def test_a_bundle_cannot_say_what_its_writer_could_not_publish() -> None:
    play = chain()
    sequence = play.state.instances["one"].attempts[0].sequence
    event = event_pb2.Event(id="r", version=run.VERSION)
    event.result.CopyFrom(
        event_pb2.Result(attempt="one-a1", output=values.inline(1), action_sequence=sequence)
    )
    forged = event.before.add(id="f", version=run.VERSION)
    forged.step_failed.step = "two"
    claim = event.before.add(id="c", version=run.VERSION)
    claim.intent.attempt = "two-a1"
    verdict = event.before.add(id="v", version=run.VERSION)
    verdict.verdict.attempt = "one-a1"
    deep = event.before.add(id="d", version=run.VERSION)
    deep.result.attempt = "two-a1"
    deep.before.add().result.attempt = "three-a1"
    strays = play.state.strays
    play.append(event, ("worker", "box", "result", "one-a1"))
    assert play.state.strays == strays + 4
    assert play.state.instances["one"].attempts[0].result is not None
    assert play.state.instances["two"].settled == ""


def test_a_step_is_never_left_waiting_for_a_chain_that_lost_its_worker() -> None:
    """The ask is delivered again; what came twice changes nothing."""
    play = chain().output("one-a1", {"id": 1}).output("one-a1", {"id": 1}).output("two-a1", {"id": 2})
    play.output("three-a1", {"id": 3}).verdict("one-a1").verdict("two-a1").verdict("three-a1")
    assert play.status == "done"


def test_a_keyed_effect_between_reads_ends_the_chain() -> None:
    keyed = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
    play = Play(contract("look"), write("act", **keyed))
    play.submit(ONE, {"id": "act", "tool": "act", "with": {"x": "$one.id"}}, {**TWO, "after": ["act"]})
    assert asked(play) == [["one-a1"]]


def test_a_heal_within_a_chain_waits_for_what_the_read_takes_from_it() -> None:
    play = chain().intent("two-a1").orphan("two-a1", seen_dead=True).tick()
    assert asked(play) == [["one-a1", "two-a1", "three-a1"]]
    play.done("one-a1", {"id": 1})
    assert asked(play)[1:] == [["two-a2"]]
    assert play.state.instances["two"].attempts[1].action.arguments["x"].json == "1"
