"""The commands about the action model: info, eval, compare, collect, train, promote, rollback.

`shadow` and `graduate` are in a file of their own.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli import options, shadow
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.models import ModelId, grammar_of, open_artifact, open_model, open_project, synthetic, told

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.options import Option
    from actors.models.lam.training import Progress
    from handrail.cli.output import Output
    from handrail.project import Project
    from handrail.v1.trajectory_pb2 import TrajectoryRow

SYNTHETIC, RUNS = "synthetic", "runs"
TRAJECTORIES = 200_000
GOING_ON = 0.5
"""How much of the rate is left for a model that goes on from another one."""
_PROGRESS_S = 10.0

app = typer.Typer(
    help="See, measure, train and exchange the action model.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("info")
def info(project: options.Project = None, model: ModelId = None, json: options.Json = False) -> None:
    """Say which model serves the project, what it was trained on, and what it showed."""
    from actors.models.lam.options import PLAYBOOK
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = open_project(project)
    held = open_model(loaded, offered, model)
    card = held.artifact.card
    unknown = [one.name for one in offered if one.name not in held.offered]
    needed = {**card.thresholds, **loaded.settings.lam.thresholds}
    card_told = card.model_dump(mode="json", exclude={"curves"}) | {"thresholds": needed}
    output.json(card_told | {"digest": card.digest, "unknown": unknown})
    output.line(f"{held.artifact.name}  made on {card.made_on}, with Handrail {card.handrail}")
    tools = sum(not name.startswith(PLAYBOOK) for name in held.offered)
    output.line(f"decides on   {tools} tools and {len(held.offered) - tools} playbooks")
    if unknown:
        output.line(f"never on     {', '.join(unknown)}: new, or changed since it was trained")
    output.line(f"has to be    {', '.join(f'{share:.0%} sure ({name})' for name, share in needed.items())}")
    output.line(f"trained on   {told(card.training)}")
    for name, scores in card.scores.items():
        output.line(f"{name.replace('_', ' ')}: {told(scores)}")


@app.command("eval")
def evaluate(
    project: options.Project = None,
    model: ModelId = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Show each goal that it would get wrong.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Draw it: reliability.svg and coverage.svg."),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option("--with", metavar="MIND", help="Another model: openai, the one behind [openai]."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=64, help="With --with: how many it is asked at a time.")
    ] = 8,
    json: options.Json = False,
) -> None:
    """Measure the model: on goals written by hand, and on a frozen set of the generator's."""
    from handrail.cli import measuring
    from handrail.cli.output import Output

    if other is not None:
        if other != "openai" or model is not None or pictures is not None:
            raise CommandError(
                "--with takes openai, and neither --model nor --pictures.",
                why="A model behind an endpoint has no digest, and does not say how sure it is.",
                next="Write `handrail lam eval --with openai`.",
            )
        loaded, _ = open_project(project)
        measuring.evaluate_endpoint(loaded, Output(as_json=json), parallel=parallel, wrong=wrong)
        return
    loaded, offered = open_project(project)
    held = open_model(loaded, offered, model)
    measuring.evaluate(loaded, held, Output(as_json=json), wrong=wrong, pictures=pictures)


@app.command("compare")
def compare(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The challenger; `train` names it.")],
    project: options.Project = None,
    model: ModelId = None,
    differences: Annotated[
        bool, typer.Option("--differences", help="Show each goal that only one of them gets right.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Hold a challenger against the model that serves: goal by goal, on those written by hand."""
    from handrail.cli import comparing
    from handrail.cli.output import Output

    loaded, offered = open_project(project)
    both = [open_model(loaded, offered, one) for one in (model, digest)]
    comparing.compare(loaded, both[0], both[1], Output(as_json=json), differences=differences)


@app.command("collect")
def collect(
    runs: options.RunIds = None,
    since: options.Since = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .jsonl or .parquet file, written whole.")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="FORM",
            help="rows; xlam: records of ActionStudio; xlam-turns: what it trains on.",
        ),
    ] = "rows",
    everything: Annotated[
        bool, typer.Option("--all", help="Rows that do not train too, each with why not.")
    ] = False,
    records: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Instead of runs, records of xLAM or turns.")
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
    output = Output(as_json=json)
    after_ns = collecting.since_ns(since, runs)
    target = None if records is not None else find(server, project, data)
    loaded, offered = open_project(project or (target.project if target is not None else None))
    default = collecting.COLLECTED if records is None else collecting.IMPORTED
    path = out or loaded.directory / loaded.settings.lam.path / default
    collecting.check_form(path, form, named=out is not None, everything=everything)
    if records is not None:
        rows, left = collecting.read_records(records, offered, licence)
        if not rows:
            why = "; ".join(f"{count} because {reason}" for reason, count in sorted(left.items()))
            raise CommandError(
                f"{records} has no record that rows can be made of.",
                why=f"{why}." if why else "",
                next=f"{path} is as it was.",
                code=ExitCode.FAILED,
            )
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


app.command("shadow")(shadow.shadow)
app.command("graduate")(shadow.graduate)


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
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Rows in a step: fewer where it sees few rows in all.")
    ] = 128,
    seed: Annotated[int, typer.Option("--seed", help="The same seed generates the same rows.")] = 1,
    begin_with: Annotated[
        str | None,
        typer.Option(
            "--begin-with",
            metavar="DIGEST|DIR",
            help="A model to go on from, at a lower rate: the project's, or the folder of any.",
        ),
    ] = None,
    keep: Annotated[
        float,
        typer.Option("--keep", min=0.0, max=0.99, metavar="SHARE", help="How much of its weights stays."),
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Train a challenger for the project's own tools and playbooks; `promote` has it serve."""
    if keep and begin_with is None:
        raise CommandError(
            "--keep says how much stays of the model to go on from, and none is named.",
            next="Name one with --begin-with.",
        )
    loaded, offered = open_project(project)
    begun = open_artifact(loaded, begin_with) if begin_with is not None else None
    if importlib.util.find_spec("torch") is None:
        raise CommandError(
            "Training needs torch, which is not installed.",
            next="Install Handrail with its extra `train` (`uv sync --extra train`, or `pip install torch`).",
        )
    from dataclasses import replace

    from actors.models.lam import artifact, making
    from actors.models.lam.splitting import repeats, split
    from actors.models.lam.training import Course
    from handrail.cli import measuring
    from handrail.cli.output import Output
    from handrail.release import release
    from handrail.v1.trajectory_pb2 import TRAJECTORY_SOURCE_SYNTHETIC

    output = Output(as_json=json)
    named = _sources(sources)
    real, counts = _real(loaded, offered, named, output)
    generated: Iterator[Any] = iter(())
    if SYNTHETIC in named:
        output.note(f"generating {trajectories} goals for {len(offered)} tools and playbooks")
        generated = _counted(synthetic(loaded, offered, seed, trajectories), _count(output, "rows generated"))
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
    course = Course(epochs=passes, batch=batch, seed=seed, limit_s=minutes * 60)
    if begun is not None:
        course = replace(course, rate=course.rate * GOING_ON)
    began_with = begun.name.removeprefix("lam:") if begun is not None else None
    told_of: dict[str, Any] = {"sources": counts, "licence": _licences(real)}
    told_of |= {"began_with": began_with, "kept": keep}
    if SYNTHETIC in named and (grammar := grammar_of(loaded)) is not None:
        told_of["grammar_sha256"] = hashlib.sha256(grammar.read_bytes()).hexdigest()
    made = making.make(
        offered,
        rows,
        course,
        begin_with=begun,
        keep=keep,
        handrail=release(),
        made_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        told=told_of,
        on_progress=_progress(output, minutes * 60),
        on_judged=_count(output, "rows judged that were held back"),
    )
    place = loaded.directory / loaded.settings.lam.path
    digest = artifact.save(place, made.card, made.packed)
    output.json({"model": digest, "scores": made.card.scores, "training": made.card.training})
    for name, scores in made.card.scores.items():
        output.line(f"{name.replace('_', ' ')}: {told(scores)}")
    output.line(f"{output.glyphs.done} {place / digest}")
    series = {name: (seen, len(seen)) for name, seen in made.judgements.items()}
    measuring.draw(place / digest, series, output)
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
    own = loaded.directory / loaded.settings.lam.path / COLLECTED
    # The same file counts once, whatever it is called.
    paths: dict[Path, tuple[str, Path]] = {}
    for name in named:
        if name != SYNTHETIC:
            path = own if name == RUNS else Path(name)
            paths.setdefault(path.resolve(), (RUNS if name == RUNS else path.name, path))
    for name, path in paths.values():
        fit, left = admitted(read_rows(path), offered)
        output.note(f"{path}: {len(fit)} rows")
        for reason, count in sorted(left.items()):
            output.note(f"  {count} rows are left out: {reason}")
        found += fit
        alike = (name, *(f"{name} ({number})" for number in range(2, len(paths) + 2)))
        counts[next(one for one in alike if one not in counts)] = len(fit)
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
    """Have a challenger serve, if it is at least as good as the model that serves.

    By the project's goals and steps, by hand; by generated goals where there are none.
    """
    from actors.models.lam import shelf
    from handrail.cli import comparing
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = open_project(project)
    place = loaded.directory / loaded.settings.lam.path
    challenger = open_model(loaded, offered, digest)
    if not challenger.offered:
        raise CommandError(
            f"{digest} knows none of this project's tools and playbooks.",
            why="They are others, or have changed since it was trained.",
            next="`handrail lam train` makes one that does.",
            code=ExitCode.FAILED,
        )
    serving = None if force else _serving(loaded, offered, output)
    if serving and (worse := comparing.worse_in(loaded, offered, serving, challenger, output)):
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
        return open_model(loaded, offered, None)
    except (CommandError, shelf.BadModel) as error:
        output.note(f"nothing to compare it with: {error}")
        return None


@app.command("rollback")
def roll_back(project: options.Project = None, json: options.Json = False) -> None:
    """Have the model serve again that the present one replaced."""
    from actors.models.lam import shelf
    from handrail.cli.output import Output

    output = Output(as_json=json)
    loaded, offered = open_project(project)
    place = loaded.directory / loaded.settings.lam.path
    before = shelf.champions(place)[-2:-1]
    if before:
        open_model(loaded, offered, before[0])
    digest = shelf.roll_back(place)
    if digest is None:
        raise CommandError("There is no model that the present one replaced.", code=ExitCode.FAILED)
    output.json({"model": digest})
    output.line(f"{output.glyphs.done} {digest} serves from the next goal on")


def _counted(rows: Iterator[TrajectoryRow], on_count: Callable[[int], None]) -> Iterator[TrajectoryRow]:
    for count, row in enumerate(rows, 1):
        on_count(count)
        yield row


def _count(output: Output, what: str) -> Callable[..., None]:
    last = time.monotonic()

    def on_count(count: int, of: int | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            output.note(f"{count} of {of} {what}" if of is not None else f"{count} {what}")

    return on_count


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
