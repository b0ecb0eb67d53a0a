"""How sure a decision is: monotone, smoothed, of a tool's own or of all."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from actors.models.lam.calibration import MIN_SEEN, STEP, Calibration, Seen, fit
from actors.models.lam.deciding import Part


def seen(raw: float, right: bool, option: str = "refund", source: str = "option") -> Seen:
    return Seen(option, Part("option", source, raw), right)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
def test_a_curve_never_falls_and_is_never_certain(points: list[tuple[float, bool]]) -> None:
    curves = fit(seen(raw, right) for raw, right in points)
    told = [curves.part("refund", Part("option", "option", raw / 50)) for raw in range(51)]
    assert told == sorted(told)
    assert all(0 <= share < 1 for share in told)


def test_what_was_right_half_the_time_is_half_sure() -> None:
    curves = fit(seen(0.99, n % 2 == 0) for n in range(1_000))
    assert abs(curves.part("refund", Part("option", "option", 0.99)) - 0.5) < 0.01


def test_a_tool_that_was_seen_often_has_a_curve_of_its_own() -> None:
    often = [seen(0.9, False, "bad") for _ in range(MIN_SEEN)]
    curves = fit([*often, *(seen(0.9, True, f"good{n}") for n in range(2_000))])
    part = Part("option", "option", 0.9)
    assert curves.part("bad", part) < 0.05
    assert curves.part("good1", part) > 0.9
    assert curves.part("never seen", part) == curves.part("good1", part)


def test_steps_have_curves_of_their_own_where_any_were_seen() -> None:
    goals = [seen(0.9, True) for _ in range(2_000)]
    part = Part("option", "option", 0.9)
    alone = fit(goals)
    assert alone.part(f"{STEP}refund", part) == alone.part("refund", part) > 0.9
    both = fit([*goals, *(seen(0.9, n % 2 == 0, f"{STEP}other") for n in range(200))])
    assert both.part("refund", part) == alone.part("refund", part)
    assert abs(both.part(f"{STEP}refund", part) - 0.5) < 0.05


def test_a_decision_is_as_sure_as_its_least_sure_part() -> None:
    parts = [seen(0.9, True, source="option") for _ in range(500)]
    parts += [seen(0.9, n % 4 > 0, source="span") for n in range(500)]
    curves = fit(parts)
    told = curves.sure("refund", (Part("option", "option", 0.9), Part("order", "span", 0.9)))
    assert abs(told - 0.75) < 0.01


def test_what_was_never_calibrated_is_not_sure_at_all() -> None:
    assert fit([seen(0.9, True)]).part("refund", Part("order", "field", 1.0)) == 0.0


def test_curves_survive_being_written() -> None:
    curves = fit(seen(n / 100, n % 3 > 0) for n in range(100))
    again = Calibration.from_json(json.loads(json.dumps(curves.to_json())))
    assert again == curves


def test_what_was_never_seen_so_unsure_is_not_sure() -> None:
    curves = fit([*(seen(0.98, True) for _ in range(200)), *(seen(0.2, False, "other") for _ in range(20))])
    assert curves.part("refund", Part("option", "option", 0.98)) > 0.95
    assert curves.part("refund", Part("option", "option", 0.5)) < 0.1
    for nothing in (0.1, 0.0, -1.0, 2.0, float("nan")):
        assert curves.part("refund", Part("option", "option", nothing)) == 0.0
