"""What a process and all its descendants use together, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Use:
    """What is used: memory of their own (pages of files are not counted), processes, time of the CPU."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0.0


def used(pid: int, *, at_most: int) -> Use:
    """Return what a process and its descendants use; more than `at_most` of them are not counted."""
    waiting, count, pages, ticks = [pid], 0, 0, 0
    while waiting and count <= at_most:
        one = waiting.pop()
        count += 1
        waiting += _children(one)
        pages += _own_pages(one)
        ticks += _ticks(one)
    return Use(pages * _PAGE_BYTES, count, ticks / _TICKS_PER_S)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        # It has ended.
        return found
    return found


def _own_pages(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return max(0, int(fields[1]) - int(fields[2])) if len(fields) > 2 else 0


def _ticks(pid: int) -> int:
    # The name stands in parentheses and may hold anything. User and system, its own and of those that ended.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) if len(fields) > 15 else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
