"""An event loop on virtual time: when nothing is ready it moves to the next call that is due.

Everything of asyncio that waits (`sleep`, `timeout`, `call_later`) waits on it, and costs nothing. Each
handle belongs to the process in whose context it was made, which may withhold it (see `processes`). There is
no I/O and there are no threads: what a part gives to an executor is carried out by the loop.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Protocol

EPOCH_NS = 1_750_000_000_000_000_000
"""When every simulation begins, by the broker's clock."""
_SECOND_NS = 1_000_000_000


class Owner(Protocol):
    """What the loop asks of the process that a handle belongs to."""

    skew_ns: int

    def withholds(self, handle: asyncio.Handle) -> bool:
        """Keep a handle that must not run now; one of the dead never runs."""
        ...

    def is_dead(self) -> bool:
        """Whether it will never run anything again."""
        ...


PROCESS: ContextVar[Owner | None] = ContextVar("simulated_process", default=None)
OUTSIDE = Context()
"""Where the broker, the network and the world run: no process can stop them."""


class SimLoop(asyncio.BaseEventLoop):
    """One seed's loop; every callback runs in an order that the seed decides."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self.steps = 0
        self.max_steps = 0
        self.max_s = 0.0
        self.errors: list[str] = []
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        """Return the virtual time."""
        return self._now_s

    def now_ns(self) -> int:
        """Return the broker's time."""
        return EPOCH_NS + round(self._now_s * _SECOND_NS)

    def rest(self, *, max_s: float, max_steps: int) -> bool:
        """Run until nothing is left that could happen; False where it takes too long or `stop` is called."""
        self.max_s, self.max_steps = max_s, max_steps
        self._at_rest = False
        self.run_forever()
        return self._at_rest

    def later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Call outside of every process."""
        return self.call_at(self._now_s + delay_s, callback, *arguments, context=OUTSIDE)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Carry it out here and soon: a thread would be scheduled by the machine and not by the seed."""

        async def carry_out() -> Any:
            return func(*args)

        return self.create_task(carry_out())

    def _write_to_self(self) -> None:
        """Nobody waits in a selector, so nobody needs to be woken."""

    def note_failure(self, task: asyncio.Task[Any]) -> None:
        """Note that a task has failed, when it is done."""
        if not task.cancelled() and (error := task.exception()) is not None:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.errors.append(f"{error!r} at {where.filename}:{where.lineno}")

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}" if error else str(context.get("message")))

    def _run_once(self) -> None:
        if not self._ready and not self._move_on():
            self._at_rest = True
            self._stopping = True
            return
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle._cancelled:
                continue
            owner = handle._context.get(PROCESS)
            if owner is None or not owner.withholds(handle):
                handle._run()
        self.steps += 1
        if self._now_s > self.max_s or self.steps > self.max_steps:
            self._stopping = True

    def _move_on(self) -> bool:
        """Make ready what is due next; False where nothing is. The timers of the dead move no time."""
        scheduled, found = self._scheduled, False
        while scheduled:
            first = scheduled[0]
            if not first._cancelled:
                owner = first._context.get(PROCESS)
                if owner is not None and owner.is_dead():
                    owner.withholds(first)
                elif found and first._when > self._now_s:
                    break
                else:
                    self._now_s = max(self._now_s, first._when)
                    self._ready.append(first)
                    found = True
            heapq.heappop(scheduled)
            first._scheduled = False
        return found


class SimClock:
    """The broker's clock: the loop's time, and calls that belong to no process."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        """Return the time."""
        return self._loop.now_ns()

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call at a time, or soon if it is past."""
        return self._loop.later(max(0, due_ns - self.now_ns()) / _SECOND_NS, callback)

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


@contextmanager
def seeded(loop: SimLoop, seed: int | str) -> Iterator[None]:
    """Let time, random numbers and ids come from the loop and the seed, for as long as this lasts."""
    ids = random.Random(f"{seed}/ids")
    state = random.getstate()
    kept = time.time, time.time_ns, time.monotonic, time.monotonic_ns, uuid.uuid4

    def wall_ns() -> int:
        owner = PROCESS.get()
        return loop.now_ns() + (owner.skew_ns if owner is not None else 0)

    random.seed(f"{seed}/global")
    time.time_ns = wall_ns
    time.time = lambda: wall_ns() / _SECOND_NS
    time.monotonic = loop.time
    time.monotonic_ns = lambda: round(loop.time() * _SECOND_NS)
    uuid.uuid4 = lambda: uuid.UUID(int=ids.getrandbits(128), version=4)
    try:
        yield
    finally:
        time.time, time.time_ns, time.monotonic, time.monotonic_ns, uuid.uuid4 = kept
        random.setstate(state)
