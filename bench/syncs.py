"""How often a plan makes the disk sync, counted by strace on every process of a target."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench.targets import Target

SYSCALLS = ("fsync", "fdatasync", "sync_file_range", "msync")
ATTACH_S = 1.0
STOP_TIMEOUT_S = 20.0


def fsyncs_per_plan(target: Target, what: str, seconds: float, place: Path) -> float | None:
    """Return it for one plan at a time; None where strace is missing or may not trace.

    Tracing slows a target down, so what syncs by the clock and not by the plan counts for more.
    """
    out = place / "strace"
    out.unlink(missing_ok=True)
    pids = [word for pid in target.pids() for word in ("-p", str(pid))]
    command = ["strace", "-f", "-c", "-e", f"trace={','.join(SYSCALLS)}", "-o", str(out), *pids]
    try:
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    try:
        time.sleep(ATTACH_S)
        answer = target.round(what, 1, seconds)
    finally:
        tracer.terminate()
        tracer.wait(STOP_TIMEOUT_S)
    if not out.exists() or not answer["plans"]:
        return None
    return sum(_calls(line) for line in out.read_text().splitlines()) / float(answer["plans"])


def _calls(line: str) -> int:
    """Return the calls of one line of strace's table: time, seconds, each, calls, errors, name."""
    words = line.split()
    return int(words[3]) if words and words[-1] in SYSCALLS else 0
