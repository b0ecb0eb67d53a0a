"""What a planted bug is: a patch of the real code, and within how many seeds it has to be found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from core import run

Patch = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug that somebody could make."""

    plant: Callable[[], Patch]
    # The seeds from 0 on, one of which finds it.
    within: int
    # Whether it is looked for where there is a policy, where there is none, or everywhere.
    policies: bool | None


def handling(arm: str, handler: Any) -> Patch:
    """Fold a kind of event with another handler."""
    changed = {**run.HANDLERS, arm: (run.HANDLERS[arm][0], handler)}
    return patch.object(run, "HANDLERS", changed)


MUTANTS: dict[str, Mutant] = {}


def planted(
    *, within: int, policies: bool | None = None
) -> Callable[[Callable[[], Patch]], Callable[[], Patch]]:
    """Register a patch under its name."""

    def register(plant: Callable[[], Patch]) -> Callable[[], Patch]:
        MUTANTS[plant.__name__] = Mutant(plant, within, policies)
        return plant

    return register
