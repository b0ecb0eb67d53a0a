"""What goes wrong on the network, how often and for how long: drawn from the seed, and calm at the end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, fields
from typing import Literal

Fate = Literal["answered", "lost", "answer lost", "late"]
DeliveryFate = Literal["delivered", "lost", "disordered", "twice"]
_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Odds:
    """How likely each thing is, each time."""

    slow: float = 0.0
    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    delivery_lost: float = 0.0
    disordered: float = 0.0
    twice: float = 0.0
    bad_tick: float = 0.0
    # That somebody is killed or stopped just when an event has been stored.
    strike: float = 0.0
    # That a tool does not simply work.
    trouble: float = 0.0


_WORST = Odds(
    slow=0.15,
    lost=0.06,
    answer_lost=0.08,
    late=0.03,
    delivery_lost=0.05,
    disordered=0.08,
    twice=0.08,
    bad_tick=0.6,
    strike=0.08,
    trouble=0.7,
)


class Weather:
    """The one source of bad luck."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"{seed}/weather")
        self.counts: Counter[str] = Counter()
        self.odds = Odds()
        for field in fields(Odds):
            # Each seed has its own climate: some things never happen, some often.
            share = self._random.choice((0.0, 0.2, 0.5, 1.0))
            setattr(self.odds, field.name, share * getattr(_WORST, field.name))

    def calm(self) -> None:
        """Let nothing go wrong from now on."""
        self.odds = Odds()

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return probability > 0.0 and self._random.random() < probability

    def delay_s(self) -> float:
        """Return how long a message travels."""
        if self.chance(self.odds.slow):
            return self._random.uniform(0.01, 0.6)
        return self._random.uniform(0.0002, 0.003)

    def fate(self) -> Fate:
        """Say what becomes of a request."""
        odds, found = self.odds, self._random.random()
        for fate, share in (("lost", odds.lost), ("answer lost", odds.answer_lost), ("late", odds.late)):
            if found < share:
                self.counts[f"network: {fate}"] += 1
                return fate  # type: ignore[return-value]
            found -= share
        return "answered"

    def delivery(self) -> DeliveryFate:
        """Say what becomes of a delivery."""
        odds, found = self.odds, self._random.random()
        for fate, share in (
            ("lost", odds.delivery_lost),
            ("disordered", odds.disordered),
            ("twice", odds.twice),
        ):
            if found < share:
                self.counts[f"delivery: {fate}"] += 1
                return fate  # type: ignore[return-value]
            found -= share
        return "delivered"

    def lateness_s(self, timeout_s: float) -> float:
        """Return how long a request travels whose sender gives up first, or nearly."""
        return self._random.uniform(0.8, 2.5) * timeout_s

    def slips_through(self) -> bool:
        """Whether what was sent on a connection that broke has reached the broker all the same."""
        return self._random.random() < 0.5

    def reconnect_s(self) -> float:
        """Return how long it takes to be back."""
        return self._random.uniform(0.01, 0.5)

    def silence_s(self) -> float:
        """Return when a stopped client is taken for gone."""
        return self._random.uniform(0.5, 2.0)

    def tick(self, now_ns: int, due_ns: int) -> tuple[int, list[int]]:
        """Return when a timer fires, and what other ticks there are."""
        if not self.chance(self.odds.bad_tick):
            return due_ns, []
        how = self._random.choice(("late", "early", "twice", "both"))
        self.counts[f"tick: {how}"] += 1
        early_ns = now_ns + int(self._random.random() * max(0, due_ns - now_ns))
        late_ns = due_ns + int(self._random.uniform(0.0, 4.0) * _SECOND_NS)
        if how == "late":
            return late_ns, []
        if how == "early":
            return early_ns, []
        return due_ns, [late_ns] if how == "twice" else [early_ns, late_ns]
