"""The copy's encoding: what was packed comes out, as before and now, and nothing else does."""

from __future__ import annotations

import struct
from itertools import product

import pytest

from core import notarised
from core.notarised import BadText, Entry

ENTRIES = [
    Entry(1, 2, "ev.0.acme.r0-1.cmd.submit", "00-trace", b"data", b"p" * 32),
    Entry(2, 3, "ev.0.acme.r0-1.dec.note.x", "", b""),
    Entry(3, 4, "blob.0.acme.r0-1.00ff.0", "", bytes(70_000)),
]


def read(outer: bytes, inner: bytes) -> list[Entry]:
    return [*notarised.unpack(outer, inner)]


def test_what_was_packed_comes_out() -> None:
    outer, inner = notarised.pack(entry.dump() for entry in ENTRIES)
    assert inner == b"".join(entry.data for entry in ENTRIES)
    assert read(outer, inner) == ENTRIES
    assert read(*notarised.pack([])) == []


def test_what_was_packed_in_one_comes_out_too() -> None:
    dumped = [entry.dump() for entry in ENTRIES]
    assert read(b"".join(struct.pack(">I", len(one)) + one for one in dumped), b"") == ENTRIES


def test_what_is_cut_or_has_more_is_refused() -> None:
    outer, inner = notarised.pack(entry.dump() for entry in ENTRIES[:2])
    first = len(notarised.pack([ENTRIES[0].dump()])[0])
    for cut, left in product(range(1, len(outer) + 1), (inner, inner[:-1], inner + b"x")):
        # The second holds nothing, so it can be missing; that it is the sequences say.
        if cut in (first, len(outer)) and left == inner:
            continue
        with pytest.raises(BadText):
            read(outer[:cut], left)
