"""A data directory has one owner: whoever holds the lock on its `lock` file.

The broker and every child with effects inherit the lock's descriptor (`pass_fds=(directory.lock_fd,)`):
a lock belongs to the open file, so it is free only when all of them are dead. Hence taking it proves that
no earlier owner, broker or worker is left, and releasing it is closing it, never unlocking it.
Beside the lock lie the epoch (counts the owners) and the endpoint (where the owner can be reached).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from core.errors import HandrailError

LOCK_FILE = "lock"
EPOCH_FILE = "epoch"
ENDPOINT_FILE = "endpoint.json"
MAX_FILE_BYTES = 1 << 20
TAKEOVER_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.01
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_NOT_A_DIRECTORY = frozenset({errno.ENOTDIR, errno.EEXIST})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the owner of a data directory can be reached, and who it is."""

    gateway: str
    broker_url: str
    pid: int
    epoch: int
    project: str
    host: str
    # Where other machines reach the gateway; "" where they do not.
    public: str = ""


class DirectoryUnusable(HandrailError):
    """The data directory cannot be used as it is."""


class DirectoryOwned(HandrailError):
    """Somebody else owns the data directory; `endpoint` says who, where that is known."""

    def __init__(self, path: Path, endpoint: Endpoint | None) -> None:
        self.endpoint = endpoint
        owner = "another process, or a child that it left behind"
        if endpoint is not None:
            owner = f"process {endpoint.pid} (project {endpoint.project}, gateway {endpoint.gateway})"
        super().__init__(
            f"The data directory {path} is owned by {owner}: a data directory has one owner at a time. "
            "Join it through its gateway, stop it first, or name another directory."
        )


class DataDirectory:
    """A data directory that this process owns, until `release` and until its children are dead too."""

    def __init__(self, path: Path, lock_fd: int, epoch: int) -> None:
        """Use `acquire`."""
        self.path = path
        self.epoch = epoch
        self._lock_fd = lock_fd

    @classmethod
    def acquire(cls, path: Path, *, takeover_timeout_s: float = TAKEOVER_TIMEOUT_S) -> DataDirectory:
        """Become the owner, creating the directory if need be; blocks, so call it before the event loop.

        A living owner that has published its endpoint is reported at once. Otherwise it is either starting,
        or dead with children that die a moment later: that is waited for. Raises DirectoryOwned and
        DirectoryUnusable.
        """
        path = path.absolute()
        with usable(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = _lock(path, time.monotonic() + takeover_timeout_s)
        try:
            with usable(path):
                (path / ENDPOINT_FILE).unlink(missing_ok=True)
                epoch = _read_epoch(path) + 1
                write_file(path / EPOCH_FILE, f"{epoch}\n")
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, lock_fd, epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor, for `pass_fds` of the broker and of every child with effects."""
        if self._lock_fd < 0:
            raise DirectoryUnusable(f"The data directory {self.path} has been released: acquire it again.")
        return self._lock_fd

    def publish_endpoint(self, endpoint: Endpoint) -> None:
        """Say where this owner can be reached; readable by this user only."""
        with usable(self.path):
            write_file(self.path / ENDPOINT_FILE, json.dumps(asdict(endpoint), indent=1))

    def release(self) -> None:
        """Give the directory up; it stays owned for as long as a child holds the lock."""
        if self._lock_fd < 0:
            return
        with suppress(OSError):
            (self.path / ENDPOINT_FILE).unlink(missing_ok=True)
        os.close(self._lock_fd)
        self._lock_fd = -1


def read_endpoint(path: Path) -> Endpoint | None:
    """Return the endpoint that was last published, stale or not; None if there is none to be read."""
    try:
        fields = json.loads(read_text(path / ENDPOINT_FILE) or "")
        return Endpoint(
            gateway=str(fields["gateway"]),
            broker_url=str(fields["broker_url"]),
            pid=int(fields["pid"]),
            epoch=int(fields["epoch"]),
            project=str(fields["project"]),
            host=str(fields["host"]),
            public=str(fields.get("public", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def find_endpoint(path: Path) -> Endpoint | None:
    """Return the endpoint of a living owner; None where nobody owns the directory or it is not up yet.

    An owner that was killed is not living, even while children of its still hold the lock.
    """
    if not is_owned(path):
        return None
    endpoint = read_endpoint(path)
    return endpoint if endpoint is not None and _is_alive(endpoint.pid) else None


def is_owned(path: Path) -> bool:
    """Whether the lock is held: by an owner, or by what it left behind."""
    try:
        fd = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who look do not see each other; an `acquire` at this moment tries again.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def wait_until_free(path: Path, timeout_s: float) -> bool:
    """Block until nobody holds the lock; return whether that came true in time."""
    deadline = time.monotonic() + timeout_s
    while is_owned(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def write_file(path: Path, text: str) -> None:
    """Replace a file's contents durably and at once; only this user may read it."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def read_text(path: Path) -> str | None:
    """Return the contents of one of the directory's own small files; None where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into DirectoryUnusable, with what to do."""
    try:
        yield
    except OSError as error:
        raise DirectoryUnusable(f"The data directory {path} {_explain(error)}") from error


def _explain(error: OSError) -> str:
    reason = error.strerror or str(error)
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"is full ({reason}{where}). Free some space or raise the limit, or name another directory."
    if error.errno in _READ_ONLY:
        return (
            f"cannot be written ({reason}{where}). Give this user write permission, mount it read-write, "
            "or name another directory."
        )
    if error.errno in _NOT_A_DIRECTORY:
        return f"is not a directory ({reason}{where}). Move that file away or name another directory."
    if error.errno in _NO_LOCKS:
        return f"is on a file system without locks ({reason}). Name a directory on a local disk."
    return f"cannot be used ({reason}{where}). Mend that or name another directory."


def _lock(path: Path, deadline: float) -> int:
    """Open and lock the lock file. The descriptor passes to no child that is not given it."""
    while True:
        fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(fd, path / LOCK_FILE):
                return fd
        except BlockingIOError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        endpoint = read_endpoint(path)
        living = endpoint is not None and _is_alive(endpoint.pid)
        if living or time.monotonic() >= deadline:
            raise DirectoryOwned(path, endpoint)
        time.sleep(POLL_INTERVAL_S)


def _is_same_file(fd: int, path: Path) -> bool:
    """Whether the file that was locked is still the one at the path (it may have been deleted)."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def _read_epoch(path: Path) -> int:
    text = read_text(path / EPOCH_FILE)
    if text is None:
        return 0
    try:
        return int(text)
    except ValueError as error:
        raise DirectoryUnusable(
            f"{path / EPOCH_FILE} holds {text[:40]!r} and not a number. Write into it a number above every "
            "epoch that a worker of this directory was ever named by (they stand first in worker names)."
        ) from error


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return state.rpartition(")")[2].split()[0] not in ("Z", "X")
    return True
