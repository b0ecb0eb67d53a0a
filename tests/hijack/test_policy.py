"""The cases of the hijack test's policy catch every mutant of its rules."""

from __future__ import annotations

from core.cedar import BadPolicy, CedarPolicy
from handrail.policy import CASES_FILE
from handrail.policy_cases import for_cases, not_met, read_cases, run_cases
from handrail.project import load
from tests.hijack.__main__ import PROJECT
from tests.unit.policies import mutants


def test_the_cases_hold_and_catch_every_mutant() -> None:
    problems: list[str] = []
    cases = read_cases(PROJECT / "policy" / CASES_FILE, problems)
    policy = for_cases(load(PROJECT).policy, cases)
    outcomes = list(run_cases(policy, cases.case))
    assert [f"{one.case.name}: {one.problem}" for one in outcomes if one.problem] == problems == []
    assert not_met(policy, outcomes) == []
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
