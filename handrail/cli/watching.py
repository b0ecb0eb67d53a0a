"""Watching a run: its events are folded here, as the decider folds them, and shown as they come.

A live tree on a terminal, a line an event on a pipe, an object an event with `--json`. A watch ends when the
run has ended, when nothing goes on without a human, or when somebody leaves. Who has a gatekeeper is asked at
every gate that opens meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from bus.subjects import BadSubject, build, parse
from core.ports import Record
from core.run import apply, initial, unbundled
from core.state import Gate, RunState
from core.view import view
from handrail.cli.events import event_line, event_object
from handrail.cli.gatekeeper import Gatekeeper, Meetings, is_decided
from handrail.cli.output import Output
from handrail.cli.pen import Pen
from handrail.v1 import event_pb2, run_service_pb2

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from handrail.client import Client

SETTLED_AFTER_S = 1.0
OUTAGE_S = 60.0
LOOK_AGAIN_AFTER_S = 2.0
DECIDED_AFTER_S = 10.0
"""How long a decision at a gate may take to count; one that the rules do not count is never heard of."""
FRAMES_PER_S = 8
_NEEDS_HUMAN = frozenset({event_pb2.RUN_STATUS_WAITING, event_pb2.RUN_STATUS_UNREADABLE})


class Watched:
    """A run as far as its events have come."""

    def __init__(self, run: str, goal: str = "") -> None:
        self.state: RunState | None = None
        self._viewed: RunState | None = None
        self._view = run_service_pb2.Run(id=run, goal=goal)
        # When the last event came, by the broker's clock.
        self.time_ns = 0
        # Where a watch goes on.
        self.cursor = ""
        # Whether something came that cannot be read any more.
        self.erased = False

    def add(self, response: run_service_pb2.WatchRunResponse) -> None:
        """Fold one more event."""
        self.cursor = response.cursor
        record = record_of(response)
        if record is None:
            return
        state = self.state if self.state is not None else initial(record.address.key)
        self.state = apply(state, record)
        self.erased = self.erased or record.forgotten
        self.time_ns = record.time_ns

    @property
    def run(self) -> run_service_pb2.Run:
        """The run as the outside sees it."""
        if self.state is not self._viewed:
            self._viewed = self.state
            self._view = view(self.state) if self.state is not None else self._view
        return self._view

    @property
    def open_gates(self) -> tuple[Gate, ...]:
        """The gates at which somebody has yet to decide, or whose decision has yet to count."""
        return self.state.open_gates if self.state is not None else ()

    @property
    def status(self) -> int:
        """Where the run stands."""
        return self.state.status if self.state is not None else event_pb2.RUN_STATUS_UNSPECIFIED


def record_of(response: run_service_pb2.WatchRunResponse) -> Record | None:
    """Return an event where it stands in the log; None where its place cannot be read."""
    try:
        address = parse(response.subject)
    except BadSubject:
        return None
    event = response.event if response.HasField("event") else None
    return Record(
        sequence_of(response), response.time.ToNanoseconds(), address, event, forgotten=response.forgotten
    )


def parts_of(response: run_service_pb2.WatchRunResponse) -> list[run_service_pb2.WatchRunResponse]:
    """Return an event and those that it carries, in order, each as if it had come by itself."""
    record = record_of(response)
    if record is None or not response.event.before:
        return [response]
    parts = []
    for part in unbundled(record):
        alone = run_service_pb2.WatchRunResponse(
            cursor=response.cursor, subject=build(part.address), event=part.event, time=response.time
        )
        alone.event.ClearField("before")
        parts.append(alone)
    return parts


class Display(Protocol):
    """Shows events as they come."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and leave the screen in order."""
        ...

    def show(self, response: run_service_pb2.WatchRunResponse) -> None:
        """Show one event; it has been folded already."""
        ...

    def note(self, text: str) -> None:
        """Say something beside the run."""
        ...


class Lines:
    """A line, or a JSON object, for every event."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, response: run_service_pb2.WatchRunResponse) -> None:
        """Write the event, and before it those that it carries."""
        for part in parts_of(response):
            if self._output.as_json:
                self._output.json(event_object(part))
            else:
                self._output.line(event_line(part))

    def note(self, text: str) -> None:
        """Say it on standard error."""
        self._output.note(text)


class Tree:
    """The run's tree, drawn over again; what is left on the screen at the end is for the caller to draw."""

    def __init__(self, output: Output, watched: Watched) -> None:
        self._output = output
        self._watched = watched
        self._note = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        # One that is begun again would erase what has been written since it ended.
        self._live = Live(
            get_renderable=self._draw,
            console=self._output.console,
            refresh_per_second=FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, response: run_service_pb2.WatchRunResponse) -> None:
        """Leave it to the next frame: events come faster than anybody reads."""

    def note(self, text: str) -> None:
        """Say it below the tree."""
        self._note = text

    def _draw(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        from handrail.cli.tree import draw

        console = self._output.console
        pen = Pen(width=console.width, glyphs=self._output.glyphs, now_ns=time.time_ns())
        lines = draw(self._watched.run, pen, height=max(3, console.height - 2))
        return Group(*lines, *([Text(self._note, style="yellow")] if self._note else []))


class Watch:
    """One watch, from its first event until it ends; Ctrl-C cancels politely, or leaves."""

    def __init__(
        self,
        client: Client,
        run: str,
        output: Output,
        *,
        polite: bool,
        note: str,
        goal: str = "",
        again: Callable[[], Awaitable[Client | None]] | None = None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self._client = client
        self._run = run
        self._output = output
        # Whether the first Ctrl-C cancels the run: it ends with this command anyway.
        self._polite = polite
        self._note = note
        # Finds the server anew when it is lost.
        self._again = again
        self._settling: asyncio.TimerHandle | None = None
        self._pressed = False
        self._display: Display = Lines(output)
        self._cancelling: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self.left = False
        self.watched = Watched(run, goal)
        self._meetings = Meetings(
            self.watched,
            gatekeeper,
            output,
            client=lambda: self._client,
            aside=self._aside,
            over=self._go_on,
        )

    async def follow(self, *, after: int = 0) -> run_service_pb2.Run:
        """Show the events after a sequence until the watch ends; return the run as it stands then."""
        if self._output.live:
            self._display = Tree(self._output, self.watched)
        self._reader = asyncio.create_task(self._read(after))
        with ExitStack() as stack:
            stack.enter_context(self._display)
            stack.enter_context(on_signal(signal.SIGINT, self._interrupt))
            stack.enter_context(on_signal(signal.SIGTERM, self._leave))
            try:
                await self._reader
            except asyncio.CancelledError:
                if self._meetings.defect is not None:
                    raise self._meetings.defect from None
                if not self.left and not self._needs_human:
                    raise
            finally:
                self._reader.cancel()
                if self._settling is not None:
                    self._settling.cancel()
                await self._meetings.end()
                if self._cancelling is not None:
                    await asyncio.gather(self._cancelling, return_exceptions=True)
        return self.watched.run

    @property
    def _needs_human(self) -> bool:
        return self.watched.status in _NEEDS_HUMAN

    async def _read(self, after: int) -> None:
        from handrail.errors import Unavailable

        lost_at = math.inf
        while True:
            cursor = self.watched.cursor
            try:
                await self._read_from(cursor, after)
                return
            except Unavailable:
                if self.watched.cursor != cursor:
                    lost_at = math.inf
                lost_at = min(lost_at, time.monotonic())
                if time.monotonic() - lost_at > OUTAGE_S:
                    raise
                client = await self._again() if self._again is not None else None
                if client is None:
                    raise
                self._client = client

    async def _read_from(self, cursor: str, after: int) -> None:
        outage_s = OUTAGE_S if self._again is None else LOOK_AGAIN_AFTER_S
        async with aclosing(self._client.watch(self._run, after=cursor, outage_s=outage_s)) as events:
            async for response in events:
                self.watched.add(response)
                if sequence_of(response) > after:
                    self._display.show(response)
                self._meetings.look()
                self._settle()

    def _settle(self) -> None:
        """End the watch in a while, if nothing goes on without a human and nobody is being asked.

        Between two events of one decision a run may seem to wait.
        """
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._needs_human and self._reader is not None and not self._meetings.going_on:
            decided = any(is_decided(gate) for gate in self.watched.open_gates)
            after_s = DECIDED_AFTER_S if decided else SETTLED_AFTER_S
            self._settling = asyncio.get_running_loop().call_later(after_s, self._reader.cancel)

    def _go_on(self) -> None:
        """Carry on when nobody is being asked any more."""
        if self._meetings.defect is not None and self._reader is not None:
            self._reader.cancel()
        self._settle()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Make room on the screen for something else than the run."""
        self._display.__exit__(None, None, None)
        try:
            yield
        finally:
            if not self.left:
                self._display.__enter__()

    def _interrupt(self) -> None:
        # Whoever is asked at a gate leaves it open.
        if not self._polite or self._pressed or self._meetings.asking:
            self._leave()
            return
        self._pressed = True
        self._display.note(self._note)
        self._cancelling = asyncio.create_task(self._client.cancel(self._run, reason="Ctrl-C"))

    def _leave(self) -> None:
        self.left = True
        if self._reader is not None:
            self._reader.cancel()


@contextmanager
def on_signal(number: int, handle: Callable[[], None]) -> Iterator[None]:
    """Handle a signal on the event loop for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(number)


async def fold_log(client: Client, run: str, *, upto: int | None = None) -> Watched:
    """Fold the events that a run has, up to a sequence if one is given."""
    watched = Watched(run)
    async with aclosing(client.watch(run, until_now=True)) as events:
        async for response in events:
            if upto is not None and sequence_of(response) > upto:
                break
            watched.add(response)
    return watched


def sequence_of(response: run_service_pb2.WatchRunResponse) -> int:
    """Return an event's place in the log, which is its cursor."""
    return int(response.cursor) if response.cursor.isdigit() else 0
