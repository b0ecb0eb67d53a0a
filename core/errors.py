"""The one error root."""

from __future__ import annotations


class HandrailError(Exception):
    """What every error of Handrail's own derives from; its text says what happened and what to do."""
