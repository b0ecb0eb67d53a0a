"""Events from the broker: whatever lies in a log is folded, decided on, shown, traced, and breaks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bus.records import record_of
from bus.store import Stored
from bus.subjects import build
from core import run
from core.ahead import decide_ahead
from core.decide import Catalogue, decide
from core.hindsight import asked
from core.policy import NoRules
from core.ports import Record, RunKey
from core.view import view
from handrail.cli.events import event_line, event_object
from handrail.cli.pen import Detail, Pen
from handrail.cli.server import Target
from handrail.cli.summary import ending
from handrail.cli.tree import draw
from handrail.cli.watching import Watched, parts_of
from handrail.v1 import event_pb2, run_service_pb2
from observability.spans import spans_of
from tests.fuzz.campaign import Campaign, Trial
from tests.fuzz.mutate import TEXTS, Mutator, decoded
from tests.scenarios import histories
from tests.simulation.seed import Simulation

SEEDS = (3, 5, 8)
MAX_LOOKS = 6
MAX_TOLD = 6
MAX_EVENTS = 400
LATER_NS = 10**13
START_NS = 1_700_000_000_000_000_000

Log = tuple[Stored, ...]


@cache
def corpus() -> tuple[Log, ...]:
    """Return logs of real runs: those that are kept, and those of a few simulated seeds."""
    found: dict[RunKey, list[Stored]] = {}
    for path in sorted(histories.FOLDER.glob("*.jsonl")):
        for one in histories.load(path.stem):
            data = one.event.SerializeToString() if one.event is not None else b""
            stored = Stored(one.sequence, one.time_ns, build(one.address), data)
            found.setdefault(one.address.key, []).append(stored)
    for seed in SEEDS:
        for stored in _simulated(seed):
            if (record := record_of(stored)) is not None:
                found.setdefault(record.address.key, []).append(stored)
    return tuple(tuple(log) for log in found.values() if len(log) <= MAX_EVENTS)


def _simulated(seed: int) -> list[Stored]:
    simulation = Simulation(seed)
    simulation.run()
    streams = [simulation.broker.stream(f"EV_{shard}") for shard in simulation.shards]
    return [stored for stream in streams for stored in stream.messages]


def mutated(m: Mutator, others: Sequence[Log]) -> Log:
    """Return a log in which messages are changed, dropped, doubled, moved, or of another run."""
    log = list(m.of(others))
    for _ in m.rounds():
        if not log:
            break
        at = m.chance.randrange(len(log))
        match m.chance.randrange(10):
            case 0:
                del log[at]
            case 1:
                log.insert(m.chance.randrange(len(log) + 1), log[at])
            case 2:
                log.insert(m.chance.randrange(len(log) + 1), log.pop(at))
            case 3:
                foreign = m.of(m.of(others))
                log.insert(at, replace(log[at], data=foreign.data, subject=_at_home(log[at], foreign)))
            case _:
                log[at] = _changed(m, log[at])
    # A broker counts up, whatever it holds; now and then it seems not to.
    return _numbered(log) if m.maybe(0.9) else tuple(log)


def told(m: Mutator, others: Sequence[Log]) -> Log:
    """Return a log up to some place, behind it facts that are changed: what a hijacked agent could write.

    What the decider has decided on is not changed after it has: the broker and the notary see to that.
    """
    whole = m.of(others)
    log, left = list(whole[: m.chance.randrange(1, len(whole) + 1)]), 1 + m.chance.randrange(MAX_TOLD)
    for one in [one for one in (*whole[len(log) :], *m.of(others), *whole) if ".dec." not in one.subject][
        :left
    ]:
        home = replace(one, subject=_at_home(log[0], one))
        changed = _changed(m, home) if m.maybe(0.7) else home
        if ".dec." not in changed.subject:
            log.append(changed)
    return _numbered(log)


def _changed(m: Mutator, one: Stored) -> Stored:
    match m.chance.randrange(8):
        case 0:
            return replace(one, subject=m.text(one.subject).encode(errors="replace").decode())
        case 1:
            return replace(one, data=m.data(one.data))
        case _:
            event = decoded(event_pb2.Event, one.data)
            return replace(one, data=m.encoded(event) if event is not None else b"")


def _numbered(log: Sequence[Stored]) -> Log:
    return tuple(replace(one, sequence=number) for number, one in enumerate(log, 1))


def _at_home(here: Stored, foreign: Stored) -> str:
    return ".".join([*here.subject.split(".")[:4], *foreign.subject.split(".")[4:]])


def _records(log: Log) -> list[Record]:
    found = [record_of(one) for one in log]
    return [one for one in found if one is not None]


@contextmanager
def folding() -> Iterator[Trial]:
    """Fold whatever there is, and fold it again to the same; what comes out can be shown."""
    logs = corpus()

    def check(log: Log) -> None:
        records = _records(log)
        if not records:
            return
        key = records[0].address.key
        state = run.fold(key, records)
        assert run.fold(key, records) == state, "the same log folds to two states"
        assert run.fold(key, [*records, *records]) == state, "what was applied is applied again"
        view(state).SerializeToString()

    yield Trial(lambda m: mutated(m, logs), check)


@contextmanager
def deciding() -> Iterator[Trial]:
    """Decide on what others than the decider have written, at several places and times."""
    logs = corpus()

    def check(log: Log) -> None:
        records = _records(log)
        if not records:
            return
        key = records[0].address.key
        state = run.initial(key)
        every = max(1, len(records) // MAX_LOOKS)
        for number, record in enumerate(records, 1):
            state = run.apply(state, record)
            if number % every and number < len(records):
                continue
            catalogue = Catalogue(contracts=dict(state.contracts))
            for later_ns in (record.time_ns, record.time_ns + LATER_NS):
                decide(state, later_ns, catalogue)
            decide_ahead(state, record.time_ns, catalogue)
        asked(key, records, NoRules())

    yield Trial(lambda m: told(m, logs), check)


@contextmanager
def telling() -> Iterator[Trial]:
    """Tell a log as a person sees it: lines, JSON, the tree, the figures, and spans."""
    logs = corpus()
    target = Target("server", "127.0.0.1:1", Path(), Path(), "")

    def check(log: Log) -> None:
        records = _records(log)
        if not records:
            return
        key = records[0].address.key
        for with_content in (False, True):
            for span in spans_of(key, records, with_content=with_content):
                str(span)
        watched = Watched(key.run)
        for record in records:
            response = _shown(record)
            watched.add(response)
            event_object(response)
            for part in parts_of(response):
                event_line(part)
        for detail in Detail:
            pen = Pen(detail=detail)
            draw(watched.run, pen)
            list(ending(watched.run, target, pen))

    yield Trial(lambda m: mutated(m, logs), check)


def _shown(record: Record) -> run_service_pb2.WatchRunResponse:
    response = run_service_pb2.WatchRunResponse(
        cursor=str(record.sequence), subject=build(record.address), event=record.event
    )
    response.time.FromNanoseconds(record.time_ns)
    return response


@contextmanager
def subjects() -> Iterator[Trial]:
    """Read messages with wrong subjects and wrong bytes: a record, or none."""
    stored = [one for log in corpus() for one in log][:200]

    def make(m: Mutator) -> Any:
        one = m.of(stored)
        return m.text(one.subject, (*TEXTS, ".", "..", "9" * 5_000, "\u00b2")), m.data(one.data)

    def check(given: tuple[str, bytes]) -> None:
        record_of(Stored(1, START_NS, *given))

    yield Trial(make, check)


CAMPAIGNS = (
    Campaign("subjects", 0.5, subjects),
    Campaign("folding", 1.0, folding),
    Campaign("deciding", 2.0, deciding),
    Campaign("telling", 2.0, telling),
)
