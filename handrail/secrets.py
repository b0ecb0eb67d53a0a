"""Secrets: resolved from their references where a tool is called, lent to a call, kept out of what it says.

`Secrets` are those of one toolbox. What this process has resolved it remembers, the values before too, since
nobody must see them: `redactor` is for what it prints, its logs and spans.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import redaction
from core.errors import HandrailError
from core.redaction import MAX_SECRET_BYTES, MIN_SECRET_CHARS, Redactor
from handrail.calling import InvalidArguments, InvalidOutput, ToolEscaped, ToolRaised, told
from handrail.tool import ToolError

DIRECTORY_ENV = "HANDRAIL_SECRETS_DIR"
DEFAULT_DIRECTORY = "/var/run/secrets/handrail"
MAX_REMEMBERED = 4
"""Values of one secret; those that it had before stay out of sight as well."""

Call = Callable[[Mapping[str, str]], Awaitable[Any]]
"""Calls a tool, to which it hands the values of secrets by name."""


class SecretMissing(HandrailError):
    """A secret cannot be had here; says which and where it was looked for, never what it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a secret can be had here, for people."""

    name: str
    reference: str
    # "" where it can.
    problem: str = ""
    # Others on this machine can read the file.
    exposed: Path | None = None


class _Memory:
    """What this process has resolved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], deque[str]] = {}
        self.redactor = redaction.NOTHING

    def keep(self, toolbox: str, values: Mapping[str, str]) -> None:
        """Remember values, before anybody gets them."""
        if all(value in self._values.get((toolbox, name), ()) for name, value in values.items()):
            return
        with self._lock:
            for name, value in values.items():
                held = self._values.setdefault((toolbox, name), deque(maxlen=MAX_REMEMBERED))
                if value not in held:
                    held.append(value)
            self.redactor = Redactor(
                (name, value) for (_, name), held in self._values.items() for value in held
            )


_memory = _Memory()


def redactor() -> Redactor:
    """Return what takes out every secret that this process has resolved."""
    return _memory.redactor


def remember(toolbox: str, values: Mapping[str, str]) -> None:
    """Keep values out of sight that somebody else has resolved and handed to this process."""
    _memory.keep(toolbox, values)


class Secrets:
    """The secrets of one toolbox, by reference."""

    def __init__(
        self,
        toolbox: str = "",
        references: Mapping[str, str] | None = None,
        directory: Path = Path(),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`directory` is the project's: paths are relative to it."""
        # "" where they are not a toolbox's.
        self._toolbox = toolbox
        self._references = dict(references or {})
        self._directory = directory
        self._environ = environ

    def resolve(self) -> dict[str, str]:
        """Return the values as they are now; raises SecretMissing for the first that cannot be had."""
        if not self._references:
            return {}
        values = {name: self._resolve(name, reference) for name, reference in self._references.items()}
        _memory.keep(self._toolbox, values)
        return values

    def missing(self) -> str:
        """Say what is wrong, where a secret cannot be had; else ""."""
        try:
            self.resolve()
        except SecretMissing as error:
            return str(error)
        return ""

    async def lend(self, call: Call) -> Any:
        """Make a call with the values; neither what it returns nor what it raises holds one of them."""
        values = self.resolve()
        try:
            output = await call(values)
        except Exception as error:
            clean = _without(error)
            if clean is error:
                raise
            raise clean from None
        return redactor().value(output)

    def look(self) -> Iterator[Finding]:
        """Say of each whether it can be had here, without keeping it."""
        for name, reference in self._references.items():
            problem = ""
            try:
                self._resolve(name, reference)
            except SecretMissing as error:
                problem = str(error)
            # Whoever mounts a Secret sees to its mode.
            path = self._path(reference) if reference.startswith("file:") else None
            yield Finding(name, reference, problem, path if path is not None and _is_exposed(path) else None)

    def _resolve(self, name: str, reference: str) -> str:
        # The key of a mind's belongs to no toolbox.
        where = (
            f"toolbox {self._toolbox}: secret {name} ({reference})"
            if self._toolbox
            else f"{name} ({reference})"
        )
        path = self._path(reference)
        if path is None:
            variable = reference.partition(":")[2]
            value = self._environ.get(variable)
            if value is None:
                raise SecretMissing(
                    f"{where}: {variable} is not set in the environment of this process; set it"
                )
        else:
            value = _read(path, where)
        if len(value) < MIN_SECRET_CHARS:
            raise SecretMissing(
                f"{where} is shorter than {MIN_SECRET_CHARS} characters: taking it out of what tools say "
                "would take innocent text along; use a longer one"
            )
        if len(value) > MAX_SECRET_BYTES:
            raise SecretMissing(
                f"{where} has more than {MAX_SECRET_BYTES} characters; refer to something smaller"
            )
        return value

    def _path(self, reference: str) -> Path | None:
        """Return the file that a reference means; None where it is a variable."""
        kind, _, rest = reference.partition(":")
        if kind == "file":
            return self._directory / rest
        if kind == "kubernetes":
            return Path(self._environ.get(DIRECTORY_ENV) or DEFAULT_DIRECTORY) / rest
        return None


NO_SECRETS = Secrets()
"""Of a toolbox that has none."""


def _read(path: Path, where: str) -> str:
    try:
        # A pipe that nobody writes to must not hold the call up.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SecretMissing(f"{where}: {path} is no file; refer to a file")
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretMissing(f"{where}: {path} cannot be read: {error.strerror}; put it there") from None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise SecretMissing(f"{where}: {path} is not UTF-8 text; encode it, in base64 for example") from None
    return text.removesuffix("\n").removesuffix("\r")


def _is_exposed(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def _without(error: Exception) -> Exception:
    """Return what a call raised, without secrets; the same object where there is none in it."""
    redact = redactor().text
    text = str(error)
    clean = redact(text)
    if isinstance(error, ToolError):
        code = redact(error.code)
        if (clean, code) == (text, error.code):
            return error
        return ToolError(clean, code=code, transient=error.transient, in_doubt=error.in_doubt)
    if (whole := redact(told(error))) == told(error):
        return error
    known = (InvalidArguments, InvalidOutput, TimeoutError, ToolEscaped)
    if isinstance(error, known):
        return next(one for one in known if isinstance(error, one))(clean)
    return ToolRaised(whole)
