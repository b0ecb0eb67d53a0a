"""The cases of the policies that we give away catch every mutant of their rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.cedar import BadPolicy, CedarPolicy
from handrail.policy import BUILT_IN, CASES_FILE, people_of
from handrail.policy_cases import CasesFile, not_met, read_cases, run_cases
from handrail.project import Project, load
from tests.unit.policies import TOOLS, mutants

SAMPLE = Path(__file__).parents[2] / "examples" / "backoffice"


def built_in() -> tuple[CedarPolicy, CasesFile]:
    cases = cases_in(BUILT_IN)
    text = (BUILT_IN / "rules.cedar").read_text()
    return CedarPolicy({"rules.cedar": text}, people_of(cases.users), TOOLS.values()), cases


def sample() -> tuple[CedarPolicy, CasesFile]:
    project: Project = load(SAMPLE)
    return project.policy, cases_in(SAMPLE / "policy")


def cases_in(folder: Path) -> CasesFile:
    problems: list[str] = []
    found = read_cases(folder / CASES_FILE, problems)
    assert problems == []
    return found


@pytest.mark.parametrize("given", [built_in, sample])
def test_the_cases_hold_and_meet_every_rule(given: object) -> None:
    policy, cases = given()  # type: ignore[operator]
    outcomes = list(run_cases(policy, cases.case))
    assert [outcome.case.name for outcome in outcomes if outcome.problem] == []
    assert not_met(policy, outcomes) == []


@pytest.mark.parametrize("given", [built_in, sample])
def test_the_cases_catch_every_mutant(given: object) -> None:
    policy, cases = given()  # type: ignore[operator]
    survivors, judged = [], 0
    for name, text in mutants(policy.rules):
        try:
            mutant = CedarPolicy({"mutant.cedar": text}, policy.people, policy.contracts.values())
        except BadPolicy:
            continue  # nobody could use it
        judged += 1
        if not any(outcome.problem for outcome in run_cases(mutant, cases.case)):
            survivors.append(name)
    assert survivors == []
    assert judged >= 3 * len(policy.rules)
