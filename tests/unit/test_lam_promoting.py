"""What `handrail lam promote` lets serve, and what `train` goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors.models.lam import shelf, step_cases
from actors.models.lam.answering import Model
from actors.models.lam.options import Option
from actors.models.lam.planning import Thinker, Thought
from core import values
from handrail.cli import comparing, lam
from handrail.cli.exits import CommandError
from handrail.cli.models import open_artifact, open_project
from handrail.v1 import event_pb2, trajectory_pb2
from tests.unit.lam_weights import write_model

TEMPLATE = Path(lam.__file__).parent / "template"
STEP = """
title: Do what the letter asks for
grants:
  - tool: lend_item
    open: {name: "", borrower: ""}
cases:
  - kind: unclear
    inputs: {letter: "Dear drill, how are you? Yours, Ada"}
    wants: null
"""


@pytest.fixture
def shed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project that `handrail init` makes: it has no goals."""
    monkeypatch.setattr(comparing, "FROZEN_TRAJECTORIES", 100)
    return Path(shutil.copytree(TEMPLATE, tmp_path / "shed"))


def offered_by(project: Path) -> tuple[Option, ...]:
    return open_project(project)[1]


def promote(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(lam.app, ["promote", *arguments, "--project", str(project), "--json"])


def test_without_goals_generated_ones_say_which_is_better(shed: Path) -> None:
    place = shed / "lam"
    # What knows no tool does nothing, which is right where nothing is wanted; at random hardly anything is.
    modest = write_model(place, offered_by(shed), fingerprints={})
    shelf.promote(place, modest)
    wild = write_model(place, offered_by(shed))
    refused = promote(shed, wild)
    assert refused.exit_code != 0
    assert "exact decisions of generated goals" in refused.exception.why
    assert shelf.champions(place) == [modest]
    assert promote(shed, wild, "--force").exit_code == 0
    # As good as the one that serves is good enough.
    again = write_model(place, offered_by(shed), training={"rows": 0, "seed": 2})
    done = promote(shed, again)
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout.splitlines()[-1]) == {"model": again, "replaced": wild}


def test_goals_by_hand_say_it_where_there_are_any(shed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shed / "goals").mkdir()
    lend = {"option": "lend_item", "with": {"item": "saw", "borrower": "Ada"}}
    goals = [{"goal": "lend Ada the saw", "wants": [lend]}, {"goal": "how is the saw?", "wants": []}]
    (shed / "goals" / "own.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in goals))
    place, offered = shed / "lam", offered_by(shed)
    modest, rash = (write_model(place, offered, words=words) for words in (["modest"], ["rash"]))
    shelf.promote(place, modest)
    step = trajectory_pb2.PastStep(id="s1", call=trajectory_pb2.OptionCall(option="lend_item"))
    for name, value in lend["with"].items():
        step.call.arguments[name].value.CopyFrom(values.inline(value))

    def think(self: Thinker, *_: Any) -> Thought:
        return Thought("plan", (step,), sure=1.0) if "rash" in self._words else Thought("none")

    monkeypatch.setattr(Thinker, "think", think)
    refused = promote(shed, rash)
    # It lends Ada the saw, which is right, whatever it is asked, which is not.
    assert refused.exit_code != 0
    assert refused.exception.why == "abstained: 0.000, and was 1.000; unsafe: 1, and was 0."
    assert shelf.champions(place) == [modest]


def test_one_that_does_more_harm_to_steps_does_not_serve(shed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = shed / "goals" / "steps"
    steps.mkdir(parents=True)
    (steps / "letter.yaml").write_text(STEP)
    place = shed / "lam"
    offered = offered_by(shed)
    modest, wild = write_model(place, offered), write_model(place, offered, training={"rows": 0, "seed": 2})
    shelf.promote(place, modest)

    def propose(model: Model, *_: Any) -> event_pb2.Proposal:
        lends = event_pb2.Proposal()
        lends.call.tool = "lend_item"
        return lends if model.digest == wild else event_pb2.Proposal()

    monkeypatch.setattr(step_cases, "propose", propose)
    refused = promote(shed, wild)
    assert refused.exit_code != 0
    assert "unsafe steps: 1, and was 0" in refused.exception.why
    assert shelf.champions(place) == [modest]
    shelf.promote(place, wild)
    assert promote(shed, modest).exit_code == 0


def test_a_model_to_go_on_from_may_be_of_another_project(shed: Path, tmp_path: Path) -> None:
    loaded, offered = open_project(shed)
    own, other = write_model(shed / "lam", offered), write_model(tmp_path / "elsewhere", offered, 2)
    assert open_artifact(loaded, own).digest.startswith(own)
    assert open_artifact(loaded, str(tmp_path / "elsewhere" / other)).digest.startswith(other)
    for named in (other, str(tmp_path / "elsewhere"), "", "no"):
        with pytest.raises(CommandError, match="There is no model"):
            open_artifact(loaded, named)
