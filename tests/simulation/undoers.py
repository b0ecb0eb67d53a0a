"""Those who want runs undone: they hear of them from the log, and ask early, twice, dry, for parts, again.

What they ask goes through the gateway's service, or straight into the log as a broken gateway would have it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from core.ports import Record, RunKey
from core.run import VERSION
from handrail.v1 import event_pb2
from tests.simulation.broker import SimBroker
from tests.simulation.clients import Client
from tests.simulation.loop import SimLoop
from tests.simulation.plans import Command
from tests.simulation.policies import APPROVERS, SUBMITTERS
from tests.simulation.watch import RunWatch, unbundled

MAX_ASKS = 4
"""Of one run, but for those that come at the same moment as another."""


class Undoers:
    """Those who ask for undos."""

    def __init__(
        self,
        loop: SimLoop,
        broker: SimBroker,
        client: Client,
        runs: Mapping[str, RunWatch],
        *,
        seed: int | str,
    ) -> None:
        self._loop, self._broker, self._client, self._runs = loop, broker, client, runs
        self._random = random.Random(f"{seed}/undoers")
        self._asks: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        # Whether they ask for nothing any more.
        self.calm = False

    def hear(self, record: Record) -> None:
        """Hear of what was stored."""
        if record.event is None or record.address.channel not in ("dec", "ans") or self.calm:
            return
        key, chance = record.address.key, self._random
        for event in (part.event for part in unbundled(record) if part.event is not None):
            arm = event.WhichOneof("body")
            if arm == "plan_accepted" and chance.random() < 0.1:
                self._ask(key, chance.uniform(0.0, 3.0))
            elif arm == "finished" and chance.random() < 0.55:
                self._ask(key, chance.choice((0.0, 0.01, chance.uniform(0.0, 5.0))))
            elif arm == "in_doubt" and chance.random() < 0.3 and not event.in_doubt.step.startswith("undo-"):
                # Somebody has seen enough.
                self._steer(key, chance.choice((0.0, chance.uniform(0.0, 1.0))), "cancel")
            elif arm == "undo_planned" and not event.undo_planned.dry_run:
                self._interfere(key)
            elif arm == "undo_ended" and chance.random() < (
                0.8 if event.undo_ended.HasField("failure") else 0.3
            ):
                # What was given up is wanted all the more.
                self._ask(key, chance.choice((0.0, 0.01, chance.uniform(0.0, 3.0))))
            elif self._is_a_part(key, event) and chance.random() < 0.08:
                self._steer(key, 0.0, "cancel")

    def _is_a_part(self, key: RunKey, event: event_pb2.Event) -> bool:
        """Whether a part of an undo has just been claimed, or let pass."""
        if event.HasField("gate_closed"):
            return self._runs[key.run].undo is not None
        return event.HasField("intent") and event.intent.attempt.startswith("undo-")

    def _ask(self, key: RunKey, at_s: float) -> None:
        """Ask for something, as often as not in more than one voice."""
        chance = self._random
        self._asks[key.run] += 1
        if self._asks[key.run] > MAX_ASKS:
            return
        for number in range(chance.choice((1, 1, 1, 2, 3))):
            self.counts["undoers: at once"] += number > 0
            self._loop.later(at_s + number * chance.choice((0.0, 0.0, 0.002, 0.2)), self._say, key)

    def _interfere(self, key: RunKey) -> None:
        """Do something about an undo that has just begun."""
        chance = self._random
        at_s = chance.choice((0.0, 0.01, chance.uniform(0.0, 1.0), chance.uniform(0.0, 5.0)))
        how = chance.random()
        if how < 0.15:
            self._steer(key, at_s, "cancel")
        elif how < 0.25:
            self._steer(key, at_s, "pause")
            # Some forget it.
            if chance.random() < 0.7:
                self._steer(key, at_s + chance.uniform(0.0, 4.0), "resume")
        elif how < 0.4:
            self._ask(key, at_s)

    def _steer(self, key: RunKey, at_s: float, command: Command) -> None:
        self.counts[f"undoers: {command}"] += 1
        self._loop.later(at_s, self._client.order, key.run, command)

    def _say(self, key: RunKey) -> None:
        """Ask for everything, or for a part, through the gateway or past it."""
        chance, wanted = self._random, event_pb2.Undo()
        wanted.submitter = chance.choice((*SUBMITTERS, *APPROVERS, ""))
        wanted.dry_run = chance.random() < 0.15
        state = self._runs[key.run].state
        names = [name for name in state.instances if not name.startswith("undo-")]
        if names and chance.random() < 0.35:
            wanted.step = chance.choice(names)
        elif chance.random() < 0.06:
            wanted.step = chance.choice((*state.instances, "nothing", "undo-s0", "undo-s1"))
        kind = "dry" if wanted.dry_run else "a part" if wanted.step else "everything"
        self.counts[f"undoers: {kind}"] += 1
        if chance.random() < 0.6:
            self._client.undo(key.run, wanted)
        else:
            event = event_pb2.Event(id=chance.randbytes(16).hex(), version=VERSION, undo=wanted)
            self._broker.insist(key, event)
