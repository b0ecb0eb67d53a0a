"""Fuzz for longer than CI does: `python -m tests.fuzz --seed 7 --seconds 600`, or one input again."""

from __future__ import annotations

import argparse
import logging
import random
import sys

import structlog

from tests.fuzz import files, gateway, logs, models, surfaces
from tests.fuzz.campaign import run

CAMPAIGNS = (*files.CAMPAIGNS, *logs.CAMPAIGNS, *surfaces.CAMPAIGNS, *models.CAMPAIGNS, *gateway.CAMPAIGNS)

MAX_SEED = 1_000_000


def main() -> int:
    """Run the campaigns one after another, each for its share, and tell what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(MAX_SEED))
    parser.add_argument("--seconds", type=float, default=300.0, help="all campaigns together")
    parser.add_argument("--only", choices=[one.name for one in CAMPAIGNS], help="one campaign")
    parser.add_argument("--number", type=int, help="one input of that campaign")
    said = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    chosen = [one for one in CAMPAIGNS if said.only in (None, one.name)]
    print(f"seed {said.seed}, {len(chosen)} campaigns, {said.seconds:.0f} s", flush=True)
    found = 0
    for one in chosen:
        report = run(one, said.seed, said.seconds / len(chosen), said.number)
        print(report, flush=True)
        for text in report.findings.values():
            print(text, flush=True)
        found += len(report.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
