"""The world outside: a service with effects, and the ledger of what was asked of it and what it did.

It lives in the campaign's process and so survives whatever is done to the stack. A script says what befalls
the calls about a thing, one fault for each call, taken in order. Everything is written to a file as well, as
evidence.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

KEYED = frozenset({"post", "post_copy", "lend", "hand", "seal", "unpost", "unhand"})
UNKEYED = frozenset({"send", "ring", "reclaim"})
GATED = {"hand": 1, "unhand": 1, "seal": 2}
"""What waits for approvals, and for how many."""
UNDOING = {"unpost": "post", "reclaim": "lend", "unhand": "hand"}
"""What takes back what."""
READS = frozenset({"look"})

Where = Literal["before", "after"]
FaultDeed = Literal["kill", "stop", "hang", "busy", "refuse", "reset", "hide"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls one call, before its effect or after it. `hide` keeps the effect unseen for a while."""

    deed: FaultDeed
    where: Where = "before"
    seconds: float = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool was entered."""

    number: int
    time_ns: int
    tool: str
    ref: str
    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Effect:
    """The world was changed."""

    number: int
    time_ns: int
    tool: str
    ref: str
    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Struck:
    """A process was killed or stopped, at a named point, in a tool, or from outside."""

    pid: int
    time_ns: int
    told: dict[str, Any]


class World:
    """The service, on a socket of its own."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "world.sock"
        self.calls: list[Call] = []
        self.effects: list[Effect] = []
        self.struck: dict[str, Struck] = {}
        self._file = (directory / "ledger.jsonl").open("a")
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._by_key: dict[tuple[str, str], Effect] = {}
        self._by_ref: defaultdict[str, list[Effect]] = defaultdict(list)
        self._hidden: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Open the service."""
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        """Close it; the file stays."""
        if self._server is not None:
            self._server.close()
        self._file.close()

    def script(self, ref: str, *faults: Fault) -> None:
        """Say what befalls the next calls about a thing, or of one tool about it ("unpost a")."""
        self._faults[ref].extend(faults)

    def effects_of(self, ref: str) -> list[Effect]:
        """Return the effects on a thing."""
        return self._by_ref.get(ref, [])

    async def wait_for(self, what: str, condition: Callable[[], Any], timeout_s: float) -> Any:
        """Wait until a condition on the ledger holds, and return what it gave."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {timeout_s:g} s") from None
        return condition()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever asks may be killed at any moment.
        with suppress(ConnectionError):
            request = json.loads(await reader.readline() or "{}")
            if request:
                answer = self._answer(request.pop("op"), request)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()
        async with self._changed:
            self._changed.notify_all()

    def _answer(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        if op == "call":
            call = Call(len(self.calls) + 1, time.time_ns(), **request)
            self.calls.append(call)
            self._write("call", asdict(call))
            faults = self._faults.get(f"{call.tool} {call.ref}") or self._faults.get(call.ref)
            fault = faults.popleft() if faults else None
            if fault is not None and fault.deed == "hide":
                self._hidden[call.ref] = int(fault.seconds)
            return {"fault": None if fault is None else asdict(fault)}
        if op == "effect":
            return asdict(self._effect(**request))
        if op == "struck":
            # A goal that was begun again for a point passes it again: a second stop is let go by nobody.
            first = request["name"] not in self.struck
            if first:
                struck = self.struck[request["name"]] = Struck(request["pid"], time.time_ns(), request)
                self._write("struck", asdict(struck))
            return {"first": first}
        if op == "count":
            return {"effects": len(self.effects_of(request["ref"]))}
        if op == "find":
            return {"effect": self._shown(request["number"])}
        found = self._by_key.get((request["tool"], request["key"]))
        return {"effect": None if found is None else asdict(found)}

    def _effect(self, tool: str, ref: str, key: str, pid: int) -> Effect:
        known = self._by_key.get((tool, key))
        if known is not None and tool in KEYED:
            return known
        effect = Effect(len(self.effects) + 1, time.time_ns(), tool, ref, key, pid)
        self.effects.append(effect)
        self._by_ref[ref].append(effect)
        if key:
            self._by_key.setdefault((tool, key), effect)
        self._write("effect", asdict(effect))
        return effect

    def _shown(self, number: int) -> dict[str, Any] | None:
        if not 0 < number <= len(self.effects):
            return None
        effect = self.effects[number - 1]
        if self._hidden.get(effect.ref, 0) > 0:
            self._hidden[effect.ref] -= 1
            return None
        return asdict(effect)

    def _write(self, kind: str, row: dict[str, Any]) -> None:
        self._file.write(json.dumps({"row": kind, **row}) + "\n")
        self._file.flush()
