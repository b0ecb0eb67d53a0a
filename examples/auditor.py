"""Check a `handrail audit export` without Handrail: python auditor.py EXPORT PUBLIC_KEY

Each message is in a tree whose root was signed (RFC 6962), each event behind the one before it in its run.
"""

import base64
import hashlib
import json
import pathlib
import struct
import sys

from cryptography.hazmat.primitives.serialization import load_pem_public_key


def root_of(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Follow a proof from a leaf to the root."""
    last = size - 1
    for beside in proof:
        if index % 2 or index == last:
            leaf = hashlib.sha256(b"\x01" + beside + leaf).digest()
            while index and not index % 2:
                index, last = index // 2, last // 2
        else:
            leaf = hashlib.sha256(b"\x01" + leaf + beside).digest()
        index, last = index // 2, last // 2
    return leaf if last == 0 else b""


key = load_pem_public_key(pathlib.Path(sys.argv[2]).read_bytes())
first, *messages = map(json.loads, pathlib.Path(sys.argv[1]).read_text().splitlines())
heads = {head["stream"]: head for head in first["heads"]}
for head in heads.values():
    fields = ("handrail head 1", *(head[name] for name in ("origin", "stream", "size", "root", "time_ns")))
    key.verify(base64.b64decode(head["signature"]), "".join(f"{line}\n" for line in fields).encode())
before = bytes(32)
for said in messages:
    head, previous = heads[said["stream"]], bytes.fromhex(said["previous"])
    texts = said["subject"].encode(), said["trace"].encode(), base64.b64decode(said["data"])
    fixed = struct.pack(">QQ32sHHI", said["sequence"], said["time_ns"], previous, *map(len, texts))
    leaf = hashlib.sha256(b"\x00" + fixed + b"".join(texts)).digest()
    root = root_of(leaf, said["sequence"] - 1, head["size"], [bytes.fromhex(one) for one in said["proof"]])
    assert root.hex() == head["root"], f"message {said['sequence']} is not what was signed for"
    kind, shard, tenant, run = said["subject"].split(".")[:4]
    assert (tenant, run) == (first["tenant"], first["run"]), "it is of another run"
    assert said["stream"] == f"{kind.upper()}_{shard}", "it is of another stream"
    assert kind == "blob" or previous == before, f"something is missing before {said['sequence']}"
    before = leaf if kind == "ev" else before
print(f"{first['run']}: {len(messages)} messages, as they were signed for")
