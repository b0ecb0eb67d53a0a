"""The humans of a seed: they hear of gates from the log, and decide late, twice, at once, wrongly or never.

What they say goes through the gateway's service, or straight into the log, as a gateway with bugs would have
it there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from core.ports import Record, RunKey
from core.run import VERSION
from core.view import gate_id
from handrail.v1 import event_pb2
from tests.simulation.broker import SimBroker
from tests.simulation.clients import Client
from tests.simulation.loop import SimLoop
from tests.simulation.plans import Command
from tests.simulation.policies import APPROVERS, OUTSIDER, SUBMITTERS

APPROVE, DENY = event_pb2.GATE_CHOICE_APPROVE, event_pb2.GATE_CHOICE_DENY
HAPPENED, REPEAT = event_pb2.GATE_CHOICE_HAPPENED, event_pb2.GATE_CHOICE_REPEAT
Choice: TypeAlias = event_pb2.GateChoice.ValueType


class Humans:
    """Those who are asked at gates."""

    def __init__(
        self,
        loop: SimLoop,
        broker: SimBroker,
        client: Client,
        note: Callable[[str], None],
        happened: Callable[[str, str], bool],
        *,
        seed: int | str,
    ) -> None:
        self._loop, self._broker, self._client, self._note = loop, broker, client, note
        # Whether an instance of a run has had its effect: what somebody sees who looks.
        self._happened = happened
        self._random = random.Random(f"{seed}/humans")
        self.counts: Counter[str] = Counter()
        # Whether they only decide, and pause nothing any more.
        self.calm = False
        # The bindings that were shown of a run so far.
        self._shown: dict[str, list[str]] = {}
        # The instances about which somebody was asked.
        self._asked: set[tuple[str, str]] = set()

    def hear(self, record: Record) -> None:
        """Hear of what was stored; where it is a gate, plan what is said there."""
        event = record.event
        if record.address.channel == "dec" and event is not None and event.HasField("gate_opened"):
            opened = event_pb2.GateOpened()
            opened.CopyFrom(event.gate_opened)
            if opened.kind == event_pb2.GATE_KIND_DOUBT:
                self._look_into(record.address.key, opened)
            else:
                self._plan(record.address.key, opened)
            self._shown.setdefault(record.address.key.run, []).append(opened.binding)

    def _plan(self, key: RunKey, opened: event_pb2.GateOpened) -> None:
        chance = self._random
        people = chance.sample(APPROVERS, len(APPROVERS))
        asked = {(key.run, item.step) for item in opened.items}
        again = not asked.isdisjoint(self._asked)
        self._asked |= asked
        at_s = self._moment(opened, slow=again)
        # Who is asked again wonders why.
        mood = chance.choices(
            ("agreed", "refused", "divided", "silent"), (6, 3, 2, 2) if again else (14, 1, 4, 1)
        )[0]
        self.counts[f"humans: {mood}"] += 1
        if mood == "agreed":
            many = max(1, opened.quorum + chance.choice((0, 1, 1, 2, 2, -1)))
            # As often as not all of them at the same moment.
            apart_s = chance.choice((0.0, 0.0, 0.3, 2.0))
            for number, who in enumerate(people[:many]):
                self._say(at_s + number * apart_s, key, opened, who, APPROVE)
        elif mood == "refused":
            self._say(at_s, key, opened, people[0], DENY)
        elif mood == "divided":
            later_s = at_s + chance.choice((0.0, 0.001, 0.5))
            said = chance.choice(((APPROVE, DENY), (DENY, APPROVE)))
            self._say(at_s, key, opened, people[0], said[0])
            self._say(later_s, key, opened, chance.choice(people), said[1])
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            self._err(key, opened, people[0], at_s)
        if chance.random() < 0.12 and not self.calm:
            self._interfere(key, at_s)

    def _look_into(self, key: RunKey, opened: event_pb2.GateOpened) -> None:
        """Plan who looks whether something happened, and says so; at some doubts nobody does."""
        chance = self._random
        for who in chance.sample((*APPROVERS, OUTSIDER), chance.choice((0, 1, 1, 2, 3))):
            at_s = self._moment(opened, slow=chance.random() < 0.5)
            self._loop.later(at_s, self._tell, key, opened, who, chance.random())

    def _tell(self, key: RunKey, opened: event_pb2.GateOpened, who: str, temper: float) -> None:
        """Say what became of something: nobody says that it happened who has not seen it."""
        choice = HAPPENED if self._happened(key.run, opened.items[0].step) else REPEAT
        if temper < 0.3:
            choice = DENY if temper < 0.2 else APPROVE
        self.counts[f"humans: {event_pb2.GateChoice.Name(choice)[12:].lower()}"] += 1
        self._say(0.0, key, opened, who, choice)

    def _moment(self, opened: event_pb2.GateOpened, *, slow: bool) -> float:
        """Return in how many seconds somebody decides: soon, later, or just at the end of the gate."""
        chance = self._random
        left_s = (opened.expires.ToNanoseconds() - self._loop.now_ns()) / 1e9
        if chance.random() < 0.15:
            return max(0.0, left_s + chance.uniform(-0.05, 0.05))
        fast = ((0.0, 0.05), (0.1, 1.0), (0.5, 6.0))
        least_s, most_s = chance.choice(((0.1, 1.0), (2.0, 10.0), (6.0, 20.0)) if slow else fast)
        return chance.uniform(least_s, most_s)

    def _err(self, key: RunKey, opened: event_pb2.GateOpened, who: str, at_s: float) -> None:
        """Say what must count for nothing."""
        chance = self._random
        how = chance.choice(
            ("again", "outsider", "requester", "stale", "late", "elsewhere", "nameless", "mute")
        )
        self.counts[f"humans: {how}"] += 1
        choice, near_s = chance.choice((APPROVE, APPROVE, DENY)), max(0.0, at_s + chance.uniform(-0.5, 0.5))
        if how == "again":
            self._say(near_s, key, opened, who, choice)
        elif how == "outsider":
            self._say(near_s, key, opened, OUTSIDER, choice)
        elif how == "requester":
            self._say(near_s, key, opened, chance.choice(SUBMITTERS), choice)
        elif how == "late":
            # Nobody may have looked since its end.
            left_s = max(0.0, (opened.expires.ToNanoseconds() - self._loop.now_ns()) / 1e9)
            for other in APPROVERS:
                self._later(left_s + chance.uniform(0.0, 0.4), key, opened, other, APPROVE)
        elif how == "stale":
            binding = chance.choice((*self._shown.get(key.run, ()), "0" * 64))
            for other in APPROVERS[: chance.randint(1, 3)]:
                self._later(near_s, key, opened, other, choice, binding=binding)
        elif how == "elsewhere":
            self._later(near_s, key, opened, who, choice, gate=chance.choice(("g1", "g2", "g99", "")))
        elif how == "nameless":
            self._later(near_s, key, opened, "", choice)
        else:
            self._later(near_s, key, opened, who, event_pb2.GATE_CHOICE_UNSPECIFIED)

    def _interfere(self, key: RunKey, at_s: float) -> None:
        """Steer the run while somebody decides."""
        commands: tuple[Command, ...] = self._random.choice((("cancel",), ("pause",), ("pause", "resume")))
        for number, command in enumerate(commands):
            at = max(
                0.0, at_s + self._random.uniform(-0.05, 0.05) + number * self._random.choice((0.02, 3.0))
            )
            self._loop.later(at, self._client.order, key.run, command)

    # --- how it is said ----------------------------------------------------------------------------

    def _say(self, at_s: float, key: RunKey, opened: event_pb2.GateOpened, who: str, choice: Choice) -> None:
        """Decide through the gateway, or straight into the log."""
        if self._random.random() < 0.5:
            self._later(at_s, key, opened, who, choice)
        else:
            name = gate_id(key.run, opened.gate)
            self._loop.later(at_s, self._client.decide, name, who, choice)

    def _later(
        self,
        at_s: float,
        key: RunKey,
        opened: event_pb2.GateOpened,
        who: str,
        choice: Choice,
        *,
        gate: str | None = None,
        binding: str = "",
    ) -> None:
        body = event_pb2.Decide(
            gate=opened.gate if gate is None else gate,
            choice=choice,
            binding=binding or opened.binding,
            approver=who,
            reason="as I see it",
        )
        if choice == HAPPENED and self._random.random() < 0.7:
            body.output.CopyFrom(opened.items[0].arguments["n"])
        event = event_pb2.Event(id=self._random.randbytes(16).hex(), version=VERSION, decide=body)
        self._loop.later(at_s, self._broker.insist, key, event)
