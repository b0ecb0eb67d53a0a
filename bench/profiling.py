"""Where the time of a plan goes: latency by phases with one plan at a time, processor time under load.

py-spy samples every Python process of the stack and the client. A sample counts for the library nearest to
its innermost frame; the shares are turned into milliseconds per plan with what the kernel says of processes.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import broker, machine, phases, processes, stack, venvs
from bench.drivers import Driver

CONCURRENCY = 16
RATE_HZ = 200
SETTLE_S = 1.0
SHOWN = 18
SPY_GRACE_S = 60.0
DRAIN_TIMEOUT_S = 60.0

# The first that matches a frame, from the innermost outwards, names the sample.
LIBRARIES = (
    ("protobuf", r"google/protobuf|_pb2\.py"),
    ("NATS client", r"/nats/|\(nats/"),
    ("gRPC", r"/grpc/|\(grpc/|cygrpc"),
    ("pydantic", r"pydantic"),
    ("logging", r"structlog|\(logging/"),
    ("telemetry", r"opentelemetry|observability/"),
    ("listing", r"projection\.py|sqlite"),
    ("core: fold", r"core/(run|state|chains?|ahead)\.py"),
    ("core: view", r"core/view\.py"),
    ("core: decide and check", r"core/"),
    ("bus", r"\(bus/|/bus/"),
    ("orchestrator", r"orchestrator/"),
    ("worker and tools", r"workers/|handrail/calling|steps\.py"),
    ("minds", r"actors/"),
    ("client library", r"handrail/(client|goals|errors)"),
)
OTHER = "asyncio and Python"


def profile(place: Path, *, case: str, durability: str, seconds: float, say: Callable[[str], None]) -> str:
    """Return both views of a plan's time, as text."""
    kept: stack.Durability = "relaxed" if durability == "relaxed" else "always"
    project = stack.copy_project(place / "profile", kept)
    about = machine.describe(place)
    parts = [
        f"Profile of plans of five {case}s, one after another; broker sync = {durability}",
        f"{about['date']}, commit {about['commit']}, {about['cpu']}, {about['cores']} cores, "
        f"load average before {about['load_average']}",
    ]
    with stack.running(project) as running:
        say("one plan at a time")
        parts.append(
            "\n== Latency of one plan, C=1\n\n"
            + asyncio.run(phases.measure(running.address, running.token, case))
        )
        say(f"{CONCURRENCY} plans at a time, under py-spy")
        parts.append(_cpu(running, project, case, seconds, place))
    return "\n".join(parts) + "\n"


def _cpu(running: stack.Stack, project: Path, case: str, seconds: float, place: Path) -> str:
    try:
        spy = venvs.python("profiler").with_name("py-spy")
    except venvs.Missing as error:
        return f"\n== Processor time: not sampled: {error}"
    driver = Driver(
        [sys.executable, "-m", "bench.load", running.address],
        env=stack.environment(HANDRAIL_TOKEN_FILE=str(running.token)),
        cwd=stack.ROOT,
        stderr=project / "client.stderr",
    )
    try:
        driver.order(concurrency=CONCURRENCY, seconds=SETTLE_S, what=case)
        pids = {**running.processes(), "client": driver.pid}
        undisturbed, plain = _loaded(driver, pids, case, seconds / 2, running.access)
        files = _spy(spy, driver, pids, case, seconds, place)
    finally:
        driver.close()
    total = sum(undisturbed.values())
    lines = [
        f"\n== Processor time, C={CONCURRENCY}: {total:.1f} ms per plan at {plain:.0f} plans/s "
        "(not sampled meanwhile)\n"
    ]
    lines += [f"  {ms:6.2f} ms  {name}" for name, ms in sorted(undisturbed.items(), key=lambda one: -one[1])]
    for name, file in files.items():
        lines.append(_process(name, file, undisturbed[name]))
    return "\n".join(lines)


def _loaded(
    driver: Driver, pids: Mapping[str, int], case: str, seconds: float, access: broker.Access
) -> tuple[dict[str, float], float]:
    broker.drain_tracer(access, DRAIN_TIMEOUT_S)
    before = processes.cpu_of(pids)
    answer = driver.order(concurrency=CONCURRENCY, seconds=seconds, what=case)
    broker.drain_tracer(access, DRAIN_TIMEOUT_S)
    after = processes.cpu_of(pids)
    plans = max(1, answer["plans"])
    return {name: (after[name] - before[name]) / plans * 1e3 for name in pids}, plans / answer["wall_s"]


def _spy(
    spy: Path, driver: Driver, pids: Mapping[str, int], case: str, seconds: float, place: Path
) -> dict[str, Path]:
    driver.send(concurrency=CONCURRENCY, seconds=seconds + 2 * SETTLE_S, what=case)
    time.sleep(SETTLE_S)
    spies: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    for name, pid in pids.items():
        if name in ("broker", "supervisor"):
            continue
        file = place / f"{name.replace(':', '-')}.raw"
        command = [str(spy), "record", "-p", str(pid), "-d", str(int(seconds)), "-r", str(RATE_HZ)]
        process = subprocess.Popen(
            [*command, "-f", "raw", "-o", str(file), "--nonblocking"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        spies[name] = (process, file)
    for process, _ in spies.values():
        process.wait(seconds + SPY_GRACE_S)
    driver.answer(seconds)
    return {name: file for name, (_, file) in spies.items() if file.exists()}


def _process(name: str, file: Path, cpu_ms: float) -> str:
    samples = list(_samples(file.read_text()))
    total = sum(count for _, count in samples) or 1
    libraries: Counter[str] = Counter()
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for frames, count in samples:
        libraries[_library(frames)] += count
        own[_function(frames[-1])] += count
        for one in {_function(frame) for frame in frames}:
            within[one] += count
    lines = [f"\n-- {name}: {cpu_ms:.2f} ms per plan, {total} samples", "   by library:"]
    lines += [_share(library, count, total, cpu_ms) for library, count in libraries.most_common()]
    lines.append("   own time:")
    lines += [_share(function, count, total, cpu_ms) for function, count in own.most_common(SHOWN)]
    lines.append("   with what they call:")
    ours = [(one, count) for one, count in within.most_common() if not re.search(_SCAFFOLD, one)]
    lines += [_share(function, count, total, cpu_ms) for function, count in ours[:SHOWN]]
    return "\n".join(lines)


_SCAFFOLD = r"asyncio/|uvloop/|threading|runpy|typer|click|cli/|<module>|\(frozen"
_WAITING = r"^(select \(selectors|wait \(threading|_worker \(concurrent|poll \()"


def _samples(text: str) -> list[tuple[list[str], int]]:
    """Read py-spy's raw form, without what waits."""
    found = []
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        stacked = frames.split(";")
        if stacked[-1] and not re.search(_WAITING, stacked[-1]):
            found.append((stacked, int(count)))
    return found


def _library(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for name, pattern in LIBRARIES:
            if re.search(pattern, frame):
                return name
    return OTHER


def _function(frame: str) -> str:
    return re.sub(r":\d+\)", ")", frame)


def _share(name: str, count: int, total: int, cpu_ms: float) -> str:
    return f"     {count / total:6.1%}  {count / total * cpu_ms:5.2f} ms  {name}"
