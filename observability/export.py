"""Where traces go: to a collector by OTLP over gRPC, or without one to a file beside the log.

An export is accepted, or `ExportFailed` is raised and whoever asked tries again: the spans have the same ids
then, so nothing comes twice. The SDK is loaded when it is needed and not before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from core.errors import HandrailError
from observability import environment, otlp
from observability.span import Span

MAX_SPANS = 200
"""Of one request to a collector; with content they stay within the 4 MiB that gRPC takes."""
MAX_FILE_BYTES = 64 * 1024 * 1024
KEPT_FILES = 1
FILE = "traces.jsonl"


class ExportFailed(HandrailError):
    """The spans were not accepted."""


class Exporter(Protocol):
    """Takes spans."""

    @property
    def where(self) -> str:
        """Where they go, for people."""
        ...

    async def export(self, spans: Sequence[Span]) -> None:
        """Return when they are accepted; raise `ExportFailed` where they are not."""
        ...

    async def close(self) -> None:
        """Give up what is under way, and let go."""
        ...


class NoExporter:
    """Takes spans and forgets them."""

    where = ""

    async def export(self, spans: Sequence[Span]) -> None:
        """Forget them."""

    async def close(self) -> None:
        """Do nothing."""


class FileExporter:
    """Appends spans to a file of OTLP/JSON, a request a line; a full file makes place for another."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    @property
    def where(self) -> str:
        """The file."""
        return str(self._path)

    async def export(self, spans: Sequence[Span]) -> None:
        """Write them in one piece."""
        if spans:
            await asyncio.to_thread(self._append, otlp.text(spans, environment.resource) + "\n")

    def _append(self, line: str) -> None:
        try:
            with suppress(FileNotFoundError):
                if self._path.stat().st_size + len(line) > self._max_bytes:
                    self._path.replace(self._path.with_name(f"{self._path.name}.{KEPT_FILES}"))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8", errors="replace", opener=_private) as file:
                file.write(line)
        except OSError as error:
            raise ExportFailed(f"traces cannot be written to {self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is held open."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


class OtlpExporter:
    """Sends spans to a collector, one request at a time, as the standard variables say."""

    def __init__(self, address: str) -> None:
        self._address = address
        # The SDK's exporter blocks; of a thread of its own nobody waits for the end.
        self._thread = ThreadPoolExecutor(1, "export-traces")
        self._sdk: Any = None
        self._closed = False

    @property
    def where(self) -> str:
        """The collector."""
        return self._address

    async def export(self, spans: Sequence[Span]) -> None:
        """Send them, in as many requests as it takes."""
        for start in range(0, len(spans), MAX_SPANS):
            await self._send(spans[start : start + MAX_SPANS])

    async def _send(self, spans: Sequence[Span]) -> None:
        if self._closed:
            raise ExportFailed("this exporter has been closed")
        accepted = await asyncio.get_running_loop().run_in_executor(self._thread, self._send_blocking, spans)
        if not accepted:
            raise ExportFailed(
                f"the collector at {self._address} did not take the traces: is it running, and does it speak "
                "OTLP over gRPC there? They are sent again"
            )

    def _send_blocking(self, spans: Sequence[Span]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        if self._sdk is None:
            self._sdk = span_exporter()
        if self._closed:
            return False
        return bool(self._sdk.export(spans) is SpanExportResult.SUCCESS)

    async def close(self) -> None:
        """Cancel what is on its way."""
        self._closed = True
        if self._sdk is not None:
            self._sdk.shutdown()
        self._thread.shutdown(wait=False, cancel_futures=True)


def exporter(directory: Path, environ: Mapping[str, str] = os.environ) -> Exporter:
    """Return where traces go; `directory` is for the file."""
    way = environment.way("traces", environ)
    if way == "none":
        return NoExporter()
    if way == "file":
        return FileExporter(directory / FILE)
    return collector(environ)


def collector(environ: Mapping[str, str] = os.environ) -> OtlpExporter:
    """Return the way to the collector that the environment names, or to where one usually is."""
    environment.check_protocol("traces", environ)
    return OtlpExporter(environment.endpoint("traces", environ))


def span_exporter() -> Any:
    """Return the SDK's exporter, which takes our spans as they are."""
    from grpc import StatusCode
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    class OwnSpans(OTLPSpanExporter):
        """Connects, retries and reads the environment as the SDK does; the message is made here."""

        def _translate_data(self, data: Iterable[Span]) -> Any:  # type: ignore[override]
            return otlp.message(data, environment.resource)

    options = environment.channel_options(environment.endpoint("traces"))
    # Whoever exports tries again, and not while others wait: here nothing is retried (no error is an OK).
    never = (StatusCode.OK,)
    return OwnSpans(channel_options=options or None, retryable_error_codes=never)  # type: ignore[arg-type]
