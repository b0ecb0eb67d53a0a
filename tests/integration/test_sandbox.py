"""What a hostile tool cannot touch, by everything that this machine has; the ids say which that is."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handrail.sandbox.mechanism import Mechanism
from handrail.sandbox.places import import_path, interpreter
from handrail.sandbox.toolbox import _source_of
from tests.integration.sandbox_stage import (
    CANARY,
    Stage,
    marked,
    mechanisms,
    sandbox_of,
    wait_for,
    write_project,
)

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
REFUSED = ("PermissionError", "FileNotFoundError", "ProcessLookupError")


@pytest.fixture(scope="module", params=mechanisms(), ids=lambda one: one.name)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    found: Mechanism = request.param
    return found


@pytest.fixture(scope="module")
def stage(mechanism: Mechanism, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    os.environ["HANDRAIL_CANARY"] = CANARY
    directory = write_project(tmp_path_factory.mktemp("sandbox") / "project")
    with sandbox_of(directory, mechanism) as made:
        yield made
    del os.environ["HANDRAIL_CANARY"]


def test_this_machine_can_shut_tools_in() -> None:
    assert mechanisms(), "neither bubblewrap nor Landlock: nothing of this file would be tested"


def test_what_is_listed_is_there(stage: Stage) -> None:
    """Or else what follows would say nothing."""
    said = stage.each(
        {
            "read": "found = open('note.txt').read()",
            "write": "open('out/written', 'w').write('it is there')",
            "scratch": "import tempfile; tempfile.TemporaryFile().write(b'x')",
            "child": "import subprocess; found = subprocess.check_output(['echo', 'a child'], text=True)",
            "thread": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
            "copy": "import shutil; shutil.copy2('note.txt', 'out/copied')",
            "random": "import os; os.urandom(4); open('/dev/null', 'w').write('x')",
            "zone": "import ssl; ssl.create_default_context()",
        }
    )
    assert {name: text for name, text in said.items() if not text.startswith("ok")} == {}
    assert said["read"] == "ok: a note"
    assert said["child"] == "ok: a child\n"
    assert (stage.directory / "out" / "written").read_text() == "it is there"


def test_files_that_are_not_listed_cannot_be_read(stage: Stage) -> None:
    project = stage.directory
    data = ("auth.json", "token", "permits.key", "credentials.json", "broker/store.blk")
    paths = [*(f".handrail/{name}" for name in data), ".env", "tls.key", "handrail.toml", "to_env", "to_key"]
    paths += ["to_data/auth.json", "to_home/.bashrc", "/etc/shadow", "/etc/passwd", "/etc/ssl/private"]
    said = stage.each({path: f"found = open({path!r}).read()" for path in paths})
    assert all(text.startswith(REFUSED) for text in said.values()), said
    # Python may lie in somebody's home: then the way to it is there, and nothing beside.
    way = {part for path in (*import_path(), str(interpreter())) for part in Path(path).parts}
    look = "import os; found = sorted(set(os.listdir({0!r})) - set({1!r}))"
    paths = [str(Path.home()), "/root", "/home", "/sys", "/var", "/mnt", "to_home"]
    said = stage.each({path: look.format(path, sorted(way)) for path in paths})
    assert all(text.startswith((*REFUSED, "ok: []")) for text in said.values()), said
    outside = project.parent / "outside"
    outside.write_text(CANARY)
    said = stage.each({path: f"found = open({path!r}).read()" for path in (str(outside), "../outside")})
    assert all(text.startswith(REFUSED) for text in said.values()), said


def test_nothing_is_written_but_where_it_may_be(stage: Stage) -> None:
    project, before = stage.directory, {}
    for path in (*stage.directory.iterdir(), stage.directory / ".handrail" / "auth.json"):
        before[path] = (path.lstat().st_mode, path.lstat().st_mtime_ns)
    del before[project / "out"]
    codes = {
        "new": "open('new.py', 'w').write('x')",
        "append": "open('hostile.py', 'a').write('x')",
        "truncate": "import os; os.truncate('note.txt', 0)",
        "remove": "import os; os.remove('note.txt')",
        "rename": "import os; os.rename('out', 'away')",
        "replace": "import os; open('out/x', 'w').close(); os.replace('out/x', 'note.txt')",
        "link": "import os; os.link('note.txt', 'out/same'); open('out/same', 'a').write('x')",
        "mode": "import os; os.chmod('note.txt', 0o777)",
        "mode of a key": "import os; os.chmod('.handrail/auth.json', 0o777)",
        "mode of what is open": "import os; os.fchmod(os.open('note.txt', os.O_RDONLY), 0o777)",
        "time": "import os; os.utime('note.txt', (1, 1))",
        "attribute": "import os; os.setxattr('note.txt', 'user.x', b'1')",
        "owner": "import os; os.chown('note.txt', 65534, 65534)",
        "system": "open('/usr/x', 'w')",
        "root": "open('/x', 'w')",
        "devices": "open('/dev/x', 'w')",
        "modules": "import handrail; open(handrail.__file__, 'a')",
        "kernel": "open('/proc/sys/vm/stat_interval', 'w')",
        "trigger": "open('/proc/sysrq-trigger', 'w')",
    }
    said = stage.each(codes)
    allowed = {
        "mode",
        "mode of a key",
        "mode of what is open",
        "time",
        "new",
    }  # without an error, and without an effect
    wrong = {name: text for name, text in said.items() if text.startswith("ok") and name not in allowed}
    assert wrong == {}
    after = {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in before}
    assert after == before
    assert {path for path in before if path.parent == project} == {*project.iterdir()} - {project / "out"}
    assert (project / "note.txt").read_text() == "a note"


def test_the_environment_is_its_own(stage: Stage) -> None:
    said = stage.each(
        {
            "own": "import os; found = dict(os.environ)",
            "worker": f"found = open('/proc/{os.getpid()}/environ', 'rb').read()",
            "parent": "import os; found = open(f'/proc/{os.getppid()}/environ', 'rb').read()",
            "all": "import glob; found = [open(one, 'rb').read() for one in glob.glob('/proc/*/environ')]",
            "arguments": "import glob; found = [open(one).read() for one in glob.glob('/proc/*/cmdline')]",
        }
    )
    assert CANARY not in str(said)
    assert said["worker"].startswith(REFUSED)
    assert sys.executable not in said["arguments"]


def test_other_processes_are_out_of_reach(stage: Stage) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        pid = bystander.pid
        codes = {
            "signal": f"import os, signal; os.kill({pid}, signal.SIGUSR1)",
            "thread": f"{LIBC}assert libc.syscall(200, {pid}, 10) == 0, OSError",
            "queue": f"{LIBC}assert libc.sigqueue({pid}, 10, 0) == 0, OSError",
            "pidfd": f"import os, signal; signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGUSR1)",
            "trace": f"{LIBC}assert libc.ptrace(16, {pid}, 0, 0) == 0, OSError",
            "limits": f"import resource; resource.prlimit({pid}, resource.RLIMIT_NOFILE, (1, 1))",
            "processor": f"import os; os.sched_setaffinity({pid}, [0])",
            "memory": f"found = open('/proc/{pid}/mem', 'rb+')",
            "root": f"import os; found = os.listdir('/proc/{pid}/root')",
            "worker": f"import os; os.kill({os.getpid()}, 0)",
        }
        said = stage.each(codes)
        assert {name: text for name, text in said.items() if text.startswith("ok")} == {}
        os.setpriority(os.PRIO_PROCESS, pid, 0)
        stage.each({"priority": f"import os; os.setpriority(os.PRIO_PROCESS, {pid}, 5)"})
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_kernels_own_machinery_is_refused(stage: Stage) -> None:
    refused = (
        "assert {} == -1, 'it was let through'\nassert ctypes.get_errno() in (1, 38), ctypes.get_errno()"
    )
    calls = {
        "keyctl": "libc.syscall(250, 0, -3, 0)",
        "add_key": "libc.syscall(248, b'user', b'a', b'b', 1, -3)",
        "io_uring": "libc.syscall(425, 8, ctypes.create_string_buffer(256))",
        "bpf": "libc.syscall(321, 0, 0, 0)",
        "perf": "libc.syscall(298, 0, 0, -1, -1, 0)",
        "userfaultfd": "libc.syscall(323, 0)",
        "memfd": "libc.memfd_create(b'x', 0)",
        "shared memory": "libc.shmget(0, 4096, 0o1600)",
        "message queue": "libc.msgget(0, 0o1600)",
        "namespaces": "libc.unshare(0x10000000)",
        "clone": "libc.syscall(56, 0x10000011, 0, 0, 0, 0)",
        "clone3": "libc.syscall(435, ctypes.create_string_buffer(88), 88)",
        "setns": "libc.setns(0, 0)",
        "mount": "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
        "chroot": "libc.chroot(b'/usr')",
    }
    said = stage.each({name: LIBC + refused.format(call) for name, call in calls.items()})
    assert {name: text for name, text in said.items() if not text.startswith("ok")} == {}
    said = stage.each(
        {
            "limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
            "terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
            "user": "import os; os.setuid(65533)",
        }
    )
    assert {name: text for name, text in said.items() if text.startswith("ok")} == {}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="there is no second table of system calls")
def test_another_table_of_system_calls_ends_the_process(stage: Stage) -> None:
    code = (
        "import os, signal\npid = os.fork()\nif pid == 0:\n"
        "    import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39); os._exit(0)\n"
        "found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    assert stage.run(code) == str(-signal.SIGSYS)


def test_sockets_of_the_machine_are_out_of_reach(stage: Stage, tmp_path: Path) -> None:
    abstract = "\0handrail-test"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        udp.bind(("127.0.0.1", 0))
        path = stage.directory / "out" / "host.sock"
        named.bind(str(path))
        named.listen()
        hidden.bind(abstract)
        hidden.listen()
        codes = {
            "tcp": f"import socket; socket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), 1)",
            "tcp6": f"import socket; socket.create_connection(('::1', {tcp6.getsockname()[1]}), 1)",
            "abstract": f"import socket; socket.socket(socket.AF_UNIX).connect({abstract!r})",
            "packet": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            "raw": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            "out": "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
            "metadata": "import socket; socket.create_connection(('169.254.169.254', 80), 1)",
            "name": "import socket; socket.getaddrinfo('example.com', 80)",
        }
        said = stage.each(codes)
        assert {name: text for name, text in said.items() if text.startswith("ok")} == {}
        stage.each(
            {"udp": f"import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {udp.getsockname()[1]}))"}
        )
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(1)
        path.unlink()


def test_what_a_tool_leaves_in_a_directory_leads_nowhere(stage: Stage) -> None:
    data = stage.directory / ".handrail"
    stage.run(
        "import os\n"
        f"os.symlink({str(data / 'auth.json')!r}, 'out/key')\n"
        f"os.symlink({str(data)!r}, 'out/data')\n"
        "os.symlink('../.env', 'out/env')\nos.symlink('/proc/1/root', 'out/root')"
    )
    paths = ["out/key", "out/data/token", "out/env", f"out/root{data}/token", f"/proc/self/root{data}/token"]
    said = stage.each({path: f"found = open({path!r}).read()" for path in paths})
    assert all(text.startswith(REFUSED) for text in said.values()), said
    stage.each({"write": "open('out/data/token', 'w').write('x')"})
    assert (data / "token").read_text() == CANARY


@pytest.mark.parametrize(
    "leave",
    [
        "subprocess.Popen(['setsid', 'sleep', MARK])",
        "subprocess.Popen(['nohup', 'sleep', MARK])",
        "os.fork() or (os.setsid(), os.fork() and os._exit(0), os.execvp('sleep', ['sleep', MARK]))",
    ],
    ids=["setsid", "nohup", "fork twice"],
)
def test_nothing_outlives_a_call(stage: Stage, leave: str) -> None:
    mark = f"60.{os.getpid()}{abs(hash(leave)) % 10_000}"
    wait = (
        "import time\nuntil = time.monotonic() + 5\n"
        "while time.monotonic() < until:\n"
        "    if subprocess.run(['true']).returncode == 0: break\n"
    )
    stage.run(f"import os, signal, subprocess\nMARK = {mark!r}\n{leave}\n{wait}")
    wait_for("the end of what was left", lambda: not marked(mark))


def test_each_call_says_of_which_code_its_process_was(mechanism: Mechanism, tmp_path: Path) -> None:
    directory = write_project(tmp_path / "project")
    file = directory / "hostile.py"
    with sandbox_of(directory, mechanism) as stage:

        def heard() -> list[str]:
            found: list[str] = []
            stage.sandbox.call("run", {"code": ""}, "k", 20.0, heard=found.append)
            return found

        first = hashlib.sha256(file.read_bytes()).hexdigest()
        assert heard() == [first]
        file.write_text(file.read_text() + "# other\n")
        other = hashlib.sha256(file.read_bytes()).hexdigest()
        # The process that was ready has imported what there was then.
        assert heard() in ([first], [other])
        assert heard() == [other]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"tools": 7},
        {"tools": [7, "x", None]},
        {"tools": [{"contract": {"name": "run"}}]},
        {"tools": [{"contract": {"name": "run"}, "source_sha256": 7}]},
        {"tools": [{"contract": {"name": "run"}, "source_sha256": "A" * 64}]},
        {"tools": [{"contract": {"name": "run"}, "source_sha256": "a" * 64 + "\n"}]},
        {"tools": [{"contract": {"name": "run"}, "source_sha256": "a" * 64}] * 2},
        {"tools": [{"contract": {"name": "other"}, "source_sha256": "a" * 64}]},
    ],
    ids=str,
)
def test_what_is_no_digest_is_none(told: dict[str, Any]) -> None:
    assert _source_of("run", told) == ""


def test_libc_is_what_the_tests_take_it_for() -> None:
    """The numbers above are those of this machine, or the refusals would say nothing."""
    if os.uname().machine == "x86_64":
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(39) == os.getpid()
        made = libc.memfd_create(b"x", 0)
        assert made >= 0
        os.close(made)
