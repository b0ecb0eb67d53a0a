"""The gateway's answers to whoever looks back: accounts of runs, and what the notary has signed for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from bus import subjects
from core import exported
from core.account import account
from core.notarised import NOTHING, Entry
from core.ports import Address
from core.run import VERSION
from handrail import errors
from handrail.client import Client
from handrail.issuer import Tokens
from handrail.keys import PrivateKey, PublicKeys
from handrail.person import TOKEN_ENV, TOKEN_FILE_ENV
from handrail.sync_client import SyncClient
from handrail.tokens import LocalKeys
from handrail.v1 import event_pb2
from observability import ids
from orchestrator import audit
from orchestrator.book import COPY_SUFFIX, Shelf, open_book
from orchestrator.key_copy import KeyCopy
from tests.integration.gateway_stage import Stage, staged

PLAN = {"steps": [{"id": "refund", "tool": "refund_order", "with": {"order_id": 7, "amount": 5}}]}
KEY = PrivateKey.generate()
KEYS = PublicKeys.parse(KEY.public, "the key")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN_ENV, TOKEN_FILE_ENV):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "notary"


@pytest.fixture
async def stage(place: Path) -> AsyncIterator[Stage]:
    async with staged(shelf=Shelf(place, "key.pub", PublicKeys.parse)) as found:
        yield found


def sign(stage: Stage, place: Path) -> None:
    """Do what the notary does, for every shard."""
    place.mkdir(exist_ok=True)
    (place / "key.pub").write_text(KEY.public)
    for shard in stage.log.shards:
        entries: list[tuple[bytes, bytes]] = []
        chains: dict[str, bytes] = {}
        for number, message in enumerate(stage.broker.stream(f"EV_{shard}").messages, start=1):
            run = message.subject.split(".")[3]
            entry = Entry(
                number, message.time_ns, message.subject, "", message.data, chains.get(run, NOTHING)
            )
            chains[run] = entry.leaf
            entries.append((entry.dump(), entry.leaf))
        if entries:
            open_book(place / f"EV_{shard}", "origin", f"EV_{shard}", KEY, KEYS, 1).add(entries, 1)


async def test_an_account_is_what_the_log_tells(stage: Stage) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN, submitter="maren")).run
        await stage.finish(run)
        found = await client.audit(run)
        with pytest.raises(errors.NotFound):
            await client.audit("r0-01k9x3aaaaaaaaaaaaaaaaaaaa")
        with pytest.raises(errors.InvalidArgument):
            await client.audit("nonsense")
    key = stage.key(run)
    told = account(key, await stage.log.read(key), trace_id=lambda given: ids.of_run(key, given).trace_id)
    assert found == json.loads(json.dumps(told))
    assert (found["goal"]["submitter"], found["status"]) == ("maren", "done")
    assert len(found["trace_id"]) == 32


async def test_an_account_may_be_larger_than_a_message(stage: Stage) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
        event = event_pb2.Event(id="x", version=VERSION, writer="worker/1")
        event.result.attempt = "refund-a1"
        topic = ("worker", "shop", "result", "refund-a1")
        await stage.log.append(Address(stage.key(run), "ans", topic), event)
        cancel = event_pb2.Cancel(reason="x" * (2 * audit.PART_CHARS))
        asked = event_pb2.Event(id="y", version=VERSION, writer="gateway/1", cancel=cancel)
        await stage.log.append(Address(stage.key(run), "cmd", ("cancel",)), asked)
        found = await client.audit(run)
    assert [entry["event"] for entry in found["entries"]] == ["uncounted", "cancel"]
    assert found["entries"][1]["reason"] == cancel.reason


async def test_an_export_proves_what_is_in_the_log(stage: Stage, place: Path) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
        await client.submit("refund 8", plan=PLAN)
        await stage.finish(run)
        with pytest.raises(errors.FailedPrecondition, match="on the machine that has") as refused:
            await anext(client.export(run))
        assert refused.value.reason == "NO_NOTARY"
        place.mkdir()
        (place / "key.pub").write_text(KEY.public)
        with pytest.raises(errors.FailedPrecondition, match="signed for nothing"):
            await anext(client.export(run))
        sign(stage, place)
        lines = [line async for line in client.export(run)]
        with pytest.raises(errors.NotFound):
            await anext(client.export("r0-01k9x3aaaaaaaaaaaaaaaaaaaa"))
    report = exported.check(lines, KEYS)
    assert (report.run, report.tenant, report.events) == (run, "default", 2)
    assert not {KEY.dump()} & set(lines)


async def test_an_export_brings_no_key_of_a_run_that_was_forgotten_this_moment(
    stage: Stage, place: Path
) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN, submitter="maren")).run
        key = subjects.run_key(run, "default")
        sign(stage, place)
        made = await stage.log.key_of(key)
        # The notary has yet to read of it.
        KeyCopy(place / subjects.ev_stream(key.shard)).add({key: made or b""})
        assert json.loads(await anext(client.export(run)))["key"] == (made or b"").hex()
        await stage.log.erase(key)
        assert "key" not in json.loads(await anext(client.export(run)))


@pytest.mark.parametrize("flipped", [None, 20, -20])
async def test_a_damaged_copy_is_no_proof(stage: Stage, place: Path, flipped: int | None) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
        sign(stage, place)
        (segment,) = place.glob(f"EV_{stage.key(run).shard}/*{COPY_SUFFIX}")
        copy = bytearray(segment.read_bytes())
        if flipped is None:
            del copy[-1]
        else:
            copy[flipped] ^= 1
        segment.write_bytes(copy)
        with pytest.raises(errors.ClientError, match="audit verify --all") as refused:
            await anext(client.export(run))
    assert refused.value.code is grpc.StatusCode.DATA_LOSS


async def test_only_so_many_exports_are_made_at_a_time(
    stage: Stage, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_EXPORTS", 0)
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
        sign(stage, place)
        with pytest.raises(errors.ResourceExhausted, match="try again later"):
            await anext(client.export(run))


async def test_an_auditor_may_and_a_submitter_may_not(tmp_path: Path, place: Path) -> None:
    keys = LocalKeys(tmp_path)
    keys.ensure()
    async with staged(callers=Tokens(keys), shelf=Shelf(place, "key.pub", PublicKeys.parse)) as stage:
        async with Client(stage.address, token=keys.sign("bob", ["submitter"])) as bob:
            run = (await bob.submit("refund 7", plan=PLAN)).run
            for asked in (bob.audit(run), anext(bob.export(run))):
                with pytest.raises(errors.PermissionDenied, match="takes the role admin or auditor"):
                    await asked
        sign(stage, place)
        async with Client(stage.address, token=keys.sign("ann", ["auditor"])) as ann:
            found = await ann.audit(run)
            assert (found["goal"]["caller"], found["goal"]["submitter"]) == ("bob", "bob")
            assert exported.check([line async for line in ann.export(run)], KEYS).events == 1


async def test_the_client_without_asyncio(stage: Stage, place: Path) -> None:
    async with Client(stage.address) as client:
        run = (await client.submit("refund 7", plan=PLAN)).run
        sign(stage, place)
        told = await client.audit(run)

    def ask() -> tuple[object, int]:
        with SyncClient(stage.address) as sync:
            return sync.audit(run), exported.check(sync.export(run), KEYS).events

    assert await asyncio.to_thread(ask) == (told, 1)
