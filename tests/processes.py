"""What the kernel says of processes, which may end while it is asked."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def states(pid: int) -> set[str]:
    """Return the states of a process's threads, as the kernel abbreviates them; none when it is gone."""
    found = set()
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # A thread that has been listed may be gone when it is read.
            with suppress(OSError):
                found.add(_state(thread / "stat"))
    return found


def alive(pid: int) -> bool:
    """Whether a process is there, and not only waits for its parent to see its end."""
    with suppress(OSError):
        return _state(Path(f"/proc/{pid}/stat")) not in "ZX"
    return False


def command(pid: int) -> str:
    """Return what a process was started with, or nothing when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]
