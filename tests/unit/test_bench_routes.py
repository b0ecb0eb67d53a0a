"""The three routes: which goals are taken, what is counted, and how it is shown."""

from __future__ import annotations

from pathlib import Path

from bench import routes
from bench.routes import Assumed, Ended
from core.conformance import check_plan
from handrail.project import limits_of, load
from handrail.v1 import event_pb2, tool_pb2

SAMPLE = Path(__file__).parents[2] / "examples" / "backoffice"
ASSUMED = Assumed(1.0, 1_000.0, 100.0, 1.0, 10.0)


def test_there_are_more_than_enough_goals_whose_plan_conforms_and_knows_no_day() -> None:
    project = load(SAMPLE)
    found = routes.bounded(project)
    assert len(found) > 2 * routes.GOALS
    goal, limits = event_pb2.Goal(ceiling=tool_pb2.PERMISSION_ADMIN), limits_of(project.settings)
    assert not [
        bad for one in found for bad in check_plan(one.plan, project.protos, goal=goal, limits=limits)
    ]
    assert len({one.text for one in found}) == len(found)
    # By chance, and the same each time.
    assert [one.text for one in found] == [one.text for one in routes.bounded(project)]


def test_what_is_counted() -> None:
    ended = [
        Ended("at once", actions=4, plan_ms=2_100, total_ms=2_300, calls=1, read=1_000, written=40),
        Ended("after a yes", actions=2, plan_ms=2_000, total_ms=100, calls=1, read=1_000, written=20),
        Ended("refused", plan_ms=2_000, calls=1, read=1_000),
    ]
    row = routes._row(ended, ASSUMED)
    assert row["how"] == {"at once": 1, "after a yes": 1, "refused": 1, "otherwise": 0, "failed": 0}
    assert (row["actions"], row["calls"], row["tokens"]) == (3.0, 1.0, 1_020.0)
    loop = routes._loop(ended, ASSUMED)
    # Five questions of a thousand tokens, each answered with ten, and the run without its planning.
    assert (loop["calls"], loop["tokens"]) == (5.0, 5_050.0)
    assert loop["total_ms"][0] == 5 * (1_000 + 1_000 + 100) + 200
    assert routes._row([], ASSUMED)["total_ms"] == [0.0, 0.0]


def test_what_was_computed_is_told_from_what_was_run() -> None:
    row = routes._row([Ended("at once", actions=1, plan_ms=1, total_ms=2)], ASSUMED)
    asked = routes._row([Ended("at once", 4, 2_100, 2_300, 1, 1_000, 40)], ASSUMED)
    measured = {"client": row, "lam": row, "openai": asked, "loop": routes._loop([], ASSUMED)}
    lines = routes.table({"routes": measured}).splitlines()
    assert "(scripted)" in lines[-2]
    assert "(computed)" in lines[-1]
    assert "1,040" in lines[-2]
