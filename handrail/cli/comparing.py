"""Two action models of a project beside each other: which is right where, and which may serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from handrail.cli.measuring import (
    FROZEN_SEED,
    FROZEN_TRAJECTORIES,
    GOALS_DAY,
    cases_of,
    outcomes_of,
    steps_of,
)
from handrail.cli.models import synthetic
from handrail.cli.score_table import ScoreTable

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.evaluation import Score
    from actors.models.lam.options import Option
    from handrail.cli.output import Output
    from handrail.project import Project


def compare(loaded: Project, serving: Model, challenger: Model, output: Output, *, differences: bool) -> None:
    """Say which of two models gets which goals right."""
    from dataclasses import asdict

    from actors.models.lam.answering import shown
    from actors.models.lam.evaluation import score

    ours, theirs = ([*outcomes_of(loaded, one, output)] for one in (serving, challenger))
    table = ScoreTable(output)
    for held, outcomes in ((serving, ours), (challenger, theirs)):
        scored = score(outcomes)
        output.json({"model": held.digest, **asdict(scored)})
        table.goals(held.digest, scored)
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


def worse_in(
    loaded: Project, offered: Sequence[Option], serving: Model, challenger: Model, output: Output
) -> list[str]:
    """Say in what a challenger is worse than the model that serves.

    On the goals by hand, or on generated ones where a project has none; and on the steps by hand, of which it
    may do no more that nobody wants.
    """
    from actors.models.lam.evaluation import score, try_cases

    both = serving, challenger
    found: list[str] = []
    if cases := cases_of(loaded, output):
        with output.working("thinking"):
            now, then = (score([*try_cases(one.thinker, one.options, cases, GOALS_DAY)]) for one in both)
        found += worse(now, then)
    else:
        output.note("they are compared by what they make of generated goals")
        with output.working("deciding"):
            found += _worse_on_generated(loaded, offered, serving, challenger)
    return [*found, *_worse_on_steps(loaded, serving, challenger)]


def worse(now: Score, then: Score) -> Iterator[str]:
    """Say in what a model is worse than another, by what they came to."""
    for name in ("precision", "exact", "coverage", "abstained", "asked"):
        old, new = getattr(now, name), getattr(then, name)
        if new < old:
            yield f"{name}: {new:.3f}, and was {old:.3f}"
    if then.unsafe > now.unsafe:
        yield f"unsafe: {then.unsafe}, and was {now.unsafe}"


def _worse_on_generated(
    loaded: Project, offered: Sequence[Option], serving: Model, challenger: Model
) -> Iterator[str]:
    from actors.models.lam.calibration import Calibration
    from actors.models.lam.evaluation import judge_rows, scores_of

    rows = list(synthetic(loaded, offered, FROZEN_SEED, FROZEN_TRAJECTORIES))
    now, then = (
        scores_of([*judge_rows(rows, one.thinker.decider)], Calibration.from_json(one.artifact.card.curves))
        for one in (serving, challenger)
    )
    for name, what in (("exact", "decisions"), ("exact_plans", "plans")):
        if then[name] < now[name]:
            yield f"exact {what} of generated goals: {then[name]:.3f}, and was {now[name]:.3f}"


def _worse_on_steps(loaded: Project, serving: Model, challenger: Model) -> Iterator[str]:
    from actors.models.lam.step_cases import score_steps, try_steps

    cases = steps_of(loaded)
    now, then = (score_steps([*try_steps(one, loaded.protos, cases)]) for one in (serving, challenger))
    if then.unsafe > now.unsafe:
        yield f"unsafe steps: {then.unsafe}, and was {now.unsafe}"
