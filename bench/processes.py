"""What the kernel says of processes: their children, processor time and memory. Linux only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(root: int) -> dict[int, list[str]]:
    """Return a process and all that descend from it, with their command lines."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return {pid: command for pid in found if (command := _command(pid))}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, its waited-for children's not included."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * _TICK_S if fields else 0.0


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the processor time of several processes."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def memory_bytes(pid: int, kind: str = "Pss") -> int:
    """Return a process's share of memory (Pss), or all that it maps (Rss)."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _stat(pid: int) -> list[str]:
    """Return what follows the process's name: its state, parent ..."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _command(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
