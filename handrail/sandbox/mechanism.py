"""By what a toolbox can be shut in on this machine: found out by doing it once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from handrail.sandbox import confine

Name = Literal["bubblewrap", "landlock", "none"]
ORDER: tuple[Name, ...] = ("bubblewrap", "landlock", "none")
PROBE_TIMEOUT_S = 10.0
_PROBE = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"),
    *("--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
    *("--size", "4096", "--tmpfs", "/tmp", "--remount-ro", "/", "true"),
)


@dataclass(frozen=True, slots=True)
class Mechanism:
    """The strongest one that there is, and why those before it are not."""

    name: Name
    # The program, of bubblewrap; the version, of Landlock.
    detail: str
    missing: tuple[str, ...]


@cache
def found() -> Mechanism:
    """Return the strongest mechanism of this machine."""
    missing: list[str] = []
    if not sys.platform.startswith("linux"):
        return Mechanism("none", "", (f"{sys.platform} has neither bubblewrap nor Landlock",))
    if not Path("/proc/thread-self/children").exists():
        # By it all processes of a call are found; without it none of the bounds would hold for them together.
        return Mechanism("none", "", ("this kernel does not tell the children of a process",))
    binary = shutil.which("bwrap")
    refusal = _refusal(binary) if binary else "bubblewrap is not installed (`bwrap` is not on the path)"
    if binary and not refusal:
        return Mechanism("bubblewrap", binary, ())
    missing.append(refusal)
    abi = confine.landlock_abi()
    if abi >= confine.MIN_LANDLOCK_ABI and confine.can_filter():
        return Mechanism("landlock", f"version {abi}", tuple(missing))
    missing.append(f"Landlock is version {abi}; {confine.MIN_LANDLOCK_ABI} is needed (Linux 6.2)")
    return Mechanism("none", "", tuple(missing))


def _refusal(binary: str) -> str:
    """Return why bubblewrap does not work here, or nothing."""
    try:
        done = subprocess.run(
            [binary, *_PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{binary} does not start: {error}"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return f"{binary} cannot make a sandbox: {said:.300}"
