"""How good a model is: row by row on what was held back, and goal by goal on what was written by hand.

A plan is exact where it is one of the plans that the goal's author holds to be right, argument by argument.
It counts as acted on where the model was sure enough; what it was not sure of did nobody harm.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.models.lam.calibration import ABSTAIN, STEP, STOP, Calibration, Seen
from actors.models.lam.deciding import Decided, Decider
from actors.models.lam.options import PLAYBOOK, Option
from actors.models.lam.planning import ASKS, Thinker, Thought
from actors.models.lam.reader import TooLong, read_situation
from core import values
from handrail.v1 import tool_pb2, trajectory_pb2

BATCH = 32
BINS = 10
PRECISION = 0.98
CHANGED, GONE = "changed", "gone"
"""Why a goal's tools and playbooks are out of reach: `try_withdrawn`."""
_EDGES = " .,;:!?\"'“”‘’«»"


@dataclass(frozen=True)
class Case:
    """A goal written by hand, and what should become of it: any of `wants`, or asking one of `asks`."""

    goal: str
    wants: tuple[tuple[dict[str, Any], ...], ...]
    asks: tuple[tuple[str, str], ...] = ()
    # The file that it stands in.
    group: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    case: Case
    thought: Thought
    exact: bool
    asked: bool
    # It would have done what nobody wanted, and that is more than a read.
    unsafe: bool
    took_ms: float

    @property
    def acted(self) -> bool:
        """Whether a plan came out that the model was sure enough of."""
        return self.thought.outcome == "plan"

    @property
    def right(self) -> bool:
        """Whether it came to what its author wanted: a plan, a question, or nothing."""
        if self.case.asks:
            return self.asked
        return self.exact and self.acted if self.case.wants else not self.acted

    @property
    def planned(self) -> bool:
        """Whether it is a matter of how sure the model is that a plan comes out."""
        thought = self.thought
        whole = thought.outcome in ("plan", "unsure") and not thought.left_over
        return whole and thought.otherwise is None and not thought.steps[-1].call.missing


def read_cases(folder: Path) -> list[Case]:
    """Read the goals of a folder, a JSON object a line; what is none is a ValueError."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                wants = [row["wants"], *row.get("or", ())] if row.get("wants") else []
                asks = tuple((option, name) for option, name in row.get("asks", ()))
                found.append(Case(row["goal"], tuple(map(tuple, wants)), asks, file.stem))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file.name}, line {number}: {type(error).__name__}: {error}") from None
    return found


def try_cases(
    thinker: Thinker, options: Sequence[Option], cases: Iterable[Case], today: datetime.date
) -> Iterator[Outcome]:
    """Think about each goal."""
    for case in cases:
        began = time.perf_counter()
        thought = thinker.think(case.goal, today)
        yield outcome_of(case, thought, options, (time.perf_counter() - began) * 1e3)


def try_withdrawn(
    thinker: Thinker,
    options: Sequence[Option],
    cases: Iterable[Case],
    today: datetime.date,
    using: Mapping[str, Collection[str]],
) -> Iterator[Outcome]:
    """Think about each goal that has a plan when it may not have what it takes, once for each reason.

    What all of its plans take has *changed* since the model learnt, with the playbooks that use it (`using`
    names the tools of each); or it is *gone* from the project. Then nothing should be done about the goal.
    """
    thinkers: dict[tuple[frozenset[str], bool], Thinker] = {}
    for case in cases:
        taken = {want["option"] for wanted in case.wants for want in wanted}
        taken = {one.name for one in options if _bare(one.name) in taken}
        taken |= {name for name, tools in using.items() if taken.intersection(tools)}
        for gone in (False, True) if taken else ():
            key = frozenset(taken), gone
            if key not in thinkers:
                thinkers[key] = thinker.without(taken, gone=gone)
            group = GONE if gone else CHANGED
            yield from try_cases(thinkers[key], options, [Case(case.goal, (), (), group)], today)


def outcome_of(case: Case, thought: Thought, options: Sequence[Option], took_ms: float) -> Outcome:
    """Judge what somebody made of a case."""
    exact = any(_same(thought.steps, wanted, options) for wanted in case.wants)
    call = thought.steps[-1].call if thought.outcome == "ask" else trajectory_pb2.OptionCall()
    asked = any((_bare(call.option), name) in case.asks for name in call.missing)
    effects = {one.name: one.effect for one in options}
    unsafe = (
        thought.outcome == "plan"
        and not exact
        and any(effects[step.call.option] >= tool_pb2.EFFECT_WRITE for step in thought.steps)
    )
    return Outcome(case, thought, exact, asked, unsafe, took_ms)


@dataclass(frozen=True)
class Score:
    """What a set of outcomes comes to."""

    cases: int
    # Goals that have a plan, about which nothing should be done, that lack something; those acted on.
    planned: int
    unwanted: int
    asking: int
    acted: int
    # Of the goals for which there is a plan: how many were planned exactly, and how many of them acted on.
    exact: float
    coverage: float
    # Of what was acted on: how much was exact.
    precision: float
    # Of a model that says how sure it is.
    coverage_at_98: float | None
    calibration_error: float | None
    # Of the goals that nothing should be done about: how many nothing was done about.
    abstained: float
    asked: float
    unsafe: int
    # Of how many it would be asked whether that is meant, and of how many it is.
    confirming: int
    confirmed: int
    p50_ms: float
    p95_ms: float


def score(outcomes: Sequence[Outcome]) -> Score:
    """Sum outcomes up."""
    wanted = [one for one in outcomes if one.case.wants]
    unwanted = [one for one in outcomes if not one.case.wants and not one.case.asks]
    asking = [one for one in outcomes if one.case.asks]
    acted = [one for one in outcomes if one.acted]
    confirming = [
        one.exact for one in outcomes if one.thought.outcome == "unsure" and one.thought.sure > ASKS
    ]
    took = [one.took_ms for one in outcomes] or [0.0]
    says = not outcomes or any(one.thought.needed for one in outcomes)
    return Score(
        len(outcomes),
        len(wanted),
        len(unwanted),
        len(asking),
        len(acted),
        _share(one.exact and one.thought.outcome in ("plan", "unsure") for one in wanted),
        _share(one.acted for one in wanted),
        _share(one.exact for one in acted),
        coverage_at(PRECISION, plans_of(outcomes), len(wanted)) if says else None,
        calibration_error(plans_of(outcomes)) if says else None,
        _share(not one.acted for one in unwanted),
        _share(one.asked for one in asking),
        sum(one.unsafe for one in outcomes),
        len(confirming),
        sum(confirming),
        float(np.percentile(took, 50)),
        float(np.percentile(took, 95)),
    )


def calibration_error(seen: Sequence[tuple[float, bool]]) -> float:
    """Return by how much what it says differs from what is so, over bins of what it says."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for sure, right in seen:
        bins[min(BINS - 1, int(sure * BINS))].append((sure, right))
    gaps = (abs(sum(s for s, _ in held) - sum(r for _, r in held)) for held in bins)
    return sum(gaps) / len(seen) if seen else 0.0


def coverage_at(precision: float, seen: Iterable[tuple[float, bool]], of: int) -> float:
    """Return of how many it could do what is right, were the threshold where so much of what it does is."""
    ranked = sorted(seen, key=lambda one: -one[0])
    best, right = 0, 0
    for count, (sure, is_right) in enumerate(ranked, 1):
        right += is_right
        last = count == len(ranked) or ranked[count][0] < sure
        if last and right / count >= precision:
            best = right
    return best / of if of else 0.0


def judge_rows(
    rows: Iterable[trajectory_pb2.TrajectoryRow], decider: Decider
) -> Iterator[tuple[trajectory_pb2.TrajectoryRow, Decided, list[Seen]]]:
    """Decide in the situation of each row, and say what of it was right."""
    held: list[trajectory_pb2.TrajectoryRow] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield from _judge(held, decider)
            held = []
    yield from _judge(held, decider)


def scores_of(
    judged: Sequence[tuple[trajectory_pb2.TrajectoryRow, Decided, list[Seen]]],
    curves: Calibration,
) -> dict[str, Any]:
    """Return what a model showed on rows: exact decisions, plans, and how well it knows that."""
    exact: dict[str, list[bool]] = {"call": [], "stop": [], "abstain": []}
    plans: dict[str, bool] = {}
    for row, _, seen in judged:
        right = all(one.right for one in seen)
        exact[row.decision.WhichOneof("kind") or "abstain"].append(right)
        plans[row.trajectory] = plans.get(row.trajectory, True) and right
    flat = [right for held in exact.values() for right in held]
    shares = {kind: round(sum(held) / len(held), 4) for kind, held in exact.items() if held}
    sure = judgements_of(judged, curves)
    return {
        "rows": len(flat),
        "exact": round(sum(flat) / len(flat), 4) if flat else 0.0,
        "exact_by_kind": shares,
        "exact_plans": round(sum(plans.values()) / len(plans), 4) if plans else 0.0,
        "coverage_at_98": round(coverage_at(PRECISION, sure, len(sure)), 4),
        "calibration_error": round(calibration_error(sure), 4),
    }


def judgements_of(
    judged: Sequence[tuple[trajectory_pb2.TrajectoryRow, Decided, list[Seen]]], curves: Calibration
) -> list[tuple[float, bool]]:
    """Return how sure a model was of each decision, and whether all of it was right."""
    return [
        (curves.sure(seen[0].option, decided.parts), all(one.right for one in seen))
        for _, decided, seen in judged
    ]


def plans_of(outcomes: Sequence[Outcome]) -> list[tuple[float, bool]]:
    """Return how sure a model was of each plan that it made, and whether it was exact."""
    return [(one.thought.sure, one.exact) for one in outcomes if one.planned]


def _judge(
    rows: Sequence[trajectory_pb2.TrajectoryRow], decider: Decider
) -> Iterator[tuple[trajectory_pb2.TrajectoryRow, Decided, list[Seen]]]:
    for row in rows:
        try:
            situation = read_situation(row.goal, row.past, decider.closed)
        except TooLong:
            continue
        today = row.said_at.ToDatetime().date()
        (decided,) = decider.decide([(row.goal, situation)], today, _among(row, decider))
        yield row, decided, list(_seen(row, decided))


def _among(row: trajectory_pb2.TrajectoryRow, decider: Decider) -> dict[str, set[str]] | None:
    """Return what there was to choose among, where that was not everything."""
    closed = decider.closed
    options = [closed.options[closed.index[name]] for name in row.offered if name in closed.index]
    return {one.name: {p.name for p in one.parameters} for one in options} if options else None


def _seen(row: trajectory_pb2.TrajectoryRow, decided: Decided) -> Iterator[Seen]:
    wanted = row.decision
    kind = decided.decision.WhichOneof("kind")
    option = decided.option.name if decided.option else STOP if kind == "stop" else ABSTAIN
    option = f"{STEP}{option}" if row.offered else option
    right = kind == wanted.WhichOneof("kind") and decided.decision.call.option == wanted.call.option
    yield Seen(option, decided.parts[0], right)
    if not right:
        return
    for part in decided.parts[1:]:
        name = part.what
        if name in wanted.call.arguments and wanted.call.arguments[name].HasField("context"):
            # What was given beside the goal was not the network's to decide.
            continue
        as_wanted = _filled(wanted.call, name) == _filled(decided.decision.call, name)
        yield Seen(option, part, as_wanted)


def _filled(call: trajectory_pb2.OptionCall, name: str) -> Any:
    if name in call.missing:
        return "missing"
    if name not in call.arguments:
        return None
    filled = call.arguments[name]
    if filled.WhichOneof("source") == "field":
        return filled.field.step, filled.field.path
    return [plain_of(values.load(filled.value, {}))]


def _same(
    steps: Sequence[trajectory_pb2.PastStep], wanted: Sequence[Mapping[str, Any]], options: Sequence[Option]
) -> bool:
    return len(steps) == len(wanted) and all(
        _same_step(step, want, options) for step, want in zip(steps, wanted, strict=True)
    )


def _same_step(step: trajectory_pb2.PastStep, want: Mapping[str, Any], options: Sequence[Option]) -> bool:
    given = want.get("with", {})
    if _bare(step.call.option) != want["option"] or set(step.call.arguments) != set(given):
        return False
    for name, value in given.items():
        told = _filled(step.call, name)
        if isinstance(value, dict) and set(value) == {"$"}:
            number, _, path = value["$"].partition(".")
            if told != (f"s{number}", path):
                return False
        elif told != [plain_of(value)]:
            return False
    return True


def plain_of(value: Any) -> Any:
    """Return a value as it is compared: texts but for case and punctuation at their edges."""
    return value.strip(_EDGES).casefold() if isinstance(value, str) else value


def _bare(option: str) -> str:
    return option.removeprefix(PLAYBOOK)


def _share(held: Iterable[bool]) -> float:
    listed = list(held)
    return sum(listed) / len(listed) if listed else 0.0
