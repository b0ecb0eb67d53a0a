"""The key of a seed's decider: quick, the same for the same seed, and of no worth outside."""

from __future__ import annotations

import hashlib
import hmac


class SeedKey:
    """Signs for the decider, and checks for all others."""

    def __init__(self, seed: int | str) -> None:
        self._secret = hashlib.sha256(f"{seed}/decider".encode()).digest()
        self.key_id = hashlib.sha256(self._secret).hexdigest()[:16]
        self.key_ids = (self.key_id,)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return hmac.digest(self._secret, message, "sha256")

    def check(self, key_id: str, message: bytes, signature: bytes) -> bool:
        """Say whether the key has signed exactly this message."""
        return key_id == self.key_id and hmac.compare_digest(signature, self.sign(message))
