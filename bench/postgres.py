"""A PostgreSQL cluster of our own for the peers: in a temporary directory, on a socket only, with fsync."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_CONNECTIONS = 300
START_TIMEOUT_S = 60
USER = "postgres"


class PostgresMissing(Exception):
    """There is no PostgreSQL server to start."""


class Postgres:
    """A running cluster."""

    def __init__(self, place: Path, synchronous_commit: bool) -> None:
        self._place = place
        self._data = place / "pg"
        self._socket = place / "pgs"
        self.settings = f"fsync=on, synchronous_commit={'on' if synchronous_commit else 'off'}"
        self._options = (
            f"-k {self._socket} -c listen_addresses= -c fsync=on -c max_connections={MAX_CONNECTIONS} "
            f"-c synchronous_commit={'on' if synchronous_commit else 'off'} -c shared_buffers=256MB"
        )

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    @property
    def version(self) -> str:
        """The server's version."""
        said = subprocess.run([_binary("postgres"), "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split(")")[-1].split()[-1] if ")" not in said.stdout else said.stdout.split()[2]

    def url(self, database: str) -> str:
        """Return how to connect to a database."""
        return f"postgresql://{USER}@/{database}?host={self._socket}"

    def start(self) -> None:
        """Make the cluster and start it."""
        for directory in (self._data, self._socket):
            directory.mkdir()
            if os.geteuid() == 0:
                shutil.chown(directory, USER, USER)
        _run(["initdb", "-D", str(self._data), "-A", "trust", "-U", USER, "--no-instructions"])
        log = self._socket / "log"
        _run(["pg_ctl", "-D", str(self._data), "-w", "-l", str(log), "-o", self._options, "start"])

    def create(self, database: str) -> None:
        """Make a database."""
        _run(["createdb", "-h", str(self._socket), "-U", USER, database])

    def stop(self) -> None:
        """Stop it in order."""
        _run(["pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop"])


@contextmanager
def running(place: Path, *, synchronous_commit: bool = True) -> Iterator[Postgres]:
    """Run a cluster for as long as the context lasts; raises PostgresMissing."""
    for program in ("initdb", "pg_ctl", "postgres", "createdb"):
        _binary(program)
    server = Postgres(place, synchronous_commit)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _binary(name: str) -> str:
    found = shutil.which(name)
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if packaged:
        # Debian's wrappers on the PATH want to choose a cluster of their own.
        return str(packaged[-1])
    if found:
        return found
    raise PostgresMissing(f"there is no {name}: install PostgreSQL (Debian: apt-get install postgresql)")


def _run(command: Sequence[str]) -> None:
    """Run one of its programs, as a user that it accepts: it refuses to run as root."""
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam(USER).pw_name
        except KeyError:
            raise PostgresMissing("run this as root with a user 'postgres', or as another user") from None
    done = subprocess.run(
        [_binary(command[0]), *command[1:]],
        user=user,
        group=user,
        extra_groups=[] if user else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=START_TIMEOUT_S,
        cwd="/",
    )
    if done.returncode:
        raise PostgresMissing(f"{command[0]} failed: {done.stderr[-500:]}")
