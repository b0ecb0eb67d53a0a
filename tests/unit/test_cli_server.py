"""Which server a command speaks to."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import bus.directory
import handrail.stack.inline
import observability.logs
from bus.directory import DirectoryOwned, Endpoint
from handrail.cli import server
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.server import connect, data_dir, find
from handrail.settings import ProjectError

ENDPOINT = Endpoint("127.0.0.1:4000", "nats://127.0.0.1:4001", 1, 1, "/shop", "ray")


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let a stack be up, wherever it is looked for; return where that was."""
    asked: list[Path] = []

    def found(path: Path) -> Endpoint:
        asked.append(path)
        return ENDPOINT

    monkeypatch.setattr(bus.directory, "find_endpoint", found)
    return asked


def test_a_named_server_comes_first(up: list[Path], tmp_path: Path) -> None:
    target = find("127.0.0.1:7433", tmp_path, None)
    assert (target.kind, target.address) == ("server", "127.0.0.1:7433")
    assert target.command("log", "r0-x") == "handrail log r0-x --server 127.0.0.1:7433"
    # Its token is elsewhere, unless it is the stack that is up here.
    assert target.token_file is None
    here = find(ENDPOINT.gateway, tmp_path, None)
    assert (here.kind, here.token_file) == ("server", tmp_path / ".handrail" / "token")


def test_then_the_stack_that_is_up(up: list[Path], tmp_path: Path) -> None:
    target = find(None, tmp_path, None)
    assert (target.kind, target.address, target.project) == ("running", "127.0.0.1:4000", Path("/shop"))
    assert up == [tmp_path / ".handrail"]
    assert find(None, tmp_path, tmp_path / "elsewhere").kind == "running"
    assert up[-1] == tmp_path / "elsewhere"


def test_then_one_of_its_own(tmp_path: Path) -> None:
    target = find(None, tmp_path / "a shop", None)
    assert (target.kind, target.address) == ("own", "")
    assert target.command("watch", "r0-x") == f"handrail watch r0-x --project '{tmp_path}/a shop'"
    assert find(None, None, None).command("list") == "handrail list"


def test_the_data_directory() -> None:
    assert data_dir(None, None) == Path.cwd() / ".handrail"
    assert data_dir(Path("/shop"), None) == Path("/shop/.handrail")
    assert data_dir(Path("/shop"), Path("/data")) == Path("/data")


@pytest.mark.parametrize(
    "address",
    ["nowhere", "host:", ":80", "host:0", "host:99999", "host:80/x", "h h:80", "host:80\n", "a;b:1"],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(CommandError, match="is not the address of a server"):
        find(address, None, None)


@pytest.mark.parametrize("address", ["localhost:1", "shop.example:7433", "[::1]:7433", "10.0.0.1:65535"])
def test_what_is_an_address(address: str) -> None:
    assert find(address, None, None).address == address


async def test_looking_makes_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no server, and no runs") as caught:
        async with connect(find(None, tmp_path, None)):
            pass
    assert caught.value.code is ExitCode.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


async def test_without_a_project_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="handrail init"):
        async with connect(find(None, tmp_path, None), new=True):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_whoever_comes_second_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def owned(project: Path, data: Path) -> AsyncIterator[object]:
        raise DirectoryOwned(data, None)
        yield

    (tmp_path / "handrail.toml").write_text("")
    target = find(None, tmp_path, None)
    looked: list[Path] = []

    def appears(path: Path) -> Endpoint | None:
        looked.append(path)
        return ENDPOINT if len(looked) > 2 else None

    monkeypatch.setattr(handrail.stack.inline, "embedded", owned)
    monkeypatch.setattr(bus.directory, "find_endpoint", appears)
    monkeypatch.setattr(server, "log_to_file", lambda data, name: None)
    monkeypatch.setattr(server, "JOIN_INTERVAL_S", 0.001)
    monkeypatch.setattr(bus.directory, "is_owned", lambda path: True)
    async with connect(target, new=True) as client:
        assert client.address == "127.0.0.1:4000"


async def test_an_owner_that_never_answers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def owned(project: Path, data: Path) -> AsyncIterator[object]:
        raise DirectoryOwned(data, None)
        yield

    monkeypatch.setattr(handrail.stack.inline, "embedded", owned)
    monkeypatch.setattr(server, "log_to_file", lambda data, name: None)
    monkeypatch.setattr(server, "JOIN_TIMEOUT_S", 0.01)
    (tmp_path / "handrail.toml").write_text("")
    monkeypatch.setattr(server, "JOIN_INTERVAL_S", 0.001)
    monkeypatch.setattr(bus.directory, "is_owned", lambda path: True)
    with pytest.raises(DirectoryOwned):
        async with connect(find(None, tmp_path, None), new=True):
            pass


def test_where_logs_come_first_the_data_directory_is_its_owners_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observability.logs, "configure", lambda file: file.close())
    place = tmp_path / "shop" / ".handrail"
    server.log_to_file(place, "up.log")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (place, place / "logs")] == [0o700, 0o700]
