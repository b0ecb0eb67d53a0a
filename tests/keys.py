"""Keys of tests: a decider's and another's, the same in every run, and who believes the first."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handrail.keys import PrivateKey, PublicKeys

SIGNER = PrivateKey(Ed25519PrivateKey.from_private_bytes(b"d" * 32))
STRANGER = PrivateKey(Ed25519PrivateKey.from_private_bytes(b"s" * 32))
CHECKER = PublicKeys.parse(SIGNER.public, "tests")
