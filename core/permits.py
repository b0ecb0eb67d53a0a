"""Permits: what of an action the decider signs, and what whoever relies on the action compares. Pure.

What is signed is an encoding of our own, of named fields in a fixed order, each with its length before it. It
is never protobuf, whose bytes may differ between two who mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from core import failures, values
from core.ports import RunKey
from handrail.v1 import event_pb2, plan_pb2

_PERMIT = b"handrail permit 1\0"
_TERMS = b"handrail terms 1\0"
_LENGTH_BYTES = 4


class Signer(Protocol):
    """The decider's key."""

    @property
    def key_id(self) -> str:
        """Name the key, as those who check know it."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        ...


class Checker(Protocol):
    """The keys of those who are believed to be the decider."""

    @property
    def key_ids(self) -> Collection[str]:
        """Name the keys."""
        ...

    def check(self, key_id: str, message: bytes, signature: bytes) -> bool:
        """Say whether the key of that name has signed exactly this message."""
        ...


@dataclass(frozen=True, slots=True)
class Grounds:
    """Why an action may be done: the policy's version, and the gate at which exactly this was approved."""

    policy: str = ""
    gate: str = ""
    binding: str = ""


def bind(
    action: event_pb2.Action,
    key: RunKey,
    toolbox: str,
    arguments: Mapping[str, Any],
    grounds: Grounds,
    expires_ns: int,
) -> None:
    """Give an action its permit, which has yet to be signed; `arguments` are those that it carries."""
    permit = action.permit
    permit.tenant, permit.run, permit.toolbox = key.tenant, key.run, toolbox
    permit.step, permit.attempt, permit.tool = action.step, action.attempt, action.tool
    permit.kind, permit.key, permit.resolves = action.kind, action.key, action.resolves
    permit.arguments_sha256 = values.arguments_digest(arguments)
    permit.pending_sha256 = pending_digest(action.pending)
    permit.terms_sha256 = terms_digest(action)
    permit.policy, permit.gate, permit.binding = grounds.policy, grounds.gate, grounds.binding
    permit.expires.FromNanoseconds(expires_ns)


def sign(action: event_pb2.Action, signer: Signer) -> None:
    """Sign an action's permit."""
    action.key_id, action.signature = signer.key_id, signer.sign(message(action.permit))


def message(permit: event_pb2.Permit) -> bytes:
    """Return what is signed of a permit: all of it."""
    return _encode(
        _PERMIT,
        permit.run,
        permit.tenant,
        permit.step,
        permit.attempt,
        permit.tool,
        permit.toolbox,
        str(permit.kind),
        permit.key,
        str(permit.resolves),
        permit.arguments_sha256,
        permit.pending_sha256,
        permit.terms_sha256,
        str(permit.expires.ToNanoseconds()),
        permit.gate,
        permit.binding,
        permit.policy,
    )


def pending_digest(pending: Mapping[str, plan_pb2.Argument]) -> bytes:
    """Return the digest of the references that are pending, by argument; empty where none is."""
    references = {name: argument.reference for name, argument in pending.items()}
    return hashlib.sha256(values.encode(references).encode()).digest() if references else b""


def terms_digest(action: event_pb2.Action) -> bytes:
    """Return the digest of what an action says that its permit has no field for."""
    said = _encode(
        _TERMS,
        str(action.timeout.ToNanoseconds()),
        action.post,
        action.replaces,
        str(action.original_sequence),
        action.follows,
    )
    return hashlib.sha256(said).digest()


def mismatch(action: event_pb2.Action, key: RunKey, toolbox: str, arguments: Mapping[str, Any]) -> str | None:
    """Say where an action is not the one that its permit is for; None where it is, word for word.

    `key` and `toolbox` are where it was found, `arguments` those that it carries, loaded.
    """
    permit = action.permit
    compared: tuple[tuple[str, Any, Any], ...] = (
        ("run", permit.run, key.run),
        ("tenant", permit.tenant, key.tenant),
        ("step", permit.step, action.step),
        ("attempt", permit.attempt, action.attempt),
        ("tool", permit.tool, action.tool),
        ("toolbox", permit.toolbox, toolbox),
        ("kind", permit.kind, action.kind),
        ("idempotency key", permit.key, action.key),
        ("resolves", permit.resolves, action.resolves),
    )
    for name, permitted, found in compared:
        if permitted != found:
            return f"the permit is for {name} {permitted!r:.100}, and the action has {found!r:.100}"
    if permit.arguments_sha256 != values.arguments_digest(arguments):
        return "the arguments are not those that were permitted"
    if permit.pending_sha256 != pending_digest(action.pending):
        return "what is pending is not what was permitted"
    if permit.terms_sha256 != terms_digest(action):
        return "timeout, postcondition or what it replaces or follows are not those that were permitted"
    return None


def refusal(
    action: event_pb2.Action,
    key: RunKey,
    toolbox: str,
    arguments: Mapping[str, Any],
    checker: Checker,
    *,
    now_ns: int | None,
) -> event_pb2.Failure | None:
    """Say why an action must not be relied on; None where the decider permitted exactly it.

    What is not the decider's is refused for the time being: the decider then authorises what it wants itself.
    `now_ns` is None where it does not matter that the permit has expired since.
    """
    attempt, signed_by = action.attempt, action.key_id
    if not action.signature:
        return _for_now(
            f"the permit of {attempt} is not signed: it is not from this stack's decider, or from one before "
            "permits were signed; the decider authorises its own anew"
        )
    if signed_by not in checker.key_ids:
        return _for_now(
            f"the permit of {attempt} is signed by key {signed_by!r:.40}, and believed here are "
            f"{', '.join(sorted(checker.key_ids)) or 'none'}: if that is a decider of this stack, add its "
            "public key to [permits] trusted and start again"
        )
    if not checker.check(signed_by, message(action.permit), action.signature):
        return _for_now(
            f"the signature of {attempt} does not fit its permit: this stack's decider has not signed it; "
            "find out who else can write to the run's log"
        )
    found = mismatch(action, key, toolbox, arguments)
    if found is not None:
        return failures.permanent(failures.PERMIT, f"{found}: it is not what the decider authorised")
    if now_ns is not None and action.permit.expires.ToNanoseconds() <= now_ns:
        return _for_now(
            "the permit has expired; if that goes on, compare this machine's clock with the broker's"
        )
    return None


def _for_now(text: str) -> event_pb2.Failure:
    return failures.transient(failures.PERMIT, text)


def _encode(prefix: bytes, *fields: str | bytes) -> bytes:
    """Put fields together so that no others have the same bytes."""
    parts = [prefix]
    for one in fields:
        data = one.encode() if isinstance(one, str) else one
        parts += [len(data).to_bytes(_LENGTH_BYTES, "big"), data]
    return b"".join(parts)
