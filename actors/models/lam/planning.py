"""Plans of the action model: decision after decision, on what the earlier ones will return, until it stops.

It sees nothing but the goal: what earlier steps return is known by the fields of their outputs alone, so the
constants of its plans are the user's words.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from actors.models.lam import calibration, rivals
from actors.models.lam.calibration import Calibration
from actors.models.lam.deciding import Decided, Decider
from actors.models.lam.leftovers import denied, left_over
from actors.models.lam.options import Option
from actors.models.lam.reader import TooLong, read_situation
from actors.models.lam.text import tokens_of
from core import values
from handrail.v1 import tool_pb2, trajectory_pb2

ASKING = 0.5
"""How sure it has to be to ask for what is missing."""
ASKS = 0.5
"""Surer than this, and not sure enough to act, it asks whether that is meant; where nobody says otherwise."""
GREETING = "Hello, "
"""What changes nothing about a goal: it is read once more with it."""
SURER_IN_STEPS = 2.2
"""By how much less doubt is left to it in a step: the curves are of goals, and others write the inputs."""

EFFECT_WORDS = {
    tool_pb2.EFFECT_READ: "read",
    tool_pb2.EFFECT_DRAFT: "draft",
    tool_pb2.EFFECT_WRITE: "write",
    tool_pb2.EFFECT_IRREVERSIBLE: "irreversible",
}

Outcome = Literal["plan", "ask", "unsure", "unread", "none", "long"]


@dataclass(frozen=True)
class Thought:
    """What the model makes of a goal.

    "plan": it would do `steps`; "ask": what is missing of the last of them has to be said first; "unsure": it
    would do `steps`, but is less sure of `doubtful` than it has to be; "none": nothing of what it knows does
    this; "long": it cannot read that much; "unread": a step would act on nothing that it was given.
    """

    outcome: Outcome
    steps: tuple[trajectory_pb2.PastStep, ...] = ()
    sure: float = 0.0
    needed: float = 0.0
    doubtful: str = ""
    # What of the goal was not read, though it weighs: see `leftovers`.
    left_over: str = ""
    # What it comes to with a greeting before it, where that is something else.
    otherwise: tuple[trajectory_pb2.PastStep, ...] | None = None
    # What a step was asked for, too, in another sentence of what it was given.
    rival: trajectory_pb2.OptionCall | None = None
    # What the network gave the part that it is least sure of, and the options that came next there.
    raw: float = 0.0
    alternatives: tuple[tuple[str, float], ...] = ()
    decided: tuple[Decided, ...] = field(default=(), repr=False)


class Thinker:
    """Makes plans within one closed set."""

    def __init__(
        self,
        decider: Decider,
        curves: Calibration,
        thresholds: Mapping[int, float],
        words: Collection[str],
    ) -> None:
        """`thresholds` say how sure a plan has to be, by its gravest effect; `words` are those it knows."""
        self.decider = decider
        self.thresholds = dict(thresholds)
        self._curves = curves
        self._words = frozenset(words)

    def without(self, names: Collection[str], *, gone: bool) -> Thinker:
        """Return one that may not take some options: they have changed since it learnt, or are `gone`."""
        decider = self.decider.without(names, gone=gone)
        return Thinker(decider, self._curves, self.thresholds, self._words)

    def think(self, goal: str, today: datetime.date, given: Mapping[str, Any] | None = None) -> Thought:
        """Return what it makes of a goal, and of what was given with it by the names of parameters.

        What it would do is read twice, and has to come to the same.
        """
        thought = self._followed(goal, today, given or {})
        would = thought.outcome in ("plan", "unsure") and not thought.left_over
        if not would or thought.steps[-1].call.missing:
            return thought
        return agreed(thought, self._followed(f"{GREETING}{goal}", today, given or {}))

    def _followed(self, goal: str, today: datetime.date, given: Mapping[str, Any]) -> Thought:
        """Decide until it stops."""
        tokens = tokens_of(goal)
        thought = Thought("none")
        while True:
            try:
                situation = read_situation(goal, thought.steps, self.decider.closed, tokens)
            except TooLong:
                return replace(thought, outcome="long")
            (one,) = self.decider.decide([(goal, situation)], today)
            thought = self._weighed(thought, one)
            if one.option is None:
                stops = one.decision.WhichOneof("kind") == "stop" and thought.steps
                return self._planned(goal, thought) if stops else replace(thought, outcome="none")
            call = completed(one.decision.call, one.option, given)
            if any(_unplaced(step.call) == _unplaced(call) for step in thought.steps):
                # To look once is enough; whether somebody wants a thing done twice, nobody knows.
                looks = all(self._effect(step) <= tool_pb2.EFFECT_READ for step in thought.steps)
                return self._planned(goal, thought) if looks else replace(thought, outcome="none")
            step = trajectory_pb2.PastStep(id=f"s{len(thought.steps) + 1}", call=call)
            thought = replace(thought, steps=(*thought.steps, step))
            if call.missing:
                # To ask does nothing to anybody.
                return _ended(replace(thought, needed=ASKING), "ask")

    def choose(
        self,
        text: str,
        today: datetime.date,
        among: Mapping[str, Collection[str]],
        told: Sequence[tuple[int, int]] = (),
    ) -> Thought:
        """Return what it would do of some options, filling in the parameters that are named with each.

        `told` is where in the text stands what somebody has said.
        """
        thought = Thought("none")
        try:
            situation = read_situation(text, (), self.decider.closed)
        except TooLong:
            return replace(thought, outcome="long")
        title = [(0, min(start for start, _ in told))] if told else []
        (one,) = self.decider.decide([(text, situation)], today, among, [*title, *told])
        thought = self._weighed(thought, one, calibration.STEP)
        thought = replace(thought, needed=1 - (1 - thought.needed) / SURER_IN_STEPS)
        if one.option is None:
            return thought
        step = trajectory_pb2.PastStep(id="s1", call=one.decision.call)
        thought = replace(thought, steps=(step,))
        acts = one.option.effect >= tool_pb2.EFFECT_WRITE
        # What was given to a step is no goal: most of it is there to be passed over, but not a denial.
        left = denied(text, thought.steps, told) if acts else ""
        if left:
            return replace(thought, outcome="unsure", left_over=left)
        if one.decision.call.missing:
            return replace(thought, outcome="ask")
        if acts and not any(filled.HasField("span") for filled in one.decision.call.arguments.values()):
            # Nothing ties it to what was said.
            return replace(thought, outcome="unread")
        ended = _ended(thought, "plan")
        if acts and ended.outcome == "plan":
            rival = self._rival(text, today, among, told, one.decision.call)
            return ended if rival is None else replace(ended, outcome="unsure", rival=rival)
        return ended

    def _rival(
        self,
        text: str,
        today: datetime.date,
        among: Mapping[str, Collection[str]],
        told: Sequence[tuple[int, int]],
        call: trajectory_pb2.OptionCall,
    ) -> trajectory_pb2.OptionCall | None:
        """Return what else a step may have been asked for; an empty call where nobody looked."""
        places = rivals.sentences(text, told)
        if len(places) < 2:
            return None
        if len(places) > rivals.MAX_SENTENCES:
            return trajectory_pb2.OptionCall()
        read = [
            (one, read_situation(one, (), self.decider.closed)) for one in rivals.parts(text, places, call)
        ]
        title = [(0, min(start for start, _ in told))]
        for one in self.decider.decide(read, today, among, [*title, *told]):
            other = one.decision.call
            sure = self._weighed(Thought("none"), one, calibration.STEP).sure
            if one.option is not None and sure > ASKS and rivals.is_rival(call, other):
                return other
        return None

    def _planned(self, goal: str, thought: Thought) -> Thought:
        """Return a thought that is done, if it is sure enough and leaves nothing of the goal unread."""
        effect = max(self._effect(step) for step in thought.steps)
        left = left_over(goal, thought.steps, effect, self._words)
        ended = _ended(thought, "plan")
        return replace(ended, outcome="unsure", left_over=left) if left else ended

    def _weighed(self, thought: Thought, one: Decided, where: str = "") -> Thought:
        """Return a thought that is as sure as its least sure decision, and has to be for all it would do."""
        kind = one.decision.WhichOneof("kind")
        key = one.option.name if one.option else calibration.STOP if kind == "stop" else calibration.ABSTAIN
        key = f"{where}{key}"
        least = min(one.parts, key=lambda part: self._curves.part(key, part))
        sure = self._curves.part(key, least)
        own = one.option.effect if one.option else tool_pb2.EFFECT_READ
        effect = max([own, *(self._effect(step) for step in thought.steps)])
        needed = self.thresholds.get(effect, 1.0)
        decided = (*thought.decided, one)
        if thought.decided and sure >= thought.sure:
            return replace(thought, needed=needed, decided=decided)
        thought = replace(thought, sure=sure, needed=needed, doubtful=least.what, decided=decided)
        return replace(thought, raw=least.raw, alternatives=one.alternatives)

    def _effect(self, step: trajectory_pb2.PastStep) -> int:
        return self.decider.closed.options[self.decider.closed.index[step.call.option]].effect


def completed(
    call: trajectory_pb2.OptionCall, option: Option, given: Mapping[str, Any]
) -> trajectory_pb2.OptionCall:
    """Return a call with what its words left open and somebody gave; that comes before defaults."""
    found = trajectory_pb2.OptionCall()
    found.CopyFrom(call)
    for parameter in option.parameters:
        name = parameter.name
        if name in given and name not in found.arguments:
            found.arguments[name].context.key = name
            found.arguments[name].value.json = values.encode(given[name])
            if name in found.missing:
                found.missing.remove(name)
    return found


def agreed(thought: Thought, again: Thought) -> Thought:
    """Return a thought that is as sure as it is in two readings; not at all where these differ."""
    if again.outcome == "long" and not again.steps:
        # There is no room for another word.
        return thought
    calls, others = _bare(thought), _bare(again)
    if again.outcome not in ("plan", "unsure") or calls != others:
        steps = again.steps if again.outcome != "none" else ()
        doubtful = _differing(calls, others)
        return replace(thought, outcome="unsure", sure=0.0, doubtful=doubtful, otherwise=steps)
    less = min(thought, again, key=lambda one: one.sure)
    thought = replace(thought, doubtful=less.doubtful, raw=less.raw, alternatives=less.alternatives)
    return _ended(replace(thought, sure=(thought.sure + again.sure) / 2), "plan")


def _bare(thought: Thought) -> list[trajectory_pb2.OptionCall]:
    """Return what would be called, wherever in the goal it is from."""
    return [_unplaced(step.call) for step in thought.steps]


def _unplaced(call: trajectory_pb2.OptionCall) -> trajectory_pb2.OptionCall:
    """Return a call without where in the goal its values stand."""
    found = trajectory_pb2.OptionCall()
    found.CopyFrom(call)
    for filled in found.arguments.values():
        if filled.HasField("span"):
            filled.span.Clear()
    return found


def _differing(
    calls: Sequence[trajectory_pb2.OptionCall], others: Sequence[trajectory_pb2.OptionCall]
) -> str:
    """Return the first parameter that two readings differ in; "option" where it is what is called."""
    if [one.option for one in calls] == [one.option for one in others]:
        for one, other in zip(calls, others, strict=True):
            for name in sorted({*one.arguments, *other.arguments}):
                # To ask with [] for what is not there would put it there.
                if one.arguments.get(name) != other.arguments.get(name):
                    return name
    return "option"


def _ended(thought: Thought, outcome: Outcome) -> Thought:
    return replace(thought, outcome=outcome if thought.sure >= thought.needed else "unsure")
