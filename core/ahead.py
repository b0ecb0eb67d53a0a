"""Decide on: notes are applied in memory, and go out with the ask or the end that they lead to.

What `decide` says of a run holds as soon as it is durable, and one event makes all of it durable at once; so
nobody has to wait for a note before the next decision is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from core.decide import Catalogue, decide
from core.moves import Arm, Decide, Load, Move
from core.ports import Address, Record
from core.run import BUNDLED, VERSION, apply
from core.state import RunState
from handrail.v1 import event_pb2

MAX_AHEAD = 32
MAX_BUNDLE = 64


def decide_ahead(
    state: RunState, now_ns: int, catalogue: Catalogue, contents: Mapping[str, str] | None = None
) -> list[Move]:
    """Return what to do next, as far as nobody else has to do something first."""
    said: list[Decide] = []
    timers: dict[str, Arm] = {}
    for _ in range(MAX_AHEAD):
        moves = decide(state, now_ns, catalogue, contents)
        if any(isinstance(move, Load) for move in moves):
            # What has been decided needs no large value; the next look loads it.
            moves = [] if said else moves
        timers |= {move.timer: move for move in moves if isinstance(move, Arm)}
        decided = [move for move in moves if not isinstance(move, Arm)]
        notes = [move for move in decided if isinstance(move, Decide) and is_note(move)]
        if not notes or len(notes) < len(decided):
            return [*timers.values(), *bundle([*said, *decided])]
        for move in notes:
            state = _imagine(state, move, now_ns)
        said += notes
    return [*timers.values(), *bundle([*said])]


def is_note(move: Decide) -> bool:
    """Whether a decision asks nobody for anything, and somebody reading it later is soon enough."""
    return move.arm in BUNDLED and move.topic[0] == "note"


def can_be_overtaken(state: RunState, decision: Decide) -> bool:
    """Whether a decision holds only if nothing has been said in the run that the state does not tell of.

    It has a step acted on again whose last attempt may yet be answered: by its answer the step may be done
    already, and then a worker would act on what the run knows nothing of. Or it says what is taken back: what
    has turned out to have happened would be said to stay. Or that all is forgotten: an undo could not be seen
    through any more that was asked for meanwhile.
    """
    said = (*decision.before, decision)
    if any(isinstance(one.body, event_pb2.UndoPlanned | event_pb2.Forgotten) for one in said):
        return True
    again = (state.instances.get(one.body.step) for one in said if isinstance(one.body, event_pb2.Action))
    last = (instance.current for instance in again if instance is not None)
    return any(attempt is not None and attempt.in_flight for attempt in last)


def bundle(moves: list[Move]) -> list[Move]:
    """Put notes into the decision that they lead to."""
    bundled: list[Move] = []
    notes: list[Decide] = []
    for move in moves:
        if not isinstance(move, Decide):
            # A revoke waits for nobody's note.
            bundled += [*_alone(notes), move]
            notes = []
        elif is_note(move):
            notes.append(move)
        else:
            bundled.append(replace(move, before=(*notes, *move.before)))
            notes = []
        if len(notes) >= MAX_BUNDLE:
            bundled += _alone(notes)
            notes = []
    return [*bundled, *_alone(notes)]


def _alone(notes: list[Decide]) -> list[Decide]:
    return [replace(notes[-1], before=tuple(notes[:-1]))] if notes else []


def _imagine(state: RunState, move: Decide, now_ns: int) -> RunState:
    """Apply a note as it will stand in the log; its place there is not known yet, and no note keeps it."""
    event = event_pb2.Event(version=VERSION)
    getattr(event, move.arm).CopyFrom(move.body)
    return apply(state, Record(state.applied + 1, now_ns, Address(state.key, "dec", move.topic), event))
