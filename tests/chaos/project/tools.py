"""Tools of errands. Each tells the world outside what it does; the world says what then befalls the tool.

`post` is keyed (the world takes a key once), `send` has no key but can be read back, `ring` can only be
surfaced, `look` reads. `hand` and `seal` wait for one and two approvals. `unpost`, `reclaim` and `unhand`
take back what `post`, `lend` and `hand` have done; the last waits for an approval too. A call and its effect
are two things in the world's ledger, so that a call which ends between them, and an effect which comes late,
can be told apart.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from typing import Annotated, Any

from pydantic import BaseModel, Field

from handrail.tool import ToolError, call, tool

WORLD_TIMEOUT_S = 5.0
TOOL_TIMEOUT_S = 2.0

Ref = Annotated[str, Field(min_length=1, max_length=200)]


class Posting(BaseModel):
    """An effect, as the world knows it."""

    ref: str
    number: int


class Seen(BaseModel):
    """What can be seen of an errand."""

    ref: str
    effects: int


def ask(op: str, **fields: Any) -> dict[str, Any]:
    """Ask the world; it outlives every process of a stack."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(WORLD_TIMEOUT_S)
        line.connect(os.environ["CHAOS_WORLD"])
        line.sendall(json.dumps({"op": op, "pid": os.getpid(), **fields}).encode() + b"\n")
        with line.makefile() as answer:
            found: dict[str, Any] = json.loads(answer.readline())
            return found


def suffer(fault: dict[str, Any] | None, where: str) -> None:
    """Let happen what the world's script says."""
    if fault is None or fault["where"] != where:
        return
    deed = fault["deed"]
    if deed in ("kill", "stop"):
        # Which worker it is, as the command line has it.
        child = sys.orig_argv[sys.orig_argv.index("_child") + 1]
        if ask("struck", name=fault["name"], child=child)["first"]:
            os.kill(os.getpid(), signal.SIGKILL if deed == "kill" else signal.SIGSTOP)
    elif deed == "hang":
        time.sleep(fault["seconds"])
    elif deed == "busy":
        raise ToolError("the world is busy", code="busy", transient=True)
    elif deed == "refuse":
        raise ToolError("the world refuses", code="refused")
    elif deed == "reset":
        raise ConnectionResetError("the world hung up")


def act(name: str, ref: str, key: str) -> Posting:
    """Make a call, and the effect."""
    fault = ask("call", tool=name, ref=ref, key=key)["fault"]
    suffer(fault, "before")
    effect = ask("effect", tool=name, ref=ref, key=key)
    suffer(fault, "after")
    return Posting(ref=ref, number=effect["number"])


@tool(effect="read")
def look(ref: Ref, text: str = "") -> Seen:
    """Look at an errand."""
    fault = ask("call", tool="look", ref=ref, key="")["fault"]
    suffer(fault, "before")
    return Seen(ref=ref, effects=ask("count", ref=ref)["effects"])


@tool(effect="read")
def find_posting(number: int) -> Posting | None:
    """Find an effect by its number; nothing where the world does not show it (yet)."""
    found = ask("find", number=number)["effect"]
    return None if found is None else Posting(ref=found["ref"], number=found["number"])


@tool(effect="read")
def reclaiming_by_key(key: str) -> Posting | None:
    """Find what was reclaimed under a key; nothing where there is nothing."""
    found = ask("find_key", tool="reclaim", key=key)["effect"]
    return None if found is None else Posting(ref=found["ref"], number=found["number"])


@tool(effect="read")
def sending_by_key(key: str) -> Posting | None:
    """Find what was sent under a key; nothing where there is nothing."""
    found = ask("find_key", tool="send", key=key)["effect"]
    return None if found is None else Posting(ref=found["ref"], number=found["number"])


_READS = {"posting": call("find_posting", number="output.number")}
_POST = "reads.posting != null && reads.posting.ref == args.ref"


_KEYED: dict[str, Any] = {
    "effect": "write",
    "idempotency": "keyed",
    "key": "key",
    "reads": _READS,
    "post": _POST,
    "timeout_s": TOOL_TIMEOUT_S,
}


@tool(**_KEYED, undo=call("unpost", ref="output.ref"))
def post(ref: Ref, key: str, text: str = "") -> Posting:
    """Post an errand: the world takes a key once."""
    return act("post", ref, key)


@tool(**_KEYED)
def post_copy(ref: Ref, key: str) -> Posting:
    """Post a copy: the same, under another name."""
    return act("post_copy", ref, key)


@tool(
    effect="irreversible",
    idempotency="none",
    key="key",
    readback="sending_by_key",
    settle_s=0.2,
    reads=_READS,
    post=_POST,
    timeout_s=TOOL_TIMEOUT_S,
)
def send(ref: Ref, key: str) -> Posting:
    """Send an errand: every call is another one, and it can be read back."""
    return act("send", ref, key)


@tool(effect="irreversible", idempotency="none", doubt=True, timeout_s=TOOL_TIMEOUT_S)
def ring(ref: Ref) -> Posting:
    """Ring: every call is another one, and nothing shows it."""
    return act("ring", ref, "")


@tool(**_KEYED, undo=call("reclaim", ref="args.ref"))
def lend(ref: Ref, key: str) -> Posting:
    """Lend something out."""
    return act("lend", ref, key)


@tool(**_KEYED, undo=call("unhand", ref="args.ref"))
def hand(ref: Ref, key: str) -> Posting:
    """Hand something over, if somebody has approved it."""
    return act("hand", ref, key)


@tool(**_KEYED)
def seal(ref: Ref, key: str) -> Posting:
    """Seal something, if two have approved it."""
    return act("seal", ref, key)


@tool(**_KEYED)
def unpost(ref: Ref, key: str) -> Posting:
    """Take a posting back: the world takes a key once."""
    return act("unpost", ref, key)


@tool(**_KEYED)
def unhand(ref: Ref, key: str) -> Posting:
    """Take back what was handed over, if somebody has approved it."""
    return act("unhand", ref, key)


@tool(
    effect="write",
    idempotency="none",
    key="key",
    readback="reclaiming_by_key",
    settle_s=0.2,
    reads=_READS,
    post=_POST,
    timeout_s=TOOL_TIMEOUT_S,
)
def reclaim(ref: Ref, key: str) -> Posting:
    """Claim back what was lent: every call is another one, and it can be read back."""
    return act("reclaim", ref, key)
