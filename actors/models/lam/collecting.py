"""Trajectories of runs: a projection of a run's log, with no clock, no model and nothing that is not in it.

Every decision of a plan becomes a row: what was wanted, what was decided before, the decision with the source
of each argument, and what came of it. A row trains only if the whole run was done, each of its steps was
confirmed by the verifier and no human put anything right, and if the model could have said it; else it says
why not. Why not is said in words without particulars, so that runs can be counted by it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.lam import step_lessons
from actors.models.lam.assembling import assemble
from actors.models.lam.inputs import Place
from actors.models.lam.layout import MAX_PAST
from actors.models.lam.options import PLAYBOOK, Option, Parameter, options_of
from actors.models.lam.splitting import side_of
from actors.models.lam.text import MAX_TOKENS, tokens_of
from actors.models.lam.tracing import Tracer, entities_of, is_shared
from actors.models.lam.verified import tool_of, verdict_of, why_not
from core import plan as graph
from core import run, schemas, spending, told, values
from core.errors import HandrailError
from core.playbook import Match, Playbook, instantiate, match
from core.ports import Record, RunKey
from core.redaction import MASK, Redactor, is_secret_name, masked, masked_json
from core.state import Instance, RunState
from handrail.v1 import event_pb2, plan_pb2
from handrail.v1 import trajectory_pb2 as pb

FORGOTTEN = "it was forgotten"
UNREADABLE = "its log cannot be read"
GOING_ON = "it has not ended"
DRY = "it was a dry run"
NO_PLAN = "it had no plan"

OTHER_TOOL = "another tool stood in for one of its own"
FAN_OUT = "it fans out, which the model cannot say"
CONDITION = "a step of it has a condition, which the model cannot say"
MIND = "a step of it needs a mind of its own, which the model cannot say"
NOT_SHOWN = "it was a plan of its own, and nobody said that it teaches"
REPEATED = "it does the same thing twice, which the model never does"
CHANGED = "its playbook has changed since, or is gone"
LONG = "it is longer than the model reads"
REDACTED = "something secret was taken out of it"
UNTRACED = "a value in it is not from the goal, its context or a listed one"
NO_FIELD = "a reference in it is to no field that the model knows"
NO_OPTION = "the model has no option for one of its tools"


@dataclass(frozen=True)
class Collected:
    """What a run gives: its rows, or why it gives none."""

    run: str
    rows: tuple[pb.TrajectoryRow, ...] = ()
    left_out: str = ""


@dataclass(frozen=True)
class _Decided:
    """A decision, the steps of the plan that it became, and what is wrong with it."""

    past: pb.PastStep
    steps: frozenset[str]
    why_not: str = ""


@dataclass
class _Story:
    """A run that has ended, and what it was planned with."""

    state: RunState
    playbooks: Mapping[str, Playbook]
    options: Mapping[str, Option]
    context: Mapping[str, Any]
    tracer: Tracer
    redacted: set[str] = field(default_factory=set)
    # What was taken out of arguments: it may stand in the goal too.
    secrets: set[str] = field(default_factory=set)


def collect(key: RunKey, records: Sequence[Record], playbooks: Sequence[Playbook]) -> Collected:
    """Return the rows of a run; `playbooks` are those of the project, as they are now."""
    state = run.fold(key, records)
    reason = FORGOTTEN if any(record.forgotten for record in records) else _left_out(state)
    if reason:
        return Collected(key.run, left_out=reason)
    day = datetime.datetime.fromtimestamp(state.submitted_ns / 1e9, datetime.UTC).date()
    context = _context(state.goal)
    story = _Story(
        state,
        {one.name: one for one in playbooks},
        {one.name: one for one in options_of(state.contracts, playbooks)},
        context,
        Tracer(state.goal.text, day, context),
    )
    writers = {part.event.handrail for r in records for part in run.unbundled(r) if part.event is not None}
    handrail = sorted(writers - {""})
    return Collected(key.run, (*_rows(story, handrail), *_step_rows(story, handrail)))


def _left_out(state: RunState) -> str:
    """Say why nothing is taken of a run; nothing where something is."""
    if state.forgotten is not None:
        return FORGOTTEN
    if state.unreadable or state.submit is None:
        return UNREADABLE
    if state.goal.dry_run:
        return DRY
    if not state.over:
        return GOING_ON
    return "" if state.plan is not None and state.plan.steps else NO_PLAN


def _context(goal: event_pb2.Goal) -> Mapping[str, Any]:
    """Return the goal's context; a large one lies elsewhere, and nothing is traced to it."""
    try:
        found = values.load(goal.context, {}) if goal.context.WhichOneof("kind") else {}
    except (values.BadValue, values.NotLoaded):
        found = {}
    return found if isinstance(found, Mapping) else {}


# --- what was decided --------------------------------------------------------------------------------


def _decided(story: _Story) -> list[_Decided]:
    plan, answer = story.state.plan, story.state.plan_answer
    assert plan is not None
    if story.state.goal.confirms.decisions:
        return _of_model(story, story.state.goal.confirms, plan)
    if not _is_own(story.state):
        return _of_client(story, plan)
    if plan.origin.startswith(PLAYBOOK):
        return [_of_playbook(story, plan.origin)]
    assert answer is not None
    return _of_model(story, answer.thought, answer.plan)


def _is_own(state: RunState) -> bool:
    """Whether a playbook or the model made its plan, and nobody gave it."""
    assert state.plan is not None
    answer = state.plan_answer
    told_so = answer is not None and len(answer.thought.decisions) > 0
    return state.plan.origin.startswith(PLAYBOOK) or told_so


def _of_playbook(story: _Story, name: str) -> _Decided:
    """Return the one decision for a playbook: the goal is matched again, and has to give the same plan."""
    assert story.state.plan is not None
    past = pb.PastStep(id="s1", call=pb.OptionCall(option=name))
    steps = frozenset(step.id for step in story.state.plan.steps)
    option = story.options.get(name)
    found = match(story.state.goal.text, list(story.playbooks.values()), story.context)
    answer = story.state.plan_answer
    if option is None or answer is None or not isinstance(found, Match):
        return _Decided(past, steps, CHANGED)
    if f"{PLAYBOOK}{found.playbook.name}" != name or not _same_steps(
        instantiate(found.playbook, found.slots), answer.plan
    ):
        return _Decided(past, steps, CHANGED)
    why = ""
    for parameter in option.parameters:
        slot, value = found.playbook.slots[parameter.name], found.slots[parameter.name]
        place = found.places.get(parameter.name)
        if place is None and parameter.name not in story.context and slot.default is not None:
            # It has its default, which nobody has said.
            continue
        if place is None and parameter.name in story.context:
            # Whatever the goal says of such a value, it says of something else.
            past.call.arguments[parameter.name].context.key = parameter.name
            continue
        why = _fill(story, past.call, parameter, value, place) or why
    return _Decided(past, steps, why)


def _of_model(story: _Story, thought: event_pb2.ModelThought, plan: plan_pb2.Plan) -> list[_Decided]:
    """Return the decisions as the model told them, if they still come to the same plan."""
    told_ones = list(thought.decisions)
    whole = frozenset(step.id for step in plan.steps)
    why = ""
    try:
        given = [_given(one, story.context) for one in told_ones]
        if not _same_steps(assemble(tuple(given), story.options, story.playbooks), plan):
            why = CHANGED
    except KeyError:
        why = UNTRACED
    except HandrailError:
        why = CHANGED
    why = why or _beyond(story, told_ones)
    found = []
    for one in told_ones:
        alone = frozenset(name for name in whole if name == one.id or name.startswith(f"{one.id}_"))
        past = pb.PastStep()
        past.CopyFrom(one)
        for name, argument in past.call.arguments.items():
            _redact(story, name, argument)
        lost = any(argument.HasField("untraced") for argument in past.call.arguments.values())
        found.append(_Decided(past, alone if len(told_ones) > 1 else whole, why or UNTRACED * lost))
    return found


def _beyond(story: _Story, told_ones: Sequence[pb.PastStep]) -> str:
    """Say what the action model could not have said: one behind an endpoint says more."""
    tools = {one.id: story.options.get(one.call.option) for one in told_ones}
    for filled in (filled for one in told_ones for filled in one.call.arguments.values()):
        if filled.HasField("untraced"):
            return UNTRACED
        if filled.HasField("field"):
            option = tools.get(filled.field.step)
            if option is None or filled.field.path not in {one.path for one in option.fields}:
                return NO_FIELD
    return ""


def _given(step: pb.PastStep, context: Mapping[str, Any]) -> pb.PastStep:
    """Return a decision with the values from the context, which the log has in one place only."""
    found = pb.PastStep()
    found.CopyFrom(step)
    for argument in found.call.arguments.values():
        if argument.HasField("context"):
            argument.value.json = values.encode(context[argument.context.key])
    return found


def _same_steps(one: plan_pb2.Plan, other: plan_pb2.Plan) -> bool:
    return list(one.steps) == list(other.steps)


def _of_client(story: _Story, plan: plan_pb2.Plan) -> list[_Decided]:
    """Return a decision for every step, in an order in which they can be taken one after another."""
    found = []
    for step in _in_order(plan):
        past = pb.PastStep(id=step.id, call=pb.OptionCall(option=step.tool))
        why = _unsayable(step) or _of_step(story, step, past.call)
        found.append(_Decided(past, frozenset((step.id,)), why))
    return found


def _in_order(plan: plan_pb2.Plan) -> Iterator[plan_pb2.Step]:
    """Yield steps as the plan has them, but each after those that it needs."""
    needs = graph.dependencies(plan)
    pending, done = list(plan.steps), set[str]()
    while pending:
        ready = next((one for one in pending if needs[one.id] <= done), pending[0])
        pending.remove(ready)
        done.add(ready.id)
        yield ready


def _unsayable(step: plan_pb2.Step) -> str:
    if step.each:
        return FAN_OUT
    if step.when:
        return CONDITION
    return "" if graph.canonical_route(step) == plan_pb2.ROUTE_DIRECT else MIND


def _of_step(story: _Story, step: plan_pb2.Step, call: pb.OptionCall) -> str:
    """Fill a call as a step has it; say what the model could not have said of it."""
    option = story.options.get(step.tool)
    if option is None:
        return NO_OPTION
    why = ""
    properties = schemas.compile_schema(story.state.contracts[step.tool].input_schema).properties
    for name in sorted(step.arguments):
        argument = step.arguments[name]
        parameter = option.parameter(name)
        if parameter is None:
            # The key's parameter, or one that no schema has: it is not the model's to fill.
            call.arguments[name].untraced.SetInParent()
            why = UNTRACED
        elif argument.WhichOneof("form") == "reference":
            why = _refer(story, call, name, argument.reference) or why
        else:
            part = properties.get(name)
            default = part.get("default", MASK) if isinstance(part, Mapping) else MASK
            why = _constant(story, call, parameter, argument.constant, default) or why
    return why


def _constant(
    story: _Story, call: pb.OptionCall, parameter: Parameter, constant: plan_pb2.Value, default: Any
) -> str:
    try:
        value = values.load(constant, {})
    except (values.BadValue, values.NotLoaded):
        call.arguments[parameter.name].untraced.SetInParent()
        return UNTRACED
    why = _fill(story, call, parameter, value)
    if why == UNTRACED and not parameter.required and value == default:
        # Nobody said it, and left out it is the same.
        del call.arguments[parameter.name]
        return ""
    return why


def _fill(
    story: _Story, call: pb.OptionCall, parameter: Parameter, value: Any, place: Place | None = None
) -> str:
    """Fill an argument with where its value is from; say if that is nowhere that the model could take it."""
    argument = call.arguments[parameter.name]
    argument.CopyFrom(story.tracer.trace(parameter, value, place))
    if _redact(story, parameter.name, argument):
        return REDACTED
    return UNTRACED if argument.HasField("untraced") else ""


def _refer(story: _Story, call: pb.OptionCall, name: str, text: str) -> str:
    reference = graph.parse_reference(text)
    argument = call.arguments[name]
    path = ".".join(map(str, reference.path))
    if reference.root == "goal":
        if len(reference.path) == 1:
            argument.context.key = path
            return ""
        argument.untraced.SetInParent()
        return UNTRACED
    argument.field.step, argument.field.path = reference.root, path
    assert story.state.plan is not None
    source = next((step for step in story.state.plan.steps if step.id == reference.root), None)
    option = story.options.get(source.tool) if source is not None else None
    return "" if option is not None and any(one.path == path for one in option.fields) else NO_FIELD


# --- what is not for everybody -----------------------------------------------------------------------


def _redact(story: _Story, name: str, argument: pb.FilledArgument) -> bool:
    """Take out what names itself a secret, and its place with it."""
    if not argument.value.HasField("json"):
        return False
    try:
        held = values.load(argument.value, {})
    except values.BadValue:
        # What somebody says that the model had read is whatever they have sent.
        argument.CopyFrom(pb.FilledArgument(untraced=pb.Untraced()))
        return False
    if not is_secret_name(name) and masked(held) == held:
        return False
    argument.CopyFrom(pb.FilledArgument(untraced=pb.Untraced()))
    story.redacted.add(name)
    story.secrets.update(_secrets(name, held))
    return True


def _secrets(name: str, value: Any) -> Iterator[str]:
    """Yield the texts of what stands under names that say that it is secret."""
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _secrets(name if is_secret_name(name) else key, held)
    elif isinstance(value, list):
        for held in value:
            yield from _secrets(name, held)
    elif is_secret_name(name) and value is not None and not isinstance(value, bool) and str(value):
        yield str(value)


def _all_secrets(story: _Story) -> list[str]:
    """Return every secret that was given with the goal or stands in the plan, the longest first."""
    found = story.secrets | set(_secrets("", story.context))
    assert story.state.plan is not None
    for step in story.state.plan.steps:
        for arguments in (step.arguments, *(one.arguments for one in graph.alternatives(step))):
            for name, argument in arguments.items():
                if argument.constant.HasField("json"):
                    found |= set(_secrets(name, values.load(argument.constant, {})))
    return sorted(found, key=lambda one: (-len(one), one))


class _Cleaner:
    """Takes secrets out of texts, in whatever form they stand there."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._redactor = Redactor((MASK, one) for one in secrets)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return masked_json(self._redactor.text(text))

    def value(self, value: Any) -> Any:
        """Return a value with what is secret in it masked, whatever it is called there."""
        if isinstance(value, Mapping):
            return {self.text(key): self.value(held) for key, held in value.items()}
        if isinstance(value, list):
            return [self.value(held) for held in value]
        if isinstance(value, str):
            return self.text(value)
        return MASK if not isinstance(value, bool) and str(value) in self._secrets else value


# --- what came of it ---------------------------------------------------------------------------------


def _other_tool(decided: _Decided, instances: Iterable[Instance]) -> bool:
    """Whether what was decided on did not do it; which tool does a playbook's step is not decided on."""
    name = decided.past.call.option
    return not name.startswith(PLAYBOOK) and any(tool_of(one) not in ("", name) for one in instances)


def _outcome(
    state: RunState, instance: Instance, spent: Mapping[str, int], cleaner: _Cleaner
) -> pb.StepOutcome:
    found = pb.StepOutcome(
        step=instance.id,
        tool=tool_of(instance),
        settled=instance.settled,
        attempts=len(instance.attempts),
        heals=[heal.strategy for heal in instance.heals],
        spent=spent,
    )
    current = instance.current
    if current is not None and current.result is not None and current.result.message.HasField("took"):
        found.took.CopyFrom(current.result.message.took)
    verdict = verdict_of(current)
    if verdict is not None:
        found.verdict = told.word(event_pb2.Outcome.DESCRIPTOR, verdict.outcome)
        for one in verdict.evidence:
            seen = values.digest(one.observed) if one.observed else ""
            found.evidence.add(condition=cleaner.text(one.condition), held=one.held, observed_sha256=seen)
    return found


def _observed(instance: Instance, options: Mapping[str, Option]) -> pb.Observation | None:
    """Say what an instance returned: which of the fields that can be referred to were there."""
    output = instance.output
    if output is None or instance.settled != "done":
        return None
    if output.HasField("blob"):
        return pb.Observation(step=instance.id, kind="blob", sha256=output.blob.sha256)
    option = options.get(tool_of(instance))
    held = values.load(output, {})
    paths = [one.path for one in (option.fields if option is not None else ()) if _has(held, one.path)]
    return pb.Observation(step=instance.id, kind="output", sha256=values.digest(output.json), fields=paths)


def _has(value: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return value is not None


# --- rows --------------------------------------------------------------------------------------------


def _rows(story: _Story, handrail: Sequence[str]) -> Iterator[pb.TrajectoryRow]:
    state = story.state
    decided = _decided(story)
    cleaner = _Cleaner(_all_secrets(story))
    goal = cleaner.text(state.goal.text)
    if goal != state.goal.text:
        story.redacted.add("goal")
    past = [_cleaned(story, one.past, cleaner) for one in decided]
    whole = why_not(state) or _whole(story, decided)
    entities = entities_of(past, story.options)
    common = pb.TrajectoryRow(
        trajectory=state.key.run,
        source=pb.TRAJECTORY_SOURCE_TEACH if state.goal.teaches else pb.TRAJECTORY_SOURCE_RUN,
        goal=goal,
        entities=entities,
        # What was given beside the goal counts, and is not told.
        split=side_of(state.key.run, entities_of(past, story.options, story.context)),
        outcome=told.word(event_pb2.RunStatus.DESCRIPTOR, state.status),
        versions=_versions(story, past, handrail),
        redacted=sorted(story.redacted),
    )
    common.said_at.FromNanoseconds(state.submitted_ns)
    if (confidence := _confidence(state)) is not None:
        common.confidence.CopyFrom(confidence)
    spent = spending.spent(state)
    before: list[pb.Observation] = []
    # What comes after a decision that cannot be said cannot be learnt either: the way there is not known.
    why = whole
    for index, one in enumerate([*decided, None]):
        row = pb.TrajectoryRow()
        row.CopyFrom(common)
        row.index = index
        row.past.extend(past[:index])
        row.observations.extend(before)
        if one is None:
            row.decision.stop.SetInParent()
        else:
            row.decision.call.CopyFrom(past[index].call)
            taken = [i for i in state.instances.values() if i.step in one.steps]
            row.steps.extend(_outcome(state, i, spent.get(i.id, {}), cleaner) for i in taken)
            before += filter(None, (_observed(i, story.options) for i in taken))
            why = why or one.why_not or (OTHER_TOOL if _other_tool(one, taken) else "")
        row.trains, row.why_not = not why, why
        yield row


def _step_rows(story: _Story, handrail: Sequence[str]) -> Iterator[pb.TrajectoryRow]:
    """Yield a row for each step in which a mind chose among grants."""
    state = story.state
    cleaner = _Cleaner(_all_secrets(story))
    spent = spending.spent(state)
    # What somebody put right is right, and what they put it to is what is taught.
    whole = why_not(state, though_amended=True)
    for instance in state.instances.values():
        lesson = step_lessons.lesson_of(state, instance, story.options)
        if lesson is None:
            continue
        text = cleaner.text(lesson.text)
        past = pb.PastStep(id=instance.id, call=lesson.call)
        why = whole or lesson.why_not or REDACTED * (text != lesson.text)
        if text != lesson.text:
            for argument in past.call.arguments.values():
                argument.untraced.SetInParent()
                argument.ClearField("value")
        row = pb.TrajectoryRow(
            trajectory=f"{state.key.run}/{instance.id}",
            source=pb.TRAJECTORY_SOURCE_RUN,
            goal=text,
            offered=lesson.offered,
            decision=pb.Decision(call=past.call),
            entities=entities_of([past], story.options),
            split=side_of(state.key.run, entities_of([past], story.options, story.context)),
            outcome=told.word(event_pb2.RunStatus.DESCRIPTOR, state.status),
            versions=_versions(story, [past], handrail),
            steps=[_outcome(state, instance, spent.get(instance.id, {}), cleaner)],
            trains=not why,
            why_not=why,
        )
        row.versions.model, row.versions.model_sha256 = lesson.proposal.model, lesson.proposal.model_sha256
        row.said_at.FromDatetime(datetime.datetime.combine(lesson.task.day, datetime.time()))
        thought = lesson.proposal.thought
        if thought.needed:
            row.confidence.CopyFrom(_confidence_of(thought))
        yield row


def _whole(story: _Story, decided: Sequence[_Decided]) -> str:
    """Say why no row of a run may train by what was decided in it: the goal asks for all of it or nothing."""
    if len(tokens_of(story.state.goal.text)) > MAX_TOKENS or len(decided) > MAX_PAST:
        return LONG
    unsaid = (FAN_OUT, CONDITION, MIND, CHANGED, NO_OPTION)
    why = next((one.why_not for one in decided if one.why_not in unsaid), "")
    if why or story.redacted:
        return why or REDACTED
    if not story.state.goal.teaches and not _is_own(story.state):
        return NOT_SHOWN
    calls = [one.past.call for one in decided]
    if any(call in calls[:number] for number, call in enumerate(calls)):
        return REPEATED
    return UNTRACED if is_shared(calls, story.options) else ""


def _cleaned(story: _Story, step: pb.PastStep, cleaner: _Cleaner) -> pb.PastStep:
    """Return a decision without secrets; where the goal is not whole, its places are not either."""
    found = pb.PastStep()
    found.CopyFrom(step)
    for name, argument in found.call.arguments.items():
        if argument.value.HasField("json"):
            held = values.load(argument.value, {})
            if cleaner.value(held) != held:
                argument.CopyFrom(pb.FilledArgument(untraced=pb.Untraced()))
                story.redacted.add(name)
        if argument.HasField("span") and "goal" in story.redacted:
            argument.untraced.SetInParent()
    return found


def _versions(story: _Story, past: Iterable[pb.PastStep], handrail: Sequence[str]) -> pb.TrajectoryVersions:
    state = story.state
    assert state.plan is not None
    actions = (attempt.action for one in state.instances.values() for attempt in one.attempts)
    taken = {step.call.option for step in past}
    return pb.TrajectoryVersions(
        model=state.plan.origin,
        model_sha256=state.plan.origin_sha256,
        options={name: story.options[name].fingerprint for name in sorted(taken & story.options.keys())},
        tools={name: told.fingerprint(contract) for name, contract in sorted(state.contracts.items())},
        policies=sorted({action.permit.policy for action in actions if action is not None} - {""}),
        handrail=handrail,
    )


def _confidence(state: RunState) -> pb.Confidence | None:
    answered = state.plan_answer.thought if state.plan_answer is not None else event_pb2.ModelThought()
    thought = state.goal.confirms if state.goal.confirms.decisions else answered
    if not thought.decisions or not thought.needed:
        return None
    return _confidence_of(thought)


def _confidence_of(thought: event_pb2.ModelThought) -> pb.Confidence:
    return pb.Confidence(
        raw=thought.raw,
        calibrated=thought.sure,
        needed=thought.needed,
        doubtful=thought.doubtful,
        alternatives=thought.alternatives,
    )
