"""The reducer is pure and total: whatever comes, in whatever number, folds to one state and never raises."""

from __future__ import annotations

import time
from dataclasses import replace

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from core import failures, run
from core.plan import is_compensation
from core.ports import Address, Record, RunKey
from core.run import HANDLERS, apply, fold, initial
from core.view import view
from handrail.v1 import event_pb2, tool_pb2
from tests.scenarios.play import KEY, START_NS, Play, contract, write

ARMS = [field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields]
KEYED = {"idempotency": tool_pb2.IDEMPOTENCY_KEYED, "key_parameter": "key"}
CHOICES = st.lists(st.integers(0, 2**31), max_size=60)


def random_play(choices: list[int]) -> Play:
    """A run in which anything may happen to anything."""
    play = Play(
        contract("look"),
        contract("find"),
        write("refund", undo="return", undo_arguments={"x": "args.x"}, **KEYED),
        write("return", **KEYED),
        write("call", readback="find", settle_s=1.0, undo="hang_up"),
        write("hang_up", doubt=True),
        write("send", doubt=True),
    )
    play.submit(
        {"id": "look", "tool": "look"},
        {"id": "refund", "tool": "refund", "with": {"x": "$look"}},
        {"id": "call", "tool": "call", "each": "$look", "each_limit": 3},
        {"id": "send", "tool": "send", "after": ["look"]},
        {"id": "pick", "after": ["look"], "choose": [{"when": "1 > 2", "tool": "look"}, {"tool": "refund"}]},
        {"id": "near", "tool": "look"},
        {"id": "next", "tool": "look", "with": {"x": "$near"}},
        {"id": "far", "tool": "look", "with": {"x": "$next", "y": "$near"}},
        undo_on_failure=bool(choices) and choices[0] % 2 == 0,
    )
    doubts = (failures.permanent, failures.transient, failures.in_doubt)
    outcomes = (event_pb2.OUTCOME_CONFIRMED, event_pb2.OUTCOME_REFUTED, event_pb2.OUTCOME_UNKNOWN)
    for choice in choices:
        attempts = sorted(play.state.attempts) or ["look-a1"]
        kind, rest = choice % 12, choice // 12
        attempt = attempts[-1 - (rest % len(attempts)) // 2]
        pick = rest // 64
        if kind == 0:
            play.intent(attempt, f"1-box_0-{1 + pick % 2}")
        elif kind in (1, 2):
            play.output(attempt, [None, [1, 2], {"a": 1}][pick % 3], happened=pick % 4)
        elif kind == 3:
            play.failed(attempt, doubts[pick % 3], happened=pick % 4)
        elif kind in (4, 5):
            play.verdict(attempt, outcomes[pick % 3], round=1 + pick % 2, happened=pick % 4)
        elif kind == 6:
            play.orphan(attempt, seen_dead=bool(pick % 2))
        elif kind == 7:
            play.choose(attempt, pick % 3, ["look", "refund", "rm"][pick % 3])
        elif kind == 8:
            _steer(play, pick)
        elif kind == 9:
            play.pause() if pick % 2 else play.resume()
        else:
            play.tick()
    return play


def _steer(play: Play, pick: int) -> None:
    """Somebody cancels, or undoes what there is, or says what becomes of a compensation."""
    undos = [gate.opened.gate for gate in play.state.open_gates if is_compensation(gate.opened.step)]
    if pick % 4 == 0:
        play.cancel()
    elif pick % 4 == 1 and undos:
        play.decide("bo", gate=undos[-1], deny=pick % 3 == 0, choice=event_pb2.GATE_CHOICE_REPEAT)
    else:
        undo = event_pb2.Undo(step=["", "look", "refund"][pick % 3], dry_run=pick % 5 == 0, submitter="ines")
        play.command("undo", undo)


def test_every_kind_of_event_is_handled() -> None:
    assert sorted(ARMS) == sorted(HANDLERS)


@settings(max_examples=60)
@given(CHOICES, st.randoms(use_true_random=False))
def test_redelivery_changes_nothing(choices: list[int], random: object) -> None:
    play = random_play(choices)
    state = initial(KEY)
    for i, record in enumerate(play.records):
        state = apply(state, record)
        # Anything that was delivered before may be delivered again at any time.
        again = play.records[random.randrange(i + 1)]  # type: ignore[attr-defined]
        assert apply(state, again) == state
    assert state == play.state
    assert view(state) == view(play.state)


@settings(max_examples=40)
@given(CHOICES)
def test_a_prefix_and_the_rest_fold_to_the_whole(choices: list[int]) -> None:
    records = random_play(choices).records
    middle = len(records) // 2
    state = fold(KEY, records[:middle])
    for record in records[middle:]:
        state = apply(state, record)
    assert state == fold(KEY, records)


@settings(max_examples=60)
@given(CHOICES)
def test_no_step_with_an_effect_is_done_without_a_verdict(choices: list[int]) -> None:
    for instance in random_play(choices).state.instances.values():
        if instance.settled == "done" and instance.count is None:
            current = instance.current
            assert current is not None
            assert current.verdict is not None
            assert current.verdict.message.outcome == event_pb2.OUTCOME_CONFIRMED


@settings(max_examples=60)
@given(CHOICES)
def test_an_unkeyed_effect_is_repeated_only_after_a_death_and_a_no(choices: list[int]) -> None:
    for instance in random_play(choices).state.instances.values():
        if instance.step not in ("call", "send"):
            continue
        claimed = [a for a in instance.attempts if a.is_act and a.claimer]
        for attempt in claimed[:-1]:
            result = attempt.result.message if attempt.result is not None else None
            refused = result is not None and result.HasField("failure")
            refused = refused and failures.failure_class(result.failure) != event_pb2.FAILURE_CLASS_IN_DOUBT
            verdict = attempt.verdict.message if attempt.verdict is not None else None
            not_happened = verdict is not None and verdict.happened == event_pb2.HAPPENED_NO
            assert attempt.seen_dead or refused or not_happened, (instance.id, attempt.id)


@settings(max_examples=300)
@given(
    st.sampled_from(ARMS),
    st.binary(max_size=60),
    st.sampled_from(["cmd", "dec", "ans"]),
    st.lists(st.sampled_from(["ask", "note", "worker", "box", "result", "look-a1", "refund-a1"]), max_size=5),
)
def test_anything_at_all_can_be_applied(arm: str, content: bytes, channel: str, topic: list[str]) -> None:
    event = event_pb2.Event(id="x", version=run.VERSION)
    body = getattr(event, arm)
    body.SetInParent()
    try:
        body.MergeFromString(content)
    except DecodeError:
        event = None
    state = random_play([]).state
    address = Address(KEY, channel, tuple(topic))  # type: ignore[arg-type]
    after = apply(state, Record(state.applied + 1, START_NS, address, event))
    view(after)
    for pattern, _ in HANDLERS.values():
        exact = tuple(token if token != "*" else "box" for token in pattern)
        record = Record(after.applied + 1, START_NS, Address(KEY, exact[0], exact[1:]), event)  # type: ignore[arg-type]
        after = apply(after, record)
    view(after)


def test_what_cannot_be_read_is_a_stray_unless_the_decider_wrote_it() -> None:
    state = random_play([]).state
    answer = Address(KEY, "ans", ("worker", "box", "result", "look-a1"))
    assert apply(state, Record(99, START_NS, answer, None)).strays == state.strays + 1
    note = Address(KEY, "dec", ("note", "finished"))
    later = event_pb2.Event(id="x", version=run.VERSION + 1)
    for event in (None, later):
        stopped = apply(state, Record(99, START_NS, note, event))
        assert stopped.status == event_pb2.RUN_STATUS_UNREADABLE


def test_an_event_on_a_foreign_channel_is_a_stray() -> None:
    play = random_play([])
    forged = event_pb2.Event(id="x", version=run.VERSION)
    forged.finished.status = event_pb2.RUN_STATUS_DONE
    address = Address(KEY, "ans", ("worker", "box", "result", "look-a1"))
    state = apply(play.state, Record(99, START_NS, address, forged))
    assert state.finished is None
    assert state == replace(play.state, applied=99, strays=play.state.strays + 1)


def test_another_run_is_another_run() -> None:
    play = random_play([])
    record = replace(play.records[0], address=Address(RunKey(0, "default", "r0-other"), "cmd", ("submit",)))
    assert apply(initial(KEY), record) == initial(KEY)


def test_ten_thousand_events_fold_in_under_a_second() -> None:
    play = Play(contract("list"), contract("look"))
    play.submit(
        {"id": "list", "tool": "list"},
        {"id": "look", "tool": "look", "each": "$list", "with": {"x": "$each"}, "each_limit": 900},
    ).done("list-a1", list(range(900)))
    for _ in range(16):
        for attempt in sorted(play.state.attempts):
            if (
                attempt.startswith("look")
                and play.state.instances[play.state.attempts[attempt]].settled != "done"
            ):
                play.done(attempt, 1)
    assert play.status == "done"
    # Strays are folded like everything else.
    records = list(play.records)
    while len(records) < 10_000:
        again = records[len(records) % len(play.records)]
        records.append(replace(again, sequence=len(records) + 1))
    # Of this process alone: how busy the machine is does not matter.
    begun = time.process_time()
    state = fold(KEY, records)
    elapsed = time.process_time() - begun
    assert state.status == event_pb2.RUN_STATUS_DONE
    assert elapsed < 1.0, f"{elapsed:.2f} s"


def test_a_bundle_where_nothing_is_bundled_is_a_stray() -> None:
    """Somebody writes on a subject that is too short for what the event carries."""
    part = event_pb2.Event(id="p", version=1, action=event_pb2.Action(attempt="a-a1"))
    event = event_pb2.Event(id="e", version=1, before=[part], cancel=event_pb2.Cancel())
    for channel, topic in (("dec", ("ask", "worker")), ("ans", ("worker",)), ("cmd", ("ask",))):
        record = Record(1, START_NS, Address(KEY, channel, topic), event)  # type: ignore[arg-type]
        assert apply(initial(KEY), record).strays or apply(initial(KEY), record).unreadable
