"""`python -m bench`: measure, profile, and report what was measured.

python -m bench [--quick] [--peers] [--only PARTS] [--json] [--write docs/performance.md] [--against PATH ...]
python -m bench profile [--quick] [--case read|effect]
python -m bench report FILE [--write docs/performance.md]      the tables of a results file again
python -m bench counts                                         what a plan stores, on the log in memory
python -m bench routes [--quick] [--json]                       a plan, the action model, a bigger one
python -m bench batches [--quick] [--json]                      goals a second of the action model, in batches
python -m bench learning [--quick] [--write docs/learning.svg] what verified runs teach the action model
python -m bench public --path DIR [--quick] [--json]           a network of its kind on a public set
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import (
    batches,
    counts,
    crash,
    dialogues,
    faults,
    gated,
    learning,
    machine,
    parked,
    profiling,
    public,
    report,
    routes,
    startup,
    teaching,
    throughput,
)
from bench.drivers import DriverFailed
from bench.stack import StackFailed
from bench.throughput import Effort
from core.errors import HandrailError

RESULTS = Path(__file__).with_name("results")
PARTS = ("throughput", "crash", "parked", "faults", "gated", "startup")
FULL = Effort()
# Beside eight others each round is shorter, so that all of it stays below twenty minutes.
FULL_WITH_PEERS = Effort(seconds=1.0, warm_s=0.7, syncs_s=1.0)
QUICK = Effort(rounds=1, seconds=0.5, concurrencies=(1, 16), warm_s=0.3, peers_syncs=False, syncs_s=0.5)
KILLS, QUICK_KILLS = 5, 1
PROFILE_S, QUICK_PROFILE_S = 10.0, 3.0
TRACING = "our stacks write their traces to a file, as they do by default"

_NO_TORCH = "training needs torch: `uv sync --extra train`"
# What may go wrong in one part without taking the others' results along.
_Failure = (HandrailError, DriverFailed, StackFailed, AssertionError, OSError)


def main() -> int:
    """Do what the command line says."""
    # Before gRPC starts: its fork handlers are for those that go on without exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    # What we started is ended however we are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _parser().parse_args()
    if arguments.command == "profile":
        return _profile(arguments)
    if arguments.command == "report":
        return _report(report.load(arguments.file), arguments)
    if arguments.command == "counts":
        counts.main()
        return 0
    if arguments.command == "learning":
        return _learning(arguments)
    if arguments.command == "public":
        return _public(arguments)
    if arguments.command == "routes":
        return _routes(arguments)
    if arguments.command == "batches":
        return _batches(arguments)
    return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in turn with us")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (5)")
    parser.add_argument("--seconds", type=float, help="of each round (2; with peers 1)")
    parser.add_argument("--kills", type=int, help=f"of each kind and target ({KILLS})")
    parser.add_argument("--only", default="", help=f"of {','.join(PARTS)}")
    parser.add_argument("--durability", choices=("always", "relaxed"), help="one durability only")
    against = "measure another checkout too, in turn with this one"
    parser.add_argument("--against", action="append", default=[], metavar="[NAME=]PATH", help=against)
    _add_shown(parser)
    profile = commands.add_parser("profile", help="say where the time of a plan goes")
    profile.add_argument("--quick", action="store_true", help=f"{QUICK_PROFILE_S:g} s, not {PROFILE_S:g}")
    profile.add_argument("--case", choices=throughput.CASES, default="read")
    profile.add_argument("--durability", choices=("always", "relaxed"), default="always")
    shown = commands.add_parser("report", help="show the tables of a results file again")
    shown.add_argument("file", type=Path)
    _add_shown(shown)
    commands.add_parser("counts", help="count what a plan stores")
    beside = commands.add_parser("routes", help="the same goals by a plan, the action model, a bigger model")
    beside.add_argument("--quick", action="store_true", help="a few goals, to see that it works")
    beside.add_argument("--json", action="store_true", help="print the results as JSON, and no table")
    at_once = commands.add_parser("batches", help="goals a second of the action model, alone and in batches")
    at_once.add_argument("--quick", action="store_true", help="a few goals, to see that it works")
    at_once.add_argument("--json", action="store_true", help="print the results as JSON, and no table")
    others = commands.add_parser(
        "public", help="train and measure the action model's network on a public set"
    )
    others.add_argument("--path", type=Path, required=True, help="where train/, dev/ and test/ of it are")
    others.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    others.add_argument("--minutes", type=float, help=f"of training at most ({public.FULL.minutes:g})")
    others.add_argument("--json", action="store_true", help="print the results as JSON, and no table")
    curve = commands.add_parser("learning", help="teach the action model, and measure it")
    curve.add_argument("--quick", action="store_true", help="a few runs and steps, to see that it works")
    curve.add_argument("--minutes", type=float, help=f"of each training at most ({learning.FULL.minutes:g})")
    curve.add_argument("--json", action="store_true", help="print the results as JSON, and no table")
    curve.add_argument("--write", type=Path, metavar="FILE.svg", help="where the figure is drawn")
    return parser


def _add_shown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and no tables")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="write the tables into it as well")


def _run(arguments: argparse.Namespace) -> int:
    wanted = arguments.only.split(",") if arguments.only else [p for p in PARTS if _by_default(p, arguments)]
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"there is no {unknown[0]!r} to measure; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    began, ticks = time.monotonic(), machine.ticks()
    say = _progress()
    with _place("run") as place:
        result: dict[str, Any] = {"machine": machine.describe(place), "failed": {}}
        file = RESULTS / f"{time.strftime('%Y%m%d-%H%M')}-{result['machine']['commit']}.json"
        effort = _effort(arguments)
        result["effort"] = {**asdict(effort), "tracing": TRACING}
        for part, measure in _parts(arguments, effort).items():
            if part not in wanted:
                continue
            say(f"{part} ...")
            try:
                result[part] = measure(place, say=say)
            except _Failure as error:
                result["failed"][part] = f"{type(error).__name__}: {error}"
                say(f"{part} failed: {error}")
            result["machine"]["wall_s"] = round(time.monotonic() - began)
            result["machine"]["stolen_share"] = round(machine.stolen_share(ticks), 4)
            result["machine"]["load_average_after"] = machine.load_average()
            # After each part, so that the next one cannot lose it.
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(result, indent=1) + "\n")
        say("tidying up")
    say(f"results are in {file}")
    _report(result, arguments)
    return 1 if result["failed"] else 0


def _by_default(part: str, arguments: argparse.Namespace) -> bool:
    return part != "crash" or bool(arguments.peers)


def _parts(arguments: argparse.Namespace, effort: Effort) -> dict[str, Callable[..., dict[str, Any]]]:
    # In short, the first class and the marks: each more takes half a minute to start its peers.
    durabilities = ["always"] if arguments.quick and arguments.peers else ["always", "relaxed"]
    durabilities += ["none"] if arguments.peers else []
    if arguments.durability:
        durabilities = [arguments.durability]
    against = dict(throughput.root_of(text) for text in arguments.against)
    kills = arguments.kills or (QUICK_KILLS if arguments.quick else KILLS)
    return {
        "throughput": partial(
            throughput.measure,
            effort=effort,
            durabilities=durabilities,
            peers=arguments.peers,
            against=against,
        ),
        "crash": partial(crash.measure, kills=kills, peers=arguments.peers, quick=arguments.quick),
        "parked": partial(parked.measure, quick=arguments.quick),
        "faults": partial(faults.measure, quick=arguments.quick),
        "gated": partial(gated.measure, quick=arguments.quick),
        "startup": partial(startup.measure, quick=arguments.quick),
    }


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else FULL_WITH_PEERS if arguments.peers else FULL
    return replace(
        effort, rounds=arguments.rounds or effort.rounds, seconds=arguments.seconds or effort.seconds
    )


def _report(result: dict[str, Any], arguments: argparse.Namespace) -> int:
    print(json.dumps(result, indent=1) if arguments.json else report.terminal(result))
    if arguments.write is not None:
        report.write_document(result, arguments.write)
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    with _place("profile") as place:
        text = profiling.profile(
            place,
            case=arguments.case,
            durability=arguments.durability,
            seconds=QUICK_PROFILE_S if arguments.quick else PROFILE_S,
            say=_progress(),
        )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"profile-{time.strftime('%Y%m%d-%H%M')}-{machine.commit()}-{arguments.case}.txt"
    file.write_text(text)
    print(text)
    print(file)
    return 0


def _learning(arguments: argparse.Namespace) -> int:
    course = learning.QUICK if arguments.quick else learning.FULL
    course = replace(course, minutes=arguments.minutes or course.minutes)

    measured: dict[str, Any] = {}

    def measure(place: Path, say: Callable[[str], None]) -> dict[str, Any]:
        measured.update(learning.measure(place, course, say))
        return measured

    code = _one("learning", arguments, measure, torch=True)
    if code == 0 and arguments.write is not None:
        arguments.write.write_text(learning.picture(measured), encoding="utf-8")
        print(f"the figure is in {arguments.write}", file=sys.stderr)
    return code


def _public(arguments: argparse.Namespace) -> int:
    effort = public.QUICK if arguments.quick else public.FULL
    effort = replace(effort, minutes=arguments.minutes or effort.minutes)
    try:
        return _one(
            "public", arguments, lambda _, say: public.measure(arguments.path, effort, say), torch=True
        )
    except dialogues.NotDialogues as error:
        print(f"{error}; README.md of the set says where it can be had", file=sys.stderr)
        return 1


def _routes(arguments: argparse.Namespace) -> int:
    return _one("routes", arguments, lambda place, say: routes.measure(place, quick=arguments.quick, say=say))


def _batches(arguments: argparse.Namespace) -> int:
    effort = batches.QUICK if arguments.quick else batches.FULL
    return _one("batches", arguments, lambda _, say: batches.measure(effort, say))


def _one(
    name: str,
    arguments: argparse.Namespace,
    measure: Callable[[Path, Callable[[str], None]], dict[str, Any]],
    *,
    torch: bool = False,
) -> int:
    """Measure one thing that has a report of its own, keep it in a file, and show it."""
    if torch and importlib.util.find_spec("torch") is None:
        print(_NO_TORCH, file=sys.stderr)
        return 2
    say, ticks = _progress(), machine.ticks()
    with _place(name) as place:
        result: dict[str, Any] = {"machine": machine.describe(place)}
        try:
            result[name] = measure(place, say)
        except (*_Failure, learning.TrainingFailed, teaching.TeachingFailed) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    result["machine"]["stolen_share"] = round(machine.stolen_share(ticks), 4)
    result["machine"]["load_average_after"] = machine.load_average()
    _keep(name, result, arguments, say)
    return 0


def _keep(
    name: str, result: dict[str, Any], arguments: argparse.Namespace, say: Callable[[str], None]
) -> None:
    """Write what was measured into a file, and show it."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M')}-{result['machine']['commit']}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    say(f"results are in {file}")
    print(json.dumps(result, indent=1) if arguments.json else report.terminal(result))


@contextmanager
def _place(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"handrail-{name}-", ignore_cleanup_errors=True) as home:
        place = Path(home)
        # PostgreSQL runs as a user of its own.
        place.chmod(0o755)
        yield place


def _progress() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
