"""Rows as what the network should have said: labels beside what it reads, and batches of both."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.models.lam.closed_set import ABSTAIN, OTHERS, STOP, ClosedSet, choices_of
from actors.models.lam.deciding import FITTING
from actors.models.lam.layout import FIELD, LISTED, MATCHES, MISSING, OMIT, SPAN
from actors.models.lam.options import Option, Parameter
from actors.models.lam.reader import Candidate, Situation, TooLong, matches_of, read_situation, said_of
from actors.models.lam.text import Token, tokens_of
from actors.models.lam.tracing import Tracer, is_shared
from core import values
from handrail.v1 import trajectory_pb2

NOTHING = -100
"""A label that says nothing; torch's losses leave it out."""


NOT_REAL = "it says that a generator made it, or does not say who did"
OTHER_VERSION = "its tools or playbooks are others now"
UNTEACHABLE = "the network could not have decided like this"


class BadRow(ValueError):
    """A row that the network could not have decided like this."""


@dataclass(frozen=True, slots=True)
class Filling:
    """Where the value of one parameter comes from."""

    parameter: Parameter
    # Where it lies in the closed set.
    at: int
    source: int
    first: int = NOTHING
    last: int = NOTHING
    listed: int = NOTHING
    field: int = NOTHING


@dataclass(frozen=True, slots=True)
class Lesson:
    """A situation, and what should be decided in it."""

    situation: Situation
    # STOP, ABSTAIN, or OTHERS and the option's index.
    decision: int
    option: Option | None
    fillings: tuple[Filling, ...]
    # Where the options are that there were to choose among; None where all of them were.
    offered: NDArray[np.int64] | None = None


def lesson_of(row: trajectory_pb2.TrajectoryRow, closed: ClosedSet) -> Lesson:
    """Return what a row teaches; raises BadRow."""
    tokens = tokens_of(row.goal)
    try:
        situation = read_situation(row.goal, row.past, closed, tokens)
    except TooLong as error:
        raise BadRow(str(error)) from None
    offered = None
    if row.offered:
        named = [closed.index[name] for name in row.offered if name in closed.index]
        offered = np.array([ABSTAIN, *(OTHERS + at for at in named)], np.int64)
    kind = row.decision.WhichOneof("kind")
    if kind is None:
        raise BadRow("nothing is decided")
    if kind != "call":
        decision = STOP if kind == "stop" else ABSTAIN
        if offered is not None and decision not in offered:
            raise BadRow("there was a choice among others")
        return Lesson(situation, decision, None, (), offered)
    call = row.decision.call
    if call.option not in closed.index:
        raise BadRow(f"there is no option {call.option!r}")
    at = closed.index[call.option]
    option = closed.options[at]
    if offered is not None and OTHERS + at not in offered:
        raise BadRow("there was a choice among others")
    # What was given beside the goal is not for the network to fill: its words do not tell where it is from,
    # and not that it is missing either.
    fillings = tuple(
        _filling(call, option, one, closed, tokens, situation.candidates)
        for one in option.parameters
        if one.name not in call.arguments or not call.arguments[one.name].HasField("context")
    )
    return Lesson(situation, OTHERS + at, option, fillings, offered)


def _filling(
    call: trajectory_pb2.OptionCall,
    option: Option,
    parameter: Parameter,
    closed: ClosedSet,
    tokens: Sequence[Token],
    candidates: Sequence[Candidate],
) -> Filling:
    at = closed.parameter_at[option.name, parameter.name]
    if parameter.name in call.missing:
        return Filling(parameter, at, MISSING)
    if parameter.name not in call.arguments:
        return Filling(parameter, at, OMIT)
    filled = call.arguments[parameter.name]
    match filled.WhichOneof("source"):
        case "span":
            start, end = filled.span.start, filled.span.end
            touched = [i for i, t in enumerate(tokens, 1) if t.start < end and t.end > start]
            # The lesson is words: of a part of one it would teach all of it.
            if not touched or tokens[touched[0] - 1].start < start or tokens[touched[-1] - 1].end > end:
                raise BadRow(f"{parameter.name}: the span is not whole words")
            return Filling(parameter, at, SPAN, first=touched[0], last=touched[-1])
        case "field":
            for row, one in enumerate(candidates):
                if (one.id, one.path) == (filled.field.step, filled.field.path):
                    return Filling(parameter, at, FIELD, field=row)
            raise BadRow(f"{parameter.name}: no step before has such a field")
        case "enumerated":
            value = values.load(filled.value, {})
            told = str(value).lower() if isinstance(value, bool) else value
            listed = list(choices_of(parameter.kind, parameter.choices))
            if told not in listed:
                raise BadRow(f"{parameter.name}: {told!r} is not listed")
            return Filling(parameter, at, LISTED, listed=listed.index(told))
    raise BadRow(f"{parameter.name}: nobody can tell where its value is from")


@dataclass
class Batch:
    """Lessons as arrays; the fillings of all of them lie one below the other."""

    features: NDArray[np.int32]
    segments: NDArray[np.int32]
    used: NDArray[np.int32]
    mask: NDArray[np.bool_]
    decision: NDArray[np.int64]
    # Of each decision, whether it was to choose among.
    offered: NDArray[np.bool_]
    # Of each filling: its lesson, its option, its parameter and the labels.
    row: NDArray[np.int64]
    option: NDArray[np.int64]
    parameter: NDArray[np.int64]
    source: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    listed: NDArray[np.int64]
    field: NDArray[np.int64]
    # Of each filling, padded: listed values and fields, by where they lie, and what is told of them.
    choices: NDArray[np.int64]
    choice_mask: NDArray[np.bool_]
    said: NDArray[np.float32]
    fields: NDArray[np.int64]
    field_mask: NDArray[np.bool_]
    steps: NDArray[np.int64]
    matches: NDArray[np.float32]


def batch_of(lessons: Sequence[Lesson], closed: ClosedSet) -> Batch:
    """Return lessons as arrays."""
    length = max(len(one.situation) for one in lessons)
    count = len(lessons)
    features = np.zeros((count, length, lessons[0].situation.features.shape[1]), np.int32)
    segments, used = np.zeros((2, count, length), np.int32)
    mask = np.zeros((count, length), bool)
    offered = np.ones((count, OTHERS + len(closed.options)), bool)
    held: list[tuple[int, Lesson, Filling]] = []
    for row, lesson in enumerate(lessons):
        if lesson.offered is not None:
            offered[row] = False
            offered[row, lesson.offered] = True
        one = lesson.situation
        features[row, : len(one)] = one.features
        segments[row, : len(one)], used[row, : len(one)] = one.segments, one.used
        mask[row, : len(one)] = True
        held += ((row, lesson, filling) for filling in lesson.fillings)
    listed = [choices_of(f.parameter.kind, f.parameter.choices) for _, _, f in held]
    most = max((len(one) for one in listed), default=0) or 1
    most_fields = max((len(lesson.situation.candidates) for lesson in lessons), default=0) or 1
    choices = np.zeros((len(held), most), np.int64)
    choice_mask = np.zeros((len(held), most), bool)
    said = np.zeros((len(held), most), np.float32)
    fields, steps = np.zeros((2, len(held), most_fields), np.int64)
    field_mask = np.zeros((len(held), most_fields), bool)
    matches = np.zeros((len(held), most_fields, MATCHES), np.float32)
    for i, (_, lesson, filling) in enumerate(held):
        assert lesson.option is not None
        name, parameter = lesson.option.name, filling.parameter
        if listed[i]:
            n = len(listed[i])
            choices[i, :n] = [closed.choice_at[name, parameter.name, choice] for choice in listed[i]]
            choice_mask[i, :n] = True
            said[i, :n] = said_of(parameter, lesson.situation.tokens)
        candidates = lesson.situation.candidates
        if candidates:
            n = len(candidates)
            fields[i, :n] = [one.at for one in candidates]
            steps[i, :n] = [one.step for one in candidates]
            field_mask[i, :n] = True
            matches[i, :n] = matches_of(lesson.option, parameter, candidates)

    labels = np.array([(f.source, f.first, f.last, f.listed, f.field) for _, _, f in held], np.int64).reshape(
        -1, 5
    )

    return Batch(
        features,
        segments,
        used,
        mask,
        np.array([one.decision for one in lessons], np.int64),
        offered,
        np.array([row for row, _, _ in held], np.int64),
        np.array([lesson.decision for _, lesson, _ in held], np.int64),
        np.array([f.at for _, _, f in held], np.int64),
        labels[:, 0],
        labels[:, 1],
        labels[:, 2],
        labels[:, 3],
        labels[:, 4],
        choices,
        choice_mask,
        said,
        fields,
        field_mask,
        steps,
        matches,
    )


def batches(lessons: Sequence[Lesson], size: int, rng: random.Random) -> Iterator[list[Lesson]]:
    """Yield shuffled batches of lessons of like length, so that little is padded."""
    order = list(range(len(lessons)))
    rng.shuffle(order)
    chunk = size * 32
    found: list[list[Lesson]] = []
    for begin in range(0, len(order), chunk):
        part = sorted(order[begin : begin + chunk], key=lambda i: len(lessons[i].situation))
        found += ([lessons[i] for i in part[at : at + size]] for at in range(0, len(part), size))
    rng.shuffle(found)
    yield from found


def admitted(
    rows: Iterable[trajectory_pb2.TrajectoryRow], options: Iterable[Option]
) -> tuple[list[trajectory_pb2.TrajectoryRow], Counter[str]]:
    """Return the rows of a file that may train a model of these options, and how many may not, by why."""
    closed = ClosedSet(tuple(options))
    now = {one.name: one.fingerprint for one in closed.options}
    found: list[trajectory_pb2.TrajectoryRow] = []
    left: Counter[str] = Counter()
    for row in rows:
        why = _unfit(row, now)
        if not why:
            try:
                check_row(row, closed)
            except BadRow:
                why = UNTEACHABLE
        if why:
            left[why] += 1
        else:
            found.append(row)
    return found, left


def _unfit(row: trajectory_pb2.TrajectoryRow, now: Mapping[str, str]) -> str:
    """Say why a row must not train, whatever the network could make of it."""
    if row.source in (
        trajectory_pb2.TRAJECTORY_SOURCE_UNSPECIFIED,
        trajectory_pb2.TRAJECTORY_SOURCE_SYNTHETIC,
    ):
        return NOT_REAL
    if not row.trains:
        return row.why_not or "it does not say that it may"
    taken = {step.call.option for step in row.past} | {row.decision.call.option} - {""}
    unknown = any(name not in now for name in taken)
    if unknown or any(row.versions.options.get(name) != now[name] for name in taken):
        return OTHER_VERSION
    return ""


def check_row(row: trajectory_pb2.TrajectoryRow, closed: ClosedSet) -> None:
    """Refuse what a row of a file cannot teach, whoever wrote it; raises BadRow."""
    try:
        lesson_of(row, closed)
        if row.outcome not in ("", "done") or row.why_not:
            raise BadRow("it did not end well")
        tracer = Tracer(row.goal, row.said_at.ToDatetime(datetime.UTC).date())
        calls = [step.call for step in row.past]
        calls += [row.decision.call] if row.decision.HasField("call") else []
        for number, call in enumerate(calls):
            if call in calls[:number]:
                raise BadRow("it does the same thing twice")
            _check_call(call, row, tracer, closed)
        if is_shared(calls, {one.name: one for one in closed.options}):
            raise BadRow("two parameters have one value")
    except (values.BadValue, values.NotLoaded, ValueError, OverflowError) as error:
        raise BadRow(str(error)) from None


def _check_call(
    call: trajectory_pb2.OptionCall, row: trajectory_pb2.TrajectoryRow, tracer: Tracer, closed: ClosedSet
) -> None:
    """Check that a call has what it needs, and that its words mean what it says; raises BadRow."""
    option = closed.options[closed.index[call.option]]
    if any(one not in (own.name for own in option.parameters) for one in (*call.arguments, *call.missing)):
        raise BadRow(f"{option.name} does not take all of that")
    options = {step.id: closed.options[closed.index[step.call.option]] for step in row.past}
    for parameter in option.parameters:
        name = parameter.name
        if name not in call.arguments:
            if parameter.required and name not in call.missing:
                raise BadRow(f"{name}: nobody says what it is")
            continue
        filled = call.arguments[name]
        match filled.WhichOneof("source"):
            case "span":
                place = (filled.span.start, filled.span.end)
                if not tracer.reads(parameter, place, values.load(filled.value, {})):
                    raise BadRow(f"{name}: the words do not mean the value")
            case "field":
                kinds = FITTING.get(parameter.kind, frozenset({parameter.kind}))
                fields = options[filled.field.step].fields if filled.field.step in options else ()
                if not any(one.path == filled.field.path and one.kind in kinds for one in fields):
                    raise BadRow(f"{name}: no step before has such a field")


def lessons_of(rows: Iterable[trajectory_pb2.TrajectoryRow], closed: ClosedSet) -> Iterator[Lesson]:
    """Yield what rows teach, without those that teach nothing that the network could learn."""
    for row in rows:
        try:
            yield lesson_of(row, closed)
        except BadRow:
            continue
