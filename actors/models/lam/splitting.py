"""Splits: which rows are learnt from, and which are held back to tell how well.

What decides is a hash of names alone, so the same row is on the same side in every training: a model may go
on from another one.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actors.models.lam.several import JOINT
from handrail.v1 import trajectory_pb2

HELD_PATTERNS = 0.08
HELD_TRAJECTORIES = 0.02
HELD_RUNS = 0.10
"""Of runs and entities there are few: more of them are held back than of what is generated."""
HELD_ENTITIES = 0.05
MAX_HELD_ROWS = 25_000
"""Of many, as no option can be surer than the wordings of it that are held back can show."""
REAL_SHARE = 0.30
"""How much of what is learnt from is real, where anything is: real rows are repeated for it."""
MAX_REPEATS = 200
SPLIT = 1


@dataclass
class Split:
    """Rows to learn from; of wordings that were held back; of trajectories that were, in known wordings."""

    train: list[trajectory_pb2.TrajectoryRow]
    wordings: list[trajectory_pb2.TrajectoryRow]
    trajectories: list[trajectory_pb2.TrajectoryRow]


def split(rows: Iterable[trajectory_pb2.TrajectoryRow]) -> Split:
    """Split rows: as they say, else by pattern and by trajectory, whatever made them."""
    found = Split([], [], [])
    counted: Counter[tuple[int, bool]] = Counter()
    for row in rows:
        said = row.split
        if any(_draw(part) < HELD_PATTERNS for part in row.pattern.split(JOINT) if part):
            held = found.wordings
        elif said == trajectory_pb2.TRAJECTORY_SPLIT_HELD or (
            not said and _draw(row.trajectory) < HELD_TRAJECTORIES
        ):
            held = found.trajectories
        else:
            found.train.append(row)
            continue
        # Goals and steps have curves of their own.
        kind = id(held), bool(row.offered)
        counted[kind] += 1
        if counted[kind] <= MAX_HELD_ROWS:
            held.append(row)
    return found


def side_of(trajectory: str, entities: Iterable[str]) -> trajectory_pb2.TrajectorySplit.ValueType:
    """Return the side of a run: whatever is about an entity that is held back is held back with it."""
    held = _draw(trajectory) < HELD_RUNS or any(_draw(one) < HELD_ENTITIES for one in entities)
    return trajectory_pb2.TRAJECTORY_SPLIT_HELD if held else trajectory_pb2.TRAJECTORY_SPLIT_TRAIN


def repeats(real: int, generated: int) -> int:
    """Return how often each real row is learnt from, so that they are a share that counts."""
    if not real:
        return 0
    wanted = math.ceil(generated * REAL_SHARE / (1 - REAL_SHARE) / real)
    return max(1, min(MAX_REPEATS, wanted))


def with_real(rows: Sequence[trajectory_pb2.TrajectoryRow]) -> list[trajectory_pb2.TrajectoryRow]:
    """Return rows with the real ones as often as `repeats` says."""
    real = [row for row in rows if row.source != trajectory_pb2.TRAJECTORY_SOURCE_SYNTHETIC]
    generated = [row for row in rows if row.source == trajectory_pb2.TRAJECTORY_SOURCE_SYNTHETIC]
    return [*generated, *(real * repeats(len(real), len(generated)))]


def _draw(text: str) -> float:
    return zlib.crc32(f"{SPLIT}:{text}".encode()) / 2**32
