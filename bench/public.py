"""A public set: how well a model of this kind learns to call services of which others have written.

It learns from one part of the schema-guided dialogues (`dialogues.py`), on the part "dev" it is found out how
sure it may be, and it is measured on the part "test", where most services are others. The model that Handrail
ships learns nothing here, and what is trained is thrown away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.models.lam import calibration
from actors.models.lam.calibration import Calibration, Seen
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decided, Decider
from actors.models.lam.evaluation import PRECISION, calibration_error, coverage_at, judge_rows, judgements_of
from actors.models.lam.layout import Measures
from actors.models.lam.network import Network
from bench import tables
from bench.dialogues import NotDialogues, Part, service_of
from handrail.v1 import trajectory_pb2 as pb

SEED = 1
TOLD_STEPS = 200
Say = Callable[[str], None]
Result = dict[str, Any]
Judged = Sequence[tuple[pb.TrajectoryRow, Decided, list[Seen]]]


@dataclass(frozen=True)
class Effort:
    """How long it is trained, and on how many calls it is calibrated and measured."""

    minutes: float = 30.0
    passes: float = 3.0
    calls: int = 4_000
    # Small ones: of few calls a network learns more in as many looks.
    batch: int = 32


FULL = Effort()
QUICK = Effort(minutes=0.3, passes=0.05, calls=200)


def measure(path: Path, effort: Effort, say: Say) -> Result:
    """Train, calibrate and measure; raises NotDialogues."""
    # Here, since it brings torch.
    from actors.models.lam.training import Course, Progress, train
    from actors.models.lam.training_rows import lessons_of

    learnt_from, checked_on, measured_on = (Part(path / name) for name in ("train", "dev", "test"))
    closed = ClosedSet(learnt_from.options)
    calls = list(learnt_from.rows())
    lessons = list(lessons_of(calls, closed))
    if not lessons:
        raise NotDialogues(f"{path} teaches nothing")
    say(f"training on {len(lessons)} of {len(calls)} calls, for {effort.minutes:g} minutes at most")

    def on_progress(seen: Progress) -> None:
        if seen.step % TOLD_STEPS == 0:
            say(
                f"  step {seen.step} of {seen.steps}, loss {seen.loss:.3f}, {seen.elapsed_s / 60:.1f} minutes"
            )

    course = Course(epochs=effort.passes, batch=effort.batch, seed=SEED, limit_s=effort.minutes * 60)
    began = time.monotonic()
    network = Network(train(closed, lessons, course, on_progress=on_progress), Measures())
    trained_s = time.monotonic() - began
    say("calibrating")
    decider = Decider(network, ClosedSet(checked_on.options))
    checked = judge_rows(_some(checked_on.rows(), effort.calls), decider)
    curves = calibration.fit(part for _, _, parts in checked for part in parts)
    say("measuring")
    decider = Decider(network, ClosedSet(measured_on.options))
    tried = _some(measured_on.rows(), effort.calls)
    began = time.monotonic()
    judged = list(judge_rows(tried, decider))
    each_ms = (time.monotonic() - began) / max(1, len(judged)) * 1e3
    known = {name.lower() for name in learnt_from.services}
    return {
        "effort": asdict(effort),
        "learnt_from": len(lessons),
        "calls": len(calls),
        "trained_s": round(trained_s),
        "each_ms": round(each_ms, 1),
        "groups": {
            name: scores([one for one in judged if is_in(_service(one[0]))], curves, decider)
            for name, is_in in (
                ("services that it learnt", known.__contains__),
                ("other services", lambda one: one not in known),
                ("all", lambda _: True),
            )
        },
    }


def scores(judged: Judged, curves: Calibration, decider: Decider) -> Result:
    """Return what calls come to; where their own option is taken away nothing should be called."""
    sure = judgements_of(judged, curves)
    taken_away = [_without(row) for row, _, _ in judged if len(row.offered) > 1]
    left = [decided.option is None for _, decided, _ in judge_rows(taken_away, decider)]
    return {
        "calls": len(judged),
        "services": len({_service(row) for row, _, _ in judged}),
        "right_option": _share(parts[0].right for _, _, parts in judged),
        "exact": _share(right for _, right in sure),
        "coverage_at_98": round(coverage_at(PRECISION, sure, len(sure)), 4),
        "calibration_error": round(calibration_error(sure), 4),
        "abstained": _share(left),
    }


def _without(row: pb.TrajectoryRow) -> pb.TrajectoryRow:
    """Return a row whose option is not among those that there are."""
    found = pb.TrajectoryRow()
    found.CopyFrom(row)
    del found.offered[:]
    found.offered.extend(name for name in row.offered if name != row.decision.call.option)
    found.decision.abstain.SetInParent()
    return found


def _service(row: pb.TrajectoryRow) -> str:
    return service_of(row.decision.call.option)


def _some(rows: Iterable[pb.TrajectoryRow], count: int) -> list[pb.TrajectoryRow]:
    """Return so many rows, from all over."""
    held = list(rows)
    return held if len(held) <= count else random.Random(SEED).sample(held, count)


def _share(held: Iterable[bool]) -> float:
    listed = list(held)
    return round(sum(listed) / len(listed), 4) if listed else 0.0


def table(measured: Result) -> str:
    """Return it as a table, in Markdown."""
    names = ("right_option", "exact", "coverage_at_98", "calibration_error", "abstained")
    found: tables.Table = [
        [
            "calls of",
            "services",
            "calls",
            "right intent",
            "exact, as said",
            "at 98 %",
            "calibration error",
            "abstained",
        ]
    ]
    for group, held in measured["groups"].items():
        shares = [
            f"{held[name]:.2f}" if name == "calibration_error" else f"{100 * held[name]:.1f} %"
            for name in names
        ]
        found.append([group, str(held["services"]), f"{held['calls']:,}", *shares])
    return tables.markdown(found)
