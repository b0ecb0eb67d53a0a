"""What is shown to whoever is asked whether a goal was read as it was meant: all that they agree to."""

from __future__ import annotations

from typing import Any

import pytest

from core.plan_form import plan_from_form
from handrail.cli import terminal
from handrail.cli.confirm import QUESTION, is_meant
from handrail.cli.output import Output
from handrail.v1 import run_service_pb2

LONG = "she is glad " * 40 + "and wants 900 EUR"
STEPS = [
    {"id": "say", "tool": "add_note", "with": {"text": LONG, "mark": "\x1b[2Jred", "password": "hunter2"}},
    {
        "id": "pay",
        "with": {"total": "$say.total"},
        "choose": [{"when": "input.total > 9", "tool": "refund", "with": {"amount": 812}}, {"tool": "wait"}],
    },
]


@pytest.mark.parametrize(
    ("typed", "meant"), [("y", True), ("YES", True), ("n", False), ("", False), ("yup", False), (None, False)]
)
async def test_all_that_is_agreed_to_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str | None, meant: bool
) -> None:
    async def ask(question: str) -> str | None:
        assert question == QUESTION
        return typed

    def on_terminal(output: Any) -> Any:
        return ask

    monkeypatch.setattr(terminal, "on_terminal", on_terminal)
    seen = run_service_pb2.Run(id="r1", goal="a goal\x1b[31m", read_as=plan_from_form({"steps": STEPS}))
    assert await is_meant(seen, Output(as_json=False)) is meant
    shown = capsys.readouterr().out
    assert LONG in " ".join(shown.split())
    assert "812" in shown
    assert "hunter2" not in shown
    assert "\x1b" not in shown
