"""A toolbox that has another secret, and wants one that is not its own."""

from __future__ import annotations

import os

from handrail.tool import secret, tool


@tool(effect="read")
def own() -> int:
    """Say how long its own secret is."""
    return len(secret("MOUNTED").get_secret_value())


@tool(effect="read")
def foreign() -> int:
    """Ask for a secret of another toolbox."""
    return len(secret("PIN").get_secret_value())


@tool(effect="read")
def variables() -> list[str]:
    """Name the variables of its process that have to do with secrets."""
    return [name for name in os.environ if name.startswith("SAFE_")]
