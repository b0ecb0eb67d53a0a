"""Forgetting: only what has ended, once; and the fold is the same with the key and without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core import run
from core.account import account
from core.ahead import can_be_overtaken
from core.decide import decide
from core.moves import Decide, Erase
from core.ports import Record
from core.view import view
from handrail.v1 import event_pb2
from observability.spans import spans_of
from tests.scenarios.play import KEY, Play, contract, write

PLAIN = (("cmd", "forget"), ("dec", "note", "forgotten"))
FORGET = event_pb2.Forget(reason="asked for", submitter="ines")


def played(*, fails: bool = False) -> Play:
    play = Play(contract("look"), write("call"), write("spare"))
    play.submit({"id": "look", "tool": "look"}, {"id": "call", "tool": "call", "after": ["look"]})
    play.output("look-a1", 1).done("look-a1", 1).intent("call-a1")
    if fails:
        return play.failed("call-a1")
    return play.output("call-a1", 2).done("call-a1", 2)


def erased(records: list[Record]) -> list[Record]:
    """A log as it is read without the key."""
    return [
        one
        if (one.address.channel, *one.address.topic) in PLAIN
        else replace(one, event=None, forgotten=True)
        for one in records
    ]


def test_a_run_that_has_ended_is_forgotten_and_its_key_deleted_at_every_look() -> None:
    play = played().command("forget", FORGET)
    left = play.state.forgotten
    assert left is not None
    assert (left.status, dict(left.effects)) == (event_pb2.RUN_STATUS_DONE, {"call": 1})
    assert (left.submitter, left.reason, left.failure) == ("ines", "asked for", "")
    assert left.submitted.ToNanoseconds() == play.records[0].time_ns
    for _ in range(2):
        assert decide(play.state, play.now_ns, play.catalogue) == [Erase()]


def test_the_fold_is_the_same_without_the_key() -> None:
    play = played().command("forget", FORGET)
    again = run.fold(KEY, erased(play.records))
    assert again == play.state
    assert (again.strays, again.unreadable, again.submit, again.instances) == (0, False, None, {})
    seen = view(again)
    assert (seen.status, seen.goal, len(seen.steps)) == (event_pb2.RUN_STATUS_DONE, "", 0)
    assert seen.forgotten == play.state.forgotten
    assert seen.submitted.ToNanoseconds() == play.records[0].time_ns


def test_who_died_after_the_note_deletes_the_key_when_it_looks_again() -> None:
    play = played().command("forget", FORGET)
    for records in (play.records, erased(play.records)):
        assert decide(run.fold(KEY, records), play.now_ns, play.catalogue) == [Erase()]


def test_a_key_that_is_gone_before_the_note_is_read_of_loses_nothing() -> None:
    play = played().command("forget", FORGET)
    half = erased(play.records)[:-1]
    state = run.fold(KEY, half)
    assert (state.unreadable, state.forgotten) == (False, None)
    assert decide(state, play.now_ns, play.catalogue) == []


def test_who_died_before_the_empty_message_was_there_deletes_the_key_when_it_looks_again() -> None:
    play = played().command("forget", FORGET)
    # There is no key, and nothing says that it was deleted.
    lost = [replace(one, forgotten=False) for one in erased(play.records)]
    state = run.fold(KEY, lost)
    assert (state.unreadable, state.forgotten) == (False, play.state.forgotten)
    assert decide(state, play.now_ns, play.catalogue) == [Erase()]
    assert run.fold(KEY, lost[:-1]).unreadable


@pytest.mark.parametrize("when", range(2, 7))
def test_what_has_not_ended_is_not_forgotten(when: int) -> None:
    whole = played()
    state = run.fold(KEY, whole.records[:when])
    assert not state.over
    late = Record(
        when + 1,
        whole.now_ns,
        replace(whole.records[0].address, topic=("forget",)),
        event_pb2.Event(id="f", version=run.VERSION, forget=FORGET),
    )
    after = run.apply(state, late)
    assert (after.forget, after.strays) == (None, state.strays + 1)


def test_nothing_counts_after_it() -> None:
    play = played().command("forget", FORGET)
    state = play.state
    for kind, body in (
        ("undo", event_pb2.Undo(submitter="ines")),
        ("forget", FORGET),
        ("cancel", event_pb2.Cancel()),
    ):
        play.command(kind, body)
        assert play.state.forgotten == state.forgotten
        assert not play.state.undoing
    assert play.state.strays == 0
    assert decide(play.state, play.now_ns, play.catalogue) == [Erase()]


def test_who_can_read_what_is_said_after_it_and_who_cannot_know_the_same() -> None:
    """Somebody who still has the key may say something as the run is forgotten."""
    play = played().command("forget", FORGET).command("forget", FORGET).command("cancel", event_pb2.Cancel())
    assert run.fold(KEY, erased(play.records)) == play.state


def test_an_account_says_that_a_run_was_forgotten_though_somebody_asked_twice() -> None:
    play = played()
    late = Record(
        play.state.applied + 1,
        play.now_ns,
        replace(play.records[0].address, topic=("forget",)),
        event_pb2.Event(id="f", version=run.VERSION, forget=FORGET),
    )
    again = replace(late, sequence=late.sequence + 1)
    state = run.fold(KEY, [*play.records, late, again])
    (move,) = decide(state, play.now_ns, play.catalogue)
    assert isinstance(move, Decide)
    body = move.body
    assert isinstance(body, event_pb2.Forgotten)
    told = Record(
        again.sequence + 1,
        play.now_ns,
        replace(late.address, channel="dec", topic=("note", "forgotten")),
        event_pb2.Event(id="g", version=run.VERSION, forgotten=body),
    )
    for records in ([*play.records, late, again, told], erased([*play.records, late, again, told])):
        assert account(KEY, records)["forgotten"]["effects"] == {"call": 1}


def test_no_trace_is_made_of_it_by_whoever_can_still_read_it() -> None:
    play = played()
    assert len(spans_of(KEY, play.records)) > 3
    play.command("forget", FORGET)
    assert spans_of(KEY, play.records) == spans_of(KEY, erased(play.records)) == []


def test_a_failure_is_left_by_its_code_and_an_effect_that_never_happened_is_none() -> None:
    play = played(fails=True)
    for _ in range(5):
        play.tick()
    assert play.state.over
    play.command("forget", FORGET)
    left = play.state.forgotten
    assert left is not None
    assert (left.status, bool(left.failure)) == (event_pb2.RUN_STATUS_FAILED, True)
    assert dict(left.effects) == {}


def test_who_forgets_has_heard_of_all_that_was_asked_for() -> None:
    """An undo that comes between the decision and the log would be lost: the decision is made again."""
    play = played()
    late = replace(play.records[0].address, topic=("forget",))
    event = event_pb2.Event(id="f", version=run.VERSION, forget=FORGET)
    state = run.apply(play.state, Record(play.state.applied + 1, play.now_ns, late, event))
    (move,) = decide(state, play.now_ns, play.catalogue)
    assert isinstance(move, Decide)
    assert can_be_overtaken(state, move)


def test_an_undo_that_was_asked_for_at_the_same_time_is_seen_through_first() -> None:
    play = Play(contract("look"), write("call", undo="look"))
    play.submit({"id": "call", "tool": "call"}).intent("call-a1").output("call-a1", 2).done("call-a1", 2)
    state = run.apply(
        play.state,
        Record(
            play.state.applied + 1,
            play.now_ns,
            replace(play.records[0].address, topic=("forget",)),
            event_pb2.Event(id="f", version=run.VERSION, forget=FORGET),
        ),
    )
    state = run.apply(
        state,
        Record(
            state.applied + 1,
            play.now_ns,
            replace(play.records[0].address, topic=("undo",)),
            event_pb2.Event(id="u", version=run.VERSION, undo=event_pb2.Undo(submitter="ines")),
        ),
    )
    (move,) = decide(state, play.now_ns, play.catalogue)
    assert isinstance(move, Decide)
    assert move.arm == "undo_planned"
