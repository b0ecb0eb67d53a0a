"""Ray's head as a child process: where it listens, how it ends, and what it leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.pool import PoolSpec
from actors.ray_head import HeadError, RayHead
from orchestrator.supervisor import ChildSpec, Supervisor
from tests.cluster import echo
from tests.cluster.stage import LOST, RayProcess, eventually, ray_head, session
from tests.processes import command

# Longer than all that is waited for in one of them.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def head(tmp_path: Path) -> RayHead:
    return RayHead.of(tmp_path)


@pytest.fixture
async def supervisor(head: RayHead, tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor([ChildSpec("ray_head", head.command, env=head.env(), ready=head.ready)], tmp_path)
    await supervisor.start()
    yield supervisor
    await supervisor.stop()
    head.clear()


def listening(pids: list[int]) -> set[str]:
    """Return the addresses on which processes listen (as the kernel prints them)."""
    sockets = set()
    for pid in pids:
        # Both it and what it has open may be gone by now.
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    sockets.add(
                        os.readlink(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").removesuffix("]")
                    )
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].partition(":")[0])
    return found


async def test_a_head_is_private_and_its_loss_is_noticed(supervisor, head, tmp_path) -> None:
    (child,) = supervisor.children()
    first = session(child.pid)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening(first) <= loopback

    # A second head of another data directory does not come in its way.
    (tmp_path / "other").mkdir()
    with ray_head(tmp_path / "other") as (other, process):
        assert other.address() != head.address()
        second = session(process.pid)
    assert not set(second) & set(session(process.pid))

    host = RayProcess(head, tmp_path / "ray_host.log")
    await host.ensure(PoolSpec(echo.ROLE, echo.POOL).slots(options={"gate": "x"}))
    token = (head.directory / "token").read_text()
    os.kill(child.pid, signal.SIGKILL)

    assert await host.wait() == LOST
    assert "is gone" in (tmp_path / "ray_host.log").read_text()

    async def back() -> bool:
        (child,) = supervisor.children()
        # The one that was killed is taken for running until all of it is gone.
        return await head.ready() and child.state == "running" and child.generation == 2

    await eventually(back)
    # Its port may be the same one by chance, its secret may not.
    assert (head.directory / "token").read_text() != token
    assert session(child.pid) == []


async def test_a_head_that_has_lost_a_part_ends_whole(tmp_path) -> None:
    with ray_head(tmp_path) as (_, process):
        (part,) = (pid for pid in session(process.pid) if "/raylet" in command(pid).partition(" ")[0])
        # Ray takes this for an orderly end, and would leave the rest as it is.
        os.kill(part, signal.SIGTERM)

        async def ended() -> bool:
            return process.poll() is not None

        # Ray by itself would leave it for a minute.
        await eventually(ended, timeout_s=30.0)
        assert process.returncode != 0
        assert session(process.pid) == []


def test_what_belongs_to_somebody_else_is_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    head = RayHead(tmp_path / "head")
    head.directory.symlink_to(elsewhere)

    with pytest.raises(HeadError, match="belongs to somebody else"):
        head.command(1)
    assert (elsewhere / "file").exists()


def test_ray_gets_a_short_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("x" * 60)))
    assert len(str(RayHead.of(tmp_path).directory)) <= 40
    assert RayHead.of(tmp_path) != RayHead.of(tmp_path / "other")
