"""The few primitives of a broker that a log stands on, and the patience with which they are used.

A `Store` makes one attempt at a time; `patiently` tries again while the broker cannot be reached, until a
timeout. Trying again is right where the outcome does not depend on how often it was tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from core.ports import Fence, FenceLost, LogError, LogUnavailable

FIRST_RETRY_S = 0.01
MAX_RETRY_S = 0.25

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands in a stream."""

    sequence: int
    time_ns: int
    subject: str
    data: bytes
    trace: str = ""


class Store(Protocol):
    """The primitives; reads see every publish that was answered."""

    async def publish(
        self, stream: str, subject: str, data: bytes, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Publish once and return the sequence; LogUnavailable means that the outcome is unknown."""
        ...

    async def first(self, stream: str, filter: str, after: int = 0) -> Stored | None:
        """Return the first message on a filter after a sequence."""
        ...

    async def last(self, stream: str, filter: str) -> Stored | None:
        """Return the last message on a filter."""
        ...

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return a message by its sequence."""
        ...

    async def only(self, stream: str, subject: str) -> Stored | None:
        """Return the only message of a subject that is written once."""
        ...

    async def erase(self, stream: str, sequence: int) -> None:
        """Delete a message, and overwrite what it said; one that is gone already is no error."""
        ...

    def now_s(self) -> float:
        """Return a time that only moves on."""
        ...

    async def pause(self, delay_s: float) -> None:
        """Wait before another try; at most so long."""
        ...


class Patience:
    """How long one operation goes on: a deadline, and growing pauses between its tries."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        self._store = store
        self._deadline_s = store.now_s() + timeout_s
        self._delay_s = FIRST_RETRY_S

    async def wait(self, error: LogError) -> None:
        """Pause before the next try; raise what went wrong where there is no time for another."""
        if self._store.now_s() + self._delay_s >= self._deadline_s:
            raise error
        await self._store.pause(self._delay_s)
        self._delay_s = min(2 * self._delay_s, MAX_RETRY_S)


async def patiently(store: Store, timeout_s: float, attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Make an attempt until it has an outcome, or raise LogUnavailable after the timeout."""
    patience = Patience(store, timeout_s)
    while True:
        try:
            return await attempt()
        except LogUnavailable as error:
            await patience.wait(error)


async def write_once(store: Store, stream: str, subject: str, data: bytes, timeout_s: float) -> bool:
    """Write the only message of a subject; False where there is one already (perhaps this very one)."""
    try:
        await patiently(store, timeout_s, lambda: store.publish(stream, subject, data, Fence(subject, 0)))
    except FenceLost:
        return False
    return True
