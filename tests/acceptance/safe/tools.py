"""Tools that spill their secrets wherever they can, and with each a text that is no secret: the control."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from opentelemetry import trace
from pydantic import BaseModel

from handrail.tool import ToolError, call, secret, tool

HERE = Path(__file__).parent / "world"
CONTROL = "Nq4LuckyControlText8Zr"

_tracer = trace.get_tracer("safe")


class Spilt(BaseModel):
    """A secret in many forms."""

    open: bool = False
    id: str = ""
    plain: str = ""
    fields: dict[str, str] = {}
    encoded: list[str] = []


def spoken() -> str:
    """All that must not be heard, and the control."""
    pin, word = secret("PIN").get_secret_value(), secret("PASS").get_secret_value()
    return f"{pin} {word} {CONTROL}"


def spill() -> str:
    """Say it in every way but the call's own output."""
    said = spoken()
    print("printed", said)
    print("on stderr", said, file=sys.stderr)
    logging.getLogger("safe").warning("logged %s", said, extra={"also": said})
    structlog.get_logger("safe").warning("structured", value=said, nested={"list": [said]})
    try:
        raise ValueError(f"caught {said}")
    except ValueError:
        logging.getLogger("safe").exception("with a traceback")
        structlog.get_logger("safe").exception("with a traceback")
    with _tracer.start_as_current_span(
        f"spilling {said}", attributes={"value": said, "parts": (said, "b")}
    ) as span:
        span.add_event("spilt", {"value": said})
        span.set_attribute("api_key", f"masked by its name {CONTROL}")
        span.record_exception(ValueError(said))
    if os.environ.get("SPILL_DESCRIPTORS"):
        # Past `sys.stdout`, as libraries and children do.
        os.write(1, f"written {said}\n".encode())
        subprocess.run(["echo", "inherited", said], check=True)
    return said


def first_time(what: str) -> bool:
    """Whether this has not been asked before."""
    HERE.mkdir(exist_ok=True)
    try:
        (HERE / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@tool(effect="read")
def look() -> Spilt:
    """Return it in many forms."""
    said = spill()
    shown = subprocess.run(["echo", said], check=True, capture_output=True, text=True).stdout
    raw = [f"{before}{said}".encode() for before in ("", "u", "us")]
    encoded = [base64.b64encode(text).decode() for text in raw]
    encoded += [base64.urlsafe_b64encode(raw[0]).decode(), quote(said), quote(said, safe=""), repr(said)]
    return Spilt(plain=said, fields={said: "in a key", "shown": shown}, encoded=encoded)


@tool(effect="read")
def repeat(text: str) -> str:
    """Return what it is given, and more."""
    return f"{text} and {spill()}"


@tool(effect="read")
def much() -> list[str]:
    """Return more than stands in an event."""
    return [f"{number} {spoken()}" for number in range(3_000)]


@tool(effect="read")
def look_at_door() -> Spilt:
    """Return whether the safe is open."""
    return Spilt(open=(HERE / "open").exists(), plain=spill())


@tool(effect="read")
def find_opening(key: str) -> Spilt | None:
    """Find an opening by its key."""
    said = spill()
    return Spilt(open=True, plain=said) if (HERE / "opened").exists() else None


@tool(effect="read")
def fail_to_look(id: str = "") -> Spilt:
    """Raise with it."""
    raise RuntimeError(f"cannot look with {spill()}") from KeyError(spoken())


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    reads={"door": call("look_at_door"), "after": call("look_at_door")},
    pre="!reads.door.open",
    post="reads.after.open",
    undo=call("close_safe", id="output.id", was="reads.door.plain"),
)
def open_safe(key: str) -> Spilt:
    """Open it, at the second or third try."""
    said = spill()
    if first_time("jammed"):
        raise ToolError(f"jammed: {said}", code=said, transient=True)
    if first_time("crashed"):
        raise OSError(f"who knows: {said}")
    (HERE / "open").touch()
    return Spilt(open=True, id="1", plain=said)


@tool(effect="write", idempotency="natural", reads={"door": call("look_at_door")}, post="!reads.door.open")
def close_safe(id: str, was: str) -> str:
    """Close it again; fails at first."""
    said = spill()
    if first_time("stuck"):
        raise ToolError(f"stuck: {said}", transient=True)
    (HERE / "open").unlink(missing_ok=True)
    return said


@tool(effect="write", idempotency="none", readback="find_opening")
def open_once() -> Spilt:
    """Act, and do not say so."""
    said = spill()
    (HERE / "opened").touch()
    raise OSError(f"connection lost: {said}")


@tool(effect="write", idempotency="natural", capability="ring")
def ring_first() -> str:
    """Fail for good."""
    raise ToolError(f"no ringing: {spill()}", code="no_bell")


@tool(effect="write", idempotency="natural", capability="ring")
def ring_second() -> str:
    """Do it instead."""
    return f"rang {spill()}"


@tool(effect="read")
def mistype() -> dict[str, int]:
    """Return what its type does not allow."""
    return {spill(): spoken()}  # type: ignore[dict-item]


@tool(effect="write", idempotency="natural", reads={"door": call("fail_to_look")}, pre="reads.door.open")
def unseen() -> str:
    """Need what cannot be read before."""
    return "never"


@tool(
    effect="write",
    idempotency="natural",
    reads={"door": call("fail_to_look", id="output")},
    post="reads.door.open",
)
def unverified() -> str:
    """Need what cannot be read afterwards."""
    return "done"


@tool(
    effect="write", idempotency="natural", reads={"door": call("look_at_door")}, post="reads.door.plain == ''"
)
def refuted() -> str:
    """Be refuted, with what was observed."""
    return spill()


@tool(effect="read")
def sign_in(password: str) -> dict[str, Any]:
    """Return what is masked by its name wherever people look, and is in the log."""
    return {"api_key": password, "tokens_used": 3}
