"""The command that keeps a stack up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.cli import options
from handrail.cli.options import HostKind
from handrail.cli.server import DATA_DIR, LOGS_DIR, data_dir, log_to_file, wait_for_owner
from handrail.person import TOKEN_FILE

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from bus.directory import Endpoint
    from handrail.cli.output import Output
    from handrail.stack.cluster import Cluster
    from orchestrator.supervisor import ChildStatus

POLL_INTERVAL_S = 0.5


def up(
    host: options.Host = HostKind.RAY,
    project: options.Project = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Put the whole stack up and keep it up until Ctrl-C.

    A second `up` on the same data directory says who owns it, and joins.
    """
    from bus.directory import DirectoryOwned
    from handrail.cli.output import Output

    output = Output(as_json=json)
    place = data_dir(project, data)
    if _joined(output, project, place):
        return
    try:
        asyncio.run(_keep_up(output, project or Path(), place, host))
    except DirectoryOwned:
        # Somebody was faster, and may take a while to start.
        with output.working(f"Waiting for the stack that is starting on {place}"):
            asyncio.run(wait_for_owner(place))
        if not _joined(output, project, place):
            raise


def _joined(output: Output, project: Path | None, place: Path) -> bool:
    """Say who owns the data directory, if somebody does."""
    from bus.directory import find_endpoint

    endpoint = find_endpoint(place)
    if endpoint is None:
        return False
    output.json({**_endpoint_object(endpoint, place), "joined": True})
    output.line(f"Already up: process {endpoint.pid} owns {place}.")
    output.lines(_endpoint_lines(endpoint, place))
    return True


async def _keep_up(output: Output, project: Path, place: Path, host: HostKind) -> None:
    from handrail.cli.sandboxed import warn_of_open
    from handrail.cli.watching import on_signal
    from handrail.settings import load_settings
    from handrail.stack.cluster import up as keep_up

    # Before anything is written.
    settings = load_settings(project)
    log_to_file(place, "up.log")
    warn_of_open(project, settings)
    stop, ready = asyncio.Event(), asyncio.Event()
    clusters: list[Cluster] = []

    def on_ready(cluster: Cluster) -> None:
        clusters.append(cluster)
        ready.set()

    keeping = asyncio.create_task(keep_up(project, place, host=host.value, on_ready=on_ready, stop=stop))

    def interrupt() -> None:
        # The second one, or one before there is anything to drain, leaves at once; the kernel takes the
        # children down with this process.
        if stop.is_set() or not ready.is_set():
            keeping.cancel()
        stop.set()

    with ExitStack() as stack:
        stack.enter_context(on_signal(signal.SIGINT, interrupt))
        stack.enter_context(on_signal(signal.SIGTERM, interrupt))
        with suppress(asyncio.CancelledError):
            await _until_ready(output, keeping, ready, host)
            if clusters:
                _announce(output, clusters[0], project, place)
                await _show_children(output, clusters[0], stop, keeping)
            if not keeping.done():
                output.line("Draining: nothing new starts, what is in flight finishes.")
            await keeping
        output.line("Down. Unfinished runs go on with the next `handrail up`.")


async def _until_ready(
    output: Output, keeping: asyncio.Task[None], ready: asyncio.Event, host: HostKind
) -> None:
    waiting = asyncio.create_task(ready.wait())
    with output.working(f"Starting broker, {host.value} host, gateway, workers"):
        await asyncio.wait({waiting, keeping}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if keeping.done():
        await keeping


def _announce(output: Output, cluster: Cluster, project: Path, place: Path) -> None:
    output.json({**_endpoint_object(cluster.endpoint, place), "joined": False})
    output.line("Handrail is up.")
    output.lines(_endpoint_lines(cluster.endpoint, place))
    option = "" if project == Path() else f" --project {project}"
    option += "" if place == (project / DATA_DIR).absolute() else f" --data {place}"
    output.line(f'  next     handrail run "GOAL"{option}, in another terminal; Ctrl-C here drains and stops')
    output.line()


def _endpoint_object(endpoint: Endpoint, place: Path) -> dict[str, Any]:
    return {
        "gateway": endpoint.gateway,
        "broker": endpoint.broker_url,
        "host": endpoint.host,
        "project": endpoint.project,
        "data": str(place),
        "token": str(place / TOKEN_FILE),
        "public": endpoint.public,
        "logs": str(place / LOGS_DIR),
        "pid": endpoint.pid,
        "epoch": endpoint.epoch,
    }


def _endpoint_lines(endpoint: Endpoint, place: Path) -> list[str]:
    rows = (
        ("gateway", f"{endpoint.gateway} (gRPC)"),
        *([("public", f"https://{endpoint.public}")] if endpoint.public else []),
        ("token", str(place / TOKEN_FILE)),
        ("broker", endpoint.broker_url),
        ("host", endpoint.host),
        ("project", endpoint.project),
        ("data", str(place)),
        ("logs", str(place / LOGS_DIR)),
    )
    return [f"  {name:<8} {value}" for name, value in rows]


# --- the children --------------------------------------------------------------------------------------


async def _show_children(
    output: Output, cluster: Cluster, stop: asyncio.Event, keeping: asyncio.Task[None]
) -> None:
    """Show what becomes of the children: a table on a terminal, a line for every change on a pipe."""
    with ExitStack() as stack:
        live: Live | None = None
        if output.live:
            from rich.live import Live as LiveTable

            live = LiveTable(console=output.console, auto_refresh=False, transient=True)
            stack.enter_context(live)
        shown: dict[str, str] = {}
        while not stop.is_set() and not keeping.done():
            children = cluster.children()
            if live is not None:
                live.update(_table(output, children), refresh=True)
            else:
                output.lines(_changes(children, shown))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_INTERVAL_S)


def _changes(children: Sequence[ChildStatus], shown: dict[str, str]) -> Iterator[str]:
    for child in children:
        text = _state(child)
        if shown.get(child.name) != text:
            shown[child.name] = text
            yield f"  {child.name}: {text}" + (f" (log: {child.log})" if child.state == "crash_loop" else "")


def _state(child: ChildStatus) -> str:
    state = child.state.replace("_", " ")
    text = f"{state}, process {child.pid}" if child.pid is not None else state
    if child.generation > 1:
        text += f", started {child.generation} times"
        text += f", last ended with {child.last_exit}" if child.last_exit is not None else ""
    return text


def _table(output: Output, children: Sequence[ChildStatus]) -> Group:
    from rich.console import Group as Lines
    from rich.text import Text

    signs = {
        "running": (output.glyphs.done, "green"),
        "starting": (output.glyphs.pending, "yellow"),
        "waiting": (output.glyphs.healing, "yellow"),
        "crash_loop": (output.glyphs.failed, "red"),
    }
    width = max((len(child.name) for child in children), default=0)
    lines = []
    for child in children:
        sign, style = signs.get(child.state, (output.glyphs.skipped, "dim"))
        line = Text("  ").append(sign, style=style).append(f" {child.name:<{width}}  ")
        line.append(_state(child), style="dim" if child.state == "running" else style)
        if child.state == "crash_loop":
            line.append(f"  log: {child.log}", style="dim")
        line.truncate(output.width)
        lines.append(line)
    return Lines(*lines)
