"""Tokens: who calls, signed. A data directory signs its own, with keys that only its owner can read.

This module and `handrail.issuer` are the ones that know JWT. A token that is not believed is a BadToken.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jwt

from bus.directory import read_text, usable, write_file
from core.caller import DEFAULT_TENANT, ROLES, TENANT, BadToken, Caller
from core.errors import HandrailError
from handrail.keys import BadKey, PrivateKey
from handrail.person import TOKEN_FILE as TOKEN_FILE

KEYS_FILE = "auth.json"
"""A data directory's keys for tokens, and which tokens are believed no more. A secret."""
ISSUER = AUDIENCE = "handrail"
MAX_TOKEN_BYTES = 8 * 1024
MAX_NAME_CHARS = 100
MAX_LIFE_S = 30 * 24 * 3_600
DEFAULT_LIFE_S = 8 * 3_600
OWNER_LIFE_S = 7 * 24 * 3_600
MAX_KEYS = 64
MAX_REVOKED = 10_000
LEEWAY_S = 5
MAX_TIME_S = 253_402_300_799
"""The end of the year 9999, beyond which there are no times."""
_S = 1_000_000_000


class BadKeys(HandrailError):
    """Keys for tokens that cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key for tokens; the PEM is the secret."""

    id: str
    made_s: int
    pem: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What a keys' file holds: the keys, the newest first, and until when which tokens are revoked."""

    keys: tuple[Key, ...] = ()
    revoked: Mapping[str, int] | None = None


class LocalKeys:
    """A data directory's keys: the newest signs, the others are believed while a token of theirs may live."""

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = data / KEYS_FILE
        self._clock = clock
        self._kept: tuple[object, Kept] = (None, Kept())

    def stamp(self) -> object:
        """Return what is another when the keys or the revoked tokens are."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def read(self) -> Kept:
        """Return what there is; raises BadKeys."""
        stamp = self.stamp()
        if stamp is None or self._kept[0] != stamp:
            self._kept = stamp, self._read()
        return self._kept[1]

    def ensure(self) -> None:
        """Make the first key, if there is none."""
        with self.alone() as kept:
            if not kept.keys:
                self._write(Kept((self._made(),), {}))

    def rotate(self, *, forget: bool = False) -> Key:
        """Sign with a new key from now on; `forget` believes none of the older ones any more."""
        with self.alone() as kept:
            made = self._made()
            # A key has signed until the next one was made, and what it signed may live on.
            ends = [self._clock(), *(key.made_s for key in kept.keys)]
            oldest = self._clock() - MAX_LIFE_S - LEEWAY_S
            older = [key for key, end in zip(kept.keys, ends, strict=False) if end >= oldest and not forget]
            self._write(Kept((made, *older)[:MAX_KEYS], kept.revoked))
        return made

    def revoke(self, token: str) -> None:
        """Believe a token no more, whoever has signed it."""
        if len(token) > MAX_TOKEN_BYTES:
            raise BadToken(f"it has more than {MAX_TOKEN_BYTES:,} bytes")
        ends_s = _unverified(token).get("exp")
        now_s = int(self._clock())
        if not isinstance(ends_s, (int, float)) or not math.isfinite(ends_s):
            raise BadToken("it is no token: it does not say when it ends")
        until_s = int(ends_s)
        with self.alone() as kept:
            revoked = {n: end for n, end in (kept.revoked or {}).items() if end >= now_s - LEEWAY_S}
            if len(revoked) >= MAX_REVOKED:
                text = (
                    f"{MAX_REVOKED:,} tokens are revoked already, and each is kept until it would have ended"
                )
                raise BadKeys(f"{text}; `handrail auth keys rotate --forget` ends all that were signed here")
            self._write(Kept(kept.keys, {**revoked, digest(token): until_s}))

    def sign(
        self,
        name: str,
        roles: Collection[str],
        *,
        tenant: str = DEFAULT_TENANT,
        life_s: float = DEFAULT_LIFE_S,
    ) -> str:
        """Return a token; raises BadKeys where there is no key to sign it with."""
        keys, now_s = self.read().keys, self._clock()
        if not keys:
            raise BadKeys(f"there are no keys in {self._path}; start a stack there first")
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": name,
            "roles": sorted(roles),
            "tenant": tenant,
            # Without it two of one second were the same, and revoked together.
            "jti": secrets.token_hex(8),
            "iat": int(now_s),
            "exp": int(now_s + min(life_s, MAX_LIFE_S)),
        }
        return jwt.encode(claims, keys[0].pem, algorithm="EdDSA", headers={"kid": keys[0].id})

    def check(self, token: str) -> Caller:
        """Return who a token of ours names; raises BadToken."""
        kept, kid = self.read(), key_id(token)
        key = next((one for one in kept.keys if one.id == kid), None)
        if key is None:
            raise BadToken(f"no key {kid[:80]!a} of this server has signed it")
        if digest(token) in (kept.revoked or {}):
            raise BadToken("it has been revoked")
        public = PrivateKey.parse(key.pem, str(self._path)).public
        return caller_of(decode(token, public, ["EdDSA"], ISSUER, AUDIENCE), "roles", "tenant")

    def _made(self) -> Key:
        key = PrivateKey.generate()
        return Key(key.key_id, int(self._clock()), key.dump())

    def _read(self) -> Kept:
        try:
            text = read_text(self._path)
            said = json.loads(text) if text else {"keys": [], "revoked": {}}
            revoked = {str(name): int(ends_s) for name, ends_s in dict(said["revoked"]).items()}
            return Kept(tuple(_usable(Key(**one)) for one in said["keys"]), revoked)
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, BadKey) as error:
            # Not with the text: it holds the keys.
            raise BadKeys(f"{self._path} cannot be read ({type(error).__name__})") from None

    def _write(self, kept: Kept) -> None:
        write_file(self._path, json.dumps(asdict(kept)))

    @contextmanager
    def alone(self) -> Iterator[Kept]:
        """Read, and keep others from writing meanwhile; raises BadKeys and DirectoryUnusable."""
        with usable(self._path.parent):
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self._read()
            finally:
                os.close(lock)


def write_owner_token(data: Path, name: str) -> None:
    """Write the token of a data directory's owner, who may do everything: they can read the keys as well."""
    keys = LocalKeys(data)
    # Alone: a stack writes it now and then, and `keys rotate` at once.
    with keys.alone():
        write_file(data / TOKEN_FILE, keys.sign(name, ROLES, life_s=OWNER_LIFE_S))


def _usable(key: Key) -> Key:
    """Return a key with which tokens can be signed; raises BadKey, or ValueError."""
    if not isinstance(key.id, str) or type(key.made_s) is not int or not isinstance(key.pem, str):
        raise ValueError("it is no key")
    PrivateKey.parse(key.pem, KEYS_FILE)
    return key


def digest(token: str) -> str:
    """Name a token without telling it, by what is signed: a signature can be written in several ways."""
    signed, _, _ = token.rpartition(".")
    return hashlib.sha256(signed.encode(errors="replace")).hexdigest()


def key_id(token: str) -> str:
    """Return which key a token says has signed it; raises BadToken."""
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except (jwt.PyJWTError, ValueError) as error:
        raise BadToken(f"it is no token: {error}") from None


def decode(token: str, key: Any, algorithms: Sequence[str], issuer: str, audience: str) -> Mapping[str, Any]:
    """Return what a token says, if that key has signed it for us and it has not ended; raises BadToken."""
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise BadToken(f"{error}") from None
    return claims


def caller_of(claims: Mapping[str, Any], roles_claim: str, tenant_claim: str) -> Caller:
    """Return whom claims name; raises BadToken."""
    name, tenant, said = claims["sub"], claims.get(tenant_claim, DEFAULT_TENANT), claims.get(roles_claim, "")
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise BadToken("it names nobody, or by a name that is too long or cannot be read")
    if not isinstance(tenant, str) or TENANT.fullmatch(tenant) is None:
        raise BadToken(f"{str(tenant)[:80]!a} is not a tenant's name")
    if int(claims["exp"]) > MAX_TIME_S:
        raise BadToken("it never ends")
    words = said if isinstance(said, list) else said.split() if isinstance(said, str) else []
    roles = frozenset(role for role in ROLES if role in words)
    # An issuer may number its tokens in ways that no log should hold; then it has none here.
    said_id = str(claims.get("jti", ""))
    token_id = said_id if len(said_id) <= MAX_NAME_CHARS and said_id.isprintable() else ""
    return Caller(name, roles, tenant, int(claims["exp"]) * _S, token_id)


def _unverified(token: str) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError) as error:
        raise BadToken(f"it is no token: {error}") from None
    return claims
