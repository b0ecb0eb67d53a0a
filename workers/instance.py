"""Names of worker instances, from which it can be told that another is dead.

An epoch begins when a supervisor takes the data directory, which it only can when every process of the
epoch before is gone (they hold its lock). A generation begins when the supervisor has waited for the
process before in the same slot. So an earlier epoch, or an earlier generation of one's own slot, is dead;
of others nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"^(\d+)-([a-z0-9_]+)-(\d+)$")


@dataclass(frozen=True, slots=True)
class Instance:
    """A worker process: epoch, slot (toolbox and number), generation."""

    epoch: int
    slot: str
    generation: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.slot}-{self.generation}"

    def knows_dead(self, other: str) -> bool:
        """Whether the named instance is certainly dead."""
        match = _FORM.match(other)
        if match is None:
            return False
        epoch, slot, generation = int(match[1]), match[2], int(match[3])
        if epoch != self.epoch:
            return epoch < self.epoch
        return slot == self.slot and generation < self.generation
