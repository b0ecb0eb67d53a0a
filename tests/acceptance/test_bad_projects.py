"""What is wrong with a project, a directory or a broker is said clearly, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import HANDRAIL, ROOT, Up, environment, handrail, start, wait_for

GOAL = "refund order 1001 and tell the customer"
Break = Callable[[Path], None]


def toml(text: str) -> Break:
    return lambda project: (project / "handrail.toml").write_text(text) and None


def append(text: str) -> Break:
    def change(project: Path) -> None:
        with (project / "handrail.toml").open("a") as file:
            file.write(text)

    return change


def raising(project: Path) -> None:
    (project / "tools.py").write_text("raise RuntimeError('no database today')\n")


def contradicting(project: Path) -> None:
    (project / "tools.py").write_text(
        "from handrail.tool import tool\n\n\n@tool(effect='write')\ndef act(x: int) -> int:\n    return x\n"
    )


def no_playbook(project: Path) -> None:
    (project / "playbooks" / "refund.yaml").write_text("name: refund\nphrases: [1, 2\n")


BROKEN: list[tuple[str, Break, int, tuple[str, ...]]] = [
    ("unknown key", append("\n[gatway]\nlisten = '127.0.0.1:0'\n"), 2, ("gatway", "gateway")),
    ("no toml", toml("this is [ not toml"), 2, ("handrail.toml",)),
    ("tools that raise", raising, 2, ("tools", "no database today")),
    ("a contract that contradicts itself", contradicting, 2, ("act", "idempotency")),
    ("a playbook that is no yaml", no_playbook, 2, ("refund.yaml",)),
    ("a broker that is not there", append("\n[broker]\nurl = 'nats://127.0.0.1:9'\n"), 5, ("127.0.0.1:9",)),
    ("not loopback", append("\n[gateway]\nlisten = '0.0.0.0:0'\n"), 5, ("0.0.0.0", "127.0.0.1")),
]


@pytest.mark.parametrize(("name", "change", "code", "said"), BROKEN, ids=[b[0] for b in BROKEN])
def test_a_broken_project(project: Path, name: str, change: Break, code: int, said: tuple[str, ...]) -> None:
    change(project)
    done = handrail("run", GOAL, "--project", str(project))
    assert done.returncode == code, done.stdout + done.stderr
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    for word in said:
        assert word in told, told


@contextmanager
def impostor() -> Iterator[int]:
    """Something that is no NATS server on a port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_foreign_server_on_the_brokers_port(project: Path) -> None:
    with impostor() as port:
        append(f"\n[broker]\nurl = 'nats://127.0.0.1:{port}'\n")(project)
        done = handrail("run", GOAL, "--project", str(project))
    assert done.returncode == 5, done.stdout + done.stderr
    assert "NATS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_written(project: Path) -> None:
    done = handrail("run", GOAL, "--project", str(project), "--data", "/proc/handrail")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "/proc/handrail" in done.stderr


def test_a_data_directory_that_is_a_file(project: Path) -> None:
    (project / "data").write_text("x")
    done = handrail("run", GOAL, "--project", str(project), "--data", str(project / "data"))
    assert done.returncode in (2, 5), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there(project: Path) -> None:
    done = handrail("run", GOAL, "--server", "127.0.0.1:9", "--json")
    assert done.returncode == 5
    assert "127.0.0.1:9" in json.loads(done.stderr.splitlines()[-1])["error"].__str__()


def test_a_plan_that_does_not_conform_is_refused_by_the_server(project: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    steps = [
        {"id": "a", "tool": "get_order", "with": {"order_id": "$b.id"}},
        {"id": "b", "tool": "get_ordr", "with": {"order_id": "$a.id", "x": 1}},
        {"id": "c", "tool": "get_order", "with": {"order_id": "seven"}},
    ]
    plan.write_text(json.dumps({"steps": steps}))
    done = handrail("run", "a plan", "--plan", str(plan), "--project", str(project))
    assert done.returncode == 2, done.stdout + done.stderr
    for word in ("cycle", "get_ordr", "get_order", "seven"):
        assert word in done.stderr, done.stderr


def test_doctor_tells_what_is_there(project: Path) -> None:
    done = handrail("doctor", "--project", str(project), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"python", "broker"} <= {line["check"] for line in found}


def test_an_initialised_project_runs_as_it_is(tmp_path: Path) -> None:
    made = handrail("init", str(tmp_path / "mine"))
    assert made.returncode == 0, made.stderr
    again = handrail("init", str(tmp_path / "mine"))
    assert again.returncode == 2
    goal = next(
        line.split('"')[1]
        for line in (made.stdout + (tmp_path / "mine" / "README.md").read_text()).splitlines()
        if "handrail run" in line and '"' in line
    )
    done = handrail("run", goal, "--project", str(tmp_path / "mine"))
    assert done.returncode == 0, done.stdout + done.stderr
    tested = subprocess.run(
        [str(HANDRAIL.with_name("pytest")), "-q", "-p", "no:cacheprovider", str(tmp_path / "mine")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout


def test_a_killed_embedded_run_leaves_nothing_and_the_next_resumes_it(project: Path) -> None:
    seed = subprocess.run(
        [
            str(HANDRAIL.with_name("python")),
            str(project / "faults.py"),
            "set",
            "send_email",
            "hang_after",
            "1",
        ],
        env=environment(BACKOFFICE_DB="backoffice.db"),
        cwd=project,
        check=True,
    )
    assert seed.returncode == 0
    first = subprocess.Popen(
        [str(HANDRAIL), "run", GOAL, "--project", str(project)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert first.stdout is not None
    line = next(line for line in first.stdout if "notify-a1: claimed" in line)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert line
    up = start(project, "inline")
    try:
        with up.client() as client:
            runs = [run.id for run in client.list()]
            assert len(runs) == 1
            ended = client.wait(runs[0], timeout_s=60)
            assert ended.status == 6, ended
    finally:
        up.stop()
    wait_for("the end of every child", lambda: not Up(up.process, project).children(), 15)


def test_packages_beside_the_project_may_be_called_as_ours(project: Path) -> None:
    for name in ("core", "handrail", "orchestrator"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(f"raise RuntimeError('{name} is not for a stack')\n")
    up = start(project, "inline", cwd=project)
    try:
        done = handrail("run", "triage ticket 503", "--project", str(project))
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        assert up.stop() == 0
