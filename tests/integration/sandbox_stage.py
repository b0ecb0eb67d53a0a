"""A project with a toolbox that is shut in, and in it a tool that does whatever a test wants it to."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handrail.calling import ShutTool
from handrail.sandbox import confine
from handrail.sandbox.mechanism import Mechanism, found
from handrail.sandbox.profile import Profile
from handrail.sandbox.toolbox import Sandbox
from handrail.settings import MaySettings

HOSTILE = '''
import json
from typing import Any

from handrail.tool import ToolError, tool


@tool(effect="read")
def run(code: str) -> str:
    """Run any code, and return what it leaves in `found`."""
    names: dict[str, Any] = {"ToolError": ToolError}
    exec(code, names)
    return str(names.get("found", "done"))


@tool(effect="read")
def each(codes: dict[str, str]) -> dict[str, str]:
    """Run each code, and return what it leaves in `found`, or what it raised."""
    said = {}
    for name, code in codes.items():
        names: dict[str, Any] = {}
        try:
            exec(code, names)
            said[name] = "ok: " + str(names.get("found", ""))
        except BaseException as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


@tool(effect="read")
async def loose(code: str) -> Any:
    """Run any code, and return whatever it leaves in `found`."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names["found"]
'''
TIMEOUT_S = 20.0
POLL_S = 0.01
CANARY = "canary-7f3a"


def mechanisms() -> list[Mechanism]:
    """Everything that tools can be shut in by on this machine; the tests' ids say which it was."""
    have = [found()] if found().name == "bubblewrap" else []
    if confine.landlock_abi() >= confine.MIN_LANDLOCK_ABI and confine.can_filter():
        have.append(Mechanism("landlock", f"version {confine.landlock_abi()}", ()))
    return have


@dataclass(frozen=True)
class Stage:
    """A project directory and its sandbox."""

    directory: Path
    sandbox: Sandbox

    def run(self, code: str, timeout_s: float = TIMEOUT_S) -> str:
        return str(self.call("run", {"code": code}, timeout_s))

    def each(self, codes: Mapping[str, str]) -> dict[str, str]:
        said: dict[str, str] = self.call("each", {"codes": dict(codes)})
        return said

    def call(self, name: str, arguments: dict[str, Any], timeout_s: float = TIMEOUT_S) -> Any:
        return self.sandbox.call(name, arguments, "k", timeout_s)

    def tools(self) -> dict[str, ShutTool]:
        told, problems = self.sandbox.describe()
        assert problems == []
        return {tool.contract.name: tool for tool in told}


def write_project(directory: Path, module: str = HOSTILE) -> Path:
    """Write a project with everything in it that its tools are not to see."""
    directory.mkdir(parents=True)
    (directory / "handrail.toml").write_text(
        f'[toolboxes.hostile]\nmodules = ["hostile"]\n\n[toolboxes.other.env]\nKEY = "{CANARY}"\n'
    )
    (directory / "hostile.py").write_text(module)
    (directory / "note.txt").write_text("a note")
    (directory / ".env").write_text(CANARY)
    (directory / "tls.key").write_text(CANARY)
    data = directory / ".handrail"
    for name in ("auth.json", "token", "permits.key", "credentials.json", "broker/store.blk"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(CANARY)
    (directory / "to_data").symlink_to(".handrail")
    (directory / "to_env").symlink_to(".env")
    (directory / "to_home").symlink_to(Path.home())
    (directory / "to_key").symlink_to(directory / "tls.key")
    (directory / "out").mkdir()
    return directory


@contextmanager
def sandbox_of(directory: Path, mechanism: Mechanism, **may: Any) -> Iterator[Stage]:
    """A sandbox over a project, closed at the end, with nothing of it left."""
    settings = MaySettings.model_validate({"write": ["out"], "memory_mb": 512, **may})
    profile = Profile(
        toolbox="hostile",
        may=settings,
        directory=directory,
        modules=("hostile",),
        listed=("hostile",),
        hidden=(directory / ".handrail", directory / "handrail.toml", directory / "tls.key"),
    )
    stage = Stage(directory, Sandbox(profile, replace(mechanism)))
    try:
        stage.tools()
        yield stage
    finally:
        stage.sandbox.close()


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait until a condition is true; a pause of this process costs one look, and not the rest of them."""
    for _ in range(int(timeout_s / POLL_S)):
        if condition():
            return
        time.sleep(POLL_S)
    raise AssertionError(f"{what} did not come true within {timeout_s:g} s")


def marked(mark: str) -> list[int]:
    """The processes on this machine that have a mark in their arguments."""
    found_ = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found_.append(int(entry.name))
    return found_


def running(command: list[str]) -> bool:
    """Whether a process has this very command line."""
    wanted = "".join(f"{part}\0" for part in command).encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes() == wanted:
                    return True
    return False


def left_behind() -> set[str]:
    """The directories of sandboxes in the temporary directory."""
    return {entry.name for entry in Path(tempfile.gettempdir()).glob("handrail-*")}
