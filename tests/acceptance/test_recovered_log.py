"""A broker that is killed under a running stack, and comes back on an edited log: no effect happens after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.acceptance.conftest import (
    HANDRAIL,
    LONG,
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
from tests.acceptance.test_restore import edit
from tests.processes import states

pytestmark = LONG

GOAL = "refund order 1004 and tell the customer"
HANG_S = 15.0
END_TIMEOUT_S = 60.0


def begin(project: Path) -> subprocess.Popen[str]:
    """Begin a run that has given money back, and is long in saying so."""
    query(project, "REPLACE INTO faults VALUES ('refund_order', 'hang_after', 1, ?)", HANG_S)
    running = subprocess.Popen(
        [str(HANDRAIL), "run", GOAL, "--project", str(project), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
        start_new_session=True,
    )
    wait_for("the refund", lambda: refunds(project))
    return running


def refunds(project: Path) -> int:
    return int(query(project, "SELECT count(*) FROM refunds WHERE order_id = 1004")[0][0])


def mails(project: Path) -> int:
    return int(query(project, "SELECT count(*) FROM mail_primary")[0][0])


def run_in(project: Path) -> str:
    """Return the run whose log there is, when the notary has signed for the claim of its refund."""
    (leaves,) = wait_for("a signed event", lambda: list(project.glob(".handrail/notary/EV_*/leaves")))
    head = leaves.with_name("head.json")
    # Submitted, planned, accepted, looked up, judged: the refund was authorised and claimed after that.
    wait_for("the notary", lambda: json.loads(head.read_text())["size"] >= 9)
    (found,) = project.glob(f".handrail/broker/**/{leaves.parent.name}/msgs/*.blk")
    data = found.read_bytes()
    at = data.index(b".default.") + len(b".default.")
    return data[at : data.index(b".", at)].decode()


def swap_under(owner: Up) -> tuple[str, int]:
    """Kill the broker of a stack and edit its log, while whoever would start it again is stopped."""
    run = run_in(owner.project)
    broker = owner.children()["broker"]
    owner.process.send_signal(signal.SIGSTOP)
    wait_for("it to stand still", lambda: states(owner.process.pid) == {"T"})
    os.kill(broker, signal.SIGKILL)
    wait_for("the broker's end", lambda: states(broker) == {"Z"})
    where = edit(owner.data, run)
    owner.process.send_signal(signal.SIGCONT)
    return where


def kill_broker(up: Up) -> int:
    """Kill a broker, and return which; one that comes up may be put up once more, and none be there."""
    while True:
        broker: int = wait_for("a broker", lambda: up.children().get("broker"))
        with suppress(ProcessLookupError):
            os.kill(broker, signal.SIGKILL)
            return broker


def check_error(text: str, where: tuple[str, int]) -> None:
    error = json.loads(text.splitlines()[-1])["error"]
    stream, sequence = where
    assert f"{stream} is not what the notary has signed for" in error["what"]
    assert f"Its first wrong message is {sequence}: it was altered" in error["what"]
    assert "handrail restore" in error["what"]
    assert error["exit_code"] == 5


def test_it_ends_the_stack_and_the_runs_that_wait_for_it_and_can_be_put_back(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    up = start(project, "inline")
    joined = begin(project)
    try:
        where = swap_under(up)
        assert up.process.wait(END_TIMEOUT_S) == 5
        check_error((project / "up.stderr").read_text(), where)
        _, said = joined.communicate(timeout=END_TIMEOUT_S)
        assert joined.returncode == 5
        check_error(said, where)
        assert (refunds(project), mails(project)) == (1, 0)
        wait_for("the end of every child", lambda: not up.children())
    finally:
        joined.kill()
        up.kill()
    refused = handrail("up", "--host", "inline", "--project", str(project), "--json")
    assert refused.returncode == 5
    check_error(refused.stderr, where)

    assert handrail("restore", "--project", str(project)).returncode == 0
    up = start(project, "inline")
    try:
        with up.client() as client:
            (run,) = client.list()
            assert status_name(client.wait(run.id, timeout_s=60).status) == "done"
        assert (refunds(project), mails(project)) == (1, 1)
    finally:
        assert up.stop() == 0


def test_it_ends_a_run_with_a_stack_of_its_own(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    running = begin(project)
    try:
        where = swap_under(Up(running, project))
        _, said = running.communicate(timeout=END_TIMEOUT_S)
        assert running.returncode == 5
        check_error(said, where)
        assert (refunds(project), mails(project)) == (1, 0)
    finally:
        running.kill()


def test_a_log_that_is_whole_is_gone_on_with(tmp_path: Path) -> None:
    project = copy_sample(tmp_path / "backoffice")
    up = start(project, "inline")
    joined = begin(project)
    try:
        for _ in range(2):
            broker = kill_broker(up)
            wait_for("another broker", lambda old=broker: up.children().get("broker", old) != old)
        joined.communicate(timeout=END_TIMEOUT_S)
        assert joined.returncode == 0
        assert (refunds(project), mails(project)) == (1, 1)
        told = [
            json.loads(line)
            for line in handrail("doctor", "--project", str(project), "--json").stdout.splitlines()
        ]
        (notary,) = (finding for finding in told if finding["check"] == "notary")
        assert (notary["status"], notary["stopped"]) == ("ok", {})
        assert notary["messages"] >= 0
    finally:
        joined.kill()
        assert up.stop() == 0
