"""Trees and proofs: the values that others publish, and every proof of every small tree."""

from __future__ import annotations

import hashlib

import pytest

from core import merkle

# The tree that Certificate Transparency's own tests are about.
DATA = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
DATA.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
LEAVES = [merkle.leaf(one) for one in DATA]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MANY = [merkle.leaf(bytes([number])) for number in range(70)]


def test_the_published_roots() -> None:
    assert hashlib.sha256(b"").digest() == merkle.EMPTY == merkle.root([])
    for size, expected in enumerate(ROOTS, start=1):
        assert merkle.root(LEAVES[:size]).hex() == expected


def test_a_growing_tree_has_the_root_of_the_whole_one() -> None:
    frontier = merkle.Frontier()
    assert frontier.root == merkle.EMPTY
    for size, one in enumerate(MANY, start=1):
        frontier.add(one)
        assert (frontier.size, frontier.root) == (size, merkle.root(MANY[:size]))


@pytest.mark.parametrize("size", range(1, len(MANY), 3))
def test_each_leaf_is_proved_and_no_other(size: int) -> None:
    tree, top = MANY[:size], merkle.root(MANY[:size])
    for index in range(size):
        proof = merkle.Tree(tree).inclusion(index)
        assert merkle.root_from(tree[index], index, size, proof) == top
        assert merkle.root_from(MANY[-1], index, size, proof) != top
        assert merkle.root_from(tree[index], index, size, [*proof, top]) is None
        if proof:
            assert merkle.root_from(tree[index], index, size, proof[:-1]) is None
            assert merkle.root_from(tree[index], index, size, [*proof[:-1], MANY[-1]]) != top


def test_a_proof_is_for_one_place() -> None:
    proof = merkle.Tree(MANY).inclusion(5)
    top = merkle.root(MANY)
    assert not [at for at in range(70) if at != 5 and merkle.root_from(MANY[5], at, 70, proof) == top]
    assert merkle.root_from(MANY[5], 70, 70, proof) is None
    assert merkle.root_from(MANY[5], -1, 70, proof) is None
    with pytest.raises(IndexError):
        merkle.Tree(MANY).inclusion(70)


@pytest.mark.parametrize("size", range(1, 40))
def test_a_tree_continues_each_that_it_grew_from_and_no_other(size: int) -> None:
    tree, top = MANY[:size], merkle.root(MANY[:size])
    for earlier in range(1, size + 1):
        proof, before = merkle.consistency(tree, earlier), merkle.root(tree[:earlier])
        assert merkle.continues(earlier, before, size, top, proof)
        assert not merkle.continues(earlier, merkle.EMPTY, size, top, proof)
        assert not merkle.continues(earlier, before, size, merkle.EMPTY, proof)
        assert not merkle.continues(earlier, before, size, top, [*proof, top])
        if proof:
            assert not merkle.continues(earlier, before, size, top, proof[:-1])


def test_no_tree_continues_what_is_none() -> None:
    assert not merkle.continues(0, merkle.EMPTY, 3, merkle.root(MANY[:3]), [])
    assert not merkle.continues(4, merkle.root(MANY[:4]), 3, merkle.root(MANY[:3]), [])
    with pytest.raises(IndexError):
        merkle.consistency(MANY, 0)
