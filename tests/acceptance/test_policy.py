"""`handrail policy` on the sample, as a user types it; and a stack that does not start with bad rules."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.acceptance.conftest import copy_sample, handrail


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_sample(tmp_path / "backoffice", gates=True)


def test_the_policy_of_the_sample(project: Path) -> None:
    checked = handrail("policy", "check", "--project", str(project))
    assert checked.returncode == 0, checked.stderr
    assert "13 rules, 5 people: no contradictions" in checked.stdout
    tested = handrail("policy", "test", "--project", str(project))
    assert tested.returncode == 0, tested.stdout
    assert "36 cases, 0 failed" in tested.stdout
    assert "no case meets" not in tested.stdout
    schema = handrail("policy", "schema", "--project", str(project))
    assert 'action "refund_order" in [Action::"execute"' in schema.stdout


def test_a_rule_that_a_case_misses(project: Path) -> None:
    rules = project / "policy" / "rules.cedar"
    rules.write_text(rules.read_text().replace("minor > 50000", "minor > 5000000"))
    tested = handrail("policy", "test", "--project", str(project), "--json")
    assert tested.returncode == 1
    found = [json.loads(line) for line in tested.stdout.splitlines()]
    assert [line["case"] for line in found if not line.get("ok") and "case" in line] == [
        "one of 500.01 waits",
        "for finance too",
    ]
    assert found[-1]["failed"] == 2


def test_no_stack_starts_with_rules_that_cannot_be_used(project: Path) -> None:
    (project / "policy" / "more.cedar").write_text(
        'forbid (principal, action == Action::"refund_ordr", resource);\n\n'
        "forbid (principal, action, resource)\nwhen { context.arguments has amuont };\n"
    )
    commands = ("run 'refund order 1001'", "up --host inline", "tools check", "policy check")
    # One after another: two that want to start a stack want the same data directory.
    for done in (handrail(*shlex.split(command), "--project", str(project)) for command in commands):
        assert done.returncode == 2, done.stdout + done.stderr
        where = "policy/more.cedar, line"
        assert f"{where} 1: there is no action 'refund_ordr'; did you mean 'refund_order'?" in done.stderr
        assert f"{where} 3: no tool has an argument 'amuont'; did you mean 'amount'?" in done.stderr
        assert "Traceback" not in done.stderr
