"""A run's key at work: AES-256-GCM over what the log holds of the run, bound to where it lies there.

The one other module, beside `handrail.keys`, that knows the cryptography. It is loaded with the first key.
"""

from __future__ import annotations

import os

from core.errors import HandrailError
from core.exported import ENCRYPTED

KEY_BYTES = 32
OVERHEAD_BYTES = 30
_NONCE_BYTES = 12
_BEGIN = len(ENCRYPTED) + _NONCE_BYTES


class BadCipherText(HandrailError):
    """What was not encrypted under this key for this place."""


class Cipher:
    """Encrypts and decrypts under one key, which is in no repr."""

    def __init__(self, key: bytes) -> None:
        """Use a key; raises BadCipherText where it is none."""
        if len(key) != KEY_BYTES:
            raise BadCipherText(f"a run's key has {KEY_BYTES} bytes, and not {len(key)}")
        self.key = key
        # Here, since the processes start without it.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead, self._invalid = AESGCM(key), InvalidTag

    def encrypt(self, data: bytes, place: str) -> bytes:
        """Return what can be kept at a place (a subject) and nowhere else."""
        # A run has thousands of messages: far from where random nonces could meet.
        nonce = os.urandom(_NONCE_BYTES)
        return ENCRYPTED + nonce + self._aead.encrypt(nonce, data, place.encode())

    def decrypt(self, data: bytes, place: str) -> bytes:
        """Return what was encrypted for a place; raises BadCipherText."""
        try:
            return self._aead.decrypt(data[len(ENCRYPTED) : _BEGIN], data[_BEGIN:], place.encode())
        except (self._invalid, ValueError):
            raise BadCipherText(f"what lies at {place} was not encrypted there under its run's key") from None


def new_key() -> bytes:
    """Make a key."""
    return os.urandom(KEY_BYTES)


def is_encrypted(data: bytes) -> bool:
    """Whether something looks as if it had been encrypted here."""
    return data.startswith(ENCRYPTED)
