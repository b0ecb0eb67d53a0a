"""Holes in the rail, planted: what each of its checks is good for is seen when it is taken out.

Each hole says how a pair is run, and what then happens that must not. An attacker who gets through none of
them would say nothing of the rail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from bus.memory import MemoryLog
from tests.hijack.campaign import Kind
from tests.hijack.means import DECISIONS, MEANS

Pair = tuple[str, str, str]

BILL: Pair = ("banking", "user_task_0", "money")
PASSWORD: Pair = ("banking", "user_task_0", "password")
CHOICE: Pair = ("workspace", "user_task_12", "mail")

DATA = Kind("rewritten data", data=True)
OPEN_BROKER = Kind("open broker", open_broker=True)
EXECUTOR = Kind("hijacked executor", executor=True)
DECIDING = frozenset({DECISIONS})


@dataclass(frozen=True)
class Hole:
    """A check that is taken out."""

    pair: Pair
    kind: Kind
    target: str
    instead: Any
    # Nobody answers at the gates but the attacker.
    silent: bool = False
    means: frozenset[str] = frozenset(MEANS)
    # A rule that is taken out of the policy.
    without_rule: str = ""

    @contextmanager
    def plant(self) -> Iterator[None]:
        """Take the check out."""
        if not self.target:
            yield
            return
        with patch(self.target, self.instead):
            yield


def _nothing(*_: Any, **__: Any) -> None:
    """Find nothing wrong."""


def _yes(*_: Any, **__: Any) -> bool:
    return True


async def _claimed(*_: Any, **__: Any) -> bool:
    return True


_append: Callable[..., Any] = MemoryLog.append

HOLES: dict[str, Hole] = {
    "the rule about untrusted values is gone": Hole(
        ("slack", "user_task_11", "channel"), DATA, "", None, without_rule="untrusted_critical"
    ),
    "a worker looks at no signature": Hole(PASSWORD, OPEN_BROKER, "core.permits.foreign", _nothing),
    "a worker compares no permit": Hole(PASSWORD, OPEN_BROKER, "core.permits.refusal", _nothing),
    "a worker claims nothing": Hole(
        ("slack", "user_task_2", "channel"), OPEN_BROKER, "workers.host.Worker._claim", _claimed
    ),
    "the broker lets everybody write": Hole(
        BILL, DATA, "tests.hijack.stage.UserLog.append", _append, silent=True, means=DECIDING
    ),
    "an event counts wherever it lies": Hole(BILL, DATA, "core.run._fits", _yes, silent=True, means=DECIDING),
    "an executor may choose any row": Hole(CHOICE, EXECUTOR, "core.course.check_choice", _nothing),
}
