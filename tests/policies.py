"""Policies out of functions, for tests that are about what follows from a ruling."""

from __future__ import annotations

from collections.abc import Callable

from core.policy import ALLOWED, Reason, Request, Ruling

LOST = Reason("lost", "it cannot be undone")
NEVER = Ruling("refuse", (Reason("never", "nobody may"),))


class FunctionPolicy:
    """A policy out of a function; whoever is called Eve may decide nothing."""

    def __init__(self, rule: Callable[[Request], Ruling], version: str = "v1") -> None:
        self.rule = rule
        self.version = version

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Anybody but Eve."""
        return NEVER if approver.startswith("eve") else ALLOWED


def asking(prefix: str, quorum: int = 1) -> FunctionPolicy:
    """Tools whose names begin so wait for so many; everything else may be done."""
    gate = Ruling("gate", (LOST,), quorum)
    return FunctionPolicy(lambda request: gate if request.contract.name.startswith(prefix) else ALLOWED)
