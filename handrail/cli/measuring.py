"""What an action model is worth: on goals and steps by hand, on generated ones."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.models import synthetic
from handrail.cli.score_table import ScoreTable

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.evaluation import Case, Outcome
    from actors.models.lam.step_cases import StepCase, StepOutcome
    from handrail.cli.output import Output
    from handrail.project import Project

_T = TypeVar("_T")

FROZEN_SEED = 1_000_003
FROZEN_TRAJECTORIES = 1_000
GOALS_DAY = datetime.date(2026, 3, 2)
"""The Monday on which the goals of a project were written, and from which "tomorrow" is counted in them."""
_PROGRESS_S = 10.0


def evaluate(loaded: Project, held: Model, output: Output, *, wrong: bool, pictures: Path | None) -> None:
    """Measure a model, and say what it would get wrong where that is wanted."""
    from actors.models.lam.calibration import Calibration
    from actors.models.lam.evaluation import judge_rows, judgements_of, plans_of, scores_of
    from actors.models.lam.step_cases import try_steps

    table = ScoreTable(output)
    outcomes = list(outcomes_of(loaded, held, output))
    _tell_goals(outcomes, table, output)
    _tell_withdrawn(loaded, held, [one.case for one in outcomes], table, output)
    steps = list(try_steps(held, loaded.protos, steps_of(loaded)))
    _tell_steps(steps, table, output)
    frozen = list(synthetic(loaded, held.options, FROZEN_SEED, FROZEN_TRAJECTORIES))
    curves = Calibration.from_json(held.artifact.card.curves)
    judged = list(judge_rows(frozen, held.thinker.decider))
    for name, of_steps in (("generated", False), ("generated steps", True)):
        scores = scores_of([one for one in judged if bool(one[0].offered) == of_steps], curves)
        output.json({"goals": name, **scores})
        table.generated(name, scores)
    _tell_costs(loaded, held, output)
    if wrong:
        _tell_wrong(outcomes, steps, output)
    if pictures is not None:
        seen = (
            {"goals": (plans_of(outcomes), sum(bool(one.case.wants) for one in outcomes))} if outcomes else {}
        )
        generated = judgements_of(judged, curves)
        draw(pictures, {**seen, "generated": (generated, len(generated))}, output)


def _tell_withdrawn(
    loaded: Project, held: Model, cases: list[Case], table: ScoreTable, output: Output
) -> None:
    """Say what it does about goals where it may not have what they take."""
    from actors.models.lam.evaluation import CHANGED, GONE, score, try_withdrawn
    from actors.models.lam.options import PLAYBOOK, tools_of

    using = {f"{PLAYBOOK}{one.name}": tools_of(one) for one in loaded.playbooks}
    with output.working("thinking without what they take"):
        outcomes = list(try_withdrawn(held.thinker, held.options, cases, GOALS_DAY, using))
    for name in (CHANGED, GONE) if outcomes else ():
        scored = score([one for one in outcomes if one.case.group == name])
        kept = {"abstained": scored.abstained, "unsafe": scored.unsafe, "confirming": scored.confirming}
        output.json({"goals": name, "cases": scored.cases, **kept})
        table.withdrawn(name, scored)


def _tell_costs(loaded: Project, held: Model, output: Output) -> None:
    """Say what it takes to have it: time to read it again, its weights, and the process at its largest."""
    from resource import RUSAGE_SELF, getrusage

    from actors.models.lam import answering

    began = time.perf_counter()
    answering.open_model(loaded.directory / loaded.settings.lam.path / held.digest, held.options, {})
    opened_ms = (time.perf_counter() - began) * 1e3
    weights = sum(one.nbytes for one in held.artifact.weights.values())
    # Linux counts in KiB, macOS in bytes.
    peak = getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    output.json({"opened_ms": opened_ms, "weights_bytes": weights, "peak_bytes": peak})
    output.line(
        f"opened in {opened_ms:.0f} ms; its weights are {weights / 1e6:.1f} MB of memory, this process was "
        f"{peak / 1e6:.0f} MB at its largest"
    )


def evaluate_endpoint(loaded: Project, output: Output, *, parallel: int, wrong: bool) -> None:
    """Measure the model behind the project's endpoint, on the same goals and steps."""
    from actors.models.openai.endpoint import EndpointError
    from actors.models.openai.evaluation import Trial
    from actors.models.openai.thinking import Offer
    from handrail.cli.text import clean
    from handrail.project import limits_of
    from handrail.stack import parts

    if not loaded.settings.openai.url:
        raise CommandError(
            "This project names no endpoint.",
            next="Write url and model of one into [openai] in handrail.toml.",
        )
    endpoint = parts.endpoint_of(loaded.settings, loaded.directory)
    try:
        endpoint.models()
    except EndpointError as error:
        raise CommandError(f"The model cannot be measured: {error}.", code=ExitCode.FAILED) from None
    playbooks = {one.name: one for one in loaded.playbooks}
    trial = Trial(endpoint, Offer(loaded.protos, playbooks, limits_of(loaded.settings)), parallel)
    output.note(f"{endpoint.name} at {endpoint.url}, {parallel} at a time")
    table = ScoreTable(output)
    goals, steps = cases_of(loaded, output), steps_of(loaded)
    outcomes = list(_counted(trial.goals(goals, GOALS_DAY), len(goals), "goals", output))
    _tell_goals(outcomes, table, output)
    step_outcomes = list(_counted(trial.steps(steps), len(steps), "steps", output))
    _tell_steps(step_outcomes, table, output)
    if wrong:
        _tell_wrong(outcomes, step_outcomes, output)
    read, written = trial.read_tokens, trial.written_tokens
    output.json({"model": endpoint.name, "input_tokens": read, "output_tokens": written})
    output.line(f"it read {read:,} tokens and wrote {written:,}, as far as the endpoint says")
    for why, count in trial.unanswered.most_common():
        output.json({"unanswered": count, "why": why})
        output.line(
            f"{output.glyphs.warning} {count} were not answered, and count as nothing done: {clean(why)}"
        )


def _counted(found: Iterable[_T], total: int, what: str, output: Output) -> Iterator[_T]:
    """Say now and then how far it is."""
    said_s = time.monotonic()
    for number, one in enumerate(found, 1):
        yield one
        if time.monotonic() - said_s >= _PROGRESS_S and number < total:
            said_s = time.monotonic()
            output.note(f"{number} of {total} {what}")


def _tell_goals(outcomes: Sequence[Outcome], table: ScoreTable, output: Output) -> None:
    from dataclasses import asdict

    from actors.models.lam.evaluation import score

    for name, group in _groups(outcomes, lambda one: one.case.group).items():
        scored = score(group)
        output.json({"goals": name, **asdict(scored)})
        table.goals(name, scored)


def _tell_steps(outcomes: Sequence[StepOutcome], table: ScoreTable, output: Output) -> None:
    from dataclasses import asdict

    from actors.models.lam.step_cases import score_steps

    for name, group in _groups(outcomes, lambda one: one.case.written.kind).items():
        scored = score_steps(group)
        output.json({"steps": name, **asdict(scored)})
        table.steps(f"steps, {name}", scored)


def _groups(outcomes: Sequence[_T], group_of: Callable[[_T], str]) -> dict[str, list[_T]]:
    """All of them, and then each group of them by itself; nothing where there are none."""
    groups = {"all": list(outcomes)} if outcomes else {}
    for one in outcomes:
        groups.setdefault(group_of(one), []).append(one)
    return groups


def _tell_wrong(outcomes: Sequence[Outcome], steps: Sequence[StepOutcome], output: Output) -> None:
    """Show each goal and each step of which it was sure, and wrong."""
    from actors.models.lam.answering import shown
    from handrail.cli.text import clean

    for one in outcomes:
        if one.acted and not one.exact:
            sure = one.thought.sure if one.thought.needed else None
            output.json({"wrong": one.case.goal, "steps": shown(one.thought.steps), "sure": sure})
            output.line(f"  {one.case.goal!r:.100}")
            output.line(f"    {shown(one.thought.steps)}{f', {sure:.0%} sure' if sure is not None else ''}")
    for step in steps:
        if step.acted and not step.exact:
            call = step.proposal.call
            given = {name: value.json for name, value in call.arguments.items()}
            output.json({"wrong": step.case.written.inputs, "call": {"tool": call.tool, "with": given}})
            output.line(f"  {clean(str(step.case.written.inputs))!r:.100}")
            output.line(f"    {call.tool}({clean(str(given)):.100})")


def draw(folder: Path, series: dict[str, tuple[list[tuple[float, bool]], int]], output: Output) -> None:
    """Draw what a model showed: how sure it was against how right, and what is right of what it acts on."""
    from actors.models.lam import pictures

    drawn = {
        "reliability.svg": pictures.reliability({name: seen for name, (seen, _) in series.items()}),
        "coverage.svg": pictures.coverage(series),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in drawn.items():
            (folder / name).write_text(text, encoding="utf-8")
            output.line(f"{output.glyphs.done} {folder / name}")
    except OSError as error:
        raise CommandError(f"The pictures cannot be written: {error}.") from None


def outcomes_of(loaded: Project, held: Model, output: Output) -> Iterator[Outcome]:
    """Have a model think about each goal that was written by hand."""
    from actors.models.lam.evaluation import try_cases

    cases = cases_of(loaded, output)
    with output.working("thinking"):
        yield from try_cases(held.thinker, held.options, cases, GOALS_DAY)


def steps_of(loaded: Project) -> list[StepCase]:
    """Read the steps that were written by hand."""
    from actors.models.lam.step_cases import read_steps

    folder = loaded.directory / loaded.settings.lam.goals / "steps"
    try:
        return read_steps(folder, GOALS_DAY)
    except ValueError as error:
        raise CommandError(f"The steps in {folder} cannot be read: {error}.") from None


def cases_of(loaded: Project, output: Output) -> list[Case]:
    """Read the goals that were written by hand."""
    from actors.models.lam.evaluation import read_cases

    folder = loaded.directory / loaded.settings.lam.goals
    if not folder.is_dir():
        output.note(f"there are no goals in {folder} to measure it by")
        return []
    try:
        return read_cases(folder)
    except ValueError as error:
        raise CommandError(f"The goals in {folder} cannot be read: {error}.") from None
