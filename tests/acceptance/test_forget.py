"""A run that is forgotten: nothing of what it was about is left in any file, and the proofs stay whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.conftest import (
    LONG,
    Up,
    copy_sample,
    files_with,
    handrail,
    start,
    status_name,
    wait_for,
)

pytestmark = LONG

GOAL = "refund order 1004 and tell the customer"
OTHER = "refund order 1006 and tell the customer"
CANARY = "Quetzalcoatlus"
LARGE = {"note": f"{CANARY} " * 6_000}
# What the sample's tools return of order 1004, and what is written to its customer.
WORDS = (CANARY, GOAL, "bruno.carvalho", "Bruno Carvalho")


def keys_of(data: Path) -> Iterator[tuple[str, bytes]]:
    """The keys that the notary has copied, by run."""
    for path in data.glob("notary/EV_*/keys"):
        for line in path.read_text().splitlines():
            key, _, _, run = line.split(" ")
            yield run, bytes.fromhex(key)


def carry_out(up: Up, goal: str, context: dict[str, str]) -> str:
    """Submit a goal about somebody, approve it, and return the run when it has ended."""
    with up.client() as client:
        run = client.submit(goal, context=context, submitter="ines").run
        (gate,) = wait_for("a gate", lambda: [gate for gate in client.gates() if gate.run == run])
        early = handrail("forget", run, "--yes", "--project", str(up.project))
        assert early.returncode == 1
        assert "has not ended (waiting); cancel it" in early.stderr
        client.decide(gate.id, approve=True, approver="ines")
        wait_for("the end", lambda: status_name(client.get(run).status) == "done")
    return run


def test_what_was_forgotten_is_in_no_file_and_the_proofs_are_whole(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice", gates=True)
    data, where = project / ".handrail", ("--project", str(project))
    up = start(project, "inline")
    try:
        run, kept = carry_out(up, GOAL, LARGE), carry_out(up, OTHER, {})
        unasked = handrail("forget", run, *where)
        assert unasked.returncode == 2
        assert "Say --yes" in unasked.stderr
        key = dict(wait_for("the copy", lambda: {run, kept} <= dict(keys_of(data)).keys() and keys_of(data)))
        older = tmp_path / "older"
        (store,) = data.glob("broker/jetstream/*/streams/KEY")
        shutil.copytree(store, older)

        done = handrail("forget", run, "--yes", "--reason", "asked for", "--json", *where)
        assert done.returncode == 0, done.stderr
        left = json.loads(done.stdout)["forgotten"]
        assert (left["status"], left["reason"]) == ("RUN_STATUS_DONE", "asked for")
        assert left["effects"] == {"refund_order": 1, "draft_email": 1, "send_email": 1}
        wait_for("the notary", lambda: not any(dict(keys_of(data))[run]))
        needles = [key[run], key[run].hex().encode(), *(word.encode() for word in WORDS)]
        # The listing's file is rebuilt with its next commit.
        wait_for("the files", lambda: files_with(data, *needles) == [])
        (found,) = files_with(data, key[kept])
        assert found.startswith(f"{store.relative_to(data)}/msgs/")

        for command in ("show", "log", "audit show", "replay"):
            shown = handrail(*command.split(), run, *where).stdout
            assert "forgotten" in shown
            assert not any(word in shown for word in WORDS)
        assert json.loads(handrail("forget", run, "--yes", "--json", *where).stdout)["existed"] is True
        for words in (
            ("replay", run, "--at", "3"),
            ("replay", run, "--policy", str(project / "policy")),
            ("trace", run),
        ):
            asked = handrail(*words, *where)
            assert asked.returncode == 2, asked.stdout
            assert "forgotten" in asked.stderr
            assert f"show {run}" in asked.stderr
        undone = handrail("undo", run, *where)
        assert undone.returncode != 0
        assert "was forgotten" in undone.stderr

        # The listing is made anew from the log, and knows what was there and no more.
        assert up.stop() == 0
        (data / "listing.sqlite").unlink()
        # And an older copy of the keys is not believed.
        shutil.rmtree(store)
        shutil.copytree(older, store)
        up = start(project, "inline")
        assert files_with(data, *needles) == []
        with up.client() as client:
            listed = {one.id: (one.forgotten, one.goal) for one in client.list()}
            assert listed == {run: (True, ""), kept: (False, OTHER)}
            assert client.get(kept).goal == OTHER
            assert client.get(run).goal == ""
    finally:
        assert up.stop() == 0
    for words in ("--all", run):
        verified = handrail("audit", "verify", words, *where)
        assert verified.returncode == 0, verified.stderr
    handrail("audit", "export", run, "--out", str(tmp_path / "run.jsonl"), *where)
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0]).keys().isdisjoint({"key"})

    # The log is rebuilt from the copy: what was forgotten stays so, and what was not can be read.
    shutil.rmtree(data / "broker")
    restored = handrail("restore", *where)
    assert restored.returncode == 0, restored.stderr
    assert "petra.novotna" in handrail("audit", "show", kept, "--full", *where).stdout
    assert "bruno.carvalho" not in handrail("audit", "show", run, "--full", *where).stdout
    assert files_with(data, *needles) == []
