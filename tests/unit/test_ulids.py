"""Names that sort by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.ulids import Ulids, is_ulid, next_ulid, ulid


@given(st.integers(0, 2**62), st.binary(min_size=10, max_size=10))
def test_ulids_are_26_characters_that_sort_by_time(time_ns: int, entropy: bytes) -> None:
    found = ulid(time_ns, entropy)
    assert is_ulid(found)
    assert ulid(time_ns + 1_000_000, b"\0" * 10) > found


def test_ids_go_up_within_a_millisecond() -> None:
    first = ulid(10**18, bytes([255] * 10))
    assert next_ulid(first) > first
    assert len(next_ulid(first)) == len(first)
    assert next_ulid(ulid(0, bytes(10))) == ulid(0, bytes(9) + b"\x01")
    ids = Ulids(lambda: 10**18, lambda size: bytes(size))
    made = [ids.next() for _ in range(100)]
    assert sorted(set(made)) == made


def test_other_texts_are_none() -> None:
    for text in (
        "",
        "monday",
        ulid(0, bytes(10)).upper() + "A",
        "01k9x3",
        "8" + "0" * 25,
        "0" * 25 + "i",
        "0" * 27,
    ):
        assert not is_ulid(text)
