"""Reading together what is asked at once: one pass over a batch costs less than as many passes.

Nobody waits for company. Who comes while nothing is being read reads at once; who comes meanwhile is read
next, with all others who came, by whoever wakes first: those of like length in one pass, since what is
shorter is filled up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition

import numpy as np

from actors.models.lam.network import Encode, Floats
from actors.models.lam.reader import Situation

PADDED, FREE = 1.5, 4
"""How much longer than the shortest the longest of a pass may be, and by so many words in any case."""


@dataclass
class _Asked:
    situations: Sequence[Situation]
    states: list[Floats] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False


class Together:
    """Encodes for several threads; what each gets is what it would get alone."""

    def __init__(self, encode: Encode, most: int) -> None:
        """So many situations are read in one pass at `most`, or as many as one thread asks for at once."""
        self._encode = encode
        self._most = most
        self._turn = Condition()
        self._waiting: deque[_Asked] = deque()
        self._reading = False

    @property
    def waiting(self) -> int:
        """How many wait for a pass that has not begun."""
        return len(self._waiting)

    def __call__(self, situations: Sequence[Situation]) -> list[Floats]:
        """Return what each situation's places mean; raises what reading them raised."""
        own = _Asked(situations)
        with self._turn:
            self._waiting.append(own)
        while True:
            with self._turn:
                self._turn.wait_for(lambda: own.done or not self._reading)
                if own.done:
                    break
                self._reading = True
            try:
                self._read(self._next())
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()
        if own.error is not None:
            raise own.error
        return own.states

    def _next(self) -> list[_Asked]:
        """Take those who have waited longest."""
        batch: list[_Asked] = []
        size = 0
        with self._turn:
            while self._waiting and (not batch or size + len(self._waiting[0].situations) <= self._most):
                batch.append(self._waiting.popleft())
                size += len(batch[-1].situations)
        return batch

    def _read(self, batch: Sequence[_Asked]) -> None:
        try:
            states = iter(self._passes([situation for one in batch for situation in one.situations]))
            for one in batch:
                one.states = [next(states) for _ in one.situations]
        except Exception as error:  # noqa: BLE001
            # The supervision point of a batch: whoever asked is told, and says so in the log. What one of
            # them brought along is no other's matter: each reads alone.
            if len(batch) == 1:
                batch[0].error = error
            else:
                for one in batch:
                    self._read([one])
        finally:
            for one in batch:
                one.done = True

    def _passes(self, situations: Sequence[Situation]) -> list[Floats]:
        """Read those of like length together."""
        found: list[Floats] = [np.zeros(0, np.float32)] * len(situations)
        order = sorted(range(len(situations)), key=lambda at: len(situations[at]))
        while order:
            most = PADDED * len(situations[order[0]]) + FREE
            alike = [at for at in order if len(situations[at]) <= most]
            for at, states in zip(alike, self._encode([situations[at] for at in alike]), strict=True):
                # A row of its own: else each would keep all of them.
                found[at] = states.copy() if len(alike) > 1 else states
            order = order[len(alike) :]
        return found
