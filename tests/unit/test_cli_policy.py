"""`handrail policy`: check, test, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from handrail.cli.init import create
from handrail.cli.main import app

runner = CliRunner()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HANDRAIL_PROJECT", raising=False)
    create(tmp_path)
    return tmp_path


def policy(project: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["policy", *arguments, "--project", str(project)])


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def change(project: Path, file: str, old: str, new: str) -> None:
    path = project / "policy" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_new_project_has_nothing_to_mend(project: Path) -> None:
    checked = policy(project, "check")
    assert checked.exit_code == 0
    assert "8 rules, 0 people: no contradictions" in checked.stdout
    (last,) = objects(policy(project, "check", "--json"))
    assert (last["ok"], last["built_in"], last["rules"], len(last["version"])) == (True, False, 8, 64)


def test_check_names_mistakes_with_file_and_line(project: Path) -> None:
    change(project, "rules.cedar", 'Action::"decide"', 'Action::"decde"')
    checked = policy(project, "check")
    assert checked.exit_code == 2
    assert "policy/rules.cedar, line " in checked.stderr
    assert "there is no action 'decde'; did you mean 'decide'?" in checked.stderr
    told = json.loads(policy(project, "check", "--json").stderr)
    assert told["error"]["violations"][0]["message"].startswith("policy/rules.cedar, line ")


def test_check_warns_of_what_hardly_is_meant(project: Path) -> None:
    (project / "policy" / "more.cedar").write_text("forbid (principal, action, resource) when { false };")
    (project / "policy" / "people.toml").write_text('[users.ada]\nroles = ["onwer"]\n')
    checked = policy(project, "check")
    assert checked.exit_code == 1
    assert "policy/more.cedar, line 1: the rule 'policy/more.cedar:1' can never apply" in checked.stdout
    assert "nobody has the role 'owner'; did you mean 'onwer'?" in checked.stdout
    assert (
        "people.toml: 'ada' has the role 'onwer', which no rule names; did you mean 'owner'?"
        in checked.stdout
    )
    found = objects(policy(project, "check", "--json"))
    assert {line.get("severity") for line in found} == {"warning", "hint", None}
    assert found[-1]["ok"] is False


def test_a_project_without_a_policy_is_told_so(project: Path) -> None:
    for path in (project / "policy").iterdir():
        path.unlink()
    (project / "policy").rmdir()
    assert "the built-in policy: 8 rules, 0 people" in policy(project, "check").stdout
    assert policy(project, "test").exit_code == 0


def test_the_cases_of_a_new_project_hold(project: Path) -> None:
    tested = policy(project, "test")
    assert tested.exit_code == 0
    assert "21 cases, 0 failed" in tested.stdout
    *cases, last = objects(policy(project, "test", "--json"))
    assert len(cases) == 21
    assert all(case["ok"] for case in cases)
    assert last == {"ok": True, "cases": 21, "failed": 0, "rules_not_met": []}


def test_a_case_that_fails_says_what_came_instead(project: Path) -> None:
    change(project, "rules.cedar", 'resource.effect == "irreversible"', "resource.doubt")
    tested = policy(project, "test")
    assert tested.exit_code == 1
    assert "it must be gate 1, and is allow" in tested.stdout
    assert "2 failed" in tested.stdout
    assert "no case meets: irreversible" in tested.stdout
    cases = objects(policy(project, "test", "--json"))
    assert cases[-1]["rules_not_met"] == ["irreversible"]
    failed = [case["problem"] for case in cases[:-1] if not case["ok"]]
    assert failed[0] == "it must be gate 1, and is allow"


CASE = '\n[[case]]\nname = "x"\nuser = "sam"\nexpect = "{expect}"\n{more}\n'
LEND = 'tool = "lend_item"\narguments = { item = "drill", borrower = "Ada" }'


@pytest.mark.parametrize(
    ("expect", "more", "says"),
    [
        ("allow", LEND, None),
        ("gate", LEND + '\nuntrusted = ["item"]', None),
        ("gate 1", LEND + '\nuntrusted = ["item"]\nrule = "untrusted_critical"', None),
        ("gate 2", LEND + '\nuntrusted = ["item"]', "it must be gate 2, and is gate 1"),
        (
            "gate",
            LEND + '\nuntrusted = ["item"]\nrule = "irreversible"',
            "the rule 'irreversible' is not among",
        ),
        ("allow", LEND + "\nnow = 2026-03-02T10:00:00Z\nspent = { EUR = 5 }\nactions = 3", None),
    ],
)
def test_what_a_case_can_say(project: Path, expect: str, more: str, says: str | None) -> None:
    with (project / "policy" / "cases.toml").open("a") as file:
        file.write(CASE.format(expect=expect, more=more))
    tested = policy(project, "test")
    assert tested.exit_code == (0 if says is None else 1), tested.stdout + tested.stderr
    assert says is None or says in tested.stdout


@pytest.mark.parametrize(
    ("expect", "more", "says"),
    [
        ("maybe", LEND, "case[21].expect: "),
        ("gate 9", LEND, "case[21].expect: "),
        ("allow", LEND + "\napprovls = 1", "'approvls' is not a key of case[21]; did you mean 'approvals'?"),
        ("allow", 'tool = "lend_itm"', "case 22 (x): there is no tool 'lend_itm'; did you mean 'lend_item'?"),
        ("allow", 'tool = "lend_item"', "arguments.item"),
        ("allow", LEND.replace('"drill"', "3"), "expected text"),
        ("allow", LEND + '\nrule = "irreversibel"', "there is no rule 'irreversibel'; did you mean"),
        ("allow", LEND + "\nnow = 2026-03-02T10:00:00", "now needs an offset"),
        ("allow", 'tool = { effect = "write" }\narguments = { a = 1 }', "is only described has no arguments"),
        ("allow", "tool = [", "is not TOML"),
    ],
)
def test_cases_that_ask_about_nothing_are_named(project: Path, expect: str, more: str, says: str) -> None:
    with (project / "policy" / "cases.toml").open("a") as file:
        file.write(CASE.format(expect=expect, more=more))
    tested = policy(project, "test")
    assert tested.exit_code == 2
    assert says in tested.stderr


def test_cases_that_are_not_there(project: Path) -> None:
    (project / "policy" / "cases.toml").unlink()
    tested = policy(project, "test")
    assert tested.exit_code == 2
    assert "policy/cases.toml: there is none" in tested.stderr


def test_the_schema_is_one_that_cedar_reads(project: Path) -> None:
    from cedarpy import Schema

    printed = policy(project, "schema")
    assert printed.exit_code == 0
    assert "arguments: {\n      borrower: String,\n      item: String\n    }" in printed.stdout
    Schema.from_str(printed.stdout)
    (found,) = objects(policy(project, "schema", "--json"))
    assert "lend_item" in found[""]["actions"]


def test_the_schema_says_what_rules_cannot_see(project: Path) -> None:
    tools = project / "tools.py"
    tools.write_text(
        tools.read_text()
        + '\n\n@tool(effect="read")\ndef rate(item: str, score: float) -> str:\n    return item\n'
    )
    printed = policy(project, "schema").stdout
    assert printed.startswith(
        "// rate: rules cannot see the argument 'score': it is a number with a fraction\n"
    )


def test_an_effect_that_nothing_undoes_and_nobody_is_asked_about_is_named(project: Path) -> None:
    tools = project / "tools.py"
    text = tools.read_text()
    assert text.count("    undo=call(") == 2
    tools.write_text("\n".join(line for line in text.splitlines() if "    undo=call(" not in line))
    assert "nothing undoes it" not in policy(project, "check").stdout
    change(
        project, "rules.cedar", "context.undoing ||", 'resource == Tool::"return_item" || context.undoing ||'
    )
    assert "nothing undoes it" not in policy(project, "check").stdout
    change(project, "rules.cedar", 'resource.effect == "write" && !resource.undoable', "resource.doubt")
    checked = policy(project, "check")
    assert checked.exit_code == 0, checked.output
    assert "lend_item: nothing undoes it, and no rule asks before owner does it" in checked.stdout
    assert "return_item: nothing undoes it" not in checked.stdout
