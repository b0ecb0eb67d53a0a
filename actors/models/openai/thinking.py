"""What a model makes of a goal: its calls as decisions, with the source of each value, and the plan of these.

Of a call that there is not, or that does not fit, nothing is taken over: the answer is refused as a whole,
with the reason. The plan is checked here as the decider checks it, so that a refusal says what the model did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from actors.models import Goal
from actors.models.lam.answering import reason_of, shown
from actors.models.lam.assembling import assemble
from actors.models.lam.options import PLAYBOOK, Option, Parameter, options_of
from actors.models.lam.planning import Thought, completed
from actors.models.lam.tracing import Tracer
from actors.models.openai.answer import BadAnswer, Called, Said, Tokens, read_answer, tokens_of
from actors.models.openai.endpoint import Endpoint, plain
from actors.models.openai.forms import without_nulls
from actors.models.openai.questions import NOTHING, Question, plan_question
from core import conformance, schemas, spelling, values
from core import plan as graph
from core.joining import CannotJoin
from core.plan_form import BadPlanForm, arguments_from_form
from core.playbook import BadPlaybook, Playbook
from core.slots import BadSlot
from handrail.v1 import event_pb2, plan_pb2, tool_pb2, trajectory_pb2

MAX_TOLD = 3
"""Of what is wrong with a plan."""
_NAME_CHARS = 80


@dataclass(frozen=True)
class Offer:
    """What a project offers: the closed set, and the bounds of a plan."""

    contracts: Mapping[str, tool_pb2.ToolContract]
    playbooks: Mapping[str, Playbook]
    limits: conformance.Limits

    @cached_property
    def options(self) -> dict[str, Option]:
        """Its tools and playbooks, by name."""
        return {one.name: one for one in options_of(self.contracts, self.playbooks.values())}


@dataclass(frozen=True)
class Made:
    """What came of a goal: a plan, or why there is none."""

    thought: Thought
    plan: plan_pb2.Plan | None
    reason: str
    tokens: Tokens

    def told(self, model: str) -> event_pb2.ModelThought:
        """Return what the log keeps of it; what was given in the context stands there already."""
        found = told(model, self.tokens, self.thought.steps)
        for step in found.decisions:
            for filled in step.call.arguments.values():
                if filled.HasField("context"):
                    filled.ClearField("value")
        return found


def told(model: str, tokens: Tokens, steps: Sequence[trajectory_pb2.PastStep] = ()) -> event_pb2.ModelThought:
    """Return what the log keeps of an answer; how sure it is such a model does not say."""
    return event_pb2.ModelThought(
        model=model, decisions=steps, input_tokens=tokens.read, output_tokens=tokens.written
    )


def think(endpoint: Endpoint, offer: Offer, goal: Goal) -> Made:
    """Ask for a plan of a goal; blocks. Raises EndpointError."""
    question = plan_question(goal, tuple(offer.options.values()), offer.contracts, offer.playbooks)
    answer = endpoint.ask(question.body)
    tokens = tokens_of(answer)
    thought = Thought("none")
    try:
        thought = _thought(read_answer(answer), question, offer, goal)
        if thought.outcome == "ask":
            return Made(thought, None, reason_of(thought, tuple(offer.options.values())), tokens)
        plan = _plan(thought, offer, goal)
    except BadAnswer as error:
        return Made(Thought("none", thought.steps), None, f"{endpoint.name}: {error}", tokens)
    plan.origin, plan.origin_sha256 = endpoint.name, ""
    return Made(thought, plan, "", tokens)


def _thought(said: Said, question: Question, offer: Offer, goal: Goal) -> Thought:
    why = none_of(said)
    if why:
        raise BadAnswer(why)
    tracer = Tracer(goal.text, goal.day, goal.context)
    steps: list[trajectory_pb2.PastStep] = []
    for one in said.calls:
        name = question.meant.get(one.name)
        option = offer.options.get(str(name)) if name is not None else None
        if option is None:
            raise BadAnswer(unknown(one, question))
        call = _call(one, option, offer, goal, tracer, steps)
        if any(step.call == call for step in steps):
            raise BadAnswer(f"it would do {one.name} twice, with the same values")
        steps.append(trajectory_pb2.PastStep(id=f"s{len(steps) + 1}", call=call))
        if call.missing:
            return Thought("ask", tuple(steps))
    return Thought("plan", tuple(steps))


def none_of(said: Said) -> str:
    """Say why nothing is to be done, where an answer calls nothing; else ""."""
    for one in said.calls:
        if one.name == NOTHING:
            return (
                f"it would do nothing: {plain(str(one.arguments.get('reason') or 'it does not say why'))!r}"
            )
    if said.calls:
        return ""
    return f"it says {said.text!r}" if said.text else "it answered with neither a call nor a text"


def unknown(one: Called, question: Question) -> str:
    """Say that a call is of nothing that there is."""
    near = spelling.hint(one.name, question.meant)
    return f"it calls {plain(one.name, _NAME_CHARS)!r}, which there is not{near}"


def _call(
    one: Called,
    option: Option,
    offer: Offer,
    goal: Goal,
    tracer: Tracer,
    before: Sequence[trajectory_pb2.PastStep],
) -> trajectory_pb2.OptionCall:
    try:
        given = arguments_from_form(one.name, _given(one, option, offer))
    except BadPlanForm as error:
        raise BadAnswer(plain(f"it calls {error}")) from None
    call = trajectory_pb2.OptionCall(option=option.name)
    for parameter in option.parameters:
        if parameter.name not in given:
            continue
        try:
            filled = _filled(given[parameter.name], parameter, option, offer, goal, tracer, before)
        except (BadAnswer, BadSlot, graph.BadReference, values.BadValue) as error:
            raise BadAnswer(
                plain(f"it calls {one.name}, where {parameter.name} cannot be: {error}")
            ) from None
        call.arguments[parameter.name].CopyFrom(filled)
    call.missing.extend(p.name for p in option.parameters if p.required and p.name not in call.arguments)
    return completed(call, option, goal.context)


def _given(one: Called, option: Option, offer: Offer) -> dict[str, Any]:
    """Return the values of a call that are said; a null says nothing, unless it is a value."""
    found: dict[str, Any] = {}
    contract = offer.contracts.get(option.name)
    schema = schemas.compile_schema(contract.input_schema) if contract is not None else None
    for name, value in one.arguments.items():
        parameter = option.parameter(name)
        if parameter is None:
            near = spelling.hint(name, [known.name for known in option.parameters])
            raise BadAnswer(
                f"it calls {one.name} with {plain(name, _NAME_CHARS)!r}, which that does not take{near}"
            )
        if schema is not None:
            part = (schemas.Node(schema.properties[name], schema.document),)
            value = without_nulls(value, part)
            if value is None and parameter.required and not schema.problems_of(name, None):
                found[name] = None
        if value is not None:
            found[name] = value
    return found


def _filled(
    argument: plan_pb2.Argument,
    parameter: Parameter,
    option: Option,
    offer: Offer,
    goal: Goal,
    tracer: Tracer,
    before: Sequence[trajectory_pb2.PastStep],
) -> trajectory_pb2.FilledArgument:
    if argument.HasField("reference"):
        return _referred(graph.parse_reference(argument.reference), option, goal, before)
    value = values.load(argument.constant, {})
    if option.is_playbook:
        slot = offer.playbooks[option.name.removeprefix(PLAYBOOK)].slots[parameter.name]
        value = slot.accept(value)
    found = tracer.trace(parameter, value)
    # Also of one that is from the context: that is how the plan comes by it.
    found.value.CopyFrom(values.inline(value))
    return found


def _referred(
    reference: graph.Reference, option: Option, goal: Goal, before: Sequence[trajectory_pb2.PastStep]
) -> trajectory_pb2.FilledArgument:
    found = trajectory_pb2.FilledArgument()
    if reference.root == "goal":
        key = reference.path[0] if len(reference.path) == 1 else None
        if not isinstance(key, str) or key not in goal.context:
            raise BadAnswer(f"{reference} was not given with the goal")
        found.context.key = key
        found.value.CopyFrom(values.inline(goal.context[key]))
        return found
    earlier = next((step for step in before if step.id == reference.root), None)
    if earlier is None:
        raise BadAnswer(f"{reference} is of no earlier call")
    if earlier.call.option.startswith(PLAYBOOK):
        raise BadAnswer(f"{reference} is of a playbook, which returns nothing")
    if option.is_playbook:
        raise BadAnswer(f"a playbook is filled in before anything is done, and {reference} is not known then")
    if not reference.path or not isinstance(reference.path[0], str):
        raise BadAnswer(f"{reference} does not say which field")
    found.field.step = reference.root
    found.field.path = str(reference).removeprefix(f"${reference.root}.")
    return found


def _plan(thought: Thought, offer: Offer, goal: Goal) -> plan_pb2.Plan:
    """Return the plan of what was decided, if it is one; raises BadAnswer."""
    what = shown(thought.steps)
    try:
        plan = assemble(thought.steps, offer.options, offer.playbooks)
        context = values.inline(dict(goal.context))
    except (BadPlaybook, BadSlot, CannotJoin, values.BadValue) as error:
        raise BadAnswer(f"it would do {what}, but {error}") from None
    # What the caller and the goal's own bounds allow is for the decider.
    asked = event_pb2.Goal(context=context, ceiling=tool_pb2.PERMISSION_ADMIN)
    wrong = conformance.check_plan(plan, offer.contracts, goal=asked, limits=offer.limits)
    if wrong:
        why = "; ".join(plain(f"{one.field}: {one.message}") for one in wrong[:MAX_TOLD])
        raise BadAnswer(f"it would do {what}, which cannot be done: {why}")
    return plan
