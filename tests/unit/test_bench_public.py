"""The public set: its services become options, its calls rows, and what it was measured by is told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.training_rows import lesson_of
from bench import __main__ as bench_main
from bench import public, report
from bench.dialogues import NotDialogues, Part
from handrail.v1 import tool_pb2

SCHEMA = [
    {
        "service_name": "Boats_1",
        "description": "Rowing boats on a lake",
        "slots": [
            {"name": "lake", "description": "Which lake", "is_categorical": False, "possible_values": []},
            {"name": "hire_date", "description": "The day", "is_categorical": False, "possible_values": []},
            {
                "name": "hire_time",
                "description": "From when",
                "is_categorical": False,
                "possible_values": [],
            },
            {
                "name": "seats",
                "description": "For how many",
                "is_categorical": True,
                "possible_values": ["1", "2", "4"],
            },
        ],
        "intents": [
            {
                "name": "HireBoat",
                "description": "Hire a boat",
                "is_transactional": True,
                "required_slots": ["lake", "hire_date"],
                "optional_slots": {"hire_time": "dontcare", "seats": "dontcare"},
                "result_slots": ["lake"],
            },
            {
                "name": "FindBoats",
                "description": "See which boats are free",
                "is_transactional": False,
                "required_slots": ["lake"],
                "optional_slots": {},
                "result_slots": ["seats"],
            },
        ],
    }
]


def said(speaker: str, utterance: str, *slots: tuple[str, str, str], call: Any = None) -> dict[str, Any]:
    """A turn in which values are said: slot, words, and what they mean."""
    frame: dict[str, Any] = {"service": "Boats_1", "slots": [], "actions": []}
    for slot, words, meant in slots:
        start = utterance.index(words)
        frame["slots"].append({"slot": slot, "start": start, "exclusive_end": start + len(words)})
        frame["actions"].append(
            {"act": "INFORM", "slot": slot, "values": [words], "canonical_values": [meant]}
        )
    if call is not None:
        frame["service_call"] = {"method": call[0], "parameters": call[1]}
    return {"speaker": speaker, "utterance": utterance, "frames": [frame]}


def dialogue(number: int, *, before: str = "") -> dict[str, Any]:
    lake = ("lake", "Windermere", "Windermere")
    wants = {"lake": "Windermere", "hire_date": "2019-03-02", "hire_time": "18:30", "seats": "2"}
    again = {"lake": "Coniston", "hire_date": "2019-03-02", "hire_time": "dontcare", "seats": "2"}
    return {
        "dialogue_id": f"1_{number:05}",
        "services": ["Boats_1"],
        "turns": [
            *([said("USER", before)] if before else []),
            said("USER", "I want to row on Windermere tomorrow, two of us.", lake,
                 ("hire_date", "tomorrow", "2019-03-02")),
            said("SYSTEM", "From when?"),
            said("USER", "From half past six in the evening, 6:30 pm.", ("hire_time", "6:30 pm", "18:30")),
            said("SYSTEM", "It is hired.", call=("HireBoat", wants)),
            said("USER", "And on another lake?"),
            said("SYSTEM", "That is hired too.", call=("HireBoat", again)),
        ],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("train", "dev", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schema.json").write_text(json.dumps(SCHEMA))
        told = [dialogue(1), dialogue(2, before="oh dear " * 200)]
        (tmp_path / name / "dialogues_001.json").write_text(json.dumps(told))
    return tmp_path


def test_an_intent_is_an_option(place: Path) -> None:
    hire, find = Part(place / "train").options
    assert (hire.name, find.name) == ("boats_1__hire_boat", "boats_1__find_boats")
    assert (hire.effect, find.effect) == (tool_pb2.EFFECT_WRITE, tool_pb2.EFFECT_READ)
    kinds = {one.name: (one.kind, one.required) for one in hire.parameters}
    assert kinds == {
        "lake": ("text", True),
        "hire_date": ("date", True),
        "hire_time": ("time", False),
        "seats": ("choice", False),
    }
    assert "lake" in hire.text


def test_a_call_is_what_was_said_before_it_and_where(place: Path) -> None:
    part = Part(place / "train")
    first, second, late, _ = part.rows()
    call = first.decision.call
    assert call.option == "boats_1__hire_boat"
    assert set(first.offered) == {one.name for one in part.options}
    assert first.goal.splitlines()[-1] == "user: From half past six in the evening, 6:30 pm."
    spans = {
        name: (one.span.start, one.span.end) for name, one in call.arguments.items() if one.HasField("span")
    }
    assert {name: first.goal[a:b] for name, (a, b) in spans.items()} == {
        "lake": "Windermere",
        "hire_date": "tomorrow",
        "hire_time": "6:30 pm",
    }
    assert call.arguments["hire_date"].value.json == '"2019-03-02"'
    assert call.arguments["seats"].HasField("enumerated")
    lesson_of(first, ClosedSet(part.options))
    # Nobody has said it, so it can be judged and not learnt; what may be anything is left out.
    assert second.decision.call.arguments["lake"].WhichOneof("source") is None
    assert second.decision.call.arguments["lake"].value.json == '"Coniston"'
    assert "hire_time" not in second.decision.call.arguments
    # What is too long ago is not read, and the places are still right.
    assert "oh dear" not in late.goal
    assert late.goal == first.goal
    assert late.decision == first.decision


def test_what_is_no_such_set_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    with pytest.raises(NotDialogues, match=r"schema.json cannot be read"):
        list(Part(tmp_path).rows())
    (tmp_path / "schema.json").write_text("[]")
    with pytest.raises(NotDialogues, match=r"has no dialogues_001.json"):
        list(Part(tmp_path).rows())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["bench", "public", "--path", str(tmp_path)])
    assert bench_main.main() == 2
    assert "needs torch" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an extra")
def test_it_is_learnt_and_measured(place: Path) -> None:
    told: list[str] = []
    measured = public.measure(place, public.Effort(minutes=1, passes=20, calls=3), told.append)
    assert measured["learnt_from"] == 2
    groups = measured["groups"]
    assert groups["all"]["calls"] == groups["services that it learnt"]["calls"] == 3
    assert groups["other services"]["calls"] == 0
    assert groups["all"]["right_option"] > 0
    shown = report.sections({"public": measured})["public"]
    assert "services that it learnt" in shown
