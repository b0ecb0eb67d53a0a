"""The harness itself: a defect is found and told of once, with what it takes to see it again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handrail.v1 import event_pb2
from tests.fuzz.campaign import Campaign, Trial, run
from tests.fuzz.mutate import Mutator


def campaign(check: Callable[[Any], None]) -> Campaign:
    @contextmanager
    def begin() -> Iterator[Trial]:
        yield Trial(lambda m: m.data(b"a good input"), check)

    return Campaign("sample", 1.0, begin)


def brittle(given: bytes) -> None:
    given.decode()


def endless(given: bytes) -> None:
    while True:
        pass


def test_a_defect_is_told_of_once_and_found_again_by_its_number() -> None:
    report = run(campaign(brittle), 7, 0.5)
    assert report.inputs > 100
    (told,) = report.findings.values()
    assert "seed 7 campaign sample number " in told
    assert "UnicodeDecodeError" in told
    number = int(told.split("number ")[1].split(":")[0])
    again = run(campaign(brittle), 7, 0.5, number)
    assert (again.inputs, list(again.findings.values())) == (1, [told])


def test_what_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.MAX_INPUT_CPU_S", 0.05)
    report = run(campaign(endless), 7, 0.2)
    assert "TooLong" in next(iter(report.findings))


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made(seed: int) -> list[bytes]:
        found: list[bytes] = []
        for number in range(20):
            run(campaign(found.append), seed, 1.0, number)
        return found

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_what_is_given_stays_as_it_was() -> None:
    document, message = {"a": [1, {"b": "c"}]}, event_pb2.Submit(goal=event_pb2.Goal(text="a"))
    for number in range(200):
        m = Mutator(random.Random(number))
        m.value(document)
        m.message(message)
    assert document == {"a": [1, {"b": "c"}]}
    assert message == event_pb2.Submit(goal=event_pb2.Goal(text="a"))
