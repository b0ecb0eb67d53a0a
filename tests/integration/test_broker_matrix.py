"""Who may do what at the broker: every user, every subject, every call of JetStream's administration.

What is expected stands here, written by hand from the promise; nothing of it is computed from the table that
the users are made of (`bus.permissions`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import nats.errors
import pytest
import pytest_asyncio

from bus import consumers, permissions, streams
from bus.broker import EmbeddedBroker
from bus.directory import DataDirectory
from bus.link import Link
from bus.log import NatsLog
from bus.subjects import build, key_cell, parse
from core.ports import Address, LogError
from handrail.v1 import event_pb2
from tests.integration.test_broker import WAIT_S, Member, signed_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOLS = {
    "planner": ("main",),
    "executor": ("main", "slow"),
    "worker": ("box", "other"),
    "verifier": ("main",),
}
MEMBERS = {
    "admin": ("admin", ""),
    "gateway": ("gateway", ""),
    "decider": ("decider", ""),
    "tracer": ("tracer", ""),
    "notary": ("notary", ""),
    "planner-main": ("planner", "main"),
    "executor-main": ("executor", "main"),
    "executor-slow": ("executor", "slow"),
    "worker-box": ("worker", "box"),
    "worker-other": ("worker", "other"),
    "verifier-main": ("verifier", "main"),
}
LOW = list(MEMBERS)[1:]
READERS = ("gateway", "decider", "tracer", "notary")
WORKERS = ("worker-box", "worker-other")
CONSUMERS = (
    consumers.decider(),
    consumers.ticks(),
    consumers.tracer(),
    consumers.mind("planner", "main"),
    consumers.mind("executor", "main"),
    consumers.mind("executor", "slow"),
    consumers.worker("box"),
    consumers.worker("other"),
    consumers.verifier("main"),
)
STREAMS = ("EV_0", "BLOB_0", "REQ", "KEY", "TIMER")
RUN = "ev.0.t.r0-matrix00"

# --- what is expected: a subject, and who beside the administrator may publish on it ---------------------

EVENTS: dict[str, tuple[str, ...]] = {
    **{
        f"{RUN}.cmd.{kind}": ("gateway",)
        for kind in ("submit", "cancel", "pause", "resume", "decide", "undo", "forget")
    },
    f"{RUN}.dec.ask.planner.main": ("decider",),
    f"{RUN}.dec.ask.executor.main": ("decider",),
    f"{RUN}.dec.ask.worker.box": ("decider",),
    f"{RUN}.dec.ask.verifier.main": ("decider",),
    f"{RUN}.dec.note.finished": ("decider",),
    f"{RUN}.dec.note.gate_closed": ("decider",),
    f"{RUN}.dec.claim.box.revoke.a1": ("decider",),
    f"{RUN}.ans.planner.main.plan.a1": ("planner-main",),
    f"{RUN}.ans.executor.main.proposal.a1": ("executor-main",),
    f"{RUN}.ans.executor.slow.proposal.a1": ("executor-slow",),
    f"{RUN}.ans.worker.box.intent.a1": ("worker-box",),
    f"{RUN}.ans.worker.box.result.a1": ("worker-box",),
    f"{RUN}.ans.worker.box.orphan.a1": ("worker-box",),
    f"{RUN}.ans.worker.other.intent.a1": ("worker-other",),
    f"{RUN}.ans.worker.other.result.a1": ("worker-other",),
    f"{RUN}.ans.worker.other.orphan.a1": ("worker-other",),
    f"{RUN}.ans.verifier.main.verdict.a1": ("verifier-main",),
}
# Forged: the right role with what is another's to say, pools that are none, and what nobody says.
FORGED: dict[str, tuple[str, ...]] = {
    f"{RUN}.{rest}": ()
    for rest in (
        "ans.planner.main.proposal.a1",
        "ans.planner.other.plan.a1",
        "ans.executor.main.plan.a1",
        "ans.executor.main.result.a1",
        "ans.executor.main.verdict.a1",
        "ans.executor.main.intent.a1",
        "ans.executor.box.proposal.a1",
        "ans.worker.box.proposal.a1",
        "ans.worker.box.verdict.a1",
        "ans.worker.main.result.a1",
        "ans.verifier.main.result.a1",
        "ans.verifier.box.verdict.a1",
        "ans.decider.main.plan.a1",
        "ans.executor.main.proposal",
        "ans.executor.main.proposal.a1.more",
        "approved.x",
    )
}
OTHERS: dict[str, tuple[str, ...]] = {
    "blob.0.t.r0-matrix00.00ff.0": ("gateway", "decider", *WORKERS),
    "req.0123": ("gateway",),
    "key.0.t.r0-matrix00": ("gateway", "decider"),
    "key.0.t": (),
    "heard.key.0.t.r0-matrix00": (),
    "timer.arm.0.t.r0-matrix00.x": ("decider",),
    "timer.due.0.t.r0-matrix00": (),
    "hb.planner.main.i1": ("planner-main",),
    "hb.executor.main.i1": ("executor-main",),
    "hb.executor.slow.i1": ("executor-slow",),
    "hb.worker.box.i1": ("worker-box",),
    "hb.worker.other.i1": ("worker-other",),
    "hb.verifier.main.i1": ("verifier-main",),
    "_INBOX_admin.x": (),
    "_INBOX_gateway.x": (),
    "_INBOX_decider.x": (),
    "_INBOX_worker-box.x": (),
    "_R_.x": (),
    "elsewhere": (),
}
OWNERS = {  # of the durable consumers
    "EV_0.decider": "decider",
    "TIMER.ticks_0": "decider",
    "EV_0.tracer": "tracer",
    "EV_0.planner-main": "planner-main",
    "EV_0.executor-main": "executor-main",
    "EV_0.executor-slow": "executor-slow",
    "EV_0.worker-box": "worker-box",
    "EV_0.worker-other": "worker-other",
    "EV_0.verifier-main": "verifier-main",
}
ADMINISTRATION: dict[str, tuple[str, ...]] = {
    "INFO": tuple(LOW),
    "ACCOUNT.PURGE.LOG": (),
    "META.LEADER.STEPDOWN": (),
    "SERVER.REMOVE": (),
    "STREAM.NAMES": (),
    "STREAM.LIST": (),
    "DIRECT.GET.EV_0": (),
    "DIRECT.GET.KEY": (),
    "DIRECT.GET.KEY.key.0.t.r0-matrix00": tuple(LOW),
    f"DIRECT.GET.EV_0.{RUN}.cmd.submit": (),
    "CONSUMER.CREATE.EV_0": (),
    "CONSUMER.DURABLE.CREATE.EV_0.mine": (),
    "CONSUMER.NAMES.EV_0": (),
    "CONSUMER.LIST.EV_0": (),
    "CONSUMER.CREATE.EV_0.read-1": READERS,
    f"CONSUMER.CREATE.EV_0.read-1.{RUN}.>": READERS,
    "CONSUMER.INFO.EV_0.read-1": READERS,
    "CONSUMER.DELETE.EV_0.read-1": READERS,
    "CONSUMER.MSG.NEXT.EV_0.read-1": READERS,
    **{f"STREAM.MSG.GET.{stream}": tuple(LOW) for stream in STREAMS},
    **{f"STREAM.INFO.{stream}": READERS for stream in STREAMS},
    **{
        f"STREAM.{call}.{stream}": ()
        for stream in (*STREAMS, "NEW")
        for call in (
            *("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE"),
            *("PEER.REMOVE", "LEADER.STEPDOWN", "TEMPLATE.CREATE"),
        )
    },
    # How a run is forgotten.
    "STREAM.MSG.DELETE.KEY": ("decider",),
}
DURABLES: dict[str, tuple[str, ...]] = {
    **{
        f"$JS.API.CONSUMER.{call}.{home}": ()
        for home in OWNERS
        for call in ("CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN")
    },
    **{f"$JS.API.CONSUMER.CREATE.{home}.ev.0.>": () for home in OWNERS},
    **{f"$JS.API.CONSUMER.MSG.NEXT.{home}": (owner,) for home, owner in OWNERS.items()},
    # To look at a consumer is to read; whoever reads all may look at each.
    **{f"$JS.API.CONSUMER.INFO.{home}": (*READERS, owner) for home, owner in OWNERS.items()},
    **{f"$JS.ACK.{home}.1.2.3.4.5": (owner,) for home, owner in OWNERS.items()},
    **{f"$JS.ACK._.hash.{home}.1.2.3.4.5": (owner,) for home, owner in OWNERS.items()},
    "$JS.ACK.EV_0.decider.1.executor-main.3.4.5": ("decider",),
    "$JS.FC.EV_0.read-1.x": (),
    "$JSC.R.x": (),
    "$SYS.REQ.SERVER.PING": (),
    "$SYS.REQ.ACCOUNT.LOG.CONNZ": (),
    "$SYS.ACCOUNT.LOG.CLAIMS.UPDATE": (),
    "$SRV.PING": (),
}
MATRIX = {
    **EVENTS,
    **FORGED,
    **OTHERS,
    **{f"$JS.API.{call}": may for call, may in ADMINISTRATION.items()},
    **DURABLES,
}
DEAF = (
    *(">", "*.>", "ev.>", "blob.>", "req.>", "timer.>", "key.>", "heard.>", "_INBOX.>", "$JS.>", "$SYS.>"),
    *("_R_.>", f"{RUN}.>"),
)


# --- the stage -------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedBroker]:
    with DataDirectory.acquire(tmp_path_factory.mktemp("matrix") / ".handrail") as directory:
        broker = EmbeddedBroker(directory, POOLS, relaxed=True)
        await broker.start()
        link = await open_link(broker, "admin")
        await streams.ensure(link, shards=[0], consumers=CONSUMERS, max_bytes=64 << 20)
        await link.close()
        yield broker
        await broker.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(broker: EmbeddedBroker) -> AsyncIterator[Member]:
    async with signed_in(broker, "admin") as member:
        yield member


async def open_link(broker: EmbeddedBroker, user: str) -> Link:
    who = broker.credentials(*MEMBERS[user])
    return await Link.connect(broker.url, user=who.user, password=who.password, inbox_prefix=who.inbox_prefix)


@asynccontextmanager
async def log_as(broker: EmbeddedBroker, user: str) -> AsyncIterator[NatsLog]:
    log = NatsLog(await open_link(broker, user), (0,))
    try:
        yield log
    finally:
        await log.close()


async def ask(member: Member, call: str, body: Any = None) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    answer = await member.client.request(f"$JS.API.{call}", data, timeout=WAIT_S)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def messages(admin: Member, stream: str, after: int = 0) -> list[tuple[str, bytes]]:
    """What a stream holds after a sequence: subject and body."""
    last = (await ask(admin, f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    found = []
    for sequence in range(after + 1, last + 1):
        got = await ask(admin, f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        if "message" in got:
            found.append((got["message"]["subject"], base64.b64decode(got["message"].get("data") or "")))
    return found


async def picture(admin: Member) -> dict[str, Any]:
    """All that an attack could have changed: streams, their flags and sizes, durable consumers."""
    seen: dict[str, Any] = {"streams": sorted((await ask(admin, "STREAM.NAMES"))["streams"])}
    for stream in STREAMS:
        info = await ask(admin, f"STREAM.INFO.{stream}")
        seen[stream] = (info["config"], info["state"]["messages"], info["state"]["last_seq"])
        for consumer in (await ask(admin, f"CONSUMER.LIST.{stream}"))["consumers"]:
            if not consumer["name"].startswith("read-"):
                acked = consumer["ack_floor"]["stream_seq"]
                seen[f"{stream}.{consumer['name']}"] = (consumer["config"], acked)
    return seen


def fresh() -> str:
    """A run of a test's own."""
    return f"ev.0.t.r0-{uuid.uuid4().hex[:12]}"


def own_subject(user: str, run: str) -> str:
    """Something that this user may write into the log; empty where it may nothing."""
    return {
        "gateway": f"{run}.cmd.submit",
        "decider": f"{run}.dec.note.finished",
        "planner-main": f"{run}.ans.planner.main.plan.a1",
        "executor-main": f"{run}.ans.executor.main.proposal.a1",
        "executor-slow": f"{run}.ans.executor.slow.proposal.a1",
        "worker-box": f"{run}.ans.worker.box.result.a1",
        "worker-other": f"{run}.ans.worker.other.result.a1",
        "verifier-main": f"{run}.ans.verifier.main.verdict.a1",
    }.get(user, "")


# --- the matrix ------------------------------------------------------------------------------------------


async def test_the_users_are_these(broker: EmbeddedBroker) -> None:
    assert [user.name for user in permissions.users(POOLS)] == list(MEMBERS)
    with pytest.raises((nats.errors.Error, OSError)):
        await nats.connect(broker.url, allow_reconnect=False)


@pytest.mark.parametrize("user", MEMBERS)
async def test_each_publishes_what_the_table_says(broker: EmbeddedBroker, user: str) -> None:
    async with signed_in(broker, *MEMBERS[user]) as member:
        for subject in MATRIX:
            # No request, so that none that is let through does anything.
            await member.client.publish(subject, b"{")
        refused = set(await member.refusals())
        allowed = {subject for subject in MATRIX if subject.lower() not in refused}
    expected = {subject for subject, may in MATRIX.items() if user == "admin" or user in may}
    assert allowed == expected, (allowed ^ expected, user)


@pytest.mark.parametrize("user", LOW)
async def test_each_hears_its_own_inbox_only(broker: EmbeddedBroker, user: str) -> None:
    others = [f"_INBOX_{other}.>" for other in MEMBERS if other != user]
    beats = [] if user == "gateway" else ["hb.>"]
    async with signed_in(broker, *MEMBERS[user]) as member:
        for subject in (*DEAF, *others, *beats):
            await member.client.subscribe(subject)
        await member.client.subscribe(f"_INBOX_{user}.>")
        assert await member.refusals() == [subject.lower() for subject in (*DEAF, *others, *beats)]


# --- answers: whoever asks names their subject -----------------------------------------------------------


def places(run: str) -> list[str]:
    """Where somebody would like the broker to put an answer."""
    return [
        f"{run}.dec.note.gate_closed",
        f"{run}.dec.claim.box.revoke.a1",
        f"{run}.cmd.cancel",
        f"{run}.ans.worker.box.intent.a1",
        f"{run}.ans.verifier.main.verdict.a1",
        "blob.0.t.r0-matrix00.00ff.1",
        "req.4567",
        "heard.key.0.t.r0-matrix00",
        "timer.due.0.t.r0-matrix00",
        "_INBOX_admin.stolen",
        "_INBOX_decider.stolen",
        "$JS.API.STREAM.DELETE.EV_0",
        "$JS.API.STREAM.DELETE.TIMER",
        "$JS.API.STREAM.PURGE.TIMER",
        "$JS.API.CONSUMER.DELETE.EV_0.decider",
        "$JS.API.CONSUMER.DELETE.EV_0.worker-box",
        "$JS.API.CONSUMER.MSG.NEXT.EV_0.worker-box",
    ]


def questions(user: str, run: str) -> Iterable[tuple[str, bytes]]:
    """Whatever this user may send that is answered."""
    yield "$JS.API.INFO", b""
    yield "$JS.API.STREAM.MSG.GET.EV_0", b'{"seq":1}'
    yield "$JS.API.STREAM.MSG.GET.EV_0", b'{"seq":999999}'
    for home, owner in OWNERS.items():
        if owner == user and user != "decider":
            yield f"$JS.ACK.{home}.1.900.900.4.5", b'+NXT {"batch":1,"no_wait":true}'
            # Nothing is there, and to say so the broker sends a message without a body.
            yield f"$JS.API.CONSUMER.MSG.NEXT.{home}", b'{"batch":1,"no_wait":true}'
            yield f"$JS.API.CONSUMER.INFO.{home}", b""
    if user in READERS:
        yield "$JS.API.STREAM.INFO.EV_0", b""
        yield "$JS.API.CONSUMER.INFO.EV_0.decider", b""
        yield "$JS.API.CONSUMER.CREATE.EV_0.read-1", b"{"
        yield "$JS.API.CONSUMER.DELETE.EV_0.read-none", b""
    if user in ("executor-main", "worker-box", "gateway"):
        yield own_subject(user, run), b"mine"


async def drain(member: Member, user: str) -> None:
    """Take what there is for a user's own consumers."""
    for home in (home for home, owner in OWNERS.items() if owner == user and user != "decider"):
        stream, name = home.split(".")
        bound = await member.js.pull_subscribe_bind(name, stream)
        while (await member.js.consumer_info(stream, name)).num_pending:
            for message in await bound.fetch(100, timeout=0.1):
                await message.ack_sync(timeout=WAIT_S)


@pytest.mark.parametrize("user", LOW)
async def test_an_answer_is_written_nowhere_else(broker: EmbeddedBroker, admin: Member, user: str) -> None:
    run = fresh()
    await admin.js.publish(f"{run}.cmd.submit", b"something to read")
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(signed_in(broker, *MEMBERS[user]))
        await drain(member, user)
        before = await picture(admin)
        stolen: list[Any] = []
        for other in ("admin", "decider"):
            if other != user:
                victim = await stack.enter_async_context(signed_in(broker, other))
                heard = await victim.client.subscribe(f"_INBOX_{other}.>")
                await victim.client.flush()
                stolen.append((victim, heard))
        written = 0
        for subject, body in questions(user, run):
            for reply in places(run):
                await member.client.publish(subject, body, reply=reply)
                written += subject.startswith("ev.")
        # The same questions again, asked honestly: when these are answered, so are those before.
        for subject, body in questions(user, run):
            if not subject.startswith("$JS.ACK"):
                await member.client.request(subject, body, timeout=WAIT_S)
                written += subject.startswith("ev.")
        assert await member.refusals() == []
        for victim, heard in stolen:
            await victim.client.flush()
            await victim.client.flush()
            assert heard.pending_msgs == 0
    after = await picture(admin)
    config, count, last = before["EV_0"]
    before["EV_0"] = (config, count + written, last + written)
    assert after == before
    assert {subject for subject, _ in await messages(admin, "EV_0", last)} <= {own_subject(user, run)}


@pytest.mark.parametrize("user", LOW)
async def test_no_acknowledgement_is_an_answer(broker: EmbeddedBroker, user: str) -> None:
    async with signed_in(broker, *MEMBERS[user]) as member:
        await member.client.publish("$JS.API.INFO", b"", reply="$JS.ACK.EV_0.decider.1.1.1.1.1")
        assert await member.refusals() == ["$js.ack.ev_0.decider.1.1.1.1.1"]


@pytest.mark.parametrize("user", READERS)
async def test_a_readers_consumer_delivers_nowhere_else(
    broker: EmbeddedBroker, admin: Member, user: str
) -> None:
    run = fresh()
    async with signed_in(broker, *MEMBERS[user]) as member:
        before = await picture(admin)
        made = []
        for place in (*places(run), "$JS.ACK.EV_0.worker-box.1.1.1.1.0"):
            if "MSG.NEXT" in place:
                continue  # Pulls for another delay it, which a reader is not kept from.
            name = f"read-{uuid.uuid4().hex[:8]}"
            config = {
                "name": name,
                "deliver_subject": place,
                "ack_policy": "none",
                "deliver_policy": "all",
                "idle_heartbeat": 100_000_000,
                "mem_storage": True,
                "inactive_threshold": 600_000_000_000,
            }
            # From another stream than the one that it is to be written into.
            stream = "BLOB_0" if place.startswith("ev.") else "EV_0"
            body = {"stream_name": stream, "config": config, "action": "create"}
            if "error" not in await ask(member, f"CONSUMER.CREATE.{stream}.{name}", body):
                made.append((stream, name, place))
        assert made
        assert await picture(admin) == before
        for stream, name, place in made:
            info = await ask(member, f"CONSUMER.INFO.{stream}.{name}")
            assert not info.get("push_bound"), place
            assert info["delivered"]["consumer_seq"] == 0
            await ask(member, f"CONSUMER.DELETE.{stream}.{name}")


async def test_nobody_but_the_broker_says_what_a_key_is(broker: EmbeddedBroker) -> None:
    submit, other = parse(f"{fresh()}.cmd.submit"), parse(f"{fresh()}.cmd.submit")
    async with (
        log_as(broker, "gateway") as gateway,
        log_as(broker, "decider") as decider,
        signed_in(broker, *MEMBERS["tracer"]) as tracer,
    ):
        await decider.listen()
        await decider.link.request("$JS.API.INFO")
        cancel = Address(submit.key, "cmd", ("cancel",))
        sequence = await gateway.store.publish("EV_0", build(cancel), b"k" * 32)
        config = {
            "name": "read-forged",
            "deliver_subject": f"heard.{key_cell(submit.key)}",
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": sequence,
            "mem_storage": True,
        }
        body = {"stream_name": "EV_0", "config": config, "action": "create"}
        assert "error" not in await ask(tracer, "CONSUMER.CREATE.EV_0.read-forged", body)
        for link in (gateway.link, decider.link):
            with suppress(LogError):
                await link.request(f"heard.{key_cell(submit.key)}", b"k" * 32)
        await gateway.begin(other.key)
        async with asyncio.timeout(WAIT_S):
            while other.key not in decider.keys._heard:
                await asyncio.sleep(0.01)
        # An answer stays with the user that asked: another process of it could have it sent here.
        async with log_as(broker, "decider") as peer:
            for cell in (key_cell(other.key), "key.0.t.r0-nothing00"):
                place = f"heard.{key_cell(submit.key)}"
                await peer.link.publish(f"$JS.API.DIRECT.GET.KEY.{cell}", reply=place)
            await peer.link.publish("$JS.API.STREAM.MSG.GET.KEY", b'{"seq":1}', reply=place)
            await peer.link.request("$JS.API.INFO")
        third = parse(f"{fresh()}.cmd.submit").key
        await gateway.begin(third)
        async with asyncio.timeout(WAIT_S):
            while third not in decider.keys._heard:
                await asyncio.sleep(0.01)
        assert submit.key not in decider.keys._heard
        info = await ask(tracer, "CONSUMER.INFO.EV_0.read-forged")
        assert info["delivered"]["consumer_seq"] == 0


# --- headers that have the broker do something -----------------------------------------------------------

HEADERS: dict[str, dict[str, str]] = {
    "rollup all": {"Nats-Rollup": "all"},
    "rollup sub": {"Nats-Rollup": "sub"},
    "ttl": {"Nats-TTL": "1s"},
    "never": {"Nats-TTL": "never"},
    "counter": {"Nats-Incr": "1"},
    "batch": {"Nats-Batch-Id": "b1", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    "another stream": {"Nats-Expected-Stream": "BLOB_0"},
    "last id": {"Nats-Expected-Last-Msg-Id": "nobody's"},
    "schedule": {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": f"{RUN}.dec.note.finished"},
    "schedule source": {
        "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
        "Nats-Schedule-Target": f"{RUN}.dec.note.finished",
        "Nats-Schedule-Source": f"{RUN}.cmd.submit",
    },
}
HARMLESS: dict[str, dict[str, str]] = {
    "marker": {"Nats-Marker-Reason": "Purge"},
    "request info": {"Nats-Request-Info": '{"acc":"LOG","user":"admin"}'},
    "deletion": {"KV-Operation": "PURGE"},
}


@pytest.mark.parametrize("user", ["admin", *(user for user in LOW if own_subject(user, RUN))])
async def test_no_header_removes_or_adds_anything(broker: EmbeddedBroker, admin: Member, user: str) -> None:
    run = fresh()
    subject = own_subject(user, run) or f"{run}.dec.note.finished"
    await admin.js.publish(subject, b"first")
    before = await picture(admin)
    async with signed_in(broker, *MEMBERS[user]) as member:
        for name, headers in HEADERS.items():
            answer = await member.client.request(subject, b"x", headers=headers, timeout=WAIT_S)
            assert "error" in json.loads(answer.data), (name, answer.data)
        assert await picture(admin) == before
        for headers in HARMLESS.values():
            answer = await member.client.request(subject, b"x", headers=headers, timeout=WAIT_S)
            assert "seq" in json.loads(answer.data)
    _, _, last = before["EV_0"]
    assert [found for found, _ in await messages(admin, "EV_0", last)] == [subject] * len(HARMLESS)


OWN_PLACES = {  # where a user may write anyway
    "gateway": (".cmd.", "blob.", "req."),
    "decider": (".dec.", "blob."),
    "worker-box": (".ans.worker.box.", "blob.", "MSG.NEXT.EV_0.worker-box"),
    "worker-other": ("blob.",),
    "verifier-main": (".ans.verifier.main.",),
}


@pytest.mark.parametrize("user", LOW)
async def test_no_trace_of_a_message_is_written(broker: EmbeddedBroker, admin: Member, user: str) -> None:
    """The broker reports a traced message's way on a subject that its sender names."""
    run, before = fresh(), await picture(admin)
    others = [place for place in places(run) if not any(own in place for own in OWN_PLACES.get(user, ()))]
    async with signed_in(broker, *MEMBERS[user]) as member:
        for place in others:
            headers = {"Nats-Trace-Dest": place, "Nats-Trace-Only": "true"}
            await member.client.publish("$JS.API.INFO", b"", headers=headers)
        assert await member.refusals() == [place.lower() for place in others]
    assert await picture(admin) == before


@pytest.mark.parametrize("user", ["gateway", "decider", *WORKERS])
async def test_no_rollup_removes_a_blob_or_a_cell(broker: EmbeddedBroker, admin: Member, user: str) -> None:
    before = await picture(admin)
    async with signed_in(broker, *MEMBERS[user]) as member:
        for subject in ("blob.0.t.r0-matrix00.00ff.0", *(["req.0123"] if user == "gateway" else [])):
            for name in ("rollup all", "rollup sub", "ttl"):
                answer = await member.client.request(subject, b"x", headers=HEADERS[name], timeout=WAIT_S)
                assert "error" in json.loads(answer.data)
    assert await picture(admin) == before


async def test_the_decider_can_wipe_the_timers_which_are_hints(broker: EmbeddedBroker, admin: Member) -> None:
    async with signed_in(broker, "decider") as decider:
        for timer in ("a", "b"):
            headers = {
                # Far off, but within what the broker counts in nanoseconds (2262): beyond it is due at once.
                "Nats-Schedule": "@at 2199-01-01T00:00:00Z",
                "Nats-Schedule-Target": "timer.due.0.t.r0-matrix00",
                **(HEADERS["rollup all"] if timer == "b" else {}),
            }
            await decider.client.request("timer.arm.0.t.r0-matrix00." + timer, b"", headers=headers)
        # Nor does a tick lead out of their stream.
        stray = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": f"{RUN}.cmd.cancel"}
        answer = await decider.client.request("timer.arm.0.t.r0-matrix00.c", b"", headers=stray)
        assert "error" in json.loads(answer.data)


async def test_a_message_id_keeps_nobody_elses_event_out(broker: EmbeddedBroker, admin: Member) -> None:
    run = fresh()
    event = event_pb2.Event(id=uuid.uuid4().hex, version=1, writer="worker/1-1")
    async with (
        signed_in(broker, "executor", "main") as executor,
        log_as(broker, "worker-box") as worker,
        log_as(broker, "gateway") as gateway,
    ):
        await gateway.begin(parse(f"{run}.cmd.submit").key)
        proposal = f"{run}.ans.executor.main.proposal.a1"
        for _ in range(2):  # the second is a repetition, to the broker
            await executor.client.request(proposal, b"x", headers={"Nats-Msg-Id": event.id}, timeout=WAIT_S)
        sequence = await worker.append(parse(f"{run}.ans.worker.box.result.a1"), event)
        found = await worker.get(0, sequence)
    assert found is not None
    assert found.event == event
    kept = [subject for subject, _ in await messages(admin, "EV_0") if subject.startswith(run)]
    assert kept == [proposal, f"{run}.ans.worker.box.result.a1"]


# --- what the flags keep from the administrator too ------------------------------------------------------


@pytest.mark.parametrize("stream", ["EV_0", "BLOB_0", "REQ"])
async def test_the_administrator_cannot_empty_what_is_append_only(admin: Member, stream: str) -> None:
    before = await picture(admin)
    config = before[stream][0]
    for call, body in (
        (f"STREAM.PURGE.{stream}", None),
        (f"STREAM.PURGE.{stream}", {"keep": 0, "filter": ">"}),
        (f"STREAM.MSG.DELETE.{stream}", {"seq": 1}),
        (f"STREAM.UPDATE.{stream}", {**config, "deny_purge": False}),
        (f"STREAM.UPDATE.{stream}", {**config, "deny_delete": False}),
        (f"STREAM.UPDATE.{stream}", {**config, "retention": "workqueue"}),
        (f"STREAM.UPDATE.{stream}", {**config, "storage": "memory"}),
        (f"STREAM.CREATE.{stream}", {**config, "deny_purge": False}),
    ):
        assert "error" in await ask(admin, call, body), (call, body)
    assert await picture(admin) == before


async def test_what_the_administrator_can_do_is_known(admin: Member) -> None:
    # Delete a stream whole, and have it drop what is old or heard: who holds this password holds the log.
    config = (await ask(admin, "STREAM.INFO.EV_0"))["config"]
    spare = {**config, "name": "SPARE", "subjects": ["spare.>"]}
    assert "error" not in await ask(admin, "STREAM.CREATE.SPARE", spare)
    for change in ({"max_msgs": 1, "discard": "old"}, {"retention": "interest"}):
        assert "error" not in await ask(admin, "STREAM.UPDATE.SPARE", {**spare, **change})
    assert (await ask(admin, "STREAM.DELETE.SPARE"))["success"]
