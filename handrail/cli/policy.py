"""The commands about the policy: check, test, schema, explain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import ExitCode

if TYPE_CHECKING:
    from rich.text import Text

    from core.cedar_fit import Finding
    from handrail.cli.text import Glyphs
    from handrail.policy_cases import Outcome

MAX_NAME_CELLS = 70

app = typer.Typer(
    help="Check and test the rules of a project's policy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("check")
def check_rules(project: options.Project = None, json: options.Json = False) -> None:
    """Check the rules: whether they can be read, fit the tools, and can ever apply."""
    from core import cedar_fit
    from core.cedar import OWNER
    from handrail.cli.output import Output
    from handrail.cli.text import plural
    from handrail.project import load

    output = Output(as_json=json)
    loaded = load(project or Path())
    policy, files = loaded.policy, loaded.policy_files
    roles = {name: person.roles for name, person in policy.people.items()}
    contracts, people = list(policy.contracts.values()), [*policy.people] or [OWNER]
    found = [
        *cedar_fit.find_dead(policy.rules, contracts),
        *cedar_fit.find_unheard(policy.rules, roles),
        *cedar_fit.find_unguarded(policy, policy.rules, contracts, people),
    ]
    warnings = [finding for finding in found if finding.severity == "warning"]
    for finding in found:
        output.json({"severity": finding.severity, "where": finding.where, "text": finding.text})
        output.line(_finding_line(finding, output.glyphs))
    output.json(
        {
            "ok": not warnings,
            "built_in": files.built_in,
            "rules": len(policy.rules),
            "people": len(policy.people),
            "version": policy.version,
        }
    )
    counted = f"{plural(len(policy.rules), 'rule')}, {plural(len(policy.people), 'person', 'people')}"
    source = "the built-in policy" if files.built_in else str(files.folder)
    if not warnings:
        output.line(f"{output.glyphs.done} {source}: {counted}: no contradictions")
    else:
        output.line(f"{output.glyphs.failed} {source}: {counted}, {plural(len(warnings), 'warning')}")
        raise typer.Exit(ExitCode.FAILED)


@app.command("test")
def hold_to_cases(project: options.Project = None, json: options.Json = False) -> None:
    """Hold the rules to the cases in policy/cases.toml."""
    from handrail.cli.output import Output
    from handrail.cli.text import plural
    from handrail.policy import CASES_FILE
    from handrail.policy_cases import check_cases, for_cases, not_met, read_cases, run_cases
    from handrail.project import load
    from handrail.settings import ProjectError

    output = Output(as_json=json)
    loaded = load(project or Path())
    problems: list[str] = []
    cases = read_cases(loaded.policy_files.folder / CASES_FILE, problems)
    problems += check_cases(loaded.policy, cases)
    if problems:
        raise ProjectError(loaded.directory, problems)
    policy = for_cases(loaded.policy, cases)
    outcomes = list(run_cases(policy, cases.case))
    failed = [outcome for outcome in outcomes if outcome.problem]
    width = min(MAX_NAME_CELLS, max((len(outcome.case.name) for outcome in outcomes), default=0))
    for outcome in outcomes:
        output.json(_outcome_object(outcome))
        output.lines(_outcome_lines(outcome, width, output.glyphs))
    missed = [rule.id for rule in not_met(policy, outcomes)]
    output.json({"ok": not failed, "cases": len(outcomes), "failed": len(failed), "rules_not_met": missed})
    output.line()
    if missed:
        output.line(f"{output.glyphs.warning} no case meets: {', '.join(missed)}")
    sign = output.glyphs.failed if failed else output.glyphs.done
    output.line(f"{sign} {plural(len(outcomes), 'case')}, {len(failed)} failed")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


@app.command("schema")
def print_schema(project: options.Project = None, json: options.Json = False) -> None:
    """Print what rules can ask: the Cedar schema of the project's tools."""
    from core import cedar_fit, cedar_schema
    from handrail.cli.output import Output
    from handrail.project import load

    output = Output(as_json=json)
    contracts = list(load(project or Path()).protos.values())
    output.json(cedar_schema.schema_of(contracts))
    for contract in contracts:
        for name, why in cedar_schema.arguments_of(contract.input_schema).left_out.items():
            output.line(f"// {contract.name}: rules cannot see the argument '{name}': it {why}")
    output.line(str(cedar_fit.compile_schema(contracts)).replace("__cedar::", ""))


@app.command("explain")
def explain_step(
    run: options.RunId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="A step of the run, or an item: mails-3.")],
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Say which rules decided about a step of a run, and why."""
    from handrail.cli.hindsight import explain
    from handrail.cli.output import Output
    from handrail.cli.server import find

    explain(run, step, find(server, project, data), project, Output(as_json=json))


def _finding_line(finding: Finding, glyphs: Glyphs) -> Text:
    from rich.text import Text

    from handrail.cli.text import clean

    sign, style = (glyphs.warning, "yellow") if finding.severity == "warning" else (glyphs.dot, "dim")
    return Text(f"{sign} ", style=style).append(f"{clean(finding.where)}: {clean(finding.text)}")


def _outcome_lines(outcome: Outcome, width: int, glyphs: Glyphs) -> Iterator[Text]:
    from rich.text import Text

    from handrail.cli.text import clean, cut, pad
    from handrail.policy_cases import told

    sign, style = (glyphs.failed, "red") if outcome.problem else (glyphs.done, "green")
    name = pad(cut(clean(outcome.case.name), width, glyphs), width)
    yield Text(f"{sign} ", style=style).append(f"{name}  ").append(told(outcome.ruling), style="bold")
    if not outcome.problem:
        return
    yield Text(f"    {clean(outcome.problem)}", style="red")
    for reason in outcome.ruling.reasons:
        yield Text(f"    {clean(reason.rule)}: {clean(reason.text)}" if reason.rule else f"    {reason.text}")


def _outcome_object(outcome: Outcome) -> dict[str, Any]:
    ruling = outcome.ruling
    return {
        "case": outcome.case.name,
        "ok": not outcome.problem,
        "expect": outcome.case.expect,
        "outcome": ruling.outcome,
        "quorum": ruling.quorum,
        "reasons": [{"rule": reason.rule, "text": reason.text} for reason in ruling.reasons],
        "problem": outcome.problem,
        "meets": sorted(outcome.meets),
    }
