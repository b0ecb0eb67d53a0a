"""Trajectories as records of xLAM's ActionStudio, and back: a task, its tools, and a conversation.

What tools returned is not in a trajectory, so a record has, in the place of each answer, which fields of it
were there and its digest; an argument that is taken from it is written as the reference that it is in a plan.
Pure; what cannot be said in the other form is left out with its reason.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from actors.models.lam.collecting import LONG, UNTRACED
from actors.models.lam.layout import MAX_PAST
from actors.models.lam.options import Kind, Option, Parameter
from actors.models.lam.splitting import side_of
from actors.models.lam.text import MAX_TOKENS, tokens_of
from actors.models.lam.tracing import Tracer, entity_of
from core import values
from handrail.v1 import trajectory_pb2 as pb

TASK = (
    "Do what the user asks with the tools. Take every argument from the user's words, or as $step.field from "
    "what an earlier call returned. Stop when nothing is left to do."
)
STOPPED = "Done."
ABSTAINED = "None of the tools does this."
ASKED = "Please say"
_TYPES: Mapping[Kind, Mapping[str, Any]] = {
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
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
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        kind = row.decision.WhichOneof("kind")
        if kind != "call":
            conversation.append({"role": "assistant", "content": STOPPED if kind == "stop" else ABSTAINED})
            continue
        call = row.decision.call
        names[call.option] = None
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
    return {
        "unique_trajectory_id": first.trajectory,
        "task_instruction": TASK,
        "tools": [_tool(options[name]) for name in sorted(names) if name in options],
        "conversation": conversation,
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
    said: list[str] = []
    for turn in turns:
        if turn.get("role") == "tool":
            if past:
                returned[_answered(turn, past, returned)] = _loaded(turn.get("content"))
            continue
        if turn.get("role") != "assistant":
            raise BadRecord("more than one thing is said in it")
        calls = turn.get("tool_calls") or []
        said += [] if calls else [str(turn.get("content") or "")]
        for call in calls if isinstance(calls, list) else ():
            past.append(_call(call, options, tracer, past, returned))
    if not past:
        raise BadRecord("nothing is called in it")
    if len(past) > MAX_PAST:
        raise BadRecord(LONG)
    ends = [pb.Decision(stop=pb.Stop())] if said else []
    decisions = [*(pb.Decision(call=step.call) for step in past), *ends]
    return list(_rows(name, goal, said_on, licence, past, decisions, options))


def _rows(
    name: str,
    goal: str,
    said_on: datetime.date,
    licence: str,
    past: Sequence[pb.PastStep],
    decisions: Sequence[pb.Decision],
    options: Mapping[str, Option],
) -> Iterator[pb.TrajectoryRow]:
    entities = {
        entity_of(parameter, goal, argument)
        for step in past
        for parameter in options[step.call.option].parameters
        if parameter.name in step.call.arguments
        for argument in (step.call.arguments[parameter.name],)
        if argument.HasField("span")
    }
    why = ""
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
            entities=sorted(entities),
            trains=not why,
            why_not=why,
            split=side_of(name, entities),
            licence=licence,
            versions=pb.TrajectoryVersions(options={one: options[one].fingerprint for one in taken}),
        )
        row.said_at.FromDatetime(datetime.datetime.combine(said_on, datetime.time()))
        yield row


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
        values.encode(goal)
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
    step = pb.PastStep(id=str(call.get("id") or f"s{len(past) + 1}"), call=pb.OptionCall(option=name))
    if any(one.id == step.id for one in past):
        raise BadRecord("two calls in it have one id")
    for key in sorted(given):
        parameter = option.parameter(key)
        if parameter is None:
            raise BadRecord("it has an argument that the tool does not take")
        try:
            step.call.arguments[key].CopyFrom(
                _field(given[key], options, past, returned) or tracer.trace(parameter, given[key])
            )
        except values.BadValue:
            raise BadRecord("a call in it cannot be read") from None
    return step


def _field(
    value: Any, options: Mapping[str, Option], past: Sequence[pb.PastStep], returned: Mapping[str, Any]
) -> pb.FilledArgument | None:
    """Return where in what was returned a value stands: as a reference, or as the only such field."""
    fields = [(step.id, one.path) for step in past for one in options[step.call.option].fields]
    same = [at for at in fields if value == f"${at[0]}.{at[1]}"] or [
        at for at in fields if at[0] in returned and value == _at(returned[at[0]], at[1])
    ]
    if isinstance(value, bool) or value is None or len(same) != 1:
        return None
    ((step, path),) = same
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
        return None
