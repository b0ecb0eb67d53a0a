"""Structured logs: one JSON object a line, without local variables, which hold what users said."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog


def configure(file: TextIO) -> None:
    """Send this process's logs to a file; libraries' own from warnings on."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=file),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=file, level=logging.WARNING, force=True)
