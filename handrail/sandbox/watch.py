"""What a process and all its descendants use together, read from /proc, and what a directory holds."""

from __future__ import annotations

import math
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

_OWN_MEMORY = ("RssAnon:", "RssShmem:", "VmSwap:")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


MAX_FILES = 10_000
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Use:
    """What is used: memory of their own (pages of files are not counted), processes, time of the CPU."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0.0


def used(pid: int, *, at_most: int) -> Use:
    """Return what a process and its descendants use; more than `at_most` of them are not counted."""
    waiting, count, memory_bytes, ticks = [pid], 0, 0, 0
    while waiting and count <= at_most:
        one = waiting.pop()
        count += 1
        waiting += _children(one)
        memory_bytes += _own_bytes(one)
        ticks += _ticks(one)
    return Use(memory_bytes, count, ticks / _TICKS_PER_S)


def held(directory: str) -> float:
    """Return the bytes on the disk below a directory; without end where there are too many files to count."""
    size, entries, waiting = 0, 0, [directory]
    while waiting:
        try:
            found = os.listdir(waiting[-1])
        except FileNotFoundError:
            found = []
        except OSError:
            # So deep that it has no name, or such that nobody can look.
            return math.inf
        below, entries = waiting.pop(), entries + len(found)
        if entries > MAX_FILES:
            return math.inf
        for path in (os.path.join(below, name) for name in found):
            with suppress(OSError):
                said = os.lstat(path)
                size += said.st_blocks * _BLOCK_BYTES
                if stat.S_ISDIR(said.st_mode):
                    waiting.append(path)
    return size


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        # It has ended.
        return found
    return found


def _own_bytes(pid: int) -> int:
    # What is shared without a file counts for each that has it: nothing tells here who else does.
    lines = (line.split() for line in _read(f"/proc/{pid}/status").splitlines())
    return sum(int(line[1]) for line in lines if line and line[0] in _OWN_MEMORY) * 1024


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
