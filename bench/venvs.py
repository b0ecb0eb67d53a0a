"""Environments of their own for the peers and for the profiler: made on demand, kept, pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE / ".venvs"
PEERS = HERE / "peers"
INSTALL_TIMEOUT_S = 300
STAMP = ".installed"


class Missing(Exception):
    """Something that a peer needs is not on this machine and cannot be had; the text says what."""


def python(name: str, pins: Path | None = None, *options: str) -> Path:
    """Return the interpreter of a venv that has what `peers/NAME.txt`, or another file, pins."""
    wanted = pins or PEERS / f"{name}.txt"
    venv = PLACE / name
    interpreter = venv / "bin" / "python"
    if not _fresh(venv, wanted):
        uv = shutil.which("uv")
        if uv:
            _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)], name)
            _run(
                [uv, "pip", "install", "--quiet", "--python", str(interpreter), *options, "-r", str(wanted)],
                name,
            )
        else:
            _run([sys.executable, "-m", "venv", "--clear", str(venv)], name)
            _run([str(interpreter), "-m", "pip", "install", "--quiet", *options, "-r", str(wanted)], name)
        shutil.copy(wanted, venv / STAMP)
    return interpreter


def node_modules(name: str) -> Path:
    """Return a directory whose `node_modules` has what `peers/NAME.txt` pins."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program}")
    wanted = PEERS / f"{name}.txt"
    place = PLACE / name
    if not _fresh(place, wanted):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "package.json").write_text('{"name": "bench", "private": true, "type": "module"}\n')
        options = ["--prefix", str(place), "--no-fund", "--no-audit", "--ignore-scripts", "--silent"]
        _run(["npm", "install", *options, *wanted.read_text().split()], name)
        shutil.copy(wanted, place / STAMP)
    return place


def _fresh(place: Path, wanted: Path) -> bool:
    stamp = place / STAMP
    return stamp.is_file() and stamp.read_text() == wanted.read_text()


def _run(command: list[str], name: str) -> None:
    environment = {**os.environ, "UV_NATIVE_TLS": "1", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} could not be installed within {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        raise Missing(f"{name} could not be installed: {(done.stderr or done.stdout).strip()[-300:]}")
