"""The notary's copy of the runs' keys, without which nobody could read its copy of the log.

A line for each run, all of one form, so that a key can be overwritten where it stands. What it says is
neither signed for nor in any proof: what a key does not decrypt is none of the run's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from core.ports import RunKey
from handrail.cipher import KEY_BYTES
from orchestrator.book import BadBook

KEYS_FILE = "keys"
_HEX = 2 * KEY_BYTES
_GONE = b"0" * _HEX
"""In place of a key that was deleted."""


class KeyCopy:
    """The keys of a shard's runs, in the book of its events."""

    def __init__(self, book: Path) -> None:
        """Read what there is; raises BadBook where it is not of the form. A last line may be half written."""
        self._path = book / KEYS_FILE
        self._lines: dict[RunKey, int] = {}
        text = b""
        with suppress(FileNotFoundError):
            text = self._path.read_bytes()
        self._end = text.rfind(b"\n") + 1
        at = 0
        for line in text[: self._end].splitlines(keepends=True):
            try:
                whole = len(bytes.fromhex(line[:_HEX].decode())) == KEY_BYTES
                _, shard, tenant, name = line[_HEX:].decode().rstrip("\n").split(" ")
                run = RunKey(int(shard), tenant, name)
            except ValueError:
                whole = False
            # A second line of a run would keep its key when the first is overwritten.
            if not whole or run in self._lines:
                raise BadBook(
                    f"{self._path} cannot be read at byte {at}: it was damaged or edited. Move it elsewhere: "
                    "the next start makes it anew of the broker's keys, where the broker has them"
                )
            self._lines[run] = at
            at += len(line)

    def __contains__(self, run: RunKey) -> bool:
        return run in self._lines

    def add(self, found: Mapping[RunKey, bytes]) -> None:
        """Write keys down, durably; an empty one was deleted."""
        lines = [(run, _line(run, key)) for run, key in found.items() if run not in self._lines]
        if not lines:
            return
        with self._path.open("ab") as file:
            file.truncate(self._end)
            file.write(b"".join(line for _, line in lines))
            file.flush()
            os.fsync(file.fileno())
        self._path.chmod(0o600)
        for run, line in lines:
            self._lines[run] = self._end
            self._end += len(line)

    def erase(self, runs: Iterable[RunKey]) -> None:
        """Overwrite the keys of runs, durably."""
        self.replace({run: b"" for run in runs if run in self._lines})

    def replace(self, found: Mapping[RunKey, bytes]) -> None:
        """Write other keys over those of runs that are there, durably."""
        if not found:
            return
        with self._path.open("r+b") as file:
            for run, key in found.items():
                file.seek(self._lines[run])
                file.write(_said(key))
            file.flush()
            os.fsync(file.fileno())

    def kept(self) -> Iterator[tuple[RunKey, bytes]]:
        """Yield every run with its key, an empty one where it was deleted."""
        if not self._lines:
            return
        text = self._path.read_bytes()
        for run, at in self._lines.items():
            said = text[at : at + _HEX]
            yield run, b"" if said == _GONE else bytes.fromhex(said.decode())


def key_in(book: Path, run: RunKey) -> bytes:
    """Return the key that the copy has of a run; empty where it has none any more. Raises BadBook."""
    return next((key for one, key in KeyCopy(book).kept() if one == run), b"")


def _line(run: RunKey, key: bytes) -> bytes:
    return _said(key) + f" {run.shard} {run.tenant} {run.run}\n".encode()


def _said(key: bytes) -> bytes:
    return key.hex().encode() if key else _GONE
