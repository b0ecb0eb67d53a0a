"""What options are given in: deadlines, contexts, plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.options import (
    MAX_FILE_BYTES,
    read_budget,
    read_ceiling,
    read_context,
    read_deadline,
    read_plan,
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("1.5m", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
    ],
)
def test_a_deadline_is_a_span(text: str, span: timedelta) -> None:
    assert read_deadline(text) == span


def test_a_deadline_is_a_time_with_a_zone() -> None:
    assert read_deadline("2030-01-31T15:00:00Z") == datetime(2030, 1, 31, 15, tzinfo=UTC)
    local = read_deadline("2030-01-31T15:00")
    assert isinstance(local, datetime)
    assert local.tzinfo is not None
    assert read_deadline(None) is None


@pytest.mark.parametrize("text", ["", "soon", "30", "-5s", "2030-13-01", "30 parsecs", "1e9s"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(CommandError, match="is no time") as caught:
        read_deadline(text)
    assert caught.value.code is ExitCode.USAGE
    assert "30s" in caught.value.next


def test_a_ceiling_is_a_level() -> None:
    assert (read_ceiling("draft"), read_ceiling(" admin "), read_ceiling(None)) == ("draft", "admin", None)


@pytest.mark.parametrize("text", ["", "root", "Draft", "excute"])
def test_another_level_there_is_none(text: str) -> None:
    with pytest.raises(CommandError, match="is no level") as caught:
        read_ceiling(text)
    assert "read, draft, recommend, execute, approve, delete, admin" in caught.value.next
    assert ("did you mean 'execute'?" in caught.value.what) == (text == "excute")


def test_a_budget_is_in_the_money_that_people_write() -> None:
    given = ["EUR=500.00", "USD=12.5", "JPY=300", "KWD=1.234", "GBP=0", "max_actions=5", " max_heals = 2 "]
    assert read_budget(given) == {
        "max_spend": {"EUR": 50_000, "USD": 1_250, "JPY": 300, "KWD": 1_234, "GBP": 0},
        "max_actions": 5,
        "max_heals": 2,
    }
    assert read_budget(["max_steps=1"]) == {"max_steps": 1}
    assert read_budget([]) is None
    assert read_budget(None) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["EUR"], "names nothing and how much of it"),
        (["=5"], "names nothing and how much of it"),
        (["EUR="], "names nothing and how much of it"),
        (["EUR=1", "EUR=2"], "is the second one about EUR"),
        (["max_heals=1", "max_heals=2"], "is the second one about max_heals"),
        (["eur=5"], "names neither a currency nor a bound"),
        (["max_action=5"], "names neither a currency nor a bound"),
        (["XYZ=5"], "not a currency known here"),
        (["EUR=5.001"], "EUR has 2 digits after the point"),
        (["JPY=5.0"], "JPY has 0 digits"),
        (["EUR=-5"], "cannot be read"),
        (["EUR=much"], "cannot be read"),
        (["max_steps=0"], "is no number above 0"),
        (["max_steps=-1"], "is no number above 0"),
        (["max_steps=1e3"], "is no number above 0"),
    ],
)
def test_a_budget_that_is_none(given: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why) as caught:
        read_budget(given)
    assert caught.value.code is ExitCode.USAGE
    assert "EUR=500.00" in caught.value.next
    assert "max_actions, max_steps, max_heals" in caught.value.next


def test_a_context_is_an_object(tmp_path: Path) -> None:
    assert read_context('{"priority": "high"}') == {"priority": "high"}
    file = tmp_path / "context.json"
    file.write_text('{"a": [1]}')
    assert read_context(f"@{file}") == {"a": [1]}
    assert read_context(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be an object"),
        ("[" * 100_000, "is not JSON"),
        ("@no-such", "cannot be read"),
    ],
)
def test_no_context(text: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        read_context(text)


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json"])
def test_a_plan_is_read_from_yaml_and_json(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"steps": [{"id": "a", "tool": "get_order", "with": {"day": "2026-01-31"}}]}')
    plan = read_plan(file)
    assert plan is not None
    assert plan["steps"][0]["with"] == {"day": "2026-01-31"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plan.yaml", "steps: [", "is not YAML"),
        ("plan.json", "{", "is not JSON"),
        ("plan.yaml", "- a", "holds no plan"),
        ("plan.yaml", "a: &x [1]\nb: *x", "is not YAML"),
        ("plan.yaml", "x" * (MAX_FILE_BYTES + 1), "larger than 8 MiB"),
    ],
)
def test_no_plan(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(CommandError, match=message):
        read_plan(file)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        read_plan(tmp_path / "none.yaml")
