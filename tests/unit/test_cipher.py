"""A run's key: what it encrypts is readable at its place, and nowhere else, and by nobody without it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.cipher import KEY_BYTES, OVERHEAD_BYTES, BadCipherText, Cipher, is_encrypted, new_key
from handrail.v1 import event_pb2

PLACE = "ev.0.acme.r0-0123456789.cmd.submit"
KEY = Cipher(new_key())


@given(st.binary(max_size=2_000))
def test_what_is_encrypted_comes_back(data: bytes) -> None:
    text = KEY.encrypt(data, PLACE)
    assert is_encrypted(text)
    assert len(text) == len(data) + OVERHEAD_BYTES
    assert KEY.decrypt(text, PLACE) == data


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_shows(at: int, by: int) -> None:
    text = bytearray(KEY.encrypt(b"what was said", PLACE))
    # Behind the mark, which only says that it is encrypted.
    text[2 + at % (len(text) - 2)] ^= by
    with pytest.raises(BadCipherText):
        KEY.decrypt(bytes(text), PLACE)


def test_it_is_bound_to_its_place_and_key() -> None:
    text = KEY.encrypt(b"pay", PLACE)
    for cipher, place in ((KEY, PLACE + "x"), (Cipher(new_key()), PLACE)):
        with pytest.raises(BadCipherText):
            cipher.decrypt(text, place)
    assert KEY.encrypt(b"pay", PLACE) != text


@given(st.binary(max_size=60))
def test_what_is_none_of_it_is_refused(text: bytes) -> None:
    with pytest.raises(BadCipherText):
        KEY.decrypt(text, PLACE)


@pytest.mark.parametrize("size", [0, 1, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_has_a_length(size: int) -> None:
    with pytest.raises(BadCipherText):
        Cipher(bytes(size))


def test_no_event_and_no_json_looks_encrypted_and_no_key_is_shown() -> None:
    event = event_pb2.Event(id="x", version=1)
    assert not any(map(is_encrypted, (event.SerializeToString(), b"", b"{}", b'"text"', b"\0", b"null")))
    assert KEY.key.hex() not in repr(KEY)
