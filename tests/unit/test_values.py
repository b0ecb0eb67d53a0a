"""JSON values: one text each, nothing else let through."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import values
from core.values import BadValue, decode, encode
from handrail.v1 import plan_pb2

TEXT = st.text(st.characters(codec="utf-8"))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_what_is_encoded_is_decoded_equal_and_canonical(value: Any) -> None:
    text = encode(value)
    assert decode(text) == value
    assert encode(decode(text)) == text
    assert json.loads(text) == value


def test_the_order_of_keys_and_spaces_do_not_matter() -> None:
    assert encode({"b": 1, "a": [1, {"d": "é", "c": None}]}) == '{"a":[1,{"c":null,"d":"é"}],"b":1}'
    assert encode(decode('{ "b":1, "a" : 2 }')) == encode(decode('{"a":2,"b":1}'))


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {"a": [-float("inf")]},
        (1, 2),
        {1: 2},
        {"a": b"x"},
        object(),
        {1, 2},
        "\ud800",
        {"\udfff": 1},
        10**5000,
    ],
    ids=range(11),
)
def test_what_is_not_json_is_not_encoded(value: Any) -> None:
    with pytest.raises(BadValue):
        encode(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        '{"a":1,"a":2}',
        '{"a":{"b":1,"b":1}}',
        '"\\ud800"',
        '"\ud800"',
        "1" * 5000,
        "{",
        "[1,]",
        "'a'",
        "\ufeff1",
        "nul",
    ],
)
def test_what_is_not_json_is_not_decoded(text: str) -> None:
    with pytest.raises(BadValue):
        decode(text)


def nest(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth_is_bounded_at_the_same_level_both_ways() -> None:
    deepest = nest(values.MAX_DEPTH)
    assert decode(encode(deepest)) == deepest
    for levels in (values.MAX_DEPTH + 1, 5_000):
        with pytest.raises(BadValue, match="deeper"):
            encode(nest(levels))
        with pytest.raises(BadValue, match="deeper"):
            decode("[" * levels + "]" * levels)
        with pytest.raises(BadValue, match="deeper"):
            decode('{"a":' * levels + "1" + "}" * levels)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadValue, match="deeper"):
        encode(loop)


def test_size_is_bounded_in_bytes_both_ways() -> None:
    fits = "x" * (values.MAX_VALUE_BYTES - 2)
    assert decode(encode(fits)) == fits
    for text in (fits + "x", "é" * (values.MAX_VALUE_BYTES // 2)):
        with pytest.raises(BadValue, match="bytes"):
            encode(text)
        with pytest.raises(BadValue, match="bytes"):
            decode(f'"{text}"')


def test_a_small_object_that_means_an_enormous_value_is_refused_soon() -> None:
    value: Any = ["x" * 100]
    for _ in range(40):
        value = [value] * 10
    with pytest.raises(BadValue, match="bytes"):
        encode(value)


def test_digests() -> None:
    assert values.digest("é") == hashlib.sha256("é".encode()).hexdigest()
    assert values.arguments_digest({"b": 1, "a": 2}) == values.digest('{"a":2,"b":1}')


def test_load() -> None:
    assert values.load(values.inline({"a": 1}), {}) == {"a": 1}
    blob = plan_pb2.Value(blob=plan_pb2.Blob(sha256="ab", size_bytes=3))
    assert values.load(blob, {"ab": "[1]"}) == [1]
    with pytest.raises(values.NotLoaded) as missing:
        values.load(blob, {})
    assert (missing.value.sha256, missing.value.blob) == ("ab", blob.blob)
    with pytest.raises(BadValue, match="empty"):
        values.load(plan_pb2.Value(), {})
    with pytest.raises(BadValue):
        values.load(plan_pb2.Value(json="{"), {})
