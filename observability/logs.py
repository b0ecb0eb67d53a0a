"""Structured logs: one JSON object a line, without local variables, which hold what users said.

Lines that are written while something of a run is handled say which: trace, run, step and attempt. Secrets
are taken out of every line, and what stands under a secret's name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, TextIO

import structlog

from core.redaction import masked
from handrail.secrets import redactor
from observability import names

_known: ContextVar[Mapping[str, str]] = ContextVar("handrail_logs", default=MappingProxyType({}))


def configure(file: TextIO) -> None:
    """Send this process's logs to a file, those of libraries and tools from warnings on."""
    shared: list[Any] = [
        _say_what_is_known,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(), _redact_text],
        logger_factory=structlog.WriteLoggerFactory(file=file),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(file)
    foreign = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
            _redact_text,
        ],
    )
    handler.setFormatter(foreign)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class bound:
    """Says in every line that is written within this context what is being handled.

    It is entered for every message, so it does as little as it can.
    """

    __slots__ = ("_more", "_token")

    def __init__(self, run: str, *, trace: str = "", step: str = "", attempt: str = "") -> None:
        known = (
            (names.LOG_TRACE, trace),
            (names.LOG_RUN, run),
            (names.LOG_STEP, step),
            (names.LOG_ATTEMPT, attempt),
        )
        self._more = {name: value for name, value in known if value}

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, str]] = _known.set({**_known.get(), **self._more})

    def __exit__(self, *cause: object) -> None:
        _known.reset(self._token)


def bind_trace(trace: str) -> None:
    """Say the trace too, from here on in this task, once it is known."""
    _known.set({**_known.get(), names.LOG_TRACE: trace})


def _say_what_is_known(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in _known.get().items():
        line.setdefault(name, value)
    return line


def _redact(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # What is not a text yet becomes one with the line, which `_redact_text` sees.
    found: MutableMapping[str, Any] = redactor().value(masked(line))
    return found


def _redact_text(logger: Any, method: str, line: Any) -> str:
    return redactor().text(str(line))
