"""The decider's key, and the keys of deciders that are believed: Ed25519, in PEM as `openssl` writes it.

This is the one module that knows the cryptography behind `core.permits`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from bus.directory import write_file
from core.errors import HandrailError

KEY_FILE = "permits.key"
"""The decider's key in a data directory."""
KEY_ID_CHARS = 16
MAX_KEYS = 64
MAX_FILE_BYTES = 64 * 1024

_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class BadKey(HandrailError):
    """A key that cannot be used."""


class PrivateKey:
    """The key with which a decider signs. Its text is the secret: it is in no repr."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Use `generate`, `parse` or `read`."""
        self._key = key
        self._key_id = _key_id(key.public_key())

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str, where: str) -> PrivateKey:
        """Read one from PEM; `where` is what an error calls it. Raises BadKey."""
        try:
            key = load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            # Not with the reason: it may quote the key.
            raise BadKey(
                f"{where} holds no private key that can be read ({type(error).__name__}). {_MAKE}"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKey(f"{where} holds a private key that is not Ed25519. {_MAKE}")
        return cls(key)

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """Read one from a file; raises BadKey."""
        return cls.parse(_read(path), str(path))

    @property
    def key_id(self) -> str:
        """Name the key: the beginning of the SHA-256 of its public half."""
        return self._key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._key.sign(message)

    def dump(self) -> str:
        """Return it as PEM: a secret."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def public(self) -> str:
        """The public half, as PEM."""
        return _dump(self._key.public_key())


class PublicKeys:
    """The keys of deciders that are believed: several, so that one can take the place of another."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        """Use `parse` or `read`."""
        self._keys = {_key_id(key): key for key in keys}

    @classmethod
    def parse(cls, text: str, where: str) -> PublicKeys:
        """Read all that a text holds, in PEM one after another; raises BadKey."""
        found = []
        for pem in _PUBLIC.findall(text):
            try:
                key = load_pem_public_key(pem.encode())
            except (ValueError, UnsupportedAlgorithm, InternalError) as error:
                raise BadKey(f"{where} holds a public key that cannot be read: {error}. {_SHOW}") from error
            if not isinstance(key, Ed25519PublicKey):
                raise BadKey(f"{where} holds a public key that is not Ed25519. {_SHOW}")
            found.append(key)
        if not 0 < len(found) <= MAX_KEYS:
            raise BadKey(f"{where} holds {len(found)} public keys, and must hold 1 to {MAX_KEYS}. {_SHOW}")
        return cls(found)

    @classmethod
    def read(cls, paths: Iterable[Path], *texts: str) -> PublicKeys:
        """Read those of several files, and of texts; raises BadKey."""
        read = [cls.parse(_read(path), str(path)) for path in paths]
        read += [cls.parse(text, "the key that was handed over") for text in texts]
        return cls(key for one in read for key in one._keys.values())

    @property
    def key_ids(self) -> Collection[str]:
        """Name the keys."""
        return self._keys.keys()

    def check(self, key_id: str, message: bytes, signature: bytes) -> bool:
        """Say whether the key of that name has signed exactly this message."""
        key = self._keys.get(key_id)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def dump(self) -> str:
        """Return them as PEM, one after another."""
        return "".join(_dump(key) for key in self._keys.values())


_MAKE = "Make one with `openssl genpkey -algorithm ed25519`."
_SHOW = "`openssl pkey -in PRIVATE -pubout` writes the public half of a private key."


def _key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:KEY_ID_CHARS]


def _dump(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(
            f"{path} cannot be read: {error}. Name the right file, or let this user read it."
        ) from error


def place(named: str, project: Path, data: Path) -> Path:
    """Return where the decider's key is: the file that the project names, or the data directory's own."""
    return project / named if named else data / KEY_FILE


def ensure(path: Path) -> PrivateKey:
    """Return the key in a file that only this user can read, made now if there is none; raises BadKey.

    One that cannot be read stays as it is: whoever knows it decides what becomes of it.
    """
    if not path.exists():
        write_file(path, PrivateKey.generate().dump())
    return PrivateKey.read(path)
