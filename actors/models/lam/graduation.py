"""Graduation: which kinds of steps the action model is asked about first, where another mind decides.

    lam/graduated.json      {"model": "0123456789ab, 0.92 0.92 0.93 0.97",
                             "kinds": {"89ab...": {"name": ..., "same": 60, ...}}}

It is looked at for every step, and needs nothing that takes time to import.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from actors.models import Proposer, Task
from actors.models.lam.proposing import LamProposer
from actors.models.lam.serving import Serving
from actors.models.lam.shelf import BadModel
from core import values
from handrail.v1 import event_pb2, plan_pb2

if TYPE_CHECKING:
    from actors.models.lam.answering import Model

_log = structlog.get_logger(__name__)
GRADUATED = "graduated.json"
KIND_CHARS = 12
_Z = 1.6449
"""Of the normal distribution: 95 % lie below it."""


def kind_of(title: str, inputs: Collection[str], grants: Sequence[plan_pb2.Grant]) -> str:
    """Name a kind of step by all that its author has said of it; what is fixed of a grant may differ."""
    granted = [[one.tool, sorted(one.arguments), dict(one.open)] for one in grants]
    return values.digest(values.encode([title, sorted(inputs), granted]))[:KIND_CHARS]


def bound(same: int, count: int) -> float:
    """Return what share is at least the same, with 95 % confidence: the lower end of Wilson's interval."""
    if not count:
        return 0.0
    share, spread = same / count, _Z * _Z / count
    middle = share + spread / 2
    wide = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - wide) / (1 + spread))


def standing(model: Model) -> str:
    """Name what kinds graduate for: a model, and how sure it has to be, since with less it would do more."""
    return (
        f"{model.digest}, {' '.join(f'{share:g}' for _, share in sorted(model.thinker.thresholds.items()))}"
    )


def graduated(place: Path, model: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the kinds that have graduated for a model's standing, and what it showed; raises BadModel."""
    path = place / GRADUATED
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        kinds = held["kinds"] if held["model"] == model else {}
        if not all(isinstance(one, dict) for one in kinds.values()):
            raise TypeError("a kind is an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    return dict(kinds)


def write(place: Path, model: str, kinds: Mapping[str, Mapping[str, Any]]) -> None:
    """Say which kinds have graduated for a model; of others nothing is kept."""
    new = place / f".{GRADUATED}"
    with new.open("w", encoding="utf-8") as file:
        json.dump({"model": model, "kinds": kinds}, file, indent=1, sort_keys=True, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(place / GRADUATED)


def change(place: Path, model: str, kind: str, shown: Mapping[str, Any] | None) -> None:
    """Have a kind graduate by what a model showed, or no more; what others have changed meanwhile stays."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / f".{GRADUATED}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kinds = {name: one for name, one in graduated(place, model).items() if name != kind}
        write(place, model, kinds if shown is None else {**kinds, kind: shown})


class GraduatedProposer:
    """Asks the action model about kinds that have graduated, and another mind where it is not sure."""

    def __init__(self, serving: Serving, place: Path, otherwise: Proposer) -> None:
        self._serving = serving
        self._lam = LamProposer(serving)
        self._place = place
        self._otherwise = otherwise

    async def propose(self, task: Task) -> event_pb2.Proposal:
        """Return what the model is sure of, else what the other proposes; raises CannotPropose."""
        thought: event_pb2.ModelThought | None = None
        if (model := await self._graduated_for(task)) is not None:
            found = await self._lam.propose(task, model)
            if found.HasField("call") and not found.call.unsure:
                return found
            thought = found.thought if found.HasField("thought") else None
        proposal = await self._otherwise.propose(task)
        if thought is not None:
            proposal.thought.CopyFrom(thought)
        return proposal

    async def _graduated_for(self, task: Task) -> Model | None:
        """Return the model that a step's kind has graduated for: another may serve a moment later."""
        try:
            if not (self._place / GRADUATED).exists():
                return None
            model = await self._serving.current()
            kinds = graduated(self._place, standing(model)) if model is not None else {}
        except Exception as error:  # noqa: BLE001
            # The supervision point for what has graduated: there is another mind, and it is asked as before.
            _log.warning("what has graduated cannot be read", error=f"{type(error).__name__}: {error}")
            return None
        return model if kind_of(task.title, task.inputs.keys(), task.grants) in kinds else None
