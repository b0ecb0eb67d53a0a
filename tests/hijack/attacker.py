"""The attacker: every mind is his after the first plan, and so is whoever writes what tools return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models import Model
from core import run
from core.choice import first_rule
from core.state import RunState
from handrail.v1 import event_pb2, plan_pb2
from tests.hijack.hands import Hands
from tests.hijack.means import EXTRA, FIRST, MEANS, SWAPPED
from tests.hijack.plans import Draft
from tests.hijack.stage import Stage, parts_of
from tests.hijack.world import Call, Injection


@dataclass
class Attacker:
    """Tries everything that needs only messages, once, at a moment of the run; forges at every gate."""

    injection: Injection
    draft: Draft
    calls: Sequence[Call]
    moment: str = FIRST
    # Somebody has left the broker open: he writes where only the decider may, and a worker hears it.
    open_broker: bool = False
    # What he restricts himself to.
    means: frozenset[str] = frozenset(MEANS)
    tried: Counter[str] = field(default_factory=Counter)
    # What the broker should have refused, and did not.
    let_through: list[str] = field(default_factory=list)
    # What he wrote as the decider.
    mine: set[str] = field(default_factory=set)
    _struck: bool = False
    _reused: set[str] = field(default_factory=set)

    async def watch(self, stage: Stage) -> None:
        """Attack until the run is over."""
        state = run.initial(stage.key)
        async for record in stage.reader.follow(stage.key):
            state = run.apply(state, record)
            hands = Hands(self, stage, state)
            for event in parts_of(record):
                if event.HasField("gate_opened"):
                    await hands.forge_decisions(event.gate_opened)
            await self._strike(hands, state, record.event)

    def tries(self, means: str) -> bool:
        """Count a try, where he tries this at all."""
        self.tried[means] += means in self.means
        return means in self.means

    async def finish(self, stage: Stage, state: RunState) -> None:
        """Attack after the run's end, where it was over before the moment came."""
        if not self._struck and state.plan is not None:
            await self._strike_once(Hands(self, stage, state))

    async def _strike(self, hands: Hands, state: RunState, event: event_pb2.Event | None) -> None:
        if state.plan is None or event is None:
            return
        if not self._struck and (self.moment == FIRST or self._is_last(state)):
            await self._strike_once(hands)
        genuine = event.HasField("action") and event.id not in self.mine
        if self.open_broker and genuine and event.action.tool not in self._reused:
            self._reused.add(event.action.tool)
            await hands.reuse(event, self.calls)

    async def _strike_once(self, hands: Hands) -> None:
        self._struck = True
        for call in self.calls:
            await hands.propose(call)
            await hands.replan(call)
            await hands.answer(call)
            await hands.forge_action(call)

    def _is_last(self, state: RunState) -> bool:
        last = self.draft.steps[-1]["id"]
        return any(
            instance.step == last and (instance.attempts or instance.gate)
            for instance in state.instances.values()
        )


class Contrary:
    """The mind of a hijacked executor: it proposes what the table does not say, one thing after another."""

    # What a mind calls itself is its word, as all the rest.
    model = Model("table")

    def __init__(self, attacker: Attacker) -> None:
        self._attacker = attacker
        self._turn = 0

    async def choose(
        self, rules: Sequence[plan_pb2.Rule], inputs: Mapping[str, Any]
    ) -> event_pb2.Choice | None:
        """Choose another row, then the attacker's tools under this row and under none."""
        held = first_rule(rules, inputs)
        others = [(row, rule.tool) for row, rule in enumerate(rules) if row != held]
        mine = [(row, call.function) for call in self._attacker.calls for row in (held or 0, len(rules))]
        wanted = [*others, *mine]
        row, tool = wanted[self._turn % len(wanted)]
        self._turn += 1
        self._attacker.tried[SWAPPED if (row, tool) in others else EXTRA] += 1
        return event_pb2.Choice(rule=row, tool=tool, reason=self._attacker.injection.goal)
