"""Many seeds, in several processes at once."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from tests.simulation import invariants, policies, promises
from tests.simulation.mutants import MUTANTS
from tests.simulation.outcome import Outcome
from tests.simulation.report import failure
from tests.simulation.seed import simulate

MAX_FAILURES = 5
CHUNK = 4
QUICK_WITHIN = 50
"""Planted bugs that are found within so many seeds are looked for in every test run, all by `--mutants`."""


@dataclass(slots=True)
class Sum:
    """What became of many seeds."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    real_s: float = 0.0
    cpu_s: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Catch:
    """How a planted bug was found, if it was."""

    mutant: str
    seed: int | None
    seeds: int
    invariant: str = ""
    what: str = ""


def promise_of(invariant: str) -> str:
    """Return what an invariant promises, in its own words."""
    found = invariants.INVARIANTS.get(invariant) or promises.EFFECT_INVARIANTS.get(invariant)
    found = found or getattr(promises, invariant, None)
    return " ".join((found.__doc__ or "").split()) if found is not None else ""


def live_through(seed: int, mutant: str = "") -> tuple[Outcome, str]:
    """Live through a seed; a failing one is lived through again, to tell of it."""
    with MUTANTS[mutant].plant() if mutant else nullcontext():
        outcome = simulate(seed)
        if not outcome.violations:
            return outcome, ""
        again = simulate(seed, trace=True)
    if not again.violations or again.violations[0] != outcome.violations[0]:
        return outcome, f"seed {seed} fails ({outcome.violations[0]}), and not again: it is not deterministic"
    options = f" --mutant {mutant}" if mutant else ""
    told = failure(again, promise_of(again.violations[0].invariant), options=options)
    again.lines.clear()
    return again, told


def sail(
    seeds: Iterable[int],
    *,
    jobs: int,
    seconds: float = float("inf"),
    tell: Callable[[Sum], None] = lambda sum: None,
) -> Sum:
    """Live through many seeds, until they are done, too many have failed, or the time is over."""
    sum, begun_s = Sum(), time.monotonic()
    for outcome, told in _each(live_through, seeds, jobs):
        sum.seeds += 1
        sum.counts.update(outcome.counts)
        sum.virtual_s += outcome.virtual_s
        sum.cpu_s += outcome.cpu_s
        sum.real_s = time.monotonic() - begun_s
        if told:
            sum.failures.append((outcome.seed, told))
        tell(sum)
        if sum.real_s > seconds or len(sum.failures) >= MAX_FAILURES:
            break
    return sum


def hunt(names: Iterable[str], *, jobs: int) -> Iterator[Catch]:
    """Try planted bugs one after another, each with its seeds until one finds it."""
    return _each(find, names, jobs, chunk=1)


def find(mutant: str) -> Catch:
    """Try the seeds of a planted bug: one that crashes, or fails without it too, is no proof."""
    within, wanted = MUTANTS[mutant].within, MUTANTS[mutant].policies
    for seed in range(within):
        if wanted is not None and wanted != (policies.draw(seed) is not None):
            continue
        with MUTANTS[mutant].plant():
            outcome = simulate(seed)
        if outcome.violations:
            first = outcome.violations[0]
            fair = first.invariant != "nothing_escapes" and not simulate(seed).violations
            return Catch(mutant, seed if fair else None, seed + 1, first.invariant, first.what)
    return Catch(mutant, None, within)


def _each(work: Callable, items: Iterable, jobs: int, *, chunk: int = CHUNK) -> Iterator:  # type: ignore[type-arg]
    if jobs == 1:
        yield from map(work, items)
        return
    # Fresh processes: what the simulation patches and configures is nobody else's.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(work, items, chunksize=chunk)
