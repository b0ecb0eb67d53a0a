"""Pictures of what a model is worth: what is drawn is what was judged."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.lam import pictures

JUDGED = [(0.95, True), (0.92, True), (0.91, False), (0.35, False), (0.31, True), (0.0, False), (1.0, True)]
SVG = "{http://www.w3.org/2000/svg}"


def test_judgements_fall_into_bins_by_how_sure_it_was() -> None:
    low, middle, high = pictures.bins_of(JUDGED)
    assert (low.count, middle.count, high.count) == (1, 2, 4)
    assert (low.sure, low.right) == (0.0, 0.0)
    assert middle.right == 0.5
    assert high.sure == pytest.approx((0.95 + 0.92 + 0.91 + 1.0) / 4)


def test_the_lower_the_threshold_the_more_is_acted_on() -> None:
    found = pictures.coverage_of(JUDGED, 10)
    assert [share for share, _ in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert [right for _, right in found][:4] == [1.0, 1.0, 1.0, 0.75]
    # What it is as sure of is acted on together.
    assert pictures.coverage_of([(0.9, True), (0.9, False)], 4) == [(0.5, 0.5)]
    assert pictures.coverage_of([], 4) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60), st.integers(0, 80))
def test_whatever_was_judged_can_be_drawn(judged: list[tuple[float, bool]], wanted: int) -> None:
    for text in (
        pictures.reliability({"a <b>": judged, "c": []}),
        pictures.coverage({"a <b>": (judged, wanted), "c": ([], 0)}),
    ):
        drawn = ElementTree.fromstring(text)
        assert "a <b>" in [one.text for one in drawn.iter(f"{SVG}text")]
        width, height = (float(size) for size in drawn.attrib["viewBox"].split()[2:])
        for line in drawn.iter(f"{SVG}polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_a_dot_says_what_it_stands_for() -> None:
    drawn = ElementTree.fromstring(pictures.reliability({"goals": JUDGED}))
    told = [one.text for one in drawn.iter(f"{SVG}title")]
    assert told[-1] == "4 decisions, 94% sure, 75% right"
    assert len(told) == len(pictures.bins_of(JUDGED))
