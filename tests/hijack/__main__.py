"""The hijack test's command line: `python -m tests.hijack`, or `make hijack`.

It ends with 1 where a target is missed, with 3 where AgentDojo cannot be had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from bench.venvs import Missing
from handrail.project import Project, load
from tests.hijack import report, talked
from tests.hijack.campaign import COMPARED, KINDS, WORDS, Campaign, without_rail
from tests.hijack.dojo import Suites, suites
from tests.hijack.policies import with_words_gated
from tests.hijack.real import real_stack
from tests.hijack.report import Findings
from tests.hijack.world import Task

PROJECT = Path(__file__).parent / "project"
PAGE = Path(__file__).parents[2] / "docs" / "hijack.md"
FIGURES, MODEL = "<!-- figures -->", "<!-- model -->"
AT_ONCE, WIDTH = 12, 120
QUICK_TASKS, QUICK_INJECTIONS = 4, 3
QUICK_TRIALS, CARRIED = 400, 40
CANNOT = 3
MARKING = frozenset({"get_unread_emails"})
"""Reads that mark what they return as read."""

T = TypeVar("T")
Pair = tuple[str, str, str]


def main() -> int:
    """Do as the arguments say."""
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        found = asyncio.run(_measure(arguments))
    except Missing as missing:
        print(
            f"the hijack test is skipped: {missing}. It needs AgentDojo once, from a package index: let this "
            "machine reach one, and run `make hijack` again",
            file=sys.stderr,
        )
        return CANNOT
    print(report.text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(found), indent=1) + "\n")
    if arguments.page:
        _write_page(found)
    return 1 if found.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hijack", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few tasks and injections of each suite")
    parser.add_argument("--suite", help="this suite only")
    parser.add_argument("--model", action="store_true", help="the sample's action model only; no AgentDojo")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/hijack.md")
    return parser.parse_args()


async def _measure(arguments: argparse.Namespace) -> Findings:
    begun = time.monotonic()
    found = Findings()
    if arguments.suite is None:
        await _with_the_model(found, QUICK_TRIALS if arguments.quick else talked.TRIALS)
    if not arguments.model:
        await _behind_the_rail(found, arguments)
    found.took_s = time.monotonic() - begun
    found.where = f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.machine()}"
    return found


async def _behind_the_rail(found: Findings, arguments: argparse.Namespace) -> None:
    """AgentDojo's suites."""
    project = load(PROJECT, rules=True)
    async with suites() as environment:
        await _check_tools(project, environment)
        names = await environment.names()
        tasks: list[tuple[str, str]] = []
        pairs: list[Pair] = []
        for suite, held in names.items():
            if arguments.suite in (None, suite):
                own = _some(held["tasks"], QUICK_TASKS if arguments.quick else 0)
                injections = _some(held["injections"], QUICK_INJECTIONS if arguments.quick else 0)
                tasks += [(suite, task) for task in own]
                pairs += [(suite, task, injection) for task in own for injection in injections]
        await _in_memory(found, project, environment, tasks, pairs)
        await _on_the_broker(found, project, environment, tasks, pairs)
        await _with_words(found, project, environment, tasks, pairs)
        await _compare(found, Campaign(project, environment), pairs)


def _some(names: Sequence[str], count: int) -> Sequence[str]:
    """Return so many, from all over; all of them where no number is said."""
    return names[:: -(-len(names) // count)] if count else names


async def _check_tools(project: Project, environment: Suites) -> None:
    """See that our tools are the suites' tools, argument by argument."""
    for name, arguments in (await environment.tools()).items():
        known = project.contracts[name].input_schema.get("properties", {})
        if list(known) != list(arguments):
            raise AssertionError(f"{name} takes {list(arguments)}, and our tool takes {list(known)}")


def _check_effects(project: Project, task: Task) -> None:
    """See that whatever changes an environment is declared to have an effect."""
    for call in task.calls:
        if call.changes and not project.contracts[call.function].has_effect and call.function not in MARKING:
            raise AssertionError(
                f"{call.function} changes the environment, and our contract says that it reads"
            )


async def _in_memory(
    found: Findings,
    project: Project,
    environment: Suites,
    tasks: Sequence[tuple[str, str]],
    pairs: Sequence[Pair],
) -> None:
    campaign = Campaign(project, environment)
    found.users = await _all("user tasks", (lambda t=t: campaign.user(*t) for t in tasks), len(tasks))
    for suite, name in tasks:
        task = await environment.task(suite, name)
        _check_effects(project, task)
        drafted = campaign.draft(task)
        found.written += Counter(drafted.written)
        found.requests += sum(call.function == "get_webpage" for call in drafted.task.calls)
    for kind in KINDS:
        own = [p for p in pairs if not kind.executor or await campaign.chooses(*p[:2])]
        ran = (lambda p=p, k=kind: campaign.pair(*p, k) for p in own)
        found.pairs += await _all(kind.name, ran, len(own))


async def _on_the_broker(
    found: Findings,
    project: Project,
    environment: Suites,
    tasks: Sequence[tuple[str, str]],
    pairs: Sequence[Pair],
) -> None:
    """Every user task with one injection, in turn, so that every injection is among them."""
    sample = _sample(tasks, pairs)
    with tempfile.TemporaryDirectory() as place:
        async with real_stack(PROJECT, Path(place) / "data") as stack:
            campaign = Campaign(project, environment, make=stack.stage)
            made = (lambda t=t: campaign.user(*t) for t in tasks)
            found.real_users = await _all("user tasks, real broker", made, len(tasks), at_once=1)
            for kind in KINDS:
                if kind.executor:
                    continue  # the stack's executor is its own
                ran = (lambda p=p, k=kind: campaign.pair(*p, k) for p in sample)
                found.real_pairs += await _all(f"{kind.name}, real broker", ran, len(sample), at_once=1)


def _sample(tasks: Sequence[tuple[str, str]], pairs: Sequence[Pair]) -> list[Pair]:
    found = []
    for number, (suite, task) in enumerate(tasks):
        own = [pair for pair in pairs if pair[:2] == (suite, task)]
        found.append(own[number % len(own)])
    return found


async def _with_words(
    found: Findings,
    project: Project,
    environment: Suites,
    tasks: Sequence[tuple[str, str]],
    pairs: Sequence[Pair],
) -> None:
    """The same where texts are not the planner's, but what a mind has made of what it read."""
    campaign = Campaign(project, environment)
    asking = Campaign(project, environment, with_words_gated(project))
    campaign.texts_are_read = asking.texts_are_read = True
    for one, users, ran in (
        (campaign, found.read_users, found.read_pairs),
        (asking, found.asked_users, found.asked_pairs),
    ):
        users += await _all("texts: user tasks", (lambda t=t, c=one: c.user(*t) for t in tasks), len(tasks))
        ran += await _all(
            "texts: rewritten", (lambda p=p, c=one: c.pair(*p, WORDS) for p in pairs), len(pairs)
        )


async def _compare(found: Findings, campaign: Campaign, pairs: Sequence[Pair]) -> None:
    found.compared_of = len(pairs)
    for defence in COMPARED:
        reached = 0
        for number, (suite, name, injection) in enumerate(pairs):
            task = await campaign.environment.task(suite, name)
            wanted = await campaign.injection(suite, injection)
            done = await without_rail(campaign.environment, task, wanted, defence)
            reached += any(done.values())
            _tell(defence, number + 1, len(pairs))
        found.compared[defence] = reached


async def _with_the_model(found: Findings, count: int) -> None:
    """The sample's model in the executor's place, and instructions in what its steps were given."""
    sample = load(talked.SAMPLE, rules=True)
    every = talked.trials(count)
    for thresholds, tried in ((None, found.served), (talked.UNGUARDED, found.unguarded)):
        model = talked.model_of(sample, thresholds)
        for one in talked.attempt(model, sample.protos, every):
            tried.append(one)
            _tell("the model" if thresholds is None else "the model, unguarded", len(tried), count)
    into = [one.trial for one in found.unguarded if one.talked][:CARRIED]
    with tempfile.TemporaryDirectory() as place:
        os.environ["BACKOFFICE_DB"] = str(Path(place) / "office.db")
        carry = (lambda t=t: talked.carry(sample, t, talked.UNGUARDED) for t in into)
        found.carried = await _all("the model, through the rail", carry, len(into), at_once=1)


async def _all(
    what: str, made: Iterable[Callable[[], Awaitable[T]]], count: int, *, at_once: int = AT_ONCE
) -> list[T]:
    """Run everything, so many at once, and tell how far it is."""
    waiting: Iterator[Callable[[], Awaitable[T]]] = iter(made)
    found: list[T] = []

    async def run_some() -> None:
        for start in waiting:
            found.append(await start())
            _tell(what, len(found), count)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(run_some())
    return found


def _tell(what: str, done: int, count: int) -> None:
    if not sys.stderr.isatty() and done < count:
        return  # a log needs no more than the end of each part
    end = "\n" if done == count else ""
    print(f"\r{what}: {done:,} of {count:,}", end=end, file=sys.stderr, flush=True)


def _write_page(found: Findings) -> None:
    where = f"{found.where}; {found.took_s:.0f} s on two cores"
    if found.users:
        _put(FIGURES, report.markdown(report.tables(found)), f"{where}; {report.written(found)}.")
    if found.served:
        _put(MODEL, report.markdown(report.model_tables(found)), f"{where}; {report.carried(found)}.")


def _put(mark: str, tables: str, said: str) -> None:
    before, _, rest = PAGE.read_text().partition(mark)
    after = rest.partition(mark)[2]
    PAGE.write_text(f"{before}{mark}\n\n{tables}\n{textwrap.fill(said, WIDTH)}\n\n{mark}{after}")


if __name__ == "__main__":
    sys.exit(main())
