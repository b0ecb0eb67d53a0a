"""What must hold of every effect as it happens, and of everything when nothing is left to happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bus.records import PLAIN
from core import permits, run, values
from core.decide import Catalogue, decide
from core.moves import Arm, Erase
from core.plan import parse_reference, resolve
from core.ports import Record
from core.state import Instance
from handrail.v1 import event_pb2, tool_pb2
from tests.simulation import approvals, undos
from tests.simulation.tools import CONTRACTS
from tests.simulation.watch import EffectInvariant, RunWatch, Watch
from tests.simulation.world import Effect


def effects_are_claimed(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """An effect happens under an attempt that its own worker has durably claimed and nobody took back."""
    kinds = watch.claims.get(effect.charge.attempt, []) if watch is not None else []
    if "intent" not in kinds:
        yield "an effect without a durable claim"
    if "revoked" in kinds:
        yield "an effect of an attempt that was taken back"


def effects_are_permitted(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """An effect is exactly what the decider has signed: the tool, the arguments, the key."""
    instance = watch.known.instances.get(effect.charge.step) if watch is not None else None
    attempts = instance.attempts if instance is not None else ()
    action = next((a.action for a in attempts if a.id == effect.charge.attempt), None)
    if action is None:
        yield "an effect that nobody asked for"
        return
    toolbox = CONTRACTS[effect.charge.tool].toolbox
    refusal = permits.refusal(action, watch.state.key, toolbox, effect.arguments, now_ns=None)
    # An effect is in no chain: its signature is its own.
    refusal = refusal or permits.foreign([action], all.checker)
    if refusal is not None or action.tool != effect.charge.tool:
        yield f"an effect other than what was permitted: {action} {refusal}"
    if effect.key and effect.key != action.key:
        yield f"an effect under the key {effect.key!r} instead of {action.key!r}"


def effects_happen_once(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """No step has two effects, whatever tool it used; only what is natural may be done again.

    What somebody wants done again, whatever became of it, is what they have asked for.
    """
    earlier = watch.effects.get(effect.charge.step, []) if watch is not None else []
    if earlier and watch is not None and effect.charge.step not in watch.wanted_again:
        yield f"a second effect of one step; the first was {earlier[0].charge} by {earlier[0].process}"


def the_ended_is_over(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """Nothing happens after a run's end, but for what it has surfaced as in doubt, and what an undo does."""
    if watch is None or effect.charge.step in watch.doubted:
        return
    if watch.is_over or (watch.ended is not None and not undos.is_compensation(effect.charge.step)):
        yield "an effect after its run has ended"


def effects_are_undone_once(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """A compensation happens to what has happened, as an undo that acts has planned it."""
    yield from undos.effects_are_undone_once(effect, watch)


def effects_are_allowed(effect: Effect, watch: RunWatch | None, all: Watch) -> Iterator[str]:
    """Nothing happens that the policy refuses which authorised it, or that had to be approved and was not."""
    yield from approvals.effects_are_allowed(effect, watch)


EFFECT_INVARIANTS: dict[str, EffectInvariant] = {
    invariant.__name__: invariant
    for invariant in (
        effects_are_claimed,
        effects_are_permitted,
        effects_are_allowed,
        effects_happen_once,
        effects_are_undone_once,
        the_ended_is_over,
    )
}


def runs_come_to_an_end(watch: RunWatch) -> Iterator[str]:
    """Every acknowledged goal ends, and every undo that was asked for."""
    if not watch.is_over:
        status = event_pb2.RunStatus.Name(watch.state.status)
        yield f"nothing will ever happen again, and the run is {status}"


def nothing_is_missing(watch: RunWatch, now_ns: int, catalogue: Catalogue, *, has_key: bool) -> Iterator[str]:
    """Who reads the whole log afresh wants to do nothing more, and waits for no time that is past."""
    for move in decide(watch.state, now_ns, catalogue, {}):
        waits = isinstance(move, Arm) and move.due_ns > now_ns
        # A key is deleted again at every look.
        if not waits and not (isinstance(move, Erase) and not has_key):
            yield f"a fresh decider would still want {type(move).__name__}"


def gates_come_to_an_end(watch: RunWatch) -> Iterator[str]:
    """When nothing is left to happen, a run waits at no gate: somebody has decided, or its time was over.

    A run that was left paused, or that has ended, has no time.
    """
    for name in watch.waiting if not watch.state.paused else ():
        yield f"nothing will ever happen again, and the gate {name} is open"


def folding_is_one(watch: RunWatch, records: list[Record]) -> Iterator[str]:
    """The log folded from nothing gives what was folded step by step."""
    if run.fold(watch.key, records) != watch.state:
        yield "the log folded from nothing is another state"


def the_forgotten_has_no_key(watch: RunWatch, records: list[Record], *, has_key: bool) -> Iterator[str]:
    """Of a run that is forgotten there is no key, of every other there is; and nobody needs it to know so."""
    if (watch.forgotten is None) != has_key:
        yield "it was forgotten, and can be read" if has_key else "its key is gone, and it was not forgotten"
    if watch.forgotten is not None and run.fold(watch.key, [*map(_erased, records)]) != watch.state:
        yield "the log folded without its key is another state"


def _erased(record: Record) -> Record:
    if (record.address.channel, *record.address.topic) in PLAIN:
        return record
    return replace(record, event=None, forgotten=True)


def effects_are_told(watch: RunWatch) -> Iterator[str]:
    """What is done has happened; what is said not to have happened, has not."""
    for instance in watch.known.instances.values():
        effects = watch.effects.get(instance.id, [])
        if instance.settled == "done" and _has_effect(instance) and not effects:
            yield f"{instance.id} is done and nothing has happened"
        if instance.settled == "failed" and effects and _denied(instance):
            yield f"{instance.id} is said not to have happened, and has"
        for effect in effects:
            attempt = next(a for a in instance.attempts if a.id == effect.charge.attempt)
            result = attempt.result.message if attempt.result is not None else event_pb2.Result()
            if result.HasField("failure") and result.happened == event_pb2.HAPPENED_NO:
                yield f"{attempt.id} says that it has not happened, and it has"


def values_flow_as_planned(watch: RunWatch) -> Iterator[str]:
    """What a step was done with is what its plan says, of the outputs that count."""
    state = watch.known
    if state.plan is None:
        return
    known = {name: i.output for name, i in state.instances.items() if i.output is not None}
    outputs = {name: values.load(value, {}) for name, value in known.items() if value.HasField("json")}
    outputs["goal"] = values.load(state.goal.context, {})
    for step in state.plan.steps:
        instance = state.instances[step.id]
        attempt = instance.current
        if step.each or step.rules or instance.settled != "done" or attempt is None or not attempt.is_act:
            continue
        if attempt.result is None or attempt.result.message.HasField("failure"):
            # It is done by the word of somebody.
            continue
        assert attempt.action is not None
        used = {**attempt.action.arguments, **attempt.result.message.arguments}
        for name, argument in step.arguments.items():
            wanted = (
                resolve(parse_reference(argument.reference), outputs)
                if argument.WhichOneof("form") == "reference"
                else values.load(argument.constant, {})
            )
            if values.load(used[name], {}) != wanted:
                yield f"{step.id} was done with {name}={values.load(used[name], {})} instead of {wanted}"


def _has_effect(instance: Instance) -> bool:
    act = next((a.action for a in reversed(instance.attempts) if a.is_act), None)
    return act is not None and CONTRACTS[act.tool].effect != tool_pb2.EFFECT_READ


def _denied(instance: Instance) -> bool:
    """Whether every attempt of an instance says that it has not happened."""
    for attempt in instance.attempts:
        if attempt.revoked or attempt.action is None:
            continue
        if attempt.result is None or attempt.result.message.happened != event_pb2.HAPPENED_NO:
            return False
    return True
