"""The schema-guided dialogues (github.com/google-research-datasets/dstc8-schema-guided-dialogue) as rows.

An intent of a service is an option; whenever the system calls a service, what was said until then is a text,
and the call is what should be decided in it, among the intents of the services of that dialogue. They are
licensed CC BY-SA 4.0: they are read where somebody has put them, and nothing of them is kept here.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.reading import Unreadable, read
from actors.models.lam.text import MAX_TOKENS, tokens_of
from core import values
from handrail.v1 import tool_pb2
from handrail.v1 import trajectory_pb2 as pb

TODAY = datetime.date(2019, 3, 1)
"""The day on which all of it is said, as the set's own description has it."""
ANY = "dontcare"
"""Said of what may be anything: a call leaves it out."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DATED = re.compile(r"(?:^|_)date$")
_TIMED = re.compile(r"(?:^|_)time$")
_SPEAKERS = {"USER": "user", "SYSTEM": "system"}


class NotDialogues(Exception):
    """A directory that does not hold what it should."""


@dataclass(frozen=True)
class Part:
    """One of the parts of the set: "train", "dev" or "test"."""

    place: Path

    @cached_property
    def services(self) -> frozenset[str]:
        """The names of the services that its dialogues are about."""
        return frozenset(one["service_name"] for one in self._schema)

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Every intent of every service."""
        return tuple(_option(service, intent) for service in self._schema for intent in service["intents"])

    def rows(self) -> Iterator[pb.TrajectoryRow]:
        """Yield a row for each call, with no source for what nobody has said in words that can be read."""
        options = {one.name: one for one in self.options}
        files = sorted(self.place.glob("dialogues_*.json"))
        if not files:
            raise NotDialogues(f"{self.place} has no dialogues_001.json")
        for file in files:
            for dialogue in _load(file):
                yield from _rows(dialogue, options)

    @cached_property
    def _schema(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = _load(self.place / "schema.json")
        return found


def service_of(option: str) -> str:
    """Return the service of an option."""
    return option.partition("__")[0]


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise NotDialogues(f"{file} cannot be read: {error}") from None


def _option(service: Mapping[str, Any], intent: Mapping[str, Any]) -> Option:
    slots = {one["name"]: one for one in service["slots"]}
    names = [(name, True) for name in intent["required_slots"]]
    names += [(name, False) for name in intent["optional_slots"]]
    parameters = tuple(_parameter(slots[name], required) for name, required in names)
    text = f"{intent['description']}. {service['description']}"
    effect = tool_pb2.EFFECT_WRITE if intent["is_transactional"] else tool_pb2.EFFECT_READ
    fingerprint = hashlib.sha256(json.dumps([service["service_name"], intent, slots]).encode()).hexdigest()
    return Option(name_of(service["service_name"], intent["name"]), text, effect, parameters, (), fingerprint)


def name_of(service: str, intent: str) -> str:
    """Return what the option of an intent is called."""
    return f"{service.lower()}__{_HUMP.sub('_', intent).lower()}"


def _parameter(slot: Mapping[str, Any], required: bool) -> Parameter:
    name = slot["name"]
    choices = tuple(slot["possible_values"]) if slot["is_categorical"] else ()
    kind: Kind = "choice" if choices else "date" if _DATED.search(name) else "text"
    kind = "time" if not choices and _TIMED.search(name) else kind
    return Parameter(name, kind, required, slot["description"], choices)


@dataclass(frozen=True)
class _Mention:
    """Where in the text a slot's value is said; its canonical form, where the set has one."""

    slot: str
    start: int
    end: int
    canonical: str


def _rows(dialogue: Mapping[str, Any], options: Mapping[str, Option]) -> Iterator[pb.TrajectoryRow]:
    offered = [name for name in options if service_of(name) in {s.lower() for s in dialogue["services"]}]
    if len(offered) < 2:
        # There is nothing to choose among.
        return
    turns = dialogue["turns"]
    for at, turn in enumerate(turns):
        for frame in turn["frames"]:
            if "service_call" not in frame:
                continue
            called = frame["service_call"]
            option = options[name_of(frame["service"], called["method"])]
            text, mentions = _told(turns[:at])
            row = pb.TrajectoryRow(
                trajectory=dialogue["dialogue_id"],
                index=at,
                source=pb.TRAJECTORY_SOURCE_IMPORT,
                goal=text,
                said_at=_noon(),
                offered=offered,
            )
            call = row.decision.call
            call.option = option.name
            for name, value in called["parameters"].items():
                parameter = option.parameter(name)
                if parameter is not None and value != ANY:
                    _fill(call, parameter, value, text, mentions)
            yield row


def _fill(
    call: pb.OptionCall, parameter: Parameter, value: str, text: str, mentions: Sequence[_Mention]
) -> None:
    """Fill in a value from where it was said last; what was never said in readable words has no source."""
    filled = call.arguments[parameter.name]
    filled.value.CopyFrom(values.inline(value))
    if parameter.choices:
        if value in parameter.choices:
            filled.enumerated.SetInParent()
        return
    folded = value.casefold()
    own = [one for one in mentions if one.slot == parameter.name]
    for one in [*own, *mentions]:
        said = text[one.start : one.end]
        if folded not in (one.canonical.casefold(), said.casefold()):
            continue
        try:
            meant = read(parameter.kind, said, TODAY)
        except Unreadable:
            continue
        if parameter.kind == "text" or meant == value:
            filled.value.CopyFrom(values.inline(meant))
            filled.span.CopyFrom(pb.GoalSpan(start=one.start, end=one.end))
            return


def _told(turns: Sequence[Mapping[str, Any]]) -> tuple[str, list[_Mention]]:
    """Return as many of the last turns as can be read, and what is said in them, the latest first."""
    lines: list[str] = []
    room = MAX_TOKENS
    for turn in reversed(turns):
        line = f"{_SPEAKERS[turn['speaker']]}: {turn['utterance']}"
        room -= len(tokens_of(line))
        if room < 0:
            break
        lines.append(line)
    kept = list(reversed(turns))[: len(lines)]
    text, mentions, end = "\n".join(reversed(lines)), [], 0
    for turn, line in zip(kept, lines, strict=True):
        # From the end of the text, where the last turn is.
        begins = len(text) - end - len(turn["utterance"])
        mentions += [mention for frame in turn["frames"] for mention in _mentions(frame, turn, begins)]
        end += len(line) + 1
    return text, mentions


def _mentions(frame: Mapping[str, Any], turn: Mapping[str, Any], begins: int) -> Iterator[_Mention]:
    canonical = {
        (action["slot"], value): meant
        for action in frame["actions"]
        for value, meant in zip(action["values"], action.get("canonical_values", ()), strict=False)
    }
    for one in frame.get("slots", ()):
        start, end = one["start"], one["exclusive_end"]
        said = turn["utterance"][start:end]
        yield _Mention(one["slot"], begins + start, begins + end, canonical.get((one["slot"], said), said))


def _noon() -> Timestamp:
    found = Timestamp()
    found.FromDatetime(datetime.datetime.combine(TODAY, datetime.time(12)))
    return found
