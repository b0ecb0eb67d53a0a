"""What a planted bug is: a patch of the real code, and within how many seeds it has to be found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

Patch = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug that somebody could make."""

    plant: Callable[[], Patch]
    # The seeds from 0 on, one of which finds it.
    within: int


MUTANTS: dict[str, Mutant] = {}


def planted(*, within: int) -> Callable[[Callable[[], Patch]], Callable[[], Patch]]:
    """Register a patch under its name."""

    def register(plant: Callable[[], Patch]) -> Callable[[], Patch]:
        MUTANTS[plant.__name__] = Mutant(plant, within)
        return plant

    return register
