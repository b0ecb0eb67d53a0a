"""Planted bugs: what the simulation is worth is how soon it finds them.

Each is a patch of the real code, as small as a mistake that somebody could make.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from bus import subjects
from bus.records import StoreLog
from core import course, run
from core.course import Course
from core.healing import Healer
from core.ports import Fence, LogError
from core.state import Instance as StepInstance
from core.state import RunState
from handrail.v1 import event_pb2
from orchestrator.decider import Decider
from orchestrator.submission import Submissions
from tests.simulation.network import SimLog
from workers import host
from workers.host import Worker
from workers.instance import Instance
from workers.toolbox import Toolbox

Mutant = Callable[[], AbstractContextManager[Any]]

_append = StoreLog.append


def _without_fence(dropped: Callable[[str, Fence], bool]) -> AbstractContextManager[Any]:
    """Append without some of the fences; the first argument that is asked is the kind of event."""

    async def append(self: Any, address: Any, event: Any, *, fence: Fence | None = None) -> int:
        if fence is not None and dropped(str(event.WhichOneof("body")), fence):
            fence = None
        return await _append(self, address, event, fence=fence)

    return patch.object(StoreLog, "append", append)


# --- fences ------------------------------------------------------------------------------------------


def decisions_without_fence() -> AbstractContextManager[Any]:
    """Two deciders write past each other."""
    return _without_fence(lambda kind, fence: fence.filter.endswith(".dec.>"))


def claims_without_fence() -> AbstractContextManager[Any]:
    """A worker claims what another has claimed, or what was taken back."""
    return _without_fence(lambda kind, fence: kind == "intent")


def revokes_without_fence() -> AbstractContextManager[Any]:
    """The decider takes back what was claimed."""
    return _without_fence(lambda kind, fence: kind == "revoked")


def refusals_without_fence() -> AbstractContextManager[Any]:
    """A worker refuses what another has claimed meanwhile."""
    return _without_fence(lambda kind, fence: kind == "result")


def submissions_without_cell() -> AbstractContextManager[Any]:
    """A request that is repeated makes another run."""

    async def reserve(self: Any, request_id: str, new: str, digest: str) -> str:
        return new

    return patch.object(Submissions, "_reserve", reserve)


# --- the worker --------------------------------------------------------------------------------------


def effect_before_intent() -> AbstractContextManager[Any]:
    """The claim is on its way when the tool is called."""
    claim = Worker._claim

    async def hasty(self: Any, key: Any, attempt: str) -> bool:
        self._hasty = asyncio.create_task(claim(self, key, attempt))
        await asyncio.sleep(0)
        return True

    return patch.object(Worker, "_claim", hasty)


def lost_claim_is_ignored() -> AbstractContextManager[Any]:
    """A worker whose claim came second acts all the same."""
    claim = Worker._claim

    async def deaf(self: Any, key: Any, attempt: str) -> bool:
        await claim(self, key, attempt)
        return True

    return patch.object(Worker, "_claim", deaf)


def result_after_ack() -> AbstractContextManager[Any]:
    """A result is sent once and not waited for."""

    async def careless(self: Any, key: Any, results: Any) -> None:
        for result in results:
            subject = subjects.build(self._address(key, "result", result.attempt))
            event = self._result_event(result).SerializeToString()
            sending = self._log.store.publish(subjects.ev_stream(key.shard), subject, event)
            self._sending = asyncio.create_task(_quietly(sending))

    return patch.object(Worker, "_append_results", careless)


async def _quietly(sending: Any) -> None:
    with suppress(LogError):
        await sending


def orphans_are_kept_quiet() -> AbstractContextManager[Any]:
    """Nobody says that a claim has gone silent."""

    async def quiet(self: Any, delivery: Any, attempt: str) -> bool:
        return True

    return patch.object(Worker, "_report_lost_claim", quiet)


def silence_is_death() -> AbstractContextManager[Any]:
    """Who does not answer is said to be dead."""
    return patch.object(Instance, "knows_dead", lambda self, other: other != str(self))


def permits_are_not_checked() -> AbstractContextManager[Any]:
    """A worker acts on any permit, and one that has expired too."""
    return patch.object(Toolbox, "refusal", lambda self, key, action, arguments: None)


# --- the decider -------------------------------------------------------------------------------------


def ack_before_append() -> AbstractContextManager[Any]:
    """The decider acknowledges first and decides then."""
    look = Decider._look

    async def hasty(self: Any, entry: Any, batch: Any) -> None:
        for delivery in batch:
            await delivery.ack()
        await look(self, entry, batch)

    return patch.object(Decider, "_look", hasty)


def gaps_are_not_seen() -> AbstractContextManager[Any]:
    """The decider applies what comes, whatever it has missed."""
    return patch.object(Decider, "_check_order", lambda self, shard, sequence: None)


def revoke_that_lost_counts() -> AbstractContextManager[Any]:
    """An attempt that was claimed first is taken for taken back."""
    revoke = Decider._revoke

    async def stubborn(self: Any, key: Any, move: Any) -> int:
        sequence = await revoke(self, key, move)
        if sequence:
            return sequence
        with _without_fence(lambda kind, fence: kind == "revoked"):
            return await revoke(self, key, move)

    return patch.object(Decider, "_revoke", stubborn)


def own_clock() -> AbstractContextManager[Any]:
    """The decider goes by the clock of its machine."""
    fold = Decider._fold

    async def by_own_clock(self: Any, entry: Any, batch: Any) -> None:
        await fold(self, entry, batch)
        entry.now_ns = time.time_ns()

    return patch.object(Decider, "_fold", by_own_clock)


def ticks_do_not_reread() -> AbstractContextManager[Any]:
    """A tick is decided on with what was cached, however old it is."""
    fold = Decider._fold

    async def by_cache(self: Any, entry: Any, batch: Any) -> None:
        if entry.state is not None and all(delivery.record is None for delivery in batch):
            entry.now_ns = max(entry.now_ns, *(delivery.time_ns for delivery in batch))
            return
        await fold(self, entry, batch)

    return patch.object(Decider, "_fold", by_cache)


def _timers_lost(prefix: str) -> AbstractContextManager[Any]:
    arm = SimLog.arm

    async def forget(self: Any, key: Any, timer: str, due_ns: int) -> None:
        if not timer.startswith(prefix):
            await arm(self, key, timer, due_ns)

    return patch.object(SimLog, "arm", forget)


def heal_timer_lost() -> AbstractContextManager[Any]:
    """Nobody wakes up for a heal."""
    return _timers_lost("heal-")


def lease_timer_lost() -> AbstractContextManager[Any]:
    """Nobody wakes up when a lease is over."""
    return _timers_lost("lease-")


# --- the core ----------------------------------------------------------------------------------------


def double_dispatch() -> AbstractContextManager[Any]:
    """A step that is in flight is started once more when somebody looks again."""
    look = Course._next

    def again(self: Any, instance: Any) -> Any:
        attempt = instance.current
        if attempt is not None and attempt.claimer and attempt.result is None and not attempt.revoked:  # noqa: SIM102
            if len(instance.attempts) < 3 and attempt.is_act:
                return self._start(instance, attempt)
        return look(self, instance)

    return patch.object(Course, "_next", again)


def heals_at_once() -> AbstractContextManager[Any]:
    """A heal is carried out before its time."""
    carry_out = Course._carry_out_heal

    def at_once(self: Any, instance: Any) -> Any:
        hasty = replace(instance, heal=replace(instance.heal, not_before_ns=0))
        return carry_out(self, hasty)

    return patch.object(Course, "_carry_out_heal", at_once)


def lease_is_not_waited_for() -> AbstractContextManager[Any]:
    """A silent claim is resolved as soon as it is said to be silent."""
    return patch.object(course, "LEASE_GRACE_NS", -(10**15))


def key_per_attempt() -> AbstractContextManager[Any]:
    """Every attempt has a key of its own."""
    authorise = course.authorise

    def keyed(*rest: Any, **named: Any) -> event_pb2.Action:
        action = authorise(*rest, **named)
        action.key += action.attempt[-1]
        return action

    return patch.object(course, "authorise", keyed)


def no_of_the_living() -> AbstractContextManager[Any]:
    """A read-back that finds nothing permits a repeat, though whoever claimed it lives."""
    after = Healer.after_read_back

    def believe(self: Any, attempt: Any, result: Any) -> Any:
        if result.happened == event_pb2.HAPPENED_NO and self.tries < self.max_attempts:
            return self.retry(attempt, "retry", result.failure)
        return after(self, attempt, result)

    return patch.object(Healer, "after_read_back", believe)


def everything_is_repeated() -> AbstractContextManager[Any]:
    """What is in doubt is done again, whatever the tool says of itself."""
    resolve = Healer.resolve

    def again(self: Any, attempt: Any, cause: Any) -> Any:
        if self.tries < self.max_attempts:
            return self.retry(self.instance.current or attempt, "retry_same_key", cause)
        return resolve(self, attempt, cause)

    return patch.object(Healer, "resolve", again)


def doubts_are_forgotten() -> AbstractContextManager[Any]:
    """An earlier attempt that is in doubt is not thought of when a later one fails."""
    return patch.object(StepInstance, "doubtful", property(lambda self: None))


def end_in_flight() -> AbstractContextManager[Any]:
    """A run that is to end does not see through what is in flight."""
    return patch.object(Course, "_wind_down", lambda self, ending: [ending])


def effects_in_chains() -> AbstractContextManager[Any]:
    """What has an effect is asked for before what it needs is confirmed."""

    def any_link(state: Any, shape: Any, chain: Any, last: str, toolbox: str) -> str | None:
        waiting = [step for step in shape.needed_by[last] if not state.instances[step].settled]
        if len(waiting) != 1 or state.instances[waiting[0]].current is not None:
            return None
        step = shape.steps[waiting[0]]
        simple = step.tool in state.contracts and not (step.each or step.when or step.rules)
        alone = shape.needs[step.id] <= set(chain)
        return step.id if simple and alone and state.contracts[step.tool].toolbox == toolbox else None

    return patch.object(course, "next_link", any_link)


def chains_that_never_break() -> AbstractContextManager[Any]:
    """What rests on an earlier read is thought to count, though that one went wrong."""
    return patch.object(RunState, "left_behind", lambda self, attempt: False)


def chains_count_at_once() -> AbstractContextManager[Any]:
    """A read of a chain is done before the one that it rests on."""
    return patch.object(RunState, "stands", lambda self, attempt_id: True)


def pending_is_guessed() -> AbstractContextManager[Any]:
    """A worker takes something else than what the step before has returned."""
    return patch.object(host, "resolve", lambda reference, outputs: 1)


def _handlers(arm: str, handler: Any) -> AbstractContextManager[Any]:
    changed: Mapping[str, Any] = {**run.HANDLERS, arm: (run.HANDLERS[arm][0], handler)}
    return patch.object(run, "HANDLERS", changed)


def verdict_on_any_result() -> AbstractContextManager[Any]:
    """A verdict counts whatever result it names."""
    on_verdict = run.HANDLERS["verdict"][1]

    def trusting(state: Any, record: Any, body: event_pb2.Verdict) -> Any:
        found = run._find(state, body.attempt)
        if found is not None and found[1].result is not None:
            copy = event_pb2.Verdict()
            copy.CopyFrom(body)
            copy.result_id = found[1].result.event_id
            body = copy
        return on_verdict(state, record, body)

    return _handlers("verdict", trusting)


def done_by_its_result() -> AbstractContextManager[Any]:
    """A step is done when its worker says so."""
    on_result = run.HANDLERS["result"][1]

    def trusting(state: Any, record: Any, body: event_pb2.Result) -> Any:
        changed = on_result(state, record, body)
        if changed is None or not body.HasField("output"):
            return changed
        instance = changed.instances[changed.attempts[body.attempt]]
        return run._settle(changed, replace(instance, settled="done", output=body.output))

    return _handlers("result", trusting)


MUTANTS: dict[str, Mutant] = {
    mutant.__name__: mutant
    for mutant in (
        decisions_without_fence,
        claims_without_fence,
        revokes_without_fence,
        refusals_without_fence,
        submissions_without_cell,
        effect_before_intent,
        lost_claim_is_ignored,
        result_after_ack,
        orphans_are_kept_quiet,
        silence_is_death,
        permits_are_not_checked,
        ack_before_append,
        gaps_are_not_seen,
        revoke_that_lost_counts,
        own_clock,
        ticks_do_not_reread,
        heal_timer_lost,
        lease_timer_lost,
        double_dispatch,
        heals_at_once,
        lease_is_not_waited_for,
        key_per_attempt,
        no_of_the_living,
        everything_is_repeated,
        doubts_are_forgotten,
        end_in_flight,
        effects_in_chains,
        chains_that_never_break,
        chains_count_at_once,
        pending_is_guessed,
        verdict_on_any_result,
        done_by_its_result,
    )
}
