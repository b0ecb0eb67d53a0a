"""Large values, in chunks below their digest: written once, verified when read.

The digest names the content, so storing a value twice finds its chunks there; a chunk that somebody else
wrote wrongly under the name shows when it is read.
"""

from __future__ import annotations

import hashlib
import re

from bus import subjects
from bus.store import Store, Stored, patiently, write_once
from core.ports import LogError, RunKey
from handrail.cipher import BadCipherText, Cipher, is_encrypted
from handrail.v1 import plan_pb2

CHUNK_BYTES = 512 * 1024
MAX_BLOB_BYTES = 8 * 1024 * 1024
_DIGEST = re.compile(r"^[0-9a-f]{64}$")


async def put(store: Store, key: RunKey, content: bytes, timeout_s: float, cipher: Cipher) -> plan_pb2.Blob:
    """Store a value and return where it lies."""
    if len(content) > MAX_BLOB_BYTES:
        raise LogError(
            f"a value of {len(content)} bytes is over the limit of {MAX_BLOB_BYTES}: pass a file or a link"
        )
    digest = hashlib.sha256(content).hexdigest()
    chunks = _chunks(len(content))
    stream = subjects.blob_stream(key.shard)
    for index in range(chunks):
        piece = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        subject = subjects.blob_chunk(key, digest, index)
        await write_once(store, stream, subject, cipher.encrypt(piece, subject), timeout_s)
    return plan_pb2.Blob(sha256=digest, size_bytes=len(content), chunks=chunks)


async def get(
    store: Store, key: RunKey, blob: plan_pb2.Blob, timeout_s: float, cipher: Cipher | None
) -> bytes:
    """Return a value; raises LogError where it is not exactly what the digest names."""
    if not _DIGEST.match(blob.sha256) or blob.size_bytes > MAX_BLOB_BYTES:
        raise LogError(f"not a blob of ours: sha256 {blob.sha256[:80]!r}, {blob.size_bytes} bytes")
    if blob.chunks != _chunks(blob.size_bytes):
        raise LogError(f"blob {blob.sha256} of {blob.size_bytes} bytes cannot have {blob.chunks} chunks")
    pieces = []
    for index in range(blob.chunks):
        stored = await _chunk(store, key, blob.sha256, index, timeout_s)
        if stored is None:
            raise LogError(f"blob {blob.sha256} of run {key.run} is incomplete: chunk {index} is missing")
        try:
            pieces.append(
                cipher.decrypt(stored.data, stored.subject)
                if cipher is not None and is_encrypted(stored.data)
                else stored.data
            )
        except BadCipherText as error:
            raise LogError(f"blob {blob.sha256} of run {key.run} is damaged: {error}") from None
    content = b"".join(pieces)
    if len(content) != blob.size_bytes or hashlib.sha256(content).hexdigest() != blob.sha256:
        raise LogError(f"blob {blob.sha256} of run {key.run} is damaged: its content has another digest")
    return content


async def _chunk(store: Store, key: RunKey, digest: str, index: int, timeout_s: float) -> Stored | None:
    """Read a chunk; the first one written counts, so that a later one cannot replace it."""
    stream, subject = subjects.blob_stream(key.shard), subjects.blob_chunk(key, digest, index)
    return await patiently(store, timeout_s, lambda: store.first(stream, subject))


def _chunks(size_bytes: int) -> int:
    return max(1, -(-size_bytes // CHUNK_BYTES))
