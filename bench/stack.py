"""A stack of real processes to be measured: `handrail up --host inline` on a copy of the bench's project."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bench import broker
from bench.processes import tree

ROOT = Path(__file__).resolve().parents[1]
PROJECT = Path(__file__).with_name("project")
STOP_TIMEOUT_S = 40.0

Durability = Literal["always", "relaxed"]


class StackFailed(Exception):
    """The stack did not start."""


def environment(root: Path = ROOT, **extra: str) -> dict[str, str]:
    """Return the environment of a measured process: the code of `root`, and nothing that would steer it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HANDRAIL_", "BENCH_", "OTEL_"))}
    return {**kept, "NO_COLOR": "1", "PYTHONPATH": f"{root}:{ROOT}", **extra}


def copy_project(target: Path, durability: Durability) -> Path:
    """Make a project of one durability."""
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns(".handrail", "__pycache__"))
    with (target / "handrail.toml").open("a", encoding="utf-8") as settings:
        settings.write(f'\n[broker]\nsync = "{durability}"\n')
    return target


def copy_sample(source: Path, target: Path, settings: str = "") -> Path:
    """Copy a project as it comes, without what it has done; `settings` are added to its own."""
    ignore = shutil.ignore_patterns(".handrail", "__pycache__", "out", "*.db", "*.db-*")
    shutil.copytree(source, target, ignore=ignore)
    with (target / "handrail.toml").open("a", encoding="utf-8") as file:
        file.write(settings)
    return target


class Stack:
    """A running `handrail up`."""

    def __init__(self, process: subprocess.Popen[str], project: Path, ready: Mapping[str, Any]) -> None:
        self._process = process
        self.project = project
        self.data = project / ".handrail"
        self.address = str(ready["gateway"])
        self.broker_url = str(ready["broker"])
        self.token = self.data / "token"

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def processes(self) -> dict[str, int]:
        """Return the pids of the stack, by the name of what runs in them."""
        return {_name(command): pid for pid, command in tree(self.pid).items()}

    @property
    def access(self) -> broker.Access:
        """How to get at its broker."""
        credentials = json.loads((self.data / "credentials.json").read_text())
        return broker.Access(self.broker_url, str(credentials[broker.ADMIN]))

    def stop(self) -> None:
        """Drain it, and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it whatever it does; its children die with it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()


def start(project: Path, *, root: Path = ROOT, extra: Mapping[str, str] | None = None) -> Stack:
    """Start a stack and wait until it says that it is ready."""
    stderr = project / "up.stderr"
    command = [sys.executable, "-m", "handrail.cli.main", "up", "--host", "inline", "--json"]
    with stderr.open("a") as errors:
        process = subprocess.Popen(
            [*command, "--project", str(project)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(root, **(extra or {})),
            cwd=root,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.kill()
        process.wait()
        raise StackFailed(f"`handrail up` did not start: {stderr.read_text()[-2000:]}")
    return Stack(process, project, json.loads(line))


@contextmanager
def running(project: Path, *, root: Path = ROOT) -> Iterator[Stack]:
    """Run a stack for as long as the context lasts."""
    stack = start(project, root=root)
    try:
        yield stack
    finally:
        stack.stop()


def _name(command: list[str]) -> str:
    if "_child" in command:
        return command[command.index("_child") + 1]
    return "broker" if command[0].endswith("nats-server") else "supervisor"
