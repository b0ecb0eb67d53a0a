"""The three routes beside each other, on the same bounded goals, with the same rail around them.

A client's own plan; the action model that the sample ships; a bigger model behind an endpoint. Real runs on a
real stack, each route on a fresh copy of the sample. What the bigger model answers is scripted, and always
right; how long it thinks is simulated, from the length of what is really sent and answered. So of that route
the time, the tokens and the rail are told here, and its judgement is not.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.models.lam.assembling import assemble
from actors.models.lam.evaluation import plain_of
from actors.models.lam.options import PLAYBOOK, Option, options_of
from bench import stack, tables
from bench.throughput import percentile
from core import values
from core.playbook import Playbook
from core.slots import write_money
from core.values import decode
from handrail.client import Client
from handrail.errors import InvalidArgument
from handrail.project import Project, load
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2, trajectory_pb2
from tests import openai_endpoint as scripted

SAMPLE = stack.ROOT / "examples" / "backoffice"
GOALS, QUICK_GOALS = 50, 4
WHO = "ines"
SETTINGS = '\n[minds]\nplanner = "openai"\n[openai]\nurl = "{url}"\nmodel = "{model}"\n'
RUN_TIMEOUT_S = 120.0
WAITING_S = 2.0
"""At a gate; what waits longer, somebody else has to decide, and the goal is left out."""
AT_ONCE = 8
CHARS_A_TOKEN = 4

Say = Callable[[str], None]
Result = dict[str, Any]


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a bigger model and its price, since none is asked: of a hosted one of today."""

    first_token_s: float = 0.4
    read_tokens_a_s: float = 10_000.0
    written_tokens_a_s: float = 60.0
    dollars_a_million_read: float = 3.0
    dollars_a_million_written: float = 15.0

    def seconds(self, read: int, written: int) -> float:
        """Return how long it thinks."""
        return self.first_token_s + read / self.read_tokens_a_s + written / self.written_tokens_a_s

    def dollars(self, read: int, written: int) -> float:
        """Return what a question costs."""
        return (read * self.dollars_a_million_read + written * self.dollars_a_million_written) / 1e6


@dataclass(frozen=True)
class Bounded:
    """A goal with the plan that its author holds to be right, as decisions."""

    text: str
    steps: tuple[trajectory_pb2.PastStep, ...]
    plan: plan_pb2.Plan


@dataclass(frozen=True)
class Ended:
    """What came of a goal on a route."""

    # "at once", "after a yes", "refused", "otherwise": planned as nobody wanted, "failed".
    how: str
    actions: int = 0
    plan_ms: float = 0.0
    total_ms: float = 0.0
    calls: int = 0
    read: int = 0
    written: int = 0


def measure(place: Path, *, quick: bool, say: Say, assumed: Assumed | None = None) -> Result:
    """Carry the goals out on each route; returns what came of it."""
    assumed = assumed or Assumed()
    wanted = QUICK_GOALS if quick else GOALS
    project = load(SAMPLE)
    candidates = bounded(project)
    say(f"{len(candidates)} bounded goals; the first {wanted} whose plan succeeds are taken")
    found: dict[str, list[Ended]] = {}
    taken, found["client"] = _direct(place, candidates, wanted, say)
    say("the action model")
    found["lam"] = _route(place / "lam", taken, "", at_once=1)
    say("a bigger model, scripted")
    with _endpoint(project, taken, assumed) as endpoint:
        settings = SETTINGS.format(url=endpoint.url, model=scripted.MODEL)
        found["openai"] = _route(place / "openai", taken, settings, at_once=AT_ONCE)
    rows = {name: _row(ended, assumed) for name, ended in found.items()}
    rows["loop"] = _loop(found["openai"], assumed)
    return {"goals": len(taken), "assumed": asdict(assumed), "routes": rows}


def bounded(project: Project) -> list[Bounded]:
    """Return the goals with one right plan that does not depend on the day, in an order of chance."""
    options = {one.name: one for one in options_of(project.protos, project.playbooks)}
    playbooks = {one.name: one for one in project.playbooks}
    lines = (SAMPLE / "goals" / "in_scope.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for row in sorted(map(json.loads, lines), key=lambda row: zlib.crc32(row["goal"].encode())):
        steps = tuple(_step(n, one, options, playbooks) for n, one in enumerate(row["wants"], 1))
        said = json.dumps(row["wants"])
        if row.get("or") or any(f"2026-03-{day:02}" in said for day in range(1, 32)):
            continue
        found.append(Bounded(row["goal"], steps, assemble(steps, options, playbooks)))
    return found


def _step(
    number: int, want: Mapping[str, Any], options: Mapping[str, Option], playbooks: Mapping[str, Playbook]
) -> trajectory_pb2.PastStep:
    """Return a decision as the goals have it written."""
    name, given = want["option"], want.get("with", {})
    playbook = playbooks.get(name)
    if playbook is not None and given.keys() <= playbook.slots.keys():
        name = f"{PLAYBOOK}{name}"
    assert name in options
    made = trajectory_pb2.PastStep(id=f"s{number}", call=trajectory_pb2.OptionCall(option=name))
    for parameter, value in given.items():
        filled = made.call.arguments[parameter]
        if isinstance(value, dict) and value.keys() == {"$"}:
            step, _, path = value["$"].partition(".")
            filled.field.step, filled.field.path = f"s{step}", path
        else:
            filled.value.json = values.encode(value)
    return made


# --- the routes --------------------------------------------------------------------------------------


def _direct(
    place: Path, candidates: Sequence[Bounded], wanted: int, say: Say
) -> tuple[list[Bounded], list[Ended]]:
    """Submit plans until so many have succeeded: what fails on this data fails on every route."""
    taken: list[Bounded] = []
    ended: list[Ended] = []

    async def work(client: Client) -> None:
        for one in candidates:
            if len(taken) == wanted:
                return
            try:
                found = await _carried_out(client, one, plan=one.plan)
            except InvalidArgument:
                # It needs more than a goal allows unless it says so.
                continue
            if found.how == "at once":
                taken.append(one)
                ended.append(found)
        say(f"only {len(taken)} plans succeed")

    _on(place / "client", "", work)
    return taken, ended


def _route(place: Path, taken: Sequence[Bounded], settings: str, *, at_once: int) -> list[Ended]:
    """Submit the goals in words."""
    ended: list[Ended] = []

    async def work(client: Client) -> None:
        free = asyncio.Semaphore(at_once)

        async def one(goal: Bounded) -> Ended:
            async with free:
                return await _carried_out(client, goal)

        ended.extend(await asyncio.gather(*map(one, taken)))

    _on(place, settings, work)
    return ended


def _on(place: Path, settings: str, work: Callable[[Client], Any]) -> None:
    """Do something with a stack on a fresh copy of the sample."""
    stack.copy_sample(SAMPLE, place, settings)
    with stack.running(place) as running:

        async def connected() -> None:
            client = Client(running.address, timeout_s=RUN_TIMEOUT_S, token_file=running.token)
            async with client, _approving(client):
                await work(client)

        asyncio.run(connected())


@asynccontextmanager
async def _approving(client: Client) -> AsyncIterator[None]:
    """Have every gate approved at once: what people take for it is no route's."""

    async def approve() -> None:
        async with aclosing(client.watch_gates()) as gates:
            async for gate in gates:
                if not gate.HasField("closed"):
                    await client.decide(gate.id, approve=True, approver=WHO, binding=gate.what.binding)

    task = asyncio.create_task(approve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _carried_out(client: Client, goal: Bounded, plan: plan_pb2.Plan | None = None) -> Ended:
    """Carry one goal out, and say what came of it; a right reading that was asked about is confirmed."""
    submitted = await client.submit(goal.text, plan=plan, submitter=WHO)
    seen = await _settled(client, submitted.run)
    asked = await _asked(client, submitted.run)
    how = "at once"
    if seen.status == event_pb2.RUN_STATUS_REFUSED:
        if not _is_it(seen.read_as, goal):
            return Ended("refused", **asked)
        how = "after a yes"
        submitted = await client.confirm(submitted.run, submitter=WHO)
        seen = await _settled(client, submitted.run)
    if not _is_it(seen.plan, goal):
        how = "otherwise"
    elif seen.status != event_pb2.RUN_STATUS_DONE:
        how = "failed"
    attempts = (one for step in seen.steps for one in step.attempts)
    actions = sum(one.kind == event_pb2.ACTION_KIND_ACT and not one.revoked for one in attempts)
    total_ms = (seen.ended.ToNanoseconds() - seen.submitted.ToNanoseconds()) / 1e6
    return Ended(how, actions=actions, total_ms=total_ms, **asked)


async def _settled(client: Client, run: str) -> run_service_pb2.Run:
    """Wait until a run has ended; at its gates somebody approves meanwhile, where that one may."""
    until = time.monotonic() + WAITING_S
    while True:
        seen = await client.wait(run, timeout_s=RUN_TIMEOUT_S)
        if seen.status != event_pb2.RUN_STATUS_WAITING:
            return seen
        if time.monotonic() > until:
            await client.cancel(run, reason="nobody here may approve it")
            until = math.inf
        await asyncio.sleep(0.005)


async def _asked(client: Client, run: str) -> dict[str, Any]:
    """Return how long the plan took, and how much the mind behind it was asked."""
    begun, ended, thought = 0, 0, event_pb2.ModelThought()
    async with aclosing(client.watch(run, until_now=True)) as events:
        async for one in events:
            at = one.time.ToNanoseconds()
            begun = begun or at
            for event in (*one.event.before, one.event):
                if event.HasField("plan_answer"):
                    thought, ended = event.plan_answer.thought, at
                elif event.HasField("plan_accepted") or event.HasField("finished"):
                    ended = ended or at
    is_big = thought.model.startswith("openai:")
    # The action model reads anew for each decision, and once more to see that nothing is left; what it would
    # do for a goal it reads twice.
    readings = 2 if thought.decisions and not thought.left_over else 1
    calls = (1 if is_big else readings * (len(thought.decisions) + 1)) if thought.model else 0
    read, written = (thought.input_tokens, thought.output_tokens) if is_big else (0, 0)
    return {"plan_ms": (ended - begun) / 1e6, "calls": calls, "read": read, "written": written}


def _is_it(plan: plan_pb2.Plan, goal: Bounded) -> bool:
    return [_told(one) for one in plan.steps] == [_told(one) for one in goal.plan.steps]


def _told(step: plan_pb2.Step) -> tuple[str, Any]:
    """Return a step as it is compared: texts but for case and edges, as the goals are."""
    return step.tool, {name: _plain(one) for name, one in step.arguments.items()}


def _plain(argument: plan_pb2.Argument) -> Any:
    if argument.WhichOneof("form") == "reference":
        return ("$", argument.reference)
    return plain_of(decode(argument.constant.json))


# --- the scripted endpoint ---------------------------------------------------------------------------


@contextmanager
def _endpoint(project: Project, taken: Sequence[Bounded], assumed: Assumed) -> Iterator[scripted.Endpoint]:
    """Answer each goal with the right calls, after as long as a model would think."""
    playbooks = {one.name: one for one in project.playbooks}
    known = {one.text: [_call(step, playbooks) for step in one.steps] for one in taken}

    def answers(asked: dict[str, Any]) -> scripted.Reply:
        text = asked["messages"][-1]["content"]
        made = _with_nulls(known[text], asked["tools"])
        body = scripted.message(tool_calls=[scripted.call(name, given) for name, given in made])
        read = len(json.dumps(asked)) // CHARS_A_TOKEN
        written = len(json.dumps(body["choices"][0]["message"]["tool_calls"])) // CHARS_A_TOKEN
        body["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        time.sleep(assumed.seconds(read, written))
        return scripted.Reply(body)

    with scripted.endpoint(answers=answers) as endpoint:
        yield endpoint


def _call(step: trajectory_pb2.PastStep, playbooks: Mapping[str, Playbook]) -> tuple[str, dict[str, Any]]:
    """Return a decision as such a model calls it."""
    option = step.call.option
    slots = playbooks[option.removeprefix(PLAYBOOK)].slots if option.startswith(PLAYBOOK) else {}
    given: dict[str, Any] = {}
    for name, filled in step.call.arguments.items():
        if filled.HasField("field"):
            given[name] = f"${filled.field.step}.{filled.field.path}"
            continue
        value = decode(filled.value.json)
        if name in slots and slots[name].type == "money":
            value = write_money(value["minor"], value["currency"])
        given[name] = value
    return option.replace(":", "_"), given


def _with_nulls(
    calls: Sequence[tuple[str, dict[str, Any]]], tools: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Say of each parameter that is not said that it is null, as a strict schema wants it."""
    schemas = {one["function"]["name"]: one["function"]["parameters"] for one in tools}
    return [(name, {**dict.fromkeys(schemas[name]["properties"]), **given}) for name, given in calls]


# --- shown -------------------------------------------------------------------------------------------

HOWS = ("at once", "after a yes", "refused", "otherwise", "failed")


def _row(ended: Sequence[Ended], assumed: Assumed) -> Result:
    done = [one for one in ended if one.how in ("at once", "after a yes")]
    return {
        "how": {name: sum(one.how == name for one in ended) for name in HOWS},
        "actions": _mean([one.actions for one in done]),
        "calls": _mean([one.calls for one in ended]),
        "plan_ms": _spread([one.plan_ms for one in ended]),
        "total_ms": _spread([one.total_ms for one in done]),
        "tokens": _mean([one.read + one.written for one in ended]),
        "dollars_a_thousand": 1_000 * _mean([assumed.dollars(one.read, one.written) for one in ended]),
    }


def _loop(ended: Sequence[Ended], assumed: Assumed) -> Result:
    """Say what a loop would take that asks for each action and once more at the end; computed, not run."""
    done = [one for one in ended if one.how == "at once" and one.calls]
    each = [(one.actions + 1, one.read, one.written // max(1, one.actions)) for one in done]
    thinking_ms = [n * assumed.seconds(read, written) * 1e3 for n, read, written in each]
    acting_ms = [max(0.0, one.total_ms - one.plan_ms) for one in done]
    return {
        "calls": _mean([n for n, _, _ in each]),
        "total_ms": _spread([a + b for a, b in zip(thinking_ms, acting_ms, strict=True)]),
        "tokens": _mean([n * (read + written) for n, read, written in each]),
        "dollars_a_thousand": 1_000
        * _mean([n * assumed.dollars(read, written) for n, read, written in each]),
    }


def _mean(held: Sequence[float]) -> float:
    return sum(held) / len(held) if held else 0.0


def _spread(held: Sequence[float]) -> list[float]:
    return [round(percentile(sorted(held), share), 1) if held else 0.0 for share in (0.5, 0.95)]


TITLES = {
    "client": "a client's plan",
    "lam": "the action model",
    "openai": "a bigger model, one question (scripted)",
    "loop": "a bigger model, a question an action (computed)",
}


def table(measured: Result) -> str:
    """Return the routes as a table, in Markdown."""
    head = ["route", "done at once", "after a yes", "refused", "otherwise", "actions", "model calls"]
    found: tables.Table = [[*head, "plan, ms", "whole, ms", "tokens", "$ for 1,000"]]
    for name, title in TITLES.items():
        row = measured["routes"][name]
        how = [str(row["how"][one]) for one in HOWS[:4]] if "how" in row else [tables.NONE] * 4
        plan = _two(row["plan_ms"]) if "plan_ms" in row else tables.NONE
        tokens = f"{row['tokens']:,.0f}" if row["tokens"] else tables.NONE
        dollars = f"{row['dollars_a_thousand']:.2f}" if row["tokens"] else tables.NONE
        actions = f"{row['actions']:.1f}" if "actions" in row else tables.NONE
        calls = f"{row['calls']:.1f}"
        found.append([title, *how, actions, calls, plan, _two(row["total_ms"]), tokens, dollars])
    return tables.markdown(found)


def _two(spread: Sequence[float]) -> str:
    return f"{spread[0]:,.0f} (p95 {spread[1]:,.0f})"
