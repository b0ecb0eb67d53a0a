"""The kill campaign: `python -m tests.chaos --kills 200 --seed 7 --host both --points`.

Everything it does is drawn from the seed, which is printed; what goes wrong is printed with its stroke and
its runs, and then the stack's directory (data, logs, ledger) is kept. Ends with 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.chaos import cases, plan, report
from tests.chaos.campaign import Campaign
from tests.chaos.cases import CaseResult
from tests.chaos.history import Stroke
from tests.chaos.outcome import Outcome
from tests.chaos.plan import HostKind
from tests.chaos.report import Say
from tests.chaos.stage import Stage


def main() -> int:
    """Read the command line and carry the campaign out."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kill -9 so often, the points' included")
    parser.add_argument("--seed", type=int, default=None, help="repeat a campaign")
    parser.add_argument("--host", choices=("inline", "ray", "both"), default="inline")
    parser.add_argument("--points", action="store_true", help="strike at every named point")
    parser.add_argument("--stops", action="store_true", help="at the points stop and go on as well")
    parser.add_argument(
        "--others", type=int, default=None, help="so many random stops, cuts and dead ways (each once)"
    )
    parser.add_argument("--cases", action="store_true", help="the special cases as well")
    parser.add_argument("--only", default="", help="only points and cases whose name contains this")
    parser.add_argument("--targets", default="", help="strike at random only at these: worker,broker")
    parser.add_argument("--together", action="store_true", help="the cases beside the campaign")
    parser.add_argument("--json", type=Path, default=None, help="write everything to a file")
    parser.add_argument("--strict-times", action="store_true", help="fail where a target is missed")
    parser.add_argument("--keep", action="store_true", help="keep the stack's directory in any case")
    return asyncio.run(_unless_told_to_end(carry_out(parser.parse_args())))


async def _unless_told_to_end(work: Coroutine[Any, Any, int]) -> int:
    """Carry work out; at SIGTERM too the stack is ended first."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def carry_out(wanted: argparse.Namespace) -> int:
    """Carry out what is wanted, host by host, and the cases."""
    seed = wanted.seed if wanted.seed is not None else random.SystemRandom().randrange(1_000_000)
    again = report.command(wanted, seed)
    print(f"seed {seed}: repeat with {again}", flush=True)
    say = Say()
    beside = asyncio.create_task(tell_cases(wanted, say)) if wanted.together else None
    outcomes: list[Outcome] = []
    plans = draw_all(wanted, seed)
    for host, strokes in plans.items():
        if strokes:
            outcomes.append(await campaign(host, strokes, seed, say, keep=wanted.keep, quiet=beside))
    results = await (beside or tell_cases(wanted, say))
    found = report.summary(outcomes, results, seed)
    report.show(found)
    report.show_failures(outcomes, results, again)
    if wanted.json:
        report.write(wanted.json, found, outcomes)
    broken = any(outcome.failures for outcome in outcomes) or found["cases"]["failed"]
    return int(bool(broken) or (wanted.strict_times and bool(found["late"])))


async def tell_cases(wanted: argparse.Namespace, say: Say) -> list[CaseResult]:
    """Tell the cases, if they are wanted, and return how they went."""
    return await cases.run_all(say, only=wanted.only) if wanted.cases else []


def draw_all(wanted: argparse.Namespace, seed: int) -> dict[HostKind, list[Stroke]]:
    """Draw the plan of each host: everything here comes of the seed."""
    hosts: list[HostKind] = ["inline", "ray"] if wanted.host == "both" else [wanted.host]
    plans: dict[HostKind, list[Stroke]] = {}
    kills_left = wanted.kills
    for place, host in enumerate(hosts):
        share = kills_left // (len(hosts) - place)
        plans[host] = draw(wanted, host, share, random.Random(f"{seed}/{host}"))
        kills_left -= sum(stroke.deed == "kill" for stroke in plans[host])
    return plans


def draw(wanted: argparse.Namespace, host: HostKind, kills: int, rng: random.Random) -> list[Stroke]:
    """Draw the plan of one host."""
    named: list[Stroke] = []
    if wanted.points:
        named = plan.points(host, "kill", rng)
        if wanted.stops:
            named += plan.points(host, "stop", rng)
        named = [stroke for stroke in named if wanted.only in stroke.point]
    left = max(0, kills - sum(stroke.deed == "kill" for stroke in named))
    others = 0 if wanted.only or not wanted.kills else wanted.others
    return plan.number([*named, *plan.at_random(host, left, others, rng, wanted.targets)])


async def campaign(
    host: HostKind,
    strokes: list[Stroke],
    seed: int,
    say: Say,
    *,
    keep: bool,
    quiet: asyncio.Task[list[CaseResult]] | None = None,
) -> Outcome:
    """Put a stack up, carry the strokes out on it, and keep its directory if anything went wrong."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    say.phase(f"{host}: {len(strokes)} strokes (plan {report.digest(strokes)}), in {directory}")
    print("\n".join(report.plan_lines(strokes)), flush=True)
    stage = await Stage.up(directory, host)
    try:
        outcome = await Campaign(stage, strokes, seed, say).run(quiet)
    finally:
        await stage.close()
    if outcome.failures or keep:
        say.phase(f"data, logs and ledger of the campaign on {host} are kept in {directory}")
    else:
        stage.remove()
    return outcome


if __name__ == "__main__":
    sys.exit(main())
