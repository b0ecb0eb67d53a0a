"""kill -9 in the middle of runs with effects: nothing is typed, the run ends, each effect is there once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import (
    HANDRAIL,
    ROOT,
    Up,
    copy_sample,
    environment,
    handrail,
    query,
    start,
    status_name,
    wait_for,
)

MAILS = 8
HANG_S = 0.25
PLAN = {
    "steps": [
        {"id": "order", "tool": "get_order", "with": {"order_id": 1001}},
        {
            "id": "mails",
            "tool": "send_email",
            "each": "$goal.subjects",
            "after": ["order"],
            "with": {"to": "someone@example.com", "subject": "$each", "body": "hello"},
        },
        {
            "id": "ticket",
            "after": ["mails"],
            "with": {"total": "$order.total.minor"},
            "choose": [
                {"when": "input.total > 1000000", "tool": "get_order", "with": {"order_id": 1002}},
                {"tool": "get_order", "with": {"order_id": 1003}},
            ],
        },
    ]
}


@pytest.fixture(scope="module", params=["inline", "ray"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = start(copy_sample(tmp_path_factory.mktemp("kill") / "backoffice"), request.param)
    up.ready["host"] = request.param
    yield up
    up.stop()


def begin(up: Up, name: str) -> tuple[str, list[str]]:
    """Submit a run with effects, and wait until it is in the middle of them."""
    subjects = [f"{name} {i}" for i in range(MAILS)]
    query(up.project, "DELETE FROM faults")
    query(up.project, "REPLACE INTO faults VALUES ('send_email', 'hang_after', ?, ?)", MAILS, HANG_S)
    with up.client() as client:
        run = client.submit("mail them", plan=PLAN, context={"subjects": subjects}).run
    wait_for("the first effects", lambda: sent(up, name), 30)
    return run, subjects


def sent(up: Up, name: str) -> list[Any]:
    return query(up.project, "SELECT subject, key FROM outbox WHERE subject LIKE ?", f"{name} %")


def check(up: Up, run: str, name: str, subjects: list[str]) -> None:
    with up.client() as client:
        ended = client.wait(run, timeout_s=90)
    assert status_name(ended.status) == "done", ended.failure
    assert sorted(subject for subject, _ in sent(up, name)) == sorted(subjects)
    ledger = query(
        up.project,
        "SELECT key, count(*) FROM ledger WHERE tool = 'send_email' GROUP BY key HAVING count(*) > 1",
    )
    assert ledger == []


def ray_processes(up: Up, what: str) -> list[int]:
    """Processes of this stack's Ray: its actors ("ray::Mind"), or a part of its head."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if what in command and str(up.project) in environ:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("name", ["broker", "gateway", "decider", "worker:backoffice:0", "minds"])
def test_a_killed_process(victim: Up, name: str) -> None:
    short = name.split(":")[0]
    if name == "minds":
        name = f"minds:{victim.ready['host']}"
    run, subjects = begin(victim, short)
    before = victim.children()[name]
    os.kill(before, signal.SIGKILL)
    check(victim, run, short, subjects)
    wait_for(f"{name} again", lambda: victim.children().get(name, before) != before, 20)


@pytest.mark.parametrize("victim", ["ray"], indirect=True)
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_killed_actor(victim: Up, slot: int) -> None:
    wait_for("every actor", lambda: len(ray_processes(victim, "ray::Mind")) == 3, 30)
    pids = sorted(ray_processes(victim, "ray::Mind"))
    run, subjects = begin(victim, f"actor{slot}")
    os.kill(pids[slot], signal.SIGKILL)
    check(victim, run, f"actor{slot}", subjects)
    wait_for(
        "another in its place", lambda: len(set(ray_processes(victim, "ray::Mind")) - {pids[slot]}) == 3, 30
    )


@pytest.mark.parametrize("victim", ["ray"], indirect=True)
def test_a_killed_ray_head(victim: Up) -> None:
    run, subjects = begin(victim, "head")
    pids = ray_processes(victim, "gcs_server")
    assert pids
    os.kill(pids[0], signal.SIGKILL)
    check(victim, run, "head", subjects)
    wait_for("a new head", lambda: set(ray_processes(victim, "gcs_server")) - set(pids), 60)


def test_a_killed_supervisor_is_followed_by_another_up(tmp_path: Path) -> None:
    up = start(copy_sample(tmp_path / "backoffice"), "inline")
    try:
        run, subjects = begin(up, "supervisor")
        before = set(up.children().values())
        up.process.kill()
        up.process.wait()
    except BaseException:
        up.kill()
        raise
    again = start(up.project, "inline")
    try:
        assert before.isdisjoint(again.children().values())
        check(again, run, "supervisor", subjects)
    finally:
        again.stop()


def test_a_second_up_and_a_run_join_the_first(victim: Up) -> None:
    second = subprocess.run(
        [str(HANDRAIL), "up", "--host", "inline", "--project", str(victim.project), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout.splitlines()[0])["gateway"] == victim.address
    query(victim.project, "DELETE FROM faults")
    joined = handrail("run", "refund order 1013", "--project", str(victim.project), "--json")
    assert joined.returncode == 0, joined.stdout + joined.stderr
    with victim.client() as client:
        assert any(run.goal == "refund order 1013" for run in client.list())


def test_two_up_at_once_have_one_owner(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    commands = [
        subprocess.Popen(
            [str(HANDRAIL), "up", "--host", "inline", "--project", str(project), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    lines = [json.loads(command.stdout.readline()) for command in commands if command.stdout]
    assert lines[0]["gateway"] == lines[1]["gateway"]
    wait_for("one to end", lambda: sum(c.poll() is not None for c in commands) == 1, 30)
    owner = next(c for c in commands if c.poll() is None)
    owner.send_signal(signal.SIGINT)
    assert owner.wait(40) == 0
    for command in commands:
        command.communicate()
