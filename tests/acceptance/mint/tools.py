"""Tools that make spans of their own, and of which one call in ten fails."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from opentelemetry import trace

from handrail.tool import ToolError, call, tool

COINS = Path(__file__).parent / "coins"
STRIKE_S = 0.2

_tracer = trace.get_tracer("mint")


@tool(effect="read")
def get_die(number: int) -> int:
    """Look up the die of a coin."""
    with _tracer.start_as_current_span("open drawer"):
        return number


@tool(effect="read")
def get_coin(number: int) -> str | None:
    """Find a coin that was struck."""
    with _tracer.start_as_current_span("look at coin"):
        path = COINS / str(number)
        return path.read_text() if path.exists() else None


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    undo=call("melt_coin", number="args.number"),
    reads={"coin": call("get_coin", number="args.number")},
    post="reads.coin == output",
)
def strike_coin(number: int, key: str) -> str:
    """Strike a coin; every tenth die slips at first."""
    COINS.mkdir(exist_ok=True)
    slipped = COINS / f"{number}.slipped"
    with _tracer.start_as_current_span("strike") as span:
        span.set_attribute("mint.number", number)
        logging.getLogger("mint").warning("striking %d", number)
        if number % 10 == 3 and not slipped.exists():
            slipped.touch()
            raise ToolError("the die slipped", code="slipped", transient=True)
        time.sleep(STRIKE_S)
        (COINS / str(number)).write_text(key)
    return key


@tool(
    effect="write",
    idempotency="natural",
    reads={"coin": call("get_coin", number="args.number")},
    post="reads.coin == null",
)
def melt_coin(number: int) -> int:
    """Melt a coin down."""
    with _tracer.start_as_current_span("melt"):
        (COINS / str(number)).unlink(missing_ok=True)
    return number
