"""`python -m bench`: measure, profile, and report what was measured.

python -m bench [--quick] [--peers] [--only throughput,crash,parked,faults,startup] [--against PATH ...]
python -m bench profile [--quick] [--case read|effect]
python -m bench report FILE [--write]      the tables again; --write puts them into docs/performance.md
python -m bench counts                     what a plan stores, on the log in memory
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import counts, crash, faults, machine, parked, profiling, report, startup, throughput
from bench.throughput import Effort

RESULTS = Path(__file__).with_name("results")
PARTS = ("throughput", "crash", "parked", "faults", "startup")
FULL = Effort()
QUICK = Effort(rounds=1, seconds=1.0, concurrencies=(1, 16), count_syncs=False)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    _add_run(parser)
    profile = commands.add_parser("profile", help="say where the time of a plan goes")
    profile.add_argument("--quick", action="store_true", help="3 seconds instead of 10")
    profile.add_argument("--case", choices=throughput.CASES, default="read")
    profile.add_argument("--durability", choices=("always", "relaxed"), default="always")
    shown = commands.add_parser("report", help="show the tables of a results file again")
    shown.add_argument("file", type=Path)
    shown.add_argument("--write", action="store_true", help="write them into docs/performance.md")
    commands.add_parser("counts", help="count what a plan stores")
    arguments = parser.parse_args()
    if arguments.command == "profile":
        return _profile(arguments)
    if arguments.command == "report":
        result = report.load(arguments.file)
        print(report.terminal(result))
        if arguments.write:
            report.write_document(result)
        return 0
    if arguments.command == "counts":
        counts.main()
        return 0
    return _run(arguments)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in turn with us")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (5)")
    parser.add_argument("--seconds", type=float, help="of each round (2)")
    parser.add_argument("--only", default="", help=f"of {','.join(PARTS)}")
    parser.add_argument("--durability", choices=("always", "relaxed"), help="one durability only")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="measure another checkout too, in turn with this one",
    )


def _run(arguments: argparse.Namespace) -> int:
    effort = QUICK if arguments.quick else FULL
    effort = replace(
        effort, rounds=arguments.rounds or effort.rounds, seconds=arguments.seconds or effort.seconds
    )
    wanted = arguments.only.split(",") if arguments.only else PARTS
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"there is no {unknown[0]!r} to measure; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    against = dict(throughput.root_of(text) for text in arguments.against)
    say = _progress()
    with tempfile.TemporaryDirectory(prefix="handrail-bench-", ignore_cleanup_errors=True) as home:
        place = Path(home)
        # PostgreSQL runs as a user of its own.
        place.chmod(0o755)
        result: dict[str, Any] = {"machine": machine.describe(place), "effort": _effort(effort)}
        if "throughput" in wanted:
            durabilities = [arguments.durability] if arguments.durability else ["always", "relaxed"]
            durabilities += ["none"] if arguments.peers and not arguments.durability else []
            result["throughput"] = throughput.measure(
                place, effort, durabilities=durabilities, peers=arguments.peers, against=against, say=say
            )
        if "crash" in wanted:
            result["crash"] = crash.measure(place, quick=arguments.quick, peers=arguments.peers, say=say)
        for name, measure in (
            ("parked", parked.measure),
            ("faults", faults.measure),
            ("startup", startup.measure),
        ):
            if name in wanted:
                result[name] = measure(place, quick=arguments.quick, say=say)
    file = _save(result)
    print(report.terminal(result))
    print(f"\n{file}\n")
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="handrail-bench-", ignore_cleanup_errors=True) as home:
        text = profiling.profile(
            Path(home),
            case=arguments.case,
            durability=arguments.durability,
            seconds=3.0 if arguments.quick else 10.0,
            say=_progress(),
        )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"profile-{time.strftime('%Y%m%d-%H%M')}-{machine.commit()}-{arguments.case}.txt"
    file.write_text(text)
    print(text)
    print(file)
    return 0


def _effort(effort: Effort) -> dict[str, Any]:
    tracing = "on" if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else "off"
    return {"rounds": effort.rounds, "seconds": effort.seconds, "tracing": tracing}


def _save(result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%d-%H%M')}-{result['machine']['commit']}.json"
    file.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return file


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
