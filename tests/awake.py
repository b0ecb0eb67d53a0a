"""A clock for the bounds of tests, which stands still while this process does.

What a test bounds is how long the product takes. A machine that gives the tests no processor for a second
adds a second to that, and to this clock next to nothing. What the product waits for, and what it computes in
this process, counts in full.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Self

TICK_S = 0.01
MOST_S = 2 * TICK_S
"""So much of a tick counts: what is beyond it and was not computed is a pause."""


class Awake:
    """How long this process was awake, from being made to leaving.

    `with` asks a thread, to which all counts that holds up another thread or the event loop. `async with`
    asks a task, to which it is a pause when the loop stands still and nothing is computed: for what cannot
    block.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest_s = 0.0
        """The longest pause."""
        self._at, self._computed = time.monotonic(), time.process_time()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._task: asyncio.Task[None] | None = None

    def _tick(self) -> None:
        at, computed = time.monotonic(), time.process_time()
        took_s = at - self._at
        self.seconds += min(took_s, max(MOST_S, computed - self._computed))
        self.longest_s = max(self.longest_s, took_s)
        self._at, self._computed = at, computed

    def _go_on(self) -> None:
        while not self._left.wait(TICK_S):
            self._tick()

    async def _go_on_in_the_loop(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tick()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._tick()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._go_on_in_the_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        self._tick()
