"""Who calls, by tokens of our own and of an issuer elsewhere, whose keys are fetched and kept."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog

from core.caller import BadToken, Caller
from handrail import tokens
from handrail.tokens import LocalKeys

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
MAX_KEYS = 64
MAX_JWKS_BYTES = 1 << 20
JWKS_TIMEOUT_S = 5.0
FETCH_EVERY_S = 300.0
"""How long the issuer's keys are believed, and with them a token that was checked."""
FETCH_AGAIN_S = 30.0
"""After how long a key that is not known is asked for again, and one that could not be had."""
MAX_KNOWN = 4_096

# Whatever can be wrong with keys, or with the way to them.
_UNUSABLE = (
    *(OSError, HTTPException, jwt.PyJWTError),
    *(ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError),
)
_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who else says who calls: where their keys are, and what their tokens say it in."""

    name: str
    audience: str
    # A file, or an https address.
    jwks: str
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"


class IssuerKeys:
    """The keys of an issuer, read again now and then, and when a token names one that is not known."""

    def __init__(self, source: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._asked_s = float("-inf")
        self._lock = threading.Lock()

    def key(self, kid: str) -> Any:
        """Return a key; raises BadToken where there is none. It may wait for the issuer."""
        with self._lock:
            age_s = self._clock() - self._asked_s
            if age_s >= FETCH_EVERY_S or (kid not in self._keys and age_s >= FETCH_AGAIN_S):
                self._fetch()
            if kid not in self._keys:
                raise BadToken(f"the issuer has no key {kid[:80]!a}")
            return self._keys[kid]

    def _fetch(self) -> None:
        self._asked_s = self._clock()
        try:
            self._keys = dict(_usable(self._content()))
        except _UNUSABLE as error:
            # The keys that were there go on being believed: the issuer may be away for a moment.
            self._asked_s += FETCH_AGAIN_S - FETCH_EVERY_S if self._keys else 0
            _logger.warning("auth.jwks", source=self._source, error=str(error))

    def _content(self) -> bytes:
        if urlsplit(self._source).scheme == "https":
            with _opener.open(self._source, timeout=JWKS_TIMEOUT_S) as answer:
                content: bytes = answer.read(MAX_JWKS_BYTES + 1)
        else:
            with Path(self._source).open("rb") as file:
                content = file.read(MAX_JWKS_BYTES + 1)
        if len(content) > MAX_JWKS_BYTES:
            raise ValueError(f"it has more than {MAX_JWKS_BYTES:,} bytes")
        return content


class _Stay(urllib.request.HTTPRedirectHandler):
    """Keys come from where they were said to be, and not by another scheme from elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: what redirects is an error."""


_opener = urllib.request.build_opener(_Stay)


def _usable(content: bytes) -> Iterator[tuple[str, Any]]:
    for one in jwt.PyJWKSet.from_dict(json.loads(content)).keys[:MAX_KEYS]:
        if one.key_id and one.algorithm_name in ALGORITHMS:
            yield one.key_id, one


class Tokens:
    """Tells who calls: by a token of the data directory's own, or of the issuer that is named."""

    def __init__(
        self, local: LocalKeys, issuer: Issuer | None = None, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._local = local
        self._issuer = issuer
        self._keys = IssuerKeys(issuer.jwks) if issuer is not None else None
        self._clock = clock
        # Until when a token is known, whom it names, and by which state of the keys that was found.
        self._known: dict[str, tuple[int, Caller, object]] = {}

    def known(self, token: str) -> Caller | None:
        """Return whom a token names that was checked before; it costs a look at a file's date."""
        until_ns, caller, stamp = self._known.get(token, (0, None, None))
        # Where keys or revoked tokens have become others it is checked anew.
        return caller if self._clock() < until_ns and stamp == self._local.stamp() else None

    def check(self, token: str) -> Caller:
        """Return whom a token names; raises BadToken. It may wait for the issuer."""
        stamp = self._local.stamp()
        caller = self._checked(token)
        until_ns = min(caller.ends_ns, self._clock() + int(FETCH_EVERY_S * 1e9))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[token] = until_ns, caller, stamp
        return caller

    def _checked(self, token: str) -> Caller:
        if len(token) > tokens.MAX_TOKEN_BYTES:
            raise BadToken(f"it has more than {tokens.MAX_TOKEN_BYTES:,} bytes")
        kept, kid = self._local.read(), tokens.key_id(token)
        issuer, keys = self._issuer, self._keys
        if issuer is None or keys is None or any(key.id == kid for key in kept.keys):
            return self._local.check(token)
        if tokens.digest(token) in (kept.revoked or {}):
            raise BadToken("it has been revoked")
        key = keys.key(kid)
        claims = tokens.decode(token, key, [key.algorithm_name], issuer.name, issuer.audience)
        return tokens.caller_of(claims, issuer.roles_claim, issuer.tenant_claim)
