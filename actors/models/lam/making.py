"""Making a model: rows are split, the network is trained, what it says is calibrated on what was held back.

Whole patterns of wording are held back, so that the curves tell how sure it may be of words that it has not
met.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.models.lam import artifact, calibration
from actors.models.lam.closed_set import ClosedSet
from actors.models.lam.deciding import Decider
from actors.models.lam.evaluation import judge_rows, judgements_of, scores_of
from actors.models.lam.layout import MISSING, SOURCES, Measures, shapes_of
from actors.models.lam.leftovers import words_of
from actors.models.lam.network import Network
from actors.models.lam.options import Option
from actors.models.lam.splitting import Split, with_real
from actors.models.lam.training import Course, Progress, halves, the_device, train
from actors.models.lam.training_rows import lessons_of
from handrail.v1 import trajectory_pb2

THRESHOLDS = {"read": 0.92, "draft": 0.92, "write": 0.93, "irreversible": 0.97}
"""How sure a new model has to be, until somebody says otherwise."""


@dataclass(frozen=True)
class Made:
    """A model that nobody has promoted yet."""

    card: artifact.Card
    packed: bytes
    # How sure it was of each decision that was held back, and whether it was right, by what was held back.
    judgements: Mapping[str, list[tuple[float, bool]]]


def make(
    options: Sequence[Option],
    rows: Split,
    course: Course,
    *,
    handrail: str,
    made_on: str,
    told: Mapping[str, Any],
    measures: Measures | None = None,
    begin_with: artifact.Artifact | None = None,
    keep: float = 0.0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_judged: Callable[[int, int], None] = lambda *_: None,
) -> Made:
    """Train a model and say what it is worth; `told` is what its card says of where the rows are from.

    Its weights are a mean: `keep` of those that it began with, the rest as they were trained. How many of the
    rows that were held back are judged, of how many, `on_judged` is told.
    """
    measures = measures or Measures()
    closed = ClosedSet(options)
    lessons = list(lessons_of(with_real(rows.train), closed))
    began = time.monotonic()
    begun = dict(begin_with.weights) if begin_with is not None else None
    weights = train(closed, lessons, course, measures=measures, begin_with=begun, on_progress=on_progress)
    took_s = time.monotonic() - began
    if begun is not None and keep:
        weights = {name: keep * begun[name] + (1 - keep) * one for name, one in weights.items()}
    packed = artifact.pack(weights)
    # Judged as it will be read: with the weights as they are kept.
    decider = Decider(Network(artifact.unpack(packed, shapes_of(measures)), measures), closed)
    # What people said counts too, if in wordings that others have used before them.
    said = [one for one in rows.trajectories if _is_real(one)]
    calibrating = [*rows.wordings, *said] or rows.trajectories
    watched = _watched(len(calibrating) + len(rows.trajectories), on_judged)
    judged = list(judge_rows(watched(calibrating), decider))
    known = list(judge_rows(watched(rows.trajectories), decider))
    parts = [seen for _, _, held in judged for seen in held]
    # Of few wordings few are held back, and in none of them may anything be missing. To ask does nothing to
    # anybody: so that it is known in known wordings is enough.
    if calibrating is not rows.trajectories:
        asked = (seen for row, _, held in known if not _is_real(row) for seen in held)
        parts += (seen for seen in asked if seen.part.source == SOURCES[MISSING])
    curves = calibration.fit(parts)
    card = artifact.Card(
        made_on=made_on,
        handrail=handrail,
        weights_sha256=hashlib.sha256(packed).hexdigest(),
        **asdict(measures),
        fingerprints={one.name: one.fingerprint for one in options},
        # What the model that it goes on from has met, it has met too.
        words=sorted({*words_of(rows.train), *(begin_with.card.words if begin_with is not None else ())}),
        curves=curves.to_json(),
        thresholds=THRESHOLDS,
        training={
            **told,
            "rows": len(lessons),
            "passes": course.epochs if math.isinf(course.limit_s) else None,
            "seed": course.seed,
            "batch": course.batch,
            "rate": course.rate,
            "halved": halves(the_device()),
            "took_s": round(took_s),
        },
        scores={
            "held_trajectories": scores_of(known, curves),
            "held_wordings": scores_of(judged, curves),
        },
    )
    judgements = {"wordings": judgements_of(judged, curves), "trajectories": judgements_of(known, curves)}
    return Made(card, packed, judgements)


def _watched(
    total: int, on_judged: Callable[[int, int], None]
) -> Callable[[Iterable[trajectory_pb2.TrajectoryRow]], Iterator[trajectory_pb2.TrajectoryRow]]:
    done = 0

    def watched(rows: Iterable[trajectory_pb2.TrajectoryRow]) -> Iterator[trajectory_pb2.TrajectoryRow]:
        nonlocal done
        for row in rows:
            done += 1
            on_judged(done, total)
            yield row

    return watched


def _is_real(row: trajectory_pb2.TrajectoryRow) -> bool:
    return row.source != trajectory_pb2.TRAJECTORY_SOURCE_SYNTHETIC
