"""A log that somebody has edited: no start goes on from it, and `handrail restore` puts it back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bus.blocks import read_block, write_block
from tests.acceptance.conftest import LONG, copy_sample, handrail, query, start, status_name, wait_for

pytestmark = LONG

GOAL = "refund order 1004 and tell the customer"


def edit(data: Path, run: str) -> tuple[str, int]:
    """Change an event of a run, checksum and all; return where."""
    shard = run.partition("-")[0].removeprefix("r")
    stream = f"EV_{shard}"
    (path,) = data.glob(f"broker/jetstream/*/streams/{stream}/msgs/*.blk")
    records = read_block(path)
    at = next(n for n, record in enumerate(records) if record.subject.endswith(b".result.order-a1"))
    records[at] = replace(records[at], data=records[at].data[:-1] + b"x")
    write_block(path, stream, records)
    return stream, at + 1


def mails(project: Path) -> int:
    return int(query(project, "SELECT count(*) FROM mail_primary")[0][0])


def test_an_edited_log_is_refused_and_put_back_and_its_runs_go_on(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice", gates=True)
    data, where = project / ".handrail", ("--project", str(project))
    up = start(project, "inline")
    try:
        with up.client() as client:
            run = client.submit(GOAL, submitter="ines").run
            gates = wait_for("a gate", lambda: list(client.gates()))
            before = mails(project)
    finally:
        assert up.stop() == 0
    stream, sequence = edit(data, run)

    for command in (("up", "--host", "inline"), ("run", "refund order 1006")):
        refused = handrail(*command, *where)
        assert refused.returncode == 5
        assert f"{stream} is not what the notary has signed for" in refused.stderr
        assert f"first wrong message is {sequence}: it was altered" in refused.stderr
        assert "handrail restore" in refused.stderr
    assert handrail("audit", "verify", "--all", *where).returncode == 0

    # As one leaves it that was killed.
    (data / "restoring" / "broker").mkdir(parents=True)
    (data / "restoring" / "lock").touch()
    restored = handrail("restore", "--json", *where)
    assert restored.returncode == 0, restored.stderr
    said = json.loads(restored.stdout)
    assert said["messages"] > sequence
    assert Path(said["aside"]).is_dir()
    # A run that is forgotten later must not be readable with what was laid aside.
    assert not list(Path(said["aside"]).rglob("KEY"))
    assert not (data / "restoring").exists()

    up = start(project, "inline")
    try:
        with up.client() as client:
            assert [gate.id for gate in client.gates()] == [gate.id for gate in gates]
            client.decide(gates[0].id, approve=True, approver="ines")
            wait_for("the end", lambda: status_name(client.get(run).status) == "done")
            assert mails(project) == before + 1
        assert handrail("replay", run, *where).returncode == 0
    finally:
        assert up.stop() == 0
    assert handrail("audit", "verify", "--all", *where).returncode == 0
    assert handrail("audit", "verify", run, *where).returncode == 0


def test_there_is_nothing_to_restore_from_without_a_notary(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    done = handrail("restore", "--project", str(project))
    assert done.returncode != 0
    assert "there is nothing to restore" in done.stderr
