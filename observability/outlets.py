"""What a process that calls tools prints and logs: without the secrets that it has resolved.

In a process of its own its standard output and error go through a pipe, so that what libraries and children
of tools write is seen too. Beside a terminal `sys.stdout` and `sys.stderr` are wrapped: what is written past
them, by a child of a tool for one, is not seen. The log records of `logging` are redacted wherever they go.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from handrail.secrets import redactor

MAX_LINE_BYTES = 64 * 1024
"""Of a longer line the beginning goes out before its end is there."""
READ_BYTES = 64 * 1024
MAX_CHARACTER_BYTES = 4
"""Of a character in UTF-8."""
CLOSE_S = 2.0
"""How long an end waits for what is still on its way."""


@functools.cache
def guard_process() -> None:
    """Have all that this process and its children print go out without secrets; once is enough."""
    logging.setLogRecordFactory(_Record)
    pipe = _Pipe()
    atexit.register(pipe.close)


def guard_streams() -> Callable[[], None]:
    """Have what this process prints and logs go out without secrets; returns what ends it."""
    before = (sys.stdout, sys.stderr, logging.getLogRecordFactory())
    logging.setLogRecordFactory(_Record)
    sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)

    def restore() -> None:
        sys.stdout, sys.stderr = before[:2]
        logging.setLogRecordFactory(before[2])

    return restore


class _Record(logging.LogRecord):
    """A record that is redacted when it becomes text, traceback and all, whichever handler does it."""

    def getMessage(self) -> str:
        """Return the message."""
        return redactor().text(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The traceback as text, once a formatter has made it."""
        return self.__dict__.get("exc_text")

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self.__dict__["exc_text"] = redactor().text(text) if text else text


class _Stream:
    """A text stream, and what it is written goes on without secrets."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        """Write a text."""
        self._inner.write(redactor().text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Pipe:
    """Stands between this process's output and where it goes, and passes on line by line."""

    def __init__(self) -> None:
        _flush()
        # Two, since they may lead to different places.
        self._kept = {number: os.dup(number) for number in (1, 2)}
        self._threads = [self._divert(number, kept) for number, kept in self._kept.items()]

    def _divert(self, number: int, kept: int) -> threading.Thread:
        ours, theirs = os.pipe()
        os.dup2(theirs, number)
        os.close(theirs)
        thread = threading.Thread(target=_pass_on, args=(ours, kept), name=f"output-{number}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Give the output back, when what was printed has gone out; does not wait for children."""
        _flush()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
        for thread in self._threads:
            thread.join(CLOSE_S)


def _pass_on(source: int, target: int) -> None:
    try:
        _pass_lines(source, target)
    finally:
        # Were it open with nobody to read, whoever prints would wait for ever.
        os.close(source)


def _pass_lines(source: int, target: int) -> None:
    held = b""
    while chunk := os.read(source, READ_BYTES):
        whole, newline, held = (held + chunk).rpartition(b"\n")
        _write(target, _clean(whole) + newline)
        if len(held) > MAX_LINE_BYTES:
            # Its end may be the beginning of a secret.
            clean, keep = _clean(held), redactor().longest * MAX_CHARACTER_BYTES
            _write(target, clean[: len(clean) - keep])
            held = clean[len(clean) - keep :]
    _write(target, _clean(held))


def _clean(content: bytes) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    return redactor().text(text).encode("utf-8", "surrogateescape")


def _write(target: int, content: bytes) -> None:
    # A full disk must not stop who prints.
    with suppress(OSError):
        while content:
            content = content[os.write(target, content) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
