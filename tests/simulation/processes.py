"""Processes that can be stopped and killed at any moment, and a supervisor that starts them again.

A process is a context: every handle made in it belongs to it. Stopped (SIGSTOP), its handles are kept and run
when it goes on (SIGCONT). Killed (kill -9), they never run: no `finally`, no ack, no last word. What is dead
is kept until the end of the simulation, since the collection of its tasks would run their last lines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Literal

from tests.simulation.loop import PROCESS, SimLoop

State = Literal["running", "stopped", "dead"]


class Process:
    """One life of one process."""

    def __init__(self, loop: SimLoop, place: str, epoch: int, generation: int) -> None:
        self.loop = loop
        self.place = place
        self.epoch = epoch
        self.generation = generation
        self.state: State = "running"
        self.skew_ns = 0
        # For how long it has been stopped, or will have been.
        self.stopped_s = 0.0
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)
        # Called when it is stopped, goes on or dies: its connections must know.
        self.watchers: list[Callable[[], None]] = []
        self._kept: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []

    def __str__(self) -> str:
        return f"{self.place}.{self.epoch}.{self.generation}"

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in this process."""
        task = self.loop.create_task(work, context=self.context.copy())
        self._tasks.append(task)
        return task

    def serve(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in this process that must not fail: being kept, it would fail without a word."""
        self.spawn(work).add_done_callback(self.loop.note_failure)

    def withholds(self, handle: asyncio.Handle) -> bool:
        """Keep a handle that must not run now."""
        if self.state == "running":
            return False
        self._kept.append(handle)
        return True

    def is_dead(self) -> bool:
        """Whether it will never run anything again."""
        return self.state == "dead"

    def stop(self) -> None:
        """SIGSTOP."""
        if self.state == "running":
            self._turn("stopped")

    def go_on(self) -> None:
        """SIGCONT: what became due meanwhile runs now, in its order."""
        if self.state == "stopped":
            self._turn("running")
            self.loop._ready.extend(self._kept)
            self._kept.clear()

    def kill(self) -> None:
        """Kill -9."""
        if self.state != "dead":
            self._turn("dead")

    def _turn(self, state: State) -> None:
        self.state = state
        for watcher in self.watchers:
            watcher()


class Place:
    """Where one process at a time lives: a decider, a worker's slot. Each life is a generation."""

    def __init__(self, name: str, start: Callable[[Process], Coroutine[Any, Any, Any]]) -> None:
        self.name = name
        self.start = start
        self.generation = 0
        self.process: Process | None = None
        # Whether nothing begins here any more once what lives here has died: the machine is gone.
        self.mortal = False


class Supervisor:
    """Starts what should live, and again when it has died: no generation begins before the last is dead."""

    def __init__(self, loop: SimLoop, note: Callable[[str], None]) -> None:
        self._loop = loop
        self._note = note
        self.epoch = 1
        self.places: dict[str, Place] = {}
        self.crashes: list[str] = []
        # Keeps the dead from being collected.
        self.all: list[Process] = []

    def add(self, name: str, start: Callable[[Process], Coroutine[Any, Any, Any]]) -> None:
        """Have something live from now on."""
        self.places[name] = Place(name, start)
        self._begin(self.places[name])

    def living(self) -> list[Process]:
        """Return what is not dead, stopped ones included."""
        return [p.process for p in self.places.values() if p.process is not None and not p.process.is_dead()]

    def kill(self, process: Process, restart_s: float) -> bool:
        """Kill a process and start its successor after a while; False where it is dead already."""
        if process.is_dead():
            return False
        self._note(f"kill -9 {process}")
        process.kill()
        self._loop.later(restart_s, self._begin_again, self.places[process.place], self.epoch)
        return True

    def stop(self, process: Process, for_s: float) -> bool:
        """Stop a process for a while; False where it does not run."""
        if process.state != "running":
            return False
        self._note(f"SIGSTOP {process} for {for_s:.2f} s")
        process.stop()
        process.stopped_s += for_s
        self._loop.later(for_s, self._go_on, process)
        return True

    def kill_all(self, restart_s: float) -> None:
        """Kill everything; what comes after is of a new epoch."""
        self.epoch += 1
        self._note("kill -9 everything")
        for process in self.living():
            process.kill()
        for place in self.places.values():
            place.generation = 0
            self._loop.later(restart_s, self._begin_again, place, self.epoch)

    def _go_on(self, process: Process) -> None:
        if process.state == "stopped":
            self._note(f"SIGCONT {process}")
            process.go_on()

    def _begin_again(self, place: Place, epoch: int) -> None:
        if epoch == self.epoch and not place.mortal and (place.process is None or place.process.is_dead()):
            self._begin(place)

    def _begin(self, place: Place) -> None:
        place.generation += 1
        process = place.process = Process(self._loop, place.name, self.epoch, place.generation)
        self.all.append(process)
        self._note(f"start {process}")
        process.spawn(place.start(process)).add_done_callback(lambda main: self._ended(process, main))

    def _ended(self, process: Process, main: asyncio.Task[Any]) -> None:
        """Meet the end of a process that should have lived on."""
        if main.cancelled() or process.is_dead():
            return
        self.crashes.append(f"{process}: {main.exception()!r}")
        self.kill(process, 0.1)
