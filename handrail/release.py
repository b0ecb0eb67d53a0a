"""Which Handrail this is, as its installation says: what stands in every event that it writes."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of


@functools.cache
def release() -> str:
    """Return the version of Handrail, "unknown" where it was never installed."""
    try:
        return version_of("handrail")
    except PackageNotFoundError:
        return "unknown"
