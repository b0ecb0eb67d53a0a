"""What other rules would have made of a run: when that is something else than what it came to."""

from __future__ import annotations

import pytest

from core.policy import ALLOWED, Ruling
from handrail.cli.hindsight import decided_by, is_other
from handrail.v1 import event_pb2
from tests.policies import FunctionPolicy
from tests.scenarios.test_amendments import limited, paying
from tests.scenarios.test_undo import booked

REFUSED = Ruling("refuse", ())


def gate(quorum: int, items: int = 1) -> event_pb2.GateOpened:
    return event_pb2.GateOpened(quorum=quorum, items=[event_pb2.GateItem()] * items)


def needing(quorum: int) -> Ruling:
    return Ruling("gate", (), quorum=quorum)


@pytest.mark.parametrize(
    ("was", "would_be", "other"),
    [
        (None, ALLOWED, False),
        (None, needing(1), True),
        (None, REFUSED, True),
        (gate(1), ALLOWED, True),
        (gate(1), REFUSED, True),
        (gate(2), needing(2), False),
        (gate(2), needing(1), True),
        (gate(1), needing(2), True),
        # Another of them may have been why two had to approve.
        (gate(2, items=3), needing(1), False),
        (gate(2, items=3), needing(3), True),
    ],
)
def test_how_many_must_approve_counts_too(
    was: event_pb2.GateOpened | None, would_be: Ruling, other: bool
) -> None:
    assert is_other(was, would_be) is other


@pytest.mark.parametrize(
    ("would_be", "other"), [(ALLOWED, False), (needing(1), False), (needing(2), True), (REFUSED, True)]
)
def test_what_was_amended_is_another_action_than_its_gate_was_for(would_be: Ruling, other: bool) -> None:
    assert is_other(gate(1), would_be, amended=True) is other


def test_the_rules_of_a_run_are_known_with_and_without_a_gate() -> None:
    ungated = booked(policy=FunctionPolicy(lambda _: ALLOWED, "v7"))
    assert ungated.state.gates == {}
    assert decided_by(ungated.state) == {"v7"}
    assert decided_by(paying(limited()).state) == {"v1"}
