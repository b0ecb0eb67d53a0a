"""The learning curve: how much of what people ask for the action model does after so many verified runs.

A project of six tools that the shipped model has never seen (`hire/`) gets that model, which can decide on
nothing there. Then somebody shows what is meant, in real runs on a real stack; what was verified of them is
collected from the log, and the model is trained on from its own weights: with what the contracts say alone,
and with the first 50, 200 and 1,000 runs. Each is measured on goals that another author wrote, who has seen
no wording that is taught. What is at 98 % hangs on single goals, so each is trained with several seeds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actors.models.lam import pictures, shelf
from actors.models.lam.evaluation import read_cases, score, try_cases
from actors.models.lam.splitting import REAL_SHARE
from bench import tables, teaching
from bench.stack import ROOT
from handrail.cli.measuring import GOALS_DAY
from handrail.cli.models import open_model, open_project

SHIPPED = ROOT / "examples" / "backoffice" / "lam"
SEED = 1
"""Of what is taught."""
TOLD_S = 30.0
MEANS = ("coverage_at_98", "exact", "coverage", "abstained", "asked", "unsafe", "took_s")

Say = Callable[[str], None]
Result = dict[str, Any]


class TrainingFailed(Exception):
    """A model could not be trained."""


@dataclass(frozen=True)
class Course:
    """After how many runs it is trained, and how much each time: with as many steps, whoever is busy."""

    points: tuple[int, ...] = (50, 200, 1_000)
    # Goals that are made of what the contracts say.
    trajectories: int = 8_000
    passes: float = 3.0
    batch: int = 32
    minutes: float = 30.0
    seeds: tuple[int, ...] = (1, 2, 3)


FULL = Course()
QUICK = Course(points=(4, 8), trajectories=200, passes=0.2, minutes=0.5, seeds=(1, 2))


def measure(place: Path, course: Course, say: Say) -> Result:
    """Teach, train and measure; returns what came of it, a point for each model."""
    project = place / "hire"
    shutil.copytree(
        teaching.HIRE, project, ignore=shutil.ignore_patterns(".handrail", "__pycache__", "*.db*")
    )
    shipped = bring(project)
    say(f"the shipped model is {shipped}; it has never seen these tools")
    points = [{"after": 0, "learnt from": "nothing", **_together([_measured(project, shipped)])}]
    began = time.monotonic()
    say(f"teaching {max(course.points)} goals")
    taught = teaching.teach(project, max(course.points), SEED, say)
    taught_s = time.monotonic() - began
    for count in (0, *course.points):
        sources = ["synthetic"]
        if count:
            file = project / "lam" / f"first-{count}.jsonl"
            teaching.write_rows(file, taught[:count])
            sources.append(str(file))
        # As many steps with what is real as without it.
        passes = course.passes if count else course.passes / (1 - REAL_SHARE)
        learnt = "contracts and runs" if count else "contracts"
        each = []
        for seed in course.seeds:
            say(f"training after {count} runs, seed {seed}")
            began = time.monotonic()
            digest = _train(project, replace(course, passes=passes), seed, sources, SHIPPED / shipped, say)
            took_s = time.monotonic() - began
            each.append({"seed": seed, "took_s": round(took_s), **_measured(project, digest)})
            one = each[-1]
            say(f"after {count} runs: {one['coverage_at_98']:.1%} at 98 %, {one['exact']:.1%} exact")
        points.append({"after": count, "learnt from": learnt, **_together(each)})
    return {
        "course": asdict(course),
        "goals": len(read_cases(project / "goals")),
        "taught_s": round(taught_s, 1),
        "points": points,
    }


def bring(project: Path) -> str:
    """Have the shipped model serve a project; return its digest."""
    folder = shelf.champion(SHIPPED)
    assert folder is not None
    place = project / "lam"
    shutil.copytree(folder, place / folder.name)
    shelf.promote(place, folder.name)
    return folder.name


def _measured(project: Path, digest: str) -> Result:
    """Return what a model is worth on the project's goals."""
    loaded, offered = open_project(project)
    held = open_model(loaded, offered, digest)
    cases = read_cases(loaded.directory / loaded.settings.lam.goals)
    outcomes = list(try_cases(held.thinker, held.options, cases, GOALS_DAY))
    training = held.artifact.card.training
    return {
        "model": digest,
        "decides on": len(held.offered),
        "rows": training.get("rows") if held.offered else None,
        **asdict(score(outcomes)),
    }


def _together(each: list[Result]) -> Result:
    """Return the means of what models of several seeds are worth, beside what each is."""
    acting = [one for one in each if one["coverage"]]
    means = {name: statistics.mean(one[name] for one in each) for name in MEANS if name in each[0]}
    precision = statistics.mean(one["precision"] for one in acting) if acting else 0.0
    return {**means, "precision": precision, "each": each}


def _train(
    project: Path, course: Course, seed: int, sources: Sequence[str], begin_with: Path, say: Say
) -> str:
    """Train as anybody would, on from the shipped model; returns the digest."""
    command = [sys.executable, "-m", "handrail.cli.main", "lam", "train"]
    command += ["--project", str(project), "--from", ",".join(sources), "--begin-with", str(begin_with)]
    command += ["--trajectories", str(course.trajectories), "--passes", str(course.passes)]
    command += ["--batch", str(course.batch), "--minutes", str(course.minutes), "--seed", str(seed)]
    # Torch may lie wherever the path says.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("HANDRAIL_")}, "PYTHONPATH": path}
    before, notes = _models(project), project / "train.txt"
    with notes.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            try:
                process.wait(TOLD_S)
            except subprocess.TimeoutExpired:
                say(f"  {_last_line(notes)}")
            except BaseException:
                process.terminate()
                raise
    made = _models(project) - before
    if process.returncode or not made:
        raise TrainingFailed(f"`handrail lam train` failed: {notes.read_text()[-1000:]}")
    return made.pop()


def _models(project: Path) -> set[str]:
    return {one.parent.name for one in (project / "lam").glob("*/card.json")}


def _last_line(file: Path) -> str:
    return file.read_text().strip().rpartition("\n")[2]


# --- shown -------------------------------------------------------------------------------------------


def table(measured: Result) -> str:
    """Return the curve as a table, in Markdown."""
    head = ["verified runs", "learnt from", "at 98 %", "of each seed", "exact", "acted on", "precision"]
    found: tables.Table = [[*head, "abstained", "asked", "unsafe", "took, s"]]
    for point in measured["points"]:
        each = ", ".join(f"{100 * one['coverage_at_98']:.1f}" for one in point.get("each", [point]))
        precision = _percent(point["precision"]) if point["coverage"] else tables.NONE
        after = [_percent(point[name]) for name in ("abstained", "asked")]
        unsafe = ", ".join(str(one["unsafe"]) for one in point.get("each", [point]))
        took = f"{point['took_s']:.0f}" if "took_s" in point else tables.NONE
        found.append(
            [f"{point['after']:,}", point["learnt from"], _percent(point["coverage_at_98"]), each,
             *(_percent(point[name]) for name in ("exact", "coverage")), precision, *after, unsafe, took]
        )  # fmt: skip
    return tables.markdown(found)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 620, 400, 60, 44, 170, 66
LINES = (
    ("coverage_at_98", "acted on at 98 % precision", pictures.COLOURS[0], 2.5),
    ("coverage", "acted on, own thresholds", pictures.COLOURS[2], 1.5),
    ("precision", "precision of that", pictures.COLOURS[1], 1.5),
    ("exact", "planned exactly", pictures.COLOURS[3], 1.5),
)


def picture(measured: Result) -> str:
    """Draw it over the number of runs, whose scale is that of square roots; without the untrained model."""
    points = [point for point in measured["points"] if "took_s" in point]
    most = max(point["after"] for point in points) or 1

    def at(after: float, share: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (after / most) ** 0.5
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    title = "What the action model does after so many verified runs: means, and dashes for each seed"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{title}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, TOP - 20, title, size=13),
    ]
    for step in range(6):
        (left, y), (right, _) = at(0, step / 5), at(most, step / 5)
        parts.append(f'<line x1="{left:.0f}" y1="{y:.1f}" x2="{right:.0f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{step * 20} %", anchor="end"))
    for point in points:
        x, y = at(point["after"], 0)
        parts.append(_text(x, y + 18, f"{point['after']:,}", anchor="middle"))
        parts.append(_text(x, y + 34, f"{round(point['unsafe'], 1):g} unsafe", anchor="middle"))
        for one in point["each"]:
            _, own = at(0, one["coverage_at_98"])
            parts.append(f'<path d="M{x - 4:.1f},{own:.1f}h8" stroke="{pictures.COLOURS[0]}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "verified runs", anchor="middle"))
    for row, (name, label, colour, width) in enumerate(LINES):
        # Of what was not acted on there is no precision.
        shown = [point for point in points if name != "precision" or point["coverage"]]
        places = [at(point["after"], point[name]) for point in shown]
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        for point, (x, y) in zip(shown, places, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
                f"<title>{label}: {_percent(point[name])}</title></circle>"
            )
            if name == "coverage_at_98":
                parts.append(_text(x + 6, y - 6, _percent(point[name]), size=12, colour=colour))
        y = TOP + 12 + row * 18
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 30, y, label))
    return "\n".join([*parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, colour: str = "#222"
) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{text}</text>"
