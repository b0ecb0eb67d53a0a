"""Who is known to be dead, by name alone."""

from __future__ import annotations

import pytest

from workers.instance import Instance

ME = Instance("site", 3, "box_0", 4)


@pytest.mark.parametrize(
    ("other", "dead"),
    [
        ("site-2-box_0-9", True),
        ("site-2-other_1-1", True),
        ("site-3-box_0-3", True),
        ("site-3-box_0-4", False),
        ("site-3-box_0-5", False),
        ("site-3-box_1-1", False),
        ("site-4-box_0-1", False),
        ("else-1-box_0-1", False),
        ("2-box_0-1", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_only_what_is_certain(other: str, dead: bool) -> None:
    assert ME.knows_dead(other) is dead


@pytest.mark.parametrize(
    ("other", "dead"),
    [
        ("site-3-box_1-2", True),
        ("site-3-box_1-3", False),
        # Of one's own slot one knows without being told, and of another site nobody tells.
        ("site-3-box_0-3", True),
        ("site-3-box_0-4", False),
        ("site-4-box_1-1", False),
        ("else-3-box_1-1", False),
    ],
)
def test_what_the_supervisor_has_seen_end_is_dead(other: str, dead: bool) -> None:
    assert ME.knows_dead(other, {"box_1": 2, "box_0": 9}.__getitem__) is dead


def test_a_name_can_be_read_back() -> None:
    assert not ME.knows_dead(str(ME))
    assert ME.knows_dead(str(Instance("site", 3, "box_0", 1)))
