"""The learning curve: what is taught can be learnt, what it is measured by can be read, and it is drawn."""

from __future__ import annotations

import datetime
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.models.lam.evaluation import read_cases
from actors.models.lam.tracing import Tracer
from bench import __main__ as bench_main
from bench import learning, report, teaching
from handrail.cli.models import open_model, open_project

TOOLS = {"find_booking", "bookings_of", "move_booking", "cancel_booking", "report_fault", "send_invoice"}
TODAY = datetime.date(2026, 11, 22)


def test_there_are_six_tools_and_goals_for_them() -> None:
    loaded, offered = open_project(teaching.HIRE)
    by_name = {one.name: {p.name for p in one.parameters} for one in offered}
    assert by_name.keys() == TOOLS
    cases = read_cases(loaded.directory / loaded.settings.lam.goals)
    assert len(cases) >= 200
    for case in cases:
        for step in (one for wanted in case.wants for one in wanted):
            assert set(step.get("with", {})) <= by_name[step["option"]]
        assert all(name in by_name[option] for option, name in case.asks)


def test_each_tool_is_asked_for_in_many_wordings_and_none_is_measured_by() -> None:
    said = yaml.safe_load(teaching.SAID.read_text())
    wordings: dict[str, set[str]] = {}
    for plan in said["plans"]:
        wordings.setdefault(plan["steps"][0]["tool"], set()).update(plan["say"])
    assert wordings.keys() == TOOLS
    assert all(len(held) >= 38 for held in wordings.values())
    teacher = teaching.Teacher(1)
    taught = {teacher.say(TODAY).goal.casefold() for _ in range(1_000)}
    measured = {case.goal.casefold() for case in read_cases(teaching.HIRE / "goals")}
    assert not taught & measured


def test_what_is_said_means_what_the_plan_does() -> None:
    _, offered = open_project(teaching.HIRE)
    options = {one.name: one for one in offered}
    teacher, again = teaching.Teacher(3), teaching.Teacher(3)
    traced: list[bool] = []
    for _ in range(300):
        shown = teacher.say(TODAY)
        assert shown == again.say(TODAY)
        tracer = Tracer(shown.goal, TODAY)
        for step in shown.plan["steps"]:
            for name, value in step["with"].items():
                parameter = options[step["tool"]].parameter(name)
                assert parameter is not None
                if value != "$s1.email":
                    traced.append(not tracer.trace(parameter, value).HasField("untraced"))
    # That a day of the month is a booking's number as well may happen.
    assert sum(traced) / len(traced) > 0.98


def test_the_shipped_model_can_decide_on_none_of_them(tmp_path: Path) -> None:
    project = tmp_path / "hire"
    shutil.copytree(teaching.HIRE, project, ignore=shutil.ignore_patterns(".handrail", "*.db*"))
    point = learning._measured(project, learning.bring(project))
    assert (point["decides on"], point["coverage"], point["exact"], point["unsafe"]) == (0, 0.0, 0.0, 0)
    assert point["abstained"] == 1.0
    loaded, offered = open_project(project)
    assert not open_model(loaded, offered, None).offered


def curve() -> dict[str, Any]:
    def one(share: float, unsafe: int) -> dict[str, Any]:
        shares = dict.fromkeys(("coverage_at_98", "exact", "coverage", "abstained", "asked"), share)
        return {**shares, "precision": 0.5, "unsafe": unsafe, "model": "0123456789ab"}

    def trained(share: float) -> dict[str, Any]:
        return learning._together([{**one(share + of, 7), "took_s": 60} for of in (0.0, 0.125)])

    points = [
        {"after": 0, "learnt from": "nothing", **learning._together([one(0.0, 0)])},
        {"after": 0, "learnt from": "contracts", **learning._together([{**one(0.0, 7), "took_s": 60}])},
        {"after": 50, "learnt from": "contracts", **trained(0.375)},
        {"after": 1_000, "learnt from": "contracts", **trained(0.5625)},
    ]
    return {"points": points}


def test_it_is_drawn_and_told(tmp_path: Path) -> None:
    picture = learning.picture(curve())
    assert picture == learning.picture(curve())
    assert "62.5 %" in picture
    assert ">1,000<" in picture
    assert picture.count("7 unsafe") == 3
    # Nothing was acted on without runs, so there is no precision of it.
    assert picture.count("<circle") == 4 * 3 - 1
    assert picture.count("<path") == 5
    said = report.terminal({"learning": curve()})
    assert "62.5 %" in said
    assert "56.2, 68.8" in said
    assert said.count("contracts") == 3


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")
@pytest.mark.timeout(300)
def test_all_of_it_goes_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_main, "RESULTS", tmp_path / "results")
    figure = tmp_path / "learning.svg"
    arguments = ["bench", "learning", "--quick", "--json", "--write", str(figure)]
    monkeypatch.setattr("sys.argv", arguments)
    assert bench_main.main() == 0
    told = json.loads(capsys.readouterr().out)["learning"]
    assert [point["after"] for point in told["points"]] == [0, 0, *learning.QUICK.points]
    each = [one for point in told["points"] for one in point["each"]]
    assert len({one["model"] for one in each}) == len(each) == 1 + 3 * len(learning.QUICK.seeds)
    assert [one["decides on"] for one in each] == [0, *[6] * 6]
    (file,) = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text())["learning"] == told
    assert learning.picture(told) == figure.read_text()
