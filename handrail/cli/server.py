"""Which server a command speaks to, and the connection to it.

The order, decided by `find` and nowhere else: `--server` (or HANDRAIL_SERVER); then the stack that owns the
data directory, by its endpoint file; then a stack of this command's own on that directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.options import HostKind, read_name
from handrail.person import DATA_DIR as DATA_DIR
from handrail.person import TOKEN_ENV, TOKEN_FILE, TOKEN_FILE_ENV

if TYPE_CHECKING:
    from bus.directory import Endpoint
    from handrail.client import Client

LOGS_DIR = "logs"
MAX_LOG_BYTES = 8 << 20
JOIN_TIMEOUT_S = 60.0
"""How long a stack may take to start before nobody waits for it to join it."""
JOIN_INTERVAL_S = 0.1
CALL_TIMEOUT_S = 5.0
_T = TypeVar("_T")
_ADDRESS = re.compile(r"(?:https://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Target:
    """What a command speaks to."""

    kind: Literal["server", "running", "own"]
    # Empty for a stack of the command's own.
    address: str
    project: Path
    data: Path
    # The options with which another command speaks to the same.
    options: str
    # Where the token is; None where the environment says.
    token_file: Path | None = None

    def speaker(self, said: str | None) -> str:
        """Return in whose name a command speaks: who is said, or whom the token names, or the user."""
        from handrail.channel import environment_name

        theirs = "" if self.token_file is not None else environment_name()
        return theirs if said is None and theirs else read_name(said)

    def command(self, name: str, *arguments: str) -> str:
        """Return a command line that continues with the same server."""
        return " ".join(
            part for part in ("handrail", name, *map(shlex.quote, arguments), self.options) if part
        )


def find(server: str | None, project: Path | None, data: Path | None) -> Target:
    """Decide what to speak to."""
    home = project or Path()
    place = data_dir(project, data)
    options = [f"--project {shlex.quote(str(project))}"] if project else []
    options += [f"--data {shlex.quote(str(data))}"] if data else []
    if server:
        match = _ADDRESS.fullmatch(server)
        if match is None or not 0 < int(match[1]) < 65_536:
            raise CommandError(
                f"{server!r:.100} is not the address of a server.",
                next="Write HOST:PORT, as 127.0.0.1:7433, or https://HOST:PORT where it has TLS.",
            )
        named = os.environ.get(TOKEN_ENV) or os.environ.get(TOKEN_FILE_ENV)
        token = place / TOKEN_FILE if not named and _is_of(server, place) else None
        return Target("server", server, home, place, f"--server {server}", token)
    from bus.directory import find_endpoint

    # The environment's token is for servers elsewhere.
    token, endpoint = place / TOKEN_FILE, find_endpoint(place)
    if endpoint is not None:
        return Target("running", endpoint.gateway, Path(endpoint.project), place, " ".join(options), token)
    return Target("own", "", home, place, " ".join(options), token)


def _is_of(server: str, place: Path) -> bool:
    """Whether the server is the one whose data directory is at hand."""
    from bus.directory import find_endpoint

    endpoint = find_endpoint(place)
    return endpoint is not None and server in (endpoint.gateway, endpoint.public)


def data_dir(project: Path | None, data: Path | None) -> Path:
    """Return the data directory that the options mean."""
    return (data or (project or Path()) / DATA_DIR).absolute()


@asynccontextmanager
async def connect(
    target: Target, *, host: HostKind = HostKind.INLINE, new: bool = False
) -> AsyncIterator[Client]:
    """Connect a client, putting a stack together where the target is one of our own.

    Unless `new`, the data directory must exist: a command that only looks makes none.
    """
    from handrail.client import Client

    async with AsyncExitStack() as stack:
        address = target.address
        if target.kind == "own":
            if not new and not target.data.is_dir():
                raise CommandError(
                    f"There is no server, and no runs in {target.data}.",
                    why="No server was named, and no stack has used that data directory yet.",
                    next='Start one with `handrail up`, or run a goal with `handrail run "GOAL"`; '
                    "--project, --data and --server say where to look.",
                    code=ExitCode.UNAVAILABLE,
                )
            address = await _own(stack, target, host)
        yield await stack.enter_async_context(
            Client(address, timeout_s=CALL_TIMEOUT_S, token_file=target.token_file)
        )


def with_client(target: Target, work: Callable[[Client], Awaitable[_T]]) -> _T:
    """Connect, work, and return what the work returns."""

    async def connected() -> _T:
        async with connect(target) as client:
            return await work(client)

    return asyncio.run(connected())


class Connection:
    """A client and what it speaks to, for as long as a command watches."""

    def __init__(self, stack: AsyncExitStack, target: Target, *, host: HostKind = HostKind.INLINE) -> None:
        self.target = target
        self._stack = stack
        self._host = host

    async def open(self, *, new: bool = False) -> Client:
        """Connect."""
        return await self._stack.enter_async_context(connect(self.target, host=self._host, new=new))

    async def again(self) -> Client | None:
        """Find who owns the data directory now, or own it; None for a named server, which has no successor.

        The stack of another command ends with that command, and whoever had joined it carries on.
        """
        if self.target.kind == "server":
            return None
        found = find(None, self.target.project, self.target.data)
        self.target = replace(found, options=self.target.options)
        return await self.open()


async def _own(stack: AsyncExitStack, target: Target, host: HostKind) -> str:
    """Put a stack together and return its gateway; join whoever came first."""
    from bus.directory import DirectoryOwned
    from handrail.cli.sandboxed import warn_of_open
    from handrail.settings import load_settings

    # Before anything is written: without a project there is nothing to put together.
    settings = load_settings(target.project)
    log_to_file(target.data, "run.log")
    warn_of_open(target.project, settings)
    try:
        if host is HostKind.RAY:
            from handrail.stack.cluster import running

            cluster = await stack.enter_async_context(running(target.project, target.data, host="ray"))
            return cluster.endpoint.gateway
        from handrail.stack.inline import embedded

        return (await stack.enter_async_context(embedded(target.project, target.data))).address
    except DirectoryOwned as error:
        endpoint = await wait_for_owner(target.data)
        if endpoint is None:
            raise error
        return endpoint.gateway


async def wait_for_owner(data: Path) -> Endpoint | None:
    """Wait until the owner of a data directory says where it can be reached; None if it never does."""
    from bus.directory import find_endpoint, is_owned

    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while (endpoint := find_endpoint(data)) is None:
        if time.monotonic() >= deadline or not is_owned(data):
            return None
        await asyncio.sleep(JOIN_INTERVAL_S)
    return endpoint


def log_to_file(data: Path, name: str) -> None:
    """Send what a stack within this process logs to a file: the terminal is the command's own."""
    from bus.directory import usable
    from observability.logs import configure

    path = data / LOGS_DIR / name
    with usable(data):
        # Here it may be made first, and what lies in it is for its owner only: the listing, logs, keys.
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        large = path.exists() and path.stat().st_size > MAX_LOG_BYTES
        mode: Literal["w", "a"] = "w" if large else "a"
        configure(path.open(mode, buffering=1, encoding="utf-8", errors="backslashreplace"))
