"""Which model serves: folders of models beside each other, and a list of those that served.

    lam/champions               digests, one a line: the last one serves, and replaced the one before
    lam/0123456789ab/card.json
    lam/0123456789ab/weights.npz

It is looked at for every goal, and needs nothing that takes time to import.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import HandrailError

CHAMPIONS = "champions"
DIGEST_CHARS = 12
DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_CHARS}}}")


class BadModel(HandrailError):
    """A model that cannot be used: it is not whole, or not of this version."""


def champion(place: Path) -> Path | None:
    """Return the folder of the model that serves, None where none does; raises BadModel."""
    listed = champions(place)
    return place / listed[-1] if listed else None


def champions(place: Path) -> list[str]:
    """Return the digests of the models that have served, in their order; raises BadModel."""
    try:
        listed = (place / CHAMPIONS).read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise BadModel(f"{place / CHAMPIONS} cannot be read: {error}") from None
    if wrong := [line for line in listed if not DIGEST.fullmatch(line)]:
        raise BadModel(f"{place / CHAMPIONS} names {wrong[0]!r:.80}, which is no model's digest")
    return listed


def promote(place: Path, digest: str) -> None:
    """Have a model serve from now on; whether it can is for whoever promotes it to see."""
    if not DIGEST.fullmatch(digest):
        raise BadModel(f"{digest!r:.80} is no model's digest: {DIGEST_CHARS} of 0-9a-f")
    with _changing(place) as listed:
        if listed[-1:] != [digest]:
            listed.append(digest)


def roll_back(place: Path) -> str | None:
    """Have the model serve again that the present one replaced; None where there was none."""
    with _changing(place) as listed:
        if len(listed) < 2:
            return None
        listed.pop()
        return listed[-1]


@contextmanager
def _changing(place: Path) -> Iterator[list[str]]:
    """Change the list, one after another, and so that nobody reads half of it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / f".{CHAMPIONS}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listed = champions(place)
        before = list(listed)
        yield listed
        if listed != before:
            new = place / f".{CHAMPIONS}"
            with new.open("w") as file:
                file.write("".join(f"{digest}\n" for digest in listed))
                file.flush()
                os.fsync(file.fileno())
            new.replace(place / CHAMPIONS)
