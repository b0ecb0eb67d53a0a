"""The way from the stack's processes to the broker, which can be cut, or go dead and come back.

Each connection is known by the name that its client gives: role and process (`worker-errands/4711`). A cut
connection is reset and may be made again at once; on a dead way nothing moves, and when it comes back what
was sent meanwhile arrives, late.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 256 * 1024
RETRY_S = 0.02
_NAME = re.compile(rb'"name": ?"([a-z_-]+)/(\d+)"')
EVERYBODY = -1
"""Stands for every process: the broker itself is cut off."""
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Way:
    """One connection: who made it, and whether anything moves on it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    role: str = ""
    pid: int = 0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """End it at once, on both sides, with whatever is under way."""
        for writer in (self.near, self.far):
            there = writer.get_extra_info("socket")
            if there is not None:
                with suppress(OSError):
                    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Forwards to the broker, whose port may change."""

    def __init__(self, broker_port: Callable[[], int]) -> None:
        self._broker_port = broker_port
        self._ways: set[Way] = set()
        self._held: set[int] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Open the proxy on a port of its own."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """Close it, and every way."""
        if self._server is not None:
            self._server.close()
        for way in list(self._ways):
            way.reset()

    def pids(self, role: str) -> set[int]:
        """Return the processes that are connected in a role (`planner`, `worker`, `decider`)."""
        return {way.pid for way in self._ways if way.role == role}

    def cut(self, pid: int) -> int:
        """Reset every connection of a process, and say how many there were."""
        ways = [way for way in self._ways if pid in (way.pid, EVERYBODY)]
        for way in ways:
            way.reset()
        return len(ways)

    def hold(self, pid: int) -> None:
        """Let nothing more move to and from a process."""
        self._held.add(pid)
        for way in self._ways:
            if pid in (way.pid, EVERYBODY):
                way.flowing.clear()

    def release(self, pid: int) -> None:
        """Let everything move again, late as it is."""
        self._held.discard(pid)
        for way in self._ways:
            if pid in (way.pid, EVERYBODY):
                way.flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            from_broker, far = await asyncio.open_connection(
                "127.0.0.1", self._broker_port(), limit=CHUNK_BYTES
            )
        except (OSError, ValueError):
            near.close()
            return
        way = Way(near, far)
        if EVERYBODY not in self._held:
            way.flowing.set()
        self._ways.add(way)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(way, reader, far, named=True))
                group.create_task(self._pump(way, from_broker, near, named=False))
        except* (OSError, ConnectionError):
            pass
        finally:
            self._ways.discard(way)
            near.close()
            far.close()

    async def _pump(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, named: bool
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if named and not way.role and (found := _NAME.search(chunk)):
                way.role, way.pid = found[1].decode().split("-")[0], int(found[2])
                if way.pid in self._held:
                    way.flowing.clear()
            await way.flowing.wait()
            writer.write(chunk)
            await writer.drain()
        # Half closed is closed here: neither NATS nor its clients know anything else.
        writer.close()
        raise ConnectionError("the end of a connection")
