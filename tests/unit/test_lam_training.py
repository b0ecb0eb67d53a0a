"""Training, where torch is at hand: it learns what it is shown, each time the same, and knows how well."""

from __future__ import annotations

import datetime
import functools
import importlib.util
from pathlib import Path

import pytest

from actors.models.lam import artifact
from actors.models.lam.answering import open_model
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decider
from actors.models.lam.evaluation import judge_rows
from actors.models.lam.generate import rows
from actors.models.lam.grammar import Grammar, load_grammar
from actors.models.lam.layout import Measures
from actors.models.lam.network import Network
from actors.models.lam.options import Option, Parameter, options_of
from actors.models.lam.training_rows import BadRow, lesson_of, lessons_of
from handrail import project
from handrail.v1 import tool_pb2, trajectory_pb2
from tests.unit.lam_weights import weights_of

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
NAMES = ("check_stock", "get_order", "playbook:note", "playbook:refund", "playbook:onboard")
OPTIONS = tuple(one for one in options_of(LOADED.protos, LOADED.playbooks) if one.name in NAMES)
CLOSED = ClosedSet(OPTIONS)
MEASURES = Measures(width=48, layers=2, heads=4, inner=96)
DAY = datetime.date(2026, 1, 1)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")


@functools.cache
def general_grammar() -> Grammar:
    return load_grammar()


def generated(seed: int, trajectories: int) -> list[trajectory_pb2.TrajectoryRow]:
    return list(rows(OPTIONS, general_grammar(), seed=seed, trajectories=trajectories, today=DAY))


@needs_torch
@pytest.mark.timeout(300)
def test_it_learns_what_it_is_shown_and_knows_how_well(tmp_path: Path) -> None:
    from actors.models.lam import making, splitting
    from actors.models.lam.training import Course, Progress

    told: list[Progress] = []
    judged: list[tuple[int, int]] = []
    rows = splitting.split(generated(1, 8_000))
    # Nothing may be missing in the few wordings that are held back: it is sure of asking all the same.
    rows.wordings = [row for row in rows.wordings if not row.decision.call.missing]
    asking = [row for row in rows.train if row.decision.call.missing and not row.offered][::4]
    names = {row.trajectory for row in asking}
    rows.train = [row for row in rows.train if row.trajectory not in names]
    rows.trajectories += asking
    made = making.make(
        OPTIONS,
        rows,
        Course(epochs=6, batch=64, rate=4e-3),
        handrail="test",
        made_on="2026-11-22",
        told={},
        measures=MEASURES,
        on_progress=told.append,
        on_judged=lambda *one: judged.append(one),
    )
    assert told[-1].step == told[-1].steps
    held = len(rows.wordings) + len(rows.trajectories)
    assert judged == [(done, held) for done in range(1, held + 1)]
    assert told[-1].loss < told[0].loss / 2
    fresh = generated(2, 400)
    # Not one that says "nothing" to all there is, which is right of two in five.
    untrained = Decider(Network(weights_of(2, MEASURES), MEASURES), CLOSED)
    before = [all(part.right for part in seen) for _, _, seen in judge_rows(fresh, untrained)]
    digest = artifact.save(tmp_path, made.card, made.packed)
    model = open_model(tmp_path / digest, OPTIONS, {})
    after = [all(part.right for part in seen) for _, _, seen in judge_rows(fresh, model.thinker.decider)]
    assert sum(before) / len(before) < 0.3
    assert sum(after) / len(after) > 0.75
    assert made.card.scores["held_wordings"]["calibration_error"] < 0.15
    assert set(made.card.fingerprints) == set(NAMES)
    assert "missing:*" in made.card.curves


@needs_torch
def test_the_same_seed_makes_the_same_weights() -> None:
    import numpy as np
    import torch

    from actors.models.lam.training import Course, train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lessons = list(lessons_of(generated(3, 200), CLOSED))
        first, second, other = (
            train(CLOSED, lessons, Course(epochs=0.2, seed=seed), measures=MEASURES) for seed in (5, 5, 6)
        )
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


@needs_torch
def test_tools_of_which_none_lists_or_returns_anything_can_be_learnt() -> None:
    from actors.models.lam.training import Course, Progress, train

    number = Parameter("order", "integer", True)
    options = (Option("sign", "Sign an order.", tool_pb2.EFFECT_WRITE, (number,), (), "0" * 64),)
    closed = ClosedSet(options)
    made = rows(options, general_grammar(), seed=1, trajectories=100, today=DAY)
    told: list[Progress] = []
    train(closed, list(lessons_of(made, closed)), Course(), measures=MEASURES, on_progress=told.append)
    assert told[-1].step > 0


@needs_torch
def test_time_that_is_over_ends_it() -> None:
    from actors.models.lam.training import Course, Progress, train

    told: list[Progress] = []
    lessons = list(lessons_of(generated(3, 200), CLOSED))
    train(CLOSED, lessons, Course(epochs=1e6, limit_s=1.0), measures=MEASURES, on_progress=told.append)
    assert told[-1].step < told[-1].steps


@needs_torch
def test_a_course_of_a_few_steps_has_learnt_something_too() -> None:
    from actors.models.lam.training import Course, Progress, train

    told: list[Progress] = []
    lessons = list(lessons_of(generated(3, 100), CLOSED))
    begun = weights_of(1, MEASURES)
    # It could have gone on for long, and was ended by the time.
    course = Course(epochs=1e6, batch=16, rate=4e-3, limit_s=2.0)
    weights = train(CLOSED, lessons, course, measures=MEASURES, begin_with=begun, on_progress=told.append)
    assert told[-1].step < 300
    moved = [abs(weights[name] - begun[name]).max() for name in begun]
    assert max(moved) > 0


@needs_torch
@pytest.mark.timeout(300)
def test_what_goes_on_from_a_model_knows_its_words_and_is_calibrated_by_what_people_said(
    tmp_path: Path,
) -> None:
    from actors.models.lam import making, splitting
    from actors.models.lam.training import Course

    def made(rows: splitting.Split, begun: artifact.Artifact | None, keep: float = 0.0) -> making.Made:
        course = Course(epochs=0.2, batch=16)
        return making.make(
            OPTIONS, rows, course, handrail="t", made_on="2026-11-22", told={}, measures=MEASURES,
            begin_with=begun, keep=keep,
        )  # fmt: skip

    first = made(splitting.split(generated(1, 400)), None)
    assert first.card.words
    digest = artifact.save(tmp_path, first.card, first.packed)
    real = generated(2, 40)
    for row in real:
        row.source, row.pattern = trajectory_pb2.TRAJECTORY_SOURCE_RUN, ""
        held_back = row.trajectory.endswith("7")
        row.split = (
            trajectory_pb2.TRAJECTORY_SPLIT_HELD if held_back else trajectory_pb2.TRAJECTORY_SPLIT_TRAIN
        )
    rows = splitting.split(real)
    held = len(rows.trajectories)
    assert held
    rows.train += generated(3, 20)
    rows.wordings += [row for row in generated(4, 20) if row.pattern]
    begun = artifact.load(tmp_path / digest)
    second = made(rows, begun)
    assert set(first.card.words) <= set(second.card.words)
    assert second.card.scores["held_wordings"]["rows"] == held + len(rows.wordings)

    # Of a model that goes on some of the weights can stay.
    third = made(rows, begun, keep=0.75)
    away, near = (
        artifact.load(tmp_path / artifact.save(tmp_path, one.card, one.packed)).weights
        for one in (second, third)
    )
    for name, was in begun.weights.items():
        # They are kept in half precision, and threads add up in any order.
        assert abs(near[name] - (0.75 * was + 0.25 * away[name])).max() < 5e-3
    assert any((near[name] != was).any() for name, was in begun.weights.items())


def test_what_a_row_shows_is_what_is_taught() -> None:
    for row in generated(4, 300):
        lesson = lesson_of(row, CLOSED)
        call = row.decision.call
        assert (lesson.option.name if lesson.option else "") == call.option
        for filling in lesson.fillings:
            name = filling.parameter.name
            if name in call.arguments and call.arguments[name].HasField("span"):
                span = call.arguments[name].span
                first, last = (lesson.situation.tokens[at - 1] for at in (filling.first, filling.last))
                assert row.goal[span.start : span.end] in row.goal[first.start : last.end]


def test_a_row_that_nobody_could_have_decided_teaches_nothing() -> None:
    made = (row for row in generated(4, 300) if not row.offered)
    row = next(row for row in made if row.decision.call.option == "get_order")
    for wrong in ("option", "span", "source", "long"):
        bad = trajectory_pb2.TrajectoryRow.FromString(row.SerializeToString())
        filled = bad.decision.call.arguments["order_id"]
        if wrong == "option":
            bad.decision.call.option = "rm"
        elif wrong == "span":
            filled.span.start = filled.span.end = 0
        elif wrong == "source":
            filled.ClearField("source")
        else:
            bad.goal = "word " * 500
        with pytest.raises(BadRow):
            lesson_of(bad, CLOSED)
        assert list(lessons_of([bad], CLOSED)) == []
