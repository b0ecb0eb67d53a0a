"""What every driver process shares: the closed loop of a round, and the lines spoken with the bench.

A driver runs in its own process, and for a peer in its own venv, so this needs the standard library only.
The bench sends one JSON object a line (`concurrency`, `seconds`, `what`), the driver answers each with one.
Each of `concurrency` loops starts its next plan when its last one has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

MAX_SHOWN_ERRORS = 3


class Lines:
    """The driver's end: what libraries print goes to stderr, and only answers to stdout."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, answer: dict[str, Any]) -> None:
        """Send one object."""
        self._out.write(json.dumps(answer) + "\n")

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield what is asked until the bench closes the pipe."""
        for line in sys.stdin:
            yield json.loads(line)


class Round:
    """Counts the plans of one round."""

    def __init__(self, seconds: float) -> None:
        self._started = time.perf_counter()
        self._deadline = self._started + seconds
        self._ended = self._started
        self._latencies_ms: list[float] = []
        self._errors: list[str] = []
        self._number = 0
        self._lock = threading.Lock()

    def more(self) -> int | None:
        """Return the number of the next plan, or None when the time is over."""
        with self._lock:
            if time.perf_counter() >= self._deadline:
                return None
            self._number += 1
            return self._number

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the plan that is run within."""
        started = time.perf_counter()
        error: Exception | None = None
        try:
            yield
        except Exception as caught:  # noqa: BLE001 - whatever goes wrong with a plan is counted and shown
            error = caught
        now = time.perf_counter()
        with self._lock:
            self._ended = now
            if error is None:
                self._latencies_ms.append((now - started) * 1e3)
            else:
                self._errors.append(f"{type(error).__name__}: {error}")

    def answer(self) -> dict[str, Any]:
        """Return what came of it."""
        return {
            "plans": len(self._latencies_ms),
            "wall_s": self._ended - self._started,
            "latencies_ms": [round(one, 3) for one in self._latencies_ms],
            "errors": len(self._errors),
            "first_errors": self._errors[:MAX_SHOWN_ERRORS],
        }


async def round_async(
    run_plan: Callable[[int], Awaitable[Any]], *, concurrency: int, seconds: float
) -> dict[str, Any]:
    """Run plans for a while on this event loop."""
    counted = Round(seconds)

    async def loop() -> None:
        while (number := counted.more()) is not None:
            with counted.counting():
                await run_plan(number)

    await asyncio.gather(*(loop() for _ in range(concurrency)))
    return counted.answer()


def round_threads(run_plan: Callable[[int], Any], *, concurrency: int, seconds: float) -> dict[str, Any]:
    """Run plans for a while, each loop in a thread."""
    counted = Round(seconds)

    def loop() -> None:
        while (number := counted.more()) is not None:
            with counted.counting():
                run_plan(number)

    threads = [threading.Thread(target=loop) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counted.answer()


def serve_threads(run_plan: Callable[[int], Any], settings: dict[str, Any]) -> None:
    """Answer the bench until it is done, with plans that block."""
    lines = Lines()
    lines.say({"ready": True, **settings})
    for order in lines.orders():
        lines.say(round_threads(run_plan, concurrency=order["concurrency"], seconds=order["seconds"]))


async def serve_async(run_plan: Callable[[int], Awaitable[Any]], settings: dict[str, Any]) -> None:
    """Answer the bench until it is done, with plans that are awaited."""
    lines = Lines()
    lines.say({"ready": True, **settings})
    orders = lines.orders()
    while (order := await asyncio.to_thread(next, orders, None)) is not None:
        lines.say(await round_async(run_plan, concurrency=order["concurrency"], seconds=order["seconds"]))
