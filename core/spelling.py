"""The nearest known name, for messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_NAME_CHARS = 64
MAX_KNOWN = 1_000
_SHOWN = 8


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, if any is like it at all."""
    names = [candidate for candidate, _ in zip(sorted(known), range(MAX_KNOWN), strict=False)]
    found = difflib.get_close_matches(name[:MAX_NAME_CHARS], names, n=1)
    return found[0] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?", or what there is to choose from, to end a message with."""
    names = sorted(candidate for candidate in known if candidate.isprintable())
    found = nearest(name, names)
    if found is not None:
        return f"; did you mean '{found}'?"
    if not names:
        return "; there are none"
    return "; there are: " + ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
