"""The goals written by hand: each names options that there are, with values that these take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from core import playbook, schemas
from core.slots import Slot
from handrail.project import Project, load

SAMPLE = Path(__file__).parent
LEAST = {
    **{"in_scope": 190, "asks": 45, "out_of_scope": 70, "adversarial": 45},
    **{"harder_in_scope": 150, "harder_asks": 36, "harder_out_of_scope": 44, "harder_adversarial": 40},
    **{"everyday": 220, "beside": 170, "denying": 180, "unwanted": 745, "ordinary": 148},
}
ALIKE = {
    "in_scope": ("in_scope", "harder_in_scope", "everyday", "beside", "ordinary"),
    "asks": ("asks", "harder_asks"),
    "out_of_scope": ("out_of_scope", "harder_out_of_scope"),
    "adversarial": ("adversarial", "harder_adversarial", "denying", "unwanted"),
}
LEAST_STEPS_TWICE = 40
MOST_VERBATIM = 5
# What the tools behind a playbook's slots of the type word read.
WORDS = {"time": re.compile(r"[0-2]\d:[0-5]\d"), "week": re.compile(r"last|\d{4}-W\d{2}")}

Given = Mapping[str, Any]


@cache
def project() -> Project:
    """The sample; loaded when it is first asked for, as that takes over the names of its modules."""
    return load(SAMPLE)


@cache
def goals(name: str) -> tuple[dict[str, Any], ...]:
    lines = (SAMPLE / "goals" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    for name in ALIKE[kind]:
        yield from goals(name)


def slots_of(option: str, names: set[str]) -> Mapping[str, Slot] | None:
    """The slots of the playbook that is meant; a tool of the same name is told by its arguments."""
    found = next((one for one in project().playbooks if one.name == option), None)
    return found.slots if found is not None and names <= set(found.slots) else None


def inputs_of(option: str) -> schemas.Schema:
    assert option in project().tools, f"there is no option {option}"
    return schemas.Schema(project().tools[option].contract.input_schema)


def options() -> set[str]:
    return set(project().tools) | {one.name for one in project().playbooks}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def is_reference(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"$"}


def check_reference(path: str, earlier: list[Given]) -> None:
    """A reference names a field that an earlier tool's output has; a playbook has no output."""
    number, *parts = path.split(".")
    assert 1 <= int(number) <= len(earlier), f"{path} refers to no earlier step"
    assert parts, f"{path} names no field"
    step = earlier[int(number) - 1]
    assert slots_of(step["option"], set(step["with"])) is None, f"{path} refers to a playbook"
    nodes: tuple[schemas.Node, ...] | None
    nodes = schemas.Schema(project().tools[step["option"]].contract.output_schema).nodes
    for part in parts:
        nodes = schemas.descend(nodes, part)
        assert nodes, f"{path}: {step['option']} returns no {part}"


def check_step(goal: str, step: Given, earlier: list[Given]) -> None:
    assert set(step) == {"option", "with"}
    given = step["with"]
    for value in given.values():
        if is_reference(value):
            check_reference(value["$"], earlier)
    plain = {name: value for name, value in given.items() if not is_reference(value)}
    slots = slots_of(step["option"], set(given))
    if slots is not None:
        missing = {name for name, slot in slots.items() if slot.default is None} - set(given)
        free = [value for name, value in plain.items() if slots[name].type in ("text", "email")]
        for name, value in plain.items():
            assert slots[name].accept(value) == value
            assert name not in WORDS or WORDS[name].fullmatch(value), f"{value!r} is no {name}"
    else:
        inputs = inputs_of(step["option"])
        assert set(given) <= set(inputs.properties), f"{step['option']} takes no such argument"
        missing = set(inputs.required) - set(given)
        free = [text for name, value in plain.items() if is_free(inputs, name) for text in texts(value)]
        for name, value in plain.items():
            assert inputs.problems_of(name, value) == []
    assert not missing, f"{step['option']} wants {missing}"
    for text in free:
        assert text.strip() == text, f"{text!r} begins or ends with space"
        assert text in goal, f"{text!r} is not in the goal"


def is_free(inputs: schemas.Schema, name: str) -> bool:
    """Whether an argument is text in the goal's own words: no choice, and no date or time."""
    part = inputs.properties[name]
    return not {"enum", "pattern"} & set(part) and "anyOf" not in part


def check_wants(goal: str, wants: list[Given]) -> None:
    for number, step in enumerate(wants):
        check_step(goal, step, wants[:number])


@pytest.mark.parametrize("name", LEAST)
def test_there_are_enough(name: str) -> None:
    assert len(goals(name)) >= LEAST[name]


def test_no_goal_is_there_twice() -> None:
    said = [" ".join(one["goal"].casefold().split()) for name in LEAST for one in goals(name)]
    assert len(set(said)) == len(said)
    assert all(said)


@pytest.mark.parametrize("name", ["in_scope", "out_of_scope", "adversarial"])
def test_what_is_wanted_can_be_done(name: str) -> None:
    also = {"in_scope": {"or"}, "out_of_scope": set(), "adversarial": {"or", "never"}}[name]
    for one in of_kind(name):
        assert {"goal", "wants"} <= set(one) <= {"goal", "wants"} | also, one["goal"]
        assert name == "adversarial" or bool(one["wants"]) == (name == "in_scope"), one["goal"]
        for wants in (one["wants"], *one.get("or", ())):
            try:
                check_wants(one["goal"], wants)
            except Exception as error:
                raise AssertionError(f"{one['goal']}: {error}") from error


def test_what_is_asked_for_is_required() -> None:
    for one in of_kind("asks"):
        assert set(one) == {"goal", "asks"}, one["goal"]
        assert one["asks"], one["goal"]
        for option, name in one["asks"]:
            slots = slots_of(option, {name})
            if slots is not None:
                assert slots[name].default is None, (one["goal"], option, name)
            else:
                assert name in inputs_of(option).required, (one["goal"], option, name)


def test_what_is_never_done_is_an_option_that_is_not_wanted() -> None:
    for name in ALIKE["adversarial"]:
        for one in goals(name):
            wanted = {step["option"] for wants in (one["wants"], *one.get("or", ())) for step in wants}
            assert one.get("never") or (name == "denying" and wanted), one["goal"]
            assert set(one.get("never", ())) <= options() - wanted, one["goal"]


def test_every_playbook_is_wanted_and_several_steps_are() -> None:
    wants = [one["wants"] for one in of_kind("in_scope")]
    wanted = {step["option"] for steps in wants for step in steps}
    assert {one.name for one in project().playbooks} <= wanted
    assert sum(len(steps) > 1 for steps in wants) >= LEAST_STEPS_TWICE


def test_hardly_a_goal_is_in_the_words_of_a_playbook() -> None:
    """What the phrases read already measures nothing."""
    verbatim = [
        one["goal"]
        for name in ("in_scope", "asks", "out_of_scope")
        for one in of_kind(name)
        if isinstance(playbook.match(one["goal"], project().playbooks, {}), playbook.Match)
    ]
    assert len(verbatim) <= MOST_VERBATIM, verbatim
