"""Trajectories as records of xLAM's ActionStudio, and back: a task, its tools, and a conversation.

What tools returned is not in a trajectory, so a record has, in the place of each answer, which fields of it
were there and its digest; an argument that is taken from it is written as the reference that it is in a plan.
A record says whether all of it may train, and why not: what comes back may do no more than what went.
Pure; what cannot be said in the other form is left out with its reason.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from actors.models.lam.collecting import LONG, REPEATED, UNTRACED
from actors.models.lam.deciding import FITTING
from actors.models.lam.layout import MAX_PAST
from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.splitting import side_of
from actors.models.lam.text import MAX_TOKENS, tokens_of
from actors.models.lam.tracing import Tracer, entities_of, is_shared, same
from core import values
from handrail.v1 import trajectory_pb2 as pb

TASK = (
    "Do what the user asks with the tools. Take every argument from the user's words, or as $step.field from "
    "what an earlier call returned. Stop when nothing is left to do."
)
STOPPED = "Done."
ABSTAINED = "None of the tools does this."
ASKED = "Please say"
UNTRUSTED = "its record says that it must not train"
_TYPES: Mapping[Kind, Mapping[str, Any]] = {
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "moment": {"type": "string", "format": "date-time-local"},
    "email": {"type": "string", "format": "email"},
    "list": {"type": "array"},
    "money": {
        "type": "object",
        "properties": {"minor": {"type": "integer"}, "currency": {"type": "string"}},
        "required": ["minor", "currency"],
    },
    "other": {},
}

Record = dict[str, Any]


class BadRecord(ValueError):
    """A record of which no rows can be made; its text has no particulars, so that they can be counted."""


def records(rows: Iterable[pb.TrajectoryRow], options: Mapping[str, Option]) -> Iterator[Record]:
    """Yield a record for each trajectory; rows of one stand together, in order."""
    held: list[pb.TrajectoryRow] = []
    for row in rows:
        if held and held[-1].trajectory != row.trajectory:
            yield _record(held, options)
            held = []
        held.append(row)
    if held:
        yield _record(held, options)


def _record(rows: Sequence[pb.TrajectoryRow], options: Mapping[str, Option]) -> Record:
    first = rows[0]
    conversation: list[Record] = [{"role": "user", "content": first.goal}]
    for number, row in enumerate(rows, start=1):
        kind = row.decision.WhichOneof("kind")
        if kind != "call":
            conversation.append({"role": "assistant", "content": STOPPED if kind == "stop" else ABSTAINED})
            continue
        call = row.decision.call
        # What the plan calls it is told by the row after it.
        past = rows[number].past if number < len(rows) else ()
        name = past[-1].id if past else f"s{number}"
        if call.missing:
            content = f"{ASKED}: {', '.join(call.missing)}."
            conversation.append({"role": "assistant", "content": content})
            continue
        function = {
            "name": call.option,
            "arguments": {n: _written(call.arguments[n]) for n in sorted(call.arguments)},
        }
        conversation.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": name, "type": "function", "function": function}],
            }
        )
        done = {step.step for step in row.steps}
        seen = [
            {"step": one.step, "fields": list(one.fields), "sha256": one.sha256}
            for one in (rows[number].observations if number < len(rows) else ())
            if one.step in done
        ]
        content = json.dumps(seen, sort_keys=True, separators=(",", ":"))
        conversation.append({"role": "tool", "tool_call_id": name, "content": content})
    granted: Record = {"granted": sorted(first.offered)} if first.offered else {}
    return granted | {
        "unique_trajectory_id": first.trajectory,
        "task_instruction": TASK,
        # All that there was to choose among: of the tools that are called alone nobody learns to choose.
        "tools": [_tool(options[name]) for name in sorted(first.offered or options) if name in options],
        "conversation": conversation,
        "trains": all(row.trains for row in rows),
        "why_not": next((row.why_not for row in rows if not row.trains), ""),
    }


def _written(argument: pb.FilledArgument) -> Any:
    if argument.HasField("field"):
        return f"${argument.field.step}.{argument.field.path}"
    if argument.HasField("context"):
        return f"$goal.{argument.context.key}"
    return values.load(argument.value, {}) if argument.HasField("value") else None


def _tool(option: Option) -> Record:
    properties = {one.name: _schema(one) for one in option.parameters}
    required = [one.name for one in option.parameters if one.required]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": option.name, "description": option.text, "parameters": parameters}
    return {"type": "function", "function": function}


def _schema(parameter: Parameter) -> Record:
    found: Record = dict(_TYPES.get(parameter.kind, {"type": "string"}))
    if parameter.choices:
        found["enum"] = list(parameter.choices)
    return found | ({"description": parameter.text} if parameter.text else {})


def rows_of(
    record: Any, options: Mapping[str, Option], *, said_on: datetime.date, licence: str
) -> list[pb.TrajectoryRow]:
    """Return the rows of a record whose tools are all options; raises BadRecord.

    Nobody has verified what it tells: that its rows train is the word of whoever imports them.
    """
    name, goal, turns = _parts(record)
    if len(tokens_of(goal)) > MAX_TOKENS:
        raise BadRecord(LONG)
    tracer, past, returned = Tracer(goal, said_on), list[pb.PastStep](), dict[str, Any]()
    stops = False
    for number, turn in enumerate(turns, start=1):
        if turn.get("role") == "tool":
            if past:
                returned[_answered(turn, past, returned)] = _loaded(turn.get("content"))
            continue
        if turn.get("role") != "assistant":
            raise BadRecord("more than one thing is said in it")
        calls = turn.get("tool_calls") or []
        if not isinstance(calls, list):
            raise BadRecord("a call in it cannot be read")
        if not calls:
            if number < len(turns):
                raise BadRecord("something is said between its calls")
            said = str(turn.get("content") or "")
            stops = bool(said) and not said.startswith((ABSTAINED, ASKED))
        for call in calls:
            past.append(_call(call, options, tracer, past, returned))
    if not past:
        raise BadRecord("nothing is called in it")
    if len(past) > MAX_PAST:
        raise BadRecord(LONG)
    if any(step.call == other.call for number, step in enumerate(past) for other in past[:number]):
        raise BadRecord(REPEATED)
    if any(_failed(one) for one in returned.values()):
        raise BadRecord("a tool failed in it")
    why = "" if record.get("trains", True) is True and not record.get("why_not") else UNTRUSTED
    why = why or (UNTRACED if is_shared((step.call for step in past), options) else "")
    decisions = [pb.Decision(call=step.call) for step in past]
    if stops:
        decisions.append(pb.Decision(stop=pb.Stop()))
    entities = entities_of(past, options)
    granted = record.get("granted", [])
    if not isinstance(granted, list) or not all(one in options for one in map(str, granted)):
        raise BadRecord("it has a tool that this project has not")
    if granted and (len(past) > 1 or stops):
        raise BadRecord("a step of it does more than one thing")
    rows = []
    for index, decision in enumerate(decisions):
        arguments = decision.call.arguments.values() if decision.HasField("call") else ()
        why = why or (UNTRACED if any(one.HasField("untraced") for one in arguments) else "")
        taken = [step.call.option for step in past[: index + 1]]
        row = pb.TrajectoryRow(
            trajectory=name,
            index=index,
            source=pb.TRAJECTORY_SOURCE_IMPORT,
            goal=goal,
            past=past[:index],
            decision=decision,
            entities=entities,
            trains=not why,
            why_not=why,
            split=side_of(name, entities),
            licence=licence,
            offered=granted,
            versions=pb.TrajectoryVersions(options={one: options[one].fingerprint for one in taken}),
        )
        row.said_at.FromDatetime(datetime.datetime.combine(said_on, datetime.time()))
        rows.append(row)
    return rows


def _parts(record: Any) -> tuple[str, str, Sequence[Mapping[str, Any]]]:
    try:
        name, turns = record["unique_trajectory_id"], record["conversation"]
        goal = turns[0]["content"]
        whole = isinstance(name, str) and isinstance(goal, str) and turns[0]["role"] == "user"
    except (TypeError, KeyError, IndexError):
        whole = False
    if not whole or not name or not all(isinstance(turn, dict) for turn in turns):
        raise BadRecord("it is no record of a goal and a conversation about it")
    try:
        values.encode([name, goal])
    except values.BadValue:
        raise BadRecord("its text is no Unicode") from None
    return name, goal, turns[1:]


def _call(
    call: Any,
    options: Mapping[str, Option],
    tracer: Tracer,
    past: Sequence[pb.PastStep],
    returned: Mapping[str, Any],
) -> pb.PastStep:
    try:
        function = call["function"]
        name, given = function["name"], function["arguments"]
        given = values.decode(given) if isinstance(given, str) else given
    except (TypeError, KeyError, values.BadValue):
        raise BadRecord("a call in it cannot be read") from None
    if not isinstance(given, dict) or not isinstance(name, str):
        raise BadRecord("a call in it cannot be read")
    if name not in options:
        raise BadRecord("it has a tool that this project has not")
    option = options[name]
    try:
        values.encode(id_ := str(call.get("id") or f"s{len(past) + 1}"))
    except values.BadValue:
        raise BadRecord("its text is no Unicode") from None
    step = pb.PastStep(id=id_, call=pb.OptionCall(option=name))
    if any(one.id == step.id for one in past):
        raise BadRecord("two calls in it have one id")
    if any(one.required and one.name not in given for one in option.parameters):
        raise BadRecord("a call in it lacks what the tool needs")
    for key in sorted(given):
        parameter = option.parameter(key)
        if parameter is None:
            raise BadRecord("it has an argument that the tool does not take")
        try:
            step.call.arguments[key].CopyFrom(_source(given[key], parameter, options, tracer, past, returned))
        except values.BadValue:
            raise BadRecord("a call in it cannot be read") from None
    return step


def _source(
    value: Any,
    parameter: Parameter,
    options: Mapping[str, Option],
    tracer: Tracer,
    past: Sequence[pb.PastStep],
    returned: Mapping[str, Any],
) -> pb.FilledArgument:
    """Return where a value is from: as it says, in the goal, or else the only field returned that is it."""
    kinds = FITTING.get(parameter.kind, frozenset({parameter.kind}))
    fields = [(s.id, one.path) for s in past for one in options[s.call.option].fields if one.kind in kinds]
    found = [at for at in fields if value == f"${at[0]}.{at[1]}"]
    traced = tracer.trace(parameter, value)
    if not found and traced.HasField("untraced") and not tracer.places(parameter, value):
        found = [at for at in fields if at[0] in returned and same(value, _at(returned[at[0]], at[1]))]
    if value is None or isinstance(value, bool) or len(found) != 1:
        return traced
    ((step, path),) = found
    return pb.FilledArgument(field=pb.FieldOf(step=step, path=path))


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _answered(turn: Mapping[str, Any], past: Sequence[pb.PastStep], returned: Mapping[str, Any]) -> str:
    """Return which call is answered: the one that is named, or the first that is not answered yet."""
    named = str(turn.get("tool_call_id") or "")
    waiting = [step.id for step in past if step.id not in returned]
    return named if any(step.id == named for step in past) else next(iter(waiting), past[-1].id)


def _loaded(content: Any) -> Any:
    try:
        return values.decode(content) if isinstance(content, str) else content
    except values.BadValue:
        return content


def _failed(answer: Any) -> bool:
    if isinstance(answer, Mapping):
        said = any(answer.get(name) for name in ("error", "errors", "is_error"))
        return said or any(answer.get(name) is False for name in ("ok", "success"))
    return isinstance(answer, str) and answer.lstrip().casefold().startswith(("error", "traceback"))
