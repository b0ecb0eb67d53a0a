"""What became of a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept."""

    invariant: str
    what: str


@dataclass(slots=True)
class Outcome:
    """What became of a seed: nothing, or what went wrong; and what there was."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    lines: list[str] = field(default_factory=list)
