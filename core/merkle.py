"""Merkle trees as RFC 6962 has them: roots, and proofs that a leaf is in one, or one continues another.

A tree is a list of leaf hashes. Nothing is kept: a root over 100,000 leaves takes a fraction of a second, and
a `Frontier` gives the root of a tree that grows after every leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()
HASH_BYTES = 32


def leaf(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two trees side by side."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows: the roots of the whole trees that it is made of, the largest first."""

    def __init__(self, leaves: Sequence[bytes] = ()) -> None:
        self.size = 0
        self._roots: list[bytes] = []
        for one in leaves:
            self.add(one)

    def add(self, leaf_hash: bytes) -> None:
        """Append a leaf."""
        root, rest = leaf_hash, self.size
        while rest & 1:
            root, rest = node(self._roots.pop(), root), rest >> 1
        self._roots.append(root)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The root of the tree as it is."""
        if not self._roots:
            return EMPTY
        *others, found = self._roots
        for one in reversed(others):
            found = node(one, found)
        return found


class Tree:
    """A whole tree, with all that is between leaves and root: for many proofs."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        while len(self._levels[-1]) > 1:
            self._levels.append(_above(self._levels[-1]))

    def inclusion(self, index: int) -> list[bytes]:
        """Return the proof that a leaf is in it: the roots beside its way to the top."""
        if not 0 <= index < len(self._levels[0]):
            raise IndexError(f"a tree of {len(self._levels[0])} leaves has no leaf {index}")
        proof = []
        for level in self._levels:
            beside = index ^ 1
            if beside < len(level):
                proof.append(level[beside])
            index >>= 1
        return proof


def root_from(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root that a proof of inclusion leads to; None where it is not a proof for such a tree."""
    if not 0 <= index < size:
        return None
    found, last, rest = leaf_hash, size - 1, iter(proof)
    for one in rest:
        if last == 0:
            return None
        if index & 1 or index == last:
            found = node(one, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = node(found, one)
        index, last = index >> 1, last >> 1
    return found if last == 0 else None


def consistency(leaves: Sequence[bytes], earlier: int) -> list[bytes]:
    """Return the proof that a tree continues the one of its first `earlier` leaves."""
    if not 0 < earlier <= len(leaves):
        raise IndexError(f"a tree of {len(leaves)} leaves continues none of {earlier}")
    return _subproof(leaves, earlier, whole=True)


def continues(earlier: int, earlier_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that one tree continues another."""
    if not 0 < earlier <= size:
        return False
    if earlier == size:
        return earlier_root == root and not proof
    index, last, rest = earlier - 1, size - 1, list(proof)
    while index & 1:
        index, last = index >> 1, last >> 1
    if index:
        if not rest:
            return False
        old = new = rest.pop(0)
    else:
        old = new = earlier_root
    for one in rest:
        if last == 0:
            return False
        if index & 1 or index == last:
            old, new = node(one, old), node(one, new)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            new = node(new, one)
        index, last = index >> 1, last >> 1
    return last == 0 and old == earlier_root and new == root


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a tree."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else EMPTY


def _above(level: list[bytes]) -> list[bytes]:
    """Return the next level of a tree; what has nothing beside it moves up as it is."""
    found = [node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*found, level[-1]] if len(level) & 1 else found


def _subproof(leaves: Sequence[bytes], earlier: int, *, whole: bool) -> list[bytes]:
    size = len(leaves)
    if earlier == size:
        return [] if whole else [root(leaves)]
    half = 1 << (size - 1).bit_length() - 1
    if earlier <= half:
        return [*_subproof(leaves[:half], earlier, whole=whole), root(leaves[half:])]
    return [*_subproof(leaves[half:], earlier - half, whole=False), root(leaves[:half])]
