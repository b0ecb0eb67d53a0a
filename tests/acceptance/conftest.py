"""The real command line in real processes, on copies of the sample project."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from handrail.sync_client import SyncClient
from handrail.v1 import event_pb2

ROOT = Path(__file__).resolve().parents[2]
HANDRAIL = Path(sys.executable).with_name("handrail")
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0


TOKENS: dict[str, Path] = {}
"""Where the token is for each server that was put up."""


def environment(*arguments: str, **extra: str) -> dict[str, str]:
    """The environment of a command: this one's, without what would steer it, and a token for `--server`."""
    for server in (b for a, b in pairwise(arguments) if a == "--server" and b in TOKENS):
        extra = {"HANDRAIL_TOKEN_FILE": str(TOKENS[server]), **extra}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HANDRAIL_", "BACKOFFICE_"))}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "120", **extra}


def handrail(*arguments: str, timeout_s: float = 90.0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [str(HANDRAIL), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(*arguments, **extra),
        cwd=ROOT,
        check=False,
    )


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {timeout_s:g} s")


LONG = pytest.mark.timeout(400)
"""For many commands one after another, each a process: four times slower they take longer than a test may."""


def files_with(data: Path, *needles: bytes) -> list[str]:
    """Return which files below a directory have which of these; the directory may be in use."""
    while True:
        try:
            return [
                f"{path.relative_to(data)}: {needle!r}"
                for path in sorted(data.rglob("*"))
                if path.is_file() and not path.is_symlink()
                for text in [path.read_bytes()]
                for needle in needles
                if needle in text
            ]
        except FileNotFoundError:
            # Something was renamed meanwhile: look again, so that nothing slips through.
            continue


OPEN_POLICY = """
@id("everything")
@reason("these tests are about something else")
permit (principal, action, resource);
"""


SETTLE = """
title: Settle what a customer wrote
steps:
  - id: settle
    title: Do what the customer asks
    with: {mail: $goal.mail, customer: $goal.customer}
    grants:
      - tool: add_note
        with: {customer_id: $input.customer}
        open: {text: "size(value) < 60"}
      - tool: list_orders
        with: {customer_id: $input.customer}
"""
"""A plan of one step with grants, for whoever proposes in a test."""


def copy_sample(target: Path, *, gates: bool = False) -> Path:
    """A fresh copy of the sample project; without its policy, unless a test is about that."""
    ignore = shutil.ignore_patterns("*.db*", "out", ".handrail", "__pycache__")
    shutil.copytree(ROOT / "examples" / "backoffice", target, ignore=ignore)
    if not gates:
        shutil.rmtree(target / "policy")
        (target / "policy").mkdir()
        (target / "policy" / "open.cedar").write_text(OPEN_POLICY)
    seed = [sys.executable, str(target / "database.py"), "reset"]
    subprocess.run(seed, check=True, env=environment(), timeout=60, stdout=subprocess.DEVNULL)
    return target


def another_model(shelf: Path, digest: str, **changed: Any) -> str:
    """Put a model beside another one that differs in its thresholds, and so in its digest."""
    from actors.models.lam import artifact

    held = artifact.load(shelf / digest)
    thresholds = {**held.card.thresholds, "read": held.card.thresholds["read"] - 0.01}
    card = held.card.model_copy(update={"thresholds": thresholds, **changed})
    return artifact.save(shelf, card, (shelf / digest / artifact.WEIGHTS).read_bytes())


def query(project: Path, sql: str, *values: Any) -> list[Any]:
    """Look into the sample's database."""
    with sqlite3.connect(project / "backoffice.db", timeout=10) as db:
        return db.execute(sql, values).fetchall()


@dataclass
class Up:
    """A running `handrail up`."""

    process: subprocess.Popen[str]
    project: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.ready["gateway"])

    def client(self) -> SyncClient:
        return SyncClient(self.address, timeout_s=30, token_file=self.token)

    def children(self) -> dict[str, int]:
        """The pids of the processes of the stack, by name."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                except OSError:
                    continue
                if str(self.project) in " ".join(command) or str(self.data) in " ".join(command):
                    if "_child" in command:
                        found[command[command.index("_child") + 1]] = int(entry.name)
                    elif command[0].endswith("nats-server"):
                        found["broker"] = int(entry.name)
        return found

    @property
    def data(self) -> Path:
        return self.project / ".handrail"

    @property
    def token(self) -> Path:
        """Where the token of whoever has put it up is."""
        return self.data / "token"

    def stop(self) -> int:
        """Ctrl-C, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()


def start(project: Path, host: str, *, cwd: Path = ROOT, **extra: str) -> Up:
    """Start a stack, with more in its environment, and wait until it says that it is ready."""
    errors = (project / "up.stderr").open("a")
    process = subprocess.Popen(
        [str(HANDRAIL), "up", "--host", host, "--project", str(project), "--json"],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment(**extra),
        cwd=cwd,
        start_new_session=True,
    )
    errors.close()
    up = Up(process, project)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        up.kill()
        raise AssertionError(f"up did not start: {(project / 'up.stderr').read_text()[-3000:]}")
    up.ready = json.loads(line)
    TOKENS[up.address] = up.token
    return up


def standing(host: str, place: Path) -> Iterator[Up]:
    """A stack on a copy of the sample, to its end."""
    running = start(copy_sample(place / "backoffice"), host)
    yield running
    assert running.stop() == 0
    wait_for("the end of every child", lambda: not running.children(), 15)


@pytest.fixture(scope="module", params=["inline", "ray"])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack of each kind of host, for every test of a file that leaves it as it was.

    It ends with the file: idle until the last of all tests, it would cost more than a start.
    """
    yield from standing(request.param, tmp_path_factory.mktemp("up"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_sample(tmp_path / "backoffice")


def status_name(status: int) -> str:
    return event_pb2.RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()  # type: ignore[arg-type]


def run_async(work: Any) -> Any:
    return asyncio.run(work)
