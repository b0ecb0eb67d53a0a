"""Who calls: the token that comes with a call, what its caller may call, and in whose name they speak.

The caller of the call that is being answered is known to whatever answers it, without being handed along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import grpc
import structlog

from core.caller import ADMIN, CALLS, PACKAGE, BadToken, Caller
from core.run import VERSION
from handrail.release import release
from handrail.v1 import event_pb2
from orchestrator.rpc_errors import Refusal

OPEN = "/grpc.health."
"""What balancers ask, and nobody has a token for."""
ANYBODY = Caller("", frozenset({ADMIN}))
"""Who calls where no tokens are checked."""
NOBODY = Caller("", frozenset())
"""Who calls where nobody has been asked: that is a defect, and gives no rights."""

_KEY, _SCHEME = "authorization", "bearer"
_HOW = "set HANDRAIL_TOKEN_FILE to a file with one; `handrail auth token` on the server's machine makes it"
_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
_logger = structlog.get_logger(__name__)


class Callers(Protocol):
    """Knows who has signed what."""

    def known(self, token: str) -> Caller | None:
        """Return whom a token names that was checked before, and is believed still."""

    def check(self, token: str) -> Caller:
        """Return whom a token names; raises BadToken. It may take its time."""


def caller() -> Caller:
    """Return who has made the call that is being answered."""
    return _caller.get()


@contextmanager
def answering(who: Caller) -> Iterator[None]:
    """Say who has made a call, while it is answered."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)


async def identify(
    callers: Callers, method: str, metadata: Iterable[tuple[str, Any]], tenants: Sequence[str] = ()
) -> Caller:
    """Return who makes a call; raises Refusal where that is nobody, or nobody who may, or may here."""
    token = _token(metadata)
    if not token:
        raise _unknown("NO_TOKEN", f"no token came with the call: {_HOW}")
    who = callers.known(token)
    if who is None:
        try:
            who = await asyncio.to_thread(callers.check, token)
        except BadToken as error:
            _logger.warning("auth.bad_token", method=method, reason=str(error))
            raise _unknown("BAD_TOKEN", f"the token is not believed: {error}") from None
    if tenants and who.tenant not in tenants:
        message = f"this gateway does not serve {who.tenant}, which {who.name} is of: ask the one that does"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_SERVED", message)
    if not who.may(method):
        call = method.removeprefix(PACKAGE)
        wanted = " or ".join(sorted(CALLS.get(call, ()))) or "what nobody has"
        message = f"{who.name} may not call {call}: it takes the role {wanted}"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "ROLE_NEEDED", message)
    return who


def written(event: event_pb2.Event, *, id: str, writer: str) -> event_pb2.Event:
    """Complete a command: who has written it, and who has called, as their token says; never the token."""
    who = caller()
    event.id, event.version, event.writer, event.handrail = id, VERSION, writer, release()
    event.caller, event.token_id = who.name, who.token_id
    # Where no tokens are checked nobody has been given a role.
    event.caller_roles.extend(sorted(who.roles) if who.name else ())
    return event


def in_the_name_of(said: str) -> str:
    """Return in whose name something is done: the caller's, or of whom they say, if they may."""
    who = caller()
    if said in ("", who.name):
        return who.name
    if who.speaks_for_all:
        return said
    message = f"you are {who.name}, and cannot speak for {said[:80]!a}: leave the name out, or be an admin"
    raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_YOU", message)


def _token(metadata: Iterable[tuple[str, Any]]) -> str:
    found = [value for name, value in metadata if name == _KEY]
    scheme, _, token = str(found[0]).partition(" ") if len(found) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == _SCHEME else ""


def _unknown(reason: str, message: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, reason, message)
