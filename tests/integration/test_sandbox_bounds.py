"""What a hostile tool cannot use up, answer with, or hold up; by everything that this machine has."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handrail.calling import InvalidOutput, NotCalled, Stopped
from handrail.sandbox.mechanism import Mechanism
from handrail.sandbox.toolbox import ToolRaised
from handrail.tool import ToolError
from tests.awake import Awake
from tests.integration.sandbox_stage import (
    HOSTILE,
    Stage,
    left_behind,
    marked,
    mechanisms,
    running,
    sandbox_of,
    wait_for,
    write_project,
)

SLACK_S = 1.0
ENDLESS = "while True: pass"
ASLEEP = "import time; time.sleep(600)"


@pytest.fixture(scope="module", params=mechanisms(), ids=lambda one: one.name)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    found: Mechanism = request.param
    return found


@pytest.fixture(scope="module")
def stage(mechanism: Mechanism, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = write_project(tmp_path_factory.mktemp("bounds") / "project")
    with sandbox_of(directory, mechanism, memory_mb=256, processes=8, cpu_s=1) as made:
        yield made


@pytest.fixture(scope="module")
def calm(stage: Stage) -> Stage:
    """The same, for tests that hold nothing up: what comes next is not looked at."""
    return stage


def make_ready(stage: Stage) -> None:
    """Have a process wait for the next call: how long one takes to start is not that call's time."""
    stage.sandbox.warm()
    spare = stage.sandbox._spare
    assert spare is not None
    spare.ready(time.monotonic() + 30)


@pytest.fixture(autouse=True)
def next_call_works(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "calm" not in request.fixturenames and "stage" in request.fixturenames:
        assert request.getfixturevalue("stage").run("found = 6 * 7") == "42"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("kept = [bytearray(10 << 30)]", "MemoryError"),
        ("import mmap; mmap.mmap(-1, 10 << 30)", "Cannot allocate|MemoryError|Errno 12"),
        (
            "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
            "        kept = b'x' * (120 << 20); time.sleep(60)\ntime.sleep(60)",
            "more than 256 MB of memory",
        ),
        (
            "import mmap, os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
            "        m = mmap.mmap(-1, 120 << 20); m.write(b'x' * (60 << 20)); m.write(b'x' * (60 << 20))\n"
            "        time.sleep(60)\ntime.sleep(60)",
            "more than 256 MB of memory",
        ),
        (
            "import os, tempfile, time\nfor _ in range(100):\n"
            "    made, _ = tempfile.mkstemp(); os.posix_fallocate(made, 0, 10 << 20)\n"
            "time.sleep(60)",
            "No space left|in its /tmp",
        ),
        ("for n in '12': open('/dev/shm/' + n, 'wb').write(b'x' * (150 << 20))",
         "Permission denied|No space left|MemoryError"),
        ("import os\nmade = os.open('out/large', os.O_CREAT | 2)\nos.posix_fallocate(made, 0, 300 << 20)",
         "File too large"),
    ],
    ids=["one", "mapped", "many", "shared", "tmp", "shm", "file"],
)  # fmt: skip
def test_memory_is_bounded(stage: Stage, code: str, says: str) -> None:
    with pytest.raises((Stopped, ToolRaised), match=says):
        stage.run(code)
    (stage.directory / "out" / "large").unlink(missing_ok=True)


def test_a_fork_bomb_ends(stage: Stage) -> None:
    mark = f"61.{os.getpid()}"
    bomb = (
        "import os, subprocess, time\nwhile True:\n    try:\n"
        f"        subprocess.Popen(['sleep', '{mark}'])\n"
        "    except OSError: time.sleep(0.01)"
    )
    # Where the kernel refuses it more, it may try for ever, and its time ends it.
    with pytest.raises((Stopped, TimeoutError), match=r"more than 8 processes|CPU|in time"):
        stage.run(bomb, timeout_s=3.0)
    wait_for("the end of the bomb", lambda: not marked(mark))
    with pytest.raises((Stopped, TimeoutError, ToolRaised)):
        stage.run("import os, time\nfor _ in range(9):\n    os.fork()\ntime.sleep(60)", timeout_s=3.0)


def test_the_processor_is_bounded(stage: Stage) -> None:
    with pytest.raises(Stopped, match="more than 1 s of CPU"):
        stage.run(ENDLESS)


def test_the_processor_is_bounded_for_all_processes_together(stage: Stage) -> None:
    with pytest.raises(Stopped, match="more than 1 s of CPU"):
        stage.run(f"import os\nfor _ in range(2):\n    os.fork()\n{ENDLESS}")


@pytest.mark.parametrize(
    "code",
    [
        ENDLESS,
        ASLEEP,
        "import ctypes\nfor n in range(1, 32):\n    ctypes.CDLL(None).signal(n, 1)\n" + ASLEEP,
        "import os\nos.closerange(0, 256)\n" + ASLEEP,
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import os\nos.fork()\n" + ASLEEP,
    ],
    ids=["busy", "asleep", "deaf", "closed", "stopped", "two"],
)
def test_a_call_ends_in_its_time(stage: Stage, code: str) -> None:
    make_ready(stage)
    with Awake() as awake, pytest.raises((TimeoutError, Stopped)):
        stage.run(code, timeout_s=1.0)
    assert awake.seconds < 1.0 + SLACK_S


def test_many_calls_end_in_their_time(stage: Stage) -> None:
    def call(_: int) -> None:
        # ToolError: on a busy machine some are not even ready by then.
        with pytest.raises((TimeoutError, Stopped, ToolError)):
            stage.run(ASLEEP, timeout_s=1.5)

    with Awake() as awake, ThreadPoolExecutor(16) as threads:
        list(threads.map(call, range(16)))
    assert awake.seconds < 1.5 + SLACK_S


def test_a_deep_heap_of_directories_holds_nothing_up(
    mechanism: Mechanism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = write_module(tmp_path / "project", HOSTILE)
    with sandbox_of(directory, mechanism) as stage:
        stage.run(
            "import os, tempfile\nos.chdir(tempfile.gettempdir())\n"
            "for _ in range(2000):\n    os.mkdir('d'); os.chdir('d')"
        )
    wait_for("the end of the directories", lambda: not left_behind())


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("while True: print('x' * 65536)", "printed more than"),
        ("import os\nwhile True: os.write(2, b'x' * 65536)", "printed more than"),
        ("found = 'x' * (20 << 20)", "returned more than"),
        ("import os\nwhile True: os.write(4, b'x' * 65536)", "returned more than"),
    ],
    ids=["printed", "errors", "returned", "answered"],
)
def test_output_is_bounded(stage: Stage, code: str, says: str) -> None:
    with pytest.raises(Stopped, match=says):
        stage.run(code)


@pytest.mark.parametrize(
    ("written", "expected", "says"),
    [
        ('{"done": {"output": 5}}', InvalidOutput, "text"),
        ('{"done": {"output": NaN}}', Stopped, "cannot be read"),
        ('{"done": {"output": "\\\\ud800"}}', InvalidOutput, "surrogate|text"),
        ('{"done": ' + "[" * 5_000, Stopped, "cannot be read"),
        ('{"done": {"output": ' + "9" * 5_000 + "}}", Stopped, "cannot be read"),
        ('{"done": []}', Stopped, "cannot be read"),
        ('{"ready": {}}', Stopped, "cannot be read"),
        ("[]", Stopped, "cannot be read"),
        ("nonsense", Stopped, "cannot be read"),
        ('{"done": {}}', ToolRaised, "error"),
        ('{"done": {"failed": [1], "kind": {"a": 1}}}', ToolRaised, "a"),
        ('{"done": {"failed": "tool", "message": "\\\\ud800", "code": "\\\\udfff"}}', ToolError, r"\?"),
        ('{"done": {"failed": "raised", "message": "\\\\ud800"}}', ToolRaised, r"\?"),
    ],
)
def test_a_forged_answer_is_believed_no_more_than_the_tool(
    calm: Stage, written: str, expected: type[Exception], says: str
) -> None:
    with pytest.raises(expected, match=says) as told:
        calm.run(f"import os, time\nos.write(4, b'''{written}\\n''')\ntime.sleep(60)")
    str(told.value).encode()
    if isinstance(told.value, ToolError):
        told.value.code.encode()


def test_a_number_without_end_is_no_output(calm: Stage) -> None:
    with pytest.raises((Stopped, InvalidOutput)):
        calm.call(
            "loose",
            {"code": 'import os, time\nos.write(4, b\'{"done": {"output": 1e999}}\\n\'); time.sleep(9)'},
        )
    with pytest.raises((Stopped, InvalidOutput, ToolRaised)):
        calm.call("loose", {"code": "found = '\\ud800'"})
    with pytest.raises((Stopped, InvalidOutput, ToolRaised)):
        calm.call("loose", {"code": "found = []\nfor _ in range(3000): found = [found]"})


def wait_for_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has closed everything is given the time to be gone; all else is seen as soon as ever."""
    monkeypatch.setattr("handrail.sandbox.cell.WATCH_EVERY_S", 5.0)


def test_two_answers_are_one(calm: Stage) -> None:
    code = 'import os\nfor n in (1, 2): os.write(4, b\'{"done": {"output": "%d"}}\\n\' % n)\nfound = 3'
    assert calm.run(code) == "1"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os._exit(77)", "exit status 77"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.kill(0, signal.SIGKILL)", "SIGKILL|exit status 0"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise StopIteration", "StopIteration"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E", "."),
        ("raise ToolError('x' * 100_000, code='y' * 100_000)", "x"),
        ("raise RuntimeError('\\ud800')", "."),
    ],
)
def test_however_it_ends_the_caller_is_told(
    calm: Stage, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_ends(monkeypatch)
    with pytest.raises((Stopped, ToolRaised, ToolError), match=says) as told:
        calm.run(code)
    assert len(str(told.value).encode()) < 20_000


def test_it_can_end_neither_its_parent_nor_its_group(stage: Stage) -> None:
    code = (
        "import os, signal\nfor target in (os.getppid(), 1):\n    try: os.kill(target, signal.SIGKILL)\n"
        "    except OSError: pass\nfound = 'alive'"
    )
    assert stage.run(code) == "alive"


def test_what_it_prints_is_bounded_and_is_no_answer(calm: Stage) -> None:
    assert calm.run('print(\'{"done": {"output": "forged"}}\'); found = \'true\'') == "true"


def write_module(directory: Path, text: str) -> Path:
    write_project(directory, text)
    return directory


@pytest.fixture(scope="module")
def other(mechanism: Mechanism, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A project whose module is another one for every test."""
    directory = write_module(tmp_path_factory.mktemp("other") / "project", HOSTILE)
    with sandbox_of(directory, mechanism) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("import os\nos._exit(3)", "exit status 3"),
        ("print('x' * 20_000_000)", "printed more than"),
        ("kept = bytearray(10 << 30)", "MemoryError"),
        ('import os\nos.write(4, b\'{"ready": {"tools": 5, "problems": []}}\\n\')', "cannot be read"),
        ('import os\nos.write(4, b\'{"ready": {"tools": [5], "problems": []}}\\n\')', "cannot be read"),
        ('import os\nos.write(4, b\'{"ready": {"problems": []}}\\n\')', "cannot be read"),
        ('import os\nos.write(4, b\'{"ready": {"tools": [], "problems": 5}}\\n\')', "cannot be read"),
        ('import os\nos.write(4, b\'{"ready": {"tools": [], "problems": ["\\\\ud800"]}}\\n\')', r"\?"),
        ("x = 1", "has no tools"),
    ],
)
def test_a_module_that_cannot_be_read_is_told(
    other: Stage, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_ends(monkeypatch)
    (other.directory / "hostile.py").write_text(text)
    tools, problems = other.sandbox.describe()
    assert tools == []
    assert re.search(says, "\n".join(problems))
    "\n".join(problems).encode()


@pytest.mark.parametrize(
    "document", [{"type": 5}, {"$ref": "#/nowhere"}, {"$ref": "http://192.0.2.1/x"}, {"pattern": "("}, 7]
)
def test_a_forged_contract_is_no_contract(other: Stage, document: object) -> None:
    parts = {"name": "run", "effect": "read", "permission": "read", "idempotency": "natural"}
    contract = {**parts, "input_schema": {}, "output_schema": document}
    told = {"ready": {"tools": [{"contract": contract, "parameters": []}], "problems": []}}
    line = json.dumps(told) + "\n"
    (other.directory / "hostile.py").write_text(f"import os\nos.write(4, {line!r}.encode())")
    tools, problems = other.sandbox.describe()
    assert tools == []
    assert "cannot be read" in problems[0]


def test_a_module_that_hangs_is_told(other: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (other.directory / "hostile.py").write_text(ASLEEP)
    monkeypatch.setattr("handrail.sandbox.toolbox.START_TIMEOUT_S", 0.5)
    assert "did not answer in time" in str(other.sandbox.describe())


def test_nothing_of_the_project_is_imported_before_it_is_shut_in(
    mechanism: Mechanism, tmp_path: Path
) -> None:
    directory = write_module(tmp_path / "project", HOSTILE)
    outside = tmp_path / "escaped"
    for name in ("platform", "struct", "ctypes", "select"):
        (directory / f"{name}.py").write_text(f"open({str(outside)!r}, 'w')")
    with sandbox_of(directory, mechanism) as stage:
        assert stage.run("found = 1") == "1"
    assert not outside.exists()


def test_many_tools_are_read_at_once_by_many(mechanism: Mechanism, tmp_path: Path) -> None:
    lines = ["from handrail.tool import tool"]
    lines += [f"@tool(effect='read')\ndef t{n}(a: int) -> int:\n    return a" for n in range(500)]
    directory = write_module(tmp_path / "project", "\n".join(lines))
    with sandbox_of(directory, mechanism) as stage, ThreadPoolExecutor(2) as threads:
        told = list(threads.map(lambda _: stage.sandbox.describe(), range(2)))
    assert [(len(tools), problems) for tools, problems in told] == [(500, [])] * 2


def test_calls_beside_each_other_do_not_meet(calm: Stage) -> None:
    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(lambda n: calm.run(f"found = {n}"), range(8)))
    assert said == [str(n) for n in range(8)]


def test_a_spare_that_was_killed_or_is_too_old_is_not_used(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.sandbox.warm()
    spare = stage.sandbox._spare
    assert spare is not None
    spare._process.kill()
    spare._process.wait()
    assert stage.run("found = 1") == "1"
    monkeypatch.setattr("handrail.sandbox.toolbox.MAX_SPARE_AGE_S", 0)
    old = stage.sandbox._spare
    assert old is not None
    assert stage.run("found = 2") == "2"
    assert old._process.poll() is not None


def test_a_sandbox_that_is_closed_during_a_call_leaves_nothing(
    mechanism: Mechanism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = write_module(tmp_path / "project", HOSTILE)
    mark = f"62.{os.getpid()}"
    with sandbox_of(directory, mechanism) as stage, ThreadPoolExecutor(1) as threads:
        make_ready(stage)
        call = threads.submit(stage.run, f"import subprocess; subprocess.run(['sleep', '{mark}'])", 2.0)
        wait_for("the call", lambda: marked(mark))
        stage.sandbox.close()
        with pytest.raises(TimeoutError):
            call.result()
        stage.sandbox.warm()
        assert stage.sandbox._spare is None
    wait_for("the end of everything", lambda: not marked(mark) and not left_behind())


WORKER = """
import sys
from pathlib import Path
from tests.integration.sandbox_stage import mechanisms, sandbox_of
mechanism = next(one for one in mechanisms() if one.name == sys.argv[2])
with sandbox_of(Path(sys.argv[1]), mechanism) as stage:
    # One that is being made ready knows of its directory a moment after it is there.
    stage.sandbox.warm = lambda: None
    stage.run(f"import subprocess; subprocess.run(['sleep', '{sys.argv[3]}'])", 60)
"""


def test_a_worker_that_is_killed_takes_its_tools_along(mechanism: Mechanism, tmp_path: Path) -> None:
    directory = write_module(tmp_path / "project", HOSTILE)
    mark = f"63.{os.getpid()}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", WORKER, str(directory), mechanism.name, mark]
    worker = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        # Not the mark alone: what the worker forks has its arguments until it is something else.
        wait_for("the call", lambda: running(["sleep", mark]), 20)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        wait_for("the end of what the tool started", lambda: not marked(mark))
        wait_for("the end of its files", lambda: not list(tmp_path.glob("handrail-*")))
    finally:
        worker.kill()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def test_what_cannot_be_shut_in_is_not_called(mechanism: Mechanism, tmp_path: Path) -> None:
    directory = write_module(tmp_path / "project", HOSTILE)
    with sandbox_of(directory, mechanism) as stage:
        stage.sandbox.close()
        (directory / "out").rmdir()
        with pytest.raises(NotCalled, match="there is no 'out'"):
            stage.run("found = 1")
