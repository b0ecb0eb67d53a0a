"""The commands about the action model: info, eval, collect, train, promote, rollback."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.evaluation import Outcome, Score
    from actors.models.lam.options import Option
    from actors.models.lam.planning import Thinker
    from actors.models.lam.training import Progress
    from handrail.cli.output import Output
    from handrail.project import Project
    from handrail.v1.trajectory_pb2 import TrajectoryRow

SYNTHETIC, RUNS = "synthetic", "runs"
TRAJECTORIES = 200_000
GOING_ON = 0.5
"""How much of the rate is left for a model that goes on from another one."""
FROZEN_SEED = 1_000_003
FROZEN_TRAJECTORIES = 2_000
FIRST_DAY = datetime.date(2026, 1, 1)
GOALS_DAY = datetime.date(2026, 3, 2)
"""The Monday on which the goals of a project were written, and from which "tomorrow" is counted in them."""
_PROGRESS_S = 10.0

app = typer.Typer(
    help="See, measure, train and exchange the action model.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ModelId = Annotated[
    str | None, typer.Option("--model", metavar="DIGEST", help="Which model; else the one that serves.")
]


@app.command("info")
def info(project: options.Project = None, model: ModelId = None, json: options.Json = False) -> None:
    """Say which model serves the project, what it was trained on, and what it showed."""
    from actors.models.lam.options import PLAYBOOK
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = _project(project)
    held = _open(loaded, offered, model)
    card = held.artifact.card
    unknown = [one.name for one in offered if one.name not in held.offered]
    needed = {**card.thresholds, **loaded.settings.lam.thresholds}
    told = card.model_dump(mode="json", exclude={"curves"}) | {"thresholds": needed}
    output.json(told | {"digest": card.digest, "unknown": unknown})
    output.line(f"{held.artifact.name}  made on {card.made_on}, with Handrail {card.handrail}")
    tools = sum(not name.startswith(PLAYBOOK) for name in held.offered)
    output.line(f"decides on   {tools} tools and {len(held.offered) - tools} playbooks")
    if unknown:
        output.line(f"never on     {', '.join(unknown)}: new, or changed since it was trained")
    output.line(f"has to be    {', '.join(f'{share:.0%} sure ({name})' for name, share in needed.items())}")
    output.line(f"trained on   {_told(card.training)}")
    for name, scores in card.scores.items():
        output.line(f"{name.replace('_', ' ')}: {_told(scores)}")


@app.command("eval")
def evaluate(
    project: options.Project = None,
    model: ModelId = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Show each goal that it would get wrong.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Draw it: reliability.svg and coverage.svg."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure the model: on goals written by hand, and on a frozen set of the generator's."""
    from dataclasses import asdict

    from actors.models.lam.answering import shown
    from actors.models.lam.calibration import Calibration
    from actors.models.lam.evaluation import judge_rows, judgements_of, plans_of, score, scores_of
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = _project(project)
    held = _open(loaded, offered, model)
    outcomes = list(_outcomes(loaded, offered, held.thinker, output))
    groups = {"all": outcomes}
    for one in outcomes:
        groups.setdefault(one.case.group, []).append(one)
    for name, group in groups.items() if outcomes else ():
        scored = score(group)
        output.json({"goals": name, **asdict(scored)})
        output.lines(_score_lines(name, scored))
    for one in outcomes if wrong else ():
        if one.acted and not one.exact:
            output.json({"wrong": one.case.goal, "steps": shown(one.thought.steps), "sure": one.thought.sure})
            output.line(f"  {one.case.goal!r:.100}")
            output.line(f"    {shown(one.thought.steps)}, {one.thought.sure:.0%} sure")
    _evaluate_steps(loaded, held, wrong, output)
    frozen = list(_synthetic(loaded, offered, FROZEN_SEED, FROZEN_TRAJECTORIES))
    curves = Calibration.from_json(held.artifact.card.curves)
    judged = list(judge_rows(frozen, held.thinker.decider))
    scores = scores_of(judged, curves)
    output.json({"goals": "generated", **scores})
    output.line(f"generated    {_told(scores)}")
    if pictures is not None:
        seen = (
            {"goals": (plans_of(outcomes), sum(bool(one.case.wants) for one in outcomes))} if outcomes else {}
        )
        generated = judgements_of(judged, curves)
        _draw(pictures, {**seen, "generated": (generated, len(generated))}, output)


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
        output.line(f"{name:<14}{scored.cases:>4} steps: {_told(said)}")
    for one in outcomes if wrong else ():
        if one.acted and not one.exact:
            call = one.proposal.call
            given = {name: value.json for name, value in call.arguments.items()}
            output.json({"wrong": one.case.written.inputs, "call": {"tool": call.tool, "with": given}})
            output.line(f"  {clean(str(one.case.written.inputs))!r:.100}")
            output.line(f"    {call.tool}({clean(str(given)):.100})")


def _draw(folder: Path, series: dict[str, tuple[list[tuple[float, bool]], int]], output: Output) -> None:
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


@app.command("collect")
def collect(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="These runs; else all.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only runs since then: 12h, 7d, 2030-01-31.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .jsonl or .parquet file, written whole.")
    ] = None,
    form: Annotated[
        str, typer.Option("--form", metavar="FORM", help="rows, or xlam: records of ActionStudio.")
    ] = "rows",
    everything: Annotated[
        bool, typer.Option("--all", help="Rows that do not train too, each with why not.")
    ] = False,
    records: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Instead of runs, records of xLAM.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="NAME", help="With --from: under which they may be used.")
    ] = "",
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Collect what runs teach: their decisions, and what came of them."""
    from actors.models.lam.collecting import Collected
    from handrail.cli import collect as collecting
    from handrail.cli.output import Output
    from handrail.cli.server import find, with_client

    if (records is not None and (runs or since)) or (bool(licence) != (records is not None)):
        raise CommandError(
            "--from FILE takes records instead of runs, and --licence under which they may be used.",
            next="Write `--from FILE --licence NAME`, or name runs.",
        )
    if runs and since:
        raise CommandError("--since is for all runs.", next="Name runs, or leave them out.")
    output = Output(as_json=json)
    after_ns = collecting.since_ns(since)
    target = None if records is not None else find(server, project, data)
    loaded, offered = _project(project or (target.project if target is not None else None))
    default = collecting.COLLECTED if records is None else collecting.IMPORTED
    path = out or loaded.directory / loaded.settings.lam.path / default
    collecting.check_form(path, form, named=out is not None)
    if records is not None:
        rows, left = collecting.read_records(records, offered, licence)
        by_name: dict[str, list[Any]] = {}
        for row in rows:
            by_name.setdefault(row.trajectory, []).append(row)
        found = [Collected(name, tuple(held)) for name, held in by_name.items()]
        found += [Collected("", left_out=reason) for reason in left.elements()]
    else:
        assert target is not None
        with output.working("reading runs"):
            found = with_client(
                target,
                lambda client: collecting.read_runs(client, runs or (), after_ns, loaded.playbooks),
            )
    kept = [row for one in found for row in one.rows if row.trains or everything]
    collecting.write(path, kept, form, offered)
    collecting.tell(output, path, found, kept)


@app.command("train")
def train(
    project: options.Project = None,
    sources: Annotated[
        str,
        typer.Option("--from", metavar="SOURCES", help="synthetic, runs, or files of rows; with commas."),
    ] = "synthetic",
    trajectories: Annotated[
        int, typer.Option("--trajectories", min=100, metavar="N", help="How many goals are generated.")
    ] = TRAJECTORIES,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.1, metavar="M", help="How long it trains at most.")
    ] = 45.0,
    passes: Annotated[float, typer.Option("--passes", min=0.01, help="How often it sees each row.")] = 6.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed generates the same rows.")] = 1,
    begin_with: Annotated[
        str | None,
        typer.Option("--begin-with", metavar="DIGEST", help="A model to go on from, at a lower rate."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Train a challenger for the project's own tools and playbooks; `promote` has it serve."""
    if importlib.util.find_spec("torch") is None:
        raise CommandError(
            "Training needs torch, which is not installed.",
            next="Install Handrail with its extra `train` (`uv sync --extra train`, or `pip install torch`).",
        )
    from dataclasses import replace

    from actors.models.lam import artifact, making
    from actors.models.lam.splitting import repeats, split
    from actors.models.lam.training import Course
    from handrail.cli.output import Output
    from handrail.release import release
    from handrail.v1.trajectory_pb2 import TRAJECTORY_SOURCE_SYNTHETIC

    output = Output(as_json=json)
    loaded, offered = _project(project)
    named = _sources(sources)
    real, counts = _real(loaded, offered, named, output)
    generated: Iterator[Any] = iter(())
    if SYNTHETIC in named:
        output.note(f"generating {trajectories} goals for {len(offered)} tools and playbooks")
        generated = _synthetic(loaded, offered, seed, trajectories)
        counts = {SYNTHETIC: trajectories, **counts}
    # What is real comes first: of what is held back there is only so much.
    rows = split(chain(real, generated))
    learnt = sum(row.source != TRAJECTORY_SOURCE_SYNTHETIC for row in rows.train)
    if not rows.train:
        raise CommandError("There is nothing to learn from.", next="`--from synthetic` generates goals.")
    if learnt:
        times = repeats(learnt, len(rows.train) - learnt)
        output.note(f"{learnt} real rows, each {times} times")
    output.note(f"training on {len(rows.train)} rows, for {minutes:g} minutes at most")
    course = Course(epochs=passes, seed=seed, limit_s=minutes * 60)
    if begin_with is not None:
        course = replace(course, rate=course.rate * GOING_ON)
    made = making.make(
        offered,
        rows,
        course,
        begin_with=_open(loaded, offered, begin_with).artifact.weights if begin_with is not None else None,
        handrail=release(),
        made_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        told={"sources": counts, "licence": _licences(real), "began_with": begin_with},
        on_progress=_progress(output, minutes * 60),
    )
    place = loaded.directory / loaded.settings.lam.path
    digest = artifact.save(place, made.card, made.packed)
    output.json({"model": digest, "scores": made.card.scores, "training": made.card.training})
    for name, scores in made.card.scores.items():
        output.line(f"{name.replace('_', ' ')}: {_told(scores)}")
    output.line(f"{output.glyphs.done} {place / digest}")
    _draw(place / digest, {name: (seen, len(seen)) for name, seen in made.judgements.items()}, output)
    output.note(f"`handrail lam promote {digest}` has it serve")


def _sources(text: str) -> list[str]:
    """Read what is learnt from, each once."""
    named = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(named):
        raise CommandError(
            f"--from {text!r:.60} names nothing to learn from.",
            next="Write synthetic, runs, the names of files, or several with commas.",
        )
    return named


def _real(
    loaded: Project, offered: Sequence[Option], named: Sequence[str], output: Output
) -> tuple[list[TrajectoryRow], dict[str, int]]:
    """Read the rows that are not generated, and count those of each source that may train."""
    from actors.models.lam.training_rows import admitted
    from handrail.cli.collect import COLLECTED, read_rows

    found: list[TrajectoryRow] = []
    counts: dict[str, int] = {}
    for name in named:
        if name == SYNTHETIC:
            continue
        own = loaded.directory / loaded.settings.lam.path / COLLECTED
        path = own if name == RUNS else Path(name)
        fit, left = admitted(read_rows(path), offered)
        output.note(f"{path}: {len(fit)} rows")
        for reason, count in sorted(left.items()):
            output.note(f"  {count} rows are left out: {reason}")
        found += fit
        counts[RUNS if name == RUNS else path.name] = len(fit)
    return found, counts


def _licences(real: Sequence[TrajectoryRow]) -> str:
    """Name the licences of what a model was made of, besides the generator's and the project's own."""
    return ", ".join(["Apache-2.0", *sorted({row.licence for row in real} - {""})])


@app.command("promote")
def promote(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The challenger; `train` names it.")],
    project: options.Project = None,
    force: Annotated[
        bool, typer.Option("--force", help="Though it is worse than the one that serves.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Have a challenger serve, if it is at least as good on the project's goals as the model that serves."""
    from actors.models.lam import shelf
    from actors.models.lam.evaluation import score
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = _project(project)
    place = loaded.directory / loaded.settings.lam.path
    challenger = _open(loaded, offered, digest)
    if not challenger.offered:
        raise CommandError(
            f"{digest} knows none of this project's tools and playbooks.",
            why="They are others, or have changed since it was trained.",
            next="`handrail lam train` makes one that does.",
            code=ExitCode.FAILED,
        )
    serving = None if force else _serving(loaded, offered, output)
    if serving is not None:
        now = score(list(_outcomes(loaded, offered, serving.thinker, output)))
        then = score(list(_outcomes(loaded, offered, challenger.thinker, output)))
        if worse := list(_worse(now, then)):
            raise CommandError(
                f"{digest} is not as good as {serving.digest}.",
                why="; ".join(worse) + ".",
                next="`--force` has it serve all the same.",
                code=ExitCode.FAILED,
            )
    shelf.promote(place, challenger.digest)
    output.json({"model": challenger.digest, "replaced": serving.digest if serving else ""})
    output.line(f"{output.glyphs.done} {challenger.digest} serves from the next goal on")


def _serving(loaded: Project, offered: Sequence[Option], output: Output) -> Model | None:
    """Return the model that serves, None where there is none that could."""
    from actors.models.lam import shelf

    try:
        return _open(loaded, offered, None)
    except (CommandError, shelf.BadModel) as error:
        output.note(f"nothing to compare it with: {error}")
        return None


def _worse(now: Score, then: Score) -> Iterator[str]:
    """Say in what a model is worse than another."""
    for name in ("precision", "exact", "coverage", "abstained", "asked"):
        old, new = getattr(now, name), getattr(then, name)
        if new < old:
            yield f"{name}: {new:.3f}, and was {old:.3f}"
    if then.unsafe > now.unsafe:
        yield f"unsafe: {then.unsafe}, and was {now.unsafe}"


@app.command("rollback")
def roll_back(project: options.Project = None, json: options.Json = False) -> None:
    """Have the model serve again that the present one replaced."""
    from actors.models.lam import shelf
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = _project(project)
    place = loaded.directory / loaded.settings.lam.path
    before = shelf.champions(place)[-2:-1]
    if before:
        _open(loaded, offered, before[0])
    digest = shelf.roll_back(place)
    if digest is None:
        raise CommandError("There is no model that the present one replaced.", code=ExitCode.FAILED)
    output.json({"model": digest})
    output.line(f"{output.glyphs.done} {digest} serves from the next goal on")


def _project(project: Path | None) -> tuple[Project, tuple[Option, ...]]:
    from actors.models.lam.options import options_of
    from handrail.project import load

    loaded = load(project or Path())
    return loaded, options_of(loaded.protos, loaded.playbooks)


def _open(loaded: Project, offered: Sequence[Option], digest: str | None) -> Model:
    from actors.models.lam import shelf
    from actors.models.lam.answering import open_model

    place = loaded.directory / loaded.settings.lam.path
    if digest is None:
        folder = shelf.champion(place)
        digest = folder.name if folder is not None else None
    else:
        folder = place / digest if shelf.DIGEST.fullmatch(digest) else None
    if folder is None or not folder.is_dir():
        raise CommandError(
            f"There is no model {digest} in {place}."
            if digest
            else f"No model serves this project: {place} has none.",
            next="`handrail lam train` makes one.",
        )
    return open_model(folder, offered, loaded.settings.lam.thresholds)


def _synthetic(loaded: Project, offered: Sequence[Option], seed: int, trajectories: int) -> Iterator[Any]:
    from actors.models.lam.generate import rows
    from actors.models.lam.grammar import load_grammar

    own = loaded.directory / loaded.settings.lam.path / "grammar.yaml"
    grammar = load_grammar(own if own.exists() else None)
    yield from rows(offered, grammar, seed=seed, trajectories=trajectories, today=FIRST_DAY)


def _outcomes(
    loaded: Project, offered: Sequence[Option], thinker: Thinker, output: Output
) -> Iterator[Outcome]:
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
        yield from try_cases(thinker, offered, cases, GOALS_DAY)


def _told(said: dict[str, Any]) -> str:
    """Write what a card says, in one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_told(value) if isinstance(value, dict) else value}"
        for name, value in said.items()
        if value is not None
    )


def _score_lines(name: str, scored: Any) -> Iterator[str]:
    said = {
        "exact": f"{scored.exact:.1%}",
        "acted on": f"{scored.coverage:.1%} with precision {scored.precision:.1%}",
        "at 98 %": f"{scored.coverage_at_98:.1%}",
        "abstained": f"{scored.abstained:.1%}",
        "asked": f"{scored.asked:.1%}",
        "unsafe": scored.unsafe,
        "calibration error": f"{scored.calibration_error:.3f}",
        "took": f"{scored.p50_ms:.1f} ms, p95 {scored.p95_ms:.1f} ms",
    }
    yield f"{name:<14}{scored.cases:>4} goals: {_told(said)}"


def _progress(output: Output, limit_s: float) -> Any:
    last = [0.0]

    def on_progress(seen: Progress) -> None:
        if seen.elapsed_s - last[0] < _PROGRESS_S and seen.step < seen.steps:
            return
        last[0] = seen.elapsed_s
        left_s = min(seen.elapsed_s / seen.step * (seen.steps - seen.step), limit_s - seen.elapsed_s)
        output.note(
            f"step {seen.step} of {seen.steps}, loss {seen.loss:.3f}, {left_s / 60:.1f} minutes left at most"
        )

    return on_progress
