"""What may be done in a seed, and who must see it first: drawn policies, which change while runs go on.

Some seeds have none, and everything may be done in them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from core.policy import ALLOWED, Request, Ruling
from core.ports import Record
from tests.policies import LOST, NEVER
from tests.simulation.loop import SimLoop
from tests.simulation.tools import EFFECTS, UNDOES

SHARE = 0.5
RESTLESS_CHANGES = 6
APPROVERS = ("ada", "bob", "cy")
SUBMITTERS = ("ada", "dan")
OUTSIDER = "eve"
"""May decide nothing, and tries."""
SHOWN = ("look", "glance")
HEARD = ("intent", "orphan", "healed")
"""When what has been approved may have to be approved again."""
PLACES = ("decider-1", "decider-2", "gateway")
"""Where a policy is asked: the decider's word counts, the gateway's saves a human some time."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of a tool: how many approvals, whatever its argument or above some value of it."""

    quorum: int = 0
    above: int | None = None
    # Only where nobody who is trusted has written the argument.
    untrusted: bool = False
    # The value with which it is refused.
    never: int | None = None
    # Only of somebody; of everybody where it is empty.
    of: str = ""


@dataclass(frozen=True, slots=True)
class DrawnPolicy:
    """Rules by tool, and who may decide."""

    version: str
    rules: Mapping[str, Rule]
    # Who may decide nothing, and who only about what is small.
    barred: frozenset[str]
    limited: frozenset[str]

    def rule(self, request: Request) -> Ruling:
        """Say what the tool's rule says; it looks at one argument."""
        rule = self.rules.get(request.contract.name)
        if rule is None or rule.of not in ("", request.user):
            return ALLOWED
        unknown, n = "n" in request.unknown, request.arguments.get("n")
        if rule.never is not None and not unknown and n == rule.never:
            return NEVER
        asks = rule.quorum > 0 and (not rule.untrusted or "n" in request.untrusted)
        if asks and rule.above is not None:
            asks = not unknown and isinstance(n, int) and n > rule.above
        looks = rule.never is not None or (rule.quorum > 0 and rule.above is not None)
        if asks:
            return Ruling("gate", (LOST,), rule.quorum, open=unknown and looks)
        return Ruling("allow", open=unknown and looks)

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Say whether somebody may decide: never about what they have asked for themselves."""
        small = request.arguments.get("n") in (1, None)
        no = approver not in APPROVERS or approver in self.barred or approver == request.user
        return NEVER if no or (approver in self.limited and not small) else ALLOWED


@dataclass(frozen=True, slots=True)
class Change:
    """Another policy comes to each place in its own time: after a while, or just when something happens."""

    policy: DrawnPolicy
    at_s: float
    # The kind of event on which it comes, and on which of them; of none where its time is the seed's.
    event: str
    number: int
    # By place: how much later, and whether with a restart.
    how: Mapping[str, tuple[float, bool]]


@dataclass(frozen=True, slots=True)
class Regime:
    """The policies of a seed, and how long its gates stay open."""

    first: DrawnPolicy
    changes: tuple[Change, ...]
    gate_life_s: float
    submitters: tuple[str, ...]


def draw(seed: int | str) -> Regime | None:
    """Draw what holds in a seed; None where everything may be done."""
    chance, regret = random.Random(f"{seed}/policies"), random.Random(f"{seed}/policies/undo")
    if chance.random() >= SHARE:
        return None
    first = now = _policy(chance, regret, "v1", None)
    changes: list[Change] = []
    at_s, counted = 0.0, Counter[str]()
    restless = chance.random() < 0.4
    for number in range(RESTLESS_CHANGES if restless else chance.choice((0, 1, 2, 4))):
        # What was before may come back.
        again = number and chance.random() < 0.3
        now = first if again else _policy(chance, regret, f"v{number + 2}", now)
        how = {place: (chance.choice((0.0, 0.0, 0.0, 0.3, 2.0)), chance.random() < 0.4) for place in PLACES}
        event = "healed" if restless else chance.choice(("", *HEARD))
        counted[event] += 1 if restless else chance.randint(1, 2)
        at_s += chance.uniform(0.0, 4.0) if not event else 0.0
        wait_s = chance.choice((0.0, 0.0, 0.1, 1.0)) if event else at_s
        changes.append(Change(now, wait_s, event, counted[event] if event else 0, how))
    life_s = chance.choice((600.0, 600.0, 60.0, 15.0, 3.0))
    return Regime(first, tuple(changes), life_s, tuple(chance.choice(SUBMITTERS) for _ in range(8)))


def _policy(
    chance: random.Random, regret: random.Random, version: str, before: DrawnPolicy | None
) -> DrawnPolicy:
    """Draw a policy; where there was one before, most of it stays, or all.

    What is asked of undos is drawn apart: it changes nothing of the rest.
    """
    if before is not None and chance.random() < 0.4:
        return replace(before, version=version)
    rules = {
        tool: before.rules[tool] if before is not None and chance.random() < 0.8 else _rule(chance, tool)
        for tool in (*EFFECTS, *SHOWN)
    }
    for tool in UNDOES:
        again = before is not None and regret.random() < 0.8
        rules[tool] = before.rules[tool] if before is not None and again else _undo_rule(regret, tool)
    return DrawnPolicy(
        version,
        rules,
        barred=frozenset(who for who in APPROVERS if chance.random() < 0.06),
        limited=frozenset(who for who in APPROVERS if chance.random() < 0.12),
    )


def _rule(chance: random.Random, tool: str) -> Rule:
    rule = Rule()
    if chance.random() < (0.25 if tool in SHOWN else 0.75):
        rule = replace(rule, quorum=chance.choice((1, 1, 1, 2)))
    if chance.random() < 0.2:
        rule = replace(rule, above=chance.choice((1, 1, 2)))
    if chance.random() < 0.12:
        rule = replace(rule, untrusted=True)
    if chance.random() < 0.12:
        rule = replace(rule, never=chance.choice((2, 3)))
    return rule


def _undo_rule(regret: random.Random, tool: str) -> Rule:
    """Draw what is asked of a compensation: less often, and now and then of somebody only."""
    rule = replace(_rule(regret, tool), of=regret.choice(("", "", "", *SUBMITTERS)))
    return rule if regret.random() < 0.6 else Rule()


class Rollout:
    """Brings the policies of a seed to where they are asked, each in its time."""

    def __init__(
        self, loop: SimLoop, regime: Regime, *, restart: Callable[[str], None], swap: Callable[[str], None]
    ) -> None:
        self._loop, self._regime = loop, regime
        self._restart, self._swap = restart, swap
        self._heard: Counter[str] = Counter()
        self.now = dict.fromkeys(PLACES, regime.first)
        self._reached = dict.fromkeys(PLACES, -1)
        self.gate_life_ns = int(regime.gate_life_s * 1e9)

    def begin(self) -> None:
        """Plan what comes at its time."""
        self._bring("", 0)

    def hear(self, record: Record) -> None:
        """Hear of what was stored: something else may hold from then on."""
        event = record.event.WhichOneof("body") if record.event is not None else None
        if event in HEARD:
            self._heard[event] += 1
            self._bring(event, self._heard[event])

    def _bring(self, event: str, counted: int) -> None:
        for number, change in enumerate(self._regime.changes):
            if (change.event, change.number) == (event, counted):
                for place, (lag_s, _) in change.how.items():
                    self._loop.later(change.at_s + lag_s, self._reach, place, number)

    def _reach(self, place: str, number: int) -> None:
        """Have another policy hold at a place, unless what holds there is newer: all end with the same."""
        if number > self._reached[place]:
            change = self._regime.changes[number]
            self._reached[place], self.now[place] = number, change.policy
            (self._restart if change.how[place][1] else self._swap)(place)
