"""What an action model is worth: on goals and steps by hand, on generated ones, beside another model."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.cli.exits import CommandError
from handrail.cli.models import synthetic, told

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.evaluation import Outcome, Score
    from handrail.cli.output import Output
    from handrail.project import Project

FROZEN_SEED = 1_000_003
FROZEN_TRAJECTORIES = 1_000
GOALS_DAY = datetime.date(2026, 3, 2)
"""The Monday on which the goals of a project were written, and from which "tomorrow" is counted in them."""


def evaluate(loaded: Project, held: Model, output: Output, *, wrong: bool, pictures: Path | None) -> None:
    """Measure a model, and say what it would get wrong where that is wanted."""
    from dataclasses import asdict

    from actors.models.lam.answering import shown
    from actors.models.lam.calibration import Calibration
    from actors.models.lam.evaluation import judge_rows, judgements_of, plans_of, score, scores_of

    outcomes = list(outcomes_of(loaded, held, output))
    for name, group in _groups(outcomes).items() if outcomes else ():
        scored = score(group)
        output.json({"goals": name, **asdict(scored)})
        output.lines(_score_lines(name, scored))
    for one in outcomes if wrong else ():
        if one.acted and not one.exact:
            output.json({"wrong": one.case.goal, "steps": shown(one.thought.steps), "sure": one.thought.sure})
            output.line(f"  {one.case.goal!r:.100}")
            output.line(f"    {shown(one.thought.steps)}, {one.thought.sure:.0%} sure")
    _evaluate_steps(loaded, held, wrong, output)
    frozen = list(synthetic(loaded, held.options, FROZEN_SEED, FROZEN_TRAJECTORIES))
    curves = Calibration.from_json(held.artifact.card.curves)
    judged = list(judge_rows(frozen, held.thinker.decider))
    scores = scores_of(judged, curves)
    output.json({"goals": "generated", **scores})
    output.line(f"generated    {told(scores)}")
    if pictures is not None:
        seen = (
            {"goals": (plans_of(outcomes), sum(bool(one.case.wants) for one in outcomes))} if outcomes else {}
        )
        generated = judgements_of(judged, curves)
        draw(pictures, {**seen, "generated": (generated, len(generated))}, output)


def compare(loaded: Project, serving: Model, challenger: Model, output: Output, *, differences: bool) -> None:
    """Say which of two models gets which goals right."""
    from dataclasses import asdict

    from actors.models.lam.answering import shown
    from actors.models.lam.evaluation import score

    ours, theirs = ([*outcomes_of(loaded, one, output)] for one in (serving, challenger))
    for held, outcomes in ((serving, ours), (challenger, theirs)):
        scored = score(outcomes)
        output.json({"model": held.digest, **asdict(scored)})
        output.lines(_score_lines(held.digest, scored))
    only: dict[str, int] = {serving.digest: 0, challenger.digest: 0}
    both = 0
    for before, after in zip(ours, theirs, strict=True):
        if before.right == after.right:
            both += before.right
            continue
        better = serving.digest if before.right else challenger.digest
        only[better] += 1
        if differences:
            good, bad = (before, after) if before.right else (after, before)
            told_of = {"only": better, "goal": good.case.goal}
            output.json(told_of | {"right": shown(good.thought.steps), "wrong": shown(bad.thought.steps)})
            output.line(f"  only {better}: {good.case.goal!r:.100}")
            output.line(f"    {shown(good.thought.steps) or good.thought.outcome}")
            output.line(f"    not: {shown(bad.thought.steps) or bad.thought.outcome}")
    output.json({"goals": len(ours), "both": both, "only": only})
    alone = " and ".join(f"{count} only {name}" for name, count in only.items())
    output.line(f"of {len(ours)} goals both get {both} right, {alone}")


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups = {"all": list(outcomes)}
    for one in outcomes:
        groups.setdefault(one.case.group, []).append(one)
    return groups


def _evaluate_steps(loaded: Project, held: Model, wrong: bool, output: Output) -> None:
    """Measure the model on steps that were written by hand."""
    from dataclasses import asdict

    from actors.models.lam.step_cases import read_steps, score_steps, try_steps
    from handrail.cli.text import clean

    folder = loaded.directory / loaded.settings.lam.goals / "steps"
    try:
        cases = read_steps(folder, GOALS_DAY)
    except ValueError as error:
        raise CommandError(f"The steps in {folder} cannot be read: {error}.") from None
    outcomes = list(try_steps(held, loaded.protos, cases))
    groups = {"all": outcomes}
    for one in outcomes:
        groups.setdefault(one.case.written.kind, []).append(one)
    for name, group in groups.items() if outcomes else ():
        scored = score_steps(group)
        output.json({"steps": name, **asdict(scored)})
        said = {"exact": f"{scored.exact:.1%}", "precision": f"{scored.precision:.1%}"}
        said |= {"abstained": f"{scored.abstained:.1%}", "unsafe": str(scored.unsafe)}
        said["asks about"] = f"{scored.asked}, of which {scored.asked_right} are right"
        output.line(f"{name:<14}{scored.cases:>4} steps: {told(said)}")
    for one in outcomes if wrong else ():
        if one.acted and not one.exact:
            call = one.proposal.call
            given = {name: value.json for name, value in call.arguments.items()}
            output.json({"wrong": one.case.written.inputs, "call": {"tool": call.tool, "with": given}})
            output.line(f"  {clean(str(one.case.written.inputs))!r:.100}")
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
    from actors.models.lam.evaluation import read_cases, try_cases

    folder = loaded.directory / loaded.settings.lam.goals
    if not folder.is_dir():
        output.note(f"there are no goals in {folder} to measure it by")
        return
    try:
        cases = read_cases(folder)
    except ValueError as error:
        raise CommandError(f"The goals in {folder} cannot be read: {error}.") from None
    with output.working("thinking"):
        yield from try_cases(held.thinker, held.options, cases, GOALS_DAY)


def worse(now: Score, then: Score) -> Iterator[str]:
    """Say in what a model is worse than another."""
    for name in ("precision", "exact", "coverage", "abstained", "asked"):
        old, new = getattr(now, name), getattr(then, name)
        if new < old:
            yield f"{name}: {new:.3f}, and was {old:.3f}"
    if then.unsafe > now.unsafe:
        yield f"unsafe: {then.unsafe}, and was {now.unsafe}"


def _score_lines(name: str, scored: Any) -> Iterator[str]:
    said = {
        "exact": f"{scored.exact:.1%}",
        "acted on": f"{scored.coverage:.1%} with precision {scored.precision:.1%}",
        "at 98 %": f"{scored.coverage_at_98:.1%}",
        "abstained": f"{scored.abstained:.1%}",
        "asked": f"{scored.asked:.1%}",
        "unsafe": scored.unsafe,
        "asks about": f"{scored.confirming}, of which {scored.confirmed} are right",
        "calibration error": f"{scored.calibration_error:.3f}",
        "took": f"{scored.p50_ms:.1f} ms, p95 {scored.p95_ms:.1f} ms",
    }
    yield f"{name:<14}{scored.cases:>4} goals: {told(said)}"
