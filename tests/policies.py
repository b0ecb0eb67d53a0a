"""Policies out of functions, for tests that are about what follows from a ruling."""

from __future__ import annotations

from collections.abc import Callable

from core.policy import ALLOWED, Reason, Request, Ruling

LOST = Reason("lost", "it cannot be undone")
NEVER = Ruling("refuse", (Reason("never", "nobody may"),))


class FunctionPolicy:
    """A policy out of a function; whoever is called Eve may decide nothing."""

    def __init__(self, rule: Callable[[Request], Ruling], version: str = "v1") -> None:
        self._rule = rule
        self.version = version

    def rule(self, request: Request) -> Ruling:
        """Ask the function, of a request by which a ruling could be kept."""
        assert hash((request.unknown, request.untrusted, request.leaks, request.plan)) is not None
        return self._rule(request)

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Anybody but Eve."""
        return NEVER if approver.startswith("eve") else ALLOWED


def asking(prefix: str, quorum: int = 1) -> FunctionPolicy:
    """Tools whose names begin so wait for so many; everything else may be done."""
    gate = Ruling("gate", (LOST,), quorum)
    return FunctionPolicy(lambda request: gate if request.contract.name.startswith(prefix) else ALLOWED)
