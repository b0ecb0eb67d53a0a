"""A real stack: only its decider holds the key, and nothing is done that this key has not signed."""

from __future__ import annotations

import asyncio
import json
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bus.directory import read_endpoint
from bus.link import Link
from bus.log import NatsLog
from bus.permissions import inbox_prefix
from core import permits, run, values
from core.ports import Address, RunKey
from handrail.keys import PrivateKey
from handrail.v1 import event_pb2
from tests.acceptance.conftest import Up, files_with, handrail, query, standing, status_name, wait_for
from tests.keys import STRANGER

KEY_FILE = "permits.key"
TOOLBOX = "backoffice"
EVE = "eve@example.com"
PLAN = {
    "steps": [
        {"id": "order", "tool": "get_order", "with": {"order_id": 1001}},
        {
            "id": "mail",
            "tool": "send_email",
            "after": ["order"],
            "with": {"to": "someone@example.com", "subject": "$goal.subject", "body": "hello"},
        },
        {"id": "after", "tool": "get_order", "after": ["mail"], "with": {"order_id": 1002}},
    ]
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack: where its minds live makes no difference here."""
    yield from standing("inline", tmp_path_factory.mktemp("up"))


def forged(attempt: str, step: str) -> event_pb2.Event:
    """An action as somebody would have it who may write to the log."""
    event = event_pb2.Event(id=uuid.uuid4().hex, version=run.VERSION, writer="decider/1-1")
    action = event.action
    action.attempt, action.step, action.kind = attempt, step, event_pb2.ACTION_KIND_ACT
    action.tool, action.key = "send_email", f"forged:{attempt}"
    for name, value in {"to": EVE, "subject": "secrets", "body": "all of them"}.items():
        action.arguments[name].CopyFrom(values.inline(value))
    action.timeout.FromSeconds(5)
    return event


async def write(data: Path, key: RunKey, event: event_pb2.Event) -> None:
    """Append an event as the broker's administrator, where the decider writes."""
    endpoint = read_endpoint(data)
    assert endpoint is not None
    password = json.loads((data / "credentials.json").read_text())["admin"]
    link = await Link.connect(
        endpoint.broker_url,
        user="admin",
        password=password,
        name="forger",
        inbox_prefix=inbox_prefix("admin"),
    )
    try:
        log = NatsLog(link, shards=(key.shard,))
        await log.append(Address(key, "dec", ("ask", "worker", TOOLBOX)), event)
    finally:
        await link.close()


def events(up: Up, run_id: str) -> list[dict[str, Any]]:
    told = handrail("log", run_id, "--server", up.address, "--json")
    return [json.loads(line) for line in told.stdout.splitlines()]


def refusals(up: Up, run_id: str) -> list[str]:
    """What workers said to actions that they did not carry out."""
    found = [line for line in events(up, run_id) if "permit_refused" in json.dumps(line)]
    return [json.dumps(line) for line in found if "result" in json.dumps(line)]


def _both(told: list[str]) -> list[str]:
    return told if len(told) >= 2 else []


def test_an_action_that_an_administrator_writes_is_refused(up: Up) -> None:
    query(up.project, "DELETE FROM faults")
    query(up.project, "REPLACE INTO faults VALUES ('send_email', 'hang_after', 1, 10.0)")
    subject = f"permits {up.ready['gateway']}"
    with up.client() as client:
        run_id = client.submit("mail", plan=PLAN, context={"subject": subject}).run
        key = RunKey(int(run_id[1 : run_id.index("-")]), "default", run_id)
        wait_for("the e-mail", lambda: query(up.project, "SELECT 1 FROM outbox WHERE subject = ?", subject))
        unsigned, strangers = forged("after-a1", "after"), forged("mail-a9", "mail")
        permits.bind(
            strangers.action,
            key,
            TOOLBOX,
            {"to": EVE, "subject": "secrets", "body": "all of them"},
            permits.Grounds(),
            2**62,
        )
        permits.sign([strangers.action], STRANGER)
        for event in (unsigned, strangers):
            asyncio.run(write(up.data, key, event))
        ended = client.wait(run_id, timeout_s=60)
    assert status_name(ended.status) == "done", ended.failure
    told = "\n".join(wait_for("both refusals", lambda: _both(refusals(up, run_id))))
    assert "is not signed" in told
    assert STRANGER.key_id in told
    assert query(up.project, "SELECT * FROM outbox WHERE recipient = ?", EVE) == []
    assert len(query(up.project, "SELECT 1 FROM outbox WHERE subject = ?", subject)) == 1


def test_only_the_decider_has_the_key(up: Up) -> None:
    secret = (up.data / KEY_FILE).read_text().split("\n")[1].encode()
    assert stat.S_IMODE((up.data / KEY_FILE).stat().st_mode) == 0o600
    children = up.children()
    assert "decider" in children
    holders = {n for n, pid in children.items() if secret in Path(f"/proc/{pid}/environ").read_bytes()}
    assert holders == {"decider"}
    assert files_with(up.data, secret) == [f"{KEY_FILE}: {secret!r}"]


def test_a_data_directory_keeps_its_key(project: Path) -> None:
    path = project / ".handrail" / KEY_FILE
    signed_by = []
    for _ in range(2):
        done = handrail("run", "refund order 1022", "--project", str(project), "--json")
        assert done.returncode == 0, done.stderr
        signed_by.append(PrivateKey.read(path).key_id)
        assert signed_by[-1] in done.stdout
    assert signed_by[0] == signed_by[1]
    # A key that is gone is made anew; what it signed is authorised again.
    path.unlink()
    assert handrail("run", "refund order 1020", "--project", str(project)).returncode == 0
    assert PrivateKey.read(path).key_id != signed_by[0]


def test_a_key_that_cannot_be_used_is_told(project: Path) -> None:
    settings = project / "handrail.toml"
    text = settings.read_text()
    for key, says in (("none.pem", "none.pem cannot be read"), ("handrail.toml", "holds no private key")):
        settings.write_text(f'{text}\n[permits]\nkey = "{key}"\n')
        commands = (["run", "refund order 1001"], ["up", "--host", "inline"])
        # They do nothing but end, so they can be started together.
        with ThreadPoolExecutor(len(commands)) as threads:
            ends = list(threads.map(lambda words: handrail(*words, "--project", str(project)), commands))
        for done in ends:
            assert done.returncode == 5, done.stdout + done.stderr
            assert "handrail doctor" in done.stderr
            assert says in done.stderr
            assert "Traceback" not in done.stderr


def test_a_project_brings_its_own_key(project: Path) -> None:
    (project / "decider.pem").write_text(STRANGER.dump())
    with (project / "handrail.toml").open("a") as settings:
        settings.write('\n[permits]\nkey = "decider.pem"\n')
    done = handrail("run", "refund order 1022", "--project", str(project), "--json")
    assert done.returncode == 0, done.stderr
    assert not (project / ".handrail" / KEY_FILE).exists()
    assert STRANGER.key_id in done.stdout
