"""What the embedded broker cannot mend by itself: a stream that has once failed to write.

nats-server remembers the failure. When there is room again it still answers no publish to that stream, not
even with an error; its log tells of it, and a restart ends it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FAILED = b"JetStream failed to store"
MAX_READ_BYTES = 1 << 20
PROBE_BYTES = 1 << 20
"""Less room than that is not worth a restart: it would be gone at once."""
PROBE_FILE = "room.probe"


class BrokerLog:
    """Reads what is added to the broker's log, over its rotation."""

    def __init__(self, path: Path) -> None:
        """Begin at the end of what is there."""
        self._path = path
        self._place = path.stat().st_size if path.exists() else 0

    def tells_of_failure(self) -> bool:
        """Whether a write has failed since the last look."""
        with suppress(OSError), self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = self._place if self._place <= size else 0
            file.seek(max(start, size - MAX_READ_BYTES))
            said = file.read(MAX_READ_BYTES)
            # A line that is half written is read again.
            whole = said.rpartition(b"\n")[0]
            self._place = file.tell() - (len(said) - len(whole))
            return FAILED in whole
        return False


def has_room(directory: Path) -> bool:
    """Whether a directory takes writes, and some of them."""
    probe = directory / PROBE_FILE
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True
