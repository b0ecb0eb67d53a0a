"""The supervisor over real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator import supervisor as supervision
from orchestrator.supervisor import ChildNotReady, ChildSpec, ChildStatus, Supervisor, last_ended
from tests.processes import alive

WAIT_S = 15.0
POLL_S = 0.01
SLEEPER = "import signal; signal.pause()"
# Says that it is up, and takes its time to end.
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
# Leaves a process behind in its session, says which, and dies.
LITTER = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("litter", child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close(); "


async def eventually(probe: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds; a pause of this process costs one look, and not the rest of them."""
    for _ in range(int(WAIT_S / POLL_S)):
        if await probe():
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"it does not hold after {WAIT_S:g} s")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Supervisor]]]:
    started: list[Supervisor] = []

    async def start(*children: ChildSpec) -> Supervisor:
        supervisor = Supervisor(children, tmp_path)
        started.append(supervisor)
        await supervisor.start()
        return supervisor

    yield start
    for supervisor in started:
        await supervisor.stop()


def only(supervisor: Supervisor) -> ChildStatus:
    (child,) = supervisor.children()
    return child


async def test_children_start_in_order_each_when_the_one_before_is_ready(start, tmp_path) -> None:
    seen = tmp_path / "first_is_ready"

    async def ready() -> bool:
        return seen.exists()

    first = ChildSpec("first", python(touch(seen) + SLEEPER), ready=ready)
    second = ChildSpec(
        "second", python(f"import os; print(os.path.exists({str(seen)!r}), flush=True); {SLEEPER}")
    )
    supervisor = await start(first, second)

    assert [child.name for child in supervisor.children()] == ["first", "second"]
    assert all(child.state == "running" and child.generation == 1 for child in supervisor.children())

    async def said() -> bool:
        return "True" in (tmp_path / "logs" / "second.log").read_text()

    await eventually(said)


async def test_a_killed_child_comes_back_as_the_next_generation(start, tmp_path) -> None:
    script = f"import os; print('generation', os.environ['HANDRAIL_GENERATION'], flush=True); {SLEEPER}"
    supervisor = await start(ChildSpec("child", lambda generation: [*python(script), str(generation)]))
    pid = only(supervisor).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def back() -> bool:
        # Said by the child itself: that it starts is written there before it is anything but its launcher.
        text = (tmp_path / "logs" / "child.log").read_text()
        return "\ngeneration 2\n" in text and only(supervisor).state == "running"

    await eventually(back)
    child = only(supervisor)
    assert (child.generation, child.state, child.last_exit) == (2, "running", -signal.SIGKILL)
    assert child.pid not in (None, pid)
    assert not alive(pid)
    assert Path(f"/proc/{child.pid}/cmdline").read_bytes().endswith(b"\x002\x00")
    assert last_ended(tmp_path, "child") == 1
    assert last_ended(tmp_path, "other") == 0


async def test_what_an_earlier_supervisor_has_written_of_ends_is_forgotten(start, tmp_path) -> None:
    first = await start(ChildSpec("child", python(SLEEPER)))
    os.kill(only(first).pid or 0, signal.SIGKILL)

    async def ended() -> bool:
        return last_ended(tmp_path, "child") == 1

    await eventually(ended)
    await first.stop()
    await start(ChildSpec("child", python(SLEEPER)))
    assert last_ended(tmp_path, "child") == 0


async def test_a_generation_starts_only_when_all_of_the_last_is_dead(start, tmp_path) -> None:
    supervisor = await start(ChildSpec("child", python(LITTER)))

    async def thrice() -> bool:
        return only(supervisor).generation > 3

    await eventually(thrice)
    lines = (tmp_path / "logs" / "child.log").read_text().splitlines()
    litter = [int(line.split()[1]) for line in lines if line.startswith("litter")]
    assert len(litter) >= 3
    assert not any(alive(pid) for pid in litter[:3])


async def test_stop_is_in_reverse_order_and_forceful_where_it_must_be(start, tmp_path) -> None:
    ended = tmp_path / "ended"
    note = "import signal, sys; leave = lambda *_: (open({0!r}, 'a').write({1!r}), sys.exit()); "
    note += "signal.signal(signal.SIGTERM, leave)"

    def noting(name: str) -> ChildSpec:
        up = tmp_path / f"{name}.up"

        async def ready() -> bool:
            return up.exists()

        script = f"{note.format(str(ended), name)}; {touch(up)} signal.pause()"
        return ChildSpec(name, python(script), ready=ready)

    async def deaf_is_up() -> bool:
        return "up" in (tmp_path / "logs" / "deaf.log").read_text().splitlines()

    deaf = ChildSpec("deaf", python(DEAF), stop_timeout_s=0.1, ready=deaf_is_up)
    supervisor = await start(noting("a"), deaf, noting("b"))
    pids = [child.pid for child in supervisor.children()]

    await supervisor.stop()

    assert ended.read_text() == "ba"
    assert [child.state for child in supervisor.children()] == ["stopped"] * 3
    assert not any(alive(pid) for pid in pids if pid is not None)


async def test_a_crash_loop_is_reported_with_what_the_child_said(start, tmp_path, capsys) -> None:
    crash = tmp_path / "crash"
    script = f"import os; os.path.exists({str(crash)!r}) and exit('no such luck'); {SLEEPER}"
    supervisor = await start(ChildSpec("child", python(script)))
    crash.touch()
    pid = only(supervisor).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def loops() -> bool:
        return only(supervisor).state == "crash_loop"

    await eventually(loops)
    child = only(supervisor)
    assert child.last_exit == 1
    assert "no such luck" in child.tail
    assert "no such luck" in capsys.readouterr().out

    # It is never given up.
    crash.unlink()

    async def recovers() -> bool:
        return only(supervisor).state == "running"

    await eventually(recovers)


async def test_a_child_that_never_comes_up_ends_the_start_and_says_why(start, tmp_path) -> None:
    first = ChildSpec("first", python(SLEEPER))
    with pytest.raises(ChildNotReady, match=r"(?s)second does not come up.*second\.log.*out of order"):
        await start(first, ChildSpec("second", python("exit('out of order')"), ready=_never))
    lines = (tmp_path / "logs" / "first.log").read_text()
    assert "generation 1" in lines


async def test_a_child_that_is_not_ready_in_time_is_named(start, monkeypatch) -> None:
    monkeypatch.setattr(supervision, "READY_TIMEOUT_S", 0.2)
    with pytest.raises(ChildNotReady, match="child does not come up"):
        await start(ChildSpec("child", python(SLEEPER), ready=_never))


async def test_a_command_that_cannot_be_started_is_tried_again(start) -> None:
    def command(generation: int) -> list[str]:
        if generation < 3:
            raise OSError("the disk is full")
        return python(SLEEPER)

    supervisor = await start(ChildSpec("child", command))
    assert only(supervisor).generation == 3
    assert "the disk is full" in Path(only(supervisor).log).read_text()


async def test_a_missing_program_is_named(start) -> None:
    with pytest.raises(ChildNotReady, match="no-such-program cannot be started"):
        await start(ChildSpec("child", ["no-such-program"], ready=_never))


async def test_a_terminal_does_not_reach_the_children_and_descriptors_do(start, tmp_path) -> None:
    read, write = os.pipe()
    script = f"import os; os.write({write}, str(os.getsid(0)).encode())" + "; " + SLEEPER
    supervisor = await start(ChildSpec("child", python(script), pass_fds=(write,)))
    session = int(await asyncio.to_thread(os.read, read, 64))
    os.close(read)
    os.close(write)
    assert session == only(supervisor).pid != os.getsid(0)


async def test_logs_are_kept_and_bounded(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(supervision, "MAX_LOG_BYTES", 100)
    for _ in range(4):
        supervisor = await start(ChildSpec("child", python("print('x' * 200, flush=True); " + SLEEPER)))

        async def said() -> bool:
            return "x" * 200 in (tmp_path / "logs" / "child.log").read_text()

        await eventually(said)
        await supervisor.stop()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "child.log",
        "child.log.1",
        "child.log.2",
    ]


async def test_children_die_with_their_supervisor(tmp_path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from orchestrator.supervisor import ChildSpec, Supervisor

async def main():
    supervisor = Supervisor([ChildSpec("child", {python(SLEEPER)!r})], Path({str(tmp_path)!r}))
    await supervisor.start()
    print(supervisor.children()[0].pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(*python(script), stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    assert alive(pid)
    process.kill()

    async def gone() -> bool:
        return not alive(pid)

    await eventually(gone)
    await process.communicate()


async def _never() -> bool:
    return False
