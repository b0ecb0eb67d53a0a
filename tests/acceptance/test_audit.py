"""Answering for a run, from outside: told, exported, verified, and refused where a single byte is another."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT, copy_sample, handrail, start, wait_for
from tests.acceptance.test_who_calls import token

GOAL = "refund order 1001 and tell the customer"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sample(tmp_path_factory.mktemp("audit") / "backoffice", gates=True)


@pytest.fixture(scope="module")
def run(project: Path) -> str:
    """A run whose e-mail was approved, in a stack that is no more."""
    done = handrail("run", GOAL, "--project", str(project), "--as", "ines", "--approve", "--json")
    assert done.returncode == 0, done.stderr
    listed = handrail("list", "--project", str(project), "--json")
    return str(json.loads(listed.stdout.splitlines()[0])["id"])


@pytest.fixture(scope="module")
def key(project: Path) -> str:
    return str(project / ".handrail" / "notary" / "key.pub")


@pytest.fixture(scope="module")
def export(project: Path, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run.jsonl"
    done = handrail("audit", "export", run, "--out", str(out), "--project", str(project))
    assert done.returncode == 0, done.stderr
    return out


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def auditor(export: Path, key: str) -> subprocess.CompletedProcess[str]:
    """The example's script, which knows nothing of Handrail."""
    command = [sys.executable, "-I", str(ROOT / "examples" / "auditor.py"), str(export), key]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_account_of_a_run_with_a_gate(project: Path, run: str) -> None:
    done = handrail("audit", "show", run, "--project", str(project))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 110
    for said in (
        f"run         {run}, tenant default: done",
        "for         ines (with the token of ",
        "notify: waits for a human at gate g1",
        "it cannot be undone (irreversible)",
        "decision    ines (with the token of ",
        "outcome     approved by ines",
        "permit      signed by key ",
        "verdict     confirmed, by verifier/",
        f"`handrail audit export {run} --project",
    ):
        assert said in done.stdout + done.stderr, said
    assert " characters)" in done.stdout
    full = handrail("audit", "show", run, "--full", "--project", str(project))
    assert " characters)" not in full.stdout
    trace = handrail("trace", run, "--project", str(project))
    (told,) = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("trace ")]
    assert told in trace.stderr


def test_the_account_as_json(project: Path, run: str) -> None:
    done = handrail("audit", "show", run, "--json", "--project", str(project))
    (line,) = done.stdout.splitlines()
    account: dict[str, Any] = json.loads(line)
    assert (account["format"], account["run"], account["status"]) == ("handrail account 1", run, "done")
    actions = [entry for entry in account["entries"] if entry["event"] == "action"]
    sent = next(entry for entry in actions if entry["tool"] == "send_email")
    assert sent["permit"]["gate"] == "g1"
    assert [reason["rule"] for reason in sent["reasons"]] == ["irreversible", "untrusted_critical"]
    # Also of what nobody had to be asked about: which rules let it pass, and of which code the tool is.
    codes = {digest(path) for path in project.glob("*.py")}
    for entry in actions:
        assert "everybody" in entry["permit"]["rules"]
        assert entry["result"]["code_sha256"] in codes
    assert account["plan"]["origin_sha256"] == digest(project / "playbooks" / "refund.yaml")
    (version,) = {one["handrail"] for one in account["processes"]}
    assert handrail("version").stdout.startswith(f"handrail {version} ")
    assert account["goal"]["token_id"]
    assert "submitter" in account["goal"]["caller_roles"]
    key_ids = {entry["key_id"] for entry in actions}
    assert len(key_ids) == 1
    assert key_ids != {""}
    unknown = handrail("audit", "show", "r0-01k9x3aaaaaaaaaaaaaaaaaaaa", "--json", "--project", str(project))
    assert (unknown.returncode, json.loads(unknown.stderr)["error"]["exit_code"]) == (2, 2)


def test_the_export_is_proved_by_the_key_alone(project: Path, run: str, export: Path, key: str) -> None:
    account = json.loads(handrail("audit", "show", run, "--json", "--project", str(project)).stdout)
    proved = handrail("audit", "verify", str(export), "--key", key, "--json")
    assert proved.returncode == 0, proved.stderr
    report = json.loads(proved.stdout)
    assert (report["ok"], report["run"]) == (True, run)
    sequences = [json.loads(line)["sequence"] for line in export.read_text().splitlines()[1:]]
    # The account and the proof are of the same log, from its first event to its last.
    assert (min(sequences), max(sequences)) == (account["log"]["first"], account["log"]["last"])
    assert report["events"] == len(sequences)
    assert auditor(export, key).returncode == 0
    everything = handrail("audit", "verify", "--all", "--project", str(project))
    assert everything.returncode == 0, everything.stdout


def test_a_flipped_byte_is_found(export: Path, key: str, tmp_path: Path) -> None:
    text = bytearray(export.read_bytes())
    # In the data of the last event, where it stands in base64.
    at = text.rindex(b'"data": "') + len(b'"data": "') + 20
    text[at] = ord("B") if text[at] != ord("B") else ord("C")
    bent = tmp_path / "bent.jsonl"
    bent.write_bytes(text)
    found = handrail("audit", "verify", str(bent), "--key", key)
    assert (found.returncode, "is not what was signed for" in found.stderr) == (1, True), found.stderr
    assert auditor(bent, key).returncode == 1


def test_a_server_tells_an_auditor_and_nobody_else(project: Path, run: str, key: str, tmp_path: Path) -> None:
    up = start(project, "inline")
    try:
        eve, bob = token(up, tmp_path, "eve", "auditor"), token(up, tmp_path, "bob", "submitter")
        asked = ("audit", "show", run, "--server", up.address)
        told = handrail(*asked, "--json", **eve)
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["run"] == run
        refused = handrail(*asked, **bob)
        assert (refused.returncode, "takes the role admin or auditor" in refused.stderr) == (1, True)
        out = tmp_path / "theirs.jsonl"
        export = ("audit", "export", run, "--server", up.address, "--out", str(out))
        assert handrail(*export, **eve).returncode == 0
        assert handrail(*export, **bob).returncode == 1
        assert handrail("audit", "verify", str(out), "--key", key).returncode == 0
        assert handrail(*export, "--tenant", "other", **eve).returncode == 2
        # What happens while it is up is signed for within a second.
        with up.client() as client:
            later = client.run("refund order 1003", submitter="ines", timeout_s=60).id
        export = ("audit", "export", later, "--server", up.address)
        wait_for("the export", lambda: handrail(*export, **eve).returncode == 0)
    finally:
        up.stop()
