"""How often a decision of some probability is right: monotone curves, fitted on lessons that were held back.

A decision is as sure as the least sure of its parts. What the network calls 0.9 may be right in 60 of 100
cases for one tool and in 99 for another; a tool that was seen too seldom has the curve of all together.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.models.lam.deciding import Part

MIN_SEEN = 60
ALL = "*"
STOP, ABSTAIN = "(stop)", "(abstain)"
STEP = "(step) "
"""Before the name of what is chosen in a step: what people write to one is not what they write as goals."""


@dataclass(frozen=True, slots=True)
class Curve:
    """From what the network says to how often it was right, in steps that never fall."""

    floors: tuple[float, ...]
    shares: tuple[float, ...]

    def __call__(self, raw: float) -> float | None:
        """Return how often decisions of this probability were right; None where none was seen so unsure."""
        at = bisect.bisect_right(self.floors, raw) - 1
        return self.shares[at] if at >= 0 else None


@dataclass(frozen=True, slots=True)
class Seen:
    """A part of a decision in a lesson, and whether it was right."""

    option: str
    part: Part
    right: bool


@dataclass(frozen=True)
class Calibration:
    """The curves of a model: of taking each option, and of filling from each source."""

    curves: Mapping[str, Curve]

    def part(self, option: str, part: Part) -> float:
        """Return how sure a part of a decision is."""
        if not 0.0 < part.raw <= 1.0:
            return 0.0
        # A model that was not calibrated on steps is as sure of them as it is of goals.
        named = option if f"{part.source}:{STEP}{ALL}" in self.curves else option.removeprefix(STEP)
        for key in _keys(named, part):
            known = self.curves[key](part.raw) if key in self.curves else None
            if known is not None:
                return known
        return 0.0

    def sure(self, option: str, parts: Iterable[Part]) -> float:
        """Return how sure a decision is."""
        return min(self.part(option, part) for part in parts)

    def to_json(self) -> dict[str, tuple[list[float], list[float]]]:
        """Return the curves as they are written."""
        return {key: (list(one.floors), list(one.shares)) for key, one in self.curves.items()}

    @staticmethod
    def from_json(written: Mapping[str, Sequence[Sequence[float]]]) -> Calibration:
        """Return curves that were written."""
        return Calibration({key: Curve(tuple(one[0]), tuple(one[1])) for key, one in written.items()})


def fit(seen: Iterable[Seen]) -> Calibration:
    """Fit the curves to what was right and what was not."""
    held: dict[str, list[tuple[float, bool]]] = {}
    for one in seen:
        for key in _keys(one.option, one.part):
            held.setdefault(key, []).append((one.part.raw, one.right))
    return Calibration(
        {
            key: _isotonic(points)
            for key, points in held.items()
            if key.endswith(ALL) or len(points) >= MIN_SEEN
        }
    )


def _keys(option: str, part: Part) -> tuple[str, str]:
    """The curve of its own, and the one of all: a value is as sure as its source is, whatever the option."""
    where = STEP if option.startswith(STEP) else ""
    return f"{part.source}:{option}", f"{part.source}:{where}{ALL}"


def _isotonic(points: Sequence[tuple[float, bool]]) -> Curve:
    """Pool neighbours until the shares never fall; that all of n were right does not make it certain."""
    counted: dict[float, tuple[int, int]] = {}
    for raw, right in points:
        rights, count = counted.get(raw, (0, 0))
        counted[raw] = rights + right, count + 1
    blocks: list[tuple[float, int, int]] = []
    for raw in sorted(counted):
        blocks.append((raw, *counted[raw]))
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            floor, rights, count = blocks[-2]
            blocks[-2:] = [(floor, rights + blocks[-1][1], count + blocks[-1][2])]
    floors, shares, highest = [], [], 0.0
    for floor, rights, count in blocks:
        highest = max(highest, (rights + 1) / (count + 2))
        floors.append(floor)
        shares.append(round(highest, 6))
    return Curve(tuple(floors), tuple(shares))
