"""Cases that a policy is held to: `policy/cases.toml`, and what becomes of each.

A case names a user and a tool (one of the project, or a table that describes one) and says what the rules
must come to. With `approver` it asks whether that one may decide at the gate of the user's action.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core import conformance, spelling
from core.cedar import CedarPolicy
from core.cedar_rules import Rule
from core.policy import MAX_QUORUM, Request, Ruling
from handrail.policy import CASES_FILE, FOLDER, PersonEntry, people_of
from handrail.settings import BadToml, explain, read_text, read_toml
from handrail.tool import EffectName, IdempotencyName, PermissionName
from handrail.v1 import tool_pb2

MAX_CASES = 10_000
MAX_CASES_BYTES = 4 * 1024 * 1024
_LEAST: dict[EffectName, PermissionName] = {"read": "read", "draft": "draft"}
_WHERE = f"{FOLDER}/{CASES_FILE}"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DescribedTool(_Entry):
    """A tool that the project need not have."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = "some_tool"
    effect: EffectName
    permission: PermissionName | None = None
    idempotency: IdempotencyName = "natural"
    critical: list[str] = []
    capability: str = ""
    undo: str = ""
    doubt: bool = False

    def contract(self) -> tool_pb2.ToolContract:
        """Return the contract of such a tool."""
        permission = self.permission or _LEAST.get(self.effect, "execute")
        return tool_pb2.ToolContract(
            name=self.name,
            effect=tool_pb2.Effect.Value(f"EFFECT_{self.effect.upper()}"),
            permission=tool_pb2.Permission.Value(f"PERMISSION_{permission.upper()}"),
            idempotency=tool_pb2.Idempotency.Value(f"IDEMPOTENCY_{self.idempotency.upper()}"),
            critical=self.critical,
            capability=self.capability,
            undo=self.undo,
            doubt=self.doubt,
        )


class Case(_Entry):
    """[[case]]"""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    user: Annotated[str, Field(max_length=100)] = ""
    tenant: Annotated[str, Field(max_length=100)] = "default"
    tool: str | DescribedTool
    arguments: dict[str, Any] = {}
    untrusted: list[str] = []
    leaks: list[str] = []
    approvals: Annotated[int, Field(ge=0, le=MAX_QUORUM)] = 0
    actions: Annotated[int, Field(ge=0)] = 0
    spent: dict[str, int] = {}
    now: datetime | None = None
    plan: list[str] = []
    undoing: bool = False
    approver: str | None = None
    expect: Annotated[str, Field(pattern=rf"^(allow|refuse|gate( [1-{MAX_QUORUM}])?)$")]
    rule: str = ""


class CasesFile(_Entry):
    """The whole of `cases.toml`; its users, if there are any, stand for those of `people.toml`."""

    users: dict[str, PersonEntry] = {}
    case: Annotated[list[Case], Field(max_length=MAX_CASES)] = []


@dataclass(frozen=True)
class Outcome:
    """What became of a case; `problem` says what is wrong, if anything is."""

    case: Case
    ruling: Ruling
    problem: str
    # The ids of the rules that hold in it, whatever they come to together.
    meets: frozenset[str]


def read_cases(path: Path, problems: list[str]) -> CasesFile:
    """Read the cases; what is wrong with the file is added to `problems`."""
    try:
        return CasesFile.model_validate(read_toml(read_text(path, MAX_CASES_BYTES)))
    except FileNotFoundError:
        problems.append(f"{_WHERE}: there is none; write [[case]] tables, or copy those of `handrail init`")
    except ValidationError as error:
        problems += [f"{_WHERE}: {problem}" for problem in explain(error, CasesFile)]
    except BadToml as error:
        problems.append(f"{_WHERE} is not TOML: {error}")
    except (OSError, ValueError) as error:
        problems.append(f"{_WHERE} cannot be read: {error}")
    return CasesFile()


def for_cases(policy: CedarPolicy, cases: CasesFile) -> CedarPolicy:
    """Return the policy with the people of the cases."""
    if not cases.users:
        return policy
    return policy.with_people(people_of(cases.users))


def check_cases(policy: CedarPolicy, cases: CasesFile) -> list[str]:
    """Return the cases that ask about nothing: unknown tools and rules, arguments that do not fit."""
    ids = {rule.id for rule in policy.rules}
    problems: list[str] = []
    for number, case in enumerate(cases.case, 1):
        where = f"{_WHERE}: case {number} ({case.name})"
        if case.rule and case.rule not in ids:
            problems.append(f"{where}: there is no rule '{case.rule}'{spelling.hint(case.rule, ids)}")
        problems += [f"{where}: {wrong}" for wrong in _wrong_arguments(policy, case)]
    return problems


def run_cases(policy: CedarPolicy, cases: Sequence[Case]) -> Iterator[Outcome]:
    """Ask each case of a policy that has the people of the cases."""
    for case in cases:
        request = _request(policy, case)
        if case.approver is None:
            ruling = policy.rule_from(request, case.approvals)
        else:
            ruling = policy.may_decide(case.approver, request)
        meets = policy.matching(request, case.approver, case.approvals)
        yield Outcome(case, ruling, _problem(case, ruling), meets)


def not_met(policy: CedarPolicy, outcomes: Sequence[Outcome]) -> list[Rule]:
    """Return the rules that hold in no case."""
    met = frozenset[str]().union(*(outcome.meets for outcome in outcomes))
    return [rule for rule in policy.rules if rule.id not in met]


def told(ruling: Ruling) -> str:
    """Return a ruling as cases write it."""
    return f"gate {ruling.quorum}" if ruling.outcome == "gate" else ruling.outcome


def _problem(case: Case, ruling: Ruling) -> str:
    got = told(ruling)
    if got != case.expect and not (case.expect == "gate" and ruling.outcome == "gate"):
        return f"it must be {case.expect}, and is {got}"
    if case.rule and case.rule not in {reason.rule for reason in ruling.reasons}:
        return f"the rule '{case.rule}' is not among the reasons"
    return ""


def _request(policy: CedarPolicy, case: Case) -> Request:
    contract = policy.contracts[case.tool] if isinstance(case.tool, str) else case.tool.contract()
    return Request(
        user=case.user,
        tenant=case.tenant,
        contract=contract,
        arguments=case.arguments,
        untrusted=frozenset(case.untrusted),
        leaks=frozenset(case.leaks),
        actions=case.actions,
        spent=case.spent,
        now_ns=int(case.now.timestamp() * 1e6) * 1_000 if case.now is not None else 0,
        # The action is one of its plan, but for one that takes something back.
        plan=frozenset(case.plan or [contract.name]),
        undoing=case.undoing,
    )


def _wrong_arguments(policy: CedarPolicy, case: Case) -> Iterator[str]:
    if case.now is not None and case.now.tzinfo is None:
        yield "now needs an offset, as in 2026-03-02T10:00:00Z"
    for name in case.plan:
        if name not in policy.contracts:
            yield f"there is no tool '{name}'{spelling.hint(name, policy.contracts)}"
    if not isinstance(case.tool, str):
        if case.arguments:
            yield "a tool that is only described has no arguments; name one of the project"
        return
    contract = policy.contracts.get(case.tool)
    if contract is None:
        yield f"there is no tool '{case.tool}'{spelling.hint(case.tool, policy.contracts)}"
        return
    for violation in conformance.check_arguments(contract, case.arguments):
        yield f"{violation.field}: {violation.message}"
