"""The ownership of a data directory, with real processes and real locks."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bus import directory
from bus.directory import (
    DataDirectory,
    DirectoryOwned,
    DirectoryUnusable,
    Endpoint,
    find_endpoint,
    is_owned,
    read_endpoint,
    wait_until_free,
)

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 10.0
# Owns a directory, leaves a child that holds the lock, says so and waits to be killed.
OWNER = """
import os, subprocess, sys
from pathlib import Path
from bus.directory import DataDirectory, Endpoint
owned = DataDirectory.acquire(Path(sys.argv[1]))
owned.publish_endpoint(Endpoint("127.0.0.1:1", "nats://127.0.0.1:2", os.getpid(), owned.epoch, "p", "inline"))
child = subprocess.Popen(
    [sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=(owned.lock_fd,), stdin=subprocess.PIPE
)
print(child.pid, flush=True)
sys.stdin.read()
"""


def endpoint(owned: DataDirectory) -> Endpoint:
    return Endpoint(
        "127.0.0.1:1",
        "nats://127.0.0.1:2",
        os.getpid(),
        owned.epoch,
        "examples/backoffice",
        "ray",
        "0.0.0.0:3",
    )


@contextmanager
def holder(*fds: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child that lives until its input is closed."""
    command = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def run_as(code: str, *arguments: str) -> str:
    """Run Python code that is expected to raise, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    return done.stdout + done.stderr


def test_a_directory_is_made_and_each_owner_has_a_higher_epoch(tmp_path: Path) -> None:
    path = tmp_path / "project" / ".handrail"
    for epoch in (1, 2, 3):
        with DataDirectory.acquire(path) as owned:
            assert owned.epoch == epoch
            assert is_owned(path)
        assert not is_owned(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_living_owner_is_reported_at_once_with_its_endpoint(tmp_path: Path) -> None:
    with DataDirectory.acquire(tmp_path) as owned:
        owned.publish_endpoint(endpoint(owned))
        started = time.monotonic()
        with pytest.raises(DirectoryOwned, match=f"process {os.getpid()}") as refused:
            DataDirectory.acquire(tmp_path)
        assert time.monotonic() - started < directory.TAKEOVER_TIMEOUT_S
        assert refused.value.endpoint == endpoint(owned) == find_endpoint(tmp_path)
        assert stat.S_IMODE((tmp_path / "endpoint.json").stat().st_mode) == 0o600
    assert read_endpoint(tmp_path) is None


@pytest.mark.parametrize("pid", ["Infinity", "1e400", "[" * 5_000, "2147483648", "null"])
def test_a_damaged_endpoint_is_nobodys(tmp_path: Path, pid: str) -> None:
    with DataDirectory.acquire(tmp_path) as owned:
        owned.publish_endpoint(endpoint(owned))
        path = tmp_path / "endpoint.json"
        path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {pid}'))
        assert pid in path.read_text()
        assert find_endpoint(tmp_path) is None


def test_an_owner_that_is_not_up_yet_has_no_endpoint(tmp_path: Path) -> None:
    with DataDirectory.acquire(tmp_path):
        assert find_endpoint(tmp_path) is None
        with pytest.raises(DirectoryOwned) as refused:
            DataDirectory.acquire(tmp_path, takeover_timeout_s=0)
        assert refused.value.endpoint is None


def test_a_child_with_the_lock_keeps_the_directory_owned(tmp_path: Path) -> None:
    owned = DataDirectory.acquire(tmp_path)
    with holder(owned.lock_fd) as child:
        owned.release()
        assert is_owned(tmp_path)
        with pytest.raises(DirectoryOwned):
            DataDirectory.acquire(tmp_path, takeover_timeout_s=0)
        assert not wait_until_free(tmp_path, 0)
        child.kill()
        assert wait_until_free(tmp_path, WAIT_S)
    DataDirectory.acquire(tmp_path).release()


def test_a_child_that_was_not_given_the_lock_does_not_hold_it(tmp_path: Path) -> None:
    owned = DataDirectory.acquire(tmp_path)
    with holder():
        owned.release()
        DataDirectory.acquire(tmp_path, takeover_timeout_s=0).release()


def test_a_killed_owner_is_taken_over_from_when_its_children_are_dead(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        child_pid = int(owner.stdout.readline())
        found = find_endpoint(tmp_path)
        assert found is not None
        assert found.pid == owner.pid
        child = os.pidfd_open(child_pid)
        # Stopped, so that it cannot end when the pipe from its parent breaks.
        signal.pidfd_send_signal(child, signal.SIGSTOP)
        # Not waited for: a dead process that nobody reaps is dead all the same.
        owner.kill()
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
        assert read_endpoint(tmp_path) == found
        assert find_endpoint(tmp_path) is None
        with pytest.raises(DirectoryOwned):
            DataDirectory.acquire(tmp_path, takeover_timeout_s=0)
        signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        with DataDirectory.acquire(tmp_path, takeover_timeout_s=WAIT_S) as owned:
            assert owned.epoch == found.epoch + 1
            assert read_endpoint(tmp_path) is None


def test_a_stale_endpoint_is_not_an_endpoint(tmp_path: Path) -> None:
    owned = DataDirectory.acquire(tmp_path)
    owned.publish_endpoint(endpoint(owned))
    stale = (tmp_path / "endpoint.json").read_bytes()
    owned.release()
    (tmp_path / "endpoint.json").write_bytes(stale)
    assert read_endpoint(tmp_path) is not None
    assert find_endpoint(tmp_path) is None
    for damaged in (b"", b"[]", b'{"gateway": 1}', b"\xff"):
        (tmp_path / "endpoint.json").write_bytes(damaged)
        assert read_endpoint(tmp_path) is None


def test_a_released_directory_gives_its_lock_to_nobody(tmp_path: Path) -> None:
    owned = DataDirectory.acquire(tmp_path)
    owned.release()
    owned.release()
    with pytest.raises(DirectoryUnusable, match="released"):
        _ = owned.lock_fd


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DirectoryUnusable, match="is not a directory"):
            DataDirectory.acquire(path)


READ_ONLY = """
import os, sys
from pathlib import Path
from bus.directory import DataDirectory
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
DataDirectory.acquire(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("path", ["/handrail-may-not-be-made-here", "/"])
def test_a_read_only_directory_says_what_to_do(path: str) -> None:
    said = run_as(READ_ONLY, path)
    assert "DirectoryUnusable" in said
    assert "write permission" in said


FULL = """
import resource, sys
from pathlib import Path
from bus.directory import DataDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
DataDirectory.acquire(Path(sys.argv[1]))
"""


def test_a_full_directory_says_what_to_do(tmp_path: Path) -> None:
    said = run_as(FULL, str(tmp_path))
    assert "DirectoryUnusable" in said
    assert "is full" in said
    assert not list(tmp_path.glob("*.tmp"))
    with DataDirectory.acquire(tmp_path) as owned:
        assert owned.epoch == 1


def test_a_disk_that_fills_up_later_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with DataDirectory.acquire(tmp_path) as owned:
        before = endpoint(owned)
        owned.publish_endpoint(before)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DirectoryUnusable, match=r"is full .* Free some space"):
            owned.publish_endpoint(replace(before, gateway="elsewhere"))
        assert read_endpoint(tmp_path) == before


def test_a_damaged_epoch_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("seven")
    with pytest.raises(DirectoryUnusable, match="'seven' and not a number"):
        DataDirectory.acquire(tmp_path)
    assert not is_owned(tmp_path)
