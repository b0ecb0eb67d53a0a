"""Check a `handrail audit export` without Handrail: python auditor.py EXPORT PUBLIC_KEY

Each message is in a tree whose root was signed (RFC 6962), each event behind the one before it in its run,
and what is encrypted can be read with the key that came along, unless the run was forgotten.
"""

import base64
import hashlib
import json
import pathlib
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_public_key


def must(so: bool, otherwise: str) -> None:
    """End here unless it is so: `assert` would say nothing under `python -O`."""
    if not so:
        sys.exit(otherwise)


def root_of(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Follow a proof from a leaf to the root."""
    must((size > 1) == bool(proof), "a proof has not the length that it needs")
    if size <= 1:
        return leaf
    half, below = 1 << (size - 1).bit_length() - 1, proof[:-1]
    if index < half:
        return hashlib.sha256(b"\x01" + root_of(leaf, index, half, below) + proof[-1]).digest()
    return hashlib.sha256(b"\x01" + proof[-1] + root_of(leaf, index - half, size - half, below)).digest()


key = load_pem_public_key(pathlib.Path(sys.argv[2]).read_bytes())
with pathlib.Path(sys.argv[1]).open(encoding="utf-8") as file:
    first, *messages = map(json.loads, file)
heads, before = {head["stream"]: head for head in first["heads"]}, bytes(32)
name = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
must(first["format"] == "handrail export 1" and len(heads) == len(first["heads"]), "it is no export")
must(len({head["origin"] for head in heads.values()}) == 1, "its heads are of two logs")
for head in heads.values():
    fields = [head[name] for name in ("origin", "stream", "size", "root", "time_ns")]
    must([type(field) for field in fields] == [str, str, int, str, int], "a head is not as it was signed")
    text = "".join(f"{line}\n" for line in ("handrail head 1", *fields))
    must(head["key"] == name, "a head names another key")
    key.verify(base64.b64decode(head["signature"], validate=True), text.encode())
for said in messages:
    head, previous, at = heads[said["stream"]], bytes.fromhex(said["previous"]), said["sequence"]
    texts = said["subject"].encode(), said["trace"].encode(), base64.b64decode(said["data"], validate=True)
    must(type(at) is type(said["time_ns"]) is int, "a sequence and a time are whole numbers")
    fixed = struct.pack(">QQ32sHII", at, said["time_ns"], previous, *map(len, texts))
    leaf = hashlib.sha256(b"\x00" + fixed + b"".join(texts)).digest()
    root = root_of(leaf, at - 1, head["size"], [bytes.fromhex(one) for one in said["proof"]])
    must(root.hex() == head["root"], f"message {at} is not what was signed for")
    kind, shard, *whose = said["subject"].split(".")[:4]
    must(whose == [first["tenant"], first["run"]], "it is of another run")
    must(kind in ("ev", "blob") and said["stream"] == f"{kind.upper()}_{shard}", "it is of another stream")
    must(kind == "blob" or previous == before, f"something is missing before message {at}")
    before = leaf if kind == "ev" else before
    if "key" in first and texts[2].startswith(b"\0\1"):
        AESGCM(bytes.fromhex(first["key"])).decrypt(texts[2][2:14], texts[2][14:], texts[0])
must(before != bytes(32), "it holds no event")
print(f"{first['run']}: {len(messages)} messages, as they were signed for")
