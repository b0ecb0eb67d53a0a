"""Rows of turns, as ActionStudio trains on them: what each holds, and that they come back as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.models.lam.turns import turns, whole

CALLS = [
    {"id": "s1", "type": "function", "function": {"name": "get_order", "arguments": {"order": 1001}}},
    {
        "id": "s2",
        "type": "function",
        "function": {"name": "get_customer", "arguments": {"id": "$s1.customer"}},
    },
]
RECORD = {
    "unique_trajectory_id": "r0---one",
    "task_instruction": "Do it.",
    "tools": [{"type": "function", "function": {"name": "get_order"}}],
    "conversation": [
        {"role": "user", "content": "who is behind 1001?"},
        {"role": "assistant", "content": "", "tool_calls": CALLS[:1]},
        {"role": "tool", "tool_call_id": "s1", "content": "[]"},
        {"role": "assistant", "content": "", "tool_calls": CALLS[1:]},
        {"role": "tool", "tool_call_id": "s2", "content": "[]"},
        {"role": "assistant", "content": "Done."},
    ],
    "trains": True,
    "why_not": "",
}


def test_there_is_a_row_for_each_thing_that_is_said() -> None:
    first, second, last = turns([RECORD])
    assert [one["id"] for one in (first, second, last)] == ["r0---one---2", "r0---one---4", "r0---one---6"]
    assert [one["role"] for one in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["content"].startswith("Do it.\n")
    assert [one["role"] for one in last["messages"]] == ["system", "user", *["assistant", "tool"] * 2]
    assert json.loads(second["chosen"]) == [{"name": "get_customer", "arguments": {"id": "$s1.customer"}}]
    assert (last["chosen"], last["output_message"]) == ("Done.", {"role": "assistant", "content": "Done."})
    assert first["tools"] == RECORD["tools"]
    assert "granted" not in first


def test_what_must_not_train_gives_no_rows() -> None:
    assert list(turns([RECORD | {"trains": False, "why_not": "it was undone"}])) == []


@pytest.mark.parametrize("backwards", [False, True])
def test_they_come_back_as_the_record_that_they_were(backwards: bool) -> None:
    granted = RECORD | {"unique_trajectory_id": "r0-two", "granted": ["get_order"]}
    rows = [*turns([RECORD]), *turns([granted])]
    found = {one["unique_trajectory_id"]: one for one in whole(rows[::-1] if backwards else rows)}
    assert set(found) == {"r0---one", "r0-two"}
    for record in (RECORD, granted):
        made = found[str(record["unique_trajectory_id"])]
        for name in ("tools", "conversation"):
            assert made[name] == record[name]
        assert made.get("granted") == record.get("granted")


@pytest.mark.parametrize("said", [{"trains": False}, {"trains": "yes"}, {"why_not": "it was undone"}])
@pytest.mark.parametrize("at", [0, 2])
def test_what_one_of_them_says_must_not_train_does_not(said: dict[str, Any], at: int) -> None:
    rows = list(turns([RECORD]))
    rows[at] |= said
    (record,) = whole(rows)
    assert record["trains"] is False


def test_two_that_differ_are_both_there_and_one_that_is_said_twice_is_one() -> None:
    *_, last = turns([RECORD])
    other = last | {"output_message": {"role": "assistant", "content": "None of the tools does this."}}
    assert len(list(whole([last, last]))) == 1
    assert len(list(whole([last, other, last]))) == 2


@pytest.mark.parametrize(
    "other",
    [
        RECORD,
        None,
        [],
        "text",
        {"id": "r0---2"},
        {"id": 2, "messages": [], "tools": [], "output_message": {}},
        {"id": "r0---2", "messages": {}, "tools": [], "output_message": {}},
        {"id": "---2", "messages": [], "tools": [], "output_message": {}},
        {"id": "r0", "messages": [], "tools": [], "output_message": {}},
    ],
)
def test_what_is_no_row_of_a_turn_is_handed_on(other: Any) -> None:
    assert list(whole([other])) == [other]


@pytest.mark.parametrize(
    "messages", [[], [None], ["text"], [{"role": "user", "content": "who?"}], [{"role": "system"}]]
)
def test_a_row_without_a_system_message_is_whole_too(messages: list[Any]) -> None:
    row = {"id": "a---1", "messages": messages, "tools": [], "output_message": {"role": "assistant"}}
    (made,) = whole([row])
    said = [one for one in messages if one != {"role": "system"}]
    assert (made["task_instruction"], made["conversation"]) == ("", [*said, row["output_message"]])
