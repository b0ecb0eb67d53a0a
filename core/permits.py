"""Permits: what of an action the decider signs, and what whoever relies on the action compares. Pure.

What is signed is an encoding of our own, of named fields in a fixed order, each with its length before it. It
is never protobuf, whose bytes may differ between two who mean the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core import failures, values
from core.ports import RunKey
from handrail.v1 import event_pb2, plan_pb2

_PREFIX = b"handrail permit 1\0"
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
    """Why an action may be done: by which rules, and at which gate exactly this was approved."""

    policy: str = ""
    gate: str = ""
    binding: str = ""
    rules: tuple[str, ...] = ()


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
    permit.policy, permit.gate, permit.binding = grounds.policy, grounds.gate, grounds.binding
    permit.rules.extend(grounds.rules)
    permit.expires.FromNanoseconds(expires_ns)


def sign(actions: Sequence[event_pb2.Action], signer: Signer) -> None:
    """Sign the actions of an event; the signature is in the last of them."""
    signature = signer.sign(message(actions))
    actions[-1].key_id, actions[-1].signature = signer.key_id, signature


def message(actions: Sequence[event_pb2.Action]) -> bytes:
    """Return what is signed of an event's actions: their permits, and all that these have no field for."""
    return _encode(_PREFIX, *(_encode(b"", *_said(action)) for action in actions))


def _said(action: event_pb2.Action) -> tuple[str | bytes, ...]:
    permit = action.permit
    return (
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
        permit.gate,
        permit.binding,
        permit.policy,
        f"{permit.expires.seconds}.{permit.expires.nanos}",
        f"{action.timeout.seconds}.{action.timeout.nanos}",
        action.post,
        action.replaces,
        str(action.original_sequence),
        action.follows,
        # Last, as many as there are: a permit of before there were any is signed as it was.
        *permit.rules,
    )


def pending_digest(pending: Mapping[str, plan_pb2.Argument]) -> bytes:
    """Return the digest of the references that are pending, by argument; empty where none is."""
    references = {name: argument.reference for name, argument in pending.items()}
    return hashlib.sha256(values.encode(references).encode()).digest() if references else b""


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
    return None


def foreign(actions: Sequence[event_pb2.Action], checker: Checker) -> event_pb2.Failure | None:
    """Say why the actions of an event are not the decider's; None where it has signed them.

    They are refused for the time being: the decider then authorises what it wants itself.
    """
    last = actions[-1]
    if not last.signature:
        return _for_now(
            f"the permit of {last.attempt} is not signed: it is not from this stack's decider, or from one "
            "before permits were signed; the decider authorises its own anew"
        )
    if last.key_id not in checker.key_ids:
        believed = ", ".join(sorted(checker.key_ids)) or "none"
        return _for_now(
            f"the permit of {last.attempt} is signed by key {last.key_id!r:.40}, and believed here are "
            f"{believed}: if that is a decider of this stack, add its public key to [permits] trusted and "
            "start again"
        )
    if not checker.check(last.key_id, message(actions), last.signature):
        return _for_now(
            f"the signature of {last.attempt} does not fit its permit: this stack's decider has not signed "
            "it; find out who else can write to the run's log"
        )
    return None


def refusal(
    action: event_pb2.Action,
    key: RunKey,
    toolbox: str,
    arguments: Mapping[str, Any],
    *,
    now_ns: int | None,
) -> event_pb2.Failure | None:
    """Say why an action is not what its permit is for; None where it is, and it is not `foreign` besides.

    `now_ns` is None where it does not matter that the permit has expired since.
    """
    found = mismatch(action, key, toolbox, arguments)
    if found is not None:
        return failures.permanent(failures.PERMIT, f"{found}: it is not what the decider authorised")
    if now_ns is not None and action.permit.expires.ToNanoseconds() <= now_ns:
        return _for_now("the permit has expired; if that goes on, set this machine's clock by the broker's")
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
