"""Pages of a list, as AIP-158 has them: sizes with a default and a bound, and opaque tokens.

A token is a position with a checksum over the list and filter that it belongs to. It guards against
mistakes and is no secret: whoever forges one sees another page of what he may see anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from orchestrator.rpc_errors import invalid_field

DEFAULT_SIZE = 50
MAX_SIZE = 1_000
MAX_TOKEN_CHARS = 512
_CHECK_BYTES = 12


def size(asked: int) -> int:
    """Return how many items a page has: 0 means the default, too many means the most there may be."""
    if asked < 0:
        message = f"a page cannot have {asked} items; leave it 0 for {DEFAULT_SIZE}"
        raise invalid_field("BAD_PAGE", "page_size", "negative", message)
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


def token(scope: str, position: str) -> str:
    """Name the page that follows a position; `scope` is the list and its filter."""
    raw = _check(scope, position.encode()) + position.encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def position(scope: str, token: str) -> str:
    """Return where a page begins; "" for the first. A token of another list or filter is refused."""
    if not token:
        return ""
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, found = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        if check != _check(scope, found):
            raise ValueError("it belongs to another list or filter, or was changed")
        return found.decode()
    except (ValueError, binascii.Error):
        message = "this page token is none of this list with this filter; begin again without one"
        raise invalid_field("BAD_PAGE", "page_token", "bad_token", message) from None


def _check(scope: str, position: bytes) -> bytes:
    return hashlib.sha256(b"handrail page 1\0" + scope.encode() + b"\0" + position).digest()[:_CHECK_BYTES]
