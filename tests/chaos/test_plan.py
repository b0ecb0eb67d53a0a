"""The plan of a campaign comes of its seed alone, and leaves nothing out."""

from __future__ import annotations

import random

import pytest

from tests.chaos import plan, report
from tests.chaos.plan import HostKind

HOSTS: tuple[HostKind, ...] = ("inline", "ray")


@pytest.mark.parametrize("host", HOSTS)
def test_a_seed_draws_one_plan(host: HostKind) -> None:
    def drawn(seed: int) -> str:
        rng = random.Random(seed)
        return report.digest(plan.points(host, "stop", rng) + plan.at_random(host, 30, None, rng))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("host", HOSTS)
def test_every_named_point_is_struck_once(host: HostKind) -> None:
    struck = [stroke.point for stroke in plan.points(host, "kill", random.Random(1))]
    assert sorted(struck) == sorted(name for point in plan.POINTS for name in point.names())
    assert len(set(struck)) == len(struck)


@pytest.mark.parametrize("host", HOSTS)
def test_every_target_is_struck_in_every_way(host: HostKind) -> None:
    drawn = {(stroke.target, stroke.deed) for stroke in plan.at_random(host, 40, None, random.Random(1))}
    assert drawn == {(target, deed) for target, found in plan.deeds(host).items() for deed in found}


def test_only_some_targets() -> None:
    drawn = plan.at_random("ray", 4, 0, random.Random(1), only="head,raylet")
    assert [stroke.deed for stroke in drawn] == ["kill"] * 4
    assert {stroke.target for stroke in drawn} == {"head", "raylet"}
