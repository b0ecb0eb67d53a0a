"""The files for a broker of one's own: written anew, nothing that somebody relies on is lost."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from bus import configuration, consumers
from bus.permissions import users
from bus.probe import BrokerError

POOLS = {"worker": ("box",), "planner": ("main",)}
SHARDS = (0, 1)


def passwords(directory: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((directory / "credentials.json").read_text())
    return found


def test_what_is_written_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    written = configuration.write(tmp_path / "out", POOLS, SHARDS)
    assert written.files == ("credentials.json", "accounts.conf", "nats-server.conf")
    for name in written.files:
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600
    assert set(written.new) == {
        "admin",
        "gateway",
        "decider",
        "tracer",
        "notary",
        "planner-main",
        "worker-box",
    }
    assert len(set(passwords(tmp_path / "out").values())) == len(written.new)
    text = (tmp_path / "out" / "nats-server.conf").read_text()
    assert "sync_interval: always" in text
    assert not any(each in text for each in passwords(tmp_path / "out").values())


def test_written_again_it_keeps_passwords_users_and_what_was_edited(tmp_path: Path) -> None:
    configuration.write(tmp_path, POOLS, SHARDS)
    before = passwords(tmp_path)
    (tmp_path / "nats-server.conf").write_text("# mine\n")
    written = configuration.write(tmp_path, {"worker": ("new",)}, SHARDS)
    assert (written.new, written.kept_files) == (("worker-new",), ("nats-server.conf",))
    assert written.kept == ("planner-main", "worker-box")
    after = passwords(tmp_path)
    assert {name: after[name] for name in before} == before
    assert (tmp_path / "nats-server.conf").read_text() == "# mine\n"
    for name, password in after.items():
        assert f'user: "{name}", password: "{password}"' in (tmp_path / "accounts.conf").read_text()
    dropped = configuration.write(tmp_path, {"worker": ("new",)}, SHARDS, drop=True)
    assert dropped.dropped == ("planner-main", "worker-box")
    assert list(passwords(tmp_path)) == ["admin", "gateway", "decider", "tracer", "notary", "worker-new"]
    assert "worker-box" not in (tmp_path / "accounts.conf").read_text()


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"admin": 1}', "is not a JSON object"),
        ('{"bob": "x"}', "'bob', which is no user"),
        ('{"worker-a.b": "x"}', "no user"),
    ],
)
def test_passwords_that_cannot_be_read_are_not_replaced(tmp_path: Path, there: str, says: str) -> None:
    (tmp_path / "credentials.json").write_text(there)
    with pytest.raises(BrokerError, match=says):
        configuration.write(tmp_path, POOLS, SHARDS)
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]
    assert (tmp_path / "credentials.json").read_text() == there


def test_what_is_printed_has_no_password() -> None:
    text = configuration.accounts(users(POOLS))
    assert text.count("password: ") == text.count('password: "<password>"') == 7


def test_the_streams_are_named_with_their_consumers() -> None:
    made = configuration.streams_and_consumers(SHARDS, [consumers.decider(), consumers.ticks()])
    assert made == {
        "REQ": [],
        "EV_0": ["decider"],
        "BLOB_0": [],
        "EV_1": ["decider"],
        "BLOB_1": [],
        "KEY": [],
        "TIMER": ["ticks_0", "ticks_1"],
    }
