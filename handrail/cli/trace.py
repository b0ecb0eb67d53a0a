"""The command that draws a run's trace, and sends it again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.server import find, with_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handrail.cli.output import Output
    from handrail.client import Client
    from observability.span import Span

MAX_WIDTH = 400


def trace(
    run: options.RunId,
    otlp: Annotated[
        bool, typer.Option("--otlp", help="Send it to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.")
    ] = False,
    width: Annotated[
        int, typer.Option("--width", metavar="CELLS", min=0, max=MAX_WIDTH, help="Draw it so wide.")
    ] = 0,
    project: options.Project = None,
    server: options.Server = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Draw the trace of a run: a line for every span, made of its log.

    Of a run that is still going too. With --otlp it is sent (again), and not drawn.
    """
    from handrail.cli.output import Output
    from handrail.cli.waterfall import draw, span_object

    output = Output(as_json=json)
    target = find(server, project, data)
    spans = with_client(target, lambda client: read(client, run))
    if not spans:
        raise CommandError(
            f"There is no trace of {run}: it was forgotten, or its goal cannot be read.",
            next=f"`{target.command('show', run)}` says what is left of it.",
        )
    if any(span.open for span in spans):
        output.note("the run has not ended: what goes on is drawn up to its last event")
    if otlp:
        asyncio.run(_send(spans, output))
        return
    for span in spans:
        output.json(span_object(span))
    output.lines(draw(spans, width=width or output.width, glyphs=output.glyphs))
    if spans:
        output.note(f"trace {spans[0].trace_id}")


async def read(client: Client, run: str) -> list[Span]:
    """Make the spans of a run of the events that it has."""
    from contextlib import aclosing

    from handrail.cli.watching import record_of
    from observability.environment import with_content
    from observability.spans import spans_of

    async with aclosing(client.watch(run, until_now=True)) as events:
        records = [record async for response in events if (record := record_of(response)) is not None]
    return spans_of(records[0].address.key, records, with_content=with_content()) if records else []


async def _send(spans: Sequence[Span], output: Output) -> None:
    from observability.export import ExportFailed, collector

    exporter = collector()
    try:
        await exporter.export(spans)
    except ExportFailed as error:
        raise CommandError(
            f"The collector at {exporter.where} did not take the trace.",
            why="Nobody listens there, or what does speaks no OTLP over gRPC.",
            next="Set OTEL_EXPORTER_OTLP_ENDPOINT to a collector, as http://localhost:4317.",
            code=ExitCode.UNAVAILABLE,
        ) from error
    finally:
        await exporter.close()
    trace_id = spans[0].trace_id if spans else ""
    output.json({"trace_id": trace_id, "spans": len(spans), "sent_to": exporter.where})
    output.line(f"sent {len(spans)} spans of trace {trace_id} to {exporter.where}")
