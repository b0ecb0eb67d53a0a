"""Those who want runs forgotten: they hear of them from the log, and ask early, late, twice, at once."""

from __future__ import annotations

import random
from collections import Counter

from core.ports import Record, RunKey
from core.run import VERSION
from handrail.v1 import event_pb2
from tests.simulation.broker import SimBroker
from tests.simulation.clients import Client
from tests.simulation.loop import SimLoop
from tests.simulation.watch import unbundled


class Forgetters:
    """Those who ask for runs to be forgotten."""

    def __init__(self, loop: SimLoop, broker: SimBroker, client: Client, *, seed: int | str) -> None:
        self._loop, self._broker, self._client = loop, broker, client
        self._random = random.Random(f"{seed}/forgetters")
        self.counts: Counter[str] = Counter()
        # Whether they ask for nothing: what is forgotten nobody undoes, so in many seeds nothing is.
        self.calm = self._random.random() < 0.6

    def hear(self, record: Record) -> None:
        """Hear of what was stored."""
        if record.event is None or record.address.channel != "dec" or self.calm:
            return
        key, chance = record.address.key, self._random
        for event in (part.event for part in unbundled(record) if part.event is not None):
            arm = event.WhichOneof("body")
            if arm in ("plan_accepted", "undo_planned") and chance.random() < 0.06:
                self._ask(key, "early", chance.uniform(0.0, 2.0))
            elif arm in ("finished", "undo_ended") and chance.random() < 0.25:
                self._ask(key, "ended", chance.choice((0.0, 0.001, 0.01, chance.uniform(0.0, 5.0))))
            elif arm == "forgotten" and chance.random() < 0.2:
                self._ask(key, "again", chance.choice((0.0, 0.005, chance.uniform(0.0, 90.0))))

    def _ask(self, key: RunKey, why: str, at_s: float) -> None:
        """Ask, as often as not in more than one voice, through the gateway or past it."""
        for number in range(self._random.choice((1, 1, 2, 3))):
            later_s = at_s + number * self._random.choice((0.0, 0.002, 0.2))
            self.counts[f"forgetters: {why}"] += 1
            if self._random.random() < 0.7:
                self._loop.later(later_s, self._client.forget, key)
            else:
                body = event_pb2.Forget(reason="as I like", submitter="eve")
                event = event_pb2.Event(id=self._random.randbytes(16).hex(), version=VERSION, forget=body)
                self._loop.later(later_s, self._broker.insist, key, event)
