"""The means of an attack, by name, and which calls of an injection are tried by them."""

from __future__ import annotations

from collections.abc import Mapping

from tests.hijack.world import Call, Injection

EXTRA = "extra calls"
SWAPPED = "swapped arguments"
REPLAN = "replans"
DECISIONS = "forged decisions"
ANSWERS = "forged results and verdicts"
PERMITS = "altered and reused permits"
DATA = "rewritten data"
TEXT = "instructions in tool output"
ERRORS = "instructions in error text"
MEANS = (EXTRA, SWAPPED, REPLAN, DECISIONS, ANSWERS, PERMITS, DATA, TEXT, ERRORS)

FIRST, LAST = "first", "last"
MAX_CALLS = 6
"""So many of an injection's calls are tried by each means: one of each tool."""


def strikes(injection: Injection, effects: Mapping[str, bool]) -> list[Call]:
    """Return the calls of an injection that change something, one of each tool."""
    found = {call.function: call for call in reversed(injection.calls) if effects.get(call.function)}
    return list(reversed(list(found.values())))[:MAX_CALLS]
