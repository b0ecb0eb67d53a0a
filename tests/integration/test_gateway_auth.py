"""Who calls the gateway: every role at every call, names, tenants, and whoever has no business there."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bus import subjects
from bus.memory import MemoryBroker, MemoryLog
from core.caller import CALLS, ROLES
from core.conformance import Limits
from core.ports import Address
from core.run import VERSION
from handrail import errors
from handrail.client import Client
from handrail.issuer import Tokens
from handrail.person import CA_ENV, CERTIFICATE_ENV, KEY_ENV, TOKEN_ENV, TOKEN_FILE_ENV
from handrail.release import release
from handrail.settings import ProjectError, Settings, TlsSettings
from handrail.stack import parts
from handrail.tokens import LocalKeys
from handrail.v1 import (
    audit_service_pb2,
    auth_service_pb2,
    event_pb2,
    gate_service_pb2,
    run_service_pb2,
    tool_service_pb2,
)
from orchestrator import supervision
from orchestrator.gateway import Gateway, ListenError, Tls
from orchestrator.projection import Projection
from tests.integration.gateway_stage import CONTRACTS, Stage, details, staged

PLAN = {"steps": [{"id": "refund", "tool": "refund_order", "with": {"order_id": 7, "amount": 5}}]}
WATCHES = ("GateService/WatchGates", "RunService/WatchRun")
MODULES = (audit_service_pb2, auth_service_pb2, gate_service_pb2, run_service_pb2, tool_service_pb2)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN_ENV, TOKEN_FILE_ENV, CA_ENV, CERTIFICATE_ENV, KEY_ENV):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeys:
    found = LocalKeys(tmp_path)
    found.ensure()
    return found


@pytest.fixture
async def stage(keys: LocalKeys) -> AsyncIterator[Stage]:
    async with staged(callers=Tokens(keys)) as found:
        yield found


def every_call() -> dict[str, tuple[type[Message], type[Message], bool]]:
    """Return every call that there is: what it takes and gives, and whether in a stream."""
    found = {}
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                takes, gives = (getattr(module, t.name) for t in (method.input_type, method.output_type))
                found[f"{service.name}/{method.name}"] = takes, gives, method.server_streaming
    return found


async def call(stage: Stage, name: str, token: str | None) -> grpc.StatusCode:
    """Make a call with an empty request, and say what it came to."""
    takes, gives, streams = every_call()[name]
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    kind: Callable[..., Any] = stage.channel.unary_stream if streams else stage.channel.unary_unary
    made = kind(f"/handrail.v1.{name}", takes.SerializeToString, gives.FromString)
    try:
        answer = made(takes(), timeout=5, metadata=metadata)
        if streams and name != "GateService/WatchGates":
            async for _ in answer:
                pass
        elif streams:
            # It says nothing, and goes on: whoever was to be refused was refused at once.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await answer.read()
            answer.cancel()
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_the_table_has_every_call_that_there_is() -> None:
    assert every_call().keys() == CALLS.keys()


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_may_call_what_the_table_says(stage: Stage, keys: LocalKeys, role: str) -> None:
    token = keys.sign("bob", [role])
    for name, roles in CALLS.items():
        code = await call(stage, name, token)
        refused = code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
        assert refused == (role not in roles), f"{name} by {role}: {code}"


async def test_without_a_token_that_is_believed_nothing_is_answered(stage: Stage, keys: LocalKeys) -> None:
    ended = keys.sign("bob", ROLES, life_s=-60)
    nobody = keys.sign("bob", [])
    for name in CALLS:
        for token in (None, "", "x", ended):
            assert await call(stage, name, token) is grpc.StatusCode.UNAUTHENTICATED
        assert await call(stage, name, nobody) is grpc.StatusCode.PERMISSION_DENIED
    assert stage.events() == 0
    async with Client(stage.address) as client:
        with pytest.raises(errors.Unauthenticated, match="HANDRAIL_TOKEN_FILE"):
            await client.whoami()


async def test_a_token_must_stand_where_it_belongs(stage: Stage, keys: LocalKeys) -> None:
    token, ask = keys.sign("bob", ROLES), auth_service_pb2.WhoAmIRequest()
    made = stage.channel.unary_unary(
        "/handrail.v1.AuthService/WhoAmI", ask.SerializeToString, auth_service_pb2.WhoAmIResponse.FromString
    )
    for metadata in (
        (("authorization", token),),
        (("authorization", f"Basic {token}"),),
        (("token", token),),
        (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await made(ask, metadata=metadata)
        assert details(refused.value)[0].reason == "NO_TOKEN"
    assert (await made(ask, metadata=(("authorization", f"bearer {token}"),))).name == "bob"


async def test_health_is_open_and_reflection_is_not(stage: Stage, keys: LocalKeys) -> None:
    health = health_pb2_grpc.HealthStub(stage.channel)
    assert (
        await health.Check(health_pb2.HealthCheckRequest())
    ).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(stage.channel)

    async def services(metadata: Any = ()) -> set[str]:
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        answers = reflection.ServerReflectionInfo(iter(requests), metadata=metadata)
        return {s.name async for answer in answers for s in answer.list_services_response.service}

    for token in ((), (("authorization", f"Bearer {keys.sign('bob', [])}"),)):
        with pytest.raises(grpc.aio.AioRpcError):
            await services(token)
    found = await services((("authorization", f"Bearer {keys.sign('bob', ['auditor'])}"),))
    assert "handrail.v1.AuthService" in found


async def test_whoever_calls_is_told_who_that_is(stage: Stage, keys: LocalKeys) -> None:
    async with Client(stage.address, token=keys.sign("bob", ["approver"], tenant="shop")) as client:
        who = await client.whoami()
        assert (who.name, who.tenant, list(who.roles), who.speaks_for_all) == (
            "bob",
            "shop",
            ["approver"],
            False,
        )
        assert who.ends.ToSeconds() > time.time()


async def test_nobody_speaks_for_somebody_else_but_an_admin(stage: Stage, keys: LocalKeys) -> None:
    async def submitted(token: str, submitter: str = "") -> event_pb2.Event:
        async with Client(stage.address, token=token) as client:
            run = (await client.submit("refund 7", plan=PLAN, submitter=submitter)).run
        (record,) = await stage.log.read(stage.key(run))
        assert record.event is not None
        return record.event

    bob = keys.sign("bob", ["submitter"])
    for said in ("", "bob"):
        event = await submitted(bob, said)
        assert (event.submit.goal.submitter, event.caller) == ("bob", "bob")
    with pytest.raises(errors.PermissionDenied, match="cannot speak for 'ann'") as refused:
        await submitted(bob, "ann")
    assert refused.value.reason == "NOT_YOU"
    event = await submitted(keys.sign("root", ["admin"]), "ann")
    assert (event.submit.goal.submitter, event.caller) == ("ann", "root")


async def test_the_log_says_as_what_somebody_called_and_with_which_token(
    stage: Stage, keys: LocalKeys
) -> None:
    token = keys.sign("bob", ["submitter", "operator"])
    async with Client(stage.address, token=token) as bob:
        run = (await bob.submit("refund 7", plan=PLAN)).run
        await bob.pause(run)
        await bob.resume(run)
        await bob.cancel(run)
    said = [record.event for record in await stage.log.read(stage.key(run))]
    events = [event for event in said if event is not None and event.caller]
    assert [event.WhichOneof("body") for event in events] == ["submit", "pause", "resume", "cancel"]
    wanted = jwt.decode(token, options={"verify_signature": False})["jti"]
    assert {(*event.caller_roles, event.token_id) for event in events} == {("operator", "submitter", wanted)}
    # Which token, and no part of it that would open anything.
    signature = token.rpartition(".")[2]
    assert not any(signature.encode() in event.SerializeToString() for event in events)
    assert {event.handrail for event in events} == {release()}


async def test_where_no_tokens_are_checked_nobody_has_a_role() -> None:
    async with staged() as stage, Client(stage.address) as somebody:
        run = (await somebody.submit("refund 7", plan=PLAN, submitter="ann")).run
        (record,) = await stage.log.read(stage.key(run))
        assert record.event is not None
        assert (record.event.caller, list(record.event.caller_roles), record.event.token_id) == ("", [], "")


async def test_who_only_submits_cancels_their_own_runs(stage: Stage, keys: LocalKeys) -> None:
    async with (
        Client(stage.address, token=keys.sign("bob", ["submitter"])) as bob,
        Client(stage.address, token=keys.sign("ann", ["submitter"])) as ann,
        Client(stage.address, token=keys.sign("olga", ["operator"])) as olga,
    ):
        first, second = [(await bob.submit("refund 7", plan=PLAN)).run for _ in range(2)]
        with pytest.raises(errors.PermissionDenied, match="is bob's, and you are ann"):
            await ann.cancel(first)
        assert (await ann.get(first)).goal
        await bob.cancel(first)
        await olga.cancel(second)
        with pytest.raises(errors.PermissionDenied, match="takes the role admin or operator"):
            await bob.pause(first)
    events = [record.event for run in (first, second) for record in await stage.log.read(stage.key(run))]
    assert [event.caller for event in events if event and event.HasField("cancel")] == ["bob", "olga"]


async def test_another_tenants_runs_do_not_exist(stage: Stage, keys: LocalKeys) -> None:
    async with (
        Client(stage.address, token=keys.sign("bob", ["submitter"])) as bob,
        Client(stage.address, token=keys.sign("eve", ROLES, tenant="other")) as eve,
    ):
        run = (await bob.submit("refund 7", plan=PLAN, request_id="once")).run
        same = await eve.submit("refund 7", plan=PLAN, request_id="once")
        assert not same.existed
        assert same.run != run
        watch, lines = eve.watch(run, timeout_s=5), eve.export(run)
        for asked in (
            eve.get(run),
            eve.cancel(run),
            eve.undo(run),
            eve.audit(run),
            anext(watch),
            anext(lines),
        ):
            with pytest.raises(errors.NotFound):
                await asked

        async def listed(client: Client) -> list[str]:
            return [found.id async for found in client.list()]

        async with asyncio.timeout(5):
            while not (await listed(bob) and await listed(eve)):
                await asyncio.sleep(0.01)
        assert (await listed(bob), await listed(eve)) == ([run], [same.run])


async def test_a_watch_ends_with_the_token(stage: Stage, keys: LocalKeys) -> None:
    async with Client(stage.address, token=keys.sign("bob", ROLES)) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
    short = keys.sign("bob", ["auditor"], life_s=2)
    async with Client(stage.address, token=short) as client:
        with pytest.raises(errors.Unauthenticated) as ended:
            async for _ in client.watch(run, timeout_s=30):
                pass
    assert ended.value.reason in ("TOKEN_ENDED", "BAD_TOKEN")


async def test_a_watch_ends_when_its_token_is_revoked(
    stage: Stage, keys: LocalKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "ASK_AGAIN_S", 0.05)
    async with Client(stage.address, token=keys.sign("bob", ROLES)) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
    token = keys.sign("eve", ["auditor"])
    gates, runs = (stage.channel.unary_stream(f"/handrail.v1.{name}") for name in WATCHES)
    metadata = (("authorization", f"Bearer {token}"),)
    watches = [
        gates(gate_service_pb2.WatchGatesRequest().SerializeToString(), metadata=metadata, timeout=10),
        runs(run_service_pb2.WatchRunRequest(run=run).SerializeToString(), metadata=metadata, timeout=10),
    ]
    assert await watches[1].read()
    keys.revoke(token)
    for watch in watches:
        with pytest.raises(grpc.aio.AioRpcError, match="revoked") as ended:
            await watch.read()
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_tenants_with_runs_of_one_id_do_not_meet(stage: Stage, keys: LocalKeys) -> None:
    """A client may choose its run's id, and so may whoever has seen it."""
    unique = "01k9x3aaaaaaaaaaaaaaaaaaaa"
    async with (
        Client(stage.address, token=keys.sign("bob", ["submitter"])) as bob,
        Client(stage.address, token=keys.sign("eve", ROLES, tenant="other")) as eve,
    ):
        run = (await bob.submit("refund 7", plan=PLAN, request_id=unique)).run
        await stage.note(run, "gate_opened", event_pb2.GateOpened(gate="g1", binding="b"))
        assert (await eve.submit("refund 8", plan=PLAN, request_id=unique)).run == run
        theirs = Address(subjects.run_key(run, "other"), "dec", ("note", "gate_closed"))
        closed = event_pb2.Event(id="x", version=VERSION, writer="decider/test")
        closed.gate_closed.gate = "g1"
        await stage.log.append(theirs, closed)
        done = event_pb2.Event(id="y", version=VERSION, writer="decider/test")
        done.finished.status = event_pb2.RUN_STATUS_CANCELLED
        await stage.log.append(Address(theirs.key, "dec", ("note", "finished")), done)

        async def listed(client: Client) -> list[tuple[str, int]]:
            return [(found.goal, found.status) async for found in client.list()]

        async with asyncio.timeout(5):
            while await listed(eve) != [("refund 8", event_pb2.RUN_STATUS_CANCELLED)]:
                await asyncio.sleep(0.01)
        assert await listed(bob) == [("refund 7", event_pb2.RUN_STATUS_WAITING)]
        assert [gate.run async for gate in bob.gates()] == [run]


async def test_what_is_revoked_is_believed_no_more_at_once(stage: Stage, keys: LocalKeys) -> None:
    token = keys.sign("bob", ["auditor"])
    async with Client(stage.address, token=token) as client:
        await client.whoami()
        LocalKeys(keys._path.parent).revoke(token)
        with pytest.raises(errors.Unauthenticated, match="revoked"):
            await client.whoami()


async def test_a_client_reads_its_token_again_when_the_file_is_another(
    stage: Stage, keys: LocalKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bob.token"
    file.write_text(keys.sign("bob", ["auditor"]) + "\n")
    monkeypatch.setenv(TOKEN_FILE_ENV, str(file))
    async with Client(stage.address) as client:
        assert (await client.whoami()).name == "bob"
        scratch = tmp_path / "new"
        scratch.write_text(keys.sign("ann", ["auditor"]))
        scratch.replace(file)
        assert (await client.whoami()).name == "ann"
        file.unlink()
        with pytest.raises(errors.Unauthenticated, match="cannot be read"):
            await client.whoami()


# --- other machines --------------------------------------------------------------------------------------


class Authority:
    """Signs certificates for tests."""

    def __init__(self, place: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._place = place
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        self.certificate = self._sign(self._name, self._key.public_key(), authority=True)
        self.file = place / "ca.pem"
        self.file.write_bytes(self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = self._place / f"{name}.pem", self._place / f"{name}.key"
        files[0].write_bytes(self._sign(subject, key.public_key()))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files[1].write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return files

    def _sign(self, subject: x509.Name, key: Any, *, authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
async def test_other_machines_come_in_by_tls_only(
    tmp_path: Path, keys: LocalKeys, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    clients = authority.certificate if mutual else b""
    gateway = Gateway(
        MemoryLog(MemoryBroker()),
        contracts=CONTRACTS,
        limits=Limits(),
        projection=Projection(),
        callers=Tokens(keys),
    )
    tls = Tls(certificate.read_bytes(), key.read_bytes(), clients)
    addresses = await gateway.start("0.0.0.0:0", tls=tls)
    port = addresses.public.rpartition(":")[2]
    try:
        assert addresses.local.startswith("127.0.0.1:")
        token = keys.sign("bob", ["auditor"])

        async def name(address: str) -> str:
            async with Client(address, token=token, timeout_s=3) as client:
                return (await client.whoami()).name

        assert await name(addresses.local) == "bob"
        with pytest.raises(errors.Unavailable):
            await name(f"127.0.0.1:{port}")  # in the clear
        with pytest.raises(errors.Unavailable):
            await name(f"https://127.0.0.1:{port}")  # nobody that this machine trusts has signed it
        monkeypatch.setenv(CA_ENV, str(authority.file))
        if mutual:
            with pytest.raises(errors.Unavailable):
                await name(f"https://127.0.0.1:{port}")
            for variable, file in zip((CERTIFICATE_ENV, KEY_ENV), authority.issue("bob"), strict=True):
                monkeypatch.setenv(variable, str(file))
        assert await name(f"https://127.0.0.1:{port}") == "bob"
    finally:
        await gateway.stop(0)


def test_an_authority_for_clients_that_is_empty_lets_nobody_in(tmp_path: Path) -> None:
    """Without one no client needs a certificate, so an empty file must not be taken for none."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    authority.file.write_bytes(b"\n")
    said = {"certificate": certificate.name, "key": key.name, "clients": authority.file.name}
    with pytest.raises(ProjectError, match=r"tls\.clients: ca\.pem is empty"):
        parts.tls_of(Settings(tls=TlsSettings(**said)), tmp_path)


async def test_without_checking_who_calls_other_machines_do_not_come_in(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    gateway = Gateway(MemoryLog(MemoryBroker()), contracts={}, limits=Limits(), projection=Projection())
    with pytest.raises(ListenError, match="will not listen"):
        await gateway.start("0.0.0.0:0", tls=Tls(certificate.read_bytes(), key.read_bytes()))
    await gateway.stop(0)


@pytest.mark.parametrize("variable", [CERTIFICATE_ENV, KEY_ENV])
async def test_a_certificate_without_its_key_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(Authority(tmp_path).file))
    with pytest.raises(errors.InvalidArgument, match="go together"):
        Client("https://127.0.0.1:1", token="secret")


@pytest.mark.parametrize("token", ["secret\nsecret", "secr\u00e9t", "secret\x00"])
async def test_what_can_be_no_token_is_said_so_and_not_shown(token: str) -> None:
    async with Client("127.0.0.1:1", token=token) as client:
        with pytest.raises(errors.Unauthenticated, match="on one line") as refused:
            await client.whoami()
    assert "secr" not in str(refused.value)


async def test_a_token_is_not_sent_in_the_clear_elsewhere() -> None:
    async with Client("192.0.2.1:7433", token="secret") as client:
        with pytest.raises(errors.Unauthenticated, match=r"write https://192\.0\.2\.1:7433") as refused:
            await client.whoami()
    assert "secret" not in str(refused.value)
