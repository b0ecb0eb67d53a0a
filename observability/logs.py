"""Structured logs: one JSON object a line, without local variables, which hold what users said.

Lines that are written while something of a run is handled say which: trace, run, step and attempt.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog

from observability import names


def configure(file: TextIO) -> None:
    """Send this process's logs to a file, those of libraries and tools from warnings on."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file=file),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(file)
    foreign = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler.setFormatter(foreign)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def bound(run: str, *, trace: str = "", step: str = "", attempt: str = "") -> AbstractContextManager[None]:
    """Say in every line that is written within this context what is being handled."""
    known = {names.LOG_TRACE: trace, names.LOG_RUN: run, names.LOG_STEP: step, names.LOG_ATTEMPT: attempt}
    return structlog.contextvars.bound_contextvars(**{name: value for name, value in known.items() if value})


def bind_trace(trace: str) -> None:
    """Say the trace too, from here on in this task, once it is known."""
    structlog.contextvars.bind_contextvars(**{names.LOG_TRACE: trace})
