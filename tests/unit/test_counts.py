"""What a plan costs, in counts that are the same on every machine: a change of one is a decision, no wobble.

`python -m bench counts` prints them. Times are the business of `make bench`.
"""

from __future__ import annotations

import pytest

from bench.counts import Counts, count_plan

# Python's versions inline differently, and protobuf's count differently: this much is no change of ours.
TOLERANCE = 1.1


@pytest.fixture(scope="module")
def reads() -> Counts:
    return count_plan("step", steps=5)


@pytest.fixture(scope="module")
def effects() -> Counts:
    return count_plan("act", steps=5)


def test_five_reads_in_a_row_are_five_events(reads: Counts) -> None:
    assert reads.by_kind == {"submit": 1, "action": 1, "result": 1, "verdict": 1, "finished": 1}
    assert reads.events == 5
    assert reads.publishes_per_step == 0.6


def test_an_effect_is_four_events_each_of_which_the_next_one_awaits(effects: Counts) -> None:
    assert effects.by_kind == {
        "submit": 1,
        "action": 5,
        "intent": 5,
        "result": 5,
        "verdict": 5,
        "finished": 1,
    }
    assert effects.events == 22
    assert effects.publishes_per_step == 4.0


def test_what_a_plan_stores_stays_small(reads: Counts, effects: Counts) -> None:
    assert reads.bytes <= 3_775 * TOLERANCE
    assert effects.bytes <= 4_920 * TOLERANCE


def test_folding_a_plan_calls_no_more_functions(reads: Counts, effects: Counts) -> None:
    assert reads.fold_calls <= 1_582 * TOLERANCE
    assert effects.fold_calls <= 1_436 * TOLERANCE


def test_folding_a_plan_holds_no_more_memory(reads: Counts, effects: Counts) -> None:
    assert reads.fold_bytes <= 15_350 * TOLERANCE
    assert effects.fold_bytes <= 11_300 * TOLERANCE
