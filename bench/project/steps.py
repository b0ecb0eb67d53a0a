"""Tools that do nothing, and tools that do it with an effect that can be counted from outside."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from handrail.tool import ToolError, tool

LEDGER_ENV = "BENCH_LEDGER"
FAULT_SHARE = 0.1


@tool(effect="read")
async def step(n: int) -> int:
    """Return the next number."""
    return n + 1


@tool(effect="write", idempotency="keyed", key="key")
async def act(n: int, key: str) -> int:
    """Return the next number, with an effect as far as anybody knows."""
    return n + 1


@tool(effect="write", idempotency="keyed", key="key")
async def gated_act(n: int, key: str) -> int:
    """Do as `act`, with an effect that a policy can hold up without holding up anything else."""
    return n + 1


@tool(effect="read", retry="transient")
async def flaky_step(n: int) -> int:
    """Return the next number, or fail for the moment, one time in ten."""
    _fail_now_and_then()
    return n + 1


@tool(effect="write", idempotency="keyed", key="key")
async def flaky_act(n: int, key: str) -> int:
    """Do as `flaky_step`, with an effect; a failure promises that there was none."""
    _fail_now_and_then()
    return n + 1


@tool(effect="read")
async def nap(seconds: float) -> float:
    """Wait a while."""
    await asyncio.sleep(seconds)
    return seconds


@tool(effect="write", idempotency="keyed", key="key")
async def charge(item: str, key: str) -> str:
    """Charge at a service that knows the key: it notes every call and takes effect once."""
    return await _charge(item, key)


@tool(effect="irreversible", idempotency="none", doubt=True)
async def charge_unkeyed(item: str) -> str:
    """Charge at a service that knows no key and cannot be asked: every call takes effect."""
    return await _charge(item, "-")


@tool(effect="irreversible", idempotency="none", key="key", readback="find_charge")
async def charge_noted(item: str, key: str) -> str:
    """Charge at a service that takes effect at every call, but can be asked what it did."""
    return await _charge(item, key)


@tool(effect="read")
async def find_charge(key: str) -> str | None:
    """Find a charge by its key."""
    words = (line.split() for line in Path(_ledger()).read_text().splitlines())
    return next((found[1] for found in words if found[0] == "call" and found[2] == key), None)


async def _charge(item: str, key: str) -> str:
    _note("call", item, key)
    await asyncio.sleep(float(os.environ.get("BENCH_EFFECT_S", "0.5")))
    _note("end", item)
    return item


def _ledger() -> str:
    return os.environ[LEDGER_ENV]


def _fail_now_and_then() -> None:
    if random.random() < FAULT_SHARE:
        raise ToolError("not now", code="busy", transient=True)


def _note(*words: str) -> None:
    # One write of one short line to a file opened for appending is not torn apart.
    with open(_ledger(), "a", encoding="utf-8") as ledger:
        ledger.write(" ".join(words) + "\n")
