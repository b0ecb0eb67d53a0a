"""Corners of the worker, the verifier and the decider that once were wrong, over the in-memory log."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
import time

import pytest

from actors.agent import PoisonPolicy
from actors.host import AgentLoop
from actors.verifier import Verifier
from bus import consumers
from bus.memory import MemoryBroker, MemoryLog
from core import failures, permits, run, values
from core.contracts import to_proto
from core.decide import Catalogue
from core.plan_form import plan_from_form
from core.ports import Address, FenceLost, Record
from handrail.calling import ToolEscaped, ToolThreads, invoke
from handrail.tool import ToolError, call, tool
from handrail.v1 import event_pb2 as E
from orchestrator.decider import Decider
from tests.awake import Awake
from tests.integration.test_life import KEY, Stage
from tests.keys import CHECKER, SIGNER
from workers.host import Worker
from workers.instance import Instance


def t(f, box="box"):
    return f.__handrail_tool__.with_toolbox(box)


def ev(arm, body, id="x"):
    e = E.Event(id=id, version=run.VERSION)
    getattr(e, arm).CopyFrom(body)
    return e


def action(attempt, toolname, args, *, step=None, kind=E.ACTION_KIND_ACT):
    b = E.Action(attempt=attempt, step=step or attempt.rsplit("-a", 1)[0], kind=kind, tool=toolname, key="k")
    for n, v in args.items():
        b.arguments[n].CopyFrom(values.inline(v))
    b.timeout.FromNanoseconds(5 * 10**9)
    permits.bind(b, KEY, "box", args, permits.Grounds(), time.time_ns() + 600 * 10**9)
    permits.sign([b], SIGNER)
    return b


async def ask(log, b, box="box"):
    return await log.append(
        Address(KEY, "dec", ("ask", "worker", box)), ev("action", b, id=b.attempt + "-ask")
    )


async def records(log, kind):
    return [r for r in await log.read(KEY) if r.event.WhichOneof("body") == kind]


async def until(f, s=10.0):
    async with asyncio.timeout(s):
        while True:
            v = f()
            if asyncio.iscoroutine(v):
                v = await v
            if v:
                return v
            await asyncio.sleep(0.01)


def worker(broker, *tools, concurrency=2, gen=1, slot="box_0"):
    log = MemoryLog(broker, (0,))
    return Worker(
        log,
        {x.contract.name: x for x in tools},
        toolbox="box",
        instance=Instance("site", 1, slot, gen),
        checker=CHECKER,
        concurrency=concurrency,
    )


# --- a refusal is appended without the claim's fence ------------------------------------------
async def test_a_refusal_never_answers_an_attempt_that_another_has_claimed():
    """A is slow in its `pre`; the action is delivered again; B claims and acts; A's pre is now false."""
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))
    world = {"free": True, "made": 0}
    a_reads, b_acting, b_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def tools(slow):
        @tool(effect="read")
        async def free() -> bool:
            """F."""
            if slow:
                a_reads.set()
                await b_acting.wait()
            return world["free"]

        @tool(effect="write", idempotency="none", doubt=True, reads={"free": call("free")}, pre="reads.free")
        async def book() -> int:
            """B."""
            world["free"] = False
            world["made"] += 1
            b_acting.set()
            await b_go.wait()
            return 1

        return t(free), t(book)

    a, b = worker(broker, *tools(True), slot="box_0"), worker(broker, *tools(False), slot="box_1")
    await ask(log, action("s-a1", "book", {}))
    rec = (await log.read(KEY))[0]

    class D:  # the same message, handed out twice (A paused for more than ack_wait, then woke)
        def __init__(s, n):
            s.key, s.record, s.time_ns, s.deliveries = KEY, rec, rec.time_ns, n

        async def ack(s):
            pass

        async def nak(s, d=0.0):
            pass

        async def progress(s):
            pass

    ta = asyncio.create_task(a._handle(D(1)))
    await a_reads.wait()
    tb = asyncio.create_task(b._handle(D(2)))
    await ta
    first = (await records(log, "result")) or [None]
    b_go.set()
    await tb
    assert first[0] is None or first[0].event.result.HasField("output"), first[0].event.result


# --- odd exceptions -------------------------------------------------------------------------------
async def test_a_tool_that_raises_cancelled_error_costs_no_credit():
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    async def odd() -> int:
        """O."""
        inner = asyncio.create_task(asyncio.sleep(9))
        inner.cancel()
        await inner
        return 1

    @tool(effect="read")
    def fine() -> int:
        """F."""
        return 1

    w = worker(broker, t(odd), t(fine), concurrency=1)
    task = asyncio.create_task(w.serve())
    try:
        await ask(log, action("odd-a1", "odd", {}))
        await asyncio.sleep(0.1)
        await ask(log, action("fine-a1", "fine", {}))
        await until(lambda: records(log, "result"), 8.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sync_tool_that_raises_futures_cancelled_error_has_an_outcome():
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    def odd() -> int:
        """O."""
        raise concurrent.futures.CancelledError()

    w = worker(broker, t(odd), concurrency=1)
    task = asyncio.create_task(w.serve())
    try:
        await ask(log, action("odd-a1", "odd", {}))
        await until(lambda: records(log, "result"), 4.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sync_tool_that_raises_stop_iteration_does_not_wait_for_its_timeout():
    @tool(effect="read")
    def odd() -> int:
        """O."""
        return next(iter(()))

    with Awake() as awake, pytest.raises(ToolEscaped) as got:
        await invoke(t(odd), {}, timeout_s=60.0, threads=ToolThreads(2))
    assert awake.seconds < 1.0, repr(got.value)


def test_a_tool_that_exits_does_not_end_its_worker():
    """sys.exit() in a tool (argparse does it) must not leave the event loop of the whole stack."""

    async def main():
        broker = MemoryBroker()
        log = MemoryLog(broker, (0,))

        @tool(effect="read")
        def odd() -> int:
            """O."""
            sys.exit(3)

        w = worker(broker, t(odd))
        task = asyncio.create_task(w.serve())
        await ask(log, action("odd-a1", "odd", {}))
        await until(lambda: records(log, "result"), 4.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    try:
        asyncio.run(main())
    except SystemExit as e:
        pytest.fail(f"the event loop ended with SystemExit({e.code})")


async def test_a_tool_that_swallows_cancellation_is_still_timed_out():
    @tool(effect="read")
    async def deaf() -> int:
        """D."""
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.5)
        return 1

    with Awake() as awake, pytest.raises(TimeoutError):
        await invoke(t(deaf), {}, timeout_s=0.2, threads=ToolThreads(2))
    assert awake.seconds < 1.5


async def test_pre_reads_of_another_toolbox_or_raising_are_an_outcome():
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    def broken() -> int:
        """B."""
        raise RuntimeError("database is locked")

    @tool(effect="write", idempotency="natural", reads={"b": call("broken")}, pre="reads.b > 0")
    def act() -> int:
        """A."""
        return 1

    w = worker(broker, t(broken), t(act))
    task = asyncio.create_task(w.serve())
    try:
        await ask(log, action("s-a1", "act", {}))
        await until(lambda: records(log, "result"), 5.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- drain --------------------------------------------------------------------------------------
async def test_an_action_that_is_drained_still_reaches_its_tool():
    """SIGTERM between the claim (or the pre reads) and the call."""
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))
    at_pre, go = asyncio.Event(), asyncio.Event()
    called = []

    @tool(effect="read")
    async def ready() -> bool:
        """R."""
        at_pre.set()
        await go.wait()
        return True

    @tool(effect="read")
    def warm() -> int:
        """W."""
        return 1

    @tool(
        effect="write",
        idempotency="none",
        doubt=True,
        reads={"r": call("ready")},
        pre="reads.r",
        timeout_s=3.0,
    )
    def act() -> int:
        """A."""
        called.append(1)
        return 1

    w = worker(broker, t(ready), t(warm), t(act))
    task = asyncio.create_task(w.serve())
    await ask(log, action("w-a1", "warm", {}))
    await until(lambda: records(log, "result"))
    await ask(log, action("s-a1", "act", {}))
    await at_pre.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)  # what _until does at SIGTERM
    go.set()
    await w.drain(8.0)
    results = await records(log, "result")
    assert called
    assert results[-1].event.result.HasField("output"), results[-1].event.result


# --- broker away while arguments are loaded --------------------------------------------------------
async def test_a_broker_that_is_away_while_arguments_load_is_no_permanent_failure():
    from core.ports import LogUnavailable

    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    def look(x: str) -> int:
        """L."""
        return 1

    w = worker(broker, t(look))
    b = action("s-a1", "look", {"x": "y" * 100_000})
    b.arguments["x"].blob.CopyFrom(await log.put_blob(KEY, b.arguments["x"].json.encode()))

    async def away(*a):
        raise LogUnavailable("the broker is away")

    w._log.get_blob = away
    await ask(log, b)
    task = asyncio.create_task(w.serve())
    try:
        await asyncio.sleep(0.3)
        got = await records(log, "result")
        assert not got, got[0].event.result
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_result_that_can_never_be_written_does_not_hold_the_worker_for_ever():
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    def odd() -> int:
        """O."""
        raise ToolError("x", code="c" * 1_100_000)

    w = worker(broker, t(odd))
    task = asyncio.create_task(w.serve())
    try:
        await ask(log, action("s-a1", "odd", {}))
        await until(lambda: records(log, "result"), 3.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- the verifier ---------------------------------------------------------------------------------
async def test_a_poisoned_re_read_is_answered():
    broker = MemoryBroker()
    log = MemoryLog(broker, (0,))

    @tool(effect="read")
    def nan() -> float:
        """N."""
        return float("nan")

    @tool(effect="write", idempotency="natural", reads={"n": call("nan")}, post="reads.n > 0.0")
    def act() -> int:
        """A."""
        return 1

    tools = {x.contract.name: x for x in (t(nan), t(act))}
    v = Verifier(
        tools, {n: to_proto(x.contract) for n, x in tools.items()}, checker=CHECKER, pool="main", instance="t"
    )
    seq = await ask(log, action("s-a1", "act", {}))
    r = E.Result(attempt="s-a1", output=values.inline(1), happened=1, action_sequence=seq)
    rs = await log.append(Address(KEY, "ans", ("worker", "box", "result", "s-a1")), ev("result", r, id="res"))
    loop = AgentLoop(v, log, pool="main", instance="t", concurrency=4, poison=PoisonPolicy(2, 0.01, 0.02))
    task = asyncio.create_task(loop.run())
    try:
        await until(lambda: records(log, "verdict"), 5.0)  # round 1: given up, UNKNOWN
        va = E.VerifyAsk(attempt="s-a1", result_sequence=rs, result_id="res", round=2)
        await log.append(Address(KEY, "dec", ("ask", "verifier", "main")), ev("verify_ask", va, id="va"))

        async def two():
            return len(await records(log, "verdict")) == 2

        await until(two, 5.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_verdict_is_only_given_on_the_subject_of_the_attempt():
    """A hijacked worker of pool `evil` writes a result with another pool's attempt, action and result id."""
    log = MemoryLog(MemoryBroker(), (0,))

    @tool(effect="write", idempotency="natural", post="output == 5")
    def act() -> int:
        """A."""
        return 1

    tools = {"act": t(act)}
    v = Verifier(tools, {"act": to_proto(tools["act"].contract)}, checker=CHECKER, pool="main", instance="t")
    seq = await ask(log, action("s-a1", "act", {}))
    forged = E.Result(attempt="s-a1", output=values.inline(5), happened=1, action_sequence=seq)
    rec = Record(
        9,
        1,
        Address(KEY, "ans", ("worker", "evil", "result", "mine-a1")),
        ev("result", forged, id="the-real-id"),
    )
    assert await v.handle(rec, log) == []


# --- the decider ------------------------------------------------------------------------------------------
def life(*steps):
    e = E.Event(id="submit", version=run.VERSION)
    e.submit.goal.text = "g"
    e.submit.goal.plan.CopyFrom(plan_from_form({"steps": list(steps)}))
    return e


async def test_a_tick_for_a_decider_without_the_pin_is_not_lost():
    """Two deciders: the pin is with B, A holds what it saw before; the tick of a heal reaches A."""
    stage = Stage()
    broker = stage.broker
    log = stage.log
    a = Decider(MemoryLog(broker, (0,)), stage.decider._catalogue, signer=SIGNER, instance="a")
    ta = asyncio.create_task(a.serve())
    await log.append(
        Address(KEY, "cmd", ("submit",)), life({"id": "n", "tool": "add", "with": {"a": 1, "b": 2}})
    )
    acts = await until(lambda: records(log, "action"))
    await until(
        lambda: a._runs.get(KEY) and not a._runs[KEY].busy and a._runs[KEY].state.applied >= acts[0].sequence
    )
    # the pin moves: everything of the shard goes to B from here on (A is alive, and still hears ticks)
    durable = broker.durable(consumers.decider(), 0)
    intake_a = durable._pinned
    b = Decider(MemoryLog(broker, (0,)), stage.decider._catalogue, signer=SIGNER, instance="b")

    async def only_events():
        await b._consume(consumers.decider())

    durable._intakes.remove(intake_a)
    durable._pinned = None
    tb = asyncio.create_task(only_events())
    r = E.Result(
        attempt="n-a1",
        failure=failures.transient("busy", "busy"),
        happened=E.HAPPENED_NO,
        action_sequence=acts[0].sequence,
    )
    await log.append(Address(KEY, "ans", ("worker", "box", "result", "n-a1")), ev("result", r, id="r1"))
    try:
        await until(lambda: records(log, "healed"))

        async def again():
            return len(await records(log, "action")) == 2

        await until(again, 5.0)
    finally:
        for x in (ta, tb):
            x.cancel()
        await asyncio.gather(ta, tb, return_exceptions=True)


async def test_a_revoke_does_not_carry_the_fence_over_a_foreign_decision():
    """Between folding and the revoke another decider writes: the next decision must lose its fence."""
    stage = Stage()
    log = stage.log
    d = stage.decider
    foreign = ev("skipped", E.Skipped(step="nowhere", reason="another decider's"), id="foreign")
    real = d._log.append
    seen = []

    async def append(address, event, **options):
        if event.WhichOneof("body") == "revoked" and not seen:
            seen.append(await log.append(Address(KEY, "dec", ("note", "skipped")), foreign))
        return await real(address, event, **options)

    d._log.append = append
    from core.moves import Revoke, note
    from orchestrator.decider import _Entry

    e = E.Event(id="s", version=1)
    e.submit.goal.text = "g"
    await log.append(Address(KEY, "cmd", ("submit",)), e)
    entry = _Entry(KEY, run.fold(KEY, await log.read(KEY)))
    moves = [Revoke("box", E.Revoked(attempt="x-a1")), note("skipped", E.Skipped(step="y", reason="blind"))]
    try:
        await d._perform(entry, entry.state, moves)
    except FenceLost:
        return
    assert not any(
        r.event.WhichOneof("body") == "skipped" and r.event.id != "foreign" for r in await log.read(KEY)
    ), "decided without having folded the foreign decision"


async def test_a_step_that_needs_many_large_values_starts():
    """60 items of over 64 KiB each, and a step that refers to them all: MAX_ROUNDS loads are not enough."""
    stage = Stage()
    broker = stage.broker

    @tool(effect="read")
    def make_list() -> list[int]:
        """L."""
        return list(range(60))

    @tool(effect="read")
    def big(n: int) -> str:
        """B."""
        return "x" * 66_000 + str(n)

    @tool(effect="read")
    def length(x: list[str]) -> int:
        """N."""
        return len(x)

    tools = {x.contract.name: x for x in (t(make_list), t(big), t(length))}
    protos = {n: to_proto(x.contract) for n, x in tools.items()}
    stage.decider = Decider(MemoryLog(broker, (0,)), Catalogue(contracts=protos), signer=SIGNER, instance="t")
    stage.worker = Worker(
        MemoryLog(broker, (0,)),
        tools,
        toolbox="box",
        instance=Instance("site", 1, "box_0", 1),
        checker=CHECKER,
        concurrency=8,
    )
    stage.loops = [
        AgentLoop(
            Verifier(tools, protos, checker=CHECKER, pool="main", instance="t"),
            MemoryLog(broker, (0,)),
            pool="main",
            instance="t",
            concurrency=8,
        )
    ]
    stage.start()
    try:
        await stage.submit(
            {"id": "l", "tool": "make_list"},
            {"id": "b", "tool": "big", "each": "$l", "each_limit": 60, "with": {"n": "$each"}},
            {"id": "n", "tool": "length", "with": {"x": "$b"}},
        )
        async with asyncio.timeout(25):
            state = await stage.finish()
        assert state.status == E.RUN_STATUS_DONE, state.finished
    finally:
        await stage.stop()


async def test_an_action_of_many_middling_arguments_can_be_appended():
    """20 arguments of 60 KB are each inline, and together more than an event may have."""
    stage = Stage()
    log = stage.log
    e = E.Event(id="x", version=1)
    b = action("s-a1", "t", {f"a{i}": "x" * 60_000 for i in range(20)})
    e.action.CopyFrom(b)
    await stage.decider._spill(KEY, [e])
    await log.append(Address(KEY, "dec", ("ask", "worker", "box")), e)


async def test_a_blob_that_is_not_text_fails_the_step_and_not_the_decider():
    stage = Stage()
    log = stage.log
    ta = asyncio.create_task(stage.decider.serve())
    await log.append(
        Address(KEY, "cmd", ("submit",)),
        life(
            {"id": "n", "tool": "add", "with": {"a": 1, "b": 2}},
            {"id": "m", "tool": "make", "with": {"amount": "$n"}},
        ),
    )
    acts = await until(lambda: records(log, "action"))
    blob = await log.put_blob(KEY, b"\xff\xfe")
    r = E.Result(attempt="n-a1", happened=1, action_sequence=acts[0].sequence)
    r.output.blob.CopyFrom(blob)
    await log.append(Address(KEY, "ans", ("worker", "box", "result", "n-a1")), ev("result", r, id="r1"))
    v = E.Verdict(attempt="n-a1", result_id="r1", round=1, outcome=E.OUTCOME_CONFIRMED)
    await log.append(Address(KEY, "ans", ("verifier", "main", "verdict", "n-a1")), ev("verdict", v, id="v1"))
    try:
        await until(lambda: records(log, "finished"), 4.0)
    finally:
        ta.cancel()
        await asyncio.gather(ta, return_exceptions=True)


async def test_cancel_ends_though_somebody_wrote_garbage_on_the_claim():
    """A worker of a newer version wrote an intent that this decider cannot read: a claim all the same."""
    stage = Stage()
    log = stage.log
    deciding = asyncio.create_task(stage.decider.serve())
    await log.append(
        Address(KEY, "cmd", ("submit",)), life({"id": "m", "tool": "make", "with": {"amount": 1}})
    )
    await until(lambda: records(log, "action"))
    e = ev("intent", E.Intent(attempt="m-a1", claimer="site-1-box_0-1"), id="i")
    e.version = 2
    await log.append(Address(KEY, "ans", ("worker", "box", "intent", "m-a1")), e)
    await log.append(Address(KEY, "cmd", ("cancel",)), ev("cancel", E.Cancel(reason="x"), id="c"))
    others = [asyncio.create_task(w) for w in (stage.worker.serve(), *(loop.run() for loop in stage.loops))]
    try:
        await until(lambda: records(log, "finished"), 15.0)
    finally:
        for task in (deciding, *others):
            task.cancel()
        await asyncio.gather(deciding, *others, return_exceptions=True)
    assert list(stage.world.made.values()) == [1]


class Handed:
    def __init__(s, key, record, time_ns):
        s.key, s.record, s.time_ns, s.deliveries = key, record, time_ns, 1

    async def ack(s):
        pass

    async def nak(s, d=0.0):
        pass

    async def progress(s):
        pass


async def test_the_first_delivery_of_a_shard_may_leave_a_hole_behind_it():
    stage = Stage()
    log = stage.log
    b = asyncio.create_task(stage.decider._consume(consumers.decider()))  # B holds the pin
    await log.append(
        Address(KEY, "cmd", ("submit",)), life({"id": "n", "tool": "add", "with": {"a": 1, "b": 2}})
    )
    acts = await until(lambda: records(log, "action"))
    a = Decider(MemoryLog(stage.broker, (0,)), stage.decider._catalogue, signer=SIGNER, instance="a")
    a._take(Handed(KEY, None, acts[0].time_ns))
    await until(lambda: KEY in a._runs and not a._runs[KEY].busy)  # a tick (ticks are not pinned)
    r = E.Result(
        attempt="n-a1",
        failure=failures.transient("busy", "busy"),
        happened=E.HAPPENED_NO,
        action_sequence=acts[0].sequence,
    )
    await log.append(Address(KEY, "ans", ("worker", "box", "result", "n-a1")), ev("result", r, id="r1"))
    await until(lambda: records(log, "healed"))
    b.cancel()
    await asyncio.gather(b, return_exceptions=True)  # the pin moves to A
    await log.append(Address(KEY, "cmd", ("pause",)), ev("pause", E.Pause(), id="p"))
    last = (await log.read(KEY))[-1]
    a._take(Handed(KEY, last, last.time_ns))
    await until(lambda: KEY not in a._runs or not a._runs[KEY].busy)
    held = a._runs[KEY].state if KEY in a._runs else None
    assert held is None or held == run.fold(KEY, await log.read(KEY)), "A folded an event over a hole"


async def test_a_timer_that_fires_early_is_armed_again():
    stage = Stage()
    log = stage.log
    d = stage.decider
    armed = []

    async def arm(key, timer, due_ns):
        armed.append((timer, due_ns))

    d._log.arm = arm
    e = life({"id": "n", "tool": "add", "with": {"a": 1, "b": 2}})
    e.submit.goal.deadline.FromNanoseconds(time.time_ns() + 10**12)
    t = asyncio.create_task(d._consume(consumers.decider()))
    await log.append(Address(KEY, "cmd", ("submit",)), e)
    await until(lambda: armed and not d._runs[KEY].busy)
    n = len(armed)
    _, due = armed[-1]
    d._take(Handed(KEY, None, due - 1))
    # The clock of the broker was set back, or rounds: the timer has fired, and nothing else arms it again.
    await until(lambda: len(armed) > n)
    t.cancel()
    await asyncio.gather(t, return_exceptions=True)
