"""Names of worker instances, from which it can be told that another is dead.

A site is one data directory. An epoch begins when a supervisor takes the directory, which it only can when
every process of the epoch before is gone (they hold its lock). A generation begins when the supervisor has
waited for the process before in the same slot. So an earlier epoch of one's own site, an earlier generation
of one's own slot, and whatever the supervisor has written down as ended is dead; of others nothing is known.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FORM = re.compile(r"([a-z0-9]+)-(\d+)-([a-z0-9_]+)-(\d+)")


Ended = Callable[[str], int]
"""Returns the last generation of a slot of this epoch that has ended, 0 where none is known to have."""


def nobody(_slot: str) -> int:
    """Know of no end."""
    return 0


@dataclass(frozen=True, slots=True)
class Instance:
    """A worker process: site, epoch, slot (toolbox and number), generation."""

    site: str
    epoch: int
    slot: str
    generation: int

    def __str__(self) -> str:
        return f"{self.site}-{self.epoch}-{self.slot}-{self.generation}"

    def knows_dead(self, other: str, ended: Ended = nobody) -> bool:
        """Whether the named instance is certainly dead."""
        match = _FORM.fullmatch(other)
        if match is None or match[1] != self.site:
            return False
        epoch, slot, generation = int(match[2]), match[3], int(match[4])
        if epoch != self.epoch:
            return epoch < self.epoch
        return generation <= (self.generation - 1 if slot == self.slot else ended(slot))


def site_of(data_dir: Path) -> str:
    """Name a data directory of this machine."""
    place = f"{socket.gethostname()}:{data_dir.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:6]
