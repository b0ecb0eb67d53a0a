"""The simulator's command line: `python -m tests.simulation --seeds 1000`.

It lives through seeds, tells of those that fail and how to replay them, and sums up what has happened in all.
With `--mutants` it plants bugs instead, and fails where one is not found.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from tests.simulation import fleet, report
from tests.simulation.history import keep
from tests.simulation.mutants import MUTANTS
from tests.simulation.seed import Simulation

TELL_EVERY = 100


def main() -> int:
    """Do as the arguments say; anything but 0 means that a promise was not kept."""
    arguments = _arguments()
    if arguments.seed is not None:
        return _one(arguments)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return _mutants(arguments) if arguments.mutants else _many(seeds, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, help="live through one seed only")
    parser.add_argument("--trace", action="store_true", help="tell everything of that seed")
    parser.add_argument("--keep", type=Path, help="write the logs of that seed's runs into this folder")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="plant this bug for that seed")
    parser.add_argument("--mutants", action="store_true", help="plant each bug, until a seed finds it")
    return parser.parse_args()


def _one(arguments: argparse.Namespace) -> int:
    with MUTANTS[arguments.mutant].plant() if arguments.mutant else nullcontext():
        simulation = Simulation(arguments.seed, trace=arguments.trace)
        outcome = simulation.run()
    if arguments.trace:
        print("\n".join(outcome.lines))
    for violation in outcome.violations:
        print(f"breaks {violation.invariant}: {violation.what}")
    if arguments.keep is not None:
        for path in keep(simulation, arguments.keep):
            print(f"kept {path}")
    print(f"seed {outcome.seed}: {outcome.digest}")
    return 1 if outcome.violations else 0


def _many(seeds: range, arguments: argparse.Namespace) -> int:
    def tell(sum: fleet.Sum) -> None:
        if sum.seeds % TELL_EVERY == 0:
            done = f"{sum.seeds:,} of {len(seeds):,} seeds, {sum.counts['event: submit']:,} runs"
            print(f"{done}, {len(sum.failures)} failed, {sum.real_s:.0f} s", file=sys.stderr, flush=True)

    sum = fleet.sail(seeds, jobs=arguments.jobs, seconds=arguments.seconds, tell=tell)
    for _, told in sum.failures:
        print(told, end="\n\n")
    print(report.statistics(sum.counts))
    print(
        report.figures(
            sum.counts, seeds=sum.seeds, virtual_s=sum.virtual_s, real_s=sum.real_s, cpu_s=sum.cpu_s
        )
    )
    missing = report.missing(sum.counts, seeds=sum.seeds)
    if missing:
        print(f"the simulation is broken: in all these seeds there was no {', no '.join(missing)}")
    print(f"{len(sum.failures)} seeds failed" if sum.failures else "every promise was kept")
    for seed, _ in sum.failures:
        print(f"replay: {report.replay(seed)}")
    return 1 if sum.failures or missing else 0


def _mutants(arguments: argparse.Namespace) -> int:
    missed = 0
    for catch in fleet.hunt(MUTANTS, jobs=arguments.jobs):
        missed += catch.seed is None
        print(f"{catch.mutant:34} {_how(catch)}", flush=True)
    told = (
        f"{missed} of {len(MUTANTS)} planted bugs were not found" if missed else "every planted bug was found"
    )
    print(told)
    return 1 if missed else 0


def _how(catch: fleet.Catch) -> str:
    if catch.seed is not None:
        return f"found by seed {catch.seed} of {MUTANTS[catch.mutant].within}: {catch.invariant}"
    seed = f": seed {catch.seeds - 1} crashed, or fails without it ({catch.what})" if catch.invariant else ""
    return f"NOT FOUND in {catch.seeds} seeds{seed}"


if __name__ == "__main__":
    sys.exit(main())
