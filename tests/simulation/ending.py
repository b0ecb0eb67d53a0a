"""What is asked when nothing is left to happen: was every promise kept, and what has happened."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bus import consumers, subjects
from core.ports import Record, RunKey
from core.view import gate_id
from handrail.v1 import event_pb2
from orchestrator.inbox import SCHEMA, Inbox
from tests.simulation import promises
from tests.simulation.broker import SimBroker, SimStream, records_on
from tests.simulation.log import SimIntake
from tests.simulation.parts import TENANT
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.seed import Simulation

PAGE = 3


def broken(simulation: Simulation) -> Iterator[tuple[str, str]]:
    """Yield the promises that do not hold at the end, and how."""
    for watch in simulation.watch.runs.values():
        log, has_key = records(simulation.broker, watch.key), simulation.broker.has_key(watch.key)
        for name, found in (
            ("runs_come_to_an_end", promises.runs_come_to_an_end(watch)),
            ("folding_is_one", promises.folding_is_one(watch, log)),
            ("the_forgotten_has_no_key", promises.the_forgotten_has_no_key(watch, log, has_key=has_key)),
            ("effects_are_told", promises.effects_are_told(watch)),
            ("values_flow_as_planned", promises.values_flow_as_planned(watch)),
        ):
            for what in found:
                yield name, f"{what} (run {watch.key.run})"
    yield from _broken_submissions(simulation)
    for process, held in _held(simulation):
        yield "what_is_over_is_forgotten", f"{process} still holds {held}"


def _broken_submissions(simulation: Simulation) -> Iterator[tuple[str, str]]:
    client, runs = simulation.client, simulation.watch.runs
    for draft in simulation.drafts:
        if draft.label not in client.runs and draft.label not in client.declined:
            yield "submissions_are_answered", f"{draft.label} was neither taken nor refused"
    for run, was_gone in client.forgotten:
        if not was_gone:
            yield "forgetting_is_answered_when_done", f"{run} was said to be forgotten, and could be read"
    for label, run in client.runs.items():
        if run not in runs:
            yield "submissions_are_durable", f"{label} was acknowledged as {run}, which is not there"
    for label, count in Counter(watch.known.goal.text for watch in runs.values()).items():
        if count > 1:
            yield "submissions_happen_once", f"{label} has {count} runs"


def _held(simulation: Simulation) -> Iterator[tuple[Process, str]]:
    """Yield the runs that deciders still hold of shards that they are pinned to."""
    for shard in simulation.shards:
        pinned = simulation.broker.durable(consumers.decider(), shard)._pinned
        if isinstance(pinned, SimIntake):
            process = pinned.process
            for key in simulation.parts.deciders[process]._runs:
                if key.shard == shard:
                    yield process, key.run


def records(broker: SimBroker, key: RunKey) -> list[Record]:
    """Return the log of a run."""
    stream = broker.stream(subjects.ev_stream(key.shard))
    assert isinstance(stream, SimStream)
    return records_on(stream, subjects.run_filter(key))


def inbox_is_as_the_log(simulation: Simulation) -> Iterator[str]:
    """The inbox, fed with the log, has the gates at which something waits, and no others."""
    db, inbox = sqlite3.connect(":memory:"), Inbox()
    shown, rank = set[str](), ""
    db.executescript(SCHEMA)
    for shard in simulation.shards:
        stream = simulation.broker.stream(subjects.ev_stream(shard))
        assert isinstance(stream, SimStream)
        for record in filter(None, stream.records):
            inbox.apply(db, record, lambda key: ("", ""), tell=False)
    reading = True
    while reading:
        page = inbox.page(db, TENANT, limit=PAGE, above=rank)
        shown |= {gate.id for gate in page.gates}
        rank, reading = page.more, bool(page.more)
    runs = simulation.watch.runs.values()
    wanted = {gate_id(watch.key.run, name) for watch in runs for name in watch.waiting}
    if shown != wanted:
        yield f"the inbox has {sorted(shown - wanted)} too many, and lacks {sorted(wanted - shown)}"


def digest(broker: SimBroker) -> str:
    """Return a digest of all that was stored, when, and in which order."""
    sha256 = hashlib.sha256()
    for name, stream in sorted(broker._streams.items()):
        assert isinstance(stream, SimStream)
        for stored, record in zip(stream.messages, stream.records, strict=True):
            if stored is not None:
                event = record.event if record is not None else None
                # The order of a map's entries is not the same in every process.
                data = event.SerializeToString(deterministic=True) if event is not None else stored.data
                head = f"{name} {stored.sequence} {stored.time_ns} {stored.subject} {stored.trace}\n"
                sha256.update(head.encode() + data)
    return sha256.hexdigest()


def counts(simulation: Simulation) -> Counter[str]:
    """Return how often everything has happened."""
    found = simulation.watch.counts + simulation.weather.counts + simulation.faults.counts
    found += simulation.humans.counts + simulation.undoers.counts + simulation.forgetters.counts
    found.update({f"tool: {name}": n for name, n in simulation.world.troubles.items()})
    found.update({f"refused: {reason}": n for reason, n in Counter(simulation.client.refused).items()})
    for watch in simulation.watch.runs.values():
        status = event_pb2.RunStatus.Name(watch.state.status).removeprefix("RUN_STATUS_").lower()
        found[f"run: {status}"] += 1
        found["run: forgotten"] += watch.forgotten is not None
    return found
