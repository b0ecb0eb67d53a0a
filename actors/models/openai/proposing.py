"""Steps with grants: the model proposes an action, which is checked against the grant as the decider will.

What it was given may hold instructions for it. They can have it choose badly among the grants, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.models import Task
from actors.models.lam.inputs import Leaf, text_of
from actors.models.lam.inputs import TooMuch as TooManyLeaves
from actors.models.lam.options import Parameter, options_of
from actors.models.lam.tracing import Tracer
from actors.models.openai.answer import BadAnswer, Called, read_answer, tokens_of
from actors.models.openai.endpoint import Endpoint, plain
from actors.models.openai.forms import without_nulls
from actors.models.openai.questions import Question, TooMuch, step_question
from actors.models.openai.thinking import none_of, told, unknown
from core import conformance, failures, grants, schemas, values
from handrail.v1 import event_pb2, plan_pb2, tool_pb2, trajectory_pb2

MAX_REASON_CHARS = 500
MAX_TRACED_CHARS = 8_000
"""Of what a step was given: in more nobody looks where a value stands."""

Contracts = Mapping[str, tool_pb2.ToolContract]


def propose(endpoint: Endpoint, task: Task, contracts: Contracts) -> event_pb2.Proposal:
    """Return a call within a grant, or why there is none; blocks. Raises EndpointError."""
    found = event_pb2.Proposal(model=endpoint.name)
    try:
        question = step_question(task, contracts)
    except TooMuch as error:
        return nothing(found, str(error))
    answer = endpoint.ask(question.body)
    found.thought.CopyFrom(told(endpoint.name, tokens_of(answer)))
    try:
        call = _call(answer, question, task, contracts)
    except BadAnswer as error:
        return nothing(found, str(error))
    found.thought.decisions.append(_decision(call, task, contracts))
    call.reason = f"{endpoint.name} proposes it"
    found.call.CopyFrom(call)
    return found


def nothing(found: event_pb2.Proposal, reason: str) -> event_pb2.Proposal:
    """Return a proposal of nothing, with the reason."""
    found.failure.CopyFrom(failures.permanent(failures.NO_PROPOSAL, reason[:MAX_REASON_CHARS]))
    return found


def _call(answer: Any, question: Question, task: Task, contracts: Contracts) -> event_pb2.Call:
    """Return the one call of an answer, if a grant allows it; raises BadAnswer."""
    said = read_answer(answer)
    if why := none_of(said):
        raise BadAnswer(why)
    if len(said.calls) > 1:
        raise BadAnswer(f"it makes {len(said.calls)} calls, and a step is one")
    (one,) = said.calls
    at = question.meant.get(one.name)
    if not isinstance(at, int):
        raise BadAnswer(unknown(one, question))
    grant = task.grants[at]
    given = _given(one, grant, contracts[grant.tool])
    shown = (
        f"{grant.tool}({', '.join(f'{name}={schemas.show(value)}' for name, value in sorted(given.items()))})"
    )
    schema = schemas.compile_schema(contracts[grant.tool].input_schema)
    call = event_pb2.Call(grant=at, tool=grant.tool)
    if missing := [name for name in sorted(grant.open) if name in schema.required and name not in given]:
        # Somebody is asked for it, at a gate.
        call.unsure = plain(f"nothing that it was given says {' and '.join(missing)}")
    try:
        for name, value in given.items():
            call.arguments[name].CopyFrom(values.inline(value))
    except values.BadValue as error:
        raise BadAnswer(plain(f"it would be {shown}, but {error}")) from None
    problems = grants.check_call(call, task.grants, given, task.inputs, contracts)
    # What is fixed is not known here, so what is missing is not, either.
    unfit = conformance.check_arguments(contracts[grant.tool], given)
    problems += [one for one in unfit if one.code != "missing_argument"]
    if problems:
        why = "; ".join(f"{one.field}: {one.message}" for one in problems)
        raise BadAnswer(plain(f"it would do {shown}, which it was not granted: {why}", MAX_REASON_CHARS))
    return call


def _given(one: Called, grant: plan_pb2.Grant, contract: tool_pb2.ToolContract) -> dict[str, Any]:
    """Return the values of a call that are said; a null says nothing, unless it is a value."""
    schema = schemas.compile_schema(contract.input_schema)
    found = {}
    for name, value in one.arguments.items():
        part = (schemas.Node(schema.properties.get(name, True), schema.document),)
        said = without_nulls(value, part)
        if said is not None or (
            name in grant.open and name in schema.required and not schema.problems_of(name, None)
        ):
            found[name] = said
    return found


def _decision(call: event_pb2.Call, task: Task, contracts: Contracts) -> trajectory_pb2.PastStep:
    """Return a call with the place of each value in what the step was given."""
    options = options_of({call.tool: contracts[call.tool]}, ())
    tracers = _tracers(task)
    found = trajectory_pb2.PastStep(id="s1", call=trajectory_pb2.OptionCall(option=call.tool))
    for name, value in call.arguments.items():
        parameter = options[0].parameter(name) if options else None
        found.call.arguments[name].CopyFrom(_traced(value, parameter, tracers))
    return found


def _tracers(task: Task) -> list[tuple[Leaf, Tracer]]:
    try:
        text, leaves = text_of(task.title, task.inputs)
    except TooManyLeaves:
        return []
    if len(text) > MAX_TRACED_CHARS:
        return []
    return [(leaf, Tracer(text[leaf.start : leaf.end], task.day)) for leaf in leaves]


def _traced(
    value: plan_pb2.Value, parameter: Parameter | None, tracers: list[tuple[Leaf, Tracer]]
) -> trajectory_pb2.FilledArgument:
    """Return a value with the one place where it stands; where there are several, nobody knows which."""
    places: list[trajectory_pb2.FilledArgument] = []
    for leaf, tracer in tracers:
        if parameter is None:
            break
        found = tracer.trace(parameter, values.load(value, {}))
        if found.HasField("enumerated"):
            return found
        if found.HasField("span"):
            start, end = found.span.start, found.span.end
            found.input.path = leaf.path
            if leaf.skipped is not None:
                found.input.start, found.input.end = start + leaf.skipped, end + leaf.skipped
            places.append(found)
    return places[0] if len(places) == 1 else _untraced(value)


def _untraced(value: plan_pb2.Value) -> trajectory_pb2.FilledArgument:
    return trajectory_pb2.FilledArgument(value=value, untraced=trajectory_pb2.Untraced())
