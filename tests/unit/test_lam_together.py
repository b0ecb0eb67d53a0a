"""Situations that are asked about at once are read together, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from actors.models import Goal
from actors.models.lam import answering, shelf
from actors.models.lam.network import Encode, Floats, Network
from actors.models.lam.options import options_of
from actors.models.lam.plans import LamPlans
from actors.models.lam.reader import Situation
from actors.models.lam.serving import Serving
from actors.models.lam.together import Together
from handrail import project
from handrail.v1 import event_pb2
from tests.unit.lam_weights import write_model

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
GOALS = [
    f"{said} {number}" for number in range(12) for said in ("give back order", "show me", "close ticket")
]
THREADS = 16
WAIT_S = 30.0


class Slow:
    """Reads each situation as its number; the first pass waits until everybody else waits too."""

    def __init__(self, bad: int = -1) -> None:
        self.passes: list[int] = []
        self.first = Event()
        self.goes_on = Event()
        self.bad = bad

    def __call__(self, situations: Sequence[Situation]) -> list[Floats]:
        self.passes.append(len(situations))
        if len(self.passes) == 1:
            self.first.set()
            assert self.goes_on.wait(WAIT_S)
        if any(len(one) == self.bad for one in situations):
            raise MemoryError("no room")
        return [np.full((2, 3), len(one), np.float32) for one in situations]


def situation(length: int) -> Situation:
    return Situation(
        (), np.zeros((length, 4), np.int32), np.zeros(length, np.int32), np.zeros(length, np.int32)
    )


def asked(slow: Slow, most: int, lengths: Sequence[int]) -> list[float | str]:
    """Ask for the first, and once it is read for all others; return what each got."""
    together = Together(slow, most)

    def ask(length: int) -> float | str:
        try:
            (states,) = together([situation(length)])
        except MemoryError as error:
            return str(error)
        return float(states[0, 0])

    with ThreadPoolExecutor(len(lengths)) as threads:
        found = [threads.submit(ask, lengths[0])]
        assert slow.first.wait(WAIT_S)
        found += [threads.submit(ask, length) for length in lengths[1:]]
        while together.waiting < len(lengths) - 1:
            pass
        slow.goes_on.set()
        return [one.result(WAIT_S) for one in found]


@pytest.mark.parametrize(("most", "passes"), [(1, [1] * THREADS), (4, [1, 4, 4, 4, 3]), (64, [1, 15])])
def test_who_comes_while_something_is_read_is_read_next_with_the_others(most: int, passes: list[int]) -> None:
    slow = Slow()
    lengths = list(range(24, 24 + THREADS))
    assert asked(slow, most, lengths) == lengths
    assert slow.passes == passes


def test_what_goes_wrong_is_told_to_whoever_brought_it_and_to_nobody_else() -> None:
    slow = Slow(bad=27)
    lengths = list(range(24, 33))
    found = asked(slow, 64, lengths)
    assert found == [length if length != 27 else "no room" for length in lengths]
    assert slow.passes == [1, 8, *[1] * 8]


def test_what_is_much_longer_is_read_by_itself() -> None:
    slow = Slow()
    lengths = [24, *[8] * 5, *[16] * 5, *[160] * 5]
    assert asked(slow, 64, lengths) == lengths
    assert slow.passes == [1, 10, 5]


def test_one_may_ask_for_more_than_is_read_at_once() -> None:
    sizes: list[int] = []

    def encode(situations: Sequence[Situation]) -> list[Floats]:
        sizes.append(len(situations))
        return [np.zeros((1, 1), np.float32) for _ in situations]

    assert len(Together(encode, 2)([situation(1)] * 5)) == 5
    assert sizes == [5]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    shelf.promote(tmp_path, write_model(tmp_path, options_of(LOADED.protos, LOADED.playbooks)))
    return tmp_path


async def answers(place: Path, *, device: str = "", batch: int = 1) -> list[event_pb2.PlanAnswer]:
    """Ask a mind for all goals at once."""
    serving = Serving(place, LOADED.protos, LOADED.playbooks, device=device, batch=batch)
    maker = LamPlans(serving)
    return await asyncio.gather(*(maker.make(Goal(text, {}, datetime.date(2026, 3, 2))) for text in GOALS))


async def test_a_mind_that_is_asked_much_at_once_answers_as_if_it_were_asked_one_by_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await answers(place)
    sizes: list[int] = []
    made: list[Together] = []
    encode = Network.encode

    def counted(network: Network, situations: Sequence[Situation]) -> list[Floats]:
        sizes.append(len(situations))
        while len(sizes) == 1 and made[0].waiting < 7:
            pass
        return encode(network, situations)

    def together(encode: Encode, most: int) -> Together:
        made.append(Together(encode, most))
        return made[-1]

    monkeypatch.setattr(Network, "encode", counted)
    monkeypatch.setattr(answering, "Together", together)
    for one, other in zip(alone, await answers(place, batch=8), strict=True):
        assert one.thought.decisions == other.thought.decisions
        assert one.no_plan == other.no_plan
        assert one.plan == other.plan
    # The first goal may have come back with its next question by then.
    assert sizes[0] == 1
    assert sizes[1] in (7, 8)
    assert max(sizes) <= 8


async def test_a_device_that_is_not_there_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "actors.models.lam.torch_reader", raising=False)
    for answer in await answers(place, device="cuda"):
        assert answer.no_plan.reason == (
            "the action model cannot be used: [lam] device = 'cuda' needs torch: install Handrail with its "
            "extra `gpu`"
        )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")
async def test_torch_answers_as_numpy_does(place: Path) -> None:
    alone = await answers(place)
    for one, other in zip(alone, await answers(place, device="cpu", batch=8), strict=True):
        assert one.thought.decisions == other.thought.decisions
        assert one.no_plan == other.no_plan
    (reason,) = {one.no_plan.reason for one in await answers(place, device="abacus")}
    assert reason.startswith("the action model cannot be used: [lam] device = 'abacus' cannot be used: ")
