"""Who calls a stack that is up, by the command line: its owner, somebody with a token, and nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Up, handrail, standing


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack: where its minds live makes no difference here."""
    yield from standing("inline", tmp_path_factory.mktemp("up"))


def token(up: Up, place: Path, name: str, *roles: str) -> dict[str, str]:
    """Sign a token, and return the environment of whoever has it."""
    asked = [part for role in roles for part in ("--role", role)]
    done = handrail("auth", "token", "--name", name, *asked, "--data", str(up.data))
    file = place / f"{name}.token"
    file.write_text(done.stdout)
    return {"HANDRAIL_TOKEN_FILE": str(file)}


def test_the_owner_needs_nothing_and_others_a_token(up: Up, tmp_path: Path) -> None:
    owner = json.loads(handrail("auth", "whoami", "--data", str(up.data), "--json").stdout)
    assert owner["speaks_for_all"]
    nobody = handrail("list", "--server", up.address, HANDRAIL_TOKEN_FILE="")
    assert nobody.returncode == 2
    assert "no token came with the call" in nobody.stderr
    bob = token(up, tmp_path, "bob", "approver")
    said = handrail("auth", "whoami", "--server", up.address, **bob).stdout
    assert said.startswith(f"bob at {up.address}, tenant default: approver")
    assert handrail("list", "--server", up.address, **bob).returncode == 0


def test_a_tool_finds_no_token_of_the_users_in_its_environment(tmp_path: Path) -> None:
    """The stack of one's own: its tools live in the command's process, and say what they find there."""
    (tmp_path / "spy.py").write_text(
        "import os\nfrom handrail.tool import tool\n\n"
        "@tool(effect='read')\ndef spy() -> list[str]:\n"
        '    """Look around."""\n'
        "    return sorted(name for name in os.environ if name.startswith('HANDRAIL_T'))\n"
    )
    (tmp_path / "handrail.toml").write_text('[toolboxes.spies]\nmodules = ["spy"]\n')
    (tmp_path / "plan.yaml").write_text("steps:\n- {id: spy, tool: spy}\n")
    canary = {"HANDRAIL_TOKEN": "canary", "HANDRAIL_TLS_KEY": "canary", "HANDRAIL_TOKEN_FILE": "canary"}
    given = (
        "run",
        "look around",
        "--plan",
        str(tmp_path / "plan.yaml"),
        "--project",
        str(tmp_path),
        "--json",
    )
    done = handrail(*given, **canary)
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout
    outputs = [line for line in done.stdout.splitlines() if '"result"' in line]
    assert outputs
    assert all("HANDRAIL_T" not in line for line in outputs)


def test_a_token_submits_in_its_own_name_only(up: Up, tmp_path: Path) -> None:
    given = (
        "submit",
        "refund order 1023 and tell the customer",
        "--dry-run",
        "--server",
        up.address,
        "--json",
    )
    sue = token(up, tmp_path, "sue", "submitter")
    run = json.loads(handrail(*given, **sue).stdout.splitlines()[0])["run"]
    log = handrail("log", run, "--server", up.address, "--json").stdout.splitlines()
    first = json.loads(log[0])["event"]
    assert (first["submit"]["goal"]["submitter"], first["caller"]) == ("sue", "sue")
    other = handrail(*given, "--as", "ines", **sue)
    assert other.returncode == 1
    assert "you are sue, and cannot speak for 'ines'" in other.stderr
    decides = handrail("approve", f"{run}-g1", "--server", up.address, **sue)
    assert decides.returncode != 0


def test_a_token_that_is_revoked_or_whose_key_is_forgotten_ends(up: Up, tmp_path: Path) -> None:
    eve = token(up, tmp_path, "eve", "auditor")
    listed = ("list", "--server", up.address)
    assert handrail(*listed, **eve).returncode == 0
    handrail("auth", "revoke", eve["HANDRAIL_TOKEN_FILE"], "--data", str(up.data))
    done = handrail(*listed, **eve)
    assert (done.returncode, "revoked" in done.stderr) == (2, True)
    eve = token(up, tmp_path, "eve2", "auditor")
    assert handrail("auth", "keys", "rotate", "--forget", "--data", str(up.data)).returncode == 0
    assert "no key" in handrail(*listed, **eve).stderr
    # The owner goes on, and so does whoever gets a new one.
    assert handrail(*listed).returncode == 0
    assert handrail(*listed, **token(up, tmp_path, "eve3", "auditor")).returncode == 0
