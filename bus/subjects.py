"""Subjects, built and parsed here and nowhere else.

ev.<shard>.<tenant>.<run>.cmd.<kind>
ev.<shard>.<tenant>.<run>.dec.ask.<role>.<pool>
ev.<shard>.<tenant>.<run>.dec.note.<kind>
ev.<shard>.<tenant>.<run>.dec.claim.<pool>.revoke.<attempt>
ev.<shard>.<tenant>.<run>.ans.<role>.<pool>.<kind>.<attempt>
timer.arm.<shard>.<tenant>.<run>.<id>      timer.due.<shard>.<tenant>.<run>
blob.<shard>.<tenant>.<run>.<sha256>.<chunk>
key.<shard>.<tenant>.<run>                  heard.key.<shard>.<tenant>.<run>
req.<hash>
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import cast

from core.ports import Address, Channel, Fence, RunKey

MAX_PARSED = 4_096
"""Subjects are kept in parts: most are met twice, when a message arrives and when it is read."""
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
RUN_ID = re.compile(r"r([0-9]{1,4})-[a-z0-9]{8,40}")
_SHARD = re.compile(r"[0-9]{1,9}")
_ONE = rf"\.{TOKEN.pattern}"
_SUBJECT = re.compile(rf"ev\.{_SHARD.pattern}{_ONE}{_ONE}\.(?:cmd|dec|ans)(?:{_ONE})+")


class BadSubject(ValueError):
    """A subject or a part of one that is not of the form above."""


def token(text: str) -> str:
    """Return `text` if it can be one token of a subject."""
    if not TOKEN.fullmatch(text):
        raise BadSubject(f"{text!r} cannot be part of a subject: use letters, digits, '_' and '-'")
    return text


def run_id(shard: int, unique: str) -> str:
    """Name a run; its id names its shard for life."""
    return f"r{shard}-{unique}"


def run_key(run: str, tenant: str) -> RunKey:
    """Return where a run lives, from its id alone."""
    match = RUN_ID.fullmatch(run)
    if match is None:
        raise BadSubject(f"{run!r} is not a run id (they look like r0-01k9x3...)")
    return RunKey(int(match.group(1)), token(tenant), run)


def ev_prefix(key: RunKey) -> str:
    """Return what every subject of a run's log begins with."""
    return f"ev.{key.shard}.{key.tenant}.{key.run}"


def run_filter(key: RunKey) -> str:
    """Match the whole log of a run."""
    return f"{ev_prefix(key)}.>"


def build(address: Address) -> str:
    """Return the subject of an address."""
    return ".".join((ev_prefix(address.key), address.channel, *map(token, address.topic)))


@lru_cache(MAX_PARSED)
def parse(subject: str) -> Address:
    """Take a subject of a run's log apart.

    The broker lets an agent write tokens that none of us would: a record of them could be shown to nobody.
    """
    if not _SUBJECT.fullmatch(subject):
        raise BadSubject(f"{subject!r} is not a subject of a run's log")
    parts = subject.split(".")
    key = RunKey(int(parts[1]), parts[2], parts[3])
    return Address(key, cast(Channel, parts[4]), tuple(parts[5:]))


def run_at(subject: str) -> RunKey | None:
    """Return the run whose key lies on a subject, or whose event or large value; None where it is none."""
    parts = subject.split(".")
    if len(parts) < 4 or parts[0] not in ("key", "ev", "blob") or not parts[1].isascii():
        return None
    with suppress(ValueError):
        run = run_key(parts[3], parts[2])
        return run if str(run.shard) == parts[1] else None
    return None


def first(address: Address) -> Fence:
    """Fence the first and only event on a subject (a submission)."""
    return Fence(build(address), 0)


def decisions(key: RunKey, last: int) -> Fence:
    """Fence a decision against every other decision of its run."""
    return Fence(f"{ev_prefix(key)}.dec.>", last)


def everything(key: RunKey, last: int) -> Fence:
    """Fence a decision against all that is said in its run."""
    return Fence(run_filter(key), last)


def claim(key: RunKey, pool: str, attempt: str) -> Fence:
    """Fence an intent against a revoke of the same attempt, and either against itself."""
    return Fence(claim_filter(key, pool, attempt), 0)


def claim_filter(key: RunKey, pool: str, attempt: str) -> str:
    """Match what settles the claim of an attempt: its intent, or its revoke."""
    return f"{ev_prefix(key)}.*.*.{token(pool)}.*.{token(attempt)}"


def timer_arm(key: RunKey, timer: str) -> str:
    """Name a timer of a run."""
    return f"timer.arm.{key.shard}.{key.tenant}.{key.run}.{token(timer)}"


def timer_due(key: RunKey) -> str:
    """Where a run's ticks arrive."""
    return f"timer.due.{key.shard}.{key.tenant}.{key.run}"


def parse_due(subject: str) -> RunKey:
    """Return the run whose tick this is."""
    parts = subject.split(".")
    if len(parts) != 5 or parts[:2] != ["timer", "due"] or not _SHARD.fullmatch(parts[2]):
        raise BadSubject(f"{subject!r} is not the subject of a tick")
    return RunKey(int(parts[2]), parts[3], parts[4])


def blob_chunk(key: RunKey, sha256: str, chunk: int) -> str:
    """Where one chunk of a large value lies."""
    return f"blob.{key.shard}.{key.tenant}.{key.run}.{sha256}.{chunk}"


def request_cell(cell: str) -> str:
    """Where a submission's request id is kept."""
    return f"req.{token(cell)}"


def ev_stream(shard: int) -> str:
    """Name the stream of a shard's run logs."""
    return f"EV_{shard}"


def blob_stream(shard: int) -> str:
    """Name the stream of a shard's large values."""
    return f"BLOB_{shard}"


def key_cell(key: RunKey) -> str:
    """Name the cell of a run's key."""
    return f"key.{key.shard}.{key.tenant}.{key.run}"


TIMER_STREAM = "TIMER"
REQUEST_STREAM = "REQ"
KEY_STREAM = "KEY"
HEARD = "heard"
"""Below this the broker tells all who may hear it of what was stored elsewhere."""
HEARD_KEYS = f"{HEARD}.key.*.*.*"
