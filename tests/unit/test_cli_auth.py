"""The commands about who calls, on a data directory with keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.caller import ROLES, BadToken
from handrail.cli import server
from handrail.cli.main import app
from handrail.issuer import Tokens
from handrail.tokens import TOKEN_FILE, LocalKeys, write_owner_token


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeys:
    found = LocalKeys(tmp_path)
    found.ensure()
    return found


def auth(data: Path, *arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(app, ["auth", *arguments, "--data", str(data)], input=text)


def test_a_token_is_signed_and_printed_alone(tmp_path: Path, keys: LocalKeys) -> None:
    given = ("token", "--name", "bob", "--role", "approver", "--role", "auditor", "--for", "30m")
    done = auth(tmp_path, *given, "--tenant", "shop")
    who = Tokens(keys).check(done.stdout.strip())
    assert (who.name, who.roles, who.tenant) == ("bob", frozenset({"approver", "auditor"}), "shop")
    said = json.loads(auth(tmp_path, *given, "--json").stdout)
    assert Tokens(keys).check(said["token"]).tenant == "default"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--name", "bob"], "without a role"),
        (["--name", "bob", "--role", "king"], "no role 'king'"),
        (["--name", " ", "--role", "admin"], "names nobody"),
        (["--name", "bob", "--role", "admin", "--for", "soon"], "no time"),
        (["--name", "bob", "--role", "admin", "--for", "0s"], "no time"),
        (["--name", "bob", "--role", "admin", "--for", "721h"], "no time"),
        (["--name", "bob", "--role", "admin", "--tenant", "A.>"], "not a tenant"),
    ],
    ids=str,
)
def test_what_makes_no_token_says_why(tmp_path: Path, keys: LocalKeys, given: list[str], told: str) -> None:
    done = auth(tmp_path, "token", *given)
    assert done.exit_code == 2
    assert told in done.output


def test_without_keys_nothing_is_signed(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        done = auth(place, "token", "--name", "bob", "--role", "admin")
        assert done.exit_code == 2
        assert "no keys in" in done.output
        assert not list(tmp_path.iterdir())


def test_a_token_that_is_revoked_is_believed_no_more(tmp_path: Path, keys: LocalKeys) -> None:
    first, second = (keys.sign(name, ["auditor"]) for name in ("bob", "ann"))
    (tmp_path / "bob.token").write_text(first + "\n")
    assert auth(tmp_path, "revoke", str(tmp_path / "bob.token")).exit_code == 0
    assert json.loads(auth(tmp_path, "revoke", "-", "--json", text=second).stdout) == {"revoked": True}
    for token in (first, second):
        with pytest.raises(BadToken, match="revoked"):
            Tokens(keys).check(token)
    (tmp_path / "none").write_bytes(b"\xff\xfe")
    for nothing in ("none", "missing"):
        assert auth(tmp_path, "revoke", str(tmp_path / nothing)).exit_code != 0
    assert auth(tmp_path, "revoke", "-", text="x").exit_code != 0


def test_keys_are_listed_and_make_way_for_new_ones(tmp_path: Path, keys: LocalKeys) -> None:
    def listed() -> list[dict[str, Any]]:
        return [json.loads(line) for line in auth(tmp_path, "keys", "list", "--json").stdout.splitlines()]

    (first,) = listed()
    assert first["signs"]
    token = keys.sign("bob", ["auditor"])
    assert "1 older key" in auth(tmp_path, "keys", "rotate").stdout
    assert [key["signs"] for key in listed()] == [True, False]
    assert listed()[1]["id"] == first["id"]
    assert Tokens(keys).check(token).name == "bob"
    assert "worth nothing now" in auth(tmp_path, "keys", "rotate", "--forget").stdout
    with pytest.raises(BadToken):
        Tokens(keys).check(token)
    # The owner's commands go on.
    assert Tokens(keys).check((tmp_path / TOKEN_FILE).read_text()).roles == frozenset(ROLES)


def test_a_command_speaks_for_whom_its_token_names(
    tmp_path: Path, keys: LocalKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDRAIL_TOKEN", keys.sign("bob", ["approver"]))
    elsewhere = server.find("https://rail.example.com:7433", None, tmp_path)
    assert (elsewhere.token_file, elsewhere.speaker(None), elsewhere.speaker("ann")) == (None, "bob", "ann")
    # On a data directory of one's own its token counts, and the user's name.
    own = server.find(None, None, tmp_path)
    assert own.token_file == tmp_path / TOKEN_FILE
    assert own.speaker(None) != "bob"
    for nothing in ("", "x", "a.b.c", "a.e30.c", "é"):
        monkeypatch.setenv("HANDRAIL_TOKEN", nothing)
        assert server.find("127.0.0.1:7433", None, tmp_path).speaker(None) == own.speaker(None)


@pytest.mark.parametrize("text", ["x", "e30.eyJleHAiOkluZmluaXR5fQ.AA", "e30.e30.AA"])
def test_what_is_no_token_is_not_revoked_and_said_so(tmp_path: Path, keys: LocalKeys, text: str) -> None:
    done = auth(tmp_path, "revoke", "-", text=text)
    assert done.exit_code == 2
    assert "it is no token" in done.output


def test_who_revokes_the_owners_token_has_another(tmp_path: Path, keys: LocalKeys) -> None:
    write_owner_token(tmp_path, "ines")
    leaked = (tmp_path / TOKEN_FILE).read_text()
    assert auth(tmp_path, "revoke", str(tmp_path / TOKEN_FILE)).exit_code == 0
    with pytest.raises(BadToken, match="revoked"):
        Tokens(keys).check(leaked)
    assert Tokens(keys).check((tmp_path / TOKEN_FILE).read_text()).speaks_for_all
