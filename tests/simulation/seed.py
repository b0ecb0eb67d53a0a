"""One seed from beginning to end: the stack is put together, troubled, left in peace, and judged."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import structlog

import core.action
from bus import subjects
from bus.store import Stored
from core.ports import Address, Record, RunKey
from core.run import VERSION
from handrail.cipher import KEY_BYTES
from handrail.v1 import event_pb2
from tests.simulation import ending, invariants, plans, policies, promises, tools
from tests.simulation.broker import SimBroker
from tests.simulation.clients import Client
from tests.simulation.faults import Faults
from tests.simulation.forgetters import Forgetters
from tests.simulation.humans import Humans
from tests.simulation.keys import SeedKey
from tests.simulation.loop import PROCESS, SimLoop, seeded
from tests.simulation.outcome import Outcome, Violation
from tests.simulation.parts import Parts
from tests.simulation.processes import Process, Supervisor
from tests.simulation.report import describe
from tests.simulation.undoers import Undoers
from tests.simulation.watch import Watch
from tests.simulation.weather import Weather
from tests.simulation.world import Effect, World

MAX_VIRTUAL_S = 3_600.0
MAX_LOOP_STEPS = 400_000
MAX_VIOLATIONS = 20
_EXPECTED_ERRORS = ("agent_failed",)


class Simulation:
    """The stack of one seed."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.outcome = Outcome(seed)
        self._trace = trace
        self._over = False
        self.loop = SimLoop()
        self._chance = random.Random(f"{seed}/stage")
        self.shards = tuple(range(self._chance.choice((1, 1, 2))))
        self.weather = Weather(seed)
        self.supervisor = Supervisor(self.loop, self.note)
        self.broker = SimBroker(self.loop, self.weather, self._stored)
        self.drafts = plans.draw(seed)
        self.regime = policies.draw(seed)
        for draft, submitter in zip(self.drafts, self.regime.submitters if self.regime else (), strict=False):
            draft.submitter = submitter
        key = SeedKey(seed)
        self.watch = Watch(
            invariants=invariants.INVARIANTS,
            effect_invariants=promises.EFFECT_INVARIANTS,
            is_dead=self._is_dead,
            slack_ns=self._slack_ns,
            checker=key,
            fail=self.fail,
        )
        self.parts = Parts(
            self.loop,
            self.broker,
            self.weather,
            self.supervisor,
            seed=seed,
            shards=self.shards,
            drafts=self.drafts,
            regime=self.regime,
            bases=self.watch.bases,
            late=functools.partial(self.fail, "permits_expire"),
            decided=self._decided,
            key=key,
        )
        self.client = Client(self.loop, self.supervisor, self.parts, self.note)
        self.humans = Humans(self.loop, self.broker, self.client, self.note, self._happened, seed=seed)
        self.undoers = Undoers(self.loop, self.broker, self.client, self.watch.runs, seed=seed)
        self.forgetters = Forgetters(self.loop, self.broker, self.client, seed=seed)
        self.faults = Faults(
            self.loop,
            seed,
            broker=self.broker,
            supervisor=self.supervisor,
            parts=self.parts,
            weather=self.weather,
            watch=self.watch,
            note=self.note,
        )
        self.world = World(
            self.loop,
            seed,
            self.weather,
            told=self._acted,
            kill=self.faults.kill,
            stop=self.faults.stop,
        )

    # --- what is told ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Keep a line of the trace."""
        if self._trace:
            process = PROCESS.get()
            self.outcome.lines.append(f"{self.loop.time():9.3f}  {process or '-'!s:<14} {text}")

    def fail(self, invariant: str, what: str) -> None:
        """Note that a promise was not kept, and stop."""
        if len(self.outcome.violations) < MAX_VIOLATIONS:
            self.outcome.violations.append(Violation(invariant, what))
            self.note(f"!! {invariant}: {what}")
        self.loop.stop()

    def _stored(self, stream: str, stored: Stored, record: Record | None) -> None:
        if stream == subjects.KEY_STREAM:
            self._key_stored(stored)
        if not stream.startswith("EV_"):
            return
        if record is None:
            self.fail("subjects_are_ours", f"{stored.subject} is no subject of a run's log")
            return
        if self._trace:
            self.note(f"{stored.sequence:4} {record.address.key.run[-6:]} {describe(record)}")
        self.watch.see(record)
        self.humans.hear(record)
        self.undoers.hear(record)
        self.forgetters.hear(record)
        self.parts.hear(record)
        self.faults.strike(self._writer(record))
        if self.regime is not None and record.event is not None and record.event.HasField("intent"):
            self.faults.hush(self._writer(record))

    def _key_stored(self, stored: Stored) -> None:
        key = subjects.run_at(stored.subject)
        watch = self.watch.runs.get(key.run) if key is not None else None
        if not stored.data and (watch is None or watch.forgotten is None):
            self.fail("the_forgotten_has_no_key", f"{stored.subject} was deleted, and nothing says why")

    def _decided(self, decider: Process, key: RunKey, event: event_pb2.Event) -> None:
        """Hear of a decision that is being sent: what it gives up on may yet answer."""
        seen = self.watch.runs.get(key.run)
        for said in (*event.before, event) if seen is not None else ():
            instance = seen.state.instances.get(said.action.step)
            attempt = instance.current if instance is not None else None
            if attempt is not None and attempt.in_flight:
                lives = self._lives_of(seen.claimers.get(attempt.id, ""))
                self.faults.race(decider, next((life for life in lives if not life.is_dead()), None))

    def _writer(self, record: Record) -> Process | None:
        """Return the process that wrote a record, if it lives."""
        writer = record.event.writer if record.event is not None else ""
        for process in self.supervisor.living():
            if writer.endswith((f"/{process}", f"/{self.parts.instance(process)}")):
                return process
        return None

    def _acted(self, effect: Effect) -> None:
        self.note(f"** {effect.charge.tool} happens: {effect.charge.run[-6:]} {effect.charge.attempt}")
        self.watch.see_effect(effect)

    def _happened(self, run: str, step: str) -> bool:
        return any((e.charge.run, e.charge.step) == (run, step) for e in self.world.ledger)

    def _lives_of(self, claimer: str) -> list[Process]:
        return [p for p in self.supervisor.all if "_" in p.place and str(self.parts.instance(p)) == claimer]

    def _is_dead(self, claimer: str) -> bool:
        return all(process.is_dead() for process in self._lives_of(claimer))

    def _slack_ns(self, claimer: str) -> int:
        """Return by how much a worker may be late: its clock was behind, or it was stopped."""
        lives = self._lives_of(claimer)
        return max((max(0, -life.skew_ns) + int(life.stopped_s * 1e9) for life in lives), default=0)

    # --- the life of a seed ------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Live through the seed."""
        outcome, begun_s = self.outcome, time.process_time()
        life_s = self._chance.choice((600.0, 600.0, 600.0, 3.0))
        with (
            seeded(self.loop, outcome.seed),
            self._logged(),
            self.parts.listening(),
            _permits(life_s),
            _keys(outcome.seed),
        ):
            tools.enter(self.world)
            try:
                self._live()
                outcome.digest = ending.digest(self.broker)
                outcome.virtual_s = self.loop.time()
                outcome.counts += ending.counts(self)
            finally:
                self._tear_down()
        outcome.cpu_s = time.process_time() - begun_s
        return outcome

    def _live(self) -> None:
        self.faults.begin()
        self.parts.begin()
        for draft in self.drafts:
            self.client.begin(draft)
        # Those that were left paused go on.
        for phase in (self._rest, self._resume, self._nudge, self._judge):
            phase()
            if self.outcome.violations:
                return

    def _rest(self) -> None:
        """Run until nothing is left to happen."""
        at_rest = self.loop.rest(max_s=self.loop.time() + MAX_VIRTUAL_S, max_steps=MAX_LOOP_STEPS)
        if not at_rest and not self.outcome.violations:
            self.fail("things_come_to_rest", f"after {self.loop.time():.0f} s something still happens")
        # A task that nobody waits for tells of its failure when it is collected.
        gc.collect()
        for what in (*self.loop.errors, *self.supervisor.crashes):
            self.fail("nothing_escapes", what)
        self.loop.errors.clear()
        catalogue = self.parts.catalogue("decider-1")
        for watch in self.watch.runs.values():
            for what in promises.nothing_is_missing(
                watch, self.loop.now_ns(), catalogue, has_key=self.broker.has_key(watch.key)
            ):
                self.fail("nothing_is_missing", f"{what} (run {watch.key.run})")
            for what in promises.gates_come_to_an_end(watch):
                self.fail("gates_come_to_an_end", f"{what} (run {watch.key.run})")
        for what in ending.inbox_is_as_the_log(self):
            self.fail("inbox_is_as_the_log", what)

    def _resume(self) -> None:
        self.humans.calm = self.undoers.calm = self.forgetters.calm = True
        for watch in self.watch.runs.values():
            if not watch.is_over and watch.state.paused:
                self.outcome.counts["at rest: paused"] += 1
                self.client.order(watch.key.run, "resume")
        self._rest()

    def _nudge(self) -> None:
        """Let the deciders hear of every shard once more: what they forget is forgotten when they hear."""
        for key in {watch.key.shard: watch.key for watch in self.watch.runs.values()}.values():
            event = event_pb2.Event(id=uuid.uuid4().hex, version=VERSION, resume=event_pb2.Resume())
            subject = subjects.build(Address(key, "cmd", ("resume",)))
            self.broker.put(subjects.ev_stream(key.shard), subject, event.SerializeToString())
        self._rest()

    def _judge(self) -> None:
        for invariant, what in ending.broken(self):
            self.fail(invariant, what)

    def _tear_down(self) -> None:
        """Let everything end without a word."""
        self._over = True
        self.loop.set_exception_handler(lambda loop, context: None)
        self.broker.switch(False)
        for process in self.supervisor.all:
            process.kill()
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        tasks = list(asyncio.all_tasks(self.loop))
        self.loop._ready.clear()
        self.loop._scheduled.clear()
        for task in tasks:
            with contextlib.suppress(BaseException):
                task.get_coro().close()  # type: ignore[union-attr]
        self.loop._ready.clear()
        self.loop.close()

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Hear what the parts log as an error: most of it nobody should ever see."""

        def hear(logger: Any, method: str, event: dict[str, Any]) -> Any:
            if not self._over and event.get("exc_info") and event["event"] not in _EXPECTED_ERRORS:
                found = traceback.TracebackException(*sys.exc_info())  # type: ignore[arg-type]
                place = f"{found.stack[-1].filename}:{found.stack[-1].lineno}" if found.stack else "nowhere"
                self.fail("nothing_escapes", f"{event['event']}: {sys.exc_info()[1]!r} at {place}")
            raise structlog.DropEvent

        structlog.configure(
            processors=[hear],
            wrapper_class=structlog.make_filtering_bound_logger(40),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.reset_defaults()


@contextlib.contextmanager
def _permits(life_s: float) -> Iterator[None]:
    """Have permits live for so long."""
    kept = core.action.PERMIT_LIFE_NS
    core.action.PERMIT_LIFE_NS = int(life_s * 1e9)
    try:
        yield
    finally:
        core.action.PERMIT_LIFE_NS = kept


def _keys(seed: int) -> AbstractContextManager[Any]:
    """Have the keys of runs be the same for the same seed."""
    drawn = random.Random(f"{seed}/keys")
    return patch("bus.keyring.new_key", lambda: drawn.randbytes(KEY_BYTES))


@functools.cache
def _settle() -> None:
    """Have the collector look at what seeds make alone, and never again at all that was imported."""
    gc.collect()
    gc.freeze()


def simulate(seed: int, *, trace: bool = False) -> Outcome:
    """Live through a seed; the same seed gives the same log, to the byte."""
    _settle()
    gc.disable()
    try:
        return Simulation(seed, trace=trace).run()
    finally:
        gc.enable()
