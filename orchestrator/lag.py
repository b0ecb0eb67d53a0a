"""How far the notary is behind the log, and whether it has stopped: told from its books and from the broker.

It is asked from outside: so it is true of a notary as well that hangs, or is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bus.link import Link
from bus.log import NatsStore
from core.notarised import SignedHead
from core.permits import Checker
from orchestrator.book import BadBook, head_of, last_of
from orchestrator.notary import is_there, last_in, streams_of

STALLED_S = 10.0
"""By then a notary that lives has signed."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a stream is ahead of what was signed for."""

    stream: str
    messages: int
    # Since the oldest message that was not signed for.
    age_s: float
    # Why nobody can sign for more; empty where somebody can.
    stopped: str = ""

    @property
    def stalled(self) -> bool:
        """Whether somebody should have signed long ago."""
        return self.age_s > STALLED_S


async def lags(
    link: Link,
    place: Path,
    checker: Checker,
    shards: tuple[int, ...],
    now_ns: Callable[[], int] = time.time_ns,
) -> list[Lag]:
    """Return the lag of every stream; raises LogError where the broker cannot be asked."""
    return [await _lag(link, place / stream, checker, now_ns) for stream in streams_of(shards)]


async def _lag(link: Link, place: Path, checker: Checker, now_ns: Callable[[], int]) -> Lag:
    stream = place.name
    try:
        signed = head_of(place, None, checker)
        size = signed.head.size if signed else 0
        last = await last_in(link, stream)
        if last < size:
            return Lag(stream, 0, 0.0, f"{stream} ends at message {last}, and {size} were signed for")
        if last == size:
            return Lag(stream, 0, 0.0)
        oldest = await NatsStore(link).get(stream, size + 1)
        if oldest is None:
            return Lag(stream, last - size, 0.0, f"message {size + 1} of {stream} is missing")
        lag = Lag(stream, last - size, max(0.0, (now_ns() - oldest.time_ns) / 1e9))
        if lag.stalled and signed and not await _is_as_signed(link, place, signed):
            return Lag(stream, lag.messages, lag.age_s, f"message {size} of {stream} is another now, or none")
        return lag
    except BadBook as error:
        return Lag(stream, 0, 0.0, str(error))


async def _is_as_signed(link: Link, place: Path, signed: SignedHead) -> bool:
    """Whether the stream still has the last message that was signed for."""
    last = await asyncio.to_thread(last_of, place, signed)
    return last is None or await is_there(link, place.name, last)
